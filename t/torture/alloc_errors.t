#!/usr/bin/perl

# Memory runs out: each allocation of a webhook, of its delivery, of a page of
# the status, of the start of a worker and of the reading of a configuration
# fails once. Nobody crashes, what got a 2xx arrives, and all works afterwards.
#     TEST_EVERY   1: each of all of them; by default each of a webhook, and for
#                  the others every n-th from one at random

use warnings;
use strict;

use Digest::SHA qw(hmac_sha256_hex);
use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Sink;


my $t = Test::Edge->new();
my $p = $t->prefix();

plan(skip_all => 'allocations from a pool are not ones of malloc')
    unless $t->has('NGX_DEBUG_PALLOC') && !$t->has('-fsanitize');

Test::Fault->need('gcc');

my $app = Test::Sink->new(port => $t->port(2));
my $alloc = Test::Fault->alloc($p, $t->binary());
my $all = $ENV{TEST_EVERY};
my $threads = $t->has('--with-threads');

$t->write_file('key', "one\n");

$t->conf(<<"EOC");
%%GLOBALS%%

${\($threads ? 'thread_pool some threads=1;' : '')}

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_zone 256k;

    upstream application {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 4;
    }

    map \$taptalent_event \$to {
        default /app?of=\$taptalent_company_id;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_company_id company-uuid other;
            taptalent_webhook_key file:%%PREFIX%%/key;
            taptalent_webhook_signature preset=github key=hush;
            taptalent_webhook_dedup 1d;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine;
            taptalent_webhook_spool %%SPOOL%% min_free=0
                ${\($threads ? 'threads=some' : '')};
            taptalent_webhook_forward \$to;
            taptalent_webhook_retry initial=10ms max=20ms;
            client_body_buffer_size 1k;
        }

        location /app {
            internal;
            proxy_set_header X-Bytes \$taptalent_body_base64;
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffer_size 16k;
            proxy_buffers 8 16k;
        }

        location /status {
            taptalent_webhook_status;
        }
    }
}
EOC

my $n = 0;
my $failed = 0;


# a webhook and its delivery ---------------------------------------------------


$t->run(env => { $alloc->env() });

my ($worker) = $t->workers();

for my $case (
    ['plain', '200', 1],
    ['in parts', '200', 5, { chunked => [1000, 2000, 500] }],
    ['for the quarantine', '4..', 1, {}, 'someone else'],
    ['answered 500 once', '200', 5, {}, undef, '500,204'],
    ['given up', '200', 5, {}, undef, '422'],
) {
    my ($name, $status, $every, $opts, $company, $mode) = @$case;
    my %got;

    each_of($name, $every, sub {
        my $body = body($company, $mode);

        $app->forget();

        my $answer = send_event($body, $opts)->{status};

        $got{$answer}++;
        fail("$name: accepted and lost, event $n")
            if $answer eq '200' && !ended($body);
    });

    note("$name: ", join ', ', map { "$_: $got{$_}" } sort keys %got);
    like($_, qr/^(?:0|500|503|$status)$/, "$name: answers") for sort keys %got;
    works($name);
}


# pages ------------------------------------------------------------------------


for my $type (qw(text/html application/json text/plain)) {
    my %got;

    each_of($type, 1, sub {
        $got{$t->get('/status', headers => [Accept => $type])->{status}}++;
    });

    like($_, qr/^(?:0|500|200)$/, "$type: answers") for sort keys %got;
}

works('pages');
is(($t->workers())[0], $worker, 'the same worker all the time');


# a start ----------------------------------------------------------------------


# A worker that could not start is not started again, by nginx itself. And where
# libcrypto could not, there are no random numbers until the next start: events
# are refused.

$t->expect_emerg(qr/\[emerg\].* (?:malloc|posix_memalign)\(.*\) failed/);
$t->expect_alert(qr/exited with fatal code 2 and cannot be respawned/);
$t->expect_alert(qr/pthread_create\(\) failed/);

