#!/usr/bin/perl

# What nginx itself does on the way to the application: the directives of the
# internal location, and of the server, that could delay, refuse or divert a
# delivery.

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

my @large = qw(large rewritten tried named renamed redirected);
my @names = (@large, qw(paced refused slow fast diverted kept page unasked
                        looped chained));

my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
    limit_req_zone $request_method zone=paced:1m rate=5r/s;
    limit_req_zone $request_method zone=refused:1m rate=5r/s;

    log_format delivery '$status $uri $taptalent_event_id';

    server {
        listen 127.0.0.1:%%PORT_0%%;
        server_name edge.test;

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;
        taptalent_webhook_retry initial=100ms max=200ms permanent=413,422;

        client_max_body_size 1m;

INGEST
        location /to/ {
            internal;
            log_subrequest on;
            access_log %%PREFIX%%/delivery.log delivery;
            proxy_pass http://127.0.0.1:%%PORT_2%%;

            location = /to/paced {
                limit_req zone=paced burst=10;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }

            location = /to/refused {
                limit_req zone=refused;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }

            location = /to/slow {
                limit_rate 10;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }

            location = /to/kept {
                proxy_ignore_headers X-Accel-Redirect;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }

            location = /to/unasked {
                deny all;
                auth_request /copy;
                mirror /copy;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }

            location = /to/rewritten {
                rewrite ^ /to/rewritten/again last;
            }

            location = /to/tried {
                try_files /none /to/tried/again;
            }

            location = /to/named {
                try_files /none @named;
            }

            location = /to/renamed {
                try_files /none @renamed;
            }

            location = /to/looped {
                rewrite ^ /looped last;
            }

            location = /to/chained {
                rewrite ^ /stored last;
            }

            location = /to/page {
                proxy_intercept_errors on;
                error_page 422 502 =200 /ok;
                proxy_pass http://127.0.0.1:%%PORT_2%%;
            }
        }

        location = /stored {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/spool-stored;
        }

        location = /client {
            mirror /copy;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /copy {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/copy;
        }

        location @named {
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location @renamed {
            rewrite ^ /to/renamed/again last;
        }

        location = /elsewhere {
            internal;
            return 422;
        }

        location = /ok {
            return 200;
        }
    }
}
CONF

my $ingest = join "\n", map { <<"CONF" } @names;
        location = /$_ {
            client_max_body_size 10m;
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/spool-$_;
            taptalent_webhook_forward /to/$_;
        }
CONF

$conf =~ s/^INGEST$/$ingest/m;

$t->conf($conf);
$t->run();

# limit_req paces them, and what it refuses is tried again

post('paced', event(n => $_)) for 1 .. 4;
delivered('paced', 4);

post('refused', event(n => $_)) for 1 .. 3;
delivered('refused', 3);
ok($t->grep_log(qr{limiting requests.*"/to/refused"}), 'limit_req has refused');

# what was accepted is not too large for the internal location, nor for any that
# nginx goes on to, and it arrives whole

for my $name (@large) {
    my $body = event(data => \('{"x":"' . 'x' x 2_000_000 . '"}'));

    post($name, $body);

    ok($t->wait_for(sub { !files($name, 'new') }, 10, "$name in the spool"),
       "$name: the spool is empty");
    is(files($name, 'dead'), 0, "$name: no dead letter");

    my ($length) = $t->read_file('application.log')
                       =~ m{^POST /to/$name(?:/again)? (\d+)$}m;
    is($length, length $body, "$name: the whole body");
}

# a large answer, at a rate at which it would take hours

post('slow', event(n => $_)) for 1 .. 2;
delivered('slow', 2);

post('fast', event(n => $_)) for 1 .. 2;
delivered('fast', 2);

# the status of what X-Accel-Redirect leads to, unless it is ignored

post('diverted', event());
dead('diverted');

post('kept', event());
delivered('kept', 1);

# the status itself, not that of an error page

post('page', event());
dead('page');

# what nginx applies to requests of clients only

post('unasked', event(n => $_)) for 1 .. 2;
delivered('unasked', 2);
unlike($t->read_file('application.log'), qr{/copy},
       'neither auth_request nor mirror sends one more');

$t->post('/client', event());
ok($t->wait_for(sub { $t->read_file('application.log') =~ m{/copy} }, 10,
                'the copy'), 'as it does for a client');

# into another spool, but not into one that is forwarded, as its own is

post('chained', event());
ok($t->wait_for(sub { files('stored', 'new') && !files('chained', 'new') }, 10,
                'the other spool'), 'chained: in the other spool');

post('looped', event());
ok($t->wait_for(sub { $t->grep_log(qr/leads to a location that has one/) > 1 },
                10, 'two attempts'), 'looped: the error log tells');
is(files('looped', 'new'), 1, 'looped: the event waits, alone');

# nginx's own statuses are in the log of deliveries

my $log = $t->read_file('delivery.log');

like($log, qr{^422 /to/page }m, 'status of the application in the log');
like($log, qr{^503 /to/refused }m, 'status of nginx in the log');
unlike($log, qr{^000 }m, 'never none');

$t->no_alerts();

done_testing();


sub post {
    my ($name, $body) = @_;
    is($t->post("/$name", $body)->{status}, 200, "$name: accepted");
}

sub delivered {
    my ($name, $n) = @_;

    ok($t->wait_for(sub { !files($name, 'new') }, 10, "$name in the spool"),
       "$name: the spool is empty");
    is(files($name, 'dead'), 0, "$name: no dead letter");

    my @got = $t->read_file('application.log') =~ m{^POST /to/$name \d+$}mg;
    is(@got, $n, "$name: delivered, each once");
}

sub dead {
    my ($name) = @_;

    ok($t->wait_for(sub { files($name, 'dead') && !files($name, 'new') }, 10,
                    "$name in dead/"), "$name: a dead letter");
}

sub files {
    my ($name, $dir) = @_;
    my @files = glob "$p/spool-$name/$dir/*";
    return scalar @files;
}


# It logs each request, and answers as its uri wants it.

sub start_application {
    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $t->port(2), Listen => 50,
        ReuseAddr => 1,
    ) or die "listen: $!";

    my $pid = fork() // die "fork: $!";
    return $pid if $pid;

    $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
    $SIG{CHLD} = 'IGNORE';
    alarm 120;

    while (1) {
        my $c = $listener->accept() or next;

        if (!fork()) {
            answer($c);
            POSIX::_exit(0);
        }

        close $c;
    }
}

