#!/usr/bin/perl

# Without a spool: events go to the application from memory.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA ();
use Test::More;
use Test::Edge;
use Test::Sink;
use Time::HiRes qw(time);

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2));

my $conf = <<'CONF';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_retry initial=100ms max=200ms;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_forward /application concurrency=2 queue=4;
        }

        location /many {
            taptalent_webhook on;
            taptalent_webhook_forward /application queue=10000;
        }

        location /young {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
            taptalent_webhook_retry initial=100ms max=100ms max_age=2s;
        }

        location /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            proxy_set_header X-T "$taptalent_event $taptalent_company_id";
        }
    }
}
CONF

$t->conf($conf);

like(($t->config_test())[1], qr/\[warn\].*no spool.*crash loses/, 'nginx -t');

$t->run();

sub n { return event(data => { n => $_[0], mode => $_[1] // '200' }) }
sub post { return $t->post($_[0], $_[1])->{status} }

# "body's n:attempt:status" of all requests

sub seen {
    return join ' ', map {
        my ($n) = $_->{body} =~ /"n":"?(\w+)/;
        "$n:$_->{attempt}:$_->{status}"
    } $app->requests();
}

# the queue is empty when it takes as many as it holds

sub afresh {
    $t->stop();
    $app->mode('');
    $app->start();
    $app->forget();
    $t->mark_log();
    $t->conf($_[0] // $conf);
    $t->run();
}


# what arrives

my $body = "{\r\n" . substr(event(data => { text => "\x{eb}" }), 1) . "\n";

is($t->post('/hook', $body, headers => {
       'X-Webhook-Tag' => "\xfc", 'X-Webhook-Id' => 'fake',
       'X-Webhook-Key' => 's3cret' })->{body}, '{"received":true}', 'taken');
$app->wait_for(1);

my ($r) = $app->requests();

is($r->{body}, $body, 'the exact body');
is(Test::Sink::header($r, 'X-Webhook-Tag'), "\xfc", 'a header');
is(Test::Sink::header($r, 'X-T'),
   'resume.bulk_upload_parse.started company-uuid', 'variables');
is(join(' ', Test::Sink::header($r, 'X-Webhook-Id')),
   substr($r->{sha256}, 0, 32), 'our id');
is($r->{attempt}, 1, 'the attempt');
like($r->{received}, qr/^\d{4}-.*Z$/, 'the time');
unlike(join(' ', map { @$_ } @{ $r->{headers} }), qr/s3cret|fake/, 'no more');
is(post('/hook', "{\"data\":1}"), 422, 'refused as ever');
ok(!-e $t->spool(), 'there is no spool');


# again, and not again

$app->forget();
post('/hook', n('a', '404,500,200'));
$app->wait_for(3);
is(seen(), 'a:1:404 a:2:500 a:3:200', 'again until it is done');

$app->forget();
post('/hook', n('b', '404,422'));
$t->wait_log(qr/\[error\].*status 422 after 2 attempts and is lost/);
is(seen(), 'b:1:404 b:2:422', 'a permanent status');

post('/young', n('c', '404'));
$t->wait_log(qr/\[error\].*status 404 after \d+ attempts and is lost/);
cmp_ok(scalar($app->requests(sub { $_->{body} eq n('c', '404') })), '>=', 3,
       'too old, after some attempts');


# a full queue

afresh();
$app->stop();
is(join(' ', map { post('/hook', n($_)) } 1 .. 4), '200 200 200 200',
   'the application is down, the queue takes four');

my $c = $t->connect();
$c->send($t->message('/hook', n(5)) =~ s/\r\n\r\n.*/\r\n\r\n/sr);
my $answer = $c->answer();
is($answer->{status}, 503, 'the fifth: 503, without a body having come');
is($answer->{json}{error}, 'unavailable', 'its verdict');
is($answer->{headers}{'retry-after'}, 1, 'its Retry-After');
is(post('/hook', n(6)), 503, 'and the next one');
is(post('/many', n(7)), 200, 'another location has its own queue');

$app->start();
$app->wait_for(5);
is(join(' ', sort map { /n":"?(\d)/ } map { $_->{body} }
                      $app->requests(sub { $_->{status} == 200 })),
   '1 2 3 4 7', 'the application is up, they arrive');
ok($t->wait_for(sub { post('/hook', n(8)) == 200 }, 5), 'there is room again');
$app->wait_for(sub { 6 == grep { $_->{status} == 200 } @_ });
my %count;
$count{$_->{id}}++ for $app->requests();
is(join(' ', values %count), '1 1 1 1 1 1', 'each once');


# a graceful stop

afresh();
post('/hook', n($_, 'hold')) for 1, 2;
post('/hook', n(3));
post('/hook', n(4, '404,404,200'));
$t->wait_for(sub { $app->held() == 2 }, 5, 'two in flight');
$t->signal('QUIT');
$t->wait_for(sub { $t->post('/hook', n(5))->{status} == 0 }, 5,
             'the port to be closed');
$app->release();
$app->wait_for(sub { 4 == grep { $_->{status} == 200 } @_ }, 10, 'all');
ok($t->quit(), 'QUIT: it ends');
is(scalar($app->requests(sub { $_->{status} == 200 })), 4, 'all have arrived');
is(scalar($t->grep_log(qr/\[crit\]/)), 0, 'none is lost');

afresh();
$app->stop();
post('/hook', n($_)) for 1 .. 4;
$t->signal('QUIT');
$t->wait_log(qr/gracefully shutting down/);
$app->start();
$app->wait_for(4);
ok($t->quit(), 'QUIT while the application is down: it ends afterwards');
is(join(' ', sort map { $_->{id} } $app->requests()),
   join(' ', sort map { substr Digest::SHA::sha256_hex(n($_)), 0, 32 } 1 .. 4),
   'all have arrived, once');


# worker_shutdown_timeout

for my $case (['in flight', sub { }, 'hang'],
              ['down', sub { $app->stop() }, '200'],
              ['waiting', sub { }, '404'])
{
    my ($name, $before, $mode) = @$case;

    afresh("worker_shutdown_timeout 1s;\n$conf");
    $before->();
    post('/hook', n($_, $mode)) for 1 .. 3;
    $app->wait_for(1) if $mode ne '200';
    my $start = time();
    ok($t->quit(timeout => 10), "worker_shutdown_timeout, $name: it ends");
    cmp_ok(time() - $start, '<', 5 * $Test::Edge::PATIENCE, "$name: in time");
    cmp_ok(time() - $start, '>=', 0.9, "$name: not before");
    is(scalar(() = $t->grep_log(qr/\[crit\].*3\ events\ are\ lost.*
                                   worker_shutdown_timeout/x)), 1,
       "$name: and says what is lost");
    $app->start();
}


# reload under load

afresh();

my %acked;
my $failed = 0;

for my $n (1 .. 400) {
    my $body = n($n, $n % 7 ? 'slow:20' : '404,slow:50,200');

    if (post('/many', $body) == 200) {
        $acked{substr Digest::SHA::sha256_hex($body), 0, 32} = 0;

    } else {
        $failed++;
    }

    $t->signal('HUP') if $n % 80 == 0;
}

is($failed, 0, 'reload under load: no failed request');

my $all = sub {
    my %done = map { $_->{id} => 1 } grep { $_->{status} == 200 } @_;
    return keys %done == keys %acked;
};

ok($app->wait_for($all, 15, 'all acknowledged'), 'reload: all arrive');
ok($t->wait_for(sub { 1 == $t->workers(all => 1) }, 15, 'old workers to end'),
   'old workers end');
$acked{$_->{id}}++ for $app->requests(sub { $_->{status} == 200 });
is(scalar(grep { $_ != 1 } values %acked), 0, 'each once');
is(scalar($t->grep_log(qr/\[crit\]/)), 0, 'none is lost');

$t->no_alerts();

done_testing();
