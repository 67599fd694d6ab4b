
# Part of the bench: other ways to make a file durable, each beside the one that
# a commit uses. All are measured in turn, by one program: the disk is quick or
# slow for each of them.

use strict;
use warnings;

use File::Temp ();
use Test::Bench;

our ($bench, @where);

my $SIZE = 24_000;                      # bytes of 44 events
my $SINGLE = 'as it is';
my $PAIR = 'two spools, two threads';

my @ways = ('`RWF_DSYNC` for `fdatasync()`', '`O_TMPFILE` and `linkat()`',
            '`fallocate()` first', 'an empty file from a pool',
            'a file with blocks from a pool', 'io_uring',
            'appended to one file');

my $dir;
my %measured;


# microseconds; whichever is asked for first measures all of them

sub way {
    my ($name) = @_;

    %measured = measure() if !exists $measured{$name};

    my $us = delete $measured{$name} // die "ways does not know it\n";

    die "not measured: the filesystem has no such thing\n" if $us eq '-';

    return { value => $us, unit => 'us' };
}

sub measure {
    die "not measured: needs liburing-dev\n"
        if !-e '/usr/include/liburing.h';

    my $ways = $bench->compiled('ways', '-luring', '-pthread');
    my $seconds = 4 * $bench->seconds();

    $dir //= File::Temp->newdir('ways-XXXXXXXX', DIR => $where[1]);

    my $output = qx{$ways $dir $SIZE $seconds 2>&1};

    die $output if $? != 0;

    return map { reverse /^(\S+) (.*)/ } split /\n/, $output;
}


$bench->part('ways to make a file durable, 24 kB');
$bench->row($SINGLE, sub { way($SINGLE) });

for my $name (@ways) {
    $bench->row($name, sub { way($name) }, floor => $SINGLE);
}

$bench->row($PAIR, sub { way($PAIR) });

for my $name ('two spools, one thread', 'two spools, one `syncfs()`') {
    $bench->row($name, sub { way($name) }, floor => $PAIR);
}

1;
