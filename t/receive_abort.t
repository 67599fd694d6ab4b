#!/usr/bin/perl

# Clients that go away at every point of a request. Each loses its answer, and
# nobody else loses anything.

use warnings;
use strict;

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list read_spool event_body);


my $t = Test::Edge->new();
my $threads = $t->has('--with-threads');
my $no_strace = $> != 0 ? 'needs root' : Test::Fault->no_strace();

$t->conf(<<'EOF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 60s;

    keepalive_requests 100000;
    client_body_buffer_size 8k;

    taptalent_webhook_spool %%SPOOL%%;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        listen 127.0.0.1:%%PORT_2%% http2;
        %%TLS%%

        location /hook {
            taptalent_webhook on;
        }

        location /timeout {
            taptalent_webhook on;
            taptalent_webhook_ack_timeout 200ms;
        }

        location /ping {
            return 200 pong;
        }
    }
}

EOF

$t->run();

my ($pid) = $t->workers();
my $spool = $t->spool();
my $o = Test::Spool->new();
my ($trials, $n) = (0, 0);

my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;

srand $seed;
note("TEST_SEED=$seed");


sub next_id { return 'abort-0-' . $n++ }

sub spooled_ids {
    return map { /"data":\{"id":"([^"]+)"/ } map { @{ $_->{lines} } }
           read_spool($spool);
}

sub is_spooled {
    my ($id) = @_;

    return scalar grep { $_ eq $id } spooled_ids();
}

# after each: the same worker answers another client

sub goes_on {
    my ($name) = @_;

    my $id = next_id();

    $trials++;
    $o->note_sent($id);

    my $status = $t->post('/hook', event_body($id))->{status};

    $o->note_acked($id) if $status == 200;

    is("$status " . join(' ', $t->workers()), "200 $pid", "goes on: $name");
}

sub slow {
    return Test::Fault->strace([Test::Fault->committers($pid)],
                               'fdatasync:delay_enter=300s');
}

sub wait_slow {
    return $t->wait_for(sub {
        grep { /ndjson/ && -s "$spool/tmp/$_" } list("$spool/tmp")
    }, 10, 'the commit to reach the disk');
}

# an orderly end or a reset

my %ends = (close => sub { $_[0]->close() }, reset => sub { $_[0]->abort() });


# before the whole body is there -----------------------------------------------


for my $tls (0, 1) {
    for my $end (sort keys %ends) {
        my $over = ($tls ? 'TLS, ' : '') . $end;
        my $big = 'abort-x-' . (53 * 1000 + 7);

        for my $case (['in the request line', event_body('abort-x-17'), 10],
                      ['in the headers', event_body('abort-x-17'), 90],
                      ['after the headers', event_body('abort-x-17'), 'head'],
                      ['in the body', event_body('abort-x-20'), -100],
                      ['in a body beyond the buffer', event_body($big), -100],
                      ['a byte before its end', event_body('abort-x-17'), -1])
        {
            my ($name, $body, $length) = @$case;
            my $bytes = $t->message('/hook', $body);

            $length = index($bytes, "\r\n\r\n") + 4 if $length eq 'head';

            my $c = $t->connect(tls => $tls);

            $c->send(substr $bytes, 0, $length);
            $t->get('/ping');
            $ends{$end}->($c);
            goes_on("$name, $over");
        }

        my $c = $t->connect(tls => $tls);
        my $bytes = $t->message('/hook', event_body($big), chunked => 1000);

        $c->send(substr $bytes, 0, 20_500);
        $t->get('/ping');
        $ends{$end}->($c);
        goes_on("in a chunk, $over");
    }
}

is(scalar(grep { $_ eq 'abort-x-17' || $_ eq 'abort-x-20' } spooled_ids()), 0,
   'nothing of these is spooled');


# TLS --------------------------------------------------------------------------


for my $bytes ('', "\x16\x03\x01\x02\x00\x01\x00", "\x16\x03\x01\x02\x00\x01"
               . "\x00\x01\xfc\x03\x03" . 'r' x 100, "GET / HTTP/1.1\r\n")
{
    for my $end (sort keys %ends) {
        my $c = $t->connect(port => $t->port(1));

        $c->send($bytes);
        $t->get('/ping');
        $ends{$end}->($c);
        goes_on('in the handshake, ' . length($bytes) . " bytes, $end");
    }
}


# while the commit runs --------------------------------------------------------


