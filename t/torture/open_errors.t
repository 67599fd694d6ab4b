#!/usr/bin/perl

# Each call by which a spool is made and opened fails once: nginx does not start
# and says why, or a worker refuses events until it can, and then takes them.
# And those calls of a commit whose failure is followed by another.

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge qw(event received_at);
use Test::Fault;
use Test::Sink;
use Test::Spool qw(list);


Test::Fault->need('strace');

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2), default => '422');
my $p = $t->prefix();
my $spool = $t->spool();

$t->conf(<<'EOC');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    access_log off;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%% min_free=0;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
EOC

my $n = 0;

sub post { return $t->post('/hook', event(n => ++$n)) }

sub state {
    return $t->status_of('/status')->{spools}[0]{state} // '';
}

sub files { return scalar(my @files = $t->spool_files()) }

# a wrapper with which these calls for these paths fail

sub failing {
    my ($paths, @inject) = @_;

    return (wrapper => ['strace', '-qq', '-f', '-o', "$p/strace",
                        map({ ('-P', $_) } @$paths),
                        map { "--inject=$_" } @inject]);
}

# whether the fault has been met

sub met {
    my ($name) = @_;

    like($t->read_file('strace'), qr/INJECTED/, "$name: it has failed");
}


# the master -------------------------------------------------------------------


$t->expect_emerg(qr/\[emerg\]/);

for my $case (
    ['the spool cannot be made', [$spool], 'mkdir:error=EACCES',
     qr/the spool "$spool" in .* cannot be made, make the directory above it/],
    ['its mode cannot be set', [$spool], 'chmod:error=EPERM',
     qr/chmod\(\) "$spool" failed/],
    ['the one above cannot be opened', ["$p/."], 'openat:error=EMFILE',
     qr/fsync\(\) of the directory above "$spool" failed/],
    ['the one above cannot be made durable', [$p], 'fsync:error=EIO',
     qr/fsync\(\) of the directory above "$spool" failed/],
    ['it cannot be seen', [$spool], 'newfstatat:error=EIO',
     qr/lstat\(\) "$spool" failed/],
    ['nor what is in it', ["$spool/tmp"], 'newfstatat:error=EIO',
     qr/lstat\(\) "$spool\/tmp" failed/],
) {
    my ($name, $paths, $inject, $like) = @$case;

    rmdir $spool;

    my $started = eval { $t->run(failing($paths, $inject)); 1 };

    ok(!$started, "$name: nginx does not start");
    like($@, $like, "$name: and says why");
    met($name);
    $t->stop() if $started;
}


# the worker -------------------------------------------------------------------


# The calls of a worker are counted by themselves. Without some of them the
# spool is of no use, and these are tried again once a second.

my $conf = $t->read_file('nginx.conf');

$t->write_file('nginx.conf', $conf =~ s{(?=location /app)}{location /status {
            taptalent_webhook_status;
        }

        }r);

