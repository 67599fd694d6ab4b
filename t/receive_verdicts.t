#!/usr/bin/perl

# Every row of the verdict table: status, answer, headers, access log, error
# log, and what is in the spool; over TLS and over plain HTTP.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(hmac_sha256_hex);
use POSIX qw(strftime);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid 12345;
    taptalent_webhook_spool %%SPOOL%%;
    client_max_body_size 64k;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /on {
            taptalent_webhook on;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_https off;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_events resume.*;
        }

        location /proven {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_events resume.*;
            taptalent_webhook_key secret-key;
            taptalent_webhook_tolerance 5m;
            taptalent_webhook_signature preset=github key=signing-key;
        }

        # no disk has this much

        location /full {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_events resume.*;
            taptalent_webhook_spool %%PREFIX%%/full min_free=8000000000m;
        }
    }
}
EOF_CONF

$t->run();

my %status = (
    accepted => 200,            ignored => 200,
    method => 405,              https_required => 403,
    content_type => 415,        content_encoding => 415,
    event_header => 400,        timestamp_header => 400,
    key => 401,                 signature => 401,
    stale => 422,
    too_large => 413,           json => 400,
    payload => 422,             event_mismatch => 422,
    company_id => 403,          unavailable => 503,
);

my %answer = (
    accepted => '{"received":true}',
    ignored => '{"received":true,"ignored":true}',
);


# One request and all that follows from it.

