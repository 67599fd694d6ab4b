#!/usr/bin/perl

# Requests that another location has had before: whatever has led here, the
# status says whether the event is stored, and no event is judged by a part of
# its body.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use Test::More;

use lib 't/lib';
use Test::Edge;

my $t = Test::Edge->new();
my $p = $t->prefix();

my $application = start_application();
my $owner = $$;

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

END {
    if ($application && $$ == $owner) {
        local $?;
        kill 'KILL', $application;
        waitpid $application, 0;
    }
}

# those that can pass a body on while it comes; gRPC does nothing else

my @pass = grep { !$t->has("--without-http_${_}_module") }
                qw(proxy fastcgi uwsgi scgi);
push @pass, 'grpc' if $t->has('http_v2_module')
                      && !$t->has('--without-http_grpc_module');

my %scheme = (proxy => 'http://', grpc => 'grpc://');

my $unbuffered = '';

for my $pass (@pass) {
    my ($to, $off) = ($scheme{$pass} // '', $pass eq 'grpc'
                      ? '' : "${pass}_request_buffering off;");
    my $version = $pass eq 'proxy' ? 'proxy_http_version 1.1;' : '';

    # nobody listens on port 2; who does on port 3 reads all and says nothing

    for (['refused', 2], ['eaten', 3]) {
        my ($name, $port) = @$_;

        $unbuffered .= <<"CONF";
        location = /$pass/$name {
            $off
            $version
            ${pass}_pass ${to}127.0.0.1:%%PORT_$port%%;
            error_page 502 504 =200 \@hook;
        }
CONF
    }
}

my $auth = $t->has('--with-http_auth_request_module');
my $authorised = $auth ? 'location = /authorised {
            auth_request /status;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 502 =200 @hook;
        }

        location = /forbidden {
            auth_request /no;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 403 =200 @hook;
        }' : '';

$t->conf(<<"CONF");
%%GLOBALS%%

events {
}

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        client_body_buffer_size 4k;

        $unbuffered
        $authorised

        location \@hook {
            taptalent_webhook on;
            error_page 400 401 403 405 408 413 415 422 500 503 =200 /ok;
            recursive_error_pages on;
        }

        location \@full {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/full min_free=8000000000m;
        }

        location \@key {
            taptalent_webhook on;
            taptalent_webhook_key k3y;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine;
        }

        location /hook {
            taptalent_webhook on;
            error_page 400 401 403 405 408 413 415 422 500 503 =200 /ok;
            client_body_timeout 1s;
            client_max_body_size 64k;

            location = /hook/full {
                taptalent_webhook on;
                taptalent_webhook_spool %%PREFIX%%/full min_free=8000000000m;
            }
        }

        # an answer of the hook's, told apart by its error_page

        location = /same { return 502; error_page 502 \@hook; }
        location = /asked { return 502; error_page 502 =200 \@hook; }
        location = /other { return 502; error_page 502 =404 \@hook; }
        location = /theirs { return 502; error_page 502 = \@hook; }
        location = /busy { return 502; error_page 502 =200 \@full; }
        location = /get { return 502; error_page 502 =200 /hook/get; }

        location = /recursive {
            recursive_error_pages on;
            return 502;
            error_page 502 =200 \@hook;
        }

        location = /tried { try_files /no \@hook; }
        location = /rewritten { rewrite ^ /hook last; }

        location = /if {
            if (\$request_method = POST) { return 502; }
            error_page 502 =200 \@hook;
        }

        location = /proxied {
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 502 =200 \@hook;
        }

        # a buffered body that ends too early is one in part as well

        location = /limited {
            client_max_body_size 1k;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 400 408 413 502 =200 \@hook;
        }

        location = /unproven {
            proxy_request_buffering off;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 502 =200 \@key;
        }

        # the body is gone when the answer has been sent

        location = /discarded { return 200; post_action \@hook; }

        location = /mirrored {
            mirror /hook;
            mirror_request_body off;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /no { return 403; }
        location = /ok { return 200 ok; }
        location = /lost { return 502; error_page 502 =404 /status; }
        location = /status { taptalent_webhook_status json; }
    }
}
CONF