sub answer {
    my ($c) = @_;
    my $text = '';

    while ($text !~ /\r\n\r\n/) {
        sysread $c, $text, 65536, length $text or return;
    }

    my ($head, $body) = split /\r\n\r\n/, $text, 2;
    my ($length) = $head =~ /^Content-Length: (\d+)/m ? $1 : 0;
    my ($method, $uri) = $head =~ /^(\S+) (\S+)/;

    while (length $body < $length) {
        sysread $c, $body, 65536, length $body or return;
    }

    my ($name) = $uri =~ m{^/(?:to/)?(\w+)};

    open my $log, '>>', "$p/application.log" or return;
    syswrite $log, "$method $uri " . length($body) . "\n";
    close $log;

    my $status = $name eq 'page' ? '422 No' : '200 OK';
    my $answer = 'x' x ($name =~ /slow|fast/ ? 500_000 : 2);

    my $headers = $name eq 'fast' ? "X-Accel-Limit-Rate: 10\r\n"
                  : $name eq 'redirected' ? "X-Accel-Redirect: /ok\r\n"
                  : $name =~ /diverted|kept/ ? "X-Accel-Redirect: /elsewhere\r\n"
                  : '';

    $answer = "HTTP/1.1 $status\r\n${headers}Connection: close\r\n"
              . 'Content-Length: ' . length($answer) . "\r\n\r\n$answer";

    while (length $answer) {
        my $n = syswrite $c, $answer or last;
        substr $answer, 0, $n, '';
    }
}
