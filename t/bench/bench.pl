#!/usr/bin/perl

# How fast the module acknowledges and forwards, what it costs, and what nginx
# alone, the disk alone and other receivers do on the same machine in the same
# minutes. Prints Markdown: the machine, the table, and what was aimed at.
#
#     make bench                       all of it
#     make bench ROWS='TLS|latency'    the rows whose names match, and their
#                                      floors
#     ROUNDS=5 SECONDS=1               of each row
#     BENCH_DIR=/var/tmp               the filesystem to measure
#     WAITING=100000 EACH=100          events that wait, and events in a file,
#                                      where the memory is measured
#
# How a row is measured: t/lib/Test/Bench.pm.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Test::Bench;
use Test::Edge;

STDERR->autoflush(1);

# so that nothing is left running
$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);

Test::More->builder()->output(\*STDERR);

for my $command (qw(wrk h2load gcc)) {
    system("command -v $command > /dev/null") == 0
        or die "$command is missing, run t/build/deps.sh bench\n";
}

our $bench = Test::Bench->new(rounds => $ENV{ROUNDS} || 5,
                              seconds => $ENV{SECONDS} || 1,
                              rows => qr/${\($ENV{ROWS} || '.')}/);
our @where = (parent => $ENV{BENCH_DIR} // '/var/tmp');
our @floor;

# the parts of the table, in its order

require "$FindBin::Bin/$_.pl" for qw(ack peers forward ways cost);

$bench->run();

print machine(), "\n", $bench->table(), "\n", $bench->aims();

my @spoiled = $bench->spoiled();

print STDERR "spoiled: $_->[0]: $_->[1]\n" for @spoiled;

exit(@spoiled ? 1 : 0);


sub machine {
    my ($model) = Test::Edge::slurp('/proc/cpuinfo') =~ /^model name\s*: (.*)/m;
    my ($debian) = Test::Edge::slurp('/etc/os-release')
                   =~ /^PRETTY_NAME="(.*)"/m;
    my ($kb) = Test::Edge::slurp('/proc/meminfo') =~ /^MemTotal:\s+(\d+)/m;
    my $cores = Test::Edge->processors();
    my $fs = qx{findmnt -n -o FSTYPE,OPTIONS -T $where[1]} =~ s/\s+/ /gr;
    my $kernel = (POSIX::uname())[2];
    my ($nginx) = qx{@{[Test::Edge::binary()]} -v 2>&1} =~ m{(nginx/\S+)};
    my $commit = qx{git -C $FindBin::Bin rev-parse --short HEAD 2>/dev/null};

    chomp $commit;

    return sprintf "%s cores of %s, %.0f GB, %s, Linux %s, %s, %s; commit %s;"
                   . " %d rounds of %s s\n", $cores, $model // '?', $kb / 2**20,
                   $debian, $kernel, $nginx, $fs =~ s/ $//r, $commit || '?',
                   $bench->{rounds}, $bench->{seconds};
}