$t->run();

# The answer and what is then in the spool; new/ starts empty.

sub stored {
    my ($name, $body, $answer) = @_;

    is($answer->{status}, 200, "$name: status");
    is($answer->{body}, '{"received":true}', "$name: answer");

    my @lines = $t->spool_lines();
    is(@lines, 1, "$name: one event");
    is($lines[0]{_payload}, $body, "$name: byte for byte");

    $t->forget_spool();
}

sub refused {
    my ($name, $status, $verdict, $answer) = @_;

    is($answer->{status}, $status, "$name: status");
    is($answer->{json}{error}, $verdict, "$name: $verdict");
    is(scalar $t->spool_lines(), 0, "$name: nothing is stored");

    $t->forget_spool();
}

sub in_part {
    my ($name, $answer) = @_;

    refused($name, 503, 'unavailable', $answer);
    is($answer->{headers}{'retry-after'}, 1, "$name: Retry-After");

    my @lines = $t->grep_log(qr/\[error\] .* without its whole body/);
    is(@lines, 1, "$name: one line in the error log");
    like($lines[0] // '', qr/write "proxy_request_buffering on"/,
         "$name: it says what to write");
    $t->mark_log();
}


# the status is that of the verdict

my $n = 0;

for my $uri (qw(/same /asked /other /theirs /recursive /tried /rewritten /if
                /proxied), $auth ? qw(/authorised /forbidden) : ())
{
    my $body = event(n => $n++);

    stored($uri, $body, $t->post($uri, $body));
    refused($uri, 403, 'company_id', $t->post($uri, event(companyId => 'x')));
    refused($uri, 400, 'json', $t->post($uri, '{'));
    refused($uri, 415, 'content_type',
            $t->post($uri, $body, headers => { 'Content-Type' => undef }));
}

refused('the spool is full', 503, 'unavailable', $t->post('/busy', event()));
refused('a GET', 405, 'method', $t->get('/asked'));
refused('a URI makes it one', 405, 'method', $t->post('/get', event()));

$t->wait_for(sub { $t->read_file('access.log') =~ m{^405 method GET /get$}m },
             5, 'the access log');
like($t->read_file('access.log'), qr{^405 method GET /get$}m,
     'the access log has it too');
unlike($t->read_file('access.log'), qr{^502 }m, 'and nothing else');

is($t->get('/lost')->{status}, 200, 'a status location');


# no error_page makes anything else of it, of the hook's own neither

refused('error_page, company_id', 403, 'company_id',
        $t->post('/hook', event(companyId => 'x')));
refused('error_page, method', 405, 'method', $t->get('/hook'));
refused('error_page, unavailable', 503, 'unavailable',
        $t->post('/hook/full', event()));
refused('error_page, too large while it is read', 413, 'too_large',
        $t->post('/hook', event(more => 'x' x 70_000), chunked => 30_000));

my $answer = $t->post('/hook', event(), raw => $t->message('/hook', event(),
                      chunked => 50) =~ s/\r\n32\r\n/\r\nxyz\r\n/r);
is($answer->{status}, 400, 'error_page: a broken chunk');

my $c = $t->connect();
$c->send(substr $t->message('/hook', event()), 0, -1);
is($c->answer()->{status}, 0, 'error_page: a body that does not come');
$c->close();


# A part of a body that would be an event: nobody has sent this one.

$t->mark_log();

my $event = event();
my $rest = ',' x 50;

