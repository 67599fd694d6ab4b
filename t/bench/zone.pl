#!/usr/bin/perl

# What it costs to count: durable acknowledgements with the zone and a status
# location, beside the same with "taptalent_webhook_zone off". Two nginx, rounds
# interleaved, so that the ratio is that of each round; the table has medians.
# With valgrind also the instructions of a worker for each event, which do not
# depend on what else the machine does.
#
#     make bench                     or  t/bench/zone.pl
#     CONNECTIONS=64 ROUNDS=9 SECONDS=2 EVENTS=2000

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::Edge;

my $connections = $ENV{CONNECTIONS} // 64;
my $rounds = $ENV{ROUNDS} // 9;
my $seconds = $ENV{SECONDS} // 2;
my $events = $ENV{EVENTS} // 2000;

system('command -v wrk > /dev/null') == 0
    or die "wrk is missing, install the package wrk\n";

my $conf = <<'EOF_CONF';
%%GLOBALS%%
%%PROCESS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log warn;
    keepalive_requests 1000000000;

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    %%ZONE%%

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /durable {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        %%STATUS%%
    }
}
EOF_CONF

my %variants = (
    off => ['taptalent_webhook_zone off;', ''],
    on => ['', 'location = /status { taptalent_webhook_status; }'],
);

rates();
instructions() if system('command -v valgrind > /dev/null') == 0;


sub edge {
    my ($variant, $process, $unseen) = @_;

    my $t = Test::Edge->new(parent => $ENV{BENCH_DIR} // '/var/tmp');
    my ($zone, $status) = @{ $variants{$variant} };

    $status = '' if $unseen;

    $t->conf($conf =~ s/%%ZONE%%/$zone/r =~ s/%%STATUS%%/$status/r
                   =~ s/%%PROCESS%%/$process/r);

    return $t;
}


sub rates {
    my %edge = map { $_ => edge($_, '')->run() } keys %variants;
    my (%rate, @ratio);

    for my $round (1 .. $rounds) {
        my %now;

        # each is the first one every other time

        for my $variant (sort { $round % 2 ? $a cmp $b : $b cmp $a }
                         keys %edge) {
            $now{$variant} = rate($edge{$variant});
            push @{ $rate{$variant} }, $now{$variant};

            # Moved away, not removed: ext4 is slower for a while after that.
            rename $_, $_ =~ s{/new/}{/dead/}r
                for glob $edge{$variant}->spool() . '/new/*.ndjson';
        }

        push @ratio, $now{on} / $now{off};
    }

    printf "%-12s%12s%12s%12s\n", 'connections', 'zone off', 'zone on',
           'on to off';
    printf "%-12d%12.0f%12.0f%12.3f\n", $connections, median($rate{off}),
           median($rate{on}), median(\@ratio);

    $_->stop() for values %edge;
}

sub rate {
    my ($t) = @_;

    my $output = `wrk -t1 -c$connections -d${seconds}s \\
                  -s $FindBin::Bin/event.lua \\
                  http://127.0.0.1:@{[$t->port(0)]}/durable`;

    die "$output" if $? || $output =~ /Non-2xx|Socket errors/
                     || $output !~ m{Requests/sec:\s+([\d.]+)};

    return $1;
}

sub median {
    my @sorted = sort { $a <=> $b } @{ $_[0] };
    return $sorted[@sorted / 2];
}


# The difference of two counts, so that the start of nginx is in neither. Without
# the status location: what is measured each second would be, under valgrind,
# measured for each few events.

sub instructions {
    my %each;

    for my $variant (sort keys %variants) {
        my ($few, $many) = map { counted($variant, $_) } $events, 3 * $events;

        $each{$variant} = ($many - $few) / (2 * $events);
    }

    printf "%-12s%12.0f%12.0f%12.3f\n", 'instructions', $each{off}, $each{on},
           $each{on} / $each{off};
}

sub counted {
    my ($variant, $n) = @_;

    my $t = edge($variant, 'master_process off;', 1);
    my $out = $t->prefix() . '/callgrind.out';

    $t->{workers} = 0;
    $t->run(wrapper => ['valgrind', '--tool=callgrind', "--log-file=$out.log",
                        "--callgrind-out-file=$out"]);

    my $c;

    $t->wait_for(sub { $c = eval { $t->connect() } }, 60, 'nginx to listen');

    for my $i (1 .. $n) {
        $c->send($t->message('/durable', event(data => { id => $i }),
                             keepalive => 1));
        die "event $i\n" if $c->answer()->{status} != 200;
    }

    $c->close();
    $t->stop(timeout => 60);

    return $t->read_file($out) =~ /^(?:summary|totals): (\d+)/m
           ? $1 : die "callgrind counted nothing\n";
}
