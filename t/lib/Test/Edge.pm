package Test::Edge;

# A small harness: a real nginx with the module, in a temporary prefix, on
# reserved ports, and a client that can send requests in every odd way.
# Perl's core modules and IO::Socket::SSL only. What is here is its prefix, its
# ports and its waiting; the rest is in Test/Edge/*.pm, which are parts of it.
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
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use Test::Edge::Client qw(chunked);
use Test::Edge::Event qw(event headers_for received_at named_at time_of);
use Test::Edge::Files qw(slurp);
use Test::Edge::Process qw(children);
use Test::More ();
use Time::HiRes qw(sleep time);

use parent qw(Test::Edge::Client Test::Edge::Conf Test::Edge::Files
              Test::Edge::Log Test::Edge::Process);

our @EXPORT = qw(event headers_for);
our @EXPORT_OK = qw(received_at named_at);

my $MODULE = 'ngx_http_taptalent_webhook_module.so';
my $TOP = dirname(dirname(dirname(dirname(abs_path(__FILE__)))));

$SIG{PIPE} = 'IGNORE';


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

1;
