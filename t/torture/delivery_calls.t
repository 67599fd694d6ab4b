#!/usr/bin/perl

# kill -9 at each system call of a delivery and of a start, and each error of
# each call: what is in the spool reaches the application or dead/, and at most
# what was in flight is sent again.
#
#   TEST_EVERY   also at the calls of a start that have not to do with the spool,
#                and all errors instead of three
#   TEST_ONLY    kill or errors

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Load;
use Test::Spool qw(list read_file);


Test::Fault->need('strace');

my $concurrency = 4;

my $t = Test::Edge->new();
my $threads = $t->has('--with-threads');
my $spool = $t->spool();
my $p = $t->prefix();

my $pool = $threads ? 'thread_pool one threads=1;' : '';
my $on = $threads ? 'threads=one' : '';

$t->conf(<<"EOF");
%%GLOBALS%%

$pool

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    access_log off;

    upstream app {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 4;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool $spool $on min_free=0;
            taptalent_webhook_forward /deliver concurrency=$concurrency;
            taptalent_webhook_retry initial=100ms max=300ms;
        }

        location = /deliver {
            internal;
            proxy_pass http://app/app/deliver;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }
}

EOF

# whose id ends in 4 is refused for good

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'poison:4');

$t->expect_alert(qr/worker process \d+ exited on signal 9/);
$t->run();

mkdir "$p/stage";
mkdir "$p/stage/new";
chown((stat "$spool/new")[4, 5], "$p/stage/new");

my ($trials, @stuck) = (0);


# What comes into new/ for one trial: five lines, one of them for dead/; a line;
# a line for dead/; and a file that is damaged. All at once, by a rename.

my %damaged;

sub prepare {
    my $trial = $trials++;
    my @names;

    for my $file ([1 .. 5], [6], [14], [20, 21]) {
        my @ids = map { "call-$trial-$_" } @$file;
        my $name = Test::Load::make_file("$p/stage", \@ids);

        if ($file->[0] == 20) {
            my $content = read_file("$p/stage/new/$name");

            $content =~ s/batch-uuid/batch-uuix/;
            $t->write_file("stage/new/$name", $content);
            $damaged{$name} = $content;

        } else {
            $o->note_sent($_), $o->note_acked($_) for @ids;
        }

        push @names, $name;
    }

    return @names;
}

sub give {
    rename "$p/stage/new/$_", "$spool/new/$_" or die "rename() failed: $!"
        for @_;
}

sub empty { return !list("$spool/new") }

# an strace that goes may take a signal with it, or leave a process stopped that
# was forked just then

sub worker {
    return $t->wait_for(sub {
        my ($pid) = $t->workers();

        return $pid if $pid;

        kill 'CONT', Test::Edge::children($t->pid());
        kill 'CHLD', $t->pid();

        return 0;
    }, 20, 'a worker') || die "no worker\n";
}

sub attach { return Test::Fault->strace([Test::Fault->committers(worker())],
                                        @_) }

# delivered, buried, moved away: all of it

sub ended {
    my ($what) = @_;

    worker();
    $o->wait_empty($spool, 20) or push @stuck, "$what: " . join ' ',
                                               list("$spool/new");

    for my $name (sort keys %damaged) {
        my $content = read_file("$spool/corrupt/$name");

        push @stuck, "$what: corrupt/$name"
            if !defined $content || $content ne $damaged{$name};
        unlink "$spool/corrupt/$name";
    }

    %damaged = ();

    push @stuck, "$what: corrupt/$_" for list("$spool/corrupt");
    unlink map { "$spool/corrupt/$_" } list("$spool/corrupt");
}

# events of a trial that the application has had more than once, or dead/ has

sub repeats {
    my ($trial) = @_;

    $o->collect($spool);

    my $n = 0;

    for my $id (map { "call-$trial-$_" } 1 .. 6, 14) {
        my $times = @{ $o->{delivered}{$id} || [] } + ($o->{dead}{$id} || 0);
        $n++ if $times > 1;
    }

    return $n;
}

give(prepare());
ended('before');


# kill -9 --------------------------------------------------------------------


# As it goes on, and at the start, where there is a scan: until there is no
# n-th call any more.

