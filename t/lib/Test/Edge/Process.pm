package Test::Edge::Process;

# The processes of Test::Edge: nginx's start, its workers, reload and end.

use strict;
use warnings;

use Exporter qw(import);
use POSIX qw(WNOHANG);
use Test::Edge::Files qw(slurp);

our @EXPORT_OK = qw(children);


# What is killed does not write down what it has executed, if that is counted:
# it is told to before, see t/build/coverage.c. SIGRTMIN is 34 in glibc.

BEGIN {
    *CORE::GLOBAL::kill = sub {
        my ($signal, @pids) = @_;

        if ($signal =~ /^(?:SIG)?KILL$|^9$/) {
            CORE::kill(39, grep { $_ > 0 } @pids);
            select undef, undef, undef, 0.2;
        }

        return CORE::kill($signal, @pids);
    } if $ENV{TEST_COVERAGE};
}


# ->run(%opts): starts nginx and waits until its workers are there. Dies with
# what nginx said if it does not start.
#     wrapper => ['strace', '-f', ...]    put before nginx's own command
#     env => { NAME => value }
#     limits => sub { ... }               runs in the child before exec

sub run {
    my ($self, %opts) = @_;

    unlink "$self->{prefix}/nginx.pid";

    my @command = (@{$opts{wrapper} // []}, $self->binary(),
                   '-p', "$self->{prefix}/",
                   '-e', "$self->{prefix}/error.log",
                   '-c', "$self->{prefix}/nginx.conf");

    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        $self->child_environment();
        local @ENV{keys %{$opts{env} // {}}} = values %{$opts{env} // {}};
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{prefix}/stderr.log";
        open STDERR, '>&', \*STDOUT;
        $opts{limits}->() if $opts{limits};
        exec @command or POSIX::_exit(127);
    }

    $self->{child} = $pid;
    $self->{exit} = undef;

    my $up = $self->wait_for(sub {
        $self->reap();
        return -1 if defined $self->{exit}
                     && ($self->{exit} != 0 || !$self->{daemon});
        $self->{master} = $self->pid() or return 0;
        return scalar($self->workers()) >= $self->{workers};
    }, 30, 'nginx to start');

    if (!$up || $up < 0) {
        die "nginx did not start\n" . $self->read_file('stderr.log')
            . $self->error_log();
    }

    return $self;
}

# Reports of the sanitizers go to files that no_alerts reads. Leaks are not
# looked for: nginx frees its pools at exit, but on purpose neither the
# environment nor the old cycle's leftovers, and a worker killed has none.

sub child_environment {
    my ($self) = @_;

    my $log = "log_path=$self->{prefix}/sanitizer/report";

    $ENV{ASAN_OPTIONS} = "detect_leaks=0:halt_on_error=1:$log"
        . ($self->{quarantine} ? ":quarantine_size_mb=$self->{quarantine}" : '');
    $ENV{UBSAN_OPTIONS} = "print_stacktrace=1:halt_on_error=1:$log";
    $ENV{LC_ALL} = 'C';
    delete $ENV{NGINX};

    # prove's own pipes and signal settings are not nginx's business.
    $SIG{$_} = 'DEFAULT' for qw(PIPE INT TERM HUP CHLD);
}


# ->pid: the master's pid as in nginx.pid. ->workers: pids of the workers that
# take connections; workers(all => 1) also those that are shutting down.

sub pid {
    my ($self) = @_;
    return $self->read_file('nginx.pid') =~ /^(\d+)/ ? $1 : undef;
}

sub workers {
    my ($self, %opts) = @_;

    my $master = $opts{master} // $self->{master} or return;
    my @pids;

    # the title of an emulator stays as it is, so the log has to tell

    my $log = slurp($self->binary()) =~ /^#!.*qemu-/s ? $self->error_log() : undef;

    for my $pid (children($master)) {
        my $title = slurp("/proc/$pid/cmdline");

        if (defined $log) {
            $title = 'worker process';
            $title .= ' shutting down'
                if $log =~ /\b$pid#\d+: (?:exiting|gracefully)/;
        }

        next if $title !~ /worker process/;
        next if $title =~ /shutting down/ && !$opts{all};
        push @pids, $pid;
    }

    @pids = sort { $a <=> $b } @pids;

    return @pids;
}

sub children {
    my ($parent) = @_;
    my @children;

    for my $path (glob '/proc/[0-9]*/stat') {
        my ($pid, $state, $ppid) = slurp($path) =~ /^(\d+) \(.*\) (\S) (\d+)/s
            or next;
        push @children, $pid if $ppid == $parent && $state ne 'Z';
    }

    return @children;
}

# ->alive(pid): it exists and is no zombie. One with threads is a zombie before
# the last of them has let go of files and locks.

sub alive {
    my ($self, $pid) = @_;
    my ($state) = slurp("/proc/$pid/stat") =~ /^\d+ \(.*\) (\S)/s or return 0;
    my @threads = glob "/proc/$pid/task/*";
    return $state ne 'Z' || @threads > 1;
}

sub reap {
    my ($self) = @_;
    return if !$self->{child} || defined $self->{exit};
    my $status;
    if (waitpid($self->{child}, WNOHANG) == $self->{child}) {
        $self->{exit} = $?;
    }
}


# ->signal(SIG): to the master. ->kill_all(SIG = KILL): to the master and all
# its workers, at once; waits until none is left.

sub signal {
    my ($self, $signal) = @_;
    return kill $signal, $self->{master} // 0 if $self->{master};
}

sub kill_all {
    my ($self, $signal) = @_;

    my $master = $self->{master} or return;
    my @pids = ($master, $self->workers(all => 1));

    kill $signal // 'KILL', @pids;

    return $self->gone(@pids);
}


# ->stop, ->quit: the fast and the graceful end; true if nginx ended by itself
# in time (opts: timeout => 15). What does not is killed.

sub stop { my ($self, %opts) = @_; return $self->finish('TERM', %opts) }
sub quit { my ($self, %opts) = @_; return $self->finish('QUIT', %opts) }

sub finish {
    my ($self, $signal, %opts) = @_;

    my $master = $self->{master} or return 1;
    my @pids = ($master, $self->workers(all => 1));

    # nginx kills a worker that has not ended 1.5 s after TERM, and on a machine
    # that is overloaded it may have had no time to

    $self->expect_alert(qr/process \d+ exited on signal 9/)
        if $signal eq 'TERM' && overloaded();

    kill $signal, $master;

    return $self->gone(@pids) if !defined $opts{timeout};
    return $self->gone(@pids, timeout => $opts{timeout});
}

# whether more than twice as many processes want to run as there are processors

sub overloaded {
    my ($runnable) = slurp('/proc/loadavg') =~ m{(\d+)/};

    return processors() && $runnable > 2 * processors();
}

# how many processors there are; 0 if that is not known

sub processors {
    return scalar(() = slurp('/proc/cpuinfo') =~ /^processor\b/mg);
}

sub gone {
    my ($self, @pids) = @_;

    my $timeout = 15;
    if (@pids > 1 && $pids[-2] eq 'timeout') {
        (undef, $timeout) = splice @pids, -2;
    }

    my $ended = $self->wait_for(sub {
        $self->reap();
        return !grep { $self->alive($_) } @pids;
    }, $timeout, 'nginx to end');

    if (!$ended) {
        kill 'KILL', grep { $self->alive($_) } @pids;
        $self->wait_for(sub {
            $self->reap();
            return !grep { $self->alive($_) } @pids;
        }, 10, 'nginx to be killed');
    }

    # A wrapper ends after nginx.
    $self->wait_for(sub { $self->reap(); defined $self->{exit} }, 10,
                    'the child to be reaped') if $self->{child};

    delete $self->{master};
    delete $self->{child};

    return $ended ? 1 : 0;
}


# ->reload(%opts): HUP, and waits for new workers, and until the old ones accept
# no more: until then they serve requests with the old configuration. False if
# nginx refused the new one.
#     old_gone => 1    waits also until the old workers have ended

sub reload {
    my ($self, %opts) = @_;

    my %old = map { $_ => 1 } $self->workers(all => 1);
    my $refused = () = $self->error_log() =~ /\[emerg\]/g;

    $self->signal('HUP');

    my $done = $self->wait_for(sub {
        my @workers = $self->workers();
        my @new = grep { !$old{$_} } @workers;
        return 1 if @new >= $self->{workers} && @new == @workers;
        my $now = () = $self->error_log() =~ /\[emerg\]/g;
        return $now > $refused ? -1 : 0;
    }, 15, 'new workers');

    return 0 if !$done || $done < 0;

    if ($opts{old_gone}) {
        return $self->wait_for(sub {
            !grep { $self->alive($_) } keys %old
        }, $opts{timeout} // 15, 'old workers to end');
    }

    return 1;
}

1;
