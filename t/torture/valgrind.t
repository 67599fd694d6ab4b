#!/usr/bin/perl

# Everything once under valgrind's memcheck, with a reload in the middle and a
# graceful stop at the end: no byte is used that was not set, or is not ours, and
# nothing is left that nobody can free any more. The sanitizers see overruns of
# what is on the stack, too; but not whether what is read was ever written.
#
#   TEST_SCALE   how often, before the reload and after it; 1 unless set

use warnings;
use strict;

use Digest::SHA qw(hmac_sha256_hex);
use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Load;


plan skip_all => 'once is enough, and not under sanitizers'
    if $ENV{TEST_NGINX_BINARY};

Test::Fault->need('valgrind');

my $rounds = Test::Fault->scale(1);

my $t = Test::Edge->new();
my $p = $t->prefix();
my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');
my $http2 = $t->has('--with-http_v2_module') && $t->version() < 1_025_001
            ? 'http2' : '';

$t->write_file('new.key', "new\n");

$t->conf(<<"EOF");
%%GLOBALS%%
worker_shutdown_timeout 60s;

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_retry initial=100ms max=200ms;
    taptalent_webhook_https off;
    taptalent_webhook_ack_timeout 60s;
    taptalent_webhook_zone 256k;
    client_body_buffer_size 16k;
    client_max_body_size 128k;
    keepalive_requests 20;
    log_format all '\$taptalent_verdict \$taptalent_event \$taptalent_company_id'
                   ' \$taptalent_timestamp \$taptalent_event_id';
    access_log %%PREFIX%%/all.log all;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 2s;

    upstream application {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 4;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl $http2;
        %%TLS%%

        taptalent_webhook_spool %%SPOOL%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
        }

        location /https {
            taptalent_webhook on;
            taptalent_webhook_https on;
            taptalent_webhook_forward /application;
        }

        location /dedup {
            taptalent_webhook on;
            taptalent_webhook_dedup 1h;
            taptalent_webhook_forward /application;
        }

        location /events {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
            taptalent_webhook_forward /application;
        }

        location /key {
            taptalent_webhook on;
            taptalent_webhook_key old file:new.key;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine max_size=64k;
            taptalent_webhook_forward /application;
        }

        location /signature {
            taptalent_webhook on;
            taptalent_webhook_signature preset=github key=old key=file:new.key;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine max_size=64k;
            taptalent_webhook_forward /application;
        }

        location /stripe {
            taptalent_webhook on;
            taptalent_webhook_signature preset=stripe key=old;
            taptalent_webhook_forward /application;
        }

        location /stale {
            taptalent_webhook on;
            taptalent_webhook_tolerance 5m;
            taptalent_webhook_forward /application;
        }

        location /report {
            taptalent_webhook on;
            taptalent_webhook_enforce off;
            taptalent_webhook_key old;
            taptalent_webhook_forward /application;
        }

        location /low {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/low min_free=8000000000m;
        }

        location /receiver { taptalent_webhook receiver; }

        location /full {
            taptalent_webhook on;
            taptalent_webhook_response full;
            taptalent_webhook_forward /application;
        }

        location /application {
            internal;
            proxy_pass http://application/app/deliver;
        }

        location /status/json { taptalent_webhook_status json; }
        location /status/prometheus { taptalent_webhook_status prometheus; }
        location /status/html { taptalent_webhook_status html; }
    }

    server {
        listen 127.0.0.1:%%PORT_4%%;

        location /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /application queue=64;
        }

        location /application {
            internal;
            proxy_pass http://application/app/deliver;
        }
    }
}
EOF

# below memcheck processes have no titles, so run() cannot find the worker

$t->{workers} = 0;
$t->run(wrapper => ['valgrind', '--tool=memcheck', '--leak-check=full',
                    '--errors-for-leak-kinds=definite',
                    '--show-leak-kinds=definite', '--track-origins=no',
                    '--keep-debuginfo=yes', '--num-callers=24',
                    "--log-file=$p/valgrind.%p"]);

my $n = 0;
my @all = ($t->pid());
my @workers = workers();

everything() for 1 .. $rounds;

# what waits for another attempt when a worker ends is left to its end, and would
# look like what is lost

ok($o->wait_empty($t->spool(), 30), 'all is delivered');

$t->signal('HUP');
ok($t->wait_for(sub {
    my %now = map { $_ => 1 } workers();
    return %now && !grep { $now{$_} } @workers;
}, 60, 'the old workers to end'), 'reloaded');
push @workers, workers();

everything() for 1 .. $rounds;

ok($o->wait_empty($t->spool(), 30), 'all is delivered');
ok($t->quit(timeout => 60), 'stopped');

$o->collect($t->spool());
is($o->lost(), 0, 'nothing is lost');
is($o->altered(), 0, 'nor altered');

checked($_) for @all, @workers;

$t->no_alerts();

done_testing();


sub workers {
    my @pids;

    $t->wait_for(sub { @pids = Test::Edge::children($all[0]) }, 60, 'workers');
    return @pids;
}


# what there is: each verdict, each way to come and to be sent on

