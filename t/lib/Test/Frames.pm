package Test::Frames;

# A client of HTTP/2 that sends any frame at any time. It has no flow control of
# its own and compresses nothing: header fields are literals without indexing.
#
#   my $h = Test::Frames->new($t->connect(port => 8080));     prior knowledge
#   my $h = Test::Frames->new($t->connect(Test::Frames::tls()),
#                             { 4 => 0 });             SETTINGS of the client
#   my $s = $h->post('/hook', $fields, $body);   a whole request, its stream
#   my $s = $h->post('/hook', $fields);          only the head
#   $h->data($s, $bytes, $end);
#   $h->frame($type, $flags, $stream, $payload);
#   $h->headers($s, [name => value, ...], $end);
#   $h->rst($s);  $h->goaway();  $h->window($s, $n);
#   $h->wait($s);            until the stream has ended, see status
#   $h->wait(sub { ... }, $seconds);
#   $h->status($s)           200; "reset 7" or "refused" if it has none
#   $h->closed()             the server has sent GOAWAY or closed
#
# What the server sends is in {status}, {body}, {end}, {reset} by stream, and in
# {goaway} (an error code); PING and SETTINGS are answered.

use warnings;
use strict;

use IO::Socket::SSL;
use Time::HiRes qw(time);


my %indexed = (0x88 => 200, 0x89 => 204, 0x8a => 206, 0x8b => 304,
               0x8c => 400, 0x8d => 404, 0x8e => 500);


sub new {
    my ($class, $connection, $settings) = @_;

    my $self = bless { c => $connection, last => -1, status => {}, body => {},
                       end => {}, reset => {} }, $class;

    $self->{c}->send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        . bytes(4, 0, 0, join '', map { pack 'nN', $_, $settings->{$_} }
                                      sort keys %{ $settings || {} }));

    return $self;
}


# options of a connection; to make a context takes longer than a handshake

my $context;

sub tls {
    $context ||= IO::Socket::SSL::SSL_Context->new(
                     SSL_verify_mode => 0, SSL_alpn_protocols => ['h2'])
        or die "TLS: $SSL_ERROR\n";

    return (tls => 1, ssl => { SSL_reuse_ctx => $context });
}


sub bytes {
    my ($type, $flags, $stream, $payload) = @_;

    return substr(pack('N', length $payload), 1)
           . pack('CCN', $type, $flags, $stream) . $payload;
}

sub frame {
    my ($self, @frame) = @_;
    return $self->{c}->send(bytes(@frame));
}

sub data {
    my ($self, $stream, $data, $end) = @_;

    my @parts = $data eq '' ? '' : unpack '(a8192)*', $data;
    my $last = pop @parts;

    return $self->{c}->send(join '', (map { bytes(0, 0, $stream, $_) } @parts),
                                     bytes(0, $end ? 1 : 0, $stream, $last));
}

sub rst {
    my ($self, $stream) = @_;
    return $self->frame(3, 0, $stream, pack 'N', 8);
}

sub goaway { return $_[0]->frame(7, 0, 0, pack 'NN', 0, 0) }

sub window {
    my ($self, $stream, $n) = @_;
    return $self->frame(8, 0, $stream, pack 'N', $n);
}


# HEADERS, and as many CONTINUATIONs as it takes

sub headers {
    my ($self, $stream, $fields, $end) = @_;
    return $self->{c}->send(head($stream, $fields, $end));
}

sub head {
    my ($stream, $fields, $end) = @_;

    my ($first, @more) = unpack '(a16000)*', literals(@$fields);
    my $last = pop @more;

    return bytes(1, (defined $last ? 0 : 4) | ($end ? 1 : 0), $stream, $first)
           . join('', map { bytes(9, 0, $stream, $_) } @more)
           . (defined $last ? bytes(9, 4, $stream, $last) : '');
}

sub literals {
    my $text = '';

    while (my ($name, $value) = splice @_, 0, 2) {
        $text .= "\0" . string($name) . string($value);
    }

    return $text;
}

# RFC 7541, 5.1 and 5.2

sub string {
    my ($text) = @_;

    my $n = length $text;

    return chr($n) . $text if $n < 127;

    $n -= 127;
    my $length = chr 127;

    while ($n >= 128) {
        $length .= chr($n % 128 + 128);
        $n >>= 7;
    }

    return $length . chr($n) . $text;
}


sub next_stream { return $_[0]{last} += 2 }

sub post {
    my ($self, $uri, $fields, $body) = @_;

    my $stream = $self->next_stream();

    $self->headers($stream, [':method' => 'POST', ':scheme' => 'http',
                             ':path' => $uri, ':authority' => 'localhost',
                             @$fields]);
    $self->data($stream, $body, 1) if defined $body;

    return $stream;
}


# Takes what has come; false if that is all and the connection has ended.

sub take {
    my ($self) = @_;

    my $more;

    1 while $more = $self->{c}->read_some();

    while (length $self->{c}{in} >= 9) {
        my $length = unpack 'N', "\0" . substr $self->{c}{in}, 0, 3;

        last if length $self->{c}{in} < 9 + $length;

        my ($type, $flags, $stream) = unpack 'x3CCN',
                                      substr $self->{c}{in}, 0, 9;
        my $payload = substr $self->{c}{in}, 9, $length;

        substr $self->{c}{in}, 0, 9 + $length, '';
        $self->got($type, $flags, $stream, $payload);
    }

    return defined $more;
}

sub got {
    my ($self, $type, $flags, $stream, $payload) = @_;

    $self->{end}{$stream} = 1 if $type < 2 && $flags & 1;

    if ($type == 0) {
        $self->{body}{$stream} .= $payload;

    } elsif ($type == 1) {
        $payload =~ s/^\x20//;
        $self->{status}{$stream} = $payload =~ /^\x48\x03(\d{3})/ ? $1
                                   : $indexed{ord $payload} || '?';

    } elsif ($type == 3) {
        $self->{reset}{$stream} = unpack 'N', $payload;

    } elsif ($type == 7) {
        $self->{goaway} = unpack 'x4N', $payload;

    } elsif (($type == 4 || $type == 6) && !($flags & 1)) {
        $self->frame($type, 1, 0, $type == 4 ? '' : $payload);
    }
}


sub wait {
    my ($self, $what, $seconds) = @_;

    my $deadline = time() + ($seconds || 10) * $Test::Edge::PATIENCE;

    my $done = ref $what ? $what
             : sub { $self->{end}{$what} || defined $self->{reset}{$what} };

    until ($done->()) {
        my $alive = $self->take();

        return 1 if $done->();
        return 0 if !$alive;

        $self->{c}->wait_io($deadline) or return 0;
    }

    return 1;
}

sub status {
    my ($self, $stream) = @_;

    my $reset = $self->{reset}{$stream};

    return $self->{status}{$stream} if $self->{status}{$stream};
    return 'none' if !defined $reset;
    return $reset == 7 ? 'refused' : "reset $reset";
}

sub closed {
    my ($self) = @_;
    return defined $self->{goaway} || $self->{c}{eof};
}


1;
