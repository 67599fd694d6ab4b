#!/usr/bin/perl

# Hostile clients, and honest senders beside them: each of the honest ones'
# events is answered within the 5 seconds that the sender has, and reaches the
# application once. Of the hostile ones' bytes the application gets what nginx
# has rightly understood as a request, with one body of the right length.
#
#   TEST_SCALE   how many of them, 1 unless set
#   TEST_SEED    of what is by chance
#   TEST_ONLY    parts: slow, headers, smuggle, http2, json, abort, answer,
#                memory, exhausted

use warnings;
use strict;

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use IO::Socket::SSL;
use List::Util qw(max min);
use Socket qw(INADDR_LOOPBACK SOL_SOCKET SO_RCVBUF pack_sockaddr_in);
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Frames;
use Test::Load;
use Test::Sink;
use Test::Spool qw(list);


my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;
my $started = time();

srand $seed;
note("TEST_SEED=$seed");

my $t = Test::Edge->new();
my $patience = $Test::Edge::PATIENCE;
my $http2 = $t->has('--with-http_v2_module');
my $sanitizers = $t->has('-fsanitize');

# as many connections as there may be, here and in the worker

my ($soft, $hard) = map { /^\d+$/ ? $_ : 1e6 } split ' ',
                    `sh -c 'ulimit -Sn; ulimit -Hn'`;
my $files = min($hard, 60_000);
my $idle = min(Test::Fault->scale(3000), $soft - 1500, $files - 1500, 20_000);

my $server = <<'EOF';
        taptalent_webhook_forward $application;

        location /hook {
            taptalent_webhook on;
        }

        location /large {
            taptalent_webhook on;
            client_body_buffer_size 1m;
        }

        location /full {
            taptalent_webhook on;
            taptalent_webhook_response full;
            client_body_buffer_size 1m;
        }

        location = /ping {
            return 204;
        }

        location = /status {
            stub_status;
        }

        location = /deliver {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
            proxy_http_version 1.1;
        }

        location = /hostile {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_3%%;
            proxy_http_version 1.1;
        }
EOF

my $conf = <<'EOF';
%%GLOBALS%%
FILES

events {
    worker_connections CONNECTIONS;
}

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 20s;
    taptalent_webhook_retry initial=200ms max=1s;

    client_max_body_size 1m;
    client_body_buffer_size 8k;
    client_header_timeout 600s;
    client_body_timeout 600s;
    keepalive_timeout 600s;
    keepalive_requests 1000000;

    map $taptalent_event $application {
        default  /deliver;
        hostile  /hostile;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        listen 127.0.0.1:%%PORT_4%% http2;
        %%TLS%%

        taptalent_webhook_spool %%SPOOL%%;
SERVER
    }

    # has less time, and answers in small pieces

    server {
        listen 127.0.0.1:%%PORT_5%% sndbuf=16k;
        listen 127.0.0.1:%%PORT_6%% ssl http2 sndbuf=16k;
        listen 127.0.0.1:%%PORT_7%% http2 sndbuf=16k;
        %%TLS%%

        client_header_timeout 20s;
        client_body_timeout 12s;
        send_timeout 3s;

        taptalent_webhook_spool %%PREFIX%%/impatient;
SERVER
    }

    # takes any name of a header

    server {
        listen 127.0.0.1:%%PORT_8%%;
        listen 127.0.0.1:%%PORT_9%% http2;

        ignore_invalid_headers off;
        underscores_in_headers on;

        taptalent_webhook_spool %%PREFIX%%/any;
SERVER
    }
}
EOF

$conf =~ s/SERVER\n/$server/g;

my @spools = map { $t->prefix() . $_ } qw(/spool /impatient /any);

$t->conf($conf =~ s/CONNECTIONS/$files - 200/er
               =~ s/FILES/worker_rlimit_nofile $files;/r);

my $sink = Test::Sink->new(port => $t->port(3));
my $o = Test::Load->new();

$o->app($t->port(2));
$t->run();

my ($pid) = $t->workers();


# the hostile ones' events ----------------------------------------------------


my $secret = "confidential-$seed";

my $n = 0;
my %body;       # of an event, by its id
my %least;      # how often the application has to see it, not at all unless
my %most;       # set, and may
my %more;       # headers that it has beside the usual ones

# An event and its body. Its size is at least the one that is asked for.