my $start = sub {
    my %old = map { $_ => 1 } $t->workers(all => 1);

    $t->mark_log();
    $t->signal('HUP');
    $t->wait_for(sub {
        my @workers = $t->workers();

        return !(grep { $old{$_} } @workers)
               && (@workers || $t->grep_log(qr/cannot be respawned/));
    }, 15, 'a reload');
};

my $started = sub {
    my $started = $t->workers()
                  && $t->wait_for(sub {
                         $t->grep_log(qr/this worker forwards|RAND_bytes/)
                     }, 5) && !$t->grep_log(qr/RAND_bytes\(\).*failed/);

    $t->reload(old_gone => 1) if !$started;
    works('a start');
};

each_of('a start', 43, $start, $started);
each_of('a start, ours', 1, $start, $started, module => 1);


# a configuration --------------------------------------------------------------


# A master that cannot read it goes on with the one that it has. What nginx and
# libcrypto have no memory for is not looked at: they crash.

my $descriptors = sub {
    my @open = glob '/proc/' . $t->pid() . '/fd/*';
    return scalar @open;
};

$t->reload(old_gone => 1);

my $open = $descriptors->();

each_of('a configuration', 1, sub {
    my @old = $t->workers();

    $t->mark_log();
    $t->signal('HUP');
    $t->wait_for(sub {
        my @workers = $t->workers();

        return $t->grep_log(qr/\[emerg\]/) || (@workers && "@workers" ne "@old");
    }, 15, 'a reload');
}, sub { works('a configuration') }, master => 1, module => 1);

ok($t->reload(old_gone => 1), 'reload');
ok($t->wait_for(sub { $descriptors->() == $open }, 5),
   'the master has no more descriptors than before');

works('at the end');
diag("$failed allocations have failed");

# glibc has nothing better to do when it has no memory for a thread's data

my $aborted = qr/^cannot allocate memory for thread-local data: ABORT/m;

$t->expect_alert(qr/exited on signal 6/)
    if $t->read_file('stderr.log') =~ $aborted;

# where a worker has crashed: its standard error is the error log

diag($_) for grep { /\[0x[0-9a-f]+\]$/ } split /\n/, $t->error_log();

$t->no_alerts();

done_testing();


# Calls the first sub with the n-th allocation about to fail, for every n-th
# until there are no more, and the other after each.

sub each_of {
    my ($name, $every, $do, $then, %which) = @_;

    $every = 1 if $all;

    my $first = 1 + int rand $every;

    for (my $at = $first; ; $at += $every) {
        $alloc->set($at, %which);
        $do->();

        if ($alloc->get()) {
            cmp_ok($at, '>', 5 * $every, "$name: up to allocation $at");
            last;
        }

        $failed++;
        $then->() if $then;
    }

    $alloc->set(0);
}

sub body {
    my ($company, $mode) = @_;

    $n++;

    return event(companyId => $company // 'company-uuid', mode => $mode // '200',
                 data => { id => "n$n", pad => 'x' x ($n % 3 * 1500) });
}

sub send_event {
    my ($body, $opts) = @_;

    return $t->post('/hook', $body, %$opts, headers => headers_for($body,
        'X-Webhook-Key' => 'one',
        'X-Hub-Signature-256' => 'sha256=' . hmac_sha256_hex($body, 'hush')));
}

# whether the application has had it, to the byte

sub ended {
    my ($body) = @_;

    return $t->wait_for(sub { !$t->spool_files() }, 20, "event $n")
           && $app->requests(sub { $_->{body} eq $body });
}

sub works {
    my ($name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    # a spool that could not be opened is tried again once a second

    my $body;

    ok($t->wait_for(sub { send_event($body = body(), {})->{status} == 200 }, 5),
       "$name: works after it");
    ok(ended($body), "$name: delivers after it");
}