sub verdict {
    my ($verdict, $name, $path, $body, %opts) = @_;

    subtest $name => sub {
        my $lines = () = $t->access_log();
        my $spooled = $t->spool_lines();
        $t->mark_log();

        my $r = $t->post($path, $body, %opts);

        is($r->{status}, $status{$verdict}, "status $status{$verdict}");
        is($r->{headers}{'content-type'}, 'application/json', 'content type');
        is($r->{headers}{location}, undef, 'no redirect');
        is($r->{headers}{allow}, $verdict eq 'method' ? 'POST' : undef,
           'Allow');
        is($r->{headers}{'retry-after'}, $verdict eq 'unavailable' ? 1 : undef,
           'Retry-After');

        if ($answer{$verdict}) {
            is($r->{body}, $answer{$verdict}, 'answer');

        } elsif (($opts{method} // '') ne 'HEAD') {
            like($r->{body}, qr/^\{"received":false,"error":"$verdict",
                                "message":"(?:[^"\\]|\\.)+"\}$/x, 'answer');
            ok($r->{json}, 'answer is JSON');
        }

        $t->wait_for(sub { my @all = $t->access_log(); @all > $lines }, 5,
                     'the access log');
        my $method = $opts{method} // 'POST';
        is(($t->access_log())[-1], "$status{$verdict} $verdict $method $path",
           'access log');

        my $level = $verdict =~ /^(?:company_id|key|signature)$/ ? 'warn'
                                                                 : 'info';
        my @refusals = $t->grep_log(qr/webhook refused/);

        if ($answer{$verdict}) {
            is("@refusals", '', 'no refusal in the error log');

        } elsif ($verdict eq 'unavailable') {

            # one a second: see spool_limits.t
            cmp_ok(@refusals, '<=', 1, 'at most one line in the error log');

        } else {
            is(@refusals, 1, 'one line in the error log');
            like($refusals[0] // '',
                 qr/\[$level\] .*webhook refused: $verdict\b/, 'at its level');
        }

        my $after = $t->spool_lines();
        is($after - $spooled, $verdict eq 'accepted' ? 1 : 0, 'spool');
    };
}


# What the headers say.

my $event = event();
my $long = 'e' x 128;

my @headers = (
    [accepted => 'the documented example', {}],
    [accepted => 'Content-Type: parameters',
     { 'Content-Type' => 'application/json; charset=utf-8' }],
    [accepted => 'Content-Type: space before the semicolon',
     { 'Content-Type' => 'application/json ;charset=utf-8' }],
    [accepted => 'Content-Type: case',
     { 'Content-Type' => 'Application/JSON' }],
    [content_type => 'Content-Type: missing', { 'Content-Type' => undef }],
    [content_type => 'Content-Type: empty', { 'Content-Type' => '' }],
    [content_type => 'Content-Type: text', { 'Content-Type' => 'text/plain' }],
    [content_type => 'Content-Type: form',
     { 'Content-Type' => 'application/x-www-form-urlencoded' }],
    [content_type => 'Content-Type: longer',
     { 'Content-Type' => 'application/jsonp' }],
    [content_type => 'Content-Type: suffix',
     { 'Content-Type' => 'application/vnd.api+json' }],
    [content_type => 'Content-Type: shorter',
     { 'Content-Type' => 'application/jso' }],
    [content_type => 'Content-Type: list',
     { 'Content-Type' => 'application/json, text/plain' }],
    [content_type => 'Content-Type: twice',
     { 'Content-Type' => ['application/json', 'application/json'] }],

    [accepted => 'Content-Encoding: identity',
     { 'Content-Encoding' => 'identity' }],
    [accepted => 'Content-Encoding: identity, case',
     { 'Content-Encoding' => 'Identity' }],
    [content_encoding => 'Content-Encoding: gzip',
     { 'Content-Encoding' => 'gzip' }],
    [content_encoding => 'Content-Encoding: list',
     { 'Content-Encoding' => 'identity, gzip' }],
    [content_encoding => 'Content-Encoding: twice',
     { 'Content-Encoding' => ['identity', 'gzip'] }],

    [event_header => 'X-Webhook-Event: missing',
     { 'X-Webhook-Event' => undef }],
    [event_header => 'X-Webhook-Event: empty', { 'X-Webhook-Event' => '' }],
    [event_header => 'X-Webhook-Event: twice',
     { 'X-Webhook-Event' => [('resume.bulk_upload_parse.started') x 2] }],
    [event_header => 'X-Webhook-Event: too long',
     { 'X-Webhook-Event' => 'e' x 129 }],
    (map { [event_header => "X-Webhook-Event: '$_'",
            { 'X-Webhook-Event' => $_ }] }
         'a b', 'a/b', 'a,b', 'a"b', "a\x{c3}\x{a9}b", 'a@b', 'a+b', 'a%2eb'),

    [timestamp_header => 'X-Webhook-Timestamp: missing',
     { 'X-Webhook-Timestamp' => undef }],
    [timestamp_header => 'X-Webhook-Timestamp: empty',
     { 'X-Webhook-Timestamp' => '' }],
    [timestamp_header => 'X-Webhook-Timestamp: twice',
     { 'X-Webhook-Timestamp' => [('2024-01-20T14:45:00Z') x 2] }],
    [accepted => 'X-Webhook-Timestamp: other than the body\'s',
     { 'X-Webhook-Timestamp' => '2025-06-01T00:00:00+02:00' }],
    [accepted => 'unknown headers', { 'X-Webhook-Foo' => 'bar', 'X' => 'y' }],

    [event_mismatch => 'another event',
     { 'X-Webhook-Event' => 'resume.bulk_upload_parse.failed' }],
    [event_mismatch => 'another case',
     { 'X-Webhook-Event' => 'Resume.bulk_upload_parse.started' }],
    [event_mismatch => 'shorter', { 'X-Webhook-Event' => 'resume' }],
    [event_mismatch => 'longer',
     { 'X-Webhook-Event' => 'resume.bulk_upload_parse.started.' }],
);

# What the body says; t/receive_json.t and t/receive_payload.t have all of it.

my @bodies = (
    [accepted => 'companyId: integer', event(companyId => 12345)],
    [accepted => 'more members', event(more => [1, { a => undef }])],
    [accepted => 'another event', event(event => 'candidate.updated')],
    [accepted => 'event: every character',
     event(event => join '', 'a' .. 'z', 'A' .. 'Z', 0 .. 9, '._:-')],
    [accepted => 'event: longest', event(event => $long)],
    [json => 'body: empty', ''],
    [json => 'body: not JSON', 'event=resume'],
    [json => 'body: cut', substr($event, 0, -1)],
    [json => 'body: trailing bytes', "$event x"],
    [payload => 'body: an array', "[$event]"],
    [payload => 'body: no data', event(data => undef)],
    [payload => 'body: no event', event(event => undef)],
    [company_id => 'companyId: another', event(companyId => 'acme')],
    [company_id => 'companyId: another integer', event(companyId => 12346)],
    [too_large => 'too large', event(more => 'x' x 70000)],
);

for my $tls (0, 1) {
    my $path = $tls ? '/on' : '/off';
    my $over = $tls ? 'TLS' : 'plain';

    for (@headers) {
        my ($verdict, $name, $headers) = @$_;
        verdict($verdict, "$over, $name", $path, $event,
                headers => $headers, tls => $tls);
    }

    for (@bodies) {
        my ($verdict, $name, $body) = @$_;
        verdict($verdict, "$over, $name", $path, $body, tls => $tls);
    }

    for my $method (qw(GET HEAD PUT PATCH DELETE OPTIONS)) {
        verdict('method', "$over, $method", $path, undef, method => $method,
                headers => [], tls => $tls);
    }

    verdict('method', "$over, PUT with an event", $path, $event,
            method => 'PUT', tls => $tls);
    verdict('ignored', "$over, ignored", '/resume',
            event(event => 'candidate.updated'), tls => $tls);
    verdict('unavailable', "$over, unavailable", '/full', $event,
            tls => $tls);
}

verdict('https_required', 'plain, https required', '/on', $event);


# The order: a request with every fault, which are mended one by one.

my %faults = (
    method => 'PUT',
    headers => {
        'Content-Type' => 'text/plain',
        'Content-Encoding' => 'gzip',
        'X-Webhook-Event' => 'a b',
        'X-Webhook-Timestamp' => 'now',
    },
);

my $bad = '[x';

verdict('method', 'order: method', '/on', $bad, %faults);
delete $faults{method};
verdict('https_required', 'order: https', '/on', $bad, %faults);
verdict('content_type', 'order: content_type', '/full', $bad, %faults);
delete $faults{headers}{'Content-Type'};
verdict('content_encoding', 'order: content_encoding', '/full', $bad, %faults);
delete $faults{headers}{'Content-Encoding'};
verdict('event_header', 'order: event_header', '/full', $bad, %faults);
$faults{headers}{'X-Webhook-Event'} = 'other';
verdict('timestamp_header', 'order: timestamp_header', '/full', $bad, %faults);
delete $faults{headers}{'X-Webhook-Timestamp'};
verdict('ignored', 'order: ignored', '/full', $bad, %faults);
$faults{headers}{'X-Webhook-Event'} = 'resume.other';
verdict('unavailable', 'order: unavailable', '/full', $bad, %faults);
verdict('json', 'order: json', '/off', $bad, %faults);
$bad = event(data => undef, companyId => 'acme');
verdict('payload', 'order: payload', '/off', $bad, %faults);
$bad = event(companyId => 'acme');
verdict('event_mismatch', 'order: event_mismatch', '/off', $bad, %faults);
delete $faults{headers}{'X-Webhook-Event'};
verdict('company_id', 'order: company_id', '/off', $bad, %faults);
$bad = event();
verdict('accepted', 'order: accepted', '/off', $bad, %faults);

# The same where the sender has to prove itself.

sub now { return strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time() + $_[0])) }

