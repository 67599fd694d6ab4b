#!/usr/bin/perl

# Each call of a commit fails in turn, in each way, and so does the disk: the
# request gets its 503 and nothing that was acknowledged is missing.

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list read_spool read_file event_body);


Test::Fault->need('root', 'loop', 'strace', 'prlimit', 'setpriv');

my @errors = qw(EIO EROFS ENOSPC EDQUOT EMFILE ENOMEM);
my %latch = map { $_ => 1 } qw(EIO EROFS EUCLEAN);

# the calls of a commit in their order; what fails at the last leaves a file

my @calls = qw(openat fchmod write fdatasync close renameat2 fsync);
my @cases = map { my $call = $_; map { [$call, $_] } @errors } @calls;

# those that are rare, where they come from

push @cases, ['openat', 'ENFILE'], ['openat', 'EUCLEAN'], ['write', 'EUCLEAN'],
             ['fsync', 'EUCLEAN'];

my $t = Test::Edge->new();
my $threads = $t->has('--with-threads');
my $p = $t->prefix();

my $pool = $threads ? 'thread_pool one threads=1;' : '';
my $on = $threads ? 'threads=one' : '';

my $small = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'small',
                                    mkfs => '-m 0');
my $few = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'few',
                                  mkfs => '-N 64');
my $ro = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'ro',
                                 options => 'errors=remount-ro');

# a spool for each case, so that none meets the latch of another

my $locations = '';

for my $case (@cases, ['short'], ['zero'], ['eintr'], ['enosys'], ['einval'],
              ['exist'], ['taken'], ['post'], ['fsize'], ['nofile'], ['orphan'])
{
    my $name = join '_', @$case;

    $locations .= <<"EOF";
        location = /$name {
            taptalent_webhook on;
            taptalent_webhook_spool $p/s_$name $on min_free=0;
        }
EOF
}

for my $fs (qw(small few ro)) {
    $locations .= <<"EOF";
        location = /$fs {
            taptalent_webhook on;
            taptalent_webhook_spool $p/$fs/spool $on min_free=0;
        }
EOF
}

# without threads the first write() of the loop must be the commit's: nothing
# is logged for what goes well, nor for an epoll_wait() that strace interrupts

my $globals = $t->globals() =~ s/^(error_log .*) info;/$1 notice;/mr;

$t->conf(<<"EOF");
$globals

$pool

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_spool_access group:r;

    access_log off;
    # without threads its write() would be the first of the next commit

    access_log off;

    keepalive_timeout 300s;
    keepalive_requests 100000;
    client_body_buffer_size 1m;
    client_max_body_size 8m;

    server {
        listen 127.0.0.1:%%PORT_0%%;

$locations
    }
}

EOF

$t->run();

my ($pid) = $t->workers();
my ($trials, $n) = (0, 0);
my %oracle;

# one connection for all: nothing must need a new one. A thread tells the loop
# by a write(), so that only its first one may be touched.

my $c = $t->connect();


# posts the next event; its id is acknowledged or not

sub post {
    my ($name) = @_;

    my $id = "$name-0-" . $n++ * 53;
    my $body = event_body($id);

    my $oracle = $oracle{$name} ||= Test::Spool->new();

    $oracle->note_sent($id);
    $c->send($t->message("/$name", $body, keepalive => 1));

    my $answer = $c->answer();

    if ($answer->{status} == 200) {
        $oracle->note_acked($id);

    } else {
        $oracle->note_refused($id);
    }

    return $answer;
}

sub status { my $answer = post(@_); return $answer->{status} || $answer->{error} }

sub inject { return Test::Fault->strace([Test::Fault->committers($pid)], @_) }

sub is_refused {
    my ($answer, $name) = @_;

    is("$answer->{status} " . ($answer->{json}{error} || ''), '503 unavailable',
       $name) or diag($answer->{error} || $answer->{body});
}


# each call, each error --------------------------------------------------------


