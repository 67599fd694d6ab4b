#!/usr/bin/perl

# torture.pl [test...]: runs the fault suite for as long as it is told and
# prints its figures as tables in Markdown, also to build/torture/report.md;
# the output of each test is beside it.
#
#   LONG=1      1 is about 15 minutes, 10 the long form, for a release
#   JOBS=2      tests at once
#
# The rest of the environment is for the tests, so what runs is the installed
# nginx with build/debian/, or TEST_NGINX_BINARY. random_mutants is a test here,
# as those of the files *.t are; SEED chooses its mutants.

use warnings;
use strict;

use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use POSIX ();
use Time::HiRes qw(time);

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $out = "$top/build/torture";
my $long = $ENV{LONG} || 1;
my $jobs = $ENV{JOBS} || 2;

die "LONG and JOBS are numbers above 0\n" if grep { !/^\d+$/ || !$_ } $long,
                                                                      $jobs;

# the longest first, so that they end together

my %minutes = (soak => 6, fuzz => 5, forward_faults => 4, power_cut => 3,
               kill => 3, mutants => 2, random_mutants => 5);

my %env = (
    soak => { TEST_SOAK_SECONDS => 360 * $long },
    fuzz => { TEST_FUZZ_SECONDS => 60 * $long },
    differential => { TEST_DIFFERENTIAL => 20000 * $long },
    forward_faults => { TEST_KILLS => 100 * $long, TEST_UPGRADES => 6 * $long,
                        TEST_RELOAD_SECONDS => 60 * $long },
    power_cut => { TEST_CUTS => 60 * $long },
    kill => { TEST_KILLS => 1100 * $long },
    writeback => { TEST_WRITEBACKS => 20 * $long },
    delivery_calls => { TEST_EVERY => 1 },
    valgrind => { TEST_SCALE => 40 * $long },
    hostile => { TEST_SCALE => $long > 3 ? 3 : $long },
);

my @random = ("$top/t/torture/random_mutants.pl", 4 * $long, $ENV{SEED} || 1);

my @tests = map { basename($_, '.t', '.pl') }
                @ARGV ? @ARGV : map { glob "$top/t/torture/$_" }
                                    '*.t', 'random_mutants.pl';

@tests = sort { ($minutes{$b} || 0) <=> ($minutes{$a} || 0) || $a cmp $b }
         @tests;

system('mkdir', '-p', $out) == 0 or exit 1;


# run them ---------------------------------------------------------------------


my (%running, %took, @failed);
my $began = time();

local $| = 1;

for my $test (@tests) {
    wait_for_one() while keys %running >= $jobs;
    start($test);
}

wait_for_one() while %running;

sub start {
    my ($test) = @_;
    my $pid = fork() // die "fork() failed: $!\n";

    if ($pid == 0) {
        my %more = %{ $env{$test} || {} };

        @ENV{keys %more} = values %more;
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$out/$test.log" or die "$out/$test.log: $!\n";
        open STDERR, '>&', \*STDOUT;
        exec $test eq 'random_mutants'
             ? @random : ('prove', '-v', '--merge', "$top/t/torture/$test.t")
            or POSIX::_exit(127);
    }

    print "$test: started\n";
    $running{$pid} = { test => $test, began => time() };
}

sub wait_for_one {
    my $pid = wait();
    my $ended = delete $running{$pid} or return;
    my $test = $ended->{test};

    $took{$test} = time() - $ended->{began};
    push @failed, $test if $?;

    printf "%s: %s, %d s\n", $test, $? ? 'FAILED' : 'passed', $took{$test};
}


# what they said ---------------------------------------------------------------


my @figures = qw(trials sent acked delivered dead spooled lost duplicated
                 altered refused failed p99);
my (@rows, @mutants, @fuzzers, @skipped);
my $executions = 0;
my $random = '';

for my $test (sort @tests) {
    open my $log, '<', "$out/$test.log" or next;

    while (my $line = <$log>) {

        if ($line =~ /^# (.+?): (trials \d+, sent .*)$/) {
            my ($title, $text) = ($1, $2);
            my %is = map { split / / } $text =~ /(\w+ \d+)/g;

            push @rows, [$test, $title, map { $is{$_} } @figures];

        } elsif ($line =~ /^#\s+mutant: (.+?): (.*?), (.*?), "(.*)", \d+ s$/) {
            push @mutants, [$1, $2, $3, $4];

        } elsif ($test eq 'random_mutants' && $line =~ /^(?:\| |found: )/) {
            $random .= $line =~ s/^found/\nfound/r;

        } elsif ($line =~ /^\#\s+(\w+):\ (\d+)\ executions,\ (\d+)\ edges,
                           \ (\d+)\ inputs,\ (\d+)\ findings/x)
        {
            push @fuzzers, [$1, $2, $3, $4, $5];
            $executions += $2;

        } elsif ($line =~ /\.\. skipped: (.*)/) {
            push @skipped, "$test ($1)";
        }
    }
}

my $version = `nginx -v 2>&1` =~ m{(nginx/\S+)} ? $1 : 'nginx';
my $report = '';

$report .= table(['test', 'fault', @figures[0 .. $#figures - 1], 'p99, ms'],
                 @rows) if @rows;
$report .= table(['mutant', 'test', 'reported', 'check'], @mutants)
    if @mutants;
$report .= "$random\n" if $random ne '';
$report .= table(['fuzz target', 'executions', 'edges', 'inputs', 'findings'],
                 @fuzzers, ['all', $executions, '', '', '']) if @fuzzers;

$report .= sprintf "`make torture LONG=%d`, %s, Linux %s, %d min, tests at once:"
                   . " %d. %s\n", $long,
                   $ENV{TEST_NGINX_BINARY} ? 'an nginx of its own' : $version,
                   (POSIX::uname())[2], (time() - $began) / 60, $jobs,
                   @failed ? 'Failed: ' . join(', ', sort @failed) . '.'
                           : 'All passed.';
$report .= 'Skipped: ' . join(', ', @skipped) . ".\n" if @skipped;

open my $fh, '>', "$out/report.md" or die "$out/report.md: $!\n";
print $fh $report;
close $fh or die "$out/report.md: $!\n";

print "\n$report";

exit(@failed ? 1 : 0);

sub table {
    my ($head, @rows) = @_;

    return join "\n", (map { '| ' . join(' | ', @$_) . ' |' } $head,
                       [map { '---' } @$head], @rows), "\n";
}
