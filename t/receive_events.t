#!/usr/bin/perl

# taptalent_webhook_events: what matches is stored, anything else is
# acknowledged and dropped by its headers alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /all {
            taptalent_webhook on;
        }

        location /star {
            taptalent_webhook on;
            taptalent_webhook_events *;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
        }

        location /list {
            taptalent_webhook on;
            taptalent_webhook_events resume.* candidate.updated;
        }

        location /receiver {
            taptalent_webhook receiver;
            taptalent_webhook_company_id any;
            taptalent_webhook_events resume.*;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
        taptalent_webhook_events job.*;

        location / {
            taptalent_webhook on;
        }

        location /own {
            taptalent_webhook on;
            taptalent_webhook_events candidate.*;
        }
    }
}
EOF_CONF

$t->run();

my @cases = (
    ['/all', 'resume.a', 1], ['/all', 'x', 1], ['/all', '-', 1],
    ['/star', 'resume.a', 1], ['/star', 'x', 1],
    ['/resume', 'resume.a', 1], ['/resume', 'resume.a.b.c', 1],
    ['/resume', 'resume', 0], ['/resume', 'resumes.a', 0],
    ['/resume', 'Resume.a', 0], ['/resume', 'a.resume.b', 0],
    ['/resume', 'r', 0], ['/resume', 'resumexa', 0],
    ['/resume', 'resume:a', 0],
    ['/list', 'resume.a', 1], ['/list', 'candidate.updated', 1],
    ['/list', 'candidate.updated.x', 0], ['/list', 'candidate.update', 0],
    ['/list', 'candidate', 0], ['/list', 'x.candidate.updated', 0],
    ['/list', 'job.closed', 0],
);

for (@cases) {
    my ($path, $event, $match) = @$_;

    my $r = $t->post($path, event(event => $event));

    is($r->{status}, 200, "$path, $event: status");
    is($r->{body}, $match ? '{"received":true}'
                          : '{"received":true,"ignored":true}',
       "$path, $event: " . ($match ? 'accepted' : 'ignored'));
    is(scalar $t->spool_lines(), $match, "$path, $event: spool");

    $t->forget_spool();
}

for ([0, 'job.closed'], [1, 'resume.a']) {
    my ($ignored, $event) = @$_;
    my $r = $t->post('/', event(event => $event), port => $t->port(2));
    is(!!$r->{json}{ignored}, !!$ignored, "inherited: $event");
    $r = $t->post('/own', event(event => $event), port => $t->port(2));
    is(!!$r->{json}{ignored}, !!1, "not inherited: $event");
}

# The body of an ignored event is not looked at; the headers are.

my $headers = headers_for('', 'X-Webhook-Event' => 'job.closed');

for my $body ('', '{', 'x' x 100_000, event(), event(companyId => 'other')) {
    my $r = $t->post('/resume', $body, headers => $headers);
    is($r->{body}, '{"received":true,"ignored":true}',
       'the body does not matter: ' . substr $body, 0, 20);
}

my $r = $t->post('/resume', event(), headers => [@$headers[0 .. 3]]);
is($r->{json}{error}, 'timestamp_header', 'the headers do');

my $c = $t->connect();
for (1 .. 3) {
    $c->send($t->message('/resume', 'x' x 50_000, headers => $headers,
                         keepalive => 1, chunked => 999));
    $c->send($t->message('/resume', event(), keepalive => 1));
    is($c->answer()->{json}{ignored}, JSON::PP::true(), 'keepalive: ignored');
    is($c->answer()->{body}, '{"received":true}', 'keepalive: accepted');
}
$c->close();

$r = $t->post('/receiver', event());
is($r->{json}{message}, 'Webhook received successfully', 'receiver: matches');
$r = $t->post('/receiver', event(event => 'job.closed'));
is($r->{json}{ignored}, JSON::PP::true(), 'receiver: ignored');

$t->no_alerts();

done_testing();