my (@missed, %at);

for my $case (@cases) {
    my ($call, $error) = @$case;
    my $name = join '_', @$case;

    is(status($name), 200, "$name: before") or next;

    my $strace = inject("$call:error=$error:when=1");
    my $answer = post($name);
    $strace->detach();

    $trials++;
    $at{$name} = time();

    is_refused($answer, "$name: 503");

    unless ($strace->text() =~ /INJECTED/) {
        push @missed, $name;
        diag("not reached: $name");
    }

    is($answer->{headers}{'retry-after'}, 1, "$name: Retry-After")
        if $error eq 'EIO';

    # the name of a file whose commit failed must not be in new/, but for
    # what failed behind the rename

    is(scalar(list("$p/s_$name/new")), $call eq 'fsync' ? 2 : 1,
       "$name: files in new/");
    is(scalar(grep { /ndjson/ } list("$p/s_$name/tmp")), 0,
       "$name: nothing left in tmp/");
}

is_deeply(\@missed, [], 'every call was reached');


# ENOSPC and its kind: it comes back by itself, with an attempt a second;
# EIO and its kind: never without a reload

my @soft = map { join '_', @$_ } grep { !$latch{$_->[1]} } @cases;
my @hard = map { join '_', @$_ } grep { $latch{$_->[1]} } @cases;

my %back;

$t->wait_for(sub {
    $back{$_} ||= status($_) == 200 ? time() - $at{$_} : 0 for @soft;
    return !grep { !$_ } values %back;
}, 10, 'the spools to recover');

is(scalar(grep { $back{$_} } @soft), @soft, 'after ENOSPC and its kind: 200');

# the first attempt must not come earlier than a second after the failure

my ($last) = map { "$calls[-1]_$_" } 'ENOMEM';
my $since = $at{$hard[-1]};

while (time() - $since < 1.5) {
    my @up = grep { status($_) != 503 } @hard;

    if (@up) {
        fail("no answer but 503 before the reload: @up");
        last;
    }

    select undef, undef, undef, 0.05;
}

is_deeply([grep { status($_) != 503 } @hard], [],
          'after EIO, EROFS and EUCLEAN: 503 until the reload');

is(($t->workers())[0], $pid, 'the worker is the same');

