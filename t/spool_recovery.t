#!/usr/bin/perl

# What a worker that died has left in tmp/, and what a start may remove of it:
# its own kind of names alone, and only of starts that are dead.

use warnings;
use strict;

use Fcntl qw(:flock);
use POSIX ();
use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Edge;
use Test::Spool qw(list);


my $t = Test::Edge->new(workers => 2);

$t->conf(<<'EOF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}

EOF

my $tmp = $t->spool() . '/tmp';
my $new = $t->spool() . '/new';
my $worker = $t->worker_user();
my $lock = qr/^[0-9a-f]{16}\.lock$/;

sub put {
    my ($name, $user) = @_;

    open my $fh, '>', "$tmp/$name" or die "open() \"$tmp/$name\" failed: $!";
    print $fh 'half a li';
    close $fh;

    $user = $worker if @_ < 2;
    chown +(getpwnam $user)[2], -1, "$tmp/$name" if defined $user;

    return $name;
}

sub name {
    my ($start, $n) = @_;

    return sprintf '20260101T000000.%03dZ-%s-%010d-1-0123abcd.ndjson', $n,
                   $start, $n;
}


# an orderly life --------------------------------------------------------------


$t->run();
is($t->post('/hook', event())->{status}, 200, 'accepted');

my @locks = list($tmp);

is(scalar(grep { /$lock/ } @locks), 2, 'a lock for each worker');
is(scalar @locks, 2, 'and nothing else');

ok($t->reload(old_gone => 1), 'reload');

is(scalar(grep { /$lock/ } list($tmp)), 2, 'two locks after a reload');
is(scalar(list($tmp)), 2, 'and nothing else');

my %old = map { $_ => 1 } @locks;

is(scalar(grep { $old{$_} } list($tmp)), 0, 'but others');

ok($t->quit(), 'graceful stop');
is_deeply([list($tmp)], [], 'no lock after a graceful stop');

$t->run();
ok($t->stop(), 'fast stop');
is_deeply([list($tmp)], [], 'no lock after a fast stop');


# a sudden death ---------------------------------------------------------------


$t->run();
@locks = list($tmp);
$t->kill_all('KILL');

is_deeply([list($tmp)], \@locks, 'kill -9 leaves the locks');

my @starts = map { substr $_, 0, 16 } @locks;

put(name($starts[0], $_)) for 1 .. 3;
put(name($starts[1], 1));

# a start that has not even its lock any more

put(name('ffffffffffffffff', 1));

# one that lives: another process holds its lock

my $live = '00112233445566aa';

put("$live.lock");
put(name($live, $_)) for 1 .. 2;

open my $held, '+<', "$tmp/$live.lock" or die;
flock $held, LOCK_EX|LOCK_NB or die;

# what is not ours

my @others = ('notes.txt', '.hidden', 'x.ndjson', 'backup.lock',
              '00112233445566AA.lock', '00112233445566ab.lock.bak',
              name($starts[0], 4) . '.bak', '.' . name($starts[0], 5),
              name(uc 'ffffffffffffffff', 6), name('short', 7));

put($_) for @others;

# of our kind, but no files

mkdir "$tmp/" . name($starts[0], 8);
symlink '/etc/passwd', "$tmp/" . name($starts[0], 9);

my $delivered = name($starts[0], 10);

open my $fh, '>', "$new/$delivered" or die;
print $fh "damaged\n";
close $fh;

my @new = list($new);

$t->run();

my %left = map { $_ => 1 } list($tmp);

is(scalar(grep { $left{$_} } @locks), 0, 'locks of the dead are removed');
is_deeply([grep { /\Q$starts[0]\E-\d{10}-1-0123abcd\.ndjson$/ && !/^\./
                  && -f "$tmp/$_" && !-l "$tmp/$_" } keys %left], [],
          'files of the dead are removed');
ok(!$left{name($starts[1], 1)}, 'those of another dead start, too');
ok(!$left{name('ffffffffffffffff', 1)}, 'and without a lock');

ok($left{"$live.lock"}, 'the lock of the living stays');
ok($left{name($live, $_)}, 'so does its file') for 1 .. 2;
ok($left{$_}, "not ours, stays: $_") for @others;

ok(-e '/etc/passwd', 'the target of a link is left alone');
is(scalar(grep { /$lock/ } keys %left), 3, 'two new locks and the living');
is_deeply([list($new)], \@new, 'nothing in new/ is touched');

is($t->post('/hook', event())->{status}, 200, 'accepted');

like($t->error_log(), qr/\[notice\].*removed .* unfinished/,
     'the log says that something was removed');


# with the lock free the living is dead, for a worker that comes later

close $held;

my ($pid) = $t->workers();

kill 'KILL', $pid;

ok($t->wait_for(sub { !-e "$tmp/$live.lock" && !-e "$tmp/" . name($live, 1)
                      && !-e "$tmp/" . name($live, 2) }, 10,
                'the next worker to recover'),
   'removed once its lock is free');

ok($t->wait_for(sub { $t->workers() == 2 }, 10, 'two workers'), 'two workers');

$t->expect_alert(qr/worker process \d+ exited on signal 9/);


# a worker that finds the locks of one that starts at the same time: both
# must keep theirs, whatever the order

for (1 .. 10) {
    $t->reload(old_gone => 1) or last;
}

my @now = grep { /$lock/ } list($tmp);

is(scalar @now, 2, 'two locks after ten reloads');

is(scalar(grep { !is_locked("$tmp/$_") } @now), 0, 'and both are held');


# Another worker that recovers has the lock of a dead one for a moment, which
# must not be taken for the living: here it is a process of ours.

$t->quit();

my $dead = '00112233445566bb';

put("$dead.lock");
put(name($dead, 1));
put('recover.lock');

pipe my $ready, my $taken or die "pipe: $!";

my $other = fork() // die "fork: $!";

if ($other == 0) {
    open my $lock, '+<', "$tmp/recover.lock" or POSIX::_exit(1);
    open my $file, '+<', "$tmp/$dead.lock" or POSIX::_exit(1);

    flock $_, LOCK_EX or POSIX::_exit(1) for $lock, $file;
    syswrite $taken, '.';

    # until a worker has the one that is of recovery open as well, and waits

    my $waits = $t->wait_for(sub {
        grep { !m{^/proc/$$/} && (readlink // '') eq "$tmp/recover.lock" }
            glob '/proc/[0-9]*/fd/*'
    }, 5);

    POSIX::_exit($waits ? 0 : 2);
}

sysread $ready, my $byte, 1;
$t->run();
waitpid $other, 0;

is($?, 0, 'a worker waits for the one that recovers');
ok(!-e "$tmp/" . name($dead, 1), 'and removes what that has left');

sub is_locked {
    my ($path) = @_;

    open my $fh, '+<', $path or return 1;
    return !flock $fh, LOCK_EX|LOCK_NB;
}

$t->no_alerts();

done_testing();
