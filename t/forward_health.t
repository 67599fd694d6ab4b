#!/usr/bin/perl

# One event holds up no other: what an event's own failures do, again and again,
# and what it takes for a destination to be down.
#     TEST_ONLY   parts: one, many, places, probe, retry_after
#
# slow: it waits for destinations that are down

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Test::More;
use Test::Edge;
use Test::Sink;
use Time::HiRes qw(time);

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(1));

my $conf = <<'CONF';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /app CONCURRENCY;
            taptalent_webhook_retry RETRY;
        }

        location = /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /app CONCURRENCY;
            taptalent_webhook_retry RETRY;
        }

        location = /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_1%%;
            proxy_read_timeout 30s;
        }
    }
}
CONF

my ($where, $serial) = ('/hook', 0);


# with these parameters, and nothing of before

sub afresh {
    my ($retry, $concurrency) = @_;

    $t->stop() if $t->{master};
    unlink glob $t->spool() . '/new/* ' . $t->spool() . '/dead/*';
    $app->start();
    $app->mode('');
    $app->forget();
    $t->conf($conf =~ s/RETRY/$retry/gr
                   =~ s/CONCURRENCY/$concurrency \/\/ ''/ger);
    $t->mark_log();
    $t->run();
}

# an event that is answered so; its id

sub post {
    my ($mode) = @_;

    my $body = event(data => { mode => $mode, n => ++$serial });

    is($t->post($where, $body)->{status}, 200, "event $serial, $mode, is taken");

    return $body;
}

sub requests_of {
    my ($body) = @_;
    return $app->requests(sub { $_->{body} eq $body });
}

sub arrives {
    my ($body, $n, $name) = @_;
    return ok($app->wait_for(sub { requests_of($body) >= $n }, 15, $name),
              $name);
}

sub part { return !$ENV{TEST_ONLY} || $ENV{TEST_ONLY} =~ /\b$_[0]\b/ }

sub down { return scalar(() = $t->grep_log(qr/\[warn\].*"\/app" is down/)) }


for ('/hook', '/memory') {
    $where = $_;

    one($_) for part('one') ? qw(500 503 429 reset half garbage) : ();
    many($_) for part('many') ? qw(500 reset) : ();
}

$where = '/hook';

places() if part('places');
probe() if part('probe');
asked() if part('retry_after');

$t->no_alerts();
done_testing();


# one event, and one after the other that is answered

sub one {
    my ($mode) = @_;
    my $name = "$where, one event, $mode";

    afresh('initial=20ms max=40ms');

    my $bad = post($mode);

    arrives($bad, 8, "$name: it is tried again and again");
    is(down(), 0, "$name: the destination is not down");
    arrives(post('200'), 1, "$name: another one is delivered");
    is(down(), 0, "$name: nor is it down then");
}


# so many of them that they look like the destination; the delays are of half
# a minute, and another event waits for none

sub many {
    my ($mode) = @_;
    my $name = "$where, ten events, $mode";

    afresh('initial=30s max=60s');

    my @bad = map { post($mode) } 1 .. 10;

    arrives($_, 1, "$name: each is tried") for @bad;
    is(down(), 1, "$name: the destination is down");

    my $posted = time();
    my $good = post('200');

    arrives($good, 1, "$name: another one is delivered") or return;
    cmp_ok((requests_of($good))[0]{start} - $posted, '<', 12,
           "$name: at once");
    ok($t->wait_log(qr/is up again/), "$name: it is up");
    is(scalar($app->requests()), 11, "$name: none is tried twice");
}


# who has failed leaves places to the others

sub places {
    afresh('initial=20ms max=20ms', 'concurrency=4');
    post('404,hold') for 1 .. 6;
    ok($app->wait_for(sub { $app->held() == 3 }, 15, 'three that are held'),
       'three of four places are for those that have failed');
    arrives(post('200'), 1, 'one is for the others');
    is($app->held(), 3, 'all of this time');
    $app->mode('all:200');
    $app->release('200');
    ok($t->wait_for(sub { !$t->spool_files() }, 15, 'an empty spool'),
       'all are delivered');

    afresh('initial=20ms max=20ms', 'concurrency=1');
    arrives(post('404,404,200'), 3, 'the only place is for all');
}


