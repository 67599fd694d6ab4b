package Test::Edge;

# A small harness: a real nginx with the module, in a temporary prefix, on
# reserved ports, and a client that can send requests in every odd way.
# Perl's core modules and IO::Socket::SSL only.
#
#     use lib 't/lib';
#     use Test::More;
#     use Test::Edge;
#
#     my $t = Test::Edge->new();
#     $t->conf(<<'CONF');
#     %%GLOBALS%%
#     events { }
#     http {
#         server {
#             listen 127.0.0.1:%%PORT_0%%;
#             listen 127.0.0.1:%%PORT_1%% ssl;
#             %%TLS%%
#             location /hook {
#                 taptalent_webhook on;
#                 taptalent_webhook_company_id any;
#                 taptalent_webhook_spool %%SPOOL%%;
#             }
#         }
#     }
#     CONF
#     $t->run();
#     is($t->post('/hook', event(), tls => 1)->{status}, 200, 'accepted');
#     $t->no_alerts();
#     done_testing();
#
# Environment:
#     TEST_NGINX_BINARY   nginx to run (default: the installed one)
#     TEST_NGINX_MODULE   module to load (default: build/debian/...so below the
#                         top of the tree; empty: linked in)
#     TEST_NGINX_LEAVE=1  keep the prefix and print where it is
#     TEST_NGINX_DEBUG=1  error_log at debug
#     TEST_PATIENCE=4     how many times longer to wait than it should take

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(basename dirname);
use File::Find ();
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use IO::Socket::SSL;
use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec PEM_cert2string
                              PEM_key2string);
use JSON::PP ();
use POSIX qw(WNOHANG);
use Test::More ();
use Time::Local qw(timegm);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(event headers_for);
our @EXPORT_OK = qw(received_at named_at);

my $MODULE = 'ngx_http_taptalent_webhook_module.so';
my $TOP = dirname(dirname(dirname(dirname(abs_path(__FILE__)))));
my $JSON = JSON::PP->new->allow_nonref->canonical;
my $UTF8 = JSON::PP->new->allow_nonref->canonical->utf8;

$SIG{PIPE} = 'IGNORE';

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


# Test::Edge->new(%opts): a temporary prefix, 0755 so that the worker user
# reaches it, removed at the end.
#     workers => 1     worker_processes
#     daemon => 0      1: let nginx daemonise (an upgrade by USR2 needs it)
#     parent => dir    where to make the prefix (another filesystem, say)
#     quarantine => n  megabytes of freed memory that AddressSanitizer keeps

sub new {
    my ($class, %opts) = @_;

    my $prefix = tempdir('edge-test-XXXXXXXX', TMPDIR => 1,
                         ($opts{parent} ? (DIR => $opts{parent}) : ()),
                         CLEANUP => 0);
    chmod 0755, $prefix;
    $prefix = abs_path($prefix);

    my $self = bless {
        workers => 1,
        daemon => 0,
        %opts,
        prefix => $prefix,
        owner => $$,
        ports => {},
        expected => [],
    }, $class;

    for my $dir (qw(client_body proxy fastcgi uwsgi scgi html sanitizer)) {
        mkdir "$prefix/$dir" or die "mkdir $prefix/$dir: $!";
    }

    # The worker user writes its sanitizer's report here.
    chmod 01777, "$prefix/sanitizer";

    Test::More::note("prefix: $prefix");

    return $self;
}


# ->binary, ->module: what runs. An empty module is linked in statically.

sub binary {
    return $ENV{TEST_NGINX_BINARY} if $ENV{TEST_NGINX_BINARY};

    for my $path ('/usr/sbin', split /:/, $ENV{PATH}) {
        return "$path/nginx" if -x "$path/nginx";
    }

    die "no nginx found; set TEST_NGINX_BINARY\n";
}

sub module {
    return $ENV{TEST_NGINX_MODULE} // "$TOP/build/debian/$MODULE";
}


# ->top: the top of the source tree.

sub top { return $TOP }


# ->sources: the paths of the module's own files; with 'queue.c' that one's.