sub sign {
    my ($body) = @_;
    $faults{headers}{'X-Hub-Signature-256'} =
        'sha256=' . hmac_sha256_hex($body, 'signing-key');
}

$bad = '[x';
%faults = (headers => { 'X-Webhook-Event' => 'other',
                        'X-Webhook-Timestamp' => 'now' });

verdict('timestamp_header', 'proof: form', '/proven', $bad, %faults);
$faults{headers}{'X-Webhook-Timestamp'} = now(-3600);
verdict('key', 'proof: key', '/proven', $bad, %faults);
$faults{headers}{'X-Webhook-Key'} = 'secret-key';
verdict('stale', 'proof: stale', '/proven', $bad, %faults);
$faults{headers}{'X-Webhook-Timestamp'} = now(0);
verdict('signature', 'proof: no signature', '/proven', $bad, %faults);
sign("$bad ");
verdict('ignored', 'proof: ignored', '/proven', $bad, %faults);
$faults{headers}{'X-Webhook-Event'} = 'resume.other';
verdict('too_large', 'proof: too large', '/proven', $bad x 40000, %faults);
verdict('signature', 'proof: another signature', '/proven', $bad, %faults);
sign($bad);
verdict('json', 'proof: json', '/proven', $bad, %faults);
$bad = event(companyId => 'acme');
sign($bad);
verdict('event_mismatch', 'proof: event_mismatch', '/proven', $bad, %faults);
delete $faults{headers}{'X-Webhook-Event'};
verdict('company_id', 'proof: company_id', '/proven', $bad, %faults);
$bad = event();
sign($bad);
verdict('accepted', 'proof: accepted', '/proven', $bad, %faults);


# What a refusal must not tell.

my $r = $t->post('/on', event(companyId => 'acme'), tls => 1);
unlike($r->{body}, qr/company-uuid|12345|acme/,
       'the answer does not say which companies are ours');

$t->no_alerts();

done_testing();
