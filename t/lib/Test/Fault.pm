package Test::Fault;

# What can go wrong below a spool, on purpose: small filesystems on loop
# devices, power cuts, failing, short and slow system calls.
#
#   Test::Fault->need('root', 'loop', 'strace', 'xfs');    or the file is skipped
#
#   my $fs = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'mnt');
#   $fs->fill(); $fs->drain(); $fs->cut(); $fs->umount(); $fs->mount();
#
#   my $f = Test::Fault->strace($tid, 'fdatasync:error=EIO:when=1');
#   $f->detach();
#
#   my $clock = Test::Fault->clock($dir);        or the file is skipped
#   $clock->set($seconds);
#   $t->run(env => { $clock->env() });
#
# Mounts are in a mount namespace of the test's own and so vanish with its last
# process, however it ends; what can be unmounted in an orderly way is.

use warnings;
use strict;

use File::Basename qw(dirname);
use File::Temp ();
use IO::Handle;
use POSIX ();
use Time::HiRes qw(time);
use Test::More ();


# FS_IOC_SHUTDOWN of ext4 and XFS is XFS_IOC_GOINGDOWN, _IOR('X', 125, __u32);
# flag 2: what the journal has not got on the disk is gone, as without power

use constant GOINGDOWN => 0x8004587D;
use constant NOLOGFLUSH => 2;

use constant CLONE_NEWNS => 0x00020000;


my @filesystems;
my @traces;
my $owner = $$;
my $private;


$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);


END {
    if ($owner == $$) {
        my $status = $?;

        $_->detach() for @traces;
        $_ && $_->end() for reverse @filesystems;

        $? = $status;
    }
}


# Skips the file if what it needs is not there. Figures from the environment
# scale the trials: TEST_SCALE, 1 unless set, and what the test itself reads.

sub need {
    my ($class, @what) = @_;

    for my $what (@what) {
        my $missing
            = $what eq 'root' ? ($> == 0 ? '' : 'needs root')
            : $what eq 'loop' ? $class->no_loop()
            : $what eq 'strace' ? $class->no_strace()
            : $what eq 'xfs' ? (command('mkfs.xfs') ? '' : 'needs mkfs.xfs')
            : (command($what) ? '' : "needs $what");

        Test::More::plan(skip_all => $missing) if $missing;
    }
}


sub command {
    my ($name) = @_;

    return scalar grep { -x "$_/$name" } split(/:/, $ENV{PATH}), '/sbin',
                                         '/usr/sbin';
}


sub no_loop {
    return 'needs root to mount' if $> != 0;
    return 'needs mkfs.ext4' unless command('mkfs.ext4');
    return 'needs losetup' unless command('losetup');

    my $free = `losetup -f 2>&1`;
    return $? == 0 ? '' : "needs loop devices: $free";
}


sub no_strace {
    return 'needs strace' unless command('strace');

    my $out = `strace -o /dev/null -e inject=getppid:error=EPERM true 2>&1`;
    return $? == 0 ? '' : "needs strace --inject and ptrace: $out";
}


sub scale {
    my ($class, $n) = @_;

    my $scaled = int($n * ($ENV{TEST_SCALE} || 1) + 0.5);
    return $scaled < 1 ? 1 : $scaled;
}


sub shell {
    my ($command) = @_;

    my $out = `$command 2>&1`;
    die "$command: $out" if $? != 0;

    return $out;
}


# Kills all of nginx at once and waits until nothing of it is left. The master
# first stands still, or it might fork while its children are counted. A process
# that has threads is a zombie before the last of them has let go of the disk,
# and until then sockets and files are open.

sub kill_all {
    my ($class, $t) = @_;

    my $master = $t->{master} or return;

    kill 'STOP', $master;

    $t->wait_for(sub { slurp("/proc/$master/stat") =~ /\) [TZ] / }, 5,
                 'the master to stand still');

    my @pids = ($master, Test::Edge::children($master));

    kill 'KILL', @pids;
    $t->kill_all('KILL');

    return $t->wait_for(sub {
        !grep { my @threads = glob "/proc/$_/task/*";
                @threads > 1 || $t->alive($_) } @pids;
    }, 30, 'nginx to be gone');
}