sub sources {
    my ($self, $name) = @_;

    my @paths = sort grep { -f } map { glob "$TOP/$_" } qw(*.c src/* src/*/*);

    return @paths if !defined $name;

    my ($path) = grep { m{/ngx_http_taptalent_\Q$name\E$} } @paths;

    return $path // die "no $name in the sources\n";
}


# ->version, ->has(what), ->debugs: nginx's version as a v-string-like number
# (1.22.1 is 1022001), whether `what` is among its configure arguments, and
# whether it has debug lines. A module is built with threads if its nginx was.

sub version {
    my ($self) = @_;
    my ($x, $y, $z) = $self->configured() =~ m{nginx/(\d+)\.(\d+)\.(\d+)};
    return $x * 1_000_000 + $y * 1_000 + $z;
}

sub has {
    my ($self, $what) = @_;
    return $self->configured() =~ /\Q$what\E/ ? 1 : 0;
}

sub debugs {
    my ($self) = @_;
    return $self->has('--with-debug') && !$self->has('NGX_DEBUG=0');
}

sub configured {
    my ($self) = @_;
    my $binary = binary();
    return $self->{configured} //= qx{$binary -V 2>&1};
}


# ->worker_user: the user of workers, undef if nginx cannot change it.

sub worker_user {
    return undef if $> != 0;
    return (grep { defined getpwnam $_ } qw(www-data nobody))[0];
}


# ->prefix, ->spool: directories. ->port(n): the reserved free port n; by
# convention 0 is plain HTTP and 1 is TLS, the client's defaults.

sub prefix { return $_[0]{prefix} }
sub spool { return "$_[0]{prefix}/spool" }

# The UDP socket of the same number is the lock that parallel tests respect; it
# vanishes with the process. Ephemeral ports (32768 and up) are avoided, a
# client's connection might sit there.

sub port {
    my ($self, $n) = @_;

    return $self->{ports}{$n}{number} if $self->{ports}{$n};

    for (1 .. 1000) {
        my $number = 10240 + int(rand(32768 - 10240));

        my $lock = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                         LocalPort => $number, Proto => 'udp')
            or next;
        my $probe = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                          LocalPort => $number, Proto => 'tcp',
                                          Listen => 1)
            or next;
        close $probe;

        $self->{ports}{$n} = { number => $number, lock => $lock };
        return $number;
    }

    die "no free port\n";
}


# ->conf(text): writes nginx.conf. Replaced are:
#     %%GLOBALS%%  load_module, user, daemon, pid, error_log, worker_processes
#     %%HTTP%%     temporary paths and an access log, `access.log`, whose lines
#                  are `<status> <verdict> <method> <uri>`; put at the start of
#                  http {} if the text does not name it
#     %%TLS%%      ssl_certificate and ssl_certificate_key
#     %%PREFIX%%, %%SPOOL%%, %%PORT_n%%
# The text may be named other than nginx.conf: conf(text, 'other.conf').

