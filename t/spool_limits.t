#!/usr/bin/perl

# A slow disk and one that is nearly full: what cannot become durable in time
# is refused early, and whoever is refused may go on.

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list read_spool split_line event_body);


Test::Fault->need('root', 'loop', 'strace');

my $t = Test::Edge->new();
my $threads = $t->has('--with-threads');
my $p = $t->prefix();

my $pools = $threads ? "thread_pool one threads=1;\n"
                       . 'thread_pool short threads=1 max_queue=1;' : '';
my ($one, $short) = $threads ? ('threads=one', 'threads=short') : ('', '');

my $disk = Test::Fault->filesystem($t, 'ext4', '24m', dir => 'disk');

# each of ext4's groups has at least 16 inodes

my $few = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'few',
                                  mkfs => '-N 256');

$t->conf(<<"EOF");
%%GLOBALS%%

$pools

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    keepalive_timeout 300s;
    client_body_buffer_size 64k;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /free {
            taptalent_webhook on;
            taptalent_webhook_spool $p/disk/spool $one min_free=8m;
        }

        location /plenty {
            taptalent_webhook on;
            taptalent_webhook_spool $p/disk/plenty $one min_free=100g;
        }

        location /few {
            taptalent_webhook on;
            taptalent_webhook_spool $p/few/spool $one min_free=0;
        }

        location /buffer {
            taptalent_webhook on;
            taptalent_webhook_spool $p/buffer $one min_free=0 buffer=256k;
            taptalent_webhook_ack_timeout 60s;
        }

        location /slow {
            taptalent_webhook on;
            taptalent_webhook_spool $p/slow $one min_free=0;
            taptalent_webhook_ack_timeout 500ms;
        }

        location /later {
            taptalent_webhook on;
            taptalent_webhook_spool $p/slow $one min_free=0;
            taptalent_webhook_ack_timeout 700ms;
        }

        location /endless {
            taptalent_webhook on;
            taptalent_webhook_spool $p/slow $one min_free=0;
            taptalent_webhook_ack_timeout 9223372036854775807ms;
            taptalent_webhook_dedup 9223372036854775807ms;
            taptalent_webhook_retry max_age=9223372036854775807s;
        }

        location /default {
            taptalent_webhook on;
            taptalent_webhook_spool $p/default $one min_free=0;
        }

        location /a {
            taptalent_webhook on;
            taptalent_webhook_spool $p/a $short min_free=0;
            taptalent_webhook_ack_timeout 60s;
        }

        location /b {
            taptalent_webhook on;
            taptalent_webhook_spool $p/b $short min_free=0;
            taptalent_webhook_ack_timeout 60s;
        }

        location /c {
            taptalent_webhook on;
            taptalent_webhook_spool $p/c $short min_free=0;
            taptalent_webhook_ack_timeout 60s;
        }

        location /ping {
            return 200 pong;
        }
    }
}

EOF

$t->run();

my ($pid) = $t->workers();


sub is_refused {
    my ($answer, $name) = @_;

    is("$answer->{status} " . ($answer->{json}{error} || ''), '503 unavailable',
       $name) or diag($answer->{error} || $answer->{body});
    is($answer->{headers}{'retry-after'}, 1, 'Retry-After');
}

sub status { return $t->post(@_)->{status} }

sub lines { return map { @{ $_->{lines} } } read_spool($_[0]) }

sub slow {
    return Test::Fault->strace([Test::Fault->committers($pid)],
                               'fdatasync:delay_enter=300s');
}

# until a commit has written, and so hangs in its fdatasync()

sub wait_slow {
    my ($spool) = @_;

    return $t->wait_for(sub {
        grep { /ndjson/ && -s "$spool/tmp/$_" } list("$spool/tmp")
    }, 10, 'the commit to reach the disk');
}


# only headers: who is refused before the body gets the answer at once

sub headers_only {
    my ($uri, $length, %arg) = @_;

    my $c = $arg{connection} || $t->connect();

    $c->send($t->message($uri, event(), keepalive => 1) =~ s/\r\n\r\n.*//sr
             =~ s/Content-Length: \d+/Content-Length: $length/r . "\r\n\r\n");

    return $c;
}


# min_free ---------------------------------------------------------------------


is(status('/free', event()), 200, 'enough space');

$disk->fill(6 << 20);

my ($free) = $disk->free();

cmp_ok($free, '<', 8 << 20, 'less than min_free is free');

# the figures may be a second old

my $refused = $t->wait_for(sub {
    my $answer = $t->post('/free', event());
    return $answer->{status} == 200 ? 0 : $answer;
}, 5, 'a refusal');

