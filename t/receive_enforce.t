#!/usr/bin/perl

# taptalent_webhook_enforce off: what would be refused for its sender is
# accepted, and said in the log and in $taptalent_unenforced.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX qw(strftime);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_https off;
    taptalent_webhook_key secret-key;
    taptalent_webhook_tolerance 5m;
    taptalent_webhook_enforce off;

    log_format unenforced '$status $taptalent_verdict [$taptalent_unenforced]';
    access_log %%PREFIX%%/unenforced.log unenforced;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /off {
            taptalent_webhook on;
            taptalent_webhook_signature header=X-Webhook-Signature key=k
                timestamp=$http_x_webhook_signed
                "signed=$taptalent_signature_timestamp.$taptalent_body";
            add_header X-Unenforced $taptalent_unenforced always;
        }

        location /on {
            taptalent_webhook on;
            taptalent_webhook_enforce on;
        }

        location /https {
            taptalent_webhook on;
            taptalent_webhook_https on;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
        }

        location /receiver {
            taptalent_webhook receiver;
        }

        # no disk has this much

        location /full {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/full min_free=8000000000m;
        }

        location /other {
            return 200;
        }
    }
}
EOF_CONF

$t->run();

like($t->read_file('error.log') . $t->read_file('stderr.log'),
     qr/\[warn\].*taptalent_webhook_enforce off.*anybody/,
     'it is said when nginx starts');


# One request, its line in the access log, what the error log says of it.

my ($r, @said);