# libraries that are loaded before the others ----------------------------------


# A clock that is so many seconds ahead, in what runs with this environment. It
# can be set again; with env(files => 1) the times of files are ahead as well,
# and it should not be. The clock of the machine is left alone.

sub clock { return preloaded('clock', $_[1]) }

# Allocations of what runs with this environment:
#
#   $alloc->set($n);                of a worker, the n-th from now fails
#   $alloc->set($n, master => 1);   of the master
#   $alloc->set($n, module => 1);   of those the module's alone are counted; it
#                                   has to be linked in
#
# get() is 0 if it has failed.

sub alloc {
    my ($class, $dir, $binary) = @_;
    my $self = preloaded('alloc', $dir);
    my ($first, $last);

    for (split /\n/, `nm -nS $binary 2>&1`) {
        next if !/^([0-9a-f]+) ([0-9a-f]+) t ngx_http_taptalent_(?!.*\.cold)/i;

        $first //= hex $1;
        $last = hex($1) + hex($2);
    }

    $self->{env} = { TEST_ALLOC_CODE => sprintf '%x-%x', $first, $last }
        if $last;

    return bless($self, 'Test::Fault::Alloc')->set(0);
}

# t/torture/NAME.c, and the file in DIR that it reads

sub preloaded {
    my ($name, $dir) = @_;

    my $self = bless { file => "$dir/$name", library => "$dir/$name.so",
                       variable => 'TEST_' . uc $name }, 'Test::Fault::Preloaded';

    system('gcc', '-shared', '-fPIC', '-O1', '-o', $self->{library},
           dirname(__FILE__) . "/../../torture/$name.c") == 0
        or Test::More::plan(skip_all => 'gcc does not make a shared library');

    return $self->set(0);
}


# filesystems ------------------------------------------------------------------


sub unshare {
    return if defined $private;

    # x86_64 and others: perl knows the number of the call

    $private = eval {
        require 'syscall.ph';
        syscall(&SYS_unshare, CLONE_NEWNS) == 0;
    } ? 1 : 0;

    # nothing of ours gets out, what others mount or unmount still comes in

    system 'mount --make-rslave / 2>/dev/null' if $private;
}


# A filesystem of this type and size mounted below the prefix of $t.
#
#   dir      its mount point there, default 'mnt'
#   image    the file that it is in, default beside its mount point
#   mkfs     more options of mkfs
#   options  of mount
#   page     1: what goes to the loop device goes there by pages

sub filesystem {
    my ($class, $t, $type, $size, %arg) = @_;

    unshare();

    my $dir = $arg{dir} || 'mnt';

    my $self = bless { t => $t, type => $type, dir => $t->prefix() . "/$dir",
                       image => $arg{image} || $t->prefix() . "/$dir.img",
                       options => $arg{options}, page => $arg{page},
                       mounted => 0,
                     }, 'Test::Fault::Filesystem';

    shell("truncate -s $size $self->{image}");

    my $mkfs = $type eq 'xfs' ? 'mkfs.xfs -q -f' : "mkfs.$type -q -F";

    shell("PATH=\$PATH:/sbin:/usr/sbin $mkfs " . ($arg{mkfs} || '')
          . " $self->{image}");

    mkdir $self->{dir} or die "mkdir() \"$self->{dir}\" failed: $!";

    push @filesystems, $self;

    return $self->mount();
}


# system calls -----------------------------------------------------------------


# The threads that commit: those of a worker's only pool, or the worker itself
# where there are no threads.

sub committers {
    my ($class, $pid) = @_;

    my @tids = map { m{/(\d+)$} } glob "/proc/$pid/task/*";
    my @pool = grep { $_ != $pid } @tids;

    return @pool ? @pool : ($pid);
}