is_refused($refused, 'less than min_free');

my $count = lines($disk->dir() . '/spool');

is_refused(headers_only('/free', 500)->answer(), 'before the body is sent');
is(scalar(lines($disk->dir() . '/spool')), $count, 'nothing is stored');

my $c = $t->connect();

$c->send($t->message('/free', event(), keepalive => 1));
is_refused($c->answer(), 'with the body');
$c->send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
is($c->answer(method => 'GET')->{body}, 'pong', 'the connection goes on');

is_refused($t->post('/plenty', event()), 'more than the disk ever has');

$disk->drain();

ok($t->wait_for(sub { status('/free', event()) == 200 }, 5, 'space'),
   'space again: accepted');


# inodes -----------------------------------------------------------------------


is(status('/few', event()), 200, 'enough inodes');

$few->fill_inodes(12);

is(($few->free())[1], 12, 'some are left');

# each event that is taken until the figures are new takes one

for (1 .. 20 * $Test::Edge::PATIENCE) {
    $refused = $t->post('/few', event());
    last if $refused->{status} != 200;
    select undef, undef, undef, 0.25;
}

is_refused($refused, 'few inodes');
cmp_ok(($few->free())[1], '>', 0, 'before there is none');
is_refused(headers_only('/few', 500)->answer(), 'before the body is sent');

$few->drain();

ok($t->wait_for(sub { status('/few', event()) == 200 }, 5, 'inodes'),
   'inodes again: accepted');


# a slow disk ------------------------------------------------------------------