# a destination that cannot be reached is down with the first event; it is
# probed with one that has not been tried, as long as there is any

sub probe {
    my %name;

    my $named = sub {
        my ($name) = @_;
        $name{substr(sha256_hex(post('200')), 0, 32)} = $name;
    };

    my $refused = sub {
        return map { /id ([0-9a-f]{32})/ ? $name{$1} : () }
                   $t->grep_log(qr/connect\(\) failed/);
    };

    afresh('initial=400ms max=800ms');
    $app->stop();
    $named->('first');
    ok($t->wait_log(qr/is down, status 502/), 'refused: down');
    $named->($_) for 'second', 'third';

    ok($t->wait_for(sub { (() = $refused->()) >= 4 }, 20, 'four attempts'),
       'refused: probes');
    is(join(' ', ($refused->())[0 .. 3]), 'first second third first',
       'refused: with another event each time');
    is(down(), 1, 'refused: said once');
    $app->start();
    ok($t->wait_for(sub { !$t->spool_files() }, 15, 'an empty spool'),
       'refused: all are delivered afterwards');
}


# Retry-After: no longer than "max", then it is probed

sub asked {
    afresh('initial=100ms max=2s');

    my $busy = post('429r86400');

    arrives($busy, 1, 'Retry-After of a day: it is tried');
    arrives($_, 1, 'Retry-After of a day: another one is delivered')
        for map { post('200') } 1 .. 3;
    arrives($busy, 3, 'Retry-After of a day: it is tried again');
    is(down(), 0, 'Retry-After of a day: it is one event that is to wait');

    my @start = map { $_->{start} } requests_of($busy);

    cmp_ok(($start[1] // 0) - $start[0], '>=', 1.9,
           'Retry-After of a day: after "max"');

    # what is too large to be counted, a date that is far away or was

    for my $case (['429r99999999999999999999,200', 1], ['429r4294967296,200', 1],
                  ['503d9999999999,200', 1], ['503d-86400,200', 0],
                  ['503r-1,200', 0], ['503r1x,200', 0])
    {
        my ($mode, $least) = @$case;

        afresh('initial=100ms max=1s');

        my $event = post($mode);

        arrives($event, 2, "$mode: tried again");
        @start = map { $_->{start} } requests_of($event);
        cmp_ok($start[1] - $start[0], '>=', $least ? 0.9 : 0,
               "$mode: after " . ($least ? '"max"' : 'the usual delay'));
    }

    # of all

    afresh('initial=100ms max=2s');
    post('429r86400,200') for 1 .. 3;
    ok($t->wait_log(qr/is down, status 429, next attempt in [12]\d{3} ms/),
       'Retry-After of three: down');
    arrives(post('200'), 1, 'Retry-After of three: another one is delivered');
    ok($t->wait_for(sub { !$t->spool_files() }, 15, 'an empty spool'),
       'Retry-After of three: all are');
    @start = map { $_->{start} } $app->requests();
    cmp_ok($start[3] - $start[2], '>=', 1.9,
           'Retry-After of three: after "max"');

    # of a probe

    afresh('initial=100ms max=6s');
    $app->stop();

    my $one = post('503r3,200');

    ok($t->wait_log(qr/is down, status 502/), 'Retry-After of a probe: down');
    $app->start();
    arrives($one, 2, 'Retry-After of a probe: it is delivered');
    @start = map { $_->{start} } requests_of($one);
    cmp_ok(($start[1] // 0) - $start[0], '>=', 2.9,
           'Retry-After of a probe: after it');

    # of one that was in flight when it went down

    afresh('initial=100ms max=6s');

    my $slow = post('hold');

    $app->wait_for(sub { $app->held() == 1 }, 10, 'one in flight');

    $app->mode('all:reset');

    my @reset = map { post('200') } 1 .. 3;

    ok($t->wait_log(qr/is down, status 502/), 'Retry-After of another: down');
    $app->release('503r3');
    $app->mode('all:200');
    ok($t->wait_for(sub { !$t->spool_files() }, 15, 'an empty spool'),
       'Retry-After of another: all are delivered');

    my ($held, $again) = requests_of($slow);

    cmp_ok($again->{start} - $held->{time}, '>=', 2.9,
           'Retry-After of another: it is no probe before');
}
