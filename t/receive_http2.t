#!/usr/bin/perl

# HTTP/2: the same verdicts, the same bytes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(hmac_sha256_hex);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

plan(skip_all => 'nginx without HTTP/2')
    if !$t->has('http_v2_module');
plan(skip_all => 'curl without HTTP/2')
    if `curl --version 2>&1` !~ /\bHTTP2\b/;

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    client_max_body_size 2m;

    server {
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        %%TLS%%

        location /memory {
            taptalent_webhook on;
            client_body_buffer_size 2m;
        }

        location /small {
            taptalent_webhook on;
            client_body_buffer_size 128;
        }

        location /limited {
            taptalent_webhook on;
            client_max_body_size 1k;
        }

        location /full {
            taptalent_webhook on;
            taptalent_webhook_response full;
        }

        location /passed {
            proxy_request_buffering off;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            error_page 502 =200 @passed;
        }

        location @passed {
            taptalent_webhook on;
        }

        location /key {
            taptalent_webhook on;
            taptalent_webhook_key secret-key;
            taptalent_webhook_signature preset=stripe key=signing-key;
            client_body_buffer_size 128;
        }
    }
}
EOF_CONF

$t->run();

# (status, body, protocol) of an event; headers overrides those documented.

sub request {
    my ($path, $body, %opts) = @_;

    my @headers = @{headers_for($body // event(), %{$opts{headers} // {}})};
    my @options = ('-X', $opts{method} // 'POST');

    while (my ($name, $value) = splice @headers, 0, 2) {
        push @options, '-H', "$name: $value";
    }

    if (defined $body) {
        my $file = $t->write_file('body', $body);
        push @options, $opts{upload} ? ('-T', '-') : ('--data-binary', '@-');
        open STDIN, '<', $file or die "open $file: $!";
    }

    my $port = $t->port(1);
    my ($exit, $output) = $t->curl('--http2', '-w',
        '\n%{http_code} %{http_version}', @options,
        "https://127.0.0.1:$port$path");

    my ($text, $status, $version) = $output =~ /^(.*)\n(\d+) (\S+)$/s;

    return ($status // "curl: $exit", $text // $output, $version // '');
}

sub stored {
    my ($name, $body, @request) = @_;

    is($request[0], 200, $name) or diag($request[1]);
    my @lines = $t->spool_lines();
    is(@lines, 1, "$name: one event");
    is($lines[0]{_payload}, $body, "$name: byte for byte");
    is($lines[0]{headers}{'x-webhook-event'},
       'resume.bulk_upload_parse.started', "$name: headers");
    $t->forget_spool();
}

my ($status, $text, $version) = request('/memory', event());

is($version, 2, 'it is HTTP/2');
is($status, 200, 'accepted');
is($text, '{"received":true}', 'answer');

$t->forget_spool();

for my $size (150, 1000, 70_000, 1_500_000) {
    my $body = event(more => join ',', 1 .. $size / 6);

    for my $path (qw(/memory /small)) {
        stored("$path, $size", $body, request($path, $body));
        stored("$path, $size, no length", $body,
               request($path, $body, upload => 1));
    }
}


# verdicts

my @verdicts = (
    [405, 'method', undef, method => 'GET'],
    [405, 'method', event(), method => 'PUT'],
    [415, 'content_type', event(), headers => { 'Content-Type' => 'a/b' }],
    [415, 'content_encoding', event(),
     headers => { 'Content-Encoding' => 'gzip' }],
    [400, 'event_header', event(), headers => { 'X-Webhook-Event' => 'a b' }],
    [400, 'timestamp_header', event(),
     headers => { 'X-Webhook-Timestamp' => 'x' }],
    [400, 'json', '{'],
    [400, 'json', ''],
    [422, 'payload', event(data => undef)],
    [422, 'event_mismatch', event(), headers => { 'X-Webhook-Event' => 'b' }],
    [403, 'company_id', event(companyId => 1)],
);

for (@verdicts) {
    my ($status, $verdict, $body, %opts) = @$_;
    my @answer = request('/memory', $body, %opts);
    is($answer[0], $status, "$verdict: status");
    like($answer[1], qr/^\{"received":false,"error":"$verdict"/, $verdict);
}

($status, $text) = request('/limited', event(more => 'x' x 2000));
is($status, 413, 'too large');
like($text, qr/^\{"received":false,"error":"too_large"/, 'too large: JSON');

($status, $text) = request('/full', event());
is($text, '{"received":true,"message":"Webhook received successfully",'
          . '"payload":' . event() . '}', 'full answer');

# who sends it, and when

my $now = time();
my $event = event(more => join ',', 1 .. 1000);

my %proof = (
    'X-Webhook-Key' => 'secret-key',
    'Stripe-Signature' => "t=$now,v1="
                          . hmac_sha256_hex("$now.$event", 'signing-key'),
);

($status, $text) = request('/key', $event, headers => \%proof);
is($status, 200, 'key and signature') or diag($text);

for (['key', 'X-Webhook-Key' => undef], ['key', 'X-Webhook-Key' => 'x'],
     ['key', 'X-Webhook-Key' => ['secret-key', 'secret-key']],
     ['signature', 'Stripe-Signature' => undef],
     ['signature', 'Stripe-Signature' => "t=$now,v1=" . '0' x 64],
     ['stale', 'Stripe-Signature' => 't=1,v1=' . '0' x 64])
{
    my ($verdict, $name, $value) = @$_;

    ($status, $text) = request('/key', $event,
                               headers => { %proof, $name => $value });
    like($text, qr/^\{"received":false,"error":"$verdict"/,
         "$name: " . ($value // 'missing'));
}

($status, $text) = request('/key', "$event ", headers => \%proof);
like($text, qr/"error":"signature"/, 'an altered body');


# Many streams at once

SKIP: {
    skip 'no h2load', 2 if !-x '/usr/bin/h2load';

    $t->forget_spool();
    $t->write_file('body', event());

    my $port = $t->port(1);
    open my $out, '-|', 'h2load', '-n', 400, '-c', 4, '-m', 20,
         '-d', $t->prefix() . '/body',
         '-H', 'content-type: application/json',
         '-H', 'x-webhook-event: resume.bulk_upload_parse.started',
         '-H', 'x-webhook-timestamp: 2024-01-20T14:45:00Z',
         "https://127.0.0.1:$port/memory" or die "h2load: $!";
    my $output = join '', <$out>;

    like($output, qr/status codes: 400 2xx/, 'many streams') or diag($output);
    is(scalar $t->spool_lines(), 400, 'many streams: the spool');
}

# a body of which another location has read a part: its beginning is an event

my $long = event() . ' ' x 1_500_000;

$t->forget_spool();

($status, $text) = request('/passed', $long, upload => $_), passed() for 0, 1;

sub passed {
    if ($status == 200) {
        my @lines = $t->spool_lines();
        is(length $lines[0]{_payload}, length $long, 'passed on: whole');

    } else {
        is($status, 503, 'passed on: not whole') or diag($text);
        is(scalar $t->spool_lines(), 0, 'passed on: nothing is stored');
    }

    $t->forget_spool();
}

$t->no_alerts();

done_testing();