for my $case (
    ['the spool is not durable', [$spool], 'fsync:error=ENOSPC:when=1',
     qr/\[crit\].* fsync\(\) .*failed/],
    ['dead/ cannot be opened', ["$spool/dead"], 'openat:error=EMFILE:when=1',
     qr/\[crit\].* open\(\) .*dead.* failed/],
    ['the name of the lock is taken', ["$spool/tmp"],
     'openat:error=EEXIST:when=2'],
    ['the lock cannot be had', [], 'flock:error=ENOLCK:when=1',
     qr/\[crit\].* flock\(\) .*failed/],
    ['tmp/ cannot be listed', ["$spool/tmp"], 'openat:error=EMFILE:when=3',
     qr/\[crit\].* opendir\(\) "$spool\/tmp" failed/],
    ['tmp/ is no directory', ["$spool/tmp"], 'fcntl:error=EBADF',
     qr/\[crit\].* opendir\(\) "$spool\/tmp" failed/],
    ['the lock of recovery cannot be had', ["$spool/tmp/recover.lock"],
     'flock:error=ENOLCK'],
) {
    my ($name, $paths, $inject, $like) = @$case;

    # the first start makes the spool, and it is the worker that is meant

    if (!-d "$spool/tmp") {
        $t->run();
        $t->stop();
    }

    $t->mark_log();
    $t->run(failing($paths, $inject));
    ok($t->wait_for(sub { post()->{status} == 200 }, 5), "$name: accepted");
    is(state(), 'ok', "$name: the status");

    if ($like) {
        ok($t->wait_log($like), "$name: logged");

        # without the recovery of what others have left, events are taken

        ok($t->wait_log(qr/\[notice\].* "$spool" takes events again/),
           "$name: and that it is over") if $name !~ /^tmp/;
    }

    ok($t->stop(), "$name: stopped");
    met($name);
    is_deeply([grep { $_ ne 'recover.lock' } list("$spool/tmp")], [],
              "$name: nothing is left in tmp/");
    $t->forget_spool();
}


# What the disk could not do once it must not be believed to do: a second try
# would succeed.

{
    my $name = 'the disk fails';

    $t->run();
    $t->stop();
    $t->mark_log();
    $t->run(failing([$spool], 'fsync:error=EIO:when=1'));
    ok($t->wait_for(sub { post()->{status} == 503 }, 5), "$name: refused");
    ok($t->wait_log(qr/\[crit\].* fsync\(\) .*failed, .* until reload/),
       "$name: logged");

    my $until = time() + 3;
    my %got;

    $got{post()->{status}}++ while time() < $until;
    is(join(' ', keys %got), '503', "$name: and it stays so");
    is(state(), 'broken', "$name: the status");
    ok($t->stop(), "$name: stopped");
    met($name);
    $t->forget_spool();
}


# a commit ---------------------------------------------------------------------


# How often a name is tried again has an end; a link() that fails has not made
# one, and nobody has to be told of it that can be told. What strace is attached
# to has nothing else to do: it measures no spool.

$t->write_file('nginx.conf', $conf);
$t->run();

for my $case (
    ['each name is taken in tmp/', 503, 'openat:error=EEXIST'],
    ['each name is taken in new/', 503, 'renameat2:error=EEXIST'],
    ['no link()', 503, 'renameat2:error=ENOSYS', 'linkat:error=EPERM'],
    ['each link is taken', 503, 'renameat2:error=EINVAL',
     'linkat:error=EEXIST'],
    ['none is told', 200, 'renameat2:error=ENOSYS',
     'openat:error=EMFILE:when=2'],
    ['two errors', 503, 'write:error=ENOSPC:when=1', 'close:error=EIO:when=1'],
) {
    my ($name, $expected, @inject) = @$case;

    # the first write() of a worker without threads may be to its log

    next if $name eq 'two errors' && !$t->has('--with-threads');

    $t->forget_spool();
    ok($t->wait_for(sub { post()->{status} == 200 }, 5), "$name: before");

    my ($pid) = $t->workers();
    my $strace = Test::Fault->strace([Test::Fault->committers($pid)], @inject);

    is(post()->{status}, $expected, "$name: $expected");
    $strace->detach();

    like($strace->text(), qr/INJECTED/, "$name: it has failed");
    is(files(), 1 + ($expected == 200), "$name: files in new/");
    is(scalar(grep { /ndjson/ } list("$spool/tmp")), 0,
       "$name: nothing left in tmp/");
}

# nobody knows how much space is left

{
    my ($pid) = $t->workers();

    ok($t->wait_for(sub { post()->{status} == 200 }, 5), 'free space: before');

    my $strace = Test::Fault->strace([$pid], 'fstatfs:error=EIO');

    ok($t->wait_for(sub { post()->{status} == 503 }, 5),
       'free space unknown: refused');
    $strace->detach();
    ok($t->wait_log(qr/the free space of the spool is not known/),
       'free space unknown: said');
    ok($t->wait_for(sub { post()->{status} == 200 }, 5),
       'free space: known again');
}