sub event_of {
    my ($size, $text) = @_;

    my $id = 'h' . $n++;
    my $body = '{"event":"hostile","timestamp":"2024-01-20T14:45:00Z",'
             . '"companyId":"company-uuid","data":{"id":"' . $id . '",'
             . '"of":"' . ($text // $secret) . '","pad":"';

    $body .= 'p' x ($size - length($body) - 3) if $size;

    $body{$id} = "$body\"}}";
    $least{$id} = $most{$id} = 0;

    return wantarray ? ($id, $body{$id}) : $id;
}

sub may { $most{$_}++ for @_ }
sub must { may(@_); $least{$_}++ for @_ }

# Where it goes to. A context of OpenSSL takes much longer than a handshake.

my $context = IO::Socket::SSL::SSL_Context->new(SSL_verify_mode => 0);

sub over {
    return $_[0] ? (tls => 1, ssl => { SSL_reuse_ctx => $context }) : ();
}

# The bytes of its request. What the sender keeps secret is in it.

sub request {
    my ($uri, $id, %opts) = @_;

    return $t->message($uri, $body{$id}, %opts,
                       headers => headers_for($body{$id},
                                              'X-Webhook-Key' => $secret,
                                              %{ $opts{headers} || {} }));
}

my $ping = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

sub fields {
    my ($id, @more) = @_;

    return ['content-type' => 'application/json',
            'x-webhook-event' => 'hostile', 'x-webhook-key' => $secret,
            'x-webhook-timestamp' => '2024-01-20T14:45:00Z', @more];
}


# measures ---------------------------------------------------------------------


sub rss { return (Test::Edge::slurp("/proc/$pid/status") =~ /VmRSS:\s+(\d+)/)[0] }
sub descriptors { return scalar(my @fds = glob "/proc/$pid/fd/*") }

# of the worker's main thread, in ms, without the others'

sub cpu {
    return (Test::Edge::slurp("/proc/$pid/task/$pid/schedstat")
            =~ /^(\d+)/)[0] / 1e6;
}

sub active {
    my ($port) = @_;

    my $body = $t->get('/status', defined $port ? (port => $port) : ())->{body};

    return $body =~ /Active connections: (\d+)/ ? $1 : -1;
}

# the server's record of what it has answered to this part's requests

sub logged {
    my ($text) = @_;
    return grep { /\Q$text\E/ } $t->access_log();
}

# after each part: what those beside it have got

my %took;

sub beside {
    my ($part) = @_;

    ok($o->wait_acked(10), "$part: others are answered");

    my $now = $o->poll()->{took};
    my $longest = max(grep { $now->{$_} > ($took{$_} // 0) } keys %$now) // 0;

    %took = %$now;

    cmp_ok($longest, '<', 5000 * $patience,
           "$part: others are answered in time");
    is(join(' ', $t->workers()), $pid, "$part: the worker is the same");
    diag(sprintf '%-9s %5.1f s, longest answer beside it %d ms, RSS %d MB',
                 $part, time() - $started, $longest, rss() / 1024);
}

sub part { return !$ENV{TEST_ONLY} || $ENV{TEST_ONLY} =~ /\b$_[0]\b/ }

sub end_of { $_[1] ? $_[0]->abort() : $_[0]->close() }

# all answers of a connection until it is closed, as "200 400"

sub answers {
    my ($c) = @_;
    my @statuses;

    while (1) {
        my $answer = $c->answer(timeout => 10 * $patience);

        push @statuses, $answer->{status} if $answer->{status};
        next if $answer->{status} && !$answer->{error};

        push @statuses, 'timeout' if ($c->{error} // '') eq 'timeout';
        return join ' ', @statuses;
    }
}


# before -----------------------------------------------------------------------


for my $size (0, 100_000, 1_000_000) {
    for my $over (0, 1) {
        my $id = event_of($size);

        must($id);
        is($t->post('/large', '', raw => request('/large', $id), over($over))
             ->{status}, 200, 'before');
    }
}

my %before = (rss => rss(), descriptors => descriptors(), active => active());

my @load = map { $o->load(timeout => 5 * $patience, pause => 0.02, %$_) }
           { port => $t->port(0), senders => 2, conns => 2 },
           { port => $t->port(0), close => 1, senders => 1 },
           { port => $t->port(1), tls => 1, senders => 1 };


# idle connections -------------------------------------------------------------


# They stay while all the others do what they do.

my @idle;

sub idle {
    my %opened;

    for my $i (1 .. $idle) {
        my $kind = $i % 10;
        my ($id, $sent);

        if ($kind < 4) {

            # nothing, half a line, half a header, half a body

            $id = event_of() if $kind;

            my $bytes = $kind ? request('/hook', $id) : '';

            $sent = $kind == 1 ? 9 : $kind == 2 ? 70 : length($bytes) - 20;
            $sent = 0 if !$kind;

            my $c = $t->connect();

            $c->send(substr $bytes, 0, $sent) if $sent;
            push @idle, [$c, $id, substr $bytes, $sent];

        } elsif ($kind < 7) {

            # kept alive

            my $c = $t->connect();

            $c->send($ping =~ s/Connection.*\r\n//r);
            push @idle, [$c];

        } else {

            # TLS and HTTP/2 that do not get on

            my $c = Test::Edge::Connection->new(
                        port => $t->port($kind == 9 ? 4 : 1));

            $c->send($kind == 7 ? '' : $kind == 8
                     ? "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
                     : "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            push @idle, [$c];
        }
    }

    ok($t->wait_for(sub { active() > $idle }, 10, 'all to be connected'),
       "$idle idle connections");

    diag("idle: $idle connections, RSS " . int(rss() / 1024) . ' MB, '
         . descriptors() . ' descriptors');

    beside('idle');
}

# Each tenth of them goes on where it was.

sub idle_ends {
    my ($answered, $asked) = (0, 0);

    for my $i (0 .. $#idle) {
        my ($c, $id, $rest) = @{ $idle[$i] };

        if (defined $id && $i % 7 == 0) {
            must($id);
            $asked++;
            $c->send($rest);
            $answered++ if $c->answer()->{status} == 200;
        }

        end_of($c, rand() < 0.5);
    }

    is($answered, $asked, 'idle: they may go on');
    cmp_ok($asked, '>', 0, 'idle: some do');
    @idle = ();
    beside('idle ends');
}


# slow ones --------------------------------------------------------------------


# A byte at a time: those that come to an end are accepted, those that stop are
# ended by the timeout of what they were in, and so are all who take more time
# for their headers than there is. The times pass while the others are at it.

my (@slow, @stuck, @later, %count);

sub slow {
    my $left = 40;

    # what waits and says nothing

    for my $i (1 .. 10) {
        my $id = event_of();
        my $bytes = request('/hook?expect', $id,
                            headers => { Expect => '100-continue' });
        my $c = $t->connect(port => $t->port(5));

        $c->send(substr $bytes, 0, index($bytes, "\r\n\r\n") + 4);
        push @stuck, $c;
    }

    is(join(' ', map { $_->interim()->{status} } @stuck),
       join(' ', (100) x @stuck), 'slow: told to go on');

    $count{expect} = @stuck;
    push @later, slow_http2() if $http2;

    for my $i (1 .. Test::Fault->scale(320)) {
        my $over = $i % 4 == 0 ? 1 : 0;
        my $kind = (qw(body stops head endless))[$i / 4 % 4];
        my $id = event_of();
        my $bytes = request("/hook?$kind", $id);
        my $head = index $bytes, "\r\n\r\n";

        # where the slow bytes begin

        my $at = $kind eq 'body' ? length($bytes) - $left
               : $kind eq 'stops' ? $head + 10 : $head - $left;

        if ($kind eq 'endless') {
            substr $bytes, $head, length($bytes), "\r\nX-Pad: " . 'x' x 5000;
        }

        my $c = $t->connect(over($over), port => $t->port($over ? 6 : 5));

        must($id) if $kind eq 'body' || $kind eq 'head';
        $count{$kind}++;
        $c->send(substr $bytes, 0, $at, '');
        push @slow, { c => $c, kind => $kind,
                      rest => $kind eq 'stops' ? substr $bytes, 0, $left
                                               : $bytes };

        drip() if $i % 40 == 0;
    }

    for (1 .. $left) {
        drip();

        # this is how slow they are

        select undef, undef, undef, 0.02;
    }

    for my $kind (qw(body head)) {
        my @end = grep { $_->{kind} eq $kind } @slow;

        $_->{c}->send($_->{rest}) for @end;

        is(scalar(grep { $_->{c}->answer()->{status} == 200 } @end),
           $count{$kind}, "slow: $count{$kind} come to an end: $kind");
    }

    beside('slow');
}

sub drip {
    for my $s (grep { length $_->{rest} } @slow) {
        $s->{c}->send(substr $s->{rest}, 0, 1, '');
    }
}

sub slow_ends {

    # the endless ones do not give in

    my @endless = grep { $_->{kind} eq 'endless' } @slow;

    ok($t->wait_for(sub {
        @endless = grep { $_->{c}->send(substr $_->{rest}, 0, 1, '')
                          && defined $_->{c}->read_some() } @endless;
        return !@endless;
    }, 25), 'slow: endless headers end by their timeout');

    my @stops = map { $_->{c} } grep { $_->{kind} eq 'stops' } @slow;

    is(scalar(grep { !$_->eof(15 * $patience) } @stops), 0,
       'slow: and so do bodies that stop');
    is(scalar(grep { !$_->eof(15 * $patience) } @stuck), 0,
       'slow: and who was told to go on');

    for my $kind (qw(stops endless expect)) {
        my @lines;

        ok($t->wait_for(sub {
            @lines = logged("?$kind");
            return @lines >= $count{$kind};
        }, 5), "slow: logged, $kind");

        is(scalar(grep { $_ eq "408 - POST /hook?$kind" } @lines),
           $count{$kind}, "slow: logged as 408 without a verdict, $kind");
    }

    $_->() for @later;
    $_->{c}->close() for @slow;
    @slow = @stuck = @later = ();

    beside('slow ends');
}

# Over HTTP/2: half a body, half of the headers, and no room for an answer. What
# is to be asked of them later.

sub slow_http2 {
    my (@half, @head, @full, @later);

    for my $over (0, 1) {
        my @to = $over ? (Test::Frames::tls(), port => $t->port(6))
                       : (port => $t->port(7));

        for (1 .. 10) {
            my ($id, $body) = event_of();
            my $h = Test::Frames->new($t->connect(@to));
            my $s = $h->post('/hook?h2half',
                             fields($id, 'content-length' => length $body));

            $h->data($s, substr($body, 0, 50), 0);
            push @half, [$h, $s];

            $h = Test::Frames->new($t->connect(@to));
            $h->frame(1, 0, 1, Test::Frames::literals(':method' => 'POST'));
            push @head, $h;
        }

        # over TLS nginx keeps the head back with the body

        for my $late ($over ? () : (0, 1)) {
            my ($id, $body) = event_of();
            my $h = Test::Frames->new($t->connect(@to), { 4 => 0 });
            my $s = $h->post('/hook?h2full', fields($id), $body);

            must($id);
            push @full, [$h, $s, $late];
        }
    }

    for my $f (@full) {
        my ($h, $s, $late) = @$f;

        ok($h->wait(sub { $h->{status}{$s} }), 'HTTP/2, no window: a head');
        is($h->status($s), 200, 'HTTP/2, no window: accepted');
        ok(!length($h->{body}{$s} // ''), 'HTTP/2, no window: no body yet');

        next if $late;

        $h->window($s, 100);
        ok($h->wait($s), 'HTTP/2, a window: the end');
        is($h->{body}{$s}, '{"received":true}', 'HTTP/2, a window: the body');
    }

    return sub {
        is(scalar(grep { !$_->[0]->wait($_->[1], 25)
                         && !$_->[0]->closed() } @half), 0,
           'HTTP/2: half a body is ended by its timeout');
        is(scalar(grep { $_->[0]->status($_->[1]) eq '200' } @half), 0,
           'HTTP/2: and not accepted');
        is(scalar(grep { my $h = $_; !$h->wait(sub { $h->closed() }, 25) }
                       @head), 0, 'HTTP/2: half of the headers too');

        for my $f (grep { $_->[2] } @full) {
            my $h = $f->[0];

            ok($h->wait(sub { $h->closed() || defined $h->{reset}{$f->[1]} },
                        12), 'HTTP/2: and who never reads its answer');
        }

        is(scalar(grep { $_ eq '408 - POST /hook?h2half' } logged('?h2half')),
           scalar @half, 'HTTP/2: logged as 408');

        $_->{c}->close() for @head, map { $_->[0] } @half, @full;
    };
}


# headers ----------------------------------------------------------------------


# name, headers as text, status, and what is to be forwarded of them

sub headers {
    my $many = join '', map { "X-Webhook-A$_: $_\r\n" } 1 .. 900;
    my $usual = "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n"
              . "Content-Type: application/json\r\n"
              . "X-Webhook-Event: hostile\r\n";
    my %without = map { my $name = $_; $name => $usual =~ s/^$name.*\n//mr }
                  qw(X-Webhook-Timestamp Content-Type X-Webhook-Event);

    my @cases = (
        ['nothing special', $usual, 200],
        ['lower case', lc($usual) =~ s/t14:45:00z/T14:45:00Z/r, 200],
        ['many', $usual . join('', map { "X-A$_: $_\r\n" } 1 .. 900), 200],
        ['too many', $usual . join('', map { "X-A$_: $_\r\n" } 1 .. 9000), 400],
        ['many of ours', $usual . $many, 200,
         map { ["x-webhook-a$_", $_] } 1 .. 900],
        ['one many times', $usual . "X-Webhook-A: some text\r\n" x 900, 200,
         ['x-webhook-a', join ', ', ('some text') x 900]],
        ['long', $usual . 'X-Webhook-A: ' . 'x' x 8000 . "\r\n", 200,
         ['x-webhook-a', 'x' x 8000]],
        ['too long', $usual . 'X-A: ' . 'x' x 8200 . "\r\n", 400],
        ['far too long', $usual . 'X-A: ' . 'x' x 2_000_000 . "\r\n", 400],
        ['a long name', $usual . 'X-Webhook-' . 'n' x 8000 . ": x\r\n", 200,
         ['x-webhook-' . 'n' x 8000, 'x']],
        ['an event twice', "$usual$usual", 415],
        ['an event again', $usual . "X-Webhook-Event: hostile\r\n", 400],
        ['an event in another case', $usual . "x-wEBHOOK-event: hostile\r\n",
         400],
        ['a list of events', $without{'X-Webhook-Event'}
         . "X-Webhook-Event: hostile, hostile\r\n", 400],
        ['a long event', $without{'X-Webhook-Event'}
         . 'X-Webhook-Event: ' . 'h' x 129 . "\r\n", 400],
        ['an event in UTF-8', $without{'X-Webhook-Event'}
         . "X-Webhook-Event: hostile\xc2\xa0\r\n", 400],
        ['an event with underscores', $without{'X-Webhook-Event'}
         . "X_Webhook_Event: hostile\r\n", 400],
        ['an event with underscores too', $usual
         . "X_Webhook_Event: other\r\n", qr/200|400/],
        ['a time again', $usual
         . "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n", 400],
        ['a long time', $without{'X-Webhook-Timestamp'}
         . 'X-Webhook-Timestamp: 2024-01-20T14:45:00.' . '0' x 5000 . "Z\r\n",
         200],
        ['a type again', $usual . "Content-Type: application/json\r\n", 415],
        ['another type', $usual . "Content-Type: text/plain\r\n", 415],
        ['an encoding', $usual . "Content-Encoding: gzip\r\n", 415],
        ['two encodings', $usual . "Content-Encoding: identity\r\n"
         . "Content-Encoding: gzip\r\n", 415],
        ['no encoding, twice', $usual . "Content-Encoding: identity\r\n" x 2,
         200],
        ['a list of encodings', $usual
         . "Content-Encoding: identity, gzip\r\n", 415],
        ['ours from outside', $usual . "X-Webhook-Id: x\r\n"
         . "X-Webhook-Attempt: 9\r\nX-Webhook-Received: never\r\n", 200],
        ['odd bytes', $usual . "X-Webhook-A: \x01\x02\x7f\x80\xff\"\\\t\xc0\r\n",
         200, ['x-webhook-a', "\x01\x02\x7f\x80\xff\"\\\t\xc0"]],
        ['only a prefix', $usual . "X-Webhook-: x\r\n", 200],
        ['no name', $usual . ": x\r\n", qr/200|400/],
        ['no colon', $usual . "X-Webhook-A\r\n", qr/200|400/,
         ['x-webhook-a', '']],
        ['a blank in a name', $usual . "X-Webhook-A : x\r\n", 400],
        ['a NUL in a name', $usual . "X-Webhook-A\0: x\r\n", 400],
        ['a NUL in a value', $usual . "X-Webhook-A: x\0y\r\n", 400],
        ['a name with quotes', $usual . "X-Webhook-\"a: x\r\n", 200],
        ['a name with a backslash', $usual . "X-Webhook-a\\: x\r\n", 200],
        ['a name in UTF-8', $usual . "X-Webhook-\xc3\xa4: x\r\n", 200],
        ['a name in no UTF-8', $usual . "X-Webhook-\xe4: x\r\n", 200],
        ['a name that ends a string',
         $usual . "X-Webhook-a\",\"payload\": x\r\n", 200],
        ['a name with a brace', $usual . "X-Webhook-{}: x\r\n", 200],
        ['a key, twice', $usual . "X-Webhook-Key: $secret\r\n" x 2, 200],
        ['hop by hop', $usual . "Connection: X-Webhook-Event, close\r\n"
         . "Keep-Alive: 1\r\nUpgrade: h2c\r\nTE: trailers\r\n"
         . "Proxy-Connection: x\r\n", 200],
        ['another host', $usual . "X-Forwarded-Host: x\r\nX-Webhook-Host: x\r\n",
         200, ['x-webhook-host', 'x']],
        ['a host again', $usual . "Host: other\r\n", 400],
    );

    for my $port (0, 8) {
        for my $case (@cases) {
            my ($name, $text, $status, @more) = @$case;
            my ($id, $body) = event_of(0, '');
            my $before = cpu();

            my $r = $t->request("POST /hook?$id HTTP/1.1\r\nHost: localhost\r\n"
                                . "Connection: close\r\n${text}Content-Length: "
                                . length($body) . "\r\n\r\n$body",
                                port => $t->port($port));

            like($r->{status}, qr/^(?:$status)$/, "headers, port $port: $name");

            must($id) if $r->{status} == 200;

            $more{$id} = \@more;

            # some thousand bytes are a hundred times as fast

            my $took = cpu() - $before;

            cmp_ok($took, '<', 50 * $patience, "headers: $name, cpu")
                if length $text > 10_000;
            diag(sprintf 'headers: %s, %.1f ms', $name, $took) if $took > 10;
        }
    }

    if ($http2) {
        headers_http2($_) for 4, 9;
    }

    # A head that fills the buffers and makes long values of short ones, of
    # requests that never go on: what they take is bounded by what they send.

    my $before = rss();
    my @held;

    for my $i (1 .. 200) {
        my $c = $t->connect();

        $c->send("POST /hook HTTP/1.1\r\nHost: localhost\r\n$usual"
                 . "Content-Length: 10\r\n"
                 . "X-Webhook-A: some text\r\n" x 900 . "\r\n");
        push @held, $c;
    }

    is($t->get('/ping')->{status}, 204, 'headers: held');

    my $each = (rss() - $before) / @held;

    cmp_ok($each, '<', 500, 'headers: a request that waits has its size');
    diag(sprintf 'headers: %d held, %d KB each', scalar @held, $each);

    end_of($_, rand() < 0.5) for @held;
    beside('headers');
}

sub headers_http2 {
    my ($port) = @_;

    my $h = Test::Frames->new($t->connect(port => $t->port($port)));

    for my $case (['nothing special', [], '200'],
                  ['the length twice', 'length', qr/400/],
                  ['a negative length', ['content-length' => '-1'], qr/400/],
                  ['another length', ['content-length' => '7'], qr/400/],
                  ['a longer length', ['content-length' => '700'], qr/400/],
                  ['chunked', ['transfer-encoding' => 'chunked'],
                   qr/200|400|501/],
                  ['a line in a value', ['x-webhook-a' => "x\r\nx-b: y"],
                   qr/400|reset/],
                  ['a line feed in a value', ['x-webhook-a' => "x\nx-b: y"],
                   qr/400|reset/],
                  ['a NUL in a value', ['x-webhook-a' => "x\0y"],
                   qr/400|reset/],
                  ['a colon in a name', ['x-webhook-a:b' => 'x'],
                   qr/200|400|reset/],
                  ['a line in a name', ["x-webhook-a\r\nx-b: y" => 'x'],
                   qr/200|400|reset/],
                  ['a NUL in a name', ["x-webhook-a\0" => 'x'], qr/200|400|reset/],
                  ['quotes in a name', ['x-webhook-"a' => 'x'], qr/200|400|reset/],
                  ['a blank in a name', ['x-webhook- a' => 'x'], qr/200|400|reset/],
                  ['upper case', ['X-Webhook-A' => 'x'], qr/200|400|reset/],
                  ['an event again', ['x-webhook-event' => 'hostile'], 400],
                  ['a pseudo header', [':path' => '/ping'], qr/400/],
                  ['another one', [':webhook' => 'x'], qr/400/],
                  ['a connection', ['connection' => 'x-webhook-event'],
                   qr/200|400|reset/],
                  ['odd bytes', ['x-webhook-a' => "\x01\x80\xff\"\\"], 200,
                   ['x-webhook-a', "\x01\x80\xff\"\\"]],
                  ['one many times', [('x-webhook-a' => '') x 900], 200,
                   ['x-webhook-a', ', ' x 899]],
                  ['too large', [('x-a' => 'y' x 8000) x 9], qr/./])
    {
        my ($name, $fields, $status, @more) = @$case;
        my ($id, $body) = event_of(0, '');

        $fields = ['content-length' => length $body,
                   'content-length' => length $body]
            if $fields eq 'length';

        $h = Test::Frames->new($t->connect(port => $t->port($port)))
            if $h->closed();

        my $s = $h->post("/hook?$id", fields($id, @$fields), $body);

        ok($h->wait(sub { $h->closed() || $h->{end}{$s}
                          || defined $h->{reset}{$s} }),
           "HTTP/2, port $port: an end");
        like($h->status($s), qr/^(?:$status)/, "HTTP/2, port $port: $name");
        must($id) if $h->status($s) eq '200';
        $more{$id} = \@more;
    }

    $h->{c}->close();
}


# smuggling --------------------------------------------------------------------


# Each case is the bytes of a connection, the statuses of its answers until it
# is closed, and the events that are accepted; all others in it are hidden and
# must stay so. 204 is that of a ping at the end: nginx has kept in step.

sub smuggle {
    my $head = "POST /hook HTTP/1.1\r\nHost: localhost\r\n"
             . "Content-Type: application/json\r\nX-Webhook-Event: hostile\r\n"
             . "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n";

    # an event as chunks, its head with these lines, and as a whole request

    my $te = "Transfer-Encoding: chunked\r\n";

    my $chunked = sub {
        my ($lines, $body) = @_;
        return "$head$lines\r\n" . Test::Edge::chunked($body, 50);
    };

    my $whole = sub {
        my ($body) = @_;
        return "${head}Content-Length: " . length($body) . "\r\n\r\n$body";
    };

    my @cases = (

        # what is right

        ['one', sub { $whole->($_[0]) }, '200 204', 0],
        ['two', sub { $whole->($_[0]) . $whole->($_[1]) }, '200 200 204', 0, 1],
        ['chunks', sub { $chunked->($te, $_[0]) }, '200 204', 0],
        ['chunks, two', sub { $chunked->($te, $_[0]) . $chunked->($te, $_[1]) },
         '200 200 204', 0, 1],
        ['a line feed alone', sub { $whole->($_[0]) =~ s/\r\n/\n/gr },
         '200 204', 0],

        # which of two lengths

        ['length and chunks', sub {
            my $chunks = Test::Edge::chunked($_[0], 50);
            return "$head${te}Content-Length: " . length($chunks)
                   . "\r\n\r\n$chunks" . $whole->($_[1]);
        }, '400'],
        ['chunks and length', sub {
            return "${head}Content-Length: " . length($_[0]) . "\r\n$te\r\n"
                   . "0\r\n\r\n" . $whole->($_[1]);
        }, '400'],
        ['two lengths', sub {
            return "${head}Content-Length: 0\r\nContent-Length: "
                   . length($_[0]) . "\r\n\r\n$_[0]";
        }, '400'],
        ['two lengths, the other way', sub {
            return "${head}Content-Length: " . length($_[0])
                   . "\r\nContent-Length: 0\r\n\r\n$_[0]" . $whole->($_[1]);
        }, '400'],
        ['the same length twice', sub {
            return $head . ('Content-Length: ' . length($_[0]) . "\r\n") x 2
                   . "\r\n$_[0]";
        }, '400'],
        (map {
            my $length = $_;
            ["a length of \"$length\"", sub {
                return "${head}Content-Length: $length\r\n\r\n$_[0]";
            }, qr/400|413/];
        } '-1', '+100', '0x64', '100, 100', '1e2', '100 100', "100\t5", '',
          '99999999999999999999', '18446744073709551716', "1\x0b0"),

        # which encoding

        (map {
            my $encoding = $_;
            ["an encoding of \"$encoding\"", sub {
                return $chunked->("Transfer-Encoding: $encoding\r\n", $_[0])
                       . $whole->($_[1]);
            }, qr/400|501/];
        } 'chunked, identity', 'identity, chunked', 'xchunked', 'chunkedx',
          'chunked, chunked', 'identity', 'gzip, chunked', '"chunked"',
          "\x0bchunked", "chunked;q=1", ''),
        ['an encoding twice', sub { $chunked->($te x 2, $_[0]) }, '400'],
        ['an encoding in another case', sub {
            return $chunked->("tRANSFER-eNCODING: Chunked\r\n", $_[0]);
        }, '200 204', 0],
        ['an encoding with a blank before the colon', sub {
            return $chunked->("Transfer-Encoding : chunked\r\n", $_[0]);
        }, '400'],
        ['an encoding in a line that is folded', sub {
            return $chunked->("Transfer-Encoding:\r\n chunked\r\n", $_[0]);
        }, qr/400|501/],
        ['chunks in HTTP/1.0', sub {
            return $chunked->($te, $_[0]) =~ s{HTTP/1.1}{HTTP/1.0}r;
        }, qr/^(?:200|400)$/, undef],

        # lines

        ['a folded line', sub {
            return $whole->($_[0]) =~ s/\r\nContent-L/\r\n X: y\r\nContent-L/r;
        }, '400'],
        ['a carriage return alone', sub {
            return $whole->($_[0])
                   =~ s/\r\nContent-L/\r\nX: y\rZ: z\r\nContent-L/r;
        }, '400'],
        ['a carriage return for a line', sub {
            return $whole->($_[0]) =~ s/\r\nContent-L/\rContent-L/r;
        }, '400'],
        ['a carriage return in an event', sub {
            return $whole->($_[0]) =~ s/: hostile/: hostile\r/r;
        }, qr/400|200 204/, undef],
        ['a request line that is two', sub {
            return $whole->($_[0]) =~ s{ HTTP}{ HTTP/1.1\r\nX: y HTTP}r;
        }, qr/400|200 204/, undef],
        ['empty lines before it', sub { "\r\n\r\n" . $whole->($_[0]) },
         '200 204', 0],

        # chunks

        (map {
            my $size = $_;
            ["a chunk of \"$size\"", sub {
                return "$head$te\r\n$size\r\n$_[0]\r\n0\r\n\r\n";
            }, qr/400|413/];
        } '-1', 'fffffffffffffffff', '7fffffffffffffff', '8000000000000000',
          '10000000000000000', '100000000000000a0', '0x50', 'g', '', ' ',
          '; x', "\x00"),
        ['a chunk with zeros', sub {
            return sprintf "%s%s\r\n%032x\r\n%s\r\n0\r\n\r\n", $head, $te,
                           length $_[0], $_[0];
        }, '200 204', 0],
        ['a chunk that is longer', sub {
            return sprintf "%s%s\r\n%x\r\n%s\r\n0\r\n\r\n", $head, $te,
                           length($_[0]) - 1, $_[0];
        }, '400'],
        ['a chunk that is shorter', sub {
            return sprintf "%s%s\r\n%x\r\n%s\r\n0\r\n\r\n", $head, $te,
                           length($_[0]) + 2, $_[0];
        }, '400'],
        ['an extension', sub {
            return sprintf "%s%s\r\n%x;a=\"b\"\r\n%s\r\n0;c\r\n\r\n", $head, $te,
                           length $_[0], $_[0];
        }, '200 204', 0],
        ['a huge extension', sub {
            return sprintf "%s%s\r\n%x;%s\r\n%s\r\n0\r\n\r\n", $head, $te,
                           length $_[0], 'e' x 300_000, $_[0];
        }, qr/^(?:200 204|4\d\d)$/, undef],
        ['trailers', sub {
            return $chunked->($te, $_[0]) =~ s{\r\n\z}{
                "X-Webhook-Event: other\r\nX-Webhook-A: x\r\n"
                . "Content-Length: 5\r\n\r\n"}er;
        }, '200 204', 0],
        ['a chunk that is empty but not the last', sub {
            return "$head$te\r\n00\r\n\r\n" . $whole->($_[0]);
        }, '400 200 204', 0],

        # a request in the body of another

        ['hidden in a body', sub {
            return $whole->($whole->($_[0])) . $whole->($_[1]);
        }, '400 200 204', 1],
        ['hidden in a body that is not read', sub {
            return $whole->($whole->($_[0])) =~ s/json/xml/r . $whole->($_[1]);
        }, '415 200 204', 1],
        ['hidden in a large body that is not read', sub {
            return $whole->($whole->($_[0]) x 200) =~ s/json/xml/r
                   . $whole->($_[1]);
        }, '415 200 204', 1],
        ['hidden in the body of a GET', sub {
            my $hidden = $whole->($_[0]);
            return "GET /hook HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
                   . length($hidden) . "\r\n\r\n$hidden";
        }, '405 204'],
        ['hidden in chunks', sub {
            return $chunked->($te, $whole->($_[0])) . $whole->($_[1]);
        }, '400 200 204', 1],
        ['hidden in a body that is too large', sub {
            return $whole->($whole->($_[0]) . ' ' x 1_048_576);
        }, '413'],
        ['hidden in a trailer', sub {
            return $chunked->($te, $_[0]) =~ s{\r\n\z}{
                'X-Pad: ' . $whole->($_[1]) =~ s/\r\n/ /gr . "\r\n\r\n"}er;
        }, '200 204', 0],
        ['after a body that is shorter', sub {
            return $whole->($_[0]) =~ s/(Content-Length: )\d+/${1}20/r;
        }, '400 400'],
        ['after no body', sub {
            return "${head}Content-Length: 0\r\n\r\n" . $whole->($_[0]);
        }, '400 200 204', 0],
        ['after an event that goes on', sub {
            return $whole->($_[0]) . $_[1] . $whole->($_[2]);
        }, '200 400', 0],
        ['an upgrade', sub {
            return $whole->($_[0]) =~ s{Host}{
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                . "HTTP2-Settings: AAM\r\nHost"}er;
        }, '200 204', 0],
        ['HTTP/2 after HTTP/1', sub {
            return $whole->($_[0]) . "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        }, qr/^200 [45]0\d/, 0],
    );

    # an end of the stream before its time, after which nothing can come

    my @cut = (
        ['half a body', sub { substr $whole->($_[0]), 0, -5 }, ''],
        ['half a chunk', sub { substr $chunked->($te, $_[0]), 0, -30 }, ''],
        ['no last chunk', sub { $chunked->($te, $_[0]) =~ s/0\r\n\r\n\z//r },
         ''],
        ['no end of the last chunk', sub { substr $chunked->($te, $_[0]), 0, -2 },
         ''],
        ['10^18', sub {
            return $whole->($_[0]) =~ s/(Content-Length: )\d+/${1}1000000000000000000/r;
        }, '413'],
    );

    for my $over (0, 1) {
        for my $case (@cases, $over ? () : @cut) {
            my ($name, $make, $want, @accepted) = @$case;
            my @ids = map { scalar event_of(0, '') } 1 .. 3;
            my $bytes = $make->(@body{@ids});
            my $cut = grep { $_ == $case } @cut;

            $bytes .= $ping if !$cut;

            my $c = $t->connect(over($over));
            my $size = 1 + int rand length $bytes;

            $c->send($bytes, rand() < 0.5 ? (split => [$size, 1, 2, 65536])
                                          : ());
            shutdown $c->socket(), 1 if $cut;

            my $got = answers($c);

            $c->close();

            ref $want ? like($got, qr/^(?:$want)/, "smuggling: $name")
                      : is($got, $want, "smuggling: $name");

            # undef: as nginx will, but it has said so

            if (@accepted && !defined $accepted[0]) {
                @accepted = $got =~ /^200/ ? (0) : ();
            }

            must(@ids[@accepted]);

            is(() = $got =~ /200/g, @accepted,
               "smuggling: $name, as many answers as events");
        }
    }

    # the size itself

    for my $over (0, 1) {
        for my $more (-1, 0, 1) {
            my ($id, $body) = event_of(1_048_576 + $more);

            for my $chunks (0, 1) {
                my $status = $t->post('/hook', '', over($over),
                    raw => request('/hook', $id, $chunks ? (chunked => 9999)
                                                         : ()))->{status};

                is($status, $more > 0 ? 413 : 200, "1m and $more bytes");
                must($id) if $more <= 0;
            }
        }
    }

    # what is expected but comes at once

    for (1 .. 20) {
        my $id = event_of(20_000);

        must($id);
        is($t->request(request('/hook', $id,
                               headers => { Expect => '100-continue' }))
             ->{status}, 200, 'Expect, and the body at once');
    }

    beside('smuggle');
}


# HTTP/2 -----------------------------------------------------------------------


sub http2 {
    my @to = ([port => $t->port(4)],
              [Test::Frames::tls(), port => $t->port(1)]);

    for my $to (@to) {
        my $connect = sub {
            return Test::Frames->new($t->connect(@$to), @_);
        };

        # the rest of a connection is as good as ever

        my $goes_on = sub {
            my ($h, $name) = @_;
            my ($id, $body) = event_of();
            my $s = $h->post('/hook', fields($id), $body);

            must($id);
            ok($h->wait($s), "HTTP/2, answered after: $name");
            is($h->status($s), 200, "HTTP/2, goes on after: $name");
        };

        my $h = $connect->();

        for my $size (200, 5000, 60_000) {
            my ($id, $body) = event_of($size);

            my $s = $h->post('/hook?h2rst',
                             fields($id, 'content-length' => length $body));
            $h->data($s, substr($body, 0, $size / 2), 0);
            $h->rst($s);
            $goes_on->($h, "a reset in the body, $size");

            # more than it said, in one frame, in the next, and less

            for my $case ([-20, ''], [0, 'x'], [50, '']) {
                my ($more, $rest) = @$case;

                ($id, $body) = event_of($size);
                $s = $h->post('/hook?h2length',
                              fields($id, 'content-length'
                                          => length($body) + $more));
                $h->data($s, $body, $rest eq '');
                $h->data($s, $rest, 1) if $rest ne '';

                ok($h->wait($s), "HTTP/2, answered: $size and $more");
                unlike($h->status($s), qr/200/,
                       "HTTP/2, not accepted: $size and $more");
                $goes_on->($h, "$size and $more");
            }
        }

        # after its end, and on streams that are not there

        {
            my ($id, $body) = event_of();
            my $s = $h->post('/hook', fields($id), $body);

            must($id);
            $h->wait($s);
            $h->data($s, $body, 1);
            $h->wait(sub { $h->closed() || defined $h->{reset}{$s} }, 0.1);
            $h = $connect->();
            $h->data(7, $body, 1);
            $h->wait(sub { $h->closed() || defined $h->{reset}{7} }, 0.1);
        }

        # going away in the body of one, which still comes to its end

        {
            my ($id, $body) = event_of();

            $h = $connect->();
            my $s = $h->post('/hook', fields($id));
            $h->goaway();
            $h->data($s, $body, 1);

            if ($h->wait($s) && $h->status($s) eq '200') {
                must($id);
            }

            like($h->status($s), qr/^(?:200|none)/, 'HTTP/2: going away');
        }

        # closed in the body, with an end or a reset, with others at their end

        for my $reset (0, 1) {
            my @ids = map { scalar event_of(3000) } 1 .. 20;

            $h = $connect->();

            for my $id (@ids) {
                my $s = $h->post('/hook', fields($id));

                $h->data($s, substr($body{$id}, 0, 1000), 0);
            }

            my ($id, $body) = event_of();

            $h->post('/hook', fields($id), $body);
            may($id);
            end_of($h->{c}, $reset);
        }

        # more streams than are allowed at once

        {
            my @ids = map { scalar event_of() } 1 .. 200;
            my %stream;

            $h = $connect->();
            $stream{$_} = $h->post('/hook', fields($_)) for @ids;
            $h->data($stream{$_}, $body{$_}, 1) for @ids;

            my @left = $h->wait(sub {
                $h->closed()
                || !grep { !$h->{end}{$_} && !defined $h->{reset}{$_} }
                         values %stream;
            }) ? () : 'left';

            is("@left", '', 'HTTP/2: all of many streams have an end');

            my %count;

            for my $id (@ids) {
                my $status = $h->status($stream{$id});

                $count{$status}++;
                $status eq '200' ? must($id) : may($id);
                $most{$id} = 0 if $status eq 'refused';
            }

            is(join(' ', grep { $_ !~ /^(?:200|refused|none)$/ } keys %count),
               '', 'HTTP/2: accepted, or refused at once');
            cmp_ok($count{200} // 0, '>=', 100, 'HTTP/2: 100 are accepted');
            diag('HTTP/2, 200 streams: '
                 . join ', ', map { "$_ $count{$_}" } sort keys %count);
        }

        # opened and reset, as fast as it goes

        for my $whole (0, 1) {
            my $sent = 0;

            $h = $connect->();

            for my $i (1 .. Test::Fault->scale(20)) {
                my $bytes = '';

                for (1 .. 50) {
                    my $s = $h->next_stream();
                    my ($id, $body) = event_of();

                    $bytes .= Test::Frames::head($s,
                        [':method' => 'POST', ':scheme' => 'http',
                         ':path' => '/hook?h2rapid', ':authority' => 'x',
                         @{ fields($id) }], 0);

                    if ($whole) {
                        $bytes .= Test::Frames::bytes(0, 1, $s, $body);
                        may($id);
                    }

                    $bytes .= Test::Frames::bytes(3, 0, $s, pack 'N', 8);
                    $sent++;
                }

                $h->{c}->send($bytes) or last;
                $h->take();
                last if $h->closed();
            }

            diag(sprintf 'HTTP/2, rapid reset%s: %d, %s',
                         $whole ? ' after the body' : '', $sent,
                         $h->closed() ? 'closed' : 'open');

            # nginx may have had enough of it, as it has been taught to; a
            # stream is refused while as many as there may be are committed

            my $status;

            my $done = $t->wait_for(sub {
                my ($id, $body) = event_of();
                my $s = $h->post('/hook', fields($id), $body);

                may($id);
                $status = $h->wait($s) ? $h->status($s) : 'none';

                return $h->closed() || $status ne 'refused';
            }, 10);

            ok($done && ($h->closed() || $status eq '200'),
               'HTTP/2, answered or closed after a rapid reset')
                or diag($status);
            end_of($h->{c}, $whole);
        }

        # frames that are none

        for my $case (['a window of 0', [8, 0, 0, pack 'N', 0]],
                      ['a window that is too large',
                       [8, 0, 0, pack 'N', 0x7fffffff]],
                      ['a frame that is too large', [0, 0, 1, 'x' x 16385]],
                      ['headers of stream 2', [1, 5, 2, "\x82"]],
                      ['no such index', [1, 5, 1, "\xff\xff\xff\xff\x0f"]],
                      ['a table that is too large', [1, 5, 1, "\x3f\xff\xff\x0f"]],
                      ['a string that has no end', [1, 5, 1, "\0\x7f\xff\x7fx"]],
                      ['padding longer than the frame', [1, 0xd, 1, "\xffx"]],
                      ['a continuation of nothing', [9, 4, 1, "\x82"]],
                      ['settings of 5 bytes', [4, 0, 0, 'x' x 5]],
                      ['a ping of 7 bytes', [6, 0, 0, 'x' x 7]],
                      ['a push', [5, 4, 1, pack('N', 2) . "\x82"]])
        {
            $h = $connect->();
            $h->frame(@{ $case->[1] });
            $h->frame(6, 0, 0, 'x' x 8);
            $h->wait(sub { $h->closed() || %{ $h->{reset} } }, 0.05);
            end_of($h->{c}, rand() < 0.5);
        }

        $h = $connect->();
        $h->frame(4, 0, 0, '') for 1 .. 500;
        $h->frame(6, 0, 0, 'x' x 8) for 1 .. 500;
        $goes_on->($h, 'many settings and pings') if !$h->closed();
        $h->{c}->close();
    }

    beside('http2');
}


# bombs ------------------------------------------------------------------------


sub json {
    my $event = '{"event":"hostile","timestamp":"2024-01-20T14:45:00Z",'
              . '"companyId":"company-uuid","data":{"id":"';
    my $large = 1_040_000;
    my $escape = '\u0041';

    my $all = sub {
        my ($data, $rest) = @_;
        return sub { "$event$_[0]\",\"x\":$data}" . ($rest // '') . '}' };
    };

    my @bombs = (
        ['[ x 1000000', '[' x 1_000_000, 400],
        ['{"a": x 200000', '{"a":' x 200_000, 400],
        ['[]', '[]', 422],
        ['a depth of 64', $all->('[' x 62 . ']' x 62), 200],
        ['a depth of 65', $all->('[' x 63 . ']' x 63), 400],
        ['a depth of 500000', $all->('[' x 500_000 . ']' x 500_000), 400],
        ['a number', $all->('9' x $large), 200],
        ['a number of nothing but its exponent', $all->('1e' . '9' x $large),
         200],
        ['a number alone', '1' x $large, 422],
        ['a number as the company', '{"companyId":' . '1' x $large . '}', 422],
        ['a string as the company', '{"companyId":"' . 'x' x $large . '"}',
         422],
        ['escapes as the company',
         '{"companyId":"' . $escape x ($large / 6) . '"}', 422],
        ['a key', $all->('{"' . 'k' x $large . '":1}'), 200],
        ['a key at the top', $all->(0, ',"' . 'k' x $large . '":1'), 200],
        ['a key of escapes', $all->('{"' . $escape x ($large / 6) . '":1}'),
         200],
        ['a key of escapes at the top',
         $all->(0, ',"' . $escape x ($large / 6) . '":1'), 200],
        ['keys that are the same',
         $all->('{' . join(',', ('"k":1') x 100_000) . '}'), 200],
        ['keys that are the same, at the top',
         $all->(0, ',"k":1' x 100_000), 200],
        ['events', $all->(0, ',"event":"hostile"' x 50_000), 422],
        ['companies', $all->(0, ',"companyId":"' . ('\u0061' x 200) . '"' x 1
                                . ',"companyId":"x"' x 50_000), 422],
        ['keys', $all->('{' . join(',', map { "\"$_\":$_" } 1 .. 60_000) . '}'),
         200],
        ['a string of escapes', $all->('"' . $escape x ($large / 6) . '"'), 200],
        ['a string of quotes', $all->('"' . '\"' x ($large / 2) . '"'), 200],
        ['strings of escapes', $all->('[' . join(',', ('"\n"') x 200_000) . ']'),
         200],
        ['halves of pairs', $all->('"' . '\ud800' x ($large / 6) . '"'), 200],
        ['blanks', $all->(' ' x $large . '1'), 200],
        ['lines', $all->("\r\n" x ($large / 2) . '1'), 200],
        ['numbers', $all->('[' . join(',', (1) x 500_000) . ']'), 200],
        ['empty arrays', $all->('[' . join(',', ('[]') x 340_000) . ']'), 200],
        ['a string that has no end', '{"event":"' . 'x' x $large, 400],
        ['a backslash at the end', '{"event":"' . '\\' x ($large | 1), 400],
        ['UTF-8 in the middle that is none', $all->('"' . 'x' x 500_000 . "\xff"
                                                 . 'x' x 500_000 . '"'), 400],
        ['UTF-8 of four bytes', $all->('"' . "\xf0\x9f\x92\xa3" x 250_000 . '"'),
         200],
        ['UTF-8 that is cut', $all->('"' . 'x' x 1_000_000 . "\xf0\x9f\x92\""),
         400],
        ['NULs', "\0" x $large, 400],
        ['a byte order mark', "\xef\xbb\xbf" . '{}', 400],
        ['blanks only', ' ' x $large, 400],
        ['two of them', $all->('1', '}{'), 400],
        ['bytes after it', sub { "$event$_[0]\"}}" . ' ' x 1_000_000 . 'x' },
         400],
        ['slashes', $all->('"' . '/' x $large . '"'), 200],
        ['a comment', $all->('1/*' . '*' x 500_000 . '*/'), 400],
    );

    my ($worst, $what) = (0, '');

    for my $bomb (@bombs) {
        my ($name, $make, $status) = @$bomb;
        my $least;

        # what others take of the worker's time is not there each time

        for (1 .. 3) {
            my $id = event_of();
            my $body = $body{$id} = ref $make ? $make->($id) : $make;
            my $before = cpu();
            my $got = $t->post('/large', $body,
                               headers => headers_for('', 'X-Webhook-Event'
                                                          => 'hostile'));

            my $took = cpu() - $before;

            must($id) if $got->{status} == 200;
            is($got->{status}, $status, "JSON: $name");
            $least = $took if !defined $least || $took < $least;

            last if $took < 20;
        }

        cmp_ok($least, '<', ($sanitizers ? 500 : 100), "JSON: $name, cpu");
        ($worst, $what) = ($least, $name) if $least > $worst;
    }

    diag(sprintf 'JSON: at most %.0f ms, %s', $worst, $what);

    beside('json');
}


# going away -------------------------------------------------------------------


sub aborts {
    my $trials = 0;

    # in the head and in the body, at the ends of buffers: 1k and 8k are those
    # of the head, 8k is that of the body

    for my $over (0, 1) {
        for my $end (0, 1) {
            my @held;

            for my $opts ({}, { chunked => [700] },
                          { headers => { 'X-Pad' => 'x' x 3000 } },
                          { headers => { Expect => '100-continue' } })
            {
                for my $size (200, 20_000) {
                    my $id = event_of($size);
                    my $bytes = request('/hook?abort', $id, %$opts);
                    my $head = index($bytes, "\r\n\r\n") + 4;

                    for my $cut (map { $_ - 1, $_, $_ + 1 }
                                 26, 1024, 8192, $head, $head + 1024,
                                 $head + 8192, length($bytes) - 1)
                    {
                        next if $cut < 1 || $cut >= length $bytes;

                        my $c = $t->connect(over($over));

                        $c->send(substr $bytes, 0, $cut);
                        push @held, $c;
                    }
                }
            }

            $t->get('/ping');
            end_of($_, $end) for @held;
            $trials += @held;
        }
    }

    # between the body and the answer, while a commit takes its time; of some
    # only the writing end

    my $strace;

    if ($> == 0 && !Test::Fault->no_strace() && $t->has('--with-threads')) {
        $strace = Test::Fault->strace([Test::Fault->committers($pid)],
                                      'fdatasync:delay_enter=20000');
    }

    my (@waiting, @stay);

    for my $i (1 .. Test::Fault->scale(120)) {
        my $over = rand() < 0.2;
        my $id = event_of(rand() < 0.2 ? 10_000 : 0);
        my $c = $t->connect(over($over));

        $c->send(request('/hook?late', $id));

        my $kind = int rand 4;

        $kind = 0 if $over && $kind == 2;
        shutdown $c->socket(), 1 if $kind == 2;
        push @waiting, [$c, $id, $kind];

        while (@waiting > rand 30) {
            my ($c, $id, $kind) = @{ splice @waiting, rand @waiting, 1 };

            if ($kind < 2) {
                may($id);
                end_of($c, $kind);

            } else {
                push @stay, [$c, $id];
            }
        }

        $trials++;
    }

    # what is left stays, and gets its answer

    for my $w (@waiting, @stay) {
        my ($c, $id) = @$w;

        must($id);
        is($c->answer()->{status}, 200, 'answered late');
        $c->close();
    }

    $strace->detach() if $strace;

    diag("aborts: $trials" . ($strace ? ', with slow commits' : ''));
    beside('abort');
}


# In the middle of the answer, which is as large as the body.

sub answer {
    my @never;

    for my $over (0, 1) {
        for my $kind (0 .. 3) {
            for (1 .. 3) {
                my $id = event_of(300_000);

                # little room on both sides, or the answer is gone at once

                my $s = IO::Socket::INET->new(Proto => 'tcp') or die;

                setsockopt $s, SOL_SOCKET, SO_RCVBUF, 4096;
                connect $s, pack_sockaddr_in($t->port($over ? 6 : 5),
                                             INADDR_LOOPBACK)
                    or die "connect() failed: $!";

                $s = IO::Socket::SSL->start_SSL($s,
                                                SSL_reuse_ctx => $context)
                    or die if $over;

                $s->blocking(0);

                my $c = bless { socket => $s, tls => $over, in => '' },
                              'Test::Edge::Connection';

                must($id);
                $c->send(request('/full?answer', $id));

                # some of it has come, so it has been accepted

                $c->fill(time() + 10 * $patience) for 1 .. 2;
                like($c->{in}, qr{^HTTP/1.1 200 }, 'an answer begins');

                if ($kind < 2) {
                    end_of($c, $kind);

                } elsif ($kind == 2) {
                    $c->answer();
                    is(length($c->{in}), 0, 'an answer in full');
                    $c->close();

                } else {
                    push @never, $c;
                }
            }
        }
    }

    # and who does not read it at all: by send_timeout

    ok($t->wait_for(sub { logged('?answer') >= 24 }, 15), 'all are ended');
    is(scalar(grep { $_ eq '200 accepted POST /full?answer' }
                   logged('?answer')), 24, 'and logged as accepted');
    $_->abort() for @never;

    beside('answer');
}


# the same again, and again: what it takes is not more each time ----------------


sub memory {
    my @rss;

    for my $round (1 .. 5) {
        my @held;

        for my $i (1 .. Test::Fault->scale(100)) {
            my $id = event_of($i % 10 ? 300 : 200_000);
            my $kind = $i % 5;
            my $over = $i % 7 == 0;
            my $bytes = request('/hook', $id,
                                headers => { 'X-Webhook-A' => [('x') x 100] },
                                $i % 2 ? (chunked => 3000) : ());

            my $c = $t->connect(over($over));

            if ($kind == 0) {
                $more{$id} = [['x-webhook-a', join ', ', ('x') x 100]];
                must($id);
                $c->send($bytes);
                is($c->answer()->{status}, 200, 'memory: accepted')
                    if $round == 5;

            } elsif ($kind < 4) {
                $c->send(substr $bytes, 0, rand length $bytes);

            } else {
                $c->send($bytes =~ s/"data"/"dato"/r);
            }

            push @held, $c;
        }

        is($t->get('/ping')->{status}, 204, 'memory: a round');

        # kind 0 and 4 have been read to their end, or are on their way

        for my $i (0 .. $#held) {
            my $kind = ($i + 1) % 5;

            $held[$i]->answer() if $kind == 4 || $kind == 0 && $round < 5;
            end_of($held[$i], $i % 2);
        }

        push @rss, rss();
    }

    # a quarantine of freed memory fills first; with more requests in a round
    # more of the heap lies free in pieces

    my $megabytes = $sanitizers ? 200 : Test::Fault->scale(3);

    diag('memory: RSS ' . join(', ', map { int $_ / 1024 } @rss) . ' MB');
    cmp_ok($rss[-1] - $rss[0], '<', $megabytes * 1024,
           'memory: no more from round to round');

    beside('memory');
}


# no connection is left --------------------------------------------------------


# In an nginx of its own, since this is an alert. All of its connections are
# taken by requests that do not go on; what it has is to be forwarded.

sub exhausted {
    my $t = Test::Edge->new();
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'refuse');

    $t->expect_alert(qr/worker_connections are not enough/);
    $t->conf($conf =~ s/CONNECTIONS/100/r =~ s/FILES//r);
    $t->run();

    my ($pid) = $t->workers();
    my @load = map { $o->load(port => $t->port(0), pause => 0.01, %$_) }
                   { retry => 1, conns => 2, senders => 2 },
                   { close => 1, senders => 1 };

    ok($o->wait_acked(50), 'exhausted: before');

    my $held = "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-";
    my @held;

    ok($t->wait_for(sub {
        for (1 .. 50) {
            my $c = $t->connect();

            $c->send($held);
            push @held, $c;
        }

        return $t->grep_log(qr/worker_connections are not enough/);
    }, 10), 'exhausted: none is left');

    ok($t->wait_for(sub { $o->failed() }, 10), 'exhausted: others notice');

    $app->mode('ok');

    ok($t->wait_for(sub {
        $t->grep_log(qr/not enough.*upstream|not enough.*deliver|no live|500/)
        || $t->grep_log(qr/worker_connections are not enough/) > 3
    }, 10), 'exhausted: and forwarding does');

    end_of($_, rand() < 0.5) for @held;

    ok($o->wait_acked(50), 'exhausted: after');
    $_->stop() for @load;

    is(join(' ', $t->workers()), $pid, 'exhausted: the worker is the same');
    ok($o->wait_empty($t->spool()), 'exhausted: all is forwarded');

    $o->collect($t->spool());
    $o->report('connections exhausted', scalar @held);

    is($o->lost(), 0, 'exhausted: nothing is lost');
    is($o->altered(), 0, 'exhausted: nothing is altered');
    is($o->duplicated(), 0, 'exhausted: nothing is there twice');

    $t->no_alerts();
}


# all of them ------------------------------------------------------------------


idle();
slow() if part('slow');
headers() if part('headers');
smuggle() if part('smuggle');
http2() if part('http2') && $http2;
json() if part('json');
aborts() if part('abort');
slow_ends() if part('slow');
answer() if part('answer');
idle_ends();
memory() if part('memory');

$_->stop() for @load;


# afterwards -------------------------------------------------------------------


ok($o->wait_empty($_), 'all is forwarded') for @spools;

my @requests = $sink->requests();
my %seen;

for my $r (@requests) {
    my ($id) = $r->{body} =~ /"data":\{"id":"(h\d+)"/;
    my @wrong;

    if (!defined $id || !defined $body{$id}) {
        push @wrong, 'no such event';

    } else {
        $seen{$id}++;

        push @wrong, 'its body' if $r->{body} ne $body{$id};
        push @wrong, 'its id'
            if $r->{id} ne substr sha256_hex($body{$id}), 0, 32;

        my @rest = grep { $_->[0] !~ /^(?:Host|Connection)$/ }
                   @{ $r->{headers} };

        my %want = ('content-length' => length $body{$id},
                    'content-type' => 'application/json',
                    'x-webhook-event' => 'hostile',
                    'x-webhook-attempt' => 1, 'x-webhook-id' => $r->{id},
                    map { @$_ } @{ $more{$id} || [] });

        for my $h (@rest) {
            my ($name, $value) = (lc $h->[0], $h->[1]);

            next if $name =~ /^x-webhook-(?:timestamp|received)$/
                    && $value =~ /^2\d{3}-\d\d-\d\dT[\d:.]+Z$/ && !$want{$name}++;

            my $is = delete $want{$name};

            push @wrong, "a header $name: "
                         . substr $value =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger, 0, 60
                if !defined $is || $is ne $value;
        }

        delete @want{qw(x-webhook-timestamp x-webhook-received)};
        push @wrong, map { 'no header ' . substr $_, 0, 60 } sort keys %want;
        push @wrong, 'its request line'
            if "$r->{method} $r->{uri}" ne 'POST /hostile';
    }

    splice @wrong, 5;
    is(join(', ', @wrong), '', 'a delivery of ' . ($id // substr $r->{body}, 0, 99))
        if @wrong;
}

my @lost = grep { ($seen{$_} || 0) < $least{$_} } sort keys %body;
my @over = grep { $seen{$_} > $most{$_} } sort keys %seen;

diag(sprintf 'hostile events: %d, accepted %d, or perhaps %d, delivered %d, '
             . 'lost %d, too often %d', scalar keys %body,
             scalar(grep { $least{$_} } keys %body),
             scalar(grep { $most{$_} && !$least{$_} } keys %body),
             scalar @requests, scalar @lost, scalar @over);

cmp_ok(scalar @requests, '>', 100, 'hostile ones are delivered');
is(join(' ', @lost), '', 'no accepted event is lost');
is(join(' ', @over), '', 'none is there that was not accepted, or too often');

for my $spool (@spools) {
    is_deeply([map { list("$spool/$_") } qw(corrupt dead)], [],
              'nothing in corrupt/ or dead/');
    is_deeply([grep { /ndjson/ } list("$spool/tmp")], [], 'nothing in tmp/');
}

$o->collect($t->spool());
$o->report('beside hostile clients', scalar keys %body);

is($o->lost(), 0, 'nothing of others is lost');
is($o->altered(), 0, 'nothing of others is altered');
is($o->duplicated(), 0, 'nothing of others is there twice');
is(join(', ', $o->failed()), '', 'no request of others failed');
is($o->refused(), 0, 'no request of others was refused');
cmp_ok($o->p99(), '<', 5000 * $patience, 'the others\' p99');

# the worker is as it was

ok($t->wait_for(sub { active() <= $before{active} }, 10),
   'no connection is left');
ok($t->wait_for(sub { descriptors() <= $before{descriptors} }, 10,
                'descriptors'), 'no descriptor is left');

my $growth = int((rss() - $before{rss}) / 1024);

diag(sprintf 'the worker: RSS %d MB before, %d MB after, %d descriptors',
             $before{rss} / 1024, rss() / 1024, descriptors());

# what was for the connections stays with malloc(), for the next

cmp_ok($growth, '<', ($sanitizers ? 500 : 60) + $idle / 80,
       'memory is as it was, in MB');

is(scalar(grep { /\Q$secret\E/ } $t->error_log(), $t->access_log()), 0,
   'no secret is in the logs');

exhausted() if part('exhausted');

$t->no_alerts();

diag(sprintf 'in %.0f s', time() - $started);

undef $o;

done_testing();