SKIP: {
    skip 'no threads: a slow disk holds the whole worker', 1 unless $threads;

    # ack_timeout

    ok($t->wait_for(sub { status('/slow', event()) == 200 }, 10, 'the disk'),
       'a fast disk');

    my $before = lines("$p/slow");

    my $strace = slow();
    my $id = 'slow-0-0';

    $c = $t->connect();

    my $start = time();

    $c->send($t->message('/slow', event_body($id), keepalive => 1));
    is_refused($c->answer(), 'ack_timeout');

    my $took = time() - $start;

    cmp_ok($took, '>=', 0.45, 'not before its time');
    cmp_ok($took, '<', 2 * $Test::Edge::PATIENCE, 'and soon after');

    # the same connection is usable, and gets no second answer to the first

    for (1 .. 2) {
        $c->send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
        is($c->answer(method => 'GET')->{body}, 'pong', 'the connection is usable');
    }

    # more that comes while the disk hangs has a time of its own

    my @late = map { $t->connect() } 1 .. 3;

    for my $i (0 .. 2) {
        $late[$i]->send($t->message('/slow', event_body("slow-0-" . 53 * (1 + $i)),
                                    keepalive => 1));
    }

    is_refused($_->answer(), 'another that waits for the same disk') for @late;

    is(scalar(lines("$p/slow")), $before, 'the hanging one is not in new/');

    $strace->detach();

    # none of the four is taken back: a 503 may be delivered all the same

    ok($t->wait_for(sub { lines("$p/slow") == $before + 4 }, 10,
                    'all to be spooled'),
       'what was refused for its time is spooled later');

    for my $conn ($c, @late) {
        $conn->send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
        is($conn->answer(method => 'GET')->{body}, 'pong', 'no answer came twice');
    }

    ok($t->wait_for(sub { status('/slow', event()) == 200 }, 10, 'the disk'),
       'a fast disk again');


    # each at its own time, though another one waits for the same disk: a timer
    # that is 200 ms later must not do for both

    my $apart;

    for (1 .. 5) {
        my ($later, $soon) = ($t->connect(), $t->connect());

        $strace = slow();

        $later->send($t->message('/later', event()));
        wait_slow("$p/slow");
        $soon->send($t->message('/slow', event()));

        is_refused($soon->answer(), 'the sooner one');
        $apart = !$later->answer(timeout => 0.05)->{status};
        is_refused($later->answer(), 'the later one') if $apart;

        $strace->detach();

        ok($t->wait_for(sub { status('/slow', event()) == 200 }, 10,
                        'the disk'), 'a fast disk once more');
        last if $apart;
    }

    ok($apart, 'an earlier time counts beside a later one');

    $strace = slow();

    my $endless = $t->connect();

    $endless->send($t->message('/endless', event_body('slow-1-0')));
    wait_slow("$p/slow");
    is_refused($t->post('/slow', event()), 'beside one that has all time');
    is($endless->answer(timeout => 0.1)->{status}, 0, 'which waits');

    $strace->detach();

    is($endless->answer()->{status}, 200, 'is accepted');
    is($t->post('/endless', event_body('slow-1-0'))->{json}{duplicate},
       JSON::PP::true(), 'and known for ever');


    # the default is inside the sender's 5 s

    $strace = slow();

    # once of three times, where the machine is shared

    for (1 .. 3) {
        $start = time();
        is_refused($t->post('/default', event()), 'ack_timeout by default');
        $took = time() - $start;
        last if $took < 4.8;
    }

    $strace->detach();

    diag(sprintf 'default ack_timeout: %.3f s', $took);
    cmp_ok($took, '>', 3.9, 'four seconds');
    cmp_ok($took, '<', 4.8, 'and not five');


    # buffer: what waits beyond it is refused, before its body is read

    ok($t->wait_for(sub { status('/buffer', event()) == 200 }, 10, 'the disk'),
       'buffer: before');

    $strace = slow();

    my $body = event(data => { pad => 'p' x 50_000 });
    my @waiting = ($t->connect());

    $waiting[0]->send($t->message('/buffer', $body, keepalive => 1));
    wait_slow("$p/buffer");

    # the loop has read each of these when it answers the next /ping

    my $full;

    for (1 .. 20) {
        my $c = headers_only('/buffer', length $body);
        my $answer = $c->answer(timeout => 0.1);

        if ($answer->{status}) {
            $full = $answer;
            last;
        }

        $c->send($body);
        push @waiting, $c;
        $t->get('/ping');
    }

    is_refused($full, 'beyond the buffer');
    diag(scalar(@waiting) . ' events of 50 kB wait with buffer=256k');

    cmp_ok(scalar @waiting, '>=', 4, 'it was filled before');
    cmp_ok(scalar @waiting, '<=', 6, 'and not much more than that');

    is(status('/slow', event()), 503, 'another spool has a buffer of its own');

    my $hold = time();

    $strace->detach();

    is_deeply([grep { $_ != 200 } map { $_->answer()->{status} } @waiting], [],
              'those that waited are accepted');
    cmp_ok(time() - $hold, '<', 5 * $Test::Edge::PATIENCE, 'at once');

    ok($t->wait_for(sub { status('/buffer', $body) == 200 }, 5, 'buffer'),
       'the buffer is free again');


    # many whose headers were let in when there was room: their bodies must not
    # go beyond the buffer either

    $strace = slow();
    @waiting = ($t->connect());
    $waiting[0]->send($t->message('/buffer', $body, keepalive => 1));
    wait_slow("$p/buffer");

    push @waiting, map { headers_only('/buffer', length $body) } 1 .. 20;
    $t->get('/ping');

    $waiting[$_]->send($body) for 1 .. 20;

    my @early = map { $_->answer(timeout => 0.2)->{status} } @waiting[1 .. 20];
    my $busy = grep { $_ == 503 } @early;

    diag("20 events of 50 kB let in by their headers: $busy refused, "
         . (grep { $_ == 0 } @early) . ' wait with buffer=256k');

    cmp_ok($busy, '>=', 14, 'bodies of many at once do not go beyond the buffer');

    $strace->detach();

    is(scalar(grep { $early[$_ - 1] == 0
                     && $waiting[$_]->answer()->{status} != 200 } 1 .. 20),
       0, 'the others are accepted');
    is($waiting[0]->answer()->{status}, 200, 'and the first');


    # a pool that is full

    for my $uri (qw(/a /b /c)) {
        is(status($uri, event()), 200, "pool: $uri before");
    }

    my @tids = Test::Fault->committers($pid);

    $strace = Test::Fault->strace(\@tids, 'fdatasync:delay_enter=300s');

    my %conn = map { $_ => $t->connect() } qw(a b c);

    $conn{a}->send($t->message('/a', event(), keepalive => 1));
    wait_slow("$p/a");

    # one waits in the queue, the next finds it full

    $conn{b}->send($t->message('/b', event(), keepalive => 1));
    $t->get('/ping');

    $conn{c}->send($t->message('/c', event(), keepalive => 1));

    is_refused($conn{c}->answer(), 'the queue of the pool is full');
    ok(scalar $t->grep_log(qr/queue overflow/), 'nginx logs it');

    $strace->detach();

    is($conn{$_}->answer()->{status}, 200, "the others are accepted: $_")
        for qw(a b);

    ok($t->wait_for(sub { status('/c', event()) == 200 }, 5, 'the pool'),
       'the pool is free again');

    is(($t->workers())[0], $pid, 'the worker is the same');
}


$t->no_alerts();

$_->umount() for $disk, $few;

done_testing();
