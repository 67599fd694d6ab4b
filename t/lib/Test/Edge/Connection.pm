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
use JSON::PP ();
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