for my $pass (@pass) {
    for my $name (qw(refused eaten)) {
        my $uri = "/$pass/$name";

        $c = $t->connect();
        $c->send($t->message($uri, $event,
                             length => length($event) + length $rest));
        $t->get('/ok');
        $c->send($rest) if $name eq 'eaten';
        in_part("$uri, the beginning", $c->answer());
        $c->close();

        # a large one, of which the buffer has been filled several times

        in_part("$uri, large", $t->post($uri, event(more => 'x' x 100_000),
                                        split => [1000]));
    }

    # all of it was there at once

    my $body = event(pass => $pass);
    my $answer = $t->post("/$pass/refused", $body);

    if ($answer->{status} == 200) {
        stored("/$pass/refused, whole", $body, $answer);

    } else {
        in_part("/$pass/refused, whole", $answer);
    }
}

# the others buffer it

for my $uri (map { "/$_/refused" } grep { /proxy|fastcgi|grpc/ } @pass) {
    my ($begin) = $t->message($uri, $event, chunked => length $event)
                  =~ /^(.*)0\r\n\r\n$/s;

    $c = $t->connect();
    $c->send($begin);
    in_part("$uri, chunked", $c->answer());
    $c->close();
}

in_part('too large for the other location', $t->post('/limited',
        $event . ' ' x 2000, chunked => [length $event, 2000]));

$c = $t->connect();
$c->send($t->message('/limited', "$event ", chunked => [length $event, 1])
         =~ s/\r\n1\r\n \r\n0/\r\nxyz/r);
in_part('a broken chunk', $c->answer());
$c->close();

# what the head tells comes first, a quarantine keeps no part

$c = $t->connect();
$c->send($t->message('/proxy/refused', $event, length => length($event) + 1,
                     headers => { 'X-Webhook-Event' => undef }));
refused('the head', 400, 'event_header', $c->answer());
$c->close();

$c = $t->connect();
$c->send($t->message('/unproven', $event, length => length($event) + 1));
refused('a quarantine', 401, 'key', $c->answer());
$c->close();
is(scalar(() = glob "$p/quarantine/new/*"), 0, 'nothing in quarantine');

# gone: no empty body

for my $chunked (0, 10) {
    $t->mark_log();
    $t->post('/discarded', $event, chunked => $chunked);
    ok($t->wait_log(qr/without its whole body/), "discarded, $chunked");
}

$t->mark_log();
$t->post('/mirrored', $event);
ok($t->wait_log(qr/without its whole body/), 'a mirror without it');
is(scalar $t->spool_lines(), 0, 'nothing is stored');


# The configuration: what nginx itself refuses.

for (['error_page 413 =200 /ok;', '200 of 413'],
     ['error_page 404 429 503 =204 /ok;', '204 of 429'],
     ['error_page 413 /ok;'], ['error_page 503 = @other;'],
     ['error_page 404 405 =200 /ok;'], ['error_page 503 =429 /ok;'])
{
    my ($directive, $made) = @$_;

    $t->conf(<<"CONF", 'test.conf');
%%GLOBALS%%
events { }
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        $directive

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_company_id any;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}
CONF

    my ($status, $output) = $t->config_test('test.conf');

    is($status, 0, "$directive is taken");

    if ($made) {
        like($output, qr/\[warn\].* makes $made for .*without "=\d+"/,
             "$directive warned of");

    } else {
        unlike($output, qr/\[warn\]/, "$directive not warned of");
    }
}

$t->no_alerts();

done_testing();


# It reads for as long as something comes, and closes.

sub start_application {
    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $t->port(3), Listen => 50,
        ReuseAddr => 1,
    ) or die "listen: $!";

    my $pid = fork() // die "fork: $!";
    return $pid if $pid;

    $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
    $SIG{CHLD} = 'IGNORE';
    alarm 300;

    while (1) {
        my $c = $listener->accept() or next;

        if (!fork()) {
            my $in = '';

            vec($in, fileno $c, 1) = 1;
            1 while select(my $ready = $in, undef, undef, 0.3)
                    && sysread $c, my $buffer, 65536;

            POSIX::_exit(0);
        }

        close $c;
    }
}
