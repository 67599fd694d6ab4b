#!/usr/bin/perl

# The bench measures what it says: a row and its floor are in the table, each
# request has a body of its own, and what was not 2xx, or is not in the spool,
# spoils a row. How fast anything is, is no matter here.
#
# slow: it measures, for seconds each time

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Bench;
use Test::Edge;
use Test::More;

plan skip_all => 'about the bench, not about nginx' if $ENV{TEST_NGINX_BINARY};

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF')->run();
%%GLOBALS%%

events {
}

http {
    access_log off;
    keepalive_requests 1000000000;

    taptalent_webhook_company_id company-uuid;

    server {
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        %%TLS%%

        location = /refused {
            return 503;
        }

        location = /moved {
            return 302 /durable;
        }

        location = /forgotten {
            return 200;
        }

        location = /durable {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}
EOF_CONF

my $server = Test::Bench::Server->nginx($t);
my $bench = Test::Bench->new(rounds => 1, seconds => 1);
my @opts = (connections => 4, tls => 1, spool => $t->spool());


# what spoils

like($bench->wrk($server, '/refused', @opts)->{spoiled},
     qr/^\d+ answers were not 2xx$/, 'what is refused spoils a row');
is($bench->wrk($server, '/moved', @opts)->{spoiled},
   'the first answer was 302', 'and so does a redirect');
like($bench->wrk($server, '/forgotten', @opts)->{spoiled},
     qr/^\d+ events were acknowledged, 0 are there$/,
     'and so does what is acknowledged and is not there');
like($bench->h2load($server, '/refused', connections => 1, streams => 2)
     ->{spoiled}, qr/^not 2xx/, 'the same over HTTP/2');


# what does not

my $r = $bench->wrk($server, '/durable', @opts);

is($r->{spoiled}, undef, 'a row');
ok($r->{value} > 0 && $r->{cpu} > 0 && $r->{commit} >= 1,
   'with a rate, processor time and events in a commit');

my ($lines, %ids) = 0;

for my $path (glob $t->spool() . '/moved/*.ndjson') {
    $ids{$_}++ for map { /"id":"(\w+)"/ } split /\n/, Test::Edge::slurp($path);
}

$lines += $_ for values %ids;

cmp_ok($lines, '>', 4, 'events are stored');
is(scalar keys %ids, $lines, 'each request had a body of its own');


# ratios: of each round, and of the rows that are good

my %figures = (first => [10, 20, 40], second => [4, 6, 30]);

$bench = Test::Bench->new(rounds => 3, rows => qr/: (?:second|third)/);
$bench->part('part');

for my $name (qw(first second)) {
    $bench->row($name, sub { return { value => shift @{ $figures{$name} },
                                      unit => '/s' } },
                $name eq 'second' ? (floor => 'first') : ());
}

$bench->row('third', sub { die "no\n" }, floor => 'first');
$bench->row('third and absent', sub { die "not measured: no npm\n" });
$bench->row('fourth', sub { die "not asked for\n" });
$bench->aim('ratio', 'least', '0.35', '0.5',
            sub { $bench->ratio('part', 'second', 'first') });
$bench->aim('nothing', 'least', '1', '',
            sub { $bench->ratio('part', 'third', 'first') });

{
    local *STDERR;
    open STDERR, '>', '/dev/null';
    $bench->run();
}

my $table = $bench->table();

like($table, qr{^\| first \| 20\.0 /s \|}m, 'a floor nobody has asked for');
like($table, qr{^\| second \| 6\.00 /s \| 0\.40 \| 0\.30, 0\.75 \|}m,
     'the median of the ratios, not the ratio of the medians');
like($table, qr{^\| third \| spoiled: no \|}m,
     'a row that is spoiled says why');
like($table, qr{^\| third and absent \| not measured: no npm \|}m,
     'a row that could not be measured');
unlike($table, qr/fourth/, 'a row that nobody has asked for');
is_deeply([$bench->spoiled()], [['part: third', 'no']], 'the spoiled ones');
is($bench->aims() =~ s/^.*\n.*\n//r,
   "| ratio | 0.40 | at least 0.35 | 0.5 | between |\n", 'the aims');


# the whole of it, with two rows

my $output = do {
    local @ENV{qw(ROWS ROUNDS SECONDS)} = ('plain, 8 connections: durable',
                                           1, 1);
    qx{$FindBin::Bin/bench/bench.pl 2>&1};
};

is($?, 0, 'the bench ends well') or diag($output);
like($output, qr{^\| return 200 \| [\d.,]+ /s \|  \|  \| [\d.]+ \|  \|  \|$}m,
     'its floor');
like($output, qr{^\| durable \| [\d.,]+ /s \| [\d.e-]+ \|  \| [\d.]+ \| }m,
     'and its row');

$t->no_alerts();

done_testing();
