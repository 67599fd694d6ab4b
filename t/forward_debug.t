#!/usr/bin/perl

# The way of an event in the debug log: each step says the id of the event or the
# name of its file, and none says what is in it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new();

plan(skip_all => 'nginx is without --with-debug') unless $t->debugs();

$ENV{TEST_NGINX_DEBUG} = 1;

my $app = Test::Sink->new(port => $t->port(2));

$t->conf(<<'EOC');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /app;
            taptalent_webhook_retry initial=10ms max=20ms;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
EOC

$t->run();
ok($t->wait_log(qr/taptalent owner: has "/), 'the worker forwards');

my $secret = 'Seen By Nobody';
my @begin = (
    qr/commit: event ID gathers, 1 in its batch/,
    qr/commit: 1 events, \d+ bytes/,
    qr/file: "FILE" is seen/,
    qr/file: "FILE" is read, rc 0, 1 lines/,
    qr/attempt: event ID, attempt 1 begins/,
);
my @end = (
    qr/attempt: event ID is settled, rc 0/,
    qr/file: "FILE" is removed/,
);

for my $case (
    ['delivered', '200', qr/attempt: event ID, attempt 1 ends, status 200/],
    ['tried again', '500,204',
     qr/attempt: event ID, attempt 1 ends, status 500/,
     qr/item: event ID waits for \d+ ms/,
     qr/attempt: event ID, attempt 2 begins/,
     qr/attempt: event ID, attempt 2 ends, status 204/],
    ['given up', '422',
     qr/attempt: event ID, attempt 1 ends, status 422/,
     qr/attempt: event ID is given up, permanent/],
    ['down', '200',
     qr/attempt: event ID, attempt 1 ends, status 502/,
     qr/dest: "\/app" down, \d events have failed/,
     qr/dest: "\/app" due/,
     qr/dest: "\/app" probing, event ID/,
     qr/attempt: event ID, attempt \d begins/,
     qr/attempt: event ID, attempt \d ends, status 200/,
     qr/dest: "\/app" up/],
) {
    my ($name, $mode, @way) = @$case;

    $app->forget();
    $app->stop() if $name eq 'down';
    $t->mark_log();
    is($t->post('/hook', event(mode => $mode, data => { name => $secret }))
         ->{status}, 200, "$name: accepted");

    if ($name eq 'down') {
        ok($t->wait_log(qr/dest: "\/app" down/), "$name: nobody listens");
        $app->start();
    }

    ok($t->wait_log(qr/file: "\S+" is removed/), "$name: done");

    my ($request) = $app->requests();
    my ($id) = map { $_->[1] } grep { lc $_->[0] eq 'x-webhook-id' }
               @{ $request->{headers} };
    my @lines = $t->grep_log(qr/\[debug\].* taptalent /);
    my ($file) = "@lines" =~ /file: "(\S+)" is read/;

    # before or after the file is seen

    ok(scalar(grep { /commit: rc 0, 1 events, \d+ us/ } @lines),
       "$name: the commit");

    for my $step (@begin, @way, @end) {
        my $like = $step =~ s/ID/$id/gr =~ s/FILE/$file/gr;

        shift @lines while @lines && $lines[0] !~ $like;
        ok(@lines > 0, "$name: $like") or last;
    }
}

is(scalar $t->grep_log(qr/taptalent .*\Q$secret/), 0, 'nothing of an event');
ok($t->quit(), 'stopped');

for my $like (qr/owner: draining, 0 in flight/, qr/owner: hands ".*" over/) {
    ok(scalar $t->grep_log(qr/taptalent $like/), $like);
}

$t->no_alerts();

done_testing();