my (%points, $kills, $most);

$kills = $most = 0;

# what fstat() calls depends on glibc

my $stat = 'fstat,newfstatat';

my @calls = (qw(openat read write close unlinkat renameat2 renameat fdatasync
                fsync), $stat);

sub part { return !$ENV{TEST_ONLY} || $ENV{TEST_ONLY} eq $_[0] }

for my $call (part('kill') ? @calls : ()) {
    for my $when (1 .. 100) {
        my $what = "kill at $call() no. $when";
        my ($pid, $trial) = (worker(), $trials);
        note($what);
        my $trace = attach("$call:signal=KILL:when=$when");

        give(prepare());

        $t->wait_for(sub { !$t->alive($pid) || empty() }, 20, $what);

        my $alive = $t->alive($pid);

        $trace->detach();

        last_of($what, $trial), last if $alive;

        survived($what, $trial, $call);
    }
}

# a new worker is traced from its fork on, and dies until nobody traces it

my @start = qw(flock getdents64 unlinkat renameat2 fdatasync fsync);

# most of these are the dynamic linker's

push @start, qw(openat read), $stat if $ENV{TEST_EVERY};

for my $call (part('kill') ? @start : ()) {
    for my $when (1 .. 100) {
        my $what = "kill at $call() no. $when of a start";
        my ($pid, $trial) = (worker(), $trials);

        kill 'STOP', $pid;
        give(prepare());

        note($what);
        my $trace = Test::Fault->strace($t->pid(), { follow => 1 },
                                        "$call:signal=KILL:when=$when");

        kill 'KILL', $pid;

        my $reached = $t->wait_for(sub {
            my @dead = $trace->text() =~ /^(\d+) \+{3} killed by SIGKILL/mg;

            return grep({ $_ != $pid } @dead) ? 1 : empty() ? -1 : 0;
        }, 20, $what);

        $trace->detach();

        last_of($what, $trial), last if $reached < 0;

        survived($what, $trial, "start: $call");
    }
}

sub survived {
    my ($what, $trial, $call) = @_;

    ended($what);

    my $repeats = repeats($trial);

    $most = $repeats if $repeats > $most;
    $points{$call}++;
    $kills++;
}

# it went without being killed, and so without anything sent again

sub last_of {
    my ($what, $trial) = @_;

    ended($what);
    push @stuck, "$what was not, and yet something was sent again"
        if repeats($trial);
}

if (part('kill')) {
    my $at = join ', ', map { "$_ $points{$_}" } sort keys %points;

    diag("  $kills kills, at $at");
    diag("  sent again for one of them: at most $most, concurrency is "
         . $concurrency);

    is(join("\n", splice @stuck), '', 'all goes on after each kill');
    cmp_ok($most, '<=', $concurrency,
           'at most what was in flight is sent again');
    is(join(' ', grep { !$points{$_} }
                      qw(openat read write unlinkat renameat2 fdatasync fsync),
                      $stat, 'start: flock', 'start: getdents64'),
       '', 'every call was met');
}


# errors ---------------------------------------------------------------------


# The call; whose it is: 5 is the file with five lines, 5.done its sidecar, the
# others are directories; the how many-th; and what follows.
#
#   stops     EIO and its kind: nothing is forwarded until reload; after others
#             it goes on by itself
#   alone     EIO and its kind: the others are forwarded, and it when it is tried
#             again, by a reload for instance
#   ignored   nothing
#   orphan    a sidecar is left over, for the next scan
#
# The line for dead/ may get there twice if the very last call has failed.

my @cases = (
    [qw(openat     5          1 alone)],
    [$stat, qw(    new/5      1 alone)],
    [qw(read       new/5      1 alone)],
    [qw(close      new/5      1 ignored)],
    [qw(openat     5.done     1 alone)],
    [$stat, qw(    5          1 stops)],
    [qw(openat     5.done     2 stops)],
    [qw(write      new/5.done 1 stops)],
    [qw(close      new/5.done 1 ignored)],
    [qw(unlinkat   5          1 stops)],
    [qw(unlinkat   5.done     1 orphan)],
    [qw(openat     tmp        1 stops)],
    [qw(write      -          2 stops)],
    [qw(fdatasync  -          1 stops)],
    [qw(renameat2  dead       1 stops)],
    [qw(fsync      dead       1 stops twice)],
    [$stat, qw(    dead       1 stops twice)],
    [qw(renameat2  corrupt    1 stops)],
    [qw(renameat   corrupt    1 ignored)],
    [qw(fsync      corrupt    1 stops)],
    [$stat, qw(    corrupt    1 stops)],
);