# Attaches to the threads and returns when the injections are in force. What
# they did is in text() after detach().
# With { follow => 1 } before the injections they are in force for children
# too, each of which counts its own calls; with { path => '...' } only for calls
# that name this path as it is, or have a descriptor of it.

sub strace {
    my ($class, $tids, @inject) = @_;

    my $arg = ref $inject[0] ? shift @inject : {};
    my @tids = ref $tids ? @$tids : $tids;
    my $log = File::Temp::tmpnam();

    my @command = ('strace', '-o', $log, '-y', '-s', '64',
                   $arg->{follow} ? '-f' : (),
                   defined $arg->{path} ? ('-P', $arg->{path}) : (),
                   (map { "--inject=$_" } @inject), map { ('-p', $_) } @tids);

    my $pid = fork();
    die "fork() failed: $!" unless defined $pid;

    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$log.err";
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $self = bless { pid => $pid, log => $log }, 'Test::Fault::Strace';
    push @traces, $self;

    my $until = time() + 40;

    # said after PTRACE_INTERRUPT: the thread stops before its next call

    until (@tids == (() = slurp("$log.err") =~ /^strace: .* attached/mg)) {
        die 'strace did not attach: ' . slurp("$log.err")
            if time() > $until || waitpid($pid, POSIX::WNOHANG()) == $pid;
        select undef, undef, undef, 0.002;
    }

    return $self;
}


sub slurp {
    my ($path) = @_;

    open my $fh, '<', $path or return '';
    local $/;
    return scalar(<$fh>) // '';
}


package Test::Fault::Filesystem;


sub dir { return $_[0]->{dir} }

sub device { return $_[0]->{device} }


sub mount {
    my ($self, $more) = @_;

    my $options = join ',', 'loop', grep { defined } $self->{options}, $more;

    Test::Fault::shell("mount -t $self->{type} -o $options"
                       . " $self->{image} $self->{dir}");
    $self->{mounted} = 1;

    ($self->{device}) = map { (split)[0] } grep { (split)[1] eq $self->{dir} }
                        split /\n/, Test::Fault::slurp('/proc/self/mounts');

    # a request that could be written in part only the loop device calls done

    if ($self->{page}) {
        my ($name) = $self->{device} =~ m{([^/]+)$};
        my $path = "/sys/block/$name/queue/max_sectors_kb";

        open my $fh, '>', $path or die "open() \"$path\" failed: $!";
        syswrite $fh, '4' or die "write() \"$path\" failed: $!";
    }

    return $self;
}


sub umount {
    my ($self) = @_;

    return $self unless $self->{mounted};

    # who has died on it may still be at it

    my $out;

    $self->{t}->wait_for(sub {
        $out = `umount $self->{dir} 2>&1`;
        return $? == 0 || $out !~ /busy/;
    }, 10);

    die "umount $self->{dir}: $out" if $? != 0;

    $self->{mounted} = 0;

    return $self;
}


# an empty string, or why not

sub remount {
    my ($self, $how) = @_;

    my $out = `mount -o remount,$how $self->{dir} 2>&1`;
    return $? == 0 ? '' : $out;
}


# (bytes, inodes) that a user has left

sub free {
    my ($self) = @_;

    my $out = Test::Fault::shell("stat -f -c '%a %S %d' $self->{dir}");
    my ($blocks, $size, $inodes) = split ' ', $out;

    return ($blocks * $size, $inodes);
}


# the power is gone: nothing that is not on the disk gets there any more

sub cut {
    my ($self) = @_;

    open my $fh, '<', $self->{dir} or die "open() $self->{dir} failed: $!";

    my $flag = pack 'I', Test::Fault::NOLOGFLUSH();

    defined ioctl $fh, Test::Fault::GOINGDOWN(), $flag
        or die "FS_IOC_SHUTDOWN failed: $!";

    close $fh;

    return $self;
}


