#!/usr/bin/perl

# Counters under load: over reloads they are exactly what the senders got and
# what is in the spool; over workers that are killed at work, except for what a
# worker had in its hands when it was killed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use List::Util qw(sum0);
use Test::More;
use Test::Edge;
use Test::Spool;
use Time::HiRes qw(sleep);

my $senders = 4;
my $conns = 4;
my $kills = 0;

my $t = Test::Edge->new(workers => 2);
my $o = Test::Spool->new();

$t->conf(<<'EOF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 60s;
    keepalive_requests 100000;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location = /metrics { taptalent_webhook_status prometheus; }
    }
}
EOF

$t->run();
$t->expect_alert(qr/worker process \d+ exited on signal 9/);

my $before = all();

reloaded();
killed();
afterwards();

is($o->collect($t->spool())->lost(), 0, 'nothing is lost');
is($o->altered(), 0, 'nor altered');

$t->no_alerts();

done_testing();


# What the senders know, what the names of the spool's files say, and what is
# counted.

sub all {
    my @files = map { Test::Spool::parse_name($_) }
                Test::Spool::list($t->spool() . '/new');
    my %all = (acked => $o->acked(), sent => $o->sent(),
               cut => scalar($o->failed()), refused => $o->refused(),
               body => sum0(map { length Test::Spool::event_body($_) }
                            keys %{ $o->{acked} }),
               files => scalar @files, spooled => sum0(map { $_->{events} }
                                                       @files));

    my $text = $t->get('/metrics')->{body};
    my %metric = (
        accepted => 'requests_total\{verdict="accepted"\}',
        unavailable => 'requests_total\{verdict="unavailable"\}',
        events => 'events_total\{event="[^"]+"\}',
        bytes => 'received_bytes_total',
        commits => 'commits_total\{[^}]*result="ok"\}',
        errors => 'commits_total\{[^}]*result="error"\}',
        committed => 'commit_events_sum\{[^}]*\}',
        groups => 'commit_events_count\{[^}]*\}',
        timed => 'commit_duration_seconds_count\{[^}]*\}',
    );

    for my $name (keys %metric) {
        my ($value) = $text =~ /^taptalent_webhook_$metric{$name} (\d+)$/m;

        # an event has no counter before there is one

        $all{$name} = $value // 0;
    }

    return \%all;
}

sub load {
    return $o->load(port => $t->port(0), senders => $senders, conns => $conns,
                    @_);
}


# It is exact: what has been added since then.

sub exact {
    my ($since, $name) = @_;
    my $now = all();
    my %more = map { $_ => $now->{$_} - $since->{$_} } keys %$now;

    cmp_ok($more{acked}, '>', 200, "$name: there was a load");
    is($more{sent}, $more{acked}, "$name: all of it was taken");

    is($more{$_}, $more{acked}, "$name: $_")
        for qw(accepted events committed spooled);
    is($more{$_}, $more{files}, "$name: $_") for qw(commits groups timed);
    is($more{bytes}, $more{body}, "$name: bytes");
    is($more{$_}, 0, "$name: $_") for qw(refused unavailable errors);
}


# A kept connection that is closed as the next request arrives is the sender's to
# notice, and it sends that again.

sub reloaded {
    my $load = load(retry => 1);

    for my $n (1 .. 3) {
        $o->wait_acked(100);
        ok($t->reload(), "reload $n");
    }

    $o->wait_acked(100);
    $load->stop();

    # the old workers have nothing left to count

    is(join(', ', $o->failed()), '', 'every request had its answer');
    exact($before, 'reloads');
}


# Killed while it has work: some of its answers are cut off.

sub killed {
    my $since = all();
    my $load = load();
    my $cut = 0;

    while ($kills < 6 || (!$cut && $kills < 30)) {
        $o->wait_acked(50) or last;
        sleep(rand 0.05);

        my @workers = $t->workers();
        my $worker = $workers[$kills++ % @workers];

        kill 'KILL', $worker;
        $t->wait_for(sub { !grep { $_ == $worker } $t->workers() }, 10,
                     'a worker to die');
        $t->wait_for(sub { $t->workers() == 2 }, 10, 'another worker');
        $cut = $o->failed();
    }

    $o->wait_acked(50);
    $load->stop();

    my $now = all();
    my %more = map { $_ => $now->{$_} - $since->{$_} } keys %$now;
    my $flight = $kills * $senders * $conns;

    note(join ', ', "$kills kills", map { "$_ $more{$_}" } sort keys %more);

    cmp_ok($more{cut}, '>', 0, "$kills kills: answers were cut off");
    is($more{acked} + $more{cut}, $more{sent}, 'all others were 2xx');

    # it is counted, then answered

    cmp_ok($more{accepted}, '>=', $more{acked}, 'accepted: what was answered');
    cmp_ok($more{accepted}, '<=', $more{acked} + $more{cut},
           'accepted: and what was cut off, no more');

    # in the spool, counted as committed, then as accepted; of a worker one
    # commit at most was between two of these

    cmp_ok($more{committed}, '>=', $more{accepted}, 'committed: what is accepted');
    cmp_ok($more{committed}, '<=', $more{spooled}, 'committed: is in the spool');
    cmp_ok($more{spooled} - $more{committed}, '<=', $flight,
           'spooled: no more than was in flight');
    cmp_ok($more{commits}, '<=', $more{files}, 'commits: files');
    cmp_ok($more{files} - $more{commits}, '<=', $kills,
           'files: one for each kill');
    cmp_ok(abs($more{commits} - $more{$_}), '<=', $kills, "commits: $_")
        for qw(groups timed);

    # of one request a part may have been counted

    cmp_ok($more{accepted} - $more{events}, '<=', $kills, 'events');
    cmp_ok($more{bytes}, '>=', $more{body}, 'bytes');
    is($more{$_}, 0, $_) for qw(refused unavailable errors);
}


# And nothing that a dead worker left makes the next count wrong.

sub afterwards {
    my $since = all();
    my $load = load();

    $o->wait_acked(300);
    $load->stop();

    exact($since, 'after the kills');
}
