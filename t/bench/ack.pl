#!/usr/bin/perl

# How fast one worker acknowledges, beside nginx's own "return 200" in the same
# round: rounds are interleaved, the table has medians. Plain HTTP on loopback,
# a new body for each request, a non-2xx answer spoils the row.
#
#     make bench                     or  t/bench/ack.pl
#     CONNECTIONS="64 256" ROUNDS=5 SECONDS=3

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::Edge;

my @connections = split ' ', $ENV{CONNECTIONS} // '64 256 1024';
my $rounds = $ENV{ROUNDS} // 5;
my $seconds = $ENV{SECONDS} // 3;

system('command -v wrk > /dev/null') == 0
    or die "wrk is missing, install the package wrk\n";

my $t = Test::Edge->new(parent => $ENV{BENCH_DIR} // '/var/tmp');

$t->conf(<<'EOF_CONF');
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

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /return {
            return 200 '{"received":true}';
        }

        location = /receiver {
            taptalent_webhook receiver;
        }

        location = /durable {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}
EOF_CONF

$t->run();

my @rows = qw(return receiver durable);

printf "%-12s%12s%12s%12s%12s%12s\n", 'connections', 'return 200', 'receiver',
       'durable', 'to return', 'events/file';

for my $connections (@connections) {
    my (%rate, @ratio, $events, $files);

    for my $round (1 .. $rounds) {
        my %now = map { $_ => rate($_, $connections) } @rows;

        push @{$rate{$_}}, $now{$_} for @rows;
        push @ratio, $now{durable} / $now{return};

        # Moved away, not removed: ext4 is slower for a while after that.
        my @files = glob $t->spool . '/new/*.ndjson';
        $files += @files;
        $events += /-(\d+)-[0-9a-f]{8}\.ndjson$/ ? $1 : 0 for @files;
        rename $_, $_ =~ s{/new/}{/dead/}r for @files;
    }

    printf "%-12d%12.0f%12.0f%12.0f%12.2f%12.1f\n", $connections,
           (map { median(@{$rate{$_}}) } @rows), median(@ratio),
           $events / $files;
}

$t->stop();

sub rate {
    my ($location, $connections) = @_;

    my $output = `wrk -t1 -c$connections -d${seconds}s \\
                  -s $FindBin::Bin/event.lua \\
                  http://127.0.0.1:@{[$t->port(0)]}/$location`;

    die "$location, $connections connections:\n$output"
        if $? || $output =~ /Non-2xx|Socket errors/
        || $output !~ m{Requests/sec:\s+([\d.]+)};

    return $1;
}

sub median {
    my @sorted = sort { $a <=> $b } @_;
    return $sorted[@sorted / 2];
}
