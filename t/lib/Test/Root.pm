package Test::Root;

# A whole Debian to install things in, which is thrown away: an overlay over the
# system that runs here, or over another one, in namespaces of its own. Below is
# left as it is, ports are its own, and all its processes end with it.
#
#     my $root = Test::Root->new();
#     my ($status, $output) = $root->run('dpkg -i /tmp/x.deb');
#     print slurp($root->path('/etc/nginx/nginx.conf'));
#
# Root only. unavailable() says why there can be none here.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Temp qw(tempdir);
use POSIX ();


# It mounts, says that it has, and holds all this until its input ends: with
# process 1 of a namespace the others go. That one has to bury the dead.

my $HOLDER = <<'PERL';
    my ($mounts, $lower, $size) = @ARGV;
    my $root = "$mounts/root";

    sub command { system(@_) == 0 or die "@_: $?\n" }

    command(qw(mount -t tmpfs -o), "size=$size,mode=755", 'tmpfs', $mounts);
    mkdir "$mounts/$_" for qw(upper work root);
    command(qw(mount -t overlay overlay -o), "lowerdir=$lower,"
            . "upperdir=$mounts/upper,workdir=$mounts/work", $root);
    command(qw(mount -t proc proc), "$root/proc");
    command(qw(mount --rbind /dev), "$root/dev");
    command(qw(mount -t tmpfs tmpfs), "$root/run");
    command(qw(mount -t tmpfs -o mode=1777 tmpfs), "$root/tmp");
    mkdir "$root/run/lock";
    chmod 01777, "$root/run/lock";

    system('ip link set lo up');

    chdir $root or die "$root: $!\n";
    command(qw(pivot_root . mnt));
    chroot '.' or die "chroot: $!\n";
    chdir '/';
    command(qw(umount -l /mnt));

    $SIG{CHLD} = 'IGNORE';

    $| = 1;
    print "ready\n";
    1 while <STDIN>;
PERL


sub unavailable {
    return 'root is needed' if $> != 0;

    system('modprobe overlay 2> /dev/null');

    open my $fh, '<', '/proc/filesystems' or return "/proc/filesystems: $!";
    return 'no overlay filesystem here' if !grep { /\boverlay$/ } <$fh>;

    return 'no namespaces here'
        if system('unshare -m -n -p -f true 2> /dev/null') != 0;

    return undef;
}


# Test::Root->new(%opts)
#     lower => '/'       the system below
#     network => 0       1: that of the machine, without it loopback alone
#     size => '2g'       at most so much is written, it is in memory

sub new {
    my ($class, %opts) = @_;

    my $self = bless {
        lower => '/', size => '2g', %opts,
        mounts => abs_path(tempdir('edge-root-XXXXXXXX', TMPDIR => 1)),
        owner => $$,
    }, $class;

    pipe my $stdin, $self->{stdin} or die "pipe: $!";
    pipe my $out, my $stdout or die "pipe: $!";

    $self->{unshare} = fork() // die "fork: $!";

    if ($self->{unshare} == 0) {
        close $self->{stdin};
        close $out;
        open STDIN, '<&', $stdin;
        open STDOUT, '>&', $stdout;
        exec 'unshare', '-m', '-p', '-f', '--kill-child', '--propagation',
             'private', $opts{network} ? () : '-n', 'perl', '-e', $HOLDER,
             $self->{mounts}, $self->{lower}, $self->{size}
            or POSIX::_exit(127);
    }

    close $stdin;
    close $stdout;

    die "no namespaces\n" if (<$out> // '') ne "ready\n";

    my ($child) = split ' ', slurp("/proc/$self->{unshare}/task/"
                                   . "$self->{unshare}/children");

    $self->{pid} = $child // die "no holder\n";

    return $self;
}


# ->run(script, %env): (exit status, what it says) of a shell in there.

sub run {
    my ($self, $script, %env) = @_;

    my $pid = open(my $out, '-|') // die "fork: $!";

    if ($pid == 0) {
        $SIG{PIPE} = 'DEFAULT';

        %ENV = (PATH => '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin'
                        . ':/sbin:/bin',
                HOME => '/root', LC_ALL => 'C.UTF-8', %env);

        open STDIN, '<', '/dev/null';
        open STDERR, '>&', \*STDOUT;
        exec 'nsenter', '-t', $self->{pid}, '-m', '-p', '-n', '-r', '-w',
             'sh', '-c', $script or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? & 127 ? 128 + ($? & 127) : $? >> 8, $output);
}


# ->path(name): a file in there, as it is reached from here.

sub path {
    my ($self, $name) = @_;
    return "/proc/$self->{pid}/root$name";
}


# ->processes(qr//): the ids of those in there whose command line matches. A
# small system has no ps.

sub processes {
    my ($self, $re) = @_;

    return map { /(\d+)$/ } grep {
        (my $line = slurp("$_/cmdline")) =~ tr/\0/ /;
        $line =~ $re
    } glob $self->path('/proc/[0-9]*');
}


sub slurp {
    my ($path) = @_;
    open my $fh, '<:raw', $path or return '';
    local $/;
    return scalar(<$fh>) // '';
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$ || !$self->{stdin};

    local ($?, $!);

    close delete $self->{stdin};
    waitpid $self->{unshare}, 0;
    rmdir $self->{mounts};
}


1;