for my $call (@calls) {
    ok(scalar $t->grep_log(qr/\[crit\].*\b$call\(\).*\/s_${call}_EIO\/.*
                              failed.*\(5:\ Input/x),
       "the log names $call() and the error");
}

$t->reload(old_gone => 1);
($pid) = $t->workers();
$c = $t->connect();

is_deeply([grep { status($_) != 200 } @hard], [],
          'after EIO, EROFS and EUCLEAN: 200 after the reload');


# probes: one a second is let through, the others get their 503 at once

{
    my $name = 'openat_ENOSPC';
    my $strace = inject('openat:error=ENOSPC');

    is_refused(post($name), 'the disk is full');

    my $until = time() + 2.5;
    my ($asked, $began) = (0, $oracle{$name}->sent());

    while (time() < $until) {
        $asked++ if status($name) == 503;
        select undef, undef, undef, 0.01;
    }

    $strace->detach();

    my $attempts = () = $strace->text() =~ /^openat\(.*INJECTED/mg;

    diag("disk full for 2.5 s: $asked requests, $attempts attempts");

    cmp_ok($attempts, '>=', 2, 'attempts while the disk is full');
    cmp_ok($attempts, '<=', 4, 'but only one a second');
    cmp_ok($asked, '>', 10, 'the others are refused at once');

    ok($t->wait_for(sub { status($name) == 200 }, 5, 'recovery'), 'recovered');

    # one that is let in and refused for its body has tried nothing

    $strace = inject('openat:error=ENOSPC:when=1');
    is_refused(post($name), 'the disk is full for a moment');
    $strace->detach();

    ok($t->wait_for(sub { $t->post("/$name", '{')->{status} == 400 }, 5),
       'one that is not JSON is let in');
    is(status($name), 200, 'and takes the turn of no other');

    $trials++;
}


# half done calls --------------------------------------------------------------


# 100 bytes are said to be written and are not: what follows must be the rest

{
    is(status('short'), 200, 'short: before');

    my $strace = inject('write:retval=100:when=1');
    my $answer = post('short');
    $strace->detach();

    is($answer->{status}, 200, 'a short write is carried on');

    my ($first, $second) = $strace->text()
        =~ /^write\(\d+<[^>]*ndjson>,.*,\s(\d+)\)\s+=\s100\s\(INJECTED\)
            \nwrite\(\d+<[^>]*ndjson>,.*,\s(\d+)\)\s/mx;

    is($second, defined $first ? $first - 100 : 'n/a',
       'the second write has the rest');

    my ($file) = reverse read_spool("$p/s_short");

    is(-s $file->{path}, $second, 'and that is all that is in the file');
    unlink $file->{path};
    delete $oracle{short}{acked}{"short-0-" . ($n - 1) * 53};
    $trials++;
}

# a write that says 0 must not be asked for ever

{
    is(status('zero'), 200, 'zero: before');

    my $strace = inject('write:retval=0:when=1');
    my $answer = post('zero');
    $strace->detach();

    is_refused($answer, 'a write of 0 bytes is an error');
    $trials++;
}

{
    is(status('eintr'), 200, 'EINTR: before');

    my $strace = inject('write:error=EINTR:when=1');
    my $status = status('eintr');
    $strace->detach();

    is($status, 200, 'EINTR: again');
    $trials++;
}

# a kernel or filesystem without renameat2()

for my $error (qw(enosys einval)) {
    is(status($error), 200, "$error: before");

    my $strace = inject("renameat2:error=\U$error");
    my $status = status($error);
    $strace->detach();

    is($status, 200, "renameat2() says \U$error\E: link()");
    like($strace->text(), qr/\nlinkat\(/, 'link() was called');
    like($strace->text(), qr/\nunlinkat\(/, 'and unlink()');
    like($strace->text(), qr/\nunlinkat\(.*\nfsync\(/s, 'before fsync()');
    is_deeply([grep { (stat $_->{path})[3] != 1 } read_spool("$p/s_$error")],
              [], 'each file has one name');
    is(scalar(grep { /ndjson/ } list("$p/s_$error/tmp")), 0, 'none in tmp/');
    $trials++;
}

# a name that is taken: another is found

{
    is(status('exist'), 200, 'EEXIST: before');

    my $strace = inject('openat:error=EEXIST:when=1',
                        'renameat2:error=EEXIST:when=1');
    my $status = status('exist');
    $strace->detach();

    is($status, 200, 'EEXIST: another name');
    $trials++;
}

# one of that name is there, an event that was acknowledged

{
    my $dir = "$p/s_taken";

    is(status('taken'), 200, 'a name that is taken: before');

    my ($own) = list("$dir/new");
    my $content = read_file("$dir/new/$own");
    my $strace = inject(map { "$_:delay_enter=300s:when=1" }
                            qw(renameat2 renameat));
    my $id = 'taken-0-' . $n++ * 53;

    $oracle{taken}->note_sent($id);
    $c->send($t->message('/taken', event_body($id), keepalive => 1));

    my $name;

    $t->wait_for(sub {
        ($name) = grep { /ndjson/ } list("$dir/tmp");
        return $name && $strace->text() =~ /renameat/;
    }, 10, 'the rename');

    rename "$dir/new/$own", "$dir/new/$name";
    $strace->detach();

    is($c->answer()->{status}, 200, 'a name that is taken: another one');
    $oracle{taken}->note_acked($id);

    is(scalar(list("$dir/new")), 2, 'a name that is taken: both are there');
    is(read_file("$dir/new/$name"), $content, 'nothing is replaced');
    rename "$dir/new/$name", "$dir/new/$own";
    $trials++;
}

# the leftover that cannot be removed either

{
    is(status('orphan'), 200, 'orphan: before');

    my $strace = inject('write:error=ENOSPC:when=1', 'unlinkat:error=EIO');
    my $answer = post('orphan');
    $strace->detach();

    is_refused($answer, 'neither written nor removed');
    is(scalar(grep { /ndjson/ } list("$p/s_orphan/tmp")), 1, 'it stays in tmp/');
    ok($t->wait_for(sub { status('orphan') == 200 }, 5, 'recovery'),
       'and does no harm');
    $trials++;
}


# limits of the process --------------------------------------------------------


# run by the worker's user, root in a container may lack what it takes

sub prlimit {
    my $user = $t->worker_user();
    my @as = ('setpriv', "--reuid=$user", '--regid=' . (getpwnam $user)[3],
              '--clear-groups');

    open my $out, '-|', @as, 'prlimit', "--pid=$pid", @_ or die "prlimit: $!";
    my $text = join '', <$out>;
    close $out or die "prlimit @_ failed\n";

    return $text;
}

sub limit {
    my ($what, $value) = @_;

    prlimit("--$what=$value");
}

sub soft_limit {
    my ($what) = @_;

    return join ':', split ' ', prlimit("--$what", '-o', 'SOFT,HARD',
                                        '--noheadings', '--raw');
}

{
    is(status('nofile'), 200, 'nofile: before');

    my $was = soft_limit('nofile');
    my ($max) = sort { $b <=> $a } map { m{/(\d+)$} } glob "/proc/$pid/fd/*";
    my %open = map { m{/(\d+)$} => 1 } glob "/proc/$pid/fd/*";
    my $free = 0;

    $free++ while $open{$free};

    # the first free descriptor is the first forbidden one

    limit('nofile', "$free:" . (split /:/, $was)[1]);
    my $answer = post('nofile');
    is_refused($answer, 'no descriptors left');
    limit('nofile', $was);

    ok($t->wait_for(sub { status('nofile') == 200 }, 5, 'recovery'),
       'descriptors again: 200');
    $trials++;
}

SKIP: {
    is(status('fsize'), 200, 'fsize: before');

    my $was = soft_limit('fsize');
    my $log = -s "$p/error.log";

    # the first half of the group gets in, then the file is too large

    my $limit = ($log > 100_000 ? $log : 100_000) + 200_000;
    my $pad = event(data => { id => 'fsize-0-1', pad => 'z' x ($limit + 1000) });

    limit('fsize', "$limit:" . (split /:/, $was)[1]);

    $c->send($t->message('/fsize', $pad, keepalive => 1));
    is_refused($c->answer(), 'the file is too large for the process');
    is(scalar(grep { /ndjson/ } list("$p/s_fsize/tmp")), 0,
       'and nothing is left of it');

    limit('fsize', $was);

    is(($t->workers())[0], $pid, 'the worker is the same');

    ok($t->wait_for(sub { status('fsize') == 200 }, 5, 'recovery'),
       'no limit any more: 200');
    $trials++;
}


# disks ------------------------------------------------------------------------


# full to the last byte

{
    is(status('small'), 200, 'small disk: before');

    $small->fill();

    my ($ok, $bad) = (0, 0);

    # what is free in the last blocks may take some

    while ($bad < 3 && $ok < 1000) {
        my $answer = post('small');

        if ($answer->{status} == 200) {
            $ok++;

        } else {
            is_refused($answer, 'disk full: 503') if $bad++ == 0;
        }
    }

    is($bad, 3, 'the disk is full');
    is(scalar(grep { /ndjson/ } list($small->dir() . '/spool/tmp')), 0,
       'nothing is left in tmp/');

    $small->drain();
    ok($t->wait_for(sub { status('small') == 200 }, 10, 'recovery'),
       'space again: 200');
    diag("full disk: $ok more accepted, then refused");
    $trials++;
}

# filled by the events themselves, with both sizes of event

{
    my ($ok, $bad) = (0, 0);

    while ($bad < 3 && $ok < 20000) {
        $c->send($t->message('/small', event(data => { id => 'x', pad =>
                             'y' x (500_000) }), keepalive => 1));
        $c->answer()->{status} == 200 ? $ok++ : $bad++;
    }

    is($bad, 3, "filled by $ok large events");

    my @wrong = grep { defined $_->{wrong} } read_spool($small->dir()
                                                        . '/spool');
    is(scalar @wrong, 0, 'every file that is there is whole');

    # they are not the oracle's

    for my $file (read_spool($small->dir() . '/spool')) {
        unlink $file->{path} if -s $file->{path} > 400_000;
    }

    ok($t->wait_for(sub { status('small') == 200 }, 10, 'recovery'),
       'space again: 200');
    $trials++;
}

# no inode

{
    is(status('few'), 200, 'few inodes: before');

    $few->fill_inodes();

    my ($ok, $bad) = (0, 0);

    while ($bad < 3 && $ok < 100) {
        my $answer = post('few');

        if ($answer->{status} == 200) {
            $ok++;

        } else {
            is_refused($answer, 'no inodes: 503') if $bad++ == 0;
        }
    }

    is($bad, 3, 'no inodes left');

    # a worker that starts now cannot make its lock, but it must come back

    $t->reload(old_gone => 1);
    ($pid) = $t->workers();
    $c = $t->connect();

    is_refused(post('few'), 'no inodes when the worker starts: 503');
    is(status('small'), 200, 'another spool of the same worker is fine');

    $few->drain();
    ok($t->wait_for(sub { status('few') == 200 }, 10, 'recovery'),
       'inodes again: 200');
    $trials++;
}

# read-only

{
    is(status('ro'), 200, 'read-only: before');

    # the lock may be open for writing, then only an error makes it read-only

    my $why = $ro->remount('ro');

    if ($why ne '') {
        my ($dev) = $ro->device() =~ m{([^/]+)$};

        open my $fh, '>', "/sys/fs/ext4/$dev/trigger_fs_error" or die $!;
        print $fh "test\n";
        close $fh;

        $ro->remount('ro,abort');
    }

    my $answer = post('ro');
    is_refused($answer, 'read-only: 503');

    like(($t->grep_log(qr/\[crit\]/))[-1],
         qr/Read-only|Input\/output/, 'and the log says why');

    # mounted anew, as an operator would

    $t->stop();
    $ro->umount()->mount();
    $t->run();
    ($pid) = $t->workers();
    $c = $t->connect();

    is(status('ro'), 200, 'writable again: 200');
    $trials++;
}


# the sum ----------------------------------------------------------------------


ok($t->stop(), 'stopped');

my $all = Test::Spool->new();

for my $name (keys %oracle) {
    my $spool = $name =~ /^(?:small|few|ro)$/ ? "$p/$name/spool" : "$p/s_$name";

    for my $file (read_spool($spool)) {
        next if $file->{lines}[0] =~ /"id":"fsize-0-1"/;

        $all->wrong($file->{wrong}) if defined $file->{wrong};
        $all->collect_line($_, $file->{name}) for @{ $file->{lines} };
        $all->{files}++;
    }

    $all->{acked}{$_} = 1 for keys %{ $oracle{$name}{acked} };
    $all->{sent} += $oracle{$name}{sent};
    $all->{refused} += $oracle{$name}{refused};
}

$all->report('failed commits', $trials);

is($all->lost(), 0, 'no acknowledged event is lost');
is($all->altered(), 0, 'none is altered');
is($all->duplicated(), 0, 'none is there twice');

$t->no_alerts();

$_->umount() for $small, $few, $ro;

done_testing();