ok($t->stop(), 'stopped');


# a delivery -------------------------------------------------------------------


# The descriptor that stands for the client is a worker's first one of these.

{
    my $conf = $t->read_file('nginx.conf');

    $t->expect_alert(qr/for deliveries failed/);
    $t->forget_spool();
    $app->mode('all:200');
    $t->write_file('nginx.conf',
        $conf =~ s/(taptalent_webhook_spool [^;]*;)/$1
            taptalent_webhook_forward \/app;/r);

    for my $case (
        ['no descriptor', 'socket:error=EMFILE:when=1',
         qr/socket\(\) for deliveries failed/],
        ['it is not for the children', 'fcntl:error=EBADF:when=1',
         qr/fcntl\(\) or .* for deliveries failed/],
    ) {
        my ($name, $inject, $like) = @$case;

        $t->run();
        $t->mark_log();
        $app->forget();

        my ($pid) = $t->workers();
        my $strace = Test::Fault->strace([$pid], $inject);

        is(post()->{status}, 200, "$name: accepted");
        ok($t->wait_log($like), "$name: logged");
        ok($app->wait_for(1, 10), "$name: delivered after all");
        ok($t->wait_for(sub { !files() }, 10), "$name: once");
        is(scalar($app->requests()), 1, "$name: and not again");
        $strace->detach();
        ok($t->stop(), "$name: stopped");
    }

    $app->mode('');
    $app->forget();
    $t->write_file('nginx.conf', $conf);
}


# a full disk ------------------------------------------------------------------


# There is no room for a lock: events are refused, those that are there are
# sent, and one that is to be a dead letter stays, since nobody may write to
# tmp/.

SKIP: {
    my $missing = $> ? 'needs root' : Test::Fault->no_loop();

    skip $missing, 9 if $missing;

    my $few = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'few',
                                      mkfs => '-N 64');
    my $conf = $t->read_file('nginx.conf');

    $spool = "$p/few/spool";
    $conf =~ s/(taptalent_webhook_spool) \S+ ([^;]*;)/$1 $spool $2
            taptalent_webhook_forward \/app;
            taptalent_webhook_retry initial=100ms max=100ms;/ or die;
    $t->write_file('nginx.conf', $conf);
    $t->run();
    ok($t->wait_log(qr/this worker forwards/), 'a full disk: a spool');
    $t->kill_all();

    my $payload = event(n => 'stays');
    my $path = $t->write_file("$spool/new/stays.ndjson",
        '{"v":1,"id":"' . '0' x 32 . '","received":"' . received_at()
        . '","event":"a.b","timestamp":"2024-01-20T14:45:00Z",'
        . "\"companyId\":null,\"headers\":{},\"payload\":$payload}\n");

    chown +(stat "$spool/new")[4, 5], $path;
    unlink grep { !/forward/ } map { "$spool/tmp/$_" } list("$spool/tmp");
    $few->fill_inodes();

    $t->mark_log();
    $t->run();
    ok($app->wait_for(2, 10), 'a full disk: what is there is sent');
    is(post()->{status}, 503, 'a full disk: nothing is accepted');
    ok($t->wait_log(qr/\[crit\].*No locks available/),
       'a full disk: no dead letter without a lock');
    is(join(' ', map { list("$spool/$_") } qw(new dead)), 'stays.ndjson',
       'a full disk: the event stays');

    $few->drain();
    ok($t->wait_for(sub { list("$spool/dead") }, 10), 'room: a dead letter');
    ok($t->wait_for(sub { !list("$spool/new") }, 10), 'room: nothing waits');
    ok($t->wait_for(sub { post()->{status} == 200 }, 10), 'room: accepted');
    ok($t->stop(), 'room: stopped');
}

$t->no_alerts();

done_testing();
