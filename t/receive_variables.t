#!/usr/bin/perl

# $taptalent_event, _timestamp, _company_id, _event_id, _verdict, _body and
# _body_base64: in the access log, in headers, in other locations, in if and map.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid 12345 missing=accept;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;

    log_format all escape=none '$request_uri|$taptalent_verdict'
        '|$taptalent_event|$taptalent_timestamp|$taptalent_company_id'
        '|$taptalent_event_id|$taptalent_body';

    map $taptalent_event $kind {
        ~^resume resume;
        default other;
    }

    access_log %%PREFIX%%/all.log all;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /hook {
            taptalent_webhook on;
            add_header X-Verdict $taptalent_verdict always;
            add_header X-Event $taptalent_event always;
            add_header X-Timestamp $taptalent_timestamp always;
            add_header X-Company $taptalent_company_id always;
            add_header X-Id $taptalent_event_id always;
            add_header X-Kind $kind always;
        }

        location /file {
            taptalent_webhook on;
            client_body_buffer_size 100;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
        }

        location /limited {
            taptalent_webhook on;
            client_max_body_size 10;
        }

        location /https {
            taptalent_webhook on;
            taptalent_webhook_https on;
        }

        location /receiver {
            taptalent_webhook receiver;
            add_header X-Base64 $taptalent_body_base64 always;
        }

        location /early {
            taptalent_webhook on;
            set $early "[$taptalent_event$taptalent_company_id$taptalent_body]";
            add_header X-Early $early always;
        }

        location /other {
            return 200 "[$taptalent_verdict|$taptalent_event|$taptalent_body]";
        }
    }
}
EOF_CONF

$t->run();

my $event = 'resume.bulk_upload_parse.started';
my $time = '2024-01-20T14:45:00Z';

sub id { return substr sha256_hex($_[0]), 0, 32 }

# The line that this request adds to the log, after its URI; sets $r to the
# answer.

my $r;

sub logged {
    my ($path, $body, %opts) = @_;

    my $before = length $t->read_file('all.log');
    my $line;

    $r = $t->post($path, $body, %opts);

    $t->wait_for(sub {
        $line = substr $t->read_file('all.log'), $before;
        $line =~ /\n\z/;
    }, 5, 'the log');

    return $line =~ s/^[^|]*\|//r =~ s/\n\z//r;
}

my $large = event(more => join ' ', 1 .. 20_000);
my $integer = event(companyId => 12345);
my $missing = event(companyId => undef);
my $spaced = event(companyId => \'"company\\u002duuid"', event => 'a:b-c_D.9');

for my $tls (0, 1) {
    my @tls = (tls => $tls);

    is(logged('/hook', event(), @tls), join('|', 'accepted', $event, $time,
       'company-uuid', id(event()), event()), "tls $tls, accepted");
    is(logged('/hook', $integer, @tls), join('|', 'accepted', $event, $time,
       12345, id($integer), $integer), "tls $tls, integer");
    is(logged('/hook', $missing, @tls), join('|', 'accepted', $event, $time,
       '', id($missing), $missing), "tls $tls, missing");
    is(logged('/hook', $spaced, @tls), join('|', 'accepted', 'a:b-c_D.9',
       $time, 'company-uuid', id($spaced), $spaced), "tls $tls, unescaped");
    is(logged('/hook', $large, @tls), join('|', 'accepted', $event, $time,
       'company-uuid', id($large), $large), "tls $tls, large");
    is(logged('/file', $large, @tls), join('|', 'accepted', $event, $time,
       'company-uuid', id($large), $large), "tls $tls, large, from a file");
    is(logged('/file', $large, @tls, chunked => 5000), join('|', 'accepted',
       $event, $time, 'company-uuid', id($large), $large),
       "tls $tls, large, chunked, from a file");
    is(logged('/receiver', event(), @tls), join('|', 'accepted', $event, $time,
       'company-uuid', id(event()), event()), "tls $tls, receiver");
    is($r->{headers}{'x-base64'}, encode_base64(event(), ''),
       "tls $tls, in base64");
}


# The header's timestamp and event, not the payload's.