SKIP: {
    skip $no_strace, 1 if $no_strace;
    skip 'no threads: a slow disk holds the whole worker', 1 unless $threads;

    for my $tls (0, 1) {
        for my $end (sort keys %ends) {
            my $over = ($tls ? 'TLS, ' : '') . $end;
            my $strace = slow();
            my @ids = map { next_id() } 1 .. 6;
            my @conns;

            # the first is in the commit, the others gather

            for my $id (@ids) {
                my $c = $t->connect(tls => $tls);

                $o->note_sent($id);
                $c->send($t->message('/hook', event_body($id)));
                push @conns, $c;
                wait_slow() if @conns == 1;
            }

            $t->get('/ping') for 1 .. 3;

            # of each kind some stay

            $ends{$end}->($conns[$_]) for 0, 1, 3;
            $t->get('/ping') for 1 .. 3;

            is(scalar(grep { is_spooled($_) } @ids), 0, 'nothing is in new/ yet');

            $strace->detach();

            for my $i (2, 4, 5) {
                my $status = $conns[$i]->answer()->{status};

                is($status, 200, "those that stay are answered, $over");
                $o->note_acked($ids[$i]) if $status == 200;
            }

            goes_on("while the commit runs, $over");

            is(scalar(grep { is_spooled($_) == 1 } @ids), 6,
               "gone or not, every event is spooled once, $over");
        }
    }

    # all of a group are gone

    {
        my $strace = slow();
        my @ids = map { next_id() } 1 .. 3;
        my @conns;

        for my $id (@ids) {
            my $c = $t->connect();

            $o->note_sent($id);
            $c->send($t->message('/hook', event_body($id)));
            push @conns, $c;
            wait_slow() if @conns == 1;
        }

        $t->get('/ping');
        $_->abort() for @conns;
        $t->get('/ping');
        $strace->detach();
        goes_on('all of a group');
        is(scalar(grep { is_spooled($_) == 1 } @ids), 3, 'all are spooled');
    }

    # gone after the answer for want of time, and then the commit ends

    {
        my $strace = slow();
        my $id = next_id();
        my $c = $t->connect();

        $o->note_sent($id);
        $c->send($t->message('/timeout', event_body($id), keepalive => 1));
        is($c->answer()->{status}, 503, 'ack_timeout');
        $c->abort();
        $t->get('/ping');
        $strace->detach();
        goes_on('after the ack_timeout');
        is(is_spooled($id), 1, 'it is spooled');
    }

    # a second request in the pipeline, and then gone

    {
        my $strace = slow();
        my @ids = map { next_id() } 1 .. 3;
        my $c = $t->connect();

        $o->note_sent($_) for @ids;
        $c->send(join '', map { $t->message('/hook', event_body($_),
                                            keepalive => 1) } @ids);
        wait_slow();
        $t->get('/ping');
        $c->abort();
        $t->get('/ping');
        $strace->detach();
        goes_on('with a pipeline');
        is(is_spooled($ids[0]), 1, 'the first is spooled');
    }

    # half closed: it still reads, and gets its answer

    {
        my $strace = slow();
        my $id = next_id();
        my $c = $t->connect();

        $o->note_sent($id);
        $c->send($t->message('/hook', event_body($id)));
        wait_slow();
        shutdown $c->socket(), 1;
        $t->get('/ping') for 1 .. 3;
        $strace->detach();

        my $status = $c->answer()->{status};

        is($status, 200, 'half closed, answered');
        $o->note_acked($id) if $status == 200;
        goes_on('half closed');
    }
}


# pipelines that are read to their end, and to the middle

{
    my @ids = map { next_id() } 1 .. 5;
    my $c = $t->connect();

    $o->note_sent($_) for @ids;
    $c->send(join '', map { $t->message('/hook', event_body($_),
                                        keepalive => 1) } @ids);

    for my $id (@ids) {
        my $status = $c->answer()->{status};

        is($status, 200, 'pipelined, answered');
        $o->note_acked($id) if $status == 200;
    }

    $c->abort();
    goes_on('after a pipeline');
}

{
    my @ids = map { next_id() } 1 .. 5;
    my $c = $t->connect();
    my @bytes = map { $t->message('/hook', event_body($_), keepalive => 1) } @ids;

    $o->note_sent($_) for @ids;
    $bytes[-1] = substr $bytes[-1], 0, -7;
    $c->send(join '', @bytes);

    my $status = $c->answer()->{status};

    is($status, 200, 'pipelined, the first is answered');
    $o->note_acked($ids[0]) if $status == 200;
    $c->abort();
    goes_on('in the middle of a pipeline');
    is(is_spooled($ids[4]), 0, 'half a request is not spooled');
}


