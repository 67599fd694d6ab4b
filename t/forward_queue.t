#!/usr/bin/perl

# Events that have to leave the spool whatever has happened to their file, to
# their destination, or to the worker's start: each case has once crashed a
# worker, or has kept events that could have been delivered.

use strict;
use warnings;

use Fcntl qw(LOCK_EX);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Docs qw(block command);
use Test::Edge;
use Test::Fault;
use Test::Sink;

Test::Fault->need('root', 'loop', 'strace');

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2));
my $user = (getpwnam $t->worker_user())[2];
my $n = 0;


# in front of a line that is done already, which ends the file with it

{
    start(forward => '/application concurrency=1', retry => 'initial=1h max=1h');

    put('a.ndjson', join '', line(), line('404,200'), map { line() } 1 .. 7);
    ok($app->wait_for(9, 10), 'done lines: all but one are delivered');
    ok($t->wait_for(sub { noted('a.ndjson', 8) }, 10), 'done lines: noted');

    ok($t->reload(old_gone => 1), 'done lines: reload');
    ok($app->wait_for(10, 10), 'done lines: the one is delivered');
    is($t->post('/hook', numbered())->{status}, 200, 'done lines: another');
    emptied('done lines');
    is(scalar(() = $app->requests()), 11, 'done lines: each once more');
}


# lines of no use at the end of a file, while its sidecar cannot be written

SKIP: {
    skip 'no threads: the loop waits', 5 if !$t->has('--with-threads');

    start(forward => '/application concurrency=1', retry => 'initial=1s max=1s');

    my ($held) = line('404,hold');
    my ($slow) = line('slow:2500:200');
    my $unknown = line('200') =~ s/"v":1/"v":2/r;
    my ($worker) = $t->workers();

    mkdir $t->spool() . '/new/b.ndjson.done';
    put('a.ndjson', $held);
    ok($app->wait_for(1, 10), 'no use: the first one fails');
    put('b.ndjson', $slow . $unknown);
    ok($app->wait_for(sub { $app->held() == 1 }, 30, 'the other one'),
       'no use: and waits at its second attempt');

    my $strace = Test::Fault->strace(
        [map { m{(\d+)$} } glob "/proc/$worker/task/*"],
        { path => $t->spool() . '/new' }, 'openat:delay_enter=450000');

    # strace holds the thread that wants to write into the sidecar

    ok($t->wait_for(sub {
        grep { /^State:\tt/m }
            map { Test::Edge::slurp($_) } glob "/proc/$worker/task/*/status";
    }, 10, 'the work'), 'no use: the file is being settled');

    $app->release('404');
    ok($t->wait_log(qr/has lines of a version/, 20),
       'no use: the last line is taken');
    $strace->detach();

    is($t->post('/hook', numbered())->{status}, 200, 'no use: the worker lives');
    $t->quit();
    $t->forget_spool();
    rmdir $t->spool() . '/new/b.ndjson.done';
}


# a destination that is down, and whose event goes elsewhere the next time

{
    start(forward => '$to', retry => 'initial=1s max=1s');
    $app->stop();

    $t->post('/hook', numbered());
    ok($t->wait_log(qr{destination "/a" is down}), 'elsewhere: down');
    is($t->post('/hook', numbered())->{status}, 200, 'elsewhere: two wait')
        for 1 .. 2;
    $app->start();
    ok($app->wait_for(3, 10), 'elsewhere: all three are delivered');
    is(join(' ', sort map { $_->{uri} } $app->requests()), '/a /a /b',
       'elsewhere: one elsewhere');
    emptied('elsewhere');
}


# the worker could not open the spool, and no event comes

{
    backlog(3);
    start(wrapper => failing('openat,open:error=EMFILE:when=1..1',
                             $t->spool()));
    ok($app->wait_for(3, 10), 'not opened: delivered');
    like(scalar $t->error_log(), qr/open\(\) .* failed.*Too many open files/,
         'not opened: it had failed');
    emptied('not opened');
}


# no inode for the lock of the start

{
    my $disk = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'disk',
                                       mkfs => '-N 64');
    my $path = $t->path('disk/spool');

    mkdir $path;

    start(spool => $path);
    $app->stop();
    is($t->post('/hook', numbered())->{status}, 200, 'no inode: accepted');
    $t->quit();
    $disk->fill_inodes(0);
    $app->start();
    start(spool => $path);
    is($t->post('/hook', numbered())->{status}, 503, 'no inode: refused');
    ok($app->wait_for(1, 10), 'no inode: delivered');
    $disk->drain();
    ok($t->wait_for(sub { $t->post('/hook', numbered())->{status} == 200 }, 10),
       'inodes: accepted');
    ok($app->wait_for(2, 10), 'inodes: delivered');
    $t->quit();
}


