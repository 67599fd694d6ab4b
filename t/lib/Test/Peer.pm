package Test::Peer;

# A server of a few lines, for answers that no server would give: it listens,
# and each connection is served in a process of its own. All of them end with
# the test.
#
#     Test::Peer->new(port => $t->port(2), serve => sub {
#         my ($c) = @_;
#         my $request = read_http($c) or return;
#         syswrite $c, "HTTP/1.1 200 OK\r\nContent-Le";
#     });
#
#     Test::Peer->process(sub { ... });      a process that ends so, too
#     Test::Peer->php($t, max_children => 2) or skip ...;

use strict;
use warnings;

use Exporter qw(import);
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use Test::Edge;
use Test::More ();

our @EXPORT = qw(read_bytes read_until read_http read_fastcgi read_uwsgi
                 read_scgi read_grpc cgi_headers);

my @processes;
my $owner = $$;


$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);


END {
    if ($$ == $owner) {
        local $?;
        kill 'TERM', @processes;
        waitpid $_, 0 for @processes;
    }
}


# ->new(%opts): the pid of the one that listens.
#     port => n | path => ...    where
#     serve => sub(socket)       what is done with a connection
#     seconds => 60              after these a connection's process is ended

sub new {
    my ($class, %opts) = @_;

    my $listener = $opts{path}
        ? IO::Socket::UNIX->new(Local => $opts{path}, Listen => 100)
        : IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                LocalPort => $opts{port}, Listen => 100,
                                ReuseAddr => 1);
    $listener or die 'listen on ' . ($opts{path} // $opts{port}) . ": $!";
    chmod 0666, $opts{path} if $opts{path};

    return $class->process(sub {
        $SIG{CHLD} = 'IGNORE';

        while (1) {
            my $c = $listener->accept() or next;
            my $pid = fork() // next;

            if ($pid != 0) {
                close $c;
                next;
            }

            alarm +($opts{seconds} // 60) * $Test::Edge::PATIENCE;
            close $listener;
            eval { $opts{serve}->($c); 1 } or print STDERR $@;
            close $c;
            POSIX::_exit(0);
        }
    });
}

sub process {
    my ($class, $sub) = @_;

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        eval { $sub->(); 1 } or print STDERR $@;
        POSIX::_exit(1);
    }

    push @processes, $pid;

    return $pid;
}


# ->php($t, %settings): PHP-FPM at <prefix>/php/fpm.sock, unprivileged, for the
# scripts in php/, with such settings of its pool; false if there is none.

sub php {
    my ($class, $t, %settings) = @_;

    my ($binary) = grep { -x } glob '/usr/sbin/php-fpm*';
    return 0 if !$binary;

    my $dir = $t->prefix() . '/php';
    my $user = $t->worker_user();
    my @ids = defined $user ? (getpwnam $user)[2, 3] : ();

    mkdir $dir;
    chown @ids, $dir if @ids;

    my $pool = join "\n", map { "$_ = $settings{$_}" } sort keys %settings;

    $t->write_file('php/fpm.conf', <<"CONF");
[global]
daemonize = no
pid = $dir/fpm.pid
error_log = $dir/error.log

[www]
listen = $dir/fpm.sock
listen.mode = 0666
pm = static
$pool
CONF

    $class->process(sub {
        if (@ids) {
            $) = "$ids[1] $ids[1]";
            $( = $ids[1];
            POSIX::setuid($ids[0]);
        }

        $SIG{PIPE} = 'DEFAULT';
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$dir/output";
        open STDERR, '>&', \*STDOUT;
        exec $binary, '-n', '-F', '-y', "$dir/fpm.conf" or POSIX::_exit(127);
    });

    $t->wait_for(sub { -S "$dir/fpm.sock" }, 10, 'php-fpm') or do {
        Test::More::diag($t->read_file("$dir/output"),
                         $t->read_file("$dir/error.log"));
        Test::More::fail('php-fpm starts');
    };

    return 1;
}


# read_bytes(socket, \buffer, n), read_until(socket, \buffer, end): exactly so
# many bytes, and all up to and with these, from what was read too early and
# from the peer; undef at its end.