# HTTP/2 -----------------------------------------------------------------------


# As little of a client as will do: literal headers, one frame after another.

package H2;

sub new {
    my ($class, $port) = @_;

    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
        or die "connect() failed: $!";

    setsockopt $s, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1;

    my $self = bless { s => $s, in => '', stream => -1, status => {} }, $class;

    syswrite $s, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    $self->frame(4, 0, 0, '');

    return $self;
}

sub frame {
    my ($self, $type, $flags, $stream, $payload) = @_;

    syswrite $self->{s}, substr(pack('N', length $payload), 1)
                         . pack('CCN', $type, $flags, $stream) . $payload;
}

sub literal {
    my $text = '';

    while (my ($name, $value) = splice @_, 0, 2) {
        $text .= "\0" . pack('C/a*', $name) . pack('C/a*', $value);
    }

    return $text;
}

# the headers of a POST; returns its stream

sub post {
    my ($self, $uri, $length) = @_;

    $self->{stream} += 2;
    $self->frame(1, 4, $self->{stream}, literal(
        ':method' => 'POST', ':scheme' => 'http', ':path' => $uri,
        ':authority' => 'localhost', 'content-type' => 'application/json',
        'x-webhook-event' => 'resume.bulk_upload_parse.started',
        'x-webhook-timestamp' => '2024-01-20T14:45:00Z',
        'content-length' => $length));

    return $self->{stream};
}

sub data {
    my ($self, $stream, $data, $end) = @_;

    my $last = '';
    $last = substr $data, -1, 1, '' if $end;

    $self->frame(0, 0, $stream, $1) while $data =~ /(.{1,8000})/gs;
    $self->frame(0, 1, $stream, $last) if $end;
}

sub reset { my ($self, $stream) = @_; $self->frame(3, 0, $stream, pack 'N', 8) }

# the bytes of the body that answers a stream, '' if it was closed before

sub answer {
    my ($self, $stream) = @_;

    my $until = Time::HiRes::time() + 10;

    until (defined $self->{done}{$stream}) {
        while (length $self->{in} >= 9) {
            my ($length) = unpack 'N', "\0" . substr $self->{in}, 0, 3;
            my ($type, $flags, $id) = unpack 'CCN', substr $self->{in}, 3, 6;

            last if length $self->{in} < 9 + $length;

            my $payload = substr $self->{in}, 9, $length;
            substr $self->{in}, 0, 9 + $length, '';

            $self->{body}{$id} .= $payload if $type == 0;
            $self->{done}{$id} = 1 if $type < 2 && $flags & 1;
            $self->{done}{$id} = 1 if $type == 3 && $id != 0;
            $self->frame(4, 1, 0, '') if $type == 4 && !($flags & 1);
            $self->frame(6, 1, 0, $payload) if $type == 6 && !($flags & 1);
            return "GOAWAY " . unpack 'x4N', $payload if $type == 7;
        }

        last if defined $self->{done}{$stream};

        my $left = $until - Time::HiRes::time();
        vec(my $in = '', fileno $self->{s}, 1) = 1;

        return 'timeout' unless $left > 0 && select $in, undef, undef, $left;
        sysread $self->{s}, $self->{in}, 65536, length $self->{in}
            or return 'closed';
    }

    return defined $self->{body}{$stream} ? $self->{body}{$stream} : '';
}

sub abort {
    my ($self) = @_;

    setsockopt $self->{s}, Socket::SOL_SOCKET(), Socket::SO_LINGER(),
               pack('ii', 1, 0);
    close $self->{s};
}

package main;


