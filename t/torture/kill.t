#!/usr/bin/perl

# kill -9 under load: of a worker, of everything, and at each system call of a
# commit. What was acknowledged is in the spool, once and with all its bytes.
#
#   TEST_KILLS   how many in total, 100 unless set

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list);


my $kills = $ENV{TEST_KILLS} || Test::Fault->scale(100);

my $t = Test::Edge->new(workers => 2);

$t->conf(<<'EOF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    access_log off;

    keepalive_requests 100000;
    client_body_buffer_size 64k;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        error_log %%PREFIX%%/error.log notice;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}

EOF

$t->run();
$t->expect_alert(qr/worker process \d+ exited on signal 9/);

my $spool = $t->spool();
my $o = Test::Spool->new();

sub kill_everything {
    Test::Fault->kill_all($t);
    $t->run();
}

my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;

srand $seed;
note("TEST_SEED=$seed");

sub a_moment { select undef, undef, undef, rand $_[0] }


# under load -------------------------------------------------------------------


my $load = $o->load(port => $t->port(0), senders => 8, conns => 2);
my ($of_worker, $of_all, $stuck) = (0, 0, 0);
my $began = time();

for my $n (1 .. $kills) {

    # the one that is killed next has work

    $o->wait_acked(50) or $stuck++;
    a_moment(0.1);

    if ($n % 2) {
        my @workers = $t->workers();

        kill 'KILL', $workers[rand @workers];
        $of_worker++;

    } else {
        kill_everything();
        $of_all++;
    }

    # what a consumer does, while it goes on

    # the load waits: on a fast disk it writes faster than this reads

    if ($n % 5 == 0) {
        kill 'STOP', @{ $load->{pids} };
        $o->collect($spool, take => 1);
        kill 'CONT', @{ $load->{pids} };
    }

    last if $stuck > 3;
}

$o->wait_acked(50) or $stuck++;
$load->stop();

is($stuck, 0, 'events are accepted again after each kill');

$o->collect($spool, take => 1);
$o->report(sprintf('kill -9, %d of a worker, %d of all, %d s', $of_worker,
                   $of_all, time() - $began), $of_worker + $of_all);

is($o->lost(), 0, 'no acknowledged event is lost');
is($o->altered(), 0, 'none is altered');
is($o->duplicated(), 0, 'none is there twice');
cmp_ok($o->acked(), '>', $kills * 50, 'and there were some');

is_deeply([grep { !/^[0-9a-f]{16}\.(?:lock)$/ && !live($_) }
                list("$spool/tmp")], [], 'tmp/ has no leftovers of the dead')
    if $t->reload(old_gone => 1);

sub live { return -e "$spool/tmp/" . substr($_[0], 21, 16) . '.lock' }

ok($t->quit(), 'stopped');
is_deeply([list("$spool/tmp")], [], 'nothing is in tmp/ after a stop');


# at each system call of a commit ----------------------------------------------


SKIP: {
    my $why = Test::Fault->no_strace();

    skip $why, 1 if $why;

    my $step = Test::Spool->new();
    my $trials = 0;

    $t->run();

    for my $call (qw(openat write fdatasync close renameat2 fsync)) {
        for my $when (1 .. 2) {

            my ($pid, @others) = $t->workers();

            # whichever worker it is that takes the event

            my @traces = map {
                Test::Fault->strace([Test::Fault->committers($_)],
                                    "$call:signal=KILL:when=$when")
            } $pid, @others;

            my $load = $step->load(port => $t->port(0), senders => 4);

            my $died = $t->wait_for(sub {
                grep { !$t->alive($_) } $pid, @others
            }, 20, "a worker to die in $call()");

            ok($died, "killed at $call() no. $when");
            $trials++ if $died;

            $_->detach() for @traces;
            ok($step->wait_acked(20), 'and events are accepted again');
            $load->stop();
        }
    }

    $step->collect($spool);
    $step->report('kill -9 at each call', $trials);

    is($step->lost(), 0, 'no acknowledged event is lost');
    is($step->altered(), 0, 'none is altered');
    is($step->duplicated(), 0, 'none is there twice');

    $t->quit();
}

$t->no_alerts();

done_testing();
