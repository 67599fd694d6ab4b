#!/usr/bin/perl

# The ends of a worker: graceful, fast, by a reload, by an upgrade of nginx
# itself. Under load a graceful one fails no request, and none loses an event.

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list read_spool event_body split_line);


my $t = Test::Edge->new(workers => 2, daemon => 1);
my $threads = $t->has('--with-threads');
my $strace = $> != 0 ? 'needs root' : Test::Fault->no_strace();

# a new binary gets no other environment

my $conf = <<'EOF';
%%GLOBALS%%
env ASAN_OPTIONS;
env UBSAN_OPTIONS;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 60s;

    access_log off;
    keepalive_requests 100000;
    client_body_buffer_size 64k;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
        error_log %%PREFIX%%/error.log notice;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location /ping {
            return 200 pong;
        }
    }
}

EOF

$t->conf($conf);

my $spool = $t->spool();

sub clear { unlink map { "$spool/new/$_" } list("$spool/new") }

sub ids {
    return map { /"data":\{"id":"([^"]+)"/ } map { @{ $_->{lines} } }
           read_spool($spool);
}


# a slow disk ------------------------------------------------------------------


# both workers' commits hang in fdatasync()

sub slow {
    return map { Test::Fault->strace([Test::Fault->committers($_)],
                                     'fdatasync:delay_enter=300s') }
           $t->workers();
}

sub wait_slow {
    return $t->wait_for(sub {
        grep { /ndjson/ && -s "$spool/tmp/$_" } list("$spool/tmp")
    }, 10, 'the commit to reach the disk');
}

sub wait_shutting_down {
    return $t->wait_for(sub { !$t->workers() }, 10, 'the workers to shut down');
}

# $n requests of which the first hangs in the disk and the others gather

sub in_flight {
    my ($n) = @_;

    my @conns = map { $t->connect() } 1 .. $n;

    for my $i (0 .. $n - 1) {
        $conns[$i]->send($t->message('/hook', event_body("stop-0-" . 53 * $i),
                                     keepalive => 1));
        wait_slow() if $i == 0;
    }

    return @conns;
}

SKIP: {
    skip $strace, 1 if $strace;

    # QUIT: in flight is what hangs, what gathers, what is half sent

    $t->conf($conf =~ s/(?=events)/worker_shutdown_timeout 60s;\n/r);
    $t->run();

    my $idle = $t->connect();

    $idle->send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    $idle->answer(method => 'GET');

    my @traces = slow();
    my @conns = in_flight($threads ? 8 : 1);

    my $half;
    my $body = event_body('stop-0-9999');
    my $bytes = $t->message('/hook', $body, keepalive => 1);

    if ($threads) {
        $half = $t->connect();
        $half->send(substr $bytes, 0, -20);

        # each worker has been through its loop since

        $t->get('/ping') for 1 .. 20;
    }

    $t->signal('QUIT');

    if ($threads) {
        ok(wait_shutting_down(), 'the workers shut down');
        ok($idle->eof(), 'an idle connection is closed');
        is(scalar($t->workers(all => 1)) > 0, 1,
           'but a worker with a commit in flight stays');
        $half->send(substr $bytes, -20);
    }

    $_->detach() for @traces;

    is_deeply([grep { $_ != 200 } map { $_->answer()->{status} } @conns], [],
              'QUIT with a slow disk: everything in flight is answered');
    is($half->answer()->{status}, 200, 'and what was half sent') if $half;

    ok($t->quit(), 'and then nginx ends');
    is(scalar(ids()), @conns + ($half ? 1 : 0), 'all is in the spool');
    is_deeply([list("$spool/tmp")], [], 'tmp/ is empty');
    clear();
}

SKIP: {
    skip $strace, 1 if $strace;
    skip 'no threads: a slow disk holds the whole worker', 1 unless $threads;

    # worker_shutdown_timeout is shorter than the commit

    $t->conf($conf =~ s/(?=events)/worker_shutdown_timeout 500ms;\n/r);
    $t->run();

    my @traces = slow();
    my @conns = in_flight(8);
    my $start = time();

    $t->signal('QUIT');

    my @answers = map { $_->answer(timeout => 20) } @conns;
    my $took = time() - $start;

    is(scalar(grep { $_->{status} == 200 } @answers), 0,
       'worker_shutdown_timeout: nobody gets a 2xx');
    diag(sprintf 'closed after %.3f s of worker_shutdown_timeout=500ms', $took);
    cmp_ok($took, '<', 15 * $Test::Edge::PATIENCE, 'they are let go in time');

    $_->detach() for @traces;

    ok($t->quit(), 'nginx ends when the disk has done its part');
    is(scalar(ids()), 8, 'those that were let go are in the spool, and once');
    is_deeply([map { defined $_->{wrong} ? $_->{wrong} : () }
                   read_spool($spool)], [], 'the files are whole');
    is_deeply([list("$spool/tmp")], [], 'tmp/ is empty');
    clear();


    # TERM

    $t->conf($conf);
    $t->run();

    @traces = slow();
    @conns = in_flight(8);

    $t->signal('TERM');
    $t->wait_for(sub { !grep { $_->answer(timeout => 0.01)->{status} }
                             @conns }, 1);

    $_->detach() for @traces;

    my @ok = grep { $_->answer(timeout => 5)->{status} == 200 } @conns;

    ok($t->stop(), 'TERM with a slow disk: nginx ends');
    cmp_ok(scalar(ids()), '>=', @ok, 'no 2xx without its event');
    clear();
}