SKIP: {
    skip 'no HTTP/2', 1 unless $t->has('--with-http_v2_module');

    my $accepted = '{"received":true}';
    my $h2 = H2->new($t->port(2));

    my $whole = sub {
        my ($name) = @_;
        my $id = next_id();
        my $body = event_body($id);
        my $stream = $h2->post('/hook', length $body);

        $o->note_sent($id);
        $h2->data($stream, $body, 1);

        my $answer = $h2->answer($stream);

        $o->note_acked($id) if $answer eq $accepted;
        is($answer, $accepted, "HTTP/2, the connection goes on: $name");
    };

    $whole->('before');

    for my $size ('small', 'large') {
        my $body = event_body('abort-0-' . ($size eq 'small' ? 53 : 53 * 100 + 7));

        my $stream = $h2->post('/hook', length $body);
        $t->get('/ping');
        $h2->reset($stream);
        $whole->("a reset after the headers, $size");

        $stream = $h2->post('/hook', length $body);
        $h2->data($stream, substr($body, 0, length($body) / 2), 0);
        $t->get('/ping');
        $h2->reset($stream);
        $whole->("a reset in the body, $size");

        # it says that it ends, but it is not all

        $stream = $h2->post('/hook', length $body);
        $h2->data($stream, substr($body, 0, length($body) / 2), 1);
        unlike($h2->answer($stream), qr/received":true/, 'half is not accepted');
        $whole->("an end before the end, $size");
    }

    SKIP: {
        skip 'needs threads and strace', 1 if !$threads || $no_strace;

        my $strace = slow();
        my @ids = map { next_id() } 1 .. 4;
        my @streams;

        for my $id (@ids) {
            my $body = event_body($id);
            my $stream = $h2->post('/hook', length $body);

            $o->note_sent($id);
            $h2->data($stream, $body, 1);
            push @streams, $stream;
            wait_slow() if @streams == 1;
        }

        $t->get('/ping');
        $h2->reset($streams[0]);
        $h2->reset($streams[2]);
        $t->get('/ping');
        $strace->detach();

        for my $i (1, 3) {
            my $answer = $h2->answer($streams[$i]);

            is($answer, $accepted, 'HTTP/2, the other streams are answered');
            $o->note_acked($ids[$i]) if $answer eq $accepted;
        }

        $whole->('resets while the commit runs');
        is(scalar(grep { is_spooled($_) == 1 } @ids), 4, 'all are spooled');

        # the whole connection

        $strace = slow();
        @streams = ();

        for my $id (@ids = map { next_id() } 1 .. 4) {
            my $body = event_body($id);

            $o->note_sent($id);
            push @streams, $h2->post('/hook', length $body);
            $h2->data($streams[-1], $body, 1);
            wait_slow() if @streams == 1;
        }

        $t->get('/ping');
        $h2->abort();
        $t->get('/ping');
        $strace->detach();
        goes_on('HTTP/2, a reset of the connection while the commit runs');
        is(scalar(grep { is_spooled($_) == 1 } @ids), 4, 'all are spooled');
    }

    # curl that is killed while it sends

    SKIP: {
        skip 'needs curl', 1 if system('curl -V >/dev/null 2>&1') != 0;

        my $curl = open my $in, '|-', 'curl', '-sk', '--http2', '-T', '-',
                   '-o', '/dev/null', '-X', 'POST',
                   '-H', 'Content-Type: application/json',
                   '-H', 'X-Webhook-Event: resume.bulk_upload_parse.started',
                   '-H', 'X-Webhook-Timestamp: 2024-01-20T14:45:00Z',
                   'https://127.0.0.1:' . $t->port(1) . '/hook';

        my $body = event_body('abort-0-' . (53 * 200 + 7));

        # more than the pipe takes, so some of it has gone

        syswrite $in, substr($body, 0, 35_000) . ' ' x 100_000;

        kill 'KILL', $curl;
        close $in;
        goes_on('curl over HTTP/2, killed');
    }
}


# anywhere ---------------------------------------------------------------------


# under load, at random places, in a random way

{
    my $load = $o->load(port => $t->port(0), senders => 2);
    my $aborts = Test::Fault->scale(400);
    my @held;

    for my $i (1 .. $aborts) {
        my $tls = rand() < 0.1;
        my $id = "abort-1-$i";
        my $bytes = $t->message('/hook', event_body($id),
                                keepalive => rand() < 0.5,
                                rand() < 0.3 ? (chunked => 700) : ());

        $o->note_sent($id);

        my $c = $t->connect(tls => $tls);

        # half of them send all

        $c->send(rand() < 0.5 ? $bytes
                              : substr $bytes, 0, rand length $bytes);

        push @held, $c;

        # some go at once, some later

        while (@held > rand 6) {
            my $gone = splice @held, rand @held, 1;
            $ends{rand() < 0.5 ? 'close' : 'reset'}->($gone);
        }
    }

    $_->abort() for @held;

    ok($o->wait_acked(50), 'the load goes on');
    $load->stop();
    is(join(', ', $o->failed()), '', 'no other request failed');
    goes_on("$aborts aborts under load");
    $trials += $aborts;
}


ok($t->quit(), 'stopped');
is_deeply([list("$spool/tmp")], [], 'tmp/ is empty');

$o->collect($spool);
$o->report('aborts', $trials);

is($o->lost(), 0, 'no acknowledged event is lost');
is($o->altered(), 0, 'none is altered');
is($o->duplicated(), 0, 'none is there twice');

$t->no_alerts();

done_testing();
