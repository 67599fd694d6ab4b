#!/usr/bin/perl

# taptalent_webhook_dedup: what was made durable is not stored again, in any
# worker, and nothing else is taken for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Load;

my $t = Test::Edge->new(workers => 2);
my $p = $t->prefix();
my $spool = $t->spool();

my $conf = <<'EOF';
%%GLOBALS%%
worker_shutdown_timeout 1s;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_zone 256k;
    log_format dedup '$taptalent_verdict $pid';
    access_log %%PREFIX%%/dedup.log dedup;

    server {
        listen 127.0.0.1:%%PORT_0%% reuseport;
        listen 127.0.0.1:%%PORT_1%% ssl reuseport;
        %%TLS%%

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_dedup 1h;
        }

        location /same {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_dedup 1h;
        }

        location /tls {
            taptalent_webhook on;
            taptalent_webhook_https on;
            taptalent_webhook_spool %%PREFIX%%/tls;
            taptalent_webhook_dedup 1h;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location /other {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/other;
            taptalent_webhook_dedup 1h;
        }

        location /short {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/short;
            taptalent_webhook_dedup 300ms;
        }

        location /slow {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/slow;
            taptalent_webhook_dedup 1h;
            taptalent_webhook_ack_timeout 300ms;
        }

        location /sent {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/sent;
            taptalent_webhook_forward /deliver;
            taptalent_webhook_dedup 1h;
        }

        location /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /deliver;
            taptalent_webhook_dedup 1h;
        }

        location /kept {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/kept;
            taptalent_webhook_key right;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine max_size=64k;
            taptalent_webhook_dedup 1h;
        }

        location = /deliver {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }

        location = /json { taptalent_webhook_status json; }
    }
}
EOF

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');

$t->conf($conf);
$t->run();
$t->expect_alert(qr/worker process \d+ exited on signal 9/);

my $n = 0;