# under load -------------------------------------------------------------------


$t->conf($conf);


# three kinds of senders: kept alive, one connection for each event, TLS

sub load {
    my ($o) = @_;

    return map { $o->load(%$_) } { port => $t->port(0), senders => 4, retry => 1 },
                                 { port => $t->port(0), senders => 3, close => 1 },
                                 { port => $t->port(1), senders => 1, tls => 1,
                                   retry => 1, pause => 0.01 };
}

sub check {
    my ($o, $title, $trials, $graceful) = @_;

    $o->collect($spool, take => 1);
    $o->report($title, $trials);

    is($o->lost(), 0, "$title: no acknowledged event is lost");
    is($o->altered(), 0, "$title: none is altered");

    if ($graceful) {
        is($o->duplicated(), 0, "$title: none is there twice");
        is(join(', ', $o->failed()), '', "$title: no request failed");
        is($o->refused(), 0, "$title: none was refused");
    }
}


# reload every 100 ms

{
    my $o = Test::Spool->new();
    my $reloads = Test::Fault->scale(30);
    my $missed = 0;

    $t->run();

    my @loads = load($o);

    $o->wait_acked(50);

    for (1 .. $reloads) {
        my $next = time() + 0.1;

        $t->reload() or $missed++;
        $t->wait_for(sub { time() >= $next }, 1);
    }

    $o->wait_acked(50);
    $_->stop() for @loads;

    is($missed, 0, 'each reload has brought new workers');

    check($o, 'reload every 100 ms', $reloads, 1);

    ok($t->wait_for(sub { $t->workers(all => 1) == 2 }, 15, 'the old workers'),
       'all old workers have ended');
    ok($t->quit(), 'stopped');
    is_deeply([list("$spool/tmp")], [], 'tmp/ is empty');
}


# TERM and start again; QUIT and start again

for my $signal (qw(TERM QUIT)) {
    my $o = Test::Spool->new();
    my $trials = Test::Fault->scale(8);
    my ($slow, $left) = (0, 0);

    $t->run();

    my @loads = load($o);

    for (1 .. $trials) {
        $o->wait_acked(100);
        $t->finish($signal) or $slow++;
        $left += list("$spool/tmp");
        $t->run();
    }

    $o->wait_acked(50);
    $_->stop() for @loads;

    is($slow, 0, "$signal: nginx ended each time");
    is($left, 0, "$signal: nothing was left in tmp/");

    check($o, "$signal under load", $trials, 0);

    ok($t->quit(), 'stopped');
}


# a new binary takes over, and the old one leaves; the other way the new one
# leaves again

for my $way (qw(forward back)) {
    my $o = Test::Spool->new();

    $t->run();

    my @loads = load($o);

    $o->wait_acked(100);

    my $old = $t->pid();

    kill 'USR2', $old;

    ok($t->wait_for(sub {
        my $new = $t->pid();
        return $new && $new != $old && -e $t->prefix() . '/nginx.pid.oldbin'
               && $t->workers(master => $new) >= 2;
    }, 20, 'the new binary'), "$way: the new binary has started");

    my $new = $t->pid();

    $o->wait_acked(100);

    if ($way eq 'forward') {
        kill 'QUIT', $old;
        ok($t->wait_for(sub { !$t->alive($old) }, 20, 'the old binary to end'),
           "$way: the old binary has ended");
        $t->{master} = $new;

    } else {
        kill 'WINCH', $old;
        ok($t->wait_for(sub { !$t->workers(master => $old, all => 1) }, 20,
                        'the old workers to end'), "$way: the old workers rest");
        $o->wait_acked(50);
        kill 'HUP', $old;
        ok($t->wait_for(sub { $t->workers(master => $old) >= 2 }, 20,
                        'the old binary\'s workers'), "$way: they are back");
        kill 'QUIT', $new;
        ok($t->wait_for(sub { !$t->alive($new) }, 20, 'the new binary to end'),
           "$way: the new binary has ended");
        $t->wait_for(sub { ($t->pid() || 0) == $old }, 5, 'nginx.pid');
    }

    ok($o->wait_acked(100), "$way: events are accepted");
    $_->stop() for @loads;

    check($o, "upgrade, $way", 1, 1);

    ok($t->quit(), 'stopped');
    is_deeply([list("$spool/tmp")], [], 'tmp/ is empty');
}

$t->no_alerts();

done_testing();