my @errors = qw(EIO ENOSPC EMFILE);

push @errors, qw(EROFS EUCLEAN EDQUOT ENOMEM) if $ENV{TEST_EVERY};

my (@missed, @again, @wrong);
my $failures = 0;

sub fail_call {
    my ($error, $call, $where, $when, $then, $twice) = @_;

    my $what = "$call() \"$where\" no. $when: $error";
    my $trial = $trials;
    my $pid = worker();
    my @names = prepare();
    my $path = $where =~ s/5/$names[0]/r;

    note($what);

    $path = "$spool/$path" if $path =~ m{^(?:new/|tmp|dead|corrupt)};

    # the line for dead/ alone: the first write() tells the loop that the file
    # was read, the second is into tmp/

    my @first = $where eq '-' ? splice(@names, 2, 1) : splice(@names);

    $t->mark_log();

    my $trace = attach($where eq '-' ? () : { path => $path },
                       "$call:error=$error:when=$when");

    give(@first);
    $t->wait_for(sub { $trace->text() =~ /INJECTED/ }, 20, $what)
        or push @missed, $what;
    $trace->detach();

    push @missed, "$what: it was another" if $where eq '-' && $trace->text()
        !~ m{^\w+\(\d+<\Q$spool\E/tmp/.*INJECTED}m;

    give(@names);
    $failures++;

    my $broken = $error =~ /^(?:EIO|EROFS|EUCLEAN)$/;
    my $stops = $broken && $then eq 'stops';
    my $alone = $broken && $then eq 'alone';

    if ($stops || $alone) {
        $t->wait_log($stops ? qr/crit.*failed, nothing is forwarded until reload/
                            : qr/crit.*is left alone, it cannot be read/)
            or push @wrong, "$what: not said";
    }

    if ($stops || $alone || $then eq 'orphan') {
        $o->wait_until(sub { list("$spool/new") <= 2 }, 20) if $then eq 'orphan';

        if ($alone) {
            $o->wait_until(sub {
                return (grep { !/\.done$/ } list("$spool/new")) == 1;
            }, 20) or push @wrong, "$what: it holds up the others";
        }

        $t->reload(old_gone => 1);

    } elsif ($t->grep_log(qr/until reload/)) {
        push @wrong, "$what: needs a reload";
        $t->reload(old_gone => 1);

    } elsif (worker() != $pid) {
        push @wrong, "$what: another worker";
    }

    ended($what);

    my $repeats = repeats($trial);
    my $limit = $stops ? $concurrency : $twice ? 1 : 0;

    push @again, "$what: $repeats" if $repeats > $limit;
}

SKIP: {
    skip 'not asked for', 1 unless part('errors');
    skip 'what the loop itself calls would fail too', 1 unless $threads;

    for my $case (@cases) {
        fail_call($_, @$case) for @errors;
    }

    is(join("\n", @missed), '', 'every call was made to fail');
    is(join("\n", @stuck), '', 'all goes on after each failure');
    is(join("\n", @wrong), '', 'with a reload where that is so, or without');
    is(join("\n", @again), '', 'nothing is sent again that was noted');
}


# the sum --------------------------------------------------------------------


ok($t->quit(), 'stopped');

$o->collect($spool);
$o->report('kill -9 and errors at each call of a delivery', $kills + $failures);

is($o->lost(), 0, 'no acknowledged event is lost');
is($o->altered(), 0, 'none is altered');
is_deeply([grep { !$o->{dead}{$_} } grep { /4$/ } keys %{ $o->{acked} }], [],
          'what is refused for good is in dead/');
is_deeply([grep { !/4$/ } keys %{ $o->{dead} }], [], 'and nothing else');

$t->no_alerts();

done_testing();