sub fresh { return event(data => { id => 'dedup-' . $n++ }) }
sub stored { return scalar glob_of(@_) }
sub committed { my ($dir) = @_;
                return (map { $_->{committed} } grep { $_->{path} eq $dir }
                        @{ $t->get('/json')->{json}{spools} })[0] // 0 }
sub glob_of { my ($dir) = @_; my @files = glob "$dir/new/*.ndjson";
              return wantarray ? @files : @files }


configurations();
repeated();
tls();
apart();
workers();
kept();
failed();
gone();
dead_letters();
memory();
bounded();
strangers();
torn();

$t->no_alerts();

done_testing();


sub configurations {
    for my $case (
        ['taptalent_webhook_dedup 0;', qr/invalid time "0", write "off"/],
        ['taptalent_webhook_dedup often;', qr/invalid time "often"/],
        ['taptalent_webhook_dedup 1h; taptalent_webhook_dedup 1h;',
         qr/is duplicate/],
        ['taptalent_webhook_dedup off;', undef],
    ) {
        my ($directive, $message) = @$case;

        (my $other = $conf) =~ s/taptalent_webhook_dedup 300ms;/$directive/;
        $t->conf($other, 'other.conf');

        my ($exit, $output) = $t->config_test('other.conf');

        is($exit == 0, !$message, $directive) or diag($output);
        like($output, $message, 'and it says why') if $message;
    }

    (my $off = $conf) =~ s/zone 256k/zone off/;

    $off =~ s/^.*status json.*$//m;
    $t->conf($off, 'other.conf');

    my ($exit, $output) = $t->config_test('other.conf');

    isnt($exit, 0, 'without a zone');
    like($output, qr/write a size instead of "taptalent_webhook_zone off"/,
         'and it says why');
}


sub repeated {
    my $event = fresh();
    my $r = $t->post('/hook', $event);

    is($r->{body}, '{"received":true}', 'the first time');

    for (1 .. 3) {
        $r = $t->post('/hook', $event);

        is($r->{status}, 200, 'again');
        is($r->{body}, '{"received":true,"duplicate":true}', 'and known');
    }

    is(stored($spool), 1, 'stored once');

    my $status = $t->get('/json')->{json};

    is($status->{verdicts}{duplicate}, 3, 'counted');
    is($status->{verdicts}{accepted}, 1, 'and not as accepted');
    is($status->{spools}[0]{committed}, 1, 'nor as committed');
    ok(scalar(grep { $_->{verdict} eq 'duplicate' && $_->{status} == 200 }
                   @{ $status->{recent} }), 'among the last that were taken');

    is($t->post('/same', $event)->{json}{duplicate}, JSON::PP::true(),
       'in another location with the spool');
    is($t->post('/off', $event)->{body}, '{"received":true}',
       'but not where it is off');
    is(stored($spool), 2, 'which stores it');
    is($t->post('/other', $event)->{body}, '{"received":true}',
       'nor in another spool');
}


# over TLS, by one who has gone before his answer and by curl, which is sure
# whom it talks to

sub tls {
    my $event = fresh();
    my $c = $t->connect(tls => 1);

    $c->send($t->message('/tls', $event));
    $t->wait_for(sub { committed("$p/tls") == 1 }, 15, 'the commit');
    $c->abort();

    my $file = $t->write_file('event.json', $event);
    my @curl = ('--no-insecure', '--cacert', $t->path('cert.pem'),
                '--data-binary', "\@$file",
                'https://localhost:' . $t->port(1) . '/tls');
    my @headers = @{ headers_for($event) };

    while (my ($name, $value) = splice @headers, 0, 2) {
        push @curl, '-H', "$name: $value";
    }

    for my $tls ('1.2', '1.3') {
        my ($exit, $output) = $t->curl('--tlsv1.2', '--tls-max', $tls, @curl);
        is($output, '{"received":true,"duplicate":true}', "over TLS $tls");
    }

    is(stored("$p/tls"), 1, 'stored once');
    is($t->post('/tls', $event)->{status}, 403, 'known, but refused in plain');

    $t->write_file('event.json', fresh());
    is(($t->curl(@curl))[1], '{"received":true}', 'another over TLS');
    is(stored("$p/tls"), 2, 'is stored');
}


# what differs is another event; what is refused is refused

sub apart {
    my $event = fresh();

    $t->post('/hook', $event);

    is($t->post('/hook', "$event ")->{body}, '{"received":true}',
       'one byte more');
    is($t->post('/hook', $event, headers => { 'Content-Type' => 'text/plain' })
       ->{status}, 415, 'known, but refused');
    is($t->post('/hook', $event, headers => { 'X-Webhook-Event' => 'b' })
       ->{json}{error}, 'event_mismatch', 'also after the body');

    my $short = fresh();

    $t->post('/short', $short);

    my $again = $t->wait_for(sub {
        return !$t->post('/short', $short)->{json}{duplicate};
    }, 10, 'the time to be over');

    ok($again, 'after its time it is stored again');
    is(stored("$p/short"), 2, 'twice');
}


# what one has stored the other knows

sub workers {
    my ($event, @lines);
    my $logged = sub {
        @lines = map { [split / /] } split /\n/, $t->read_file('dedup.log');
        return scalar @lines;
    };

    # the line of a request is written after its answer is read

    $t->wait_for(sub { my $n = $logged->(); $t->get('/json');
                       return $logged->() == $n + 1 }, 10, 'the log');

    my $before = $logged->();

    for (1 .. 60) {
        $event = fresh();

        $t->post('/hook', $event);
        is($t->post('/hook', $event)->{body},
           '{"received":true,"duplicate":true}', 'in any worker') if $_ == 1;
        $t->post('/hook', $event) if $_ > 1;
    }

    $t->wait_for(sub { $logged->() >= $before + 120 }, 10, 'the log');
    splice @lines, 0, $before;

    my $crossed = 0;

    for my $i (1 .. $#lines) {
        $crossed++ if $lines[$i][0] eq 'duplicate'
                      && $lines[$i - 1][0] eq 'accepted'
                      && $lines[$i][1] ne $lines[$i - 1][1];
    }

    cmp_ok($crossed, '>', 0, "another worker knew it, $crossed times");
    is(scalar(grep { $_->[0] eq 'accepted' } @lines), 60,
       'each was stored once');
    is(@lines, 120, 'of two');
}


sub kept {
    my $event = fresh();

    $t->post('/hook', $event);
    ok($t->reload(old_gone => 1), 'reload');
    ok($t->post('/hook', $event)->{json}{duplicate}, 'known after a reload');

    my @workers = $t->workers();

    kill 'KILL', @workers;
    $t->wait_for(sub { my %old = map { $_ => 1 } @workers;
                       return 2 == grep { !$old{$_} } $t->workers() }, 15,
                 'new workers');
    ok($t->post('/hook', $event)->{json}{duplicate}, 'known after a kill');
}


# what was not stored is never taken for what was

sub failed {
    SKIP: {
        skip 'needs root', 3 if $> != 0;

        my $event = fresh();

        $t->post('/other', fresh());
        chmod 0, "$p/other/tmp";
        is($t->post('/other', $event)->{status}, 503, 'not stored');
        chmod 0700, "$p/other/tmp";

        my $r;

        $t->wait_for(sub { $r = $t->post('/other', $event);
                           $r->{status} == 200 }, 20, 'the spool to work');
        is($r->{body}, '{"received":true}', 'stored, and not known before');

        # the worker that has seen the error tries but once a second

        ok($t->wait_for(sub { $r = $t->post('/other', $event);
                              $r->{status} == 200 }, 20, 'the other worker')
           && $r->{json}{duplicate}, 'now it is');
    }
}


# a client that has gone comes again, which is what it is for

sub gone {
    my $event = fresh();
    my $c = $t->connect();

    $c->send($t->message('/slow', $event));
    $t->wait_for(sub { stored("$p/slow") == 1 }, 15, 'it to be stored');
    $c->abort();

    # the file is there a moment before it is known

    $t->wait_for(sub { committed("$p/slow") == 1 }, 15, 'the commit to end');

    ok($t->post('/slow', $event)->{json}{duplicate},
       'the event of a client that has gone');
    is(stored("$p/slow"), 1, 'stored once');
}


# a dead letter that is put back is sent

sub dead_letters {
    my $id = 'dedup-0-' . $n++;
    my $event = Test::Spool::event_body($id);

    $app->mode('422');
    $t->post('/sent', $event);
    $t->wait_for(sub { () = glob "$p/sent/dead/*.ndjson" }, 15, 'a dead letter');

    my ($dead) = glob "$p/sent/dead/*.ndjson";

    ok($t->post('/sent', $event)->{json}{duplicate}, 'it is known');

    $app->mode('ok');
    rename $dead, $dead =~ s{/dead/}{/new/}r;

    ok($t->wait_for(sub { $o->poll_app(); $o->{delivered}{$id} }, 15,
                    'it to be delivered'), 'and sent all the same');
}


# what is in memory only may be gone when the sender comes again

sub memory {
    my $event = Test::Spool::event_body('dedup-0-' . $n++);

    my ($exit, $output) = $t->config_test();

    is($exit, 0, 'without a spool');
    like($output, qr/"taptalent_webhook_dedup" has no effect .* no spool/,
         'and that it has no effect is said');
    is($t->post('/memory', $event)->{body}, '{"received":true}', 'from memory');
    is($t->post('/memory', $event)->{body}, '{"received":true}', 'and again');
}


# a small zone holds the newest ones

sub bounded {
    my @events = map { fresh() } 1 .. 3000;
    my $c = $t->connect();
    my $post = sub {
        $c->send($t->message('/hook', $_[0], keepalive => 1));
        my $answer = $c->answer();
        $c = $t->connect() if ($answer->{headers}{connection} // '') eq 'close';
        return $answer->{json};
    };

    my $accepted = grep { $_->{received} && !$_->{duplicate} }
                   map { $post->($_) } @events;

    is($accepted, 3000, 'more than the zone holds are all taken');
    ok($post->($events[-1])->{duplicate}, 'the last one is known');
    ok($post->($events[-500])->{duplicate}, 'and many before it');
    ok(!$post->($events[0])->{duplicate}, 'the first one is not any more');
    ok($t->get('/json')->{json}{spools}[0]{committed} >= 3000,
       'the status goes on');
    is(scalar(grep { /no memory/ } $t->error_log()), 0, 'nor is it an error');
}


# what is refused into quarantine is known there, too, but goes first

sub strangers {
    my $event = fresh();
    my $key = { 'X-Webhook-Key' => 'right' };

    $t->post('/kept', $event, headers => $key);

    my $c = $t->connect();

    for (1 .. 2500) {
        $c->send($t->message('/kept', fresh(), keepalive => 1));
        my $answer = $c->answer();
        $c = $t->connect() if ($answer->{headers}{connection} // '') eq 'close';
    }

    ok($t->post('/kept', $event, headers => $key)->{json}{duplicate},
       'strangers do not make it forget');
}


# a worker was killed in the middle of a change: what it says of itself in the
# zone is written there by hand

sub torn {
  SKIP: {
    my $tree = $t->top() . '/build/debian/nginx';

    skip 'needs root, and the headers that this nginx was built with', 12
        if $> != 0 || $ENV{TEST_NGINX_BINARY}
           || !-e "$tree/objs/ngx_auto_config.h";

    no warnings 'portable';

    my $source = $t->write_file('offsets.c', <<'EOC');
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http_taptalent_zone.h>

int
main(void)
{
    return !printf("%zu %zu\n", offsetof(ngx_slab_pool_t, data),
                   offsetof(ngx_http_taptalent_zone_shared_t, changing));
}
EOC

    my $binary = $t->path('offsets');

    # which directories there are depends on the version

    my ($list) = Test::Edge::slurp("$tree/objs/Makefile")
                 =~ /^ALL_INCS = ((?:.*\\\n)*.*)/m;
    my @dirs = map { "-I$tree/$_" } $list =~ /-I (\S+)/g;

    push @dirs, map { "-I$_" } glob $t->top() . '/src/*/';

    system('gcc', '-o', $binary, @dirs, $source)
        == 0 or die 'gcc failed';

    my ($data, $changing) = split ' ', qx{$binary};
    my ($worker) = $t->workers();
    my ($zone) = grep { defined } map {
        /^(\w+)-(\w+) rw-s .*\/dev\/zero/ && hex($2) - hex($1) == 256 * 1024
            ? hex $1 : undef
    } split /\n/, Test::Edge::slurp("/proc/$worker/maps");

    open my $memory, '+<:raw', "/proc/$worker/mem" or die "open() failed: $!";
    sysseek $memory, $zone + $data, 0;
    sysread $memory, my $shared, 8;
    sysseek $memory, unpack('Q', $shared) + $changing, 0;

    my $event = fresh();

    ok($t->post('/hook', $event)->{json}{received}, 'torn: before');
    ok($t->wait_for(sub { $t->post('/hook', $event)->{json}{duplicate} }, 5),
       'torn: it is known');
    is(syswrite($memory, pack 'Q', 1), 8, 'torn');
    ok(!$t->post('/hook', $event)->{json}{duplicate}, 'torn: not any more')
        for 1 .. 3;
    is($t->get('/json')->{status}, 200, 'torn: the status goes on');
    ok($t->wait_log(qr/\[error\].*a worker was killed while it changed the zone/),
       'torn: it is said');

    my @said = $t->grep_log(qr/while it changed the zone/);

    cmp_ok(scalar @said, '<=', 2, 'torn: once by each worker');
    ok($t->reload(old_gone => 1), 'torn: reload');
    ok(!$t->post('/hook', $event)->{json}{duplicate}, 'torn: and still');
    $t->stop();
    $t->run();
    $t->post('/hook', $event);
    ok($t->wait_for(sub { $t->post('/hook', $event)->{json}{duplicate} }, 5),
       'torn: until nginx is restarted');
  }
}