like(logged('/hook', event(),
            headers => { 'X-Webhook-Timestamp' => '2025-01-01T00:00:00Z' }),
     qr/^accepted\|\Q$event\E\|2025-01-01T00:00:00Z\|/, 'the header\'s');


logged('/receiver', '');
is($r->{headers}{'x-base64'}, undef, 'no body');


# As much as is known.

my @refusals = (
    ['/hook', 'company_id', event(companyId => 'b'), {}],
    ['/hook', 'json', '{', {}],
    ['/hook', 'payload', event(data => undef), {}],
    ['/hook', 'event_mismatch', event(), { 'X-Webhook-Event' => 'x' }],
    ['/resume', 'ignored', event(), { 'X-Webhook-Event' => 'x' }],
);

for (@refusals) {
    my ($path, $verdict, $body, $headers) = @$_;
    like(logged($path, $body, headers => $headers), qr/^\Q$verdict\E\|/,
         $verdict);
}

like(logged('/hook', event(companyId => 'b')),
     qr/^company_id\|\Q$event\E\|\Q$time\E\|b\|/, 'a company that is not ours');
like(logged('/resume', event(event => 'x')), qr/^ignored\|x\|\Q$time\E\|/,
     'an ignored event');
is(logged('/other', event()), '|||||', 'another location');
is($r->{body}, '[||]', 'another location: in text');


# What is refused by its head has no values that nobody has checked.

my %raw = ('X-Webhook-Event' => "\e[31m\"x", 'X-Webhook-Timestamp' => 'soon');

for (['method', '/hook', { }, method => 'PUT'],
     ['content_type', '/hook', { %raw, 'Content-Type' => 'a/b' }],
     ['content_encoding', '/hook', { %raw, 'Content-Encoding' => 'gzip' }],
     ['event_header', '/hook', { %raw }],
     ['timestamp_header', '/hook', { 'X-Webhook-Timestamp' => 'soon' }],
     ['https_required', '/https', { }],
     ['too_large', '/limited', { }])
{
    my ($verdict, $path, $headers, %opts) = @$_;
    my $name = $verdict eq 'timestamp_header' ? $event : '';

    is(logged($path, event(), headers => $headers, %opts),
       "$verdict|$name||||", "$verdict: no values");
}

unlike($t->error_log(), qr/\e/, 'nor has the error log');


# In headers of the answer, and through map.

logged('/hook', event(companyId => 12345));
is($r->{headers}{'x-verdict'}, 'accepted', 'add_header: verdict');
is($r->{headers}{'x-event'}, $event, 'add_header: event');
is($r->{headers}{'x-timestamp'}, $time, 'add_header: timestamp');
is($r->{headers}{'x-company'}, 12345, 'add_header: company');
is($r->{headers}{'x-id'}, id(event(companyId => 12345)), 'add_header: id');
is($r->{headers}{'x-kind'}, 'resume', 'map');

logged('/hook', event(data => undef));
is($r->{headers}{'x-verdict'}, 'payload', 'add_header: refused');


# Asked for before the request is handled: not known, and known afterwards.

like(logged('/early', event()), qr/^accepted\|\Q$event\E\|\Q$time\E\|company-/,
     'early: not cached');
is($r->{headers}{'x-early'}, '[]', 'early: empty');


# Pipelined requests have each their own.

my $c = $t->connect();
my @bodies = (event(companyId => 12345), event(), '{', event(n => 1));
my $before = length $t->read_file('all.log');
$c->send(join '', map { $t->message('/hook', $_, keepalive => 1) } @bodies);
$c->answer() for @bodies;
$c->close();

my $log;
$t->wait_for(sub {
    $log = substr $t->read_file('all.log'), $before;
    ($log =~ tr/\n//) == @bodies;
}, 5, 'the log');
my @accepted = map { id($_) } @bodies[0, 1, 3];
like($log, qr/\|12345\|$accepted[0]\|.*\n.*\|company-uuid\|$accepted[1]\|.*\n
              .*\|json\|.*\n.*\|company-uuid\|$accepted[2]\|.*\n/x,
     'pipelined');

$t->no_alerts();

done_testing();
