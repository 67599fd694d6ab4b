#!/usr/bin/perl

# The power goes while events are taken: what the journal and the disk have not
# got by then is gone. What was acknowledged must be there when it is back.
#
#   TEST_CUTS   how many for each filesystem, 5 unless set
#
# That this can fail at all is shown by a spool with sync=off, which does lose
# under the same cut.

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list read_spool);


Test::Fault->need('root', 'loop');

my $cuts = $ENV{TEST_CUTS} || Test::Fault->scale(5);
my %size = (ext4 => '64m', xfs => '320m');

my $t = Test::Edge->new(workers => 2);
my $p = $t->prefix();

my @types = grep { !/xfs/ || Test::Fault::command('mkfs.xfs') } sort keys %size;
my $locations = '';

for my $type (@types) {
    $locations .= <<"EOF";
        location /$type {
            taptalent_webhook on;
            taptalent_webhook_spool $p/$type/spool min_free=0;
        }

        location /$type-unsafe {
            taptalent_webhook on;
            taptalent_webhook_spool $p/$type/unsafe min_free=0 sync=off;
        }
EOF
}

$t->conf(<<"EOF");
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
        error_log $p/error.log notice;

$locations
    }
}

EOF

my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;

srand $seed;
note("TEST_SEED=$seed");

my %fs = map { $_ => Test::Fault->filesystem($t, $_, $size{$_}, dir => $_) }
             @types;


# load, a cut in the middle of it, and the disk as it is after a boot

sub cut {
    my ($o, $fs, $uri, $events) = @_;

    $t->run();

    my $load = $o->load(port => $t->port(0), uri => $uri, senders => 6);

    my $flows = $o->wait_acked($events, 60);
    select undef, undef, undef, rand 0.1;

    $fs->cut();

    # what was in flight gets its answers, none of them a 2xx that is not true

    select undef, undef, undef, rand 0.05;
    $load->stop();

    Test::Fault->kill_all($t);
    $fs->umount()->mount();

    return $flows;
}


for my $type (@types) {
    my ($o, $fs) = (Test::Spool->new(), $fs{$type});
    my ($spool, $bad) = ($fs->dir() . '/spool', 0);

    for my $n (1 .. $cuts) {
        cut($o, $fs, "/$type", 60) or $bad++;

        my $torn = grep { /ndjson/ } list("$spool/tmp");

        # what is whole is taken away, or the disk would be full one day

        $o->collect($spool, take => 1);
        note("$type, cut $n: $torn unfinished in tmp/");
    }

    $o->report("power cut, $type", $cuts);

    is($bad, 0, "$type: events were accepted before each cut");
    is($o->lost(), 0, "$type: no acknowledged event is lost");
    is($o->altered(), 0, "$type: none is altered");
    is($o->duplicated(), 0, "$type: none is there twice");

    # the leftovers of the last cut go, and it takes events again

    $t->run();
    is($t->post("/$type", event())->{status}, 200, "$type: accepted again");
    is(scalar(grep { /ndjson/ } list("$spool/tmp")), 0,
       "$type: tmp/ has no leftovers");
    $t->quit();


    # The power goes between the rename and the fsync() of the directory. XFS
    # that has shut down says yes to that fsync() all the same.

    SKIP: {
        my $why = Test::Fault->no_strace();

        skip $why, 1 if $why;

        $t->run();
        unlink map { $_->{path} } read_spool($spool);

        my @traces = map { Test::Fault->strace([Test::Fault->committers($_)],
                                               'fsync:delay_enter=300s') }
                     $t->workers();

        my $c = $t->connect();

        $c->send($t->message("/$type", event()));
        $t->wait_for(sub { list("$spool/new") }, 10, 'the rename');
        $fs->cut();
        $_->detach() for @traces;

        is($c->answer()->{status}, 503, "$type: a cut before the fsync(): 503");

        Test::Fault->kill_all($t);
        $fs->umount()->mount();
        is(scalar(list("$spool/new")), 0, "$type: it would have been lost");
        unlink map { "$spool/new/$_" } list("$spool/new");
    }


    # without the fsync()s

    my ($unsafe, $trials) = (Test::Spool->new(), 0);

    while ($trials++ < 5) {
        cut($unsafe, $fs, "/$type-unsafe", 60);
        $unsafe->collect($fs->dir() . '/unsafe');
        last if $unsafe->lost();
    }

    $unsafe->report("power cut, $type, sync=off, which is to lose", $trials,
                    expected => 1);
    cmp_ok($unsafe->lost(), '>', 0,
           "$type: the same cut does lose what was not synced");
}

ok(!$t->grep_log(qr/exited on signal/), 'no worker died of it');

$t->no_alerts();

$_->umount() for values %fs;

done_testing();
