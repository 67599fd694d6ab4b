#!/usr/bin/perl

# Every way in which a body arrives: it is checked, stored byte for byte, or
# refused, and the connection is good for the next request.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id any;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    keepalive_requests 10000;
    client_max_body_size 1m;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /memory {
            taptalent_webhook on;
            client_body_buffer_size 1m;
        }

        location /single {
            taptalent_webhook on;
            client_body_buffer_size 1m;
            client_body_in_single_buffer on;
        }

        # more than this goes to a temporary file

        location /small {
            taptalent_webhook on;
            client_body_buffer_size 64;
        }

        location /file {
            taptalent_webhook on;
            client_body_in_file_only clean;
        }

        location /kept {
            taptalent_webhook on;
            client_body_in_file_only on;
        }

        location /unlimited {
            taptalent_webhook on;
            client_max_body_size 0;
        }

        location /limited {
            taptalent_webhook on;
            client_max_body_size 1k;
        }

        location /events {
            taptalent_webhook on;
            taptalent_webhook_events candidate.*;
        }

        location /short {
            taptalent_webhook on;
            client_body_timeout 1s;
        }

        location /other {
            return 204;
        }
    }
}
EOF_CONF

$t->run();

# The answer to the body and what is then in the spool; new/ starts empty.

sub stored {
    my ($name, $body, $r) = @_;

    is($r->{status}, 200, $name) or diag($r->{error} // $r->{body});

    my @lines = $t->spool_lines();
    is(@lines, 1, "$name: one event");
    is($lines[0]{_payload}, $body, "$name: byte for byte");
    is($lines[0]{id}, substr(sha256_hex($body), 0, 32), "$name: id");

    $t->forget_spool();
}

sub refused {
    my ($name, $status, $verdict, $r) = @_;
    is($r->{status}, $status, "$name: status");
    is($r->{json}{error}, $verdict, "$name: $verdict");
}

# Not all letters are the same, so that a mix-up of buffers is seen.

sub sized {
    my ($size) = @_;
    my $filler = join ',', map { $_ * 7919 } 1 .. $size / 4;
    return event(more => substr $filler, 0, $size - length event(more => ''));
}


# sizes and places

my @sizes = (150, 1000, 1024, 4096, 16384, 40_000, 200_000, 1_048_576);

for my $path (qw(/memory /single /small /file /kept)) {
    for my $tls (0, 1) {
        for my $size (@sizes) {
            my $body = sized($size);
            stored("$path, tls $tls, $size", $body,
                   $t->post($path, $body, tls => $tls));
        }
    }
}

for my $size (@sizes) {
    my $body = sized($size);
    stored("/memory, two writes, $size", $body,
           $t->post('/memory', $body, split => [length($body) / 2 + 100]));
    stored("/small, many writes, $size", $body,
           $t->post('/small', $body, split => [1000, 1, 3333]));
}


# chunked, with sizes that fit nothing

for my $path (qw(/memory /single /small /file)) {
    for my $sizes ([1], [7, 1, 13], [1000], [1024, 1], [65536], [1_000_000]) {
        my $body = sized(@$sizes == 1 && $sizes->[0] == 1 ? 500 : 100_000);
        stored("$path, chunks of @$sizes", $body,
               $t->post($path, $body, chunked => $sizes));
    }
}

stored('chunks in odd writes', sized(5000),
       $t->post('/small', sized(5000), chunked => [9, 100],
                split => [1, 2, 3, 50]));

my $message = $t->message('/memory', event(), chunked => [50]);
stored('chunk extensions and a trailer', event(),
       $t->request($message =~ s/\r\n32\r\n/\r\n32;a=b\r\n/r
                   =~ s/0\r\n\r\n\z/0\r\nX-Webhook-Event: x\r\n\r\n/r));


# byte by byte

for my $tls (0, 1) {
    for my $path (qw(/memory /small)) {
        stored("$path, tls $tls, byte by byte", event(),
               $t->post($path, event(), tls => $tls, split => 1));
    }
}


# the head and the body apart, and none at all

for my $tls (0, 1) {
    my $c = $t->connect(tls => $tls);
    my ($head, $body) = $t->message('/memory', event())
                        =~ /^(.*?\r\n\r\n)(.*)$/s;
    $c->send($head);
    $t->get('/other');
    $c->send($body);
    stored("tls $tls, the body later", event(), $c->answer());
    $c->close();
}

refused('Content-Length: 0', 400, 'json', $t->post('/memory', ''));
refused('no length', 400, 'json', $t->post('/memory', undef));
refused('chunked, empty', 400, 'json',
        $t->post('/memory', '', chunked => 1));
refused('HTTP/1.0, no length', 400, 'json',
        $t->post('/memory', undef, version => '1.0'));
stored('HTTP/1.0', event(), $t->post('/memory', event(), version => '1.0'));

my $r = $t->post('/memory', event(), headers => [@{headers_for(event())},
                 'Transfer-Encoding' => 'chunked'], length => 10);
is($r->{status}, 400, 'length and chunked: nginx refuses');

$r = $t->post('/memory', event(), raw => $t->message('/memory', event(),
              chunked => 50) =~ s/\r\n32\r\n/\r\nxyz\r\n/r);
is($r->{status}, 400, 'broken chunk: nginx refuses');


# Expect: 100-continue

my $c = $t->connect();
$message = $t->message('/memory', event(), keepalive => 1, headers => [
    @{headers_for(event())}, Expect => '100-continue']);
my ($head, $body) = $message =~ /^(.*?\r\n\r\n)(.*)$/s;

for (1, 2) {
    $c->send($head);
    is($c->interim()->{status}, 100, 'Expect: told to go on');
    $c->send($body);
    stored('Expect', $body, $c->answer());
}

$c->send($head =~ s/application\/json/text\/plain/r);
refused('Expect, refused by its headers', 415, 'content_type', $c->answer());
$c->close();


# pipelining; the answers come in order

for my $tls (0, 1) {
    my $c = $t->connect(tls => $tls);
    my @bodies = map { event(n => $_) } 1 .. 50;

    $c->send(join '', map { $t->message('/memory', $_, keepalive => 1) }
                          @bodies);
    my @statuses = map { $c->answer()->{status} } @bodies;

    is("@statuses", join(' ', (200) x 50), "tls $tls, pipelined");
    is(join("\n", map { $_->{_payload} } $t->spool_lines()),
       join("\n", @bodies), "tls $tls, pipelined: the order is kept");

    $t->forget_spool();
    $c->close();
}

$c = $t->connect();
my @mixed = (
    [200, $t->message('/small', sized(3000), keepalive => 1)],
    [400, $t->message('/memory', '{', keepalive => 1)],
    [415, $t->message('/small', sized(3000), keepalive => 1,
                      headers => { 'Content-Type' => undef })],
    [200, $t->message('/memory', event(), keepalive => 1, chunked => 3)],
    [405, $t->message('/memory', sized(2000), keepalive => 1,
                      method => 'PUT')],
    [204, $t->message('/other', event(), keepalive => 1)],
    [422, $t->message('/file', event(data => undef), keepalive => 1)],
    [200, $t->message('/events', 'not json', keepalive => 1,
                      headers => headers_for(event()))],
    [200, $t->message('/file', sized(3000), keepalive => 1)],
);

$c->send(join('', map { $_->[1] } @mixed), split => 1000);
is(join(' ', map { $c->answer()->{status} } @mixed),
   join(' ', map { $_->[0] } @mixed), 'pipelined, all kinds');
is(scalar $t->spool_lines(), 3, 'pipelined, all kinds: spool');
$t->forget_spool();
$c->close();


# keepalive after a refusal, the body unread, read, or half sent

for my $tls (0, 1) {
    for ([415, 'content type', '/memory', { 'Content-Type' => 'a/b' }, 100_000],
         [400, 'event header', '/memory', { 'X-Webhook-Event' => '' }, 500],
         [400, 'JSON', '/small', {}, 500, '{'],
         [405, 'method', '/memory', {}, 500, undef, method => 'PUT'])
    {
        my ($status, $name, $path, $headers, $size, $body, @opts) = @$_;
        $body //= sized($size);

        my $c = $t->connect(tls => $tls);
        my @answers;

        for my $i (1 .. 3) {
            $c->send($t->message($path, $body, keepalive => 1, @opts,
                                 headers => headers_for(event(), %$headers)));
            push @answers, $c->answer();
            $c->send($t->message('/memory', event(), keepalive => 1));
            push @answers, $c->answer();
        }

        is(join(' ', map { $_->{status} } @answers),
           join(' ', ($status, 200) x 3), "tls $tls, keepalive after: $name");

        $t->forget_spool();
        $c->close();
    }
}

$c = $t->connect();
($head, $body) = $t->message('/memory', sized(100_000), keepalive => 1,
                             headers => headers_for(event(),
                             'Content-Type' => undef))
                 =~ /^(.*?\r\n\r\n)(.*)$/s;
$c->send($head . substr $body, 0, 1000);
refused('answered before the body', 415, 'content_type', $c->answer());
$c->send(substr $body, 1000);
$c->send($t->message('/memory', event()));
stored('the rest of the body is not taken for a request', event(),
       $c->answer());
$c->close();


# too large: by length, by chunks, and at the very limit

my $exact = sized(1024);

for my $tls (0, 1) {
    stored("tls $tls, just not too large", $exact,
           $t->post('/limited', $exact, tls => $tls));
    stored("tls $tls, chunked, just not too large", $exact,
           $t->post('/limited', $exact, chunked => 100, tls => $tls));

    for my $size (1025, 5000, 300_000) {
        refused("tls $tls, $size", 413, 'too_large',
                $t->post('/limited', sized($size), tls => $tls));
        refused("tls $tls, $size chunked", 413, 'too_large',
                $t->post('/limited', sized($size), chunked => 700,
                         tls => $tls));
    }
}

$r = $t->post('/limited', sized(5000));
is($r->{headers}{'content-type'}, 'application/json', 'too large: JSON');
like($r->{body}, qr/^\{"received":false,"error":"too_large","message":"/,
     'too large: the body of a refusal');

$r = $t->post('/limited', '', raw => $t->message('/limited', '',
              headers => headers_for(event()), length => 10_000_000_000));
refused('a length that is never sent', 413, 'too_large', $r);

# what no file of a spool may hold, however large a body may be

for my $length (1024 ** 3 + 1, 4 * 1024 ** 3 + 100) {
    $r = $t->post('/unlimited', '', raw => $t->message('/unlimited', '',
                  headers => headers_for(event()), length => $length));
    refused("$length bytes", 413, 'too_large', $r);
}

$r = $t->post('/other', sized(2_000_000));
is($r->{status}, 413, 'elsewhere: 413');
unlike($r->{body}, qr/"received"/, 'elsewhere: it is not ours');


# A client that goes away, or never ends, leaves nothing.

for my $tls (0, 1) {
    for my $path (qw(/memory /small /file)) {
        my $c = $t->connect(tls => $tls);
        $message = $t->message($path, sized(100_000));
        $c->send(substr $message, 0, 50_000);
        $tls ? $c->close() : $c->abort();
    }
}

$c = $t->connect();
$c->send(substr $t->message('/short', sized(5000)), 0, 2000);
ok($c->eof(8) || $c->answer()->{status} == 408, 'half a body times out');
$c->close();

is($t->post('/memory', event())->{status}, 200, 'and the next is accepted');
is(scalar $t->spool_lines(), 1, 'nothing of the others is in the spool');


# Temporary files are gone, but for client_body_in_file_only on.

my @left = glob $t->prefix() . '/client_body/*';
is(@left, 2 * @sizes, 'temporary files');

$t->no_alerts();

done_testing();
