#!/usr/bin/perl

# The tests do not depend on the day. Some that write times, compare times or
# run what a document tells are run with the clock ahead, by a library that is
# loaded before the others. A year from now nobody has to mend them.
#     TEST_CALENDAR   files to run on each of the days, instead of these

use warnings;
use strict;

use POSIX qw(strftime);
use Test::More;
use Time::Local qw(timegm);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;


plan(skip_all => 'about the tests, not the module') if $ENV{TEST_NGINX_BINARY};

Test::Fault->need('gcc');

my $t = Test::Edge->new();
my $top = $t->top();
my $now = time();
my $year = (gmtime $now)[5] + 1900;
my $leap = $year + 1;

$leap++ while $leap % 4 || $leap % 100 == 0;

# the next turn of a year, unless it is so near that the tests are there already

my $turn = timegm(50, 59, 23, 31, 11, $year);

$turn = timegm(50, 59, 23, 31, 11, $year + 1) if $turn < $now;

my @days = (
    ['a month', $now + 31 * 86400, 'forward_backlog'],
    ['a year', $now + 366 * 86400, 'forward'],
    ['ten years', $now + 3653 * 86400, 'spool forward_delivery'],
    ['29 February', timegm(0, 0, 12, 29, 1, $leap),
     'receive_tolerance receive_enforce docs_trouble'],
    ['the turn of the year', $turn, 'forward_delivery receive_verdicts'],
);

$ENV{TEST_BACKLOG} = 500;

my (@waiting, %running);

for my $day (@days) {
    my ($name, $time, $usual) = @$day;
    my @files = split ' ', $ENV{TEST_CALENDAR} // join ' ', map { "t/$_.t" }
                                                     split ' ', $usual;

    push @waiting, map { { file => $_, time => $time,
                           name => join ' ', "$name,", stamp($time), $_ } }
                   @files;
}

# two at once: most of the time they wait

while (@waiting || %running) {
    while (@waiting && keys %running < 2) {
        my $job = shift @waiting;
        $running{ start($job) } = $job;
    }

    my $pid = wait();
    my $status = $?;
    my $job = delete $running{$pid} or next;

    is($status, 0, $job->{name}) or diag($t->read_file("$pid/out"));
}

done_testing();


sub stamp { return strftime('%Y-%m-%d', gmtime $_[0]) }

# runs it with the clock at that time

sub start {
    my ($job) = @_;

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        mkdir $t->path($$);
        chdir $top or POSIX::_exit(127);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $t->path("$$/out");
        open STDERR, '>&', \*STDOUT;
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);

        my $clock = Test::Fault->clock($t->path($$));

        $clock->set($job->{time} - time());
        %ENV = (%ENV, $clock->env(files => 1));
        exec $^X, $job->{file} or POSIX::_exit(127);
    }

    return $pid;
}
