#!/usr/bin/perl

# A worker that leaves: it unlocks as soon as nothing of its own is in flight,
# however long a client keeps it, and what waits for its next attempt, or for a
# destination that is down, does not keep it at all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Load;
use Test::Sink;

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2));
my $slow = Test::Sink->new(port => $t->port(3));

$t->conf(<<'CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_retry initial=1h max=1h;

    map $taptalent_event $application {
        default    /app;
        ~^down\.   /down;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $application;
        }

        location /one {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/one;
            taptalent_webhook_forward /app concurrency=1;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /down {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_4%%;
        }

        location /slow {
            proxy_read_timeout 300s;
            proxy_pass http://127.0.0.1:%%PORT_3%%;
        }
    }
}
CONF

$t->run();

my $spool = $t->spool();

sub files { return $t->spool_files() }

sub n { return event(data => { n => $_[0], mode => $_[1] // '200' }) }

sub forwarders {
    my $path = $_[0] // $spool;
    return $t->grep_log(qr/this worker forwards "\Q$path\E"$/);
}

ok($t->wait_log(qr/this worker forwards/), 'a worker forwards');

my ($old) = $t->workers();


# kept by a client -------------------------------------------------------------


# a request of a client that the old worker has to end first

my $client = $t->connect();

$client->send($t->message('/slow', n('slow', 'hold'), keepalive => 1));
$slow->wait_for(sub { $slow->held() == 1 }, 10, 'the slow request');

# with nothing in flight

$t->post('/hook', n('first'));
$app->wait_for(1, 10, 'the first event');
ok($t->reload(), 'reload');
ok($t->wait_for(sub { forwarders() == 2 }, 10, 'the next one'),
   'the next worker forwards');
ok($t->alive($old), 'while a client keeps the old one');

is($t->post('/hook', n('second'))->{status}, 200, 'an event');
ok($app->wait_for(2, 10), 'is delivered');

# with a delivery in flight: it is the old one's until it ends, and only then
# does the next one take over

my ($second) = grep { $_ != $old } $t->workers();

$client->close();
$slow->release('200');
ok($t->wait_for(sub { !$t->alive($old) }, 10, 'the old one'), 'the old one ends');

$client = $t->connect();
$client->send($t->message('/slow', n('slow', 'hold'), keepalive => 1));
$slow->wait_for(sub { $slow->held() == 1 }, 10, 'the slow request');

$t->post('/hook', n('third', 'hold'));
$app->wait_for(sub { $app->held() == 1 }, 10, 'a delivery in flight');
$t->post('/hook', n('fourth', 'hold'));
$app->wait_for(sub { $app->held() == 2 }, 10, 'another one');
ok($t->reload(), 'reload with deliveries in flight');

# what comes now is the next one's

my @before = forwarders();

$t->post('/hook', n('fifth'));
ok(!$t->wait_for(sub { forwarders() > @before }, 0.4),
   'the lock is kept while they fly');
$app->release('200');
ok($t->wait_for(sub { forwarders() == 3 }, 10, 'the next one'),
   'and is free when they have ended');
ok($t->alive($second), 'while a client keeps the old one');
ok($app->wait_for(sub { grep { $_->{body} eq n('fifth') } @_ }, 10),
   'the next one goes on');
ok($t->wait_for(sub { !files() }, 10, 'an empty spool'), 'all is delivered');
is(join(' ', sort map { $_->{attempt} } $app->requests()), '1 1 1 1 1',
   'none of them twice');

$client->close();
$slow->release('200');
ok($t->wait_for(sub { !$t->alive($second) }, 10, 'the old one'),
   'the old one ends');


# of a file that it has read it sends nothing more

my $one = $t->prefix() . '/one';

$app->forget();
$t->mark_log();
$app->mode('all:hold');
Test::Load::make_file($one, [map { { body => n($_) } } 1 .. 3]);
$t->post('/one', n('four'));
$app->wait_for(sub { $app->held() == 1 }, 10, 'the first line');

my ($third) = $t->workers();

ok($t->reload(), 'reload in the middle of a file');

# the new ones come first, then the old one is told

$t->wait_for(sub { !grep { $_ == $third } $t->workers() }, 10,
             'the old one to leave');
$app->release('200');
$app->wait_for(sub { $app->held() == 1 }, 10, 'the second line');
is(scalar(my @next = forwarders($one)), 1, 'the next one sends the second line');
$app->mode('');
$app->release('200');
ok($t->wait_for(sub { !(() = glob "$one/new/*") }, 10, 'an empty spool'),
   'and the others');
is(scalar($app->requests()), 4, 'each once');


# what waits keeps nobody ------------------------------------------------------


for my $case (['an event in its backoff', event(data => { mode => '404' }),
               sub { $app->wait_for(sub { grep { $_->{status} == 404 } @_ }) }],
              ['a destination that is down', event(event => 'down.x'),
               sub { $t->wait_log(qr/is down/) }])
{
    my ($name, $body, $seen) = @$case;

    $t->run() if !$t->{master};
    $t->mark_log();
    $app->forget();
    is($t->post('/hook', $body)->{status}, 200, "$name: taken");
    ok($seen->(), "$name: it waits for an hour");
    ok($t->quit(), "$name: nginx ends at once");
    is(scalar(files()), 1, "$name: the event stays");
    unlink glob "$spool/new/*";
}

$t->run();
$t->no_alerts();

done_testing();