# a bad sector: the others are delivered, and it when it can be read

{
    my @names = backlog(20);

    start(wrapper => unreadable('EIO', $names[0]));
    ok($app->wait_for(19, 10), 'a bad sector: the others are delivered');
    ok($t->wait_log(qr{crit.*/new/\Q$names[0]\E" is left alone, it cannot be}),
       'a bad sector: a line with its name');
    is($t->post('/hook', numbered())->{status}, 200, 'a bad sector: accepted');
    ok($app->wait_for(20, 10), 'a bad sector: and delivered');
    ok($t->wait_for(sub { $t->spool_files() == 1 }, 10),
       'a bad sector: it stays');
    $t->quit();
    start();
    ok($app->wait_for(1, 10), 'readable again: delivered');
    emptied('readable again');
}


# a few, and nothing else, are not the disk yet

{
    my @names = backlog(3);

    start(wrapper => unreadable('EIO', @names));

    for my $name (@names) {
        ok($t->wait_log(qr{crit.*/new/\Q$name\E" is left alone, it cannot be}),
           "bad sectors: $name");
    }

    ok($t->reload(old_gone => 1), 'bad sectors: reload');
    is($t->post('/hook', numbered())->{status}, 200, 'bad sectors: accepted');
    ok($app->wait_for(1, 10), 'bad sectors: and delivered');
    is(scalar(() = $t->grep_log(qr/until reload/)), 0, 'bad sectors: it goes on');
    $t->quit();
    start();
    ok($app->wait_for(3, 10), 'readable again: all are delivered');
    emptied('readable again');
}


# many, and nothing else, are

{
    my @names = backlog(65);

    start(wrapper => unreadable('EIO', @names));
    ok($t->wait_log(qr/crit.*read\(\).*nothing is forwarded until reload/),
       'bad sectors only: nothing is forwarded');
    $t->quit();
    start();
    ok($app->wait_for(65, 10), 'readable again: delivered');
    emptied('readable again');
}


# one that fails for another reason, each time

{
    my @names = backlog(3);

    start(wrapper => unreadable('EBADMSG', $names[0]));
    ok($t->wait_log(qr{crit.*/new/\Q$names[0]\E" is left alone, it cannot be}),
       'another error: a line with its name');
    is($t->post('/hook', numbered())->{status}, 200, 'another error: accepted');
    ok($app->wait_for(3, 10), 'another error: the others are delivered');
    $t->quit();
    start();
    ok($app->wait_for(1, 10), 'without it: delivered');
    emptied('without it');
}


# another file gets the name while nginx is stopped, or while it has no time to
# look: what was done of the one is not done of the other

for my $killed (0, 1) {
    my $name = $killed ? 'its name, killed' : 'its name';

    start(retry => 'initial=1h max=1h');

    my $other = join '', line(), line();

    put('a.ndjson', join '', line(), line('404'));
    ok($t->wait_for(sub { noted('a.ndjson', 1) }, 10), "$name: noted");
    $app->wait_for(2, 10);
    $killed ? $t->kill_all() : $t->quit();
    ok(noted('a.ndjson', 1), "$name: and still");
    put('a.ndjson', $other);
    start();
    ok($app->wait_for(2, 10), "$name: both lines of the other are delivered");
    emptied($name);
}

# the same content is the same file

{
    start(retry => 'initial=1h max=1h');

    my $text = join '', line(), line('404,200');

    put('a.ndjson', $text);
    ok($t->wait_for(sub { noted('a.ndjson', 1) }, 10), 'a copy: noted');
    $app->wait_for(2, 10);
    $t->quit();
    put('a.ndjson', $text);
    start();
    ok($app->wait_for(1, 10), 'a copy: delivered');
    emptied('a copy');
    is(scalar(() = $app->requests()), 1, 'a copy: the rest of it');
}


# what cannot be moved to corrupt/ is not sent again

{
    start(wrapper => failing('renameat2:error=EACCES',
                             $t->spool() . '/corrupt'));
    put('a.ndjson', join '', line(), "{}\n", line());
    ok($app->wait_for(2, 10), 'not moved: the good ones are delivered');
    ok($t->wait_for(sub { noted('a.ndjson', 2) }, 10), 'not moved: noted');
    ok($t->reload(old_gone => 1), 'not moved: reload');
    is($t->post('/hook', numbered())->{status}, 200, 'not moved: another');
    ok($app->wait_for(3, 10), 'not moved: delivered');
    $t->quit();
    is(scalar(() = $app->requests()), 3, 'not moved: each once');
    start();
    emptied('moved');
    is(scalar(() = $app->requests()), 0, 'moved: none again');
}


# one that is too large is neither read nor moved, and said so once

{
    start();

    my ($worker) = $t->workers();

    large('0.ndjson', 3 * 1024 ** 3, line());
    put('1.ndjson', line());
    ok($app->wait_for(1, 10), 'too large: the others are delivered');
    ok($t->wait_log(qr{crit.*/new/0.ndjson" is left alone, it has more than 107}),
       'too large: a line says so');
    is($t->post('/hook', numbered())->{status}, 200, 'too large: accepted');
    ok($app->wait_for(2, 10), 'too large: and delivered');
    ok($t->wait_for(sub { $t->spool_files() == 1 }, 10), 'too large: it stays');
    cmp_ok(peak($worker), '<', 500_000_000, 'too large: it is not read')
        if !$t->has('-fsanitize');

    # one that has no line at its end is damaged, for which it is not read

    large('2.ndjson', 900_000_000, line());
    ok($t->wait_for(sub { -e $t->spool() . '/corrupt/2.ndjson' }, 10),
       'large, and cut off: it is in corrupt/');
    cmp_ok(peak($worker), '<', 500_000_000, 'large, and cut off: nor is it read')
        if !$t->has('-fsanitize');
    is(scalar(() = $t->grep_log(qr/0\.ndjson" is left alone/)), 1,
       'too large: one line');
    $t->quit();
    $t->forget_spool();
    unlink glob $t->spool() . '/corrupt/*';
}


# what the document makes of it

{
    start();

    my $place = $t->path('split');
    my $split = block('docs/forwarding.md', 'split');
    my @lines = map { line() } 1 .. 5;
    my $length = 2 * length($lines[0]) + 20;

    mkdir $place;
    $t->write_file("$place/large.ndjson", join '', @lines);
    $split =~ s/512m/$length/ or die 'no size';
    is((command('sh', '-c', "cd $place && $split"))[0], 0, 'split: done');

    my @parts = glob "$place/part-*";

    is(scalar @parts, 3, 'split: parts');
    put(m{([^/]+)$}, Test::Edge::slurp($_)) for @parts;
    ok($app->wait_for(5, 10), 'split: all are delivered');
    emptied('split');
    is($t->spool_files('corrupt'), 0, 'split: nothing is damaged');
}


# nor is what is beside a file: a large one is, and holds, and one that is too
# large is not taken for none

{
    start(retry => 'initial=1h max=1h');

    put('a.ndjson', join '', line(), line('404,200'), line());
    ok($t->wait_for(sub { noted('a.ndjson', 2) }, 10), 'a large .done: noted');
    $app->wait_for(3, 10);
    $t->quit();

    my $path = $t->spool() . '/new/a.ndjson.done';

    open my $fh, '>>', $path or die "open() failed: $!";
    print $fh "\n" x 17_000_000;
    close $fh;
    start();
    ok($app->wait_for(1, 20), 'a large .done: what is left is delivered');
    emptied('a large .done');
    is(scalar(() = $app->requests()), 1, 'a large .done: and nothing else');

    start(retry => 'initial=1h max=1h');
    put('a.ndjson', join '', line(), line('404,200'), line());
    ok($t->wait_for(sub { noted('a.ndjson', 2) }, 10), 'too large: noted');
    $app->wait_for(3, 10);
    $t->quit();
    truncate $path, 1024 ** 3 + 1 or die "truncate() failed: $!";
    start();
    ok($t->wait_log(qr{crit.*/new/a.ndjson" is left alone, the "\.done" beside}),
       'a .done that is too large: a line');
    is($t->post('/hook', numbered())->{status}, 200, 'too large: another');
    ok($app->wait_for(1, 10), 'a .done that is too large: another is delivered');
    is(scalar(() = $app->requests()), 1, 'and nothing of that one again');
    $t->quit();
    truncate $path, 100 or die "truncate() failed: $!";
    start();
    emptied('a .done of a good size');
    is(scalar(() = $app->requests()), 1, 'a .done of a good size: the rest');
}


# no more is read than can be sent soon

SKIP: {
    skip 'a sanitizer keeps what is freed', 3 if $t->has('-fsanitize');

    start();
    put("0$_.ndjson", line('hold')) for 10 .. 25;
    ok($app->wait_for(sub { $app->held() == 16 }, 10, 'all in flight'),
       'many large ones: as many as fly');

    my ($worker) = $t->workers();
    my $before = peak($worker);
    my $line = line('200') =~ s/"payload":\{/'"payload":{"x":"' . 'x' x 7_000_000
                                             . '",'/er;

    put("1$_.ndjson", $line) for 10 .. 25;
    ok($t->wait_for(sub { peak($worker) > $before + 6_000_000 }, 10, 'some'),
       'many large ones: some are read');
    ok(!$t->wait_for(sub { peak($worker) > $before + 60_000_000 }, 2, 'many'),
       'many large ones: not all');
    $t->kill_all();
    $t->forget_spool();
}


# dead/ takes nothing, and the event is large: the memory is not used up

SKIP: {
    skip 'a sanitizer keeps what is freed', 4 if $t->has('-fsanitize');

    start(forward => '/a', retry => 'initial=1ms max=1ms permanent=404',
          wrapper => failing('renameat2:error=EACCES',
                             $t->spool() . '/dead'));

    my $large = event(data => { n => ++$n, mode => '404', x => 'x' x 500_000 });

    is($t->post('/hook', $large)->{status}, 200, 'no dead/: accepted');
    ok($app->wait_for(20, 30), 'no dead/: it is tried');

    my $before = resident();

    ok($app->wait_for(120, 60), 'no dead/: and tried');
    cmp_ok(resident() - $before, '<', 20_000_000, 'no dead/: memory');
    $t->quit();
    $t->forget_spool();
}


# a filesystem that cannot rename without replacing

{
    start();
    $t->post('/hook', numbered());
    ok($app->wait_for(1, 10), 'link: before');

    my ($worker) = $t->workers();
    my $strace = Test::Fault->strace(
        [map { m{(\d+)$} } glob "/proc/$worker/task/*"],
        'renameat2:error=EINVAL');

    # long before the spool is looked through again

    is($t->post('/hook', numbered())->{status}, 200, 'link: accepted');
    ok($app->wait_for(2, 5), 'link: delivered at once');
    $strace->detach();
    emptied('link');
}


# a name that leaves no room for that of a sidecar

{
    backlog(1);

    my ($file) = $t->spool_files();

    rename $file, $t->spool() . '/new/' . 'a' x 245 . '.ndjson'
        or die "rename() failed: $!";
    start();
    ok($app->wait_for(1, 10), 'a long name: delivered');
    emptied('a long name');
}


# somebody of the group has locked tmp/

SKIP: {
    skip 'needs setpriv and flock', 1
        if system('setpriv --version > /dev/null 2>&1') != 0
           || system('flock --version > /dev/null 2>&1') != 0;

    start(access => 'group:r');
    is($t->post('/hook', numbered())->{status}, 200, 'a lock of tmp/: before');
    ok($app->wait_for(1, 10), 'a lock of tmp/: delivered');

    my $gid = (getpwnam $t->worker_user())[3];
    my $pid = open(my $out, '-|', 'setpriv', '--reuid=65534', "--regid=$gid",
                   '--clear-groups', 'flock', '-s', $t->spool() . '/tmp', 'sh',
                   '-c', 'echo locked; exec sleep 600') // die "fork: $!";

    is(scalar(<$out>), "locked\n", 'a lock of tmp/: held');
    ok($t->reload(old_gone => 1), 'a lock of tmp/: reload');
    is($t->post('/hook', numbered())->{status}, 200, 'a lock of tmp/: accepted');
    ok($app->wait_for(2, 10), 'a lock of tmp/: delivered');

    kill 'KILL', $pid, map { Test::Edge::slurp($_) =~ /^(\d+)/ }
                       "/proc/$pid/task/$pid/children";
    close $out;
    emptied('a lock of tmp/');
}


# somebody does not let go of the lock of recovery

{
    my $path = $t->spool() . '/tmp/recover.lock';

    open my $lock, '>', $path or die "open() failed: $!";
    chown $user, -1, $path;
    link $path, $t->path('another-name') or die "link() failed: $!";
    flock $lock, LOCK_EX or die "flock() failed: $!";

    start();
    is($t->post('/hook', numbered())->{status}, 200, 'recover.lock: accepted');
    ok($app->wait_for(1, 10), 'recover.lock: delivered');
    close $lock;
    ok($t->reload(old_gone => 1), 'recover.lock: reload');
    ok($t->wait_for(sub { !-e $path }, 5),
       'recover.lock: taken, whatever else it is called');
    is($t->post('/hook', numbered())->{status}, 200, 'recover.lock: accepted');
    ok($app->wait_for(2, 10), 'recover.lock: delivered');
    emptied('recover.lock');
}


# a filesystem without locks is told of, and is not filled with them

{
    start(wrapper => failing('flock:error=ENOLCK'));

    my $before = () = glob $t->spool() . '/tmp/*.lock';

    ok($t->wait_for(sub {
        $t->post('/hook', numbered());
        $t->grep_log(qr/flock\(\) .* failed.*No locks available/) > 2;
    }, 10, 'three attempts'), 'no locks: three attempts');
    is(scalar(() = glob $t->spool() . '/tmp/*.lock'), $before,
       'no locks: none is left');
    $t->quit();
}

$t->no_alerts();
done_testing();


# Starts nginx, with an application that has seen nothing.
#     forward => '/application', retry => 'initial=1s', access => 'user:rw'
#     spool => path, wrapper => [...]        of ->run()

sub start {
    my (%arg) = @_;
    my $spool = $arg{spool} // '%%SPOOL%%';
    my $forward = $arg{forward} // '/application';
    my $retry = $arg{retry} // 'initial=1s';
    my $access = $arg{access} // 'user:rw';

    $app->forget();

    $t->conf(<<"EOF_CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    map \$http_x_webhook_attempt \$to {
        1        /a;
        default  /b;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool $spool min_free=0;
            taptalent_webhook_spool_access $access;
            taptalent_webhook_forward $forward;
            taptalent_webhook_retry $retry;
        }

        location = /store {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/store;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /a {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /b {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
EOF_CONF

    $t->mark_log() if -e $t->path('error.log');
    $t->run($arg{wrapper} ? (wrapper => $arg{wrapper}) : ());
}

sub emptied {
    my ($name) = @_;

    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'the spool'),
       "$name: the spool is empty");
    ok($t->quit(), "$name: stopped");
}

# an event that is like no other, and what the application answers

sub numbered {
    my ($mode) = @_;
    return event(data => { n => ++$n, mode => $mode // '200' });
}

# the line of one, as a spool has it

sub line {
    $t->post('/store', numbered(@_));

    my ($file) = glob $t->path('store/new/*.ndjson');
    my $line = Test::Edge::slurp($file);

    unlink $file;

    return $line;
}

# a wrapper with which a call fails, for these paths if there are some

sub failing {
    my ($inject, @paths) = @_;

    return ['strace', '-qq', '-f', '-o', '/dev/null',
            map({ ('-P', $_) } @paths), "--inject=$inject"];
}

# one with which these files of new/ cannot be read

sub unreadable {
    my ($error, @names) = @_;

    return failing("read:error=$error",
                   map { $t->spool() . "/new/$_" } @names);
}

# bytes of the worker

sub resident {
    my ($worker) = $t->workers();
    my ($rss) = Test::Edge::slurp("/proc/$worker/status") =~ /^VmRSS:\s+(\d+)/m;

    return $rss * 1024;
}

# the most that a process had

sub peak {
    my ($worker) = @_;
    my ($hwm) = Test::Edge::slurp("/proc/$worker/status") =~ /^VmHWM:\s+(\d+)/m;

    return $hwm * 1024;
}

# a sparse file of new/, there at once

sub large {
    my ($name, $size, $text) = @_;
    my $path = $t->write_file("large-$name", $text);

    truncate $path, $size or die "truncate() failed: $!";
    chown $user, -1, $path;
    rename $path, $t->spool() . "/new/$name" or die "rename() failed: $!";
}

# a file of new/, there at once

sub put {
    my ($name, $text) = @_;
    my $path = $t->write_file("put-$name", $text);

    chown $user, -1, $path;
    rename $path, $t->spool() . "/new/$name" or die "rename() failed: $!";
}

# files of one event each, in a spool that nobody forwards; their names

sub backlog {
    my ($count) = @_;

    start();
    put(sprintf('%06d.ndjson', $_), line())
        for map { $app->stop(); $_ } 1 .. $count;

    my @names = map { m{([^/]+)$} } $t->spool_files();

    $t->quit();
    $app->start();

    return @names;
}

# whether so many lines of the file are done

sub noted {
    my ($name, $lines) = @_;
    my $path = $t->spool() . "/new/$name.done";

    return -e $path && (() = Test::Edge::slurp($path) =~ /^\d{10}$/mg)
                        == $lines;
}
