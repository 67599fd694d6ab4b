#!/usr/bin/perl

# How fast one worker forwards, beside the rate at which the same nginx passes
# the same POSTs to the same upstream directly. Rounds are interleaved, the
# table has medians; the ratio is that of each round.
#
#   direct     proxy_pass, no module, as many connections as deliveries
#   forward    a backlog in files of 100 events
#   single     a backlog in files of one event
#   steady     deliveries while events are accepted as fast as they can be
#
#     make bench                     or  t/bench/forward.pl
#     CONCURRENCY=64 ROUNDS=5 SECONDS=3 EVENTS=50000 FILES=20000

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::Edge;
use Test::Load;
use Time::HiRes qw(sleep time);

my $concurrency = $ENV{CONCURRENCY} // 64;
my $rounds = $ENV{ROUNDS} // 5;
my $seconds = $ENV{SECONDS} // 3;
my $events = $ENV{EVENTS} // 50_000;
my $files = $ENV{FILES} // 20_000;

system('command -v wrk > /dev/null') == 0
    or die "wrk is missing, install the package wrk\n";

my @where = (parent => $ENV{BENCH_DIR} // '/var/tmp');

my $upstream = Test::Edge->new(@where);

die "nginx has no stub_status, which counts what arrives\n"
    if !$upstream->has('stub_status');

$upstream->conf(<<'EOF_CONF');
%%GLOBALS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    keepalive_requests 1000000000;

    server {
        listen 127.0.0.1:%%PORT_0%% reuseport;

        location / {
            return 204;
        }

        location = /status {
            stub_status;
        }
    }
}
EOF_CONF

my $t = Test::Edge->new(@where);

my $conf = <<'EOF_CONF';
%%GLOBALS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log warn;
    keepalive_requests 1000000000;

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;

    upstream application {
        server 127.0.0.1:UPSTREAM;
        keepalive CONCURRENCY;
        keepalive_requests 1000000000;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        proxy_http_version 1.1;
        proxy_set_header Connection "";

        location = /direct {
            proxy_pass http://application/direct;
        }

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /deliver concurrency=CONCURRENCY;
        }

        location = /deliver {
            internal;
            proxy_pass http://application/deliver;
        }
    }
}
EOF_CONF

$t->conf($conf =~ s/UPSTREAM/$upstream->port(0)/re
               =~ s/CONCURRENCY/$concurrency/gr);

$upstream->run();

# makes the spool

$t->run();
$t->quit();

my %row = (direct => \&direct, forward => sub { backlog($events, 100) },
           single => sub { backlog($files, 1) }, steady => \&steady);
my @rows = qw(direct forward single steady);
my ($made, $asked) = (0, 0);
my (%rate, %ratio, @first, @taken, @memory);

for my $round (1 .. $rounds) {
    my %now = map { $_ => $row{$_}->() } @rows;

    push @{ $rate{$_} }, $now{$_} for @rows;
    push @{ $ratio{'forward to direct'} }, $now{forward} / $now{direct};
    push @{ $ratio{'single to steady'} }, $now{single} / $now{steady};
}

printf '%12s' x @rows . "   deliveries/s, concurrency %d\n", @rows,
       $concurrency;
printf '%12.0f' x @rows . "\n", map { median(@{ $rate{$_} }) } @rows;
printf "%-20s%.2f\n", $_, median(@{ $ratio{$_} }) for sort keys %ratio;
printf "with a backlog, from the start: first delivery %.3f s, first event "
       . "accepted %.3f s, at most %.1f MB more of memory\n", median(@first),
       median(@taken), (sort { $a <=> $b } @memory)[-1] / 1024;

$t->no_alerts();
Test::More::done_testing();


sub direct {
    $t->run();

    my $rate = wrk('direct');

    $t->quit();

    return $rate;
}


sub steady {
    $t->run();

    my ($before, $since) = (arrived(), time());

    wrk('hook');

    my $rate = (arrived() - $before) / (time() - $since);

    until_empty();
    $t->quit();

    return $rate;
}


sub backlog {
    my ($n, $each) = @_;

    $t->run();

    my $idle = memory();

    $t->quit();

    for (my $i = 0; $i < $n; $i += $each) {
        Test::Load::make_file($t->spool(), [map { $made++ } 1 .. $each]);
    }

    my ($before, $since) = (arrived(), time());

    $t->run();

    if ($each == 1) {
        sleep 0.001 until arrived() > $before;
        push @first, time() - $since;

        die 'not accepted' if $t->post('/hook', event(companyId =>
                                            'company-uuid'))->{status} != 200;
        push @taken, time() - $since;
    }

    until_empty();

    my $rate = (arrived() - $before) / (time() - $since);

    push @memory, memory() - $idle if $each == 1;
    $t->quit();

    return $rate;
}


# what the upstream has been asked, its status excepted

sub arrived {
    my $text = $upstream->get('/status')->{body};

    my ($requests) = $text =~ /^ \d+ \d+ (\d+) $/m or die $text;

    return $requests - ++$asked;
}


sub until_empty {
    opendir my $dir, $t->spool() . '/new' or die "opendir() failed: $!";

    for ( ;; ) {
        rewinddir $dir;

        my $name;
        do { $name = readdir $dir } while defined $name && $name =~ /^\./;

        last if !defined $name;
        sleep 0.005;
    }
}


# the most that the worker has had, kB

sub memory {
    my ($pid) = $t->workers();

    my ($kb) = Test::Edge::slurp("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m
        or die 'no VmHWM';

    return $kb;
}


sub wrk {
    my ($location) = @_;

    my $output = `wrk -t1 -c$concurrency -d${seconds}s \\
                  -s $FindBin::Bin/event.lua \\
                  http://127.0.0.1:@{[$t->port(0)]}/$location`;

    die "$location:\n$output"
        if $? || $output =~ /Non-2xx|Socket errors/
        || $output !~ m{Requests/sec:\s+([\d.]+)};

    return $1;
}


sub median {
    my @sorted = sort { $a <=> $b } @_;
    return $sorted[@sorted / 2];
}
