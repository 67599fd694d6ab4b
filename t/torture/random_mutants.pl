#!/usr/bin/perl

# random_mutants.pl [N [SEED]]: N mutants of the sources, 40 unless told, each
# with one small fault at a place that chance has chosen. The tests that concern
# the source run until one of them finds it; at the end stand a table and how
# many of them were found. The same SEED chooses the same ones.
#
#   --list    prints what it would choose from, and how much of each kind
#
# mutants.t has the faults that somebody has thought of, this one the others.
# A mutant that survives is no error by itself: it may do the same by another
# way. It is a place to look at.

use warnings;
use strict;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Mutant;
use Test::Spool qw(read_file);


# The folders of src/ and the tests that concern their sources, the quickest of
# them first: a path below t/, without .t.

my %concern = (
    commit => [qw(spool receive_events receive_abort spool_recovery spool_limits
                  status_counters torture/commit_errors torture/kill)],
    spool => [qw(spool spool_recovery conf_live forward_backlog forward_queue
                 spool_quarantine forward_handover torture/open_errors
                 torture/measure_errors torture/commit_errors)],
    forward => [qw(forward_confirm forward forward_handover forward_delivery
                   forward_answers forward_timeout forward_queue forward_health
                   forward_only forward_complete forward_backlog
                   torture/delivery_calls)],
    event => [qw(receive_json receive_payload receive_signature receive_key
                 receive_company spool receive_verdicts forward
                 torture/differential)],
    zone => [qw(status_counters receive_dedup status forward_health)],
);

my %env = (
    forward_backlog => { TEST_BACKLOG => 200 },
    'torture/kill' => { TEST_KILLS => 6 },
    'torture/differential' => { TEST_DIFFERENTIAL => 2000 },
);


my $list = @ARGV && $ARGV[0] eq '--list' && shift;
my ($n, $seed) = (shift // 40, shift // 1);

die "random_mutants.pl [--list] [N [SEED]]\n"
    if grep { !/^\d+$/ } $n, $seed;

local $| = 1;

my $top = Test::Edge->top();
my @places = map { places($_) } map { glob "$top/src/$_/*.c" } sort keys %concern;

if ($list) {
    my %kinds;

    printf "%s:%d: %s: %s -> %s\n", @$_{qw(path line kind before after)}
        for @places;

    $kinds{$_->{kind}}++ for @places;
    printf "%d places: %s\n", scalar @places,
           join ', ', map { "$kinds{$_} $_" } sort keys %kinds;
    exit 0;
}

my $copy = Test::Mutant->new('random_mutants');
my $module = $copy->build() // die $copy->said(),
                                   "the sources do not compile\n";
my $original = "$module.original";
my (%code, %seconds, @rows);
my $found = 0;

system('cp', $module, $original) == 0 or die "cp $module failed\n";
$copy->tolerate();
$copy->build() // die $copy->said(), "without -Werror they do not compile\n";

for my $place (shuffled($seed, @places)) {
    last if @rows == $n;

    my $test = mutant($place) // next;

    $found++ if $test ne 'SURVIVED';
    push @rows, ["$place->{path}:$place->{line}",
                 @$place{qw(kind before after)}, $test];

    print "$rows[-1][0]: $test\n";
}

print "\n", row('place', 'kind', 'before', 'after', 'found by'),
      row(('---') x 5), map({ row(@$_) } @rows),
      sprintf "\nfound: %d of %d mutants, SEED=%d\n", $found, scalar @rows,
              $seed;


# The test that finds it, and its check; undef if it is no mutant, since it does
# not compile, or is compiled to the same.

sub mutant {
    my ($place) = @_;

    my $path = $place->{path};
    my ($folder) = $path =~ m{^src/(\w+)/};
    my $text = read_file("$top/$path");
    my $by = 'SURVIVED';

    $code{$path} //= $copy->code($path);

    substr $text, $place->{from}, $place->{length}, $place->{to};
    $copy->change($path, $text);

    my $mutant = $copy->build();

    if (defined $mutant && $copy->code($path) ne $code{$path}) {
        for my $test (@{$concern{$folder}}) {
            my $least = as_it_is($test) // next;
            my ($status, $seconds, $said) =
                $copy->run($mutant, $test, env => $env{$test},
                           seconds => int(30 + 4 * $least));

            next if $status == 0;

            my ($check) = $said =~ /^not ok \d+ - (.*)$/m;

            $by = "$test.t: " . ($check // ($status == 124 ? 'it does not end'
                                                           : 'it stops'));
            last;
        }

    } else {
        $by = undef;
    }

    $copy->restore($path);

    return $by;
}