sub everything {
    my $body = fresh();
    my $time = time();

    verdict('accepted', '/hook', $body);
    verdict('accepted', '/hook', fresh(), chunked => [1, 100]);
    verdict('accepted', '/hook', fresh(), split => 7);
    verdict('accepted', '/hook', fresh(), tls => 1);
    verdict('accepted', '/https', fresh(), tls => 1);
    verdict('accepted', '/full', fresh());
    verdict('accepted', '/receiver', "$body\r\n");
    verdict('accepted', '/memory', fresh(), port => $t->port(4));
    verdict('accepted', '/dedup', my $again = fresh());
    verdict('duplicate', '/dedup', $again);
    verdict('ignored', '/events', event(event => 'other'));
    verdict('method', '/hook', undef, method => 'GET', headers => []);
    verdict('https_required', '/https', $body);
    verdict('content_type', '/hook', $body,
            headers => { 'Content-Type' => 'text/plain' });
    verdict('content_encoding', '/hook', $body,
            headers => { 'Content-Encoding' => 'gzip' });
    verdict('event_header', '/hook', $body,
            headers => { 'X-Webhook-Event' => 'a b' });
    verdict('timestamp_header', '/hook', $body,
            headers => { 'X-Webhook-Timestamp' => 'now' });
    verdict('too_large', '/hook', 'x' x 200_000);
    verdict('json', '/hook', $_)
        for '', '[x', "{\x0b}", "{\"a\":\"\xff\"}", '[' x 70;
    verdict('payload', '/hook', $_)
        for '[]', event(data => undef), '{"event":"a","event":"b"}';
    verdict('event_mismatch', '/hook', $body,
            headers => { 'X-Webhook-Event' => 'resume.x' });
    verdict('unavailable', '/low', $body);
    verdict('company_id', '/hook', alien());

    verdict('accepted', '/key', fresh(), headers => { 'X-Webhook-Key' => $_ })
        for qw(old new);
    verdict('key', '/key', fresh(), headers => { 'X-Webhook-Key' => $_ })
        for undef, 'x', ['old', 'new'];
    verdict('company_id', '/key', alien(),
            headers => { 'X-Webhook-Key' => 'old' });
    verdict('accepted', '/report', fresh());
    verdict('stale', '/stale', $body);

    for (['accepted', 'new'], ['signature', 'x']) {
        my ($verdict, $key) = @$_;
        my $body = fresh();

        verdict($verdict, '/signature', $body, headers => {
            'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex($body, $key),
        });
        verdict($verdict, '/stripe', $body, headers => {
            'Stripe-Signature' => "t=$time,v1="
                . hmac_sha256_hex("$time.$body", $key eq 'x' ? 'x' : 'old'),
        });
    }

    # of some 40 kB

    verdict('accepted', '/hook', Test::Spool::event_body('large-' . $n++ . '-7'),
            split => 10000);

    SKIP: {
        skip 'no HTTP/2', 1 if !$http2;

        my $file = $t->write_file('body', fresh());
        my @headers = @{ headers_for($body) };
        my ($rc, $output) = $t->curl('--http2', '-w', ' %{http_version}',
            '--data-binary', "\@$file", 'https://localhost:' . $t->port(1)
            . '/hook', map { ('-H', "$headers[$_ * 2]: $headers[$_ * 2 + 1]") }
                       0 .. $#headers / 2);
        is($output, '{"received":true} 2', 'accepted over HTTP/2');
    }

    # who goes away

    for my $bytes (100, 300, 1000) {
        my $c = $t->connect();
        $c->send(substr $t->message('/hook', fresh()), 0, $bytes);
        $c->abort();
    }

    # several at once, to an application that fails in each of its ways

    my $load = $o->load(port => $t->port(0), uri => '/hook', senders => 2,
                        conns => 2, pause => 0.05, retry => 1);

    for my $mode (qw(mixed 422 refuse 500 half ok)) {
        $app->mode($mode);
        $o->wait_acked(4);
    }

    $load->stop();

    for my $form (qw(json prometheus html)) {
        is($t->get("/status/$form")->{status}, 200, "status, $form");
    }

    my %verdicts = %{ $t->get('/status/json')->{json}{verdicts} };

    is(join(' ', grep { !$verdicts{$_} } sort keys %verdicts), '',
       'there was each verdict');
}

sub fresh { return Test::Spool::event_body('valgrind-0-' . $n++) }
sub alien { return fresh() =~ s/"company-uuid"/12345/r }

sub verdict {
    my ($verdict, $path, $body, %opts) = @_;

    my $r = $t->post($path, $body, %opts);
    my $got = $r->{json}{error} // ($r->{json}{duplicate} ? 'duplicate'
              : $r->{json}{ignored} ? 'ignored'
              : $r->{json}{received} ? 'accepted' : $r->{error});

    is($got, $verdict, "$path: $verdict");
}

# What memcheck has said of a process. What a process makes once, and keeps until
# it ends, it takes for lost, since at its end the module is unloaded before: a
# context for the ids of events, and nginx's own environment.

sub checked {
    my ($pid) = @_;

    my $text = $t->read_file("valgrind.$pid") =~ s/^==\d+== ?//mgr;
    my @errors = grep { /^ +(?:at|by) 0x/m } split /^\s*\n/m, $text;
    my ($contexts) = $text =~ /^ERROR SUMMARY: \d+ errors from (\d+) contexts/m;

    is($contexts, @errors, "process $pid has ended, and all is told");

    for my $once (qr/ngx_http_taptalent_event_id/, qr/ngx_set_environment/) {
        my $lost = qr/\A[^\n]* bytes in 1 blocks are definitely lost [^\n]*\n/
                   . qr/(?:[^\n]* (?:malloc|CRYPTO_zalloc|ngx_alloc) [^\n]*\n)+/
                   . qr/[^\n]* $once /;

        @errors = grep { $_ !~ $lost } @errors;
    }

    is(join("\n", @errors), '', "process $pid: no error, nothing lost");
}
