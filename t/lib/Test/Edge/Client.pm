package Test::Edge::Client;

# The client of Test::Edge: requests of every odd kind, and their answers.

use strict;
use warnings;

use Exporter qw(import);
use POSIX ();
use Test::Edge::Connection;
use Test::Edge::Event qw(headers_for);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(chunked);


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


# ->status_of(path): what the status location says, the JSON form decoded.

sub status_of {
    my ($self, $path) = @_;
    return $self->get($path, headers => [Accept => 'application/json'])->{json};
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
# likes, see Test::Edge::Connection.

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

1;