# How long a test takes without a mutant. One that fails then finds nothing, and
# is left out.

sub as_it_is {
    my ($test) = @_;

    if (!exists $seconds{$test}) {
        my ($status, $seconds, $said) = $copy->run($original, $test,
                                                   env => $env{$test});

        $seconds{$test} = $status == 0 ? $seconds : undef;
        print "$test.t: fails without a mutant, left out\n" if $status != 0;
    }

    return $seconds{$test};
}


# The places of a source: what stands there and what is to.

sub places {
    my ($path) = @_;

    my $text = read_file($path);
    my $code = code_alone($text);
    my $name = $path =~ s{^\Q$top\E/}{}r;
    my @places;

    my $add = sub {
        my ($kind, $from, $length, $to) = @_;

        my $mutant = $text;
        my $line = substr($text, 0, $from) =~ tr/\n//;

        substr $mutant, $from, $length, $to;

        my ($before, $after) = map { (split /\n/, $_)[$line] =~ s/^\s+//r }
                                   $text, $mutant;

        push @places, { path => $name, line => $line + 1, kind => $kind,
                        from => $from, length => $length, to => $to,
                        before => $before, after => $after };
    };

    # conditions; a comparison alone is negated further down

    while ($code =~ /\b(?:if|while) (\((?:[^()]++|(?1))*\))\s+\{/g) {
        my ($from, $length) = ($-[1], length $1);
        my $condition = substr $text, $from, $length;

        $add->('negated', $from, $length, "(!$condition)")
            if $condition !~ / [!=]= / || $condition =~ / (?:&&|\|\|) /;
    }

    while ($code =~ / (&&|\|\|) /g) {
        $add->('and, or', $-[1], 2, $1 eq '&&' ? '||' : '&&');
    }

    my %swapped = ('==' => '!=', '!=' => '==');

    while ($code =~ / (==|!=) /g) {
        $add->('negated', $-[1], 2, $swapped{$1});
    }

    # bounds

    my %next = ('<' => '<=', '<=' => '<', '>' => '>=', '>=' => '>');

    while ($code =~ / (<=?|>=?) /g) {
        $add->('off by one', $-[1], $+[1] - $-[1], $next{$1});
    }

    while ($code =~ / [-+] (1)\b(?!\.)/g) {
        $add->('off by one', $-[1], 1, '0');
    }

    # results

    my %other = (NGX_OK => 'NGX_ERROR', NGX_ERROR => 'NGX_OK',
                 NGX_DECLINED => 'NGX_OK', NGX_AGAIN => 'NGX_OK',
                 NGX_DONE => 'NGX_OK', NGX_BUSY => 'NGX_OK', 0 => '1',
                 1 => '0');

    while ($code =~ /\breturn (NGX_\w+|[01]);/g) {
        $add->('result', $-[1], $+[1] - $-[1], $other{$1})
            if defined $other{$1};
    }

    # calls and assignments; no line of the log

    while ($code =~ /[;{}:]\s*\n[ ]{4,}\K
                     (?!ngx_log_|for\b|if\b|while\b|return\b|switch\b)
                     (?: (?:\(void\)[ ])? \w+\( | [\w>.\[\]()*+-]+[ ][-+|&]?=[ ]
                       | [\w>.\[\]()*-]+(?:\+\+|--); )
                     /xg)
    {
        my $from = $-[0];
        my ($statement) = substr($code, $from) =~ /^([^;{}]*;)/ or next;

        $add->('removed', $from, length $statement,
               substr($text, $from, length $statement)
                   =~ s/[^\n]//gr =~ s/^/;/r);
        pos($code) = $from + 1;
    }

    return sort { $a->{from} <=> $b->{from} || $a->{kind} cmp $b->{kind} }
                @places;
}


# Blanks for what is no code: comments, strings, lines of the preprocessor.

sub code_alone {
    my ($text) = @_;

    $text =~ s{("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|/\*.*?\*/
               |^\#(?:[^\\\n]|\\\n|\\.)*)}{
        $1 =~ s/[^\n]/ /gr
    }gsemx;

    return $text;
}


# Perl's own numbers by chance are the same on each machine, for the same seed.

sub shuffled {
    my ($seed, @all) = @_;

    srand $seed;

    for my $i (reverse 1 .. $#all) {
        my $j = int rand($i + 1);
        @all[$i, $j] = @all[$j, $i];
    }

    return @all;
}


sub row { return '| ' . join(' | ', map { s/\|/\\|/gr } @_) . " |\n" }