sub conf {
    my ($self, $text, $name) = @_;

    $text =~ s/^(\s*http\s*\{)/$1\n%%HTTP%%\n/m if $text !~ /%%HTTP%%/;

    $text =~ s/%%GLOBALS%%/$self->globals()/ge;
    $text =~ s/%%HTTP%%/$self->http()/ge;
    $text =~ s/%%TLS%%/$self->tls()/ge;
    $text =~ s/%%SPOOL%%/$self->spool()/ge;
    $text =~ s/%%PREFIX%%/$self->{prefix}/g;
    $text =~ s/%%PORT_(\d+)%%/$self->port($1)/ge;

    $self->write_file($name // 'nginx.conf', $text);

    return $self;
}

sub globals {
    my ($self) = @_;

    my $module = module();
    my $user = worker_user();
    my $level = $ENV{TEST_NGINX_DEBUG} ? 'debug' : 'info';

    return join "\n",
        $module ne '' ? "load_module $module;" : (),
        $user ? "user $user;" : (),
        'daemon ' . ($self->{daemon} ? 'on' : 'off') . ';',
        "worker_processes $self->{workers};",
        "pid $self->{prefix}/nginx.pid;",
        "error_log $self->{prefix}/error.log $level;";
}

sub http {
    my ($self) = @_;

    my $p = $self->{prefix};
    my @modules = grep { !$self->has("--without-http_${_}_module") }
                       qw(proxy fastcgi uwsgi scgi);

    return join "\n",
        "client_body_temp_path $p/client_body;",
        (map { "${_}_temp_path $p/$_;" } @modules),
        'log_format edge "$status $taptalent_verdict '
            . '$request_method $request_uri";',
        "access_log $p/access.log edge;";
}

sub tls {
    my ($self) = @_;

    my $p = $self->{prefix};

    if (!-e "$p/cert.pem") {
        my ($cert, $key) = CERT_create(
            subject => { commonName => 'localhost' },
            subjectAltNames => [['DNS', 'localhost'], ['IP', '127.0.0.1']],
            key => KEY_create_ec('prime256v1'),
            not_after => time() + 365 * 86400,
        );
        $self->write_file('cert.pem', PEM_cert2string($cert));
        $self->write_file('key.pem', PEM_key2string($key));
    }

    return "ssl_certificate $p/cert.pem;\nssl_certificate_key $p/key.pem;";
}


# ->write_file(name, content), ->read_file(name): files below the prefix.
# A file that does not exist reads as ''.

sub write_file {
    my ($self, $name, $content) = @_;
    my $path = $self->path($name);
    open my $fh, '>:raw', $path or die "open $path: $!";
    print $fh $content;
    close $fh or die "close $path: $!";
    return $path;
}

sub read_file {
    my ($self, $name) = @_;
    open my $fh, '<:raw', $self->path($name) or return '';
    local $/;
    return scalar(<$fh>) // '';
}

sub path {
    my ($self, $name) = @_;
    return $name =~ m{^/} ? $name : "$self->{prefix}/$name";
}


# ->found({ name => bytes }, except => qr//): `file: name` for each file below
# the prefix that holds one of these secrets, as it is or as a string of JSON,
# and the bytes looked at. Where a secret has to be is not looked at: nginx.conf,
# *.key, and lines like `except`.

sub found {
    my ($self, $secrets, %opts) = @_;

    my ($looked, @found) = (0);

    File::Find::find({ no_chdir => 1, wanted => sub {
        return if -l || !-f || /\.key$|\/nginx\.conf$/;

        my $text = slurp($_);

        $looked += length $text;
        $text = join "\n", grep { $_ !~ $opts{except} } split /\n/, $text
            if $opts{except};

        for my $name (sort keys %$secrets) {
            my $json = $secrets->{$name} =~ s/(["\\])/\\$1/gr;

            $json =~ s/([^ -~])/sprintf '\\u%04x', ord $1/ge;

            push @found, "$_: $name"
                if grep { index($text, $_) >= 0 } $secrets->{$name}, $json;
        }
    } }, $self->{prefix});

    return (join("\n", sort @found), $looked);
}


# ->config_test(): (exit status, output) of nginx -t. What it prints does not
# get into error.log.

sub config_test {
    my ($self, $name) = @_;

    my @command = (binary(), '-t', '-e', 'stderr', '-p', "$self->{prefix}/",
                   '-c', $self->path($name // 'nginx.conf'));

    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        $self->child_environment();
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    # where the tests themselves are on a tmpfs
    $output =~ s/^.*\[warn\].*"$self->{prefix}\/.* in memory.*\n//mg;

    return ($? >> 8 || $? & 127, $output);
}


# ->run(%opts): starts nginx and waits until its workers are there. Dies with
# what nginx said if it does not start.
#     wrapper => ['strace', '-f', ...]    put before nginx's own command
#     env => { NAME => value }
#     limits => sub { ... }               runs in the child before exec

sub run {
    my ($self, %opts) = @_;

    unlink "$self->{prefix}/nginx.pid";

    my @command = (@{$opts{wrapper} // []}, binary(), '-p', "$self->{prefix}/",
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

    my $log = slurp(binary()) =~ /^#!.*qemu-/s ? $self->error_log() : undef;

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

sub slurp {
    my ($path) = @_;
    open my $fh, '<:raw', $path or return '';
    local $/;
    return scalar(<$fh>) // '';
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

    kill $signal, $master;

    return $self->gone(@pids) if !defined $opts{timeout};
    return $self->gone(@pids, timeout => $opts{timeout});
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


# ->wait_for(sub, seconds, what): polls until the sub is true and returns what
# it returned; '' after the time, with a diagnostic. The time is what it takes
# at most where nothing else runs; a machine that is shared is given a multiple,
# of which only what fails makes use.

our $PATIENCE = $ENV{TEST_PATIENCE} || 4;

sub wait_for {
    my ($self, $sub, $seconds, $what) = @_;

    $seconds = ($seconds // 10) * $PATIENCE;

    my $deadline = time() + $seconds;
    my $pause = 0.002;

    while (1) {
        my $value = $sub->();
        return $value if $value;

        if (time() > $deadline) {
            Test::More::diag("waited $seconds s in vain for $what")
                if defined $what;
            return '';
        }

        sleep($pause);
        $pause *= 1.5 if $pause < 0.05;
    }
}


# ->error_log, ->access_log: the whole text, or its lines in list context.
# ->grep_log(qr//): the lines of the error log that match; in scalar context
# their number. ->mark_log: later calls of grep_log see only what comes after.
# ->wait_log(qr//, seconds): waits for a line.

sub error_log { return $_[0]->text_or_lines('error.log') }
sub access_log { return $_[0]->text_or_lines('access.log') }

sub text_or_lines {
    my ($self, $name) = @_;
    my $text = $self->read_file($name);
    return wantarray ? split(/\n/, $text) : $text;
}

sub mark_log {
    my ($self) = @_;
    return $self->{mark} = length $self->read_file('error.log');
}

sub grep_log {
    my ($self, $re) = @_;
    my $text = substr $self->read_file('error.log'), $self->{mark} // 0;
    my @lines = grep { $_ =~ $re } split /\n/, $text;
    return wantarray ? @lines : scalar @lines;
}

sub wait_log {
    my ($self, $re, $seconds) = @_;
    return $self->wait_for(sub { scalar $self->grep_log($re) },
                           $seconds // 10, "a log line like $re");
}


# event(%overrides): the sender's documented example as JSON, its members in
# the documented order. An override changes or adds a member, undef removes it,
# a reference to a scalar is JSON text as it is:
#     event(companyId => 12345)
#     event(companyId => \'null', data => undef)
#     event(data => { batchId => 7 })

sub event {
    my (%overrides) = @_;

    my @members = (
        event => 'resume.bulk_upload_parse.started',
        timestamp => '2024-01-20T14:45:00Z',
        companyId => 'company-uuid',
        data => \'{"batchId": "batch-uuid", "fileCount": 25}',
    );

    my @text;

    while (my ($name, $value) = splice @members, 0, 2) {
        $value = delete $overrides{$name} if exists $overrides{$name};
        push @text, member($name, $value) if defined $value;
    }

    for my $name (sort keys %overrides) {
        push @text, member($name, $overrides{$name})
            if defined $overrides{$name};
    }

    return '{' . join(', ', @text) . '}';
}

# A value is characters and becomes UTF-8; a name and JSON text are bytes.

sub member {
    my ($name, $value) = @_;

    my $text = ref $value eq 'SCALAR' ? $$value : $UTF8->encode($value);
    my $key = $JSON->encode($name);
    utf8::downgrade($key);

    return "$key: $text";
}


# received_at(time), named_at(time): such a time, now without one, as an event's
# `received` and as a file's name has it. A line that a test writes is of now:
# what is older than max_age is given up after one attempt.

sub received_at { return at('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', 1e6, @_) }
sub named_at { return at('%04d%02d%02dT%02d%02d%02d.%03dZ', 1e3, @_) }

# time_of(received): back again, 0 if it is none.

sub time_of {
    my ($text) = @_;

    my ($year, $month, $day, $h, $m, $s) =
        $text =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d\.\d+)Z$/
        or return 0;

    return timegm(int $s, $m, $h, $day, $month - 1, $year) + $s - int $s;
}

sub at {
    my ($format, $units, $time) = @_;

    $time //= time();

    my ($s, $m, $h, $day, $month, $year) = gmtime $time;

    return sprintf $format, $year + 1900, $month + 1, $day, $h, $m, $s,
                   ($time - int $time) * $units;
}


# headers_for(json, %overrides): the documented headers of this event as a list
# reference [name, value, ...]; event and timestamp come from the JSON text if
# it has them. An override changes or adds a header (names are compared without
# case), undef removes it, a list reference repeats it.

sub headers_for {
    my ($json, %overrides) = @_;

    my ($event) = ($json // '') =~ /"event"\s*:\s*"([^"\\]*)"/;
    my ($timestamp) = ($json // '') =~ /"timestamp"\s*:\s*"([^"\\]*)"/;

    my @documented = (
        'Content-Type' => 'application/json',
        'X-Webhook-Event' => $event // 'resume.bulk_upload_parse.started',
        'X-Webhook-Timestamp' => $timestamp // '2024-01-20T14:45:00Z',
    );

    my %name = map { lc $_ => $_ } keys %overrides;
    my @headers;

    while (my ($name, $value) = splice @documented, 0, 2) {
        if (my $given = delete $name{lc $name}) {
            ($name, $value) = ($given, $overrides{$given});
        }
        push @headers, map { $name => $_ } grep { defined }
                       ref $value ? @$value : $value;
    }

    for my $given (sort values %name) {
        my $value = $overrides{$given};
        push @headers, map { $given => $_ } grep { defined }
                       ref $value ? @$value : $value;
    }

    return \@headers;
}


# ->post_together(path, bodies...): events that end at the same moment, so that
# several get into one file; the statuses.

sub post_together {
    my ($self, $path, @bodies) = @_;

    my @open = map {
        my $message = $self->message($path, $_);
        my $c = $self->connect();
        $c->send(substr $message, 0, -1);
        [$c, substr $message, -1];
    } @bodies;

    $_->[0]->send($_->[1]) for @open;

    my @statuses = map { $_->[0]->answer()->{status} } @open;

    $_->[0]->close() for @open;

    return @statuses;
}


# ->message(path, body, %opts): the bytes of a POST.
#     headers => {...}       overrides to headers_for(body)
#     headers => [...]       exactly these, in this order
#     chunked => n | [n...]  chunked; sizes are used in turn
#     method => 'POST', version => '1.1', host => 'localhost'
#     length => n            a Content-Length of its own; undef for none
#     keepalive => 1         without it, `Connection: close`

sub message {
    my ($self, $path, $body, %opts) = @_;

    my $headers = $opts{headers} // {};
    $headers = headers_for($body, %$headers) if ref $headers eq 'HASH';

    my $text = sprintf "%s %s HTTP/%s\r\nHost: %s\r\n",
                       $opts{method} // 'POST', $path,
                       $opts{version} // '1.1', $opts{host} // 'localhost';

    my @rest = @$headers;
    while (my ($name, $value) = splice @rest, 0, 2) {
        $text .= "$name: $value\r\n";
    }

    $text .= "Connection: close\r\n" if !$opts{keepalive};

    if ($opts{chunked}) {
        my @sizes = ref $opts{chunked} ? @{$opts{chunked}} : $opts{chunked};
        $text .= "Transfer-Encoding: chunked\r\n\r\n";
        return $text . chunked($body, @sizes);
    }

    my $length = exists $opts{length} ? $opts{length}
                 : defined $body ? length $body : undef;

    $text .= "Content-Length: $length\r\n" if defined $length;

    return "$text\r\n" . ($body // '');
}

sub chunked {
    my ($body, @sizes) = @_;
    my ($text, $offset, $i) = ('', 0, 0);

    while ($offset < length $body) {
        my $part = substr $body, $offset, $sizes[$i++ % @sizes];
        $text .= sprintf "%x\r\n%s\r\n", length $part, $part;
        $offset += length $part;
    }

    return "${text}0\r\n\r\n";
}


# ->post(path, body, %opts): sends message() and returns the answer:
#     { status, headers => { lower-case name => value }, body, json, interim,
#       closed, error, time }
# status is 0 if no answer came, and error then says why. `interim` counts 1xx.
#     tls => 1, port => n    where to; default port 0, with tls port 1
#     from => '127.0.0.2'    the address of the client
#     raw => bytes           sent instead of message()
#     split => n | [n...]    sent in writes of so many bytes
#     timeout => 40
# ->get(path, %opts): the same with GET and no webhook headers.

sub post {
    my ($self, $path, $body, %opts) = @_;
    my $bytes = $opts{raw} // $self->message($path, $body, %opts);
    return $self->request($bytes, %opts);
}

sub get {
    my ($self, $path, %opts) = @_;
    return $self->post($path, undef, method => 'GET', headers => [], %opts);
}


# ->request(bytes, %opts): sends them on a new connection, returns one answer.

sub request {
    my ($self, $bytes, %opts) = @_;

    my $start = time();
    my $c = eval { $self->connect(%opts) }
        or return { status => 0, headers => {}, body => '', error => $@ };

    $c->send($bytes, %opts);
    my $answer = $c->answer(%opts);
    $answer->{time} = time() - $start;
    $c->close();

    return $answer;
}


# ->connect(tls => 1, port => n): a connection to write to and read from as one
# likes, see Test::Edge::Connection below.

sub connect {
    my ($self, %opts) = @_;
    my $port = $opts{port} // $self->port($opts{tls} ? 1 : 0);
    return Test::Edge::Connection->new(%opts, port => $port);
}


# ->curl(@arguments): (exit status, output) of curl -sk.

sub curl {
    my ($self, @arguments) = @_;

    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        exec 'curl', '-sk', '--max-time', 20, @arguments or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? >> 8, $output);
}


# ->spool_files(dir = 'new'): the paths of its *.ndjson in order of names.
# ->spool_lines(dir): their lines, decoded; besides the envelope's members each
# has _line and _payload, the exact bytes, and _file, the file's name. A payload
# that JSON::PP does not take (a lone surrogate, say) is undef.
# ->forget_spool: removes all of new/, for the next case.

sub spool_files {
    my ($self, $dir) = @_;
    $dir //= 'new';
    my @files = sort glob $self->spool() . "/$dir/*.ndjson";

    return @files;
}

sub spool_lines {
    my ($self, $dir) = @_;
    my @lines;

    for my $path ($self->spool_files($dir)) {
        my $content = slurp($path);
        Test::More::diag("$path: no newline at the end")
            if $content !~ /\n\z/;

        for my $line (split /\n/, $content) {
            my $start = index $line, ',"payload":';
            my $payload = $start < 0 ? '' : substr $line, $start + 11, -1;
            my $envelope = $start < 0 ? $line : substr($line, 0, $start) . '}';

            my $decoded = eval { JSON::PP->new->utf8->decode($envelope) };
            if (!$decoded) {
                Test::More::diag("$path: not JSON: $@$line");
                $decoded = {};
            }

            $decoded->{payload} =
                eval { JSON::PP->new->utf8->allow_nonref->decode($payload) };

            push @lines, { %$decoded, _line => $line, _payload => $payload,
                           _file => basename($path) };
        }
    }

    return @lines;
}

sub forget_spool {
    my ($self) = @_;
    return unlink $self->spool_files();
}


# ->expect_alert(qr//), ->expect_emerg(qr//): such lines of the error log are
# part of the test.
# ->no_alerts: the last tests of each file. Stops nginx, then: no [alert], no
# [emerg], no report of a sanitizer.

sub expect_alert { my ($self, $re) = @_; push @{$self->{expected}}, $re }
sub expect_emerg { my ($self, $re) = @_; push @{$self->{expected}}, $re }

sub no_alerts {
    my ($self) = @_;

    my $tests = Test::More->builder();
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $tests->ok($self->stop(), 'nginx ends in time');

    my @lines = grep { /\[(alert|emerg)\]/ } $self->error_log();
    for my $re (@{$self->{expected}}) {
        @lines = grep { $_ !~ $re } @lines;
    }

    $tests->ok(!@lines, 'no alerts') or $tests->diag(join "\n", @lines);

    my @reports = map { slurp($_) } glob "$self->{prefix}/sanitizer/*";
    push @reports, grep {
        /AddressSanitizer|LeakSanitizer|runtime error:|SUMMARY: /
    } $self->error_log(), split /\n/, $self->read_file('stderr.log');

    $tests->ok(!@reports, 'no sanitizer errors')
        or $tests->diag(join "\n", @reports);

    return !@lines && !@reports;
}


sub DESTROY {
    my ($self) = @_;

    # A forked client leaves nginx and the prefix alone.
    return if $self->{owner} != $$;

    local ($?, $!, $@);

    $self->stop() if $self->{master};

    if ($self->{child} && !defined $self->{exit}) {
        kill 'KILL', $self->{child};
        waitpid $self->{child}, 0;
    }

    if ($ENV{TEST_NGINX_LEAVE}) {
        Test::More::diag("left: $self->{prefix}");
        return;
    }

    remove_tree($self->{prefix}, { error => \my $ignored });
}


package Test::Edge::Connection;

# A client's connection, plain or TLS.
#     my $c = $t->connect(tls => 1);
#     $c->send($bytes, split => 1);       all of it, in writes of 1 byte
#     my $answer = $c->answer();          as post() returns; call it again for
#                                         pipelined requests
#     $c->eof(5);                         true if the server closes within 5 s
#     $c->close();  $c->abort();          an orderly end; a reset

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Socket::INET;
use IO::Socket::SSL;
use Socket qw(IPPROTO_TCP TCP_NODELAY SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

sub new {
    my ($class, %opts) = @_;

    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $opts{port}, Proto => 'tcp',
        $opts{from} ? (LocalAddr => $opts{from}) : (),
        Timeout => $opts{timeout} // 40,
    ) or die "connect to port $opts{port}: $!\n";

    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;

    if ($opts{tls}) {
        $socket = IO::Socket::SSL->start_SSL(
            $socket, SSL_verify_mode => SSL_VERIFY_NONE,
            SSL_hostname => 'localhost', Timeout => $opts{timeout} // 40,
            %{$opts{ssl} // {}},
        ) or die "TLS: $SSL_ERROR\n";
    }

    $socket->blocking(0);

    return bless { socket => $socket, tls => $opts{tls}, in => '' }, $class;
}

sub socket { return $_[0]{socket} }


# ->send(bytes, split => n | [n...], timeout => 40): true if all was taken. What
# the server says meanwhile is kept for answer().

sub send {
    my ($self, $bytes, %opts) = @_;

    my @sizes = ref $opts{split} ? @{$opts{split}} : $opts{split} // ();
    my $deadline = time() + ($opts{timeout} // 40);
    my $offset = 0;
    my $i = 0;

    while ($offset < length $bytes) {
        my $size = @sizes ? $sizes[$i++ % @sizes] : 65536;
        my $part = substr $bytes, $offset, $size;

        while (length $part) {
            my $n = $self->{socket}->syswrite($part);

            if (defined $n && $n > 0) {
                substr $part, 0, $n, '';
                $offset += $n;
                next;
            }

            if ($! != EAGAIN && $! != EWOULDBLOCK && $! != EINTR) {
                $self->{error} = "write: $!";
                return 0;
            }

            # The server may have to get rid of an early answer first.
            $self->wait_io($deadline, 1) or return 0;
            $self->read_some();
        }
    }

    return 1;
}

# Waits for input, with $writing for room to write as well.

sub wait_io {
    my ($self, $deadline, $writing) = @_;

    my $left = $deadline - time();
    if ($left <= 0) {
        $self->{error} = 'timeout';
        return 0;
    }

    my $number = fileno $self->{socket};
    return 0 if !defined $number;

    my $fd = '';
    vec($fd, $number, 1) = 1;
    my ($in, $out) = ($fd, $fd);

    select $in, $writing ? $out : undef, undef, $left;

    return 1;
}

# Bytes read, 0 if there are none now, undef at the end.

sub read_some {
    my ($self) = @_;

    return undef if $self->{eof};

    my $n = $self->{socket}->sysread($self->{in}, 65536, length $self->{in});

    return $n if $n;
    return 0 if !defined $n && ($! == EAGAIN || $! == EWOULDBLOCK
                                || $! == EINTR);

    $self->{error} = defined $n ? 'closed' : "read: $!";
    $self->{eof} = 1;

    return undef;
}

sub fill {
    my ($self, $deadline) = @_;

    while (1) {
        my $n = $self->read_some();
        return 0 if !defined $n;
        return 1 if $n;
        $self->wait_io($deadline) or return 0;
    }
}


# ->answer(timeout => 40, method => 'POST'): the next answer.

sub answer {
    my ($self, %opts) = @_;

    my $deadline = time() + ($opts{timeout} // 40);
    my $answer = { status => 0, headers => {}, body => '', interim => 0 };

    while ($answer->{status} < 200) {
        until ($self->{in} =~ /\r\n\r\n/) {
            if (!$self->fill($deadline)) {
                $answer->{status} = 0;
                $answer->{error} = $self->{error} // 'closed';
                return $answer;
            }
        }

        $self->{in} =~ s/^(.*?)\r\n\r\n//s;
        my ($first, @lines) = split /\r\n/, $1;

        ($answer->{status}) = $first =~ m{^HTTP/1\.[01] (\d{3})};
        $answer->{status} //= 0;
        $answer->{first} = $first;
        last if $answer->{status} == 0;

        if ($answer->{status} < 200) {
            $answer->{interim}++;
            last if $opts{interim};
            next;
        }

        for my $line (@lines) {
            my ($name, $value) = split /:\s*/, $line, 2;
            $name = lc $name;
            $answer->{headers}{$name} =
                defined $answer->{headers}{$name}
                ? "$answer->{headers}{$name}, $value" : $value;
        }
    }

    return $answer if $answer->{status} < 200;

    $self->body($answer, $deadline, $opts{method} // 'POST');

    $answer->{json} = eval {
        JSON::PP->new->utf8->allow_nonref->decode($answer->{body});
    };

    return $answer;
}

sub body {
    my ($self, $answer, $deadline, $method) = @_;

    my $headers = $answer->{headers};

    return if $method eq 'HEAD' || $answer->{status} == 204
              || $answer->{status} == 304;

    if (($headers->{'transfer-encoding'} // '') eq 'chunked') {
        while (1) {
            my $size;

            # $1 is another one after each round of a loop

            until (defined $size) {
                $size = hex $1
                    if $self->{in} =~ s/^([0-9a-fA-F]+)[^\r\n]*\r\n//;
                defined $size || $self->fill($deadline)
                    or return short($self, $answer);
            }
            while (length $self->{in} < $size + 2) {
                $self->fill($deadline) or return short($self, $answer);
            }
            $answer->{body} .= substr $self->{in}, 0, $size, '';
            substr $self->{in}, 0, 2, '';
            return if $size == 0;
        }
    }

    if (defined(my $length = $headers->{'content-length'})) {
        while (length $self->{in} < $length) {
            $self->fill($deadline) or return short($self, $answer);
        }
        $answer->{body} = substr $self->{in}, 0, $length, '';
        return;
    }

    1 while $self->fill($deadline);
    $answer->{body} = $self->{in};
    $self->{in} = '';
    $answer->{closed} = 1;
}

sub short {
    my ($self, $answer) = @_;
    $answer->{error} = 'short body: ' . ($self->{error} // '');
    $answer->{body} .= $self->{in};
    $self->{in} = '';
}


# ->interim(): waits for a 1xx answer and returns it.
# ->eof(seconds): whether the server closes the connection, with nothing more
# to read.

sub interim {
    my ($self, %opts) = @_;
    return $self->answer(%opts, interim => 1);
}

sub eof {
    my ($self, $seconds) = @_;
    my $deadline = time() + ($seconds // 20);
    1 while $self->fill($deadline);
    return $self->{eof} && $self->{in} eq '' ? 1 : 0;
}

sub close {
    my ($self) = @_;
    $self->{socket}->close();
}

sub abort {
    my ($self) = @_;
    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
    $self->{socket}->close($self->{tls} ? (SSL_no_shutdown => 1) : ());
}

1;