sub sent {
    my ($name, $path, $expected, $body, $headers, %opts) = @_;

    my $before = length $t->read_file('unenforced.log');
    my $spooled = $t->spool_lines();
    $t->mark_log();

    $r = $t->post($path, $body, headers => $headers, %opts);

    my $line;
    $t->wait_for(sub {
        $line = substr $t->read_file('unenforced.log'), $before;
        $line =~ /\n\z/;
    }, 5, 'the access log');

    is($line, "$expected\n", "$name: access log");

    my ($status, $verdict, $unenforced) =
        $expected =~ /^(\d+) (\w+) \[([\w-]+)\]$/;

    is($r->{status}, $status, "$name: status");
    is($r->{json}{error}, $status == 200 ? undef : $verdict, "$name: answer");
    is($t->spool_lines() - $spooled,
       $verdict eq 'accepted' && $path ne '/receiver' ? 1 : 0, "$name: spool");

    @said = $t->grep_log(qr/webhook (?!received)/);

    if ($status != 200) {
        is(@said, 1, "$name: refused");
        like($said[0] // '', qr/webhook refused: $verdict: /, "$name: log");

    } elsif ($unenforced eq '-') {
        is("@said", '', "$name: nothing to say");

    } else {
        my $level = $unenforced eq 'stale' ? 'info' : 'warn';
        is(@said, 1, "$name: one line");
        like($said[0] // '',
             qr/\[$level\] .* webhook $verdict all the same: $unenforced: /,
             "$name: log");
    }
}

sub now {
    my ($by) = @_;
    return strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(time() + ($by // 0)));
}

# headers that are right for a body, with others

sub headers {
    my ($body, %others) = @_;
    my $time = time();

    return {
        'X-Webhook-Key' => 'secret-key',
        'X-Webhook-Timestamp' => now(),
        'X-Webhook-Signed' => $time,
        'X-Webhook-Signature' => hmac_sha256_hex("$time.$body", 'k'),
        %others,
    };
}


my $body = event();
my $foreign = event(companyId => 'foreign');

for my $tls (0, 1) {
    my $over = $tls ? 'TLS' : 'plain';
    my $sent = sub {
        my ($name, $expected, $headers, $text) = @_;
        sent("$over, $name", '/off', $expected, $text // $body,
             headers($text // $body, %$headers), tls => $tls);
    };

    $sent->('right', '200 accepted [-]', {});

    for (['missing', undef], ['empty', ''], ['another', 'x'],
         ['repeated', ['secret-key', 'secret-key']])
    {
        my ($name, $key) = @$_;
        $sent->("key, $name", '200 accepted [key]',
                { 'X-Webhook-Key' => $key });
    }

    for (['missing', undef], ['empty', ''], ['another', '00' x 32],
         ['malformed', 'x'], ['repeated', ['x', 'y']])
    {
        my ($name, $signature) = @$_;
        $sent->("signature, $name", '200 accepted [signature]',
                { 'X-Webhook-Signature' => $signature });
    }

    for (['missing', undef, 'signature'], ['malformed', 'x', 'signature'],
         ['altered', time() - 1, 'signature'],
         ['old', time() - 400, 'stale'])
    {
        my ($name, $time, $verdict) = @$_;
        $sent->("its time, $name", "200 accepted [$verdict]",
                { 'X-Webhook-Signed' => $time });
    }

    $sent->('stale', '200 accepted [stale]',
            { 'X-Webhook-Timestamp' => now(-400) });
    $sent->('early', '200 accepted [stale]',
            { 'X-Webhook-Timestamp' => now(400) });
    $sent->('company', '200 accepted [company_id]', {}, $foreign);

    # the first that fails

    my %faults = ('X-Webhook-Key' => 'x', 'X-Webhook-Timestamp' => now(-400),
                  'X-Webhook-Signature' => 'x');

    for my $verdict (qw(key stale signature company_id)) {
        $sent->("all from $verdict on", "200 accepted [$verdict]", { %faults },
                $foreign);
        delete $faults{'X-Webhook-' . ucfirst
            ({ key => 'key', stale => 'timestamp' }->{$verdict} // $verdict)};
    }
}


# what is said

sent('said', '/off', '200 accepted [company_id]', $foreign, headers($foreign));
like($said[0], qr/: this companyId is not received here, event "resume/,
     'the reason and the event');
like($said[0], qr/, companyId "foreign", id [0-9a-f]{32}\b/,
     'the company and the id');
is($r->{body}, '{"received":true}', 'the sender is not told');
is($r->{headers}{'x-unenforced'}, 'company_id', 'add_header');
is(($t->spool_lines())[-1]{companyId}, 'foreign', 'it is in the spool');

sent('key', '/off', '200 accepted [key]', $body,
     headers($body, 'X-Webhook-Key' => 'guessed-0815'));
like($said[0], qr/: key: the X-Webhook-Key is not that of this endpoint, /,
     'why the key');
unlike(join('', $t->error_log()), qr/guessed-0815|secret-key/, 'not the key');

sent('signature', '/off', '200 accepted [signature]', $body,
     headers($body, 'X-Webhook-Signature' => 'x'));
like($said[0], qr/: signature: the header holds no such signature, /,
     'why the signature');


# everything else still refuses, and tells both

my %wrong = ('X-Webhook-Key' => 'x');

sent('json', '/off', '400 json [key]', '[x', headers('[x', %wrong));
sent('payload', '/off', '422 payload [key]', '[]', headers('[]', %wrong));
sent('no company', '/off', '422 payload [-]', event(companyId => undef),
     headers(event(companyId => undef)));
sent('mismatch', '/off', '422 event_mismatch [key]', $body,
     headers($body, %wrong, 'X-Webhook-Event' => 'x'));
sent('method', '/off', '405 method [-]', $body, headers($body, %wrong),
     method => 'PUT');
sent('plain', '/https', '403 https_required [-]', $body,
     headers($body, %wrong));
sent('type', '/off', '415 content_type [-]', $body,
     headers($body, %wrong, 'Content-Type' => 'text/plain'));
sent('timestamp', '/off', '400 timestamp_header [-]', $body,
     headers($body, %wrong, 'X-Webhook-Timestamp' => 'now'));
sent('full', '/full', '503 unavailable [key]', $body, headers($body, %wrong));

# what is acknowledged without being stored

my $other = event(event => 'candidate.updated');

sent('ignored', '/resume', '200 ignored [key]', $other,
     headers($other, %wrong));
sent('receiver', '/receiver', '200 accepted [key]', $body,
     headers($body, %wrong));
is($r->{json}{message}, 'Webhook received successfully', 'in full');

# where it is on

sent('on', '/on', '401 key [-]', $body, headers($body, %wrong));
sent('on, stale', '/on', '422 stale [-]', $body,
     headers($body, 'X-Webhook-Timestamp' => now(-400)));
sent('on, company', '/on', '403 company_id [-]', $foreign, headers($foreign));
sent('on, right', '/on', '200 accepted [-]', $body, headers($body));

# each request has its own

my $c = $t->connect();
my $before = length $t->read_file('unenforced.log');
my @keys = ('x', 'secret-key', 'x', 'secret-key');
my $log;

$c->send(join '', map {
    $t->message('/off', $body, keepalive => 1,
                headers => headers($body, 'X-Webhook-Key' => $_))
} @keys);
$c->answer() for @keys;
$c->close();

$t->wait_for(sub {
    $log = substr $t->read_file('unenforced.log'), $before;
    ($log =~ tr/\n//) == @keys;
}, 5, 'the access log');
is(join(' ', $log =~ /\[(.*)\]/g), 'key - key -', 'pipelined');

is($t->get('/other')->{status}, 200, 'another location');
ok($t->wait_for(sub {
    $t->read_file('unenforced.log') =~ /^200 - \[-\]$/m
}, 5), 'another location has none');

$t->no_alerts();

done_testing();