sub read_bytes {
    my ($c, $buffer, $n) = @_;

    while (length $$buffer < $n) {
        $c->sysread($$buffer, 65536, length $$buffer) or return undef;
    }

    return substr $$buffer, 0, $n, '';
}

sub read_until {
    my ($c, $buffer, $end) = @_;

    while (index($$buffer, $end) < 0) {
        $c->sysread($$buffer, 65536, length $$buffer) or return undef;
    }

    return substr $$buffer, 0, index($$buffer, $end) + length $end, '';
}


# read_http(socket) and so on: a request, { method, uri, headers, body, keep },
# of which FastCGI and gRPC have the body alone; undef at the end.

sub read_http {
    my ($c) = @_;
    my $buffer = '';

    my $head = read_until($c, \$buffer, "\r\n\r\n") // return undef;
    my ($first, @lines) = split /\r\n/, $head;
    my ($method, $uri) = split / /, $first;
    my %headers;

    for my $line (@lines) {
        my ($name, $value) = split /: /, $line, 2;
        $headers{lc $name} = exists $headers{lc $name}
                             ? "$headers{lc $name}, $value" : $value;
    }

    my $body = read_bytes($c, \$buffer, $headers{'content-length'} // 0)
               // return undef;

    return { method => $method, uri => $uri, headers => \%headers,
             body => $body,
             keep => $first =~ m{HTTP/1\.1$} && !$headers{connection} };
}

sub read_fastcgi {
    my ($c) = @_;
    my $buffer = '';
    my $body = '';

    while (1) {
        my $head = read_bytes($c, \$buffer, 8) // return undef;
        my (undef, $type, undef, $length, $padding) = unpack 'CCnnC', $head;
        my $data = read_bytes($c, \$buffer, $length + $padding) // return undef;

        next if $type != 5;
        return { body => $body } if $length == 0;

        $body .= substr $data, 0, $length;
    }
}

# a packet of pairs, all with their lengths, then the body

sub read_uwsgi {
    my ($c) = @_;
    my $buffer = '';

    my $head = read_bytes($c, \$buffer, 4) // return undef;
    my (undef, $size) = unpack 'CvC', $head;
    my $packet = read_bytes($c, \$buffer, $size) // return undef;
    my %params = unpack '(v/a)*', $packet;

    return cgi_request($c, \$buffer, %params);
}

# a netstring of names and values, then the body

sub read_scgi {
    my ($c) = @_;
    my $buffer = '';

    my $size = read_until($c, \$buffer, ':') // return undef;
    chop $size;
    my $packet = read_bytes($c, \$buffer, $size + 1) // return undef;
    my %params = $packet =~ /\G([^\0]*)\0([^\0]*)\0/g;

    return cgi_request($c, \$buffer, %params);
}

sub cgi_request {
    my ($c, $buffer, %params) = @_;

    my $body = read_bytes($c, $buffer, $params{CONTENT_LENGTH})
               // return undef;

    return { method => $params{REQUEST_METHOD}, uri => $params{REQUEST_URI},
             headers => cgi_headers(%params), body => $body };
}

# the headers of an event, as HTTP has them

sub cgi_headers {
    my (%params) = @_;
    my %headers;

    for my $name (keys %params) {
        my ($header) = $name =~ /^(?:HTTP_)?(X_\w+|CONTENT_\w+|COOKIE)$/
            or next;
        $header =~ tr/A-Z_/a-z-/;
        $headers{$header} = $params{$name};
    }

    return \%headers;
}

sub read_grpc {
    my ($c) = @_;
    my $buffer = '';
    my $body = '';

    read_until($c, \$buffer, "\r\n\r\nSM\r\n\r\n") // return undef;

    while (1) {
        my $head = read_bytes($c, \$buffer, 9) // return undef;
        my ($length, $type, $flags) = (unpack('N', "\0$head"),
                                       unpack('x3CC', $head));
        my $data = read_bytes($c, \$buffer, $length) // return undef;

        next if $type != 0;

        $body .= $data;

        return { body => $body } if $flags & 1;
    }
}

1;