# ballast, until there is no byte left, or not more than $left; and away again

sub fill {
    my ($self, $left) = @_;

    open my $fh, '>', "$self->{dir}/ballast" or die "open() failed: $!";

    if (defined $left) {
        my $size = 1 << 20;

        # the filesystem has some overhead of its own, so look again

        while ((my $more = ($self->free())[0] - $left) > 0) {
            syswrite $fh, "\0" x ($more < $size ? $more : $size) or last;
        }

    } else {
        for my $size (1 << 16, 1 << 9) {
            1 while syswrite $fh, "\0" x $size;
        }
    }

    # written or not, or the space is still only reserved

    eval { $fh->sync() };
    close $fh;

    return $self;
}


sub drain {
    my ($self) = @_;

    unlink "$self->{dir}/ballast", glob "$self->{dir}/inodes/*";

    return $self;
}


sub fill_inodes {
    my ($self, $left) = @_;

    mkdir "$self->{dir}/inodes";

    my $n = 0;

    while (($self->free())[1] > ($left || 0)) {
        open my $fh, '>', "$self->{dir}/inodes/" . $n++ or last;
    }

    return $self;
}


sub end {
    my ($self) = @_;

    return unless $self->{mounted};

    my $t = $self->{t};
    Test::Fault->kill_all($t) if $t && $t->{master};

    system "umount $self->{dir} 2>/dev/null || umount -l $self->{dir}";
    $self->{mounted} = 0;
}


package Test::Fault::Preloaded;


sub set {
    my ($self, $number) = @_;

    return $self->store(pack 'q', $number);
}


# the file stays the same one

sub store {
    my ($self, $bytes) = @_;

    open my $fh, -e $self->{file} ? '+<' : '>', $self->{file}
        or die "open(): $!";
    syswrite $fh, $bytes;
    close $fh;
    chmod 0666, $self->{file};

    return $self;
}


sub get {
    my ($self) = @_;

    return unpack 'q', Test::Fault::slurp($self->{file});
}


sub env {
    my ($self, %arg) = @_;

    return (LD_PRELOAD => $self->{library}, $self->{variable} => $self->{file},
            $arg{files} ? (TEST_CLOCK_FILES => 1) : (), %{$self->{env} // {}});
}


package Test::Fault::Alloc;

our @ISA = ('Test::Fault::Preloaded');


sub set {
    my ($self, $n, %arg) = @_;

    return $self->store(pack 'q3', $arg{master} ? (0, $n) : ($n, 0),
                        $arg{module} ? 1 : 0);
}


sub get {
    my ($self) = @_;
    my ($worker, $master) = unpack 'q3', Test::Fault::slurp($self->{file});

    return $worker || $master;
}


package Test::Fault::Strace;


# true as long as the traced and the tracer live

sub alive { return kill 0, $_[0]->{pid} }


sub detach {
    my ($self) = @_;

    return $self unless $self->{pid};

    local $?;

    kill 'TERM', $self->{pid};

    # one that follows may wait for ever for who has been killed meanwhile; the
    # kernel lets go of what a dead tracer has held

    my $until = time() + 5;

    until (waitpid($self->{pid}, POSIX::WNOHANG())) {
        kill 'KILL', $self->{pid} if time() > $until;
        select undef, undef, undef, 0.002;
    }

    $self->{pid} = 0;

    $self->{text} = Test::Fault::slurp($self->{log});
    unlink $self->{log}, "$self->{log}.err";

    return $self;
}


# how many calls have failed, or were delayed

sub injected {
    my ($self) = @_;

    return scalar(() = $self->text() =~ /\((?:INJECTED|DELAYED)\)$/mg);
}


# what was called, live or after detach()

sub text {
    my ($self) = @_;

    return defined $self->{text} ? $self->{text}
                                 : Test::Fault::slurp($self->{log});
}


1;
