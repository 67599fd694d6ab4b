#!/usr/bin/perl

# The parsers on inputs that nobody has thought of, under the sanitizers.
#
# Short: the inputs in t/fuzz/corpus, which needs gcc only. Long: libFuzzer goes
# on from there, which needs clang, two targets at a time.
#
#   TEST_FUZZ_SECONDS   how long for each target; unset, the short form
#   TEST_FUZZ_RUNS      how many runs instead

use warnings;
use strict;

use File::Copy qw(copy);
use File::Temp qw(tempdir);
use POSIX ();
use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;


plan(skip_all => 'once is enough') if $ENV{TEST_NGINX_BINARY};

my $top = Test::Edge::top();
my $build = "$top/build/fuzz";

my @targets = qw(payload line timestamp text signature);

my %limit;
$limit{-max_total_time} = $ENV{TEST_FUZZ_SECONDS} if $ENV{TEST_FUZZ_SECONDS};
$limit{-runs} = $ENV{TEST_FUZZ_RUNS} if $ENV{TEST_FUZZ_RUNS};

my $mode = %limit ? 'fuzz' : 'replay';
my %running;

$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);
END { kill 'KILL', keys %running }

if ($mode eq 'fuzz' && !grep { -x "$_/clang" } split /:/, $ENV{PATH}) {
    fail('clang is there');
    diag('install the packages clang and libclang-rt-dev; '
         . '`t/build/deps.sh torture` does');
    done_testing();
    exit;
}

my $out = `$top/t/build/source.sh bookworm 2>&1`;
plan(skip_all => "there are no sources of nginx: $out") if $? != 0;

$out = `$top/t/build/fuzz.sh $mode 2>&1`;
is($?, 0, "the targets are built: $mode") or diag($out);

if ($?) {
    done_testing();
    exit;
}

# The report goes to the output. Leaks cannot be looked for under a debugger.

$ENV{ASAN_OPTIONS} = 'halt_on_error=1:allocator_may_return_null=1';
$ENV{UBSAN_OPTIONS} = 'print_stacktrace=1:halt_on_error=1';

if ($mode eq 'replay') {
    replay($_) for @targets;

} else {
    my $dir = tempdir('edge-fuzz-XXXXXXXX', TMPDIR => 1, CLEANUP => 1);

    for my $target (@targets) {
        report() if keys %running == 2;
        start($target, $dir);
    }

    report() while %running;
}

done_testing();


sub replay {
    my ($target) = @_;

    my @files = sort glob "$top/t/fuzz/corpus/$target/*";
    cmp_ok(@files, '>', 0, "$target: there are inputs");

    my $out = `timeout 60 $build/replay/$target @files 2>&1`;

    # All are counted: it has not ended early, and with success.

    ok($? == 0 && $out =~ /^${\scalar @files} inputs$/m,
       "$target: " . @files . ' inputs')
        or diag($out);
}


# libFuzzer adds what it finds to the directory it is given, so that one is a
# copy.

sub start {
    my ($target, $dir) = @_;

    mkdir "$dir/$target" or die "mkdir $dir/$target: $!";

    for my $file (glob "$top/t/fuzz/corpus/$target/*") {
        copy($file, "$dir/$target/") or die "copy $file: $!";
    }

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        open STDOUT, '>', "$dir/$target.log" or POSIX::_exit(126);
        open STDERR, '>&', \*STDOUT;

        exec("$build/fuzz/$target",
             (map { "$_=$limit{$_}" } sort keys %limit),
             "-dict=$top/t/fuzz/json.dict",
             "-artifact_prefix=$build/$target-", '-timeout=10',
             '-print_final_stats=1', "$dir/$target")
            or POSIX::_exit(127);
    }

    $running{$pid} = { name => $target, log => "$dir/$target.log",
                       corpus => "$dir/$target" };
}


# Waits for one of those that run, and says what it has done.

sub report {
    my $pid = wait();
    my $status = $?;
    my $target = delete $running{$pid} or die 'no child';

    open my $file, '<', $target->{log} or die "$target->{log}: $!";
    my $log = do { local $/; <$file> };

    my ($runs) = $log =~ /^stat::number_of_executed_units: (\d+)/m;
    my ($edges) = $log =~ /.*^#\d+\s.*\bcov: (\d+)/ms;
    my @inputs = glob "$target->{corpus}/*";
    my @artifacts = $log =~ /Test unit written to (\S+)/g;

    diag(sprintf '%s: %s executions, %s edges, %d inputs, %d findings',
         $target->{name}, $runs // 'unknown', $edges // 'unknown',
         scalar @inputs, scalar @artifacts);

    ok($status == 0 && !@artifacts && ($runs // 0) > 0,
       "$target->{name}: no findings")
        or diag("@artifacts\n", substr($log, -8000));
}
