#!/usr/bin/perl

# The sender's test receiver, with its own documented curl example, and
# taptalent_webhook_response.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
        client_max_body_size 2m;

        location = /v1/partner/webhook-receiver {
            taptalent_webhook receiver;
        }

        location /missing {
            taptalent_webhook receiver;
            taptalent_webhook_company_id any missing=accept;
        }

        location /acme {
            taptalent_webhook receiver;
            taptalent_webhook_company_id acme;
        }

        location /small {
            taptalent_webhook receiver;
            client_body_buffer_size 100;
        }

        location /spool {
            taptalent_webhook receiver;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location /full {
            taptalent_webhook on;
            taptalent_webhook_company_id any;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_response full;
            client_body_buffer_size 1k;
        }

        location /brief {
            taptalent_webhook on;
            taptalent_webhook_company_id any;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_response brief;
        }
    }
}
EOF_CONF

$t->run();

my $receiver = '/v1/partner/webhook-receiver';

# The command and the answer as the sender's documentation shows them.

my $url = 'https://127.0.0.1:' . $t->port(1);

my $command = <<"EOF_CURL";
curl -sk -X POST "$url$receiver" \\
  -H "Content-Type: application/json" \\
  -H "X-Webhook-Event: resume.bulk_upload_parse.started" \\
  -H "X-Webhook-Timestamp: 2024-01-20T14:45:00Z" \\
  -d '{
    "event": "resume.bulk_upload_parse.started",
    "timestamp": "2024-01-20T14:45:00Z",
    "companyId": "company-uuid",
    "data": {
      "batchId": "batch-uuid",
      "fileCount": 25
    }
  }'
EOF_CURL

my $documented = <<'EOF_ANSWER';
{
  "received": true,
  "message": "Webhook received successfully",
  "payload": {
    "event": "resume.bulk_upload_parse.started",
    "timestamp": "2024-01-20T14:45:00Z",
    "companyId": "company-uuid",
    "data": {
      "batchId": "batch-uuid",
      "fileCount": 25
    }
  }
}
EOF_ANSWER

my $output = `$command`;
my ($sent) = $command =~ /-d '(.*)'/s;

is_deeply(eval { JSON::PP::decode_json($output) },
          JSON::PP::decode_json($documented),
          'the documented example, the documented answer');
is($output, '{"received":true,"message":"Webhook received successfully",'
            . "\"payload\":$sent}", 'its bytes');

is($t->grep_log(qr/\[notice\].*batch-uuid/), 1, 'the payload is logged');
is($t->grep_log(qr/\[notice\].*"fileCount": 25/), 1, 'in one line');


# Both generations of payloads, and every way to get a body.

sub answered {
    my ($name, $path, $body, %opts) = @_;

    my $r = $t->post($path, $body, tls => 1, %opts);

    is($r->{status}, 200, "$name: status");
    is($r->{headers}{'content-type'}, 'application/json', "$name: type");
    is($r->{body}, '{"received":true,"message":"Webhook received '
                   . "successfully\",\"payload\":$body}", "$name: answer");

    return $r;
}

my %bodies = (
    'string companyId' => event(),
    'integer companyId' => event(
        companyId => 12345, event => 'resume.bulk_upload_parse.completed',
        data => { batchId => 7, jobId => undef, status => 'completed',
                  fileCount => 3, successCount => 2, failedCount => 1 }),
    'failed' => event(event => 'resume.bulk_upload_parse.failed',
                      data => { error => 'no r\x{e9}sum\x{e9}' }),
    'more members' => event(jobId => undef, x => { y => [1, 2.5] }),
    'white space' => " \t\r\n" . event() . "\r\n ",
    'large' => event(more => join ' ', 1 .. 30_000),
);

for my $name (sort keys %bodies) {
    for my $path ($receiver, '/small', '/full') {
        answered("$path, $name", $path, $bodies{$name});
        answered("$path, $name, chunked", $path, $bodies{$name},
                 chunked => [1000, 1]);
    }
}

answered('missing companyId', '/missing', event(companyId => undef));
answered('acme', '/acme', event(companyId => 'acme'));

$t->forget_spool();
answered('spool', '/spool', event());
is(scalar $t->spool_files(), 0, 'a receiver stores nothing');
answered('without length', $receiver, event(), chunked => 10);

my $r = $t->post('/brief', event(), tls => 1);
is($r->{body}, '{"received":true}', 'brief');


# Keepalive: the long answer is complete.

my $c = $t->connect(tls => 1);
$c->send($t->message('/full', $bodies{large}, keepalive => 1));
$c->send($t->message($receiver, $bodies{large}, keepalive => 1));
$c->send($t->message('/full', event(), keepalive => 1));
is(join(' ', map { length($c->answer()->{json}{payload}{more} // '') }
                   1 .. 3),
   join(' ', (length join ' ', 1 .. 30_000) x 2, 0), 'keepalive');
$c->close();


# Refusals are those of any location.

my @refusals = (
    [405, 'method', undef, method => 'GET', headers => []],
    [415, 'content_type', event(), headers => { 'Content-Type' => 'a/b' }],
    [400, 'event_header', event(), headers => { 'X-Webhook-Event' => undef }],
    [400, 'timestamp_header', event(),
     headers => { 'X-Webhook-Timestamp' => undef }],
    [400, 'json', '{'],
    [422, 'payload', event(companyId => undef)],
    [422, 'event_mismatch', event(), headers => { 'X-Webhook-Event' => 'b' }],
    [413, 'too_large', event(more => 'x' x 3_000_000)],
);

for (@refusals) {
    my ($status, $verdict, $body, %opts) = @$_;
    my $r = $t->post($receiver, $body, tls => 1, %opts);
    is($r->{status}, $status, "$verdict: status");
    is($r->{json}{error}, $verdict, $verdict);
}

is($t->post($receiver, event())->{json}{error}, 'https_required',
   'https_required');
is($t->post('/acme', event(), tls => 1)->{json}{error}, 'company_id',
   'company_id');

$t->no_alerts();

done_testing();
