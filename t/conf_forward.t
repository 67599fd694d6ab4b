#!/usr/bin/perl

# nginx -t: where events go, and when they go again.

use strict;
use warnings;
no warnings 'qw';      # a comma or a semicolon is a part of the value

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

my $forward = 'taptalent_webhook_forward';
my $retry = 'taptalent_webhook_retry';

# a, b: what stands in two locations

sub config {
    my (%at) = @_;
    $_ //= '' for @at{qw(http server a b after)};

    my $b = $at{b} ? "location /b { taptalent_webhook on; $at{b} }" : '';
    my $on = $at{off} ? '' : 'taptalent_webhook on;';

    $t->conf(<<"CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id any;
    $at{http}

    map \$taptalent_event \$application {
        default    /application;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
        $at{server}

        location /a {
            $on
            $at{a}
        }

        $b

        location /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /x {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }

    $at{after}
}
CONF

    return $t->config_test();
}

my $spool = 'taptalent_webhook_spool %%SPOOL%%;';
my $second = 'taptalent_webhook_spool %%PREFIX%%/second;';
my $f = "$forward /application;";

for my $case (
    ['both', a => "$spool $f"],
    ['as many as there may be', a => "$spool $forward /x concurrency=511;"],
    ['all of it', a => "$spool $forward /application concurrency=100;
                        $retry initial=500ms max=1h max_age=7d
                               permanent=400,404,599;"],
    ['no permanent status', a => "$spool $f $retry permanent=;"],
    ['a text to confirm', a => "$spool $forward /application
                                     'confirm=\"routed\":true';"],
    ['a time', a => "$spool $forward /application timeout=90s;",
     b => "$spool $forward /application timeout=1m30s;"],
    ['a variable', a => "$spool $forward \$application;"],
    ['a variable in it', a => "$spool $forward /x/\$taptalent_event;"],
    ['arguments with a path', a => "$spool $forward /x?to=/../a;"],
    ['two dots of a name', a => "$spool $forward /x/..a/b..;"],
    ['an exact location beside it', a => "$spool $forward /a;",
     server => 'location = /a { internal; proxy_pass http://[::1]; }'],
    ['arguments', a => "$spool $forward /x?e=\$taptalent_event;"],
    ['initial and max alike', a => "$spool $f $retry initial=5m;"],
    ['a small max', a => "$spool $f $retry initial=1ms max=1ms max_age=1s;"],
    ['from http', http => "$spool $f $retry max=1h;"],
    ['from server', server => "$spool $f $retry max=1h;"],
    ['retry from http, the rest here', http => "$retry max=1h;",
     a => "$spool $f"],
    ['retry without forward', http => "$retry max=1h;", a => $spool],
    ['forward without on', off => 1, a => $f],
    ['two locations, one spool', server => "$spool $f", a => '',
     b => 'taptalent_webhook_response full;'],
    ['two locations, the same again', a => "$spool $f $retry max=1h;",
     b => "$spool $f $retry max=1h;"],
    ['the same, once by default', a => "$spool $f",
     b => "$spool $forward /application concurrency=16; $retry initial=1s;"],
    ['two spools', a => "$spool $f", b => "$second $forward /x/y concurrency=1;
                                           $retry max=1h;"],
    ['neither of two forwards', a => $spool, b => $spool],
) {
    my ($name, %at) = @$case;
    my ($status, $output) = config(%at);

    ok($status == 0 && $output !~ /\[(?:emerg|warn)\]/, "good: $name")
        or diag($output);
}


for my $case (
    ['forward only', a => $f],
    ['forward only, from http', http => "$f $retry max=1h;"],
    ['forward only, with a queue', a => "$forward /application queue=1;"],
) {
    my ($name, %at) = @$case;
    my ($status, $output) = config(%at);

    is($status, 0, "warned: $name") or diag($output);
    is(scalar(my @w = $output =~ /\[warn\].*no spool.*crash loses/g), 1,
       "warned: $name: once");
}


for my $case (
    ['one', a => "$spool $forward /x concurrency=512;"],
    ['one from memory', a => "$forward /x concurrency=512;"],
    ['two spools', a => "$spool $forward /x concurrency=256;",
     b => "$second $forward /y concurrency=256;"],
) {
    my ($name, %at) = @$case;
    my ($status, $output) = config(%at);

    is($status, 0, "connections: $name") or diag($output);
    is(scalar(my @w = $output =~ /\[warn\].*need 512 .*connections" is 512:/g),
       1, "connections: $name: warned once") or diag($output);
}


{
    my ($status, $output) = config(a => "$spool $forward /x queue=10;");

    is($status, 0, 'queue with a spool') or diag($output);
    is(scalar(my @w = $output =~ /\[warn\].*"queue".*no effect.*a spool/g), 1,
       'queue with a spool: warned once') or diag($output);
}


my $neither = qr/no\ destination.*taptalent_webhook_spool.*
                 taptalent_webhook_forward/x;
my $uri = qr/invalid uri "\S*", write the path of an internal location/;
my $parameter = qr/invalid parameter "\S*", write "concurrency=number"/;
my $times = qr/invalid parameter "\S*", write "initial=time"/;
my $differs = qr/shares\ the\ spool.*taptalent_webhook_forward.*
                 taptalent_webhook_retry.*write\ the\ same/x;

for my $case (
    ['no destination', $neither],
    ['no destination, with retry', $neither, a => "$retry max=1h;"],

    ['no uri', qr/invalid number of arguments/, a => "$spool $forward;"],
    ['an empty one', $uri, a => "$spool $forward '';"],
    ['a relative one', $uri, a => "$spool $forward application;"],
    ['a url', $uri, a => "$spool $forward http://127.0.0.1/;"],
    ['a path upwards', $uri, a => "$spool $forward /x/../a;"],
    ['a path upwards at the end', $uri, a => "$spool $forward /x/..?a;"],
    ['its own location', qr/leads back to .* write the path of another one/,
     server => "location = /x { taptalent_webhook on; $spool $forward /x; }"],
    ['its own location, without a spool', qr/leads back/,
     server => "location = /x { taptalent_webhook on; $forward /x; }"],
    (map { ["$_->[1] twice", qr/"$_->[0]=" is there twice, write it once/,
            a => "$spool $forward /x $_->[1];"] }
         ['confirm', 'confirm=a confirm=b'],
         ['concurrency', 'concurrency=1 confirm=a concurrency=1'],
         ['timeout', 'timeout=1s timeout=1s']),
    ['retry, max twice', qr/"max=" is there twice/,
     a => "$spool $f $retry max=1h max_age=1d max=1h;"],
    ['a named location', $uri, a => "$spool $forward \@application;"],
    ['an unknown variable', qr/unknown "nothing" variable/,
     a => "$spool $forward \$nothing;"],
    (map { ["forward $_", $parameter, a => "$spool $forward /a $_;"] }
         qw(concurrency=0 concurrency=-1 concurrency=x concurrency= queue=0
            queue= queue=1k concurrency Concurrency=1 timeout timeout= timeout=0
            timeout=x timeout=-1s timeout=99999999999999999999 on
            concurrency=99999999999999999999 confirm= confirm Confirm=x)),
    ['forward twice', qr/"$forward" directive is duplicate/,
     a => "$spool $f $f"],
    ['forward in main', qr/"$forward" directive is not allowed here/,
     a => $spool, after => "} $f events { "],

    ['retry without parameters', qr/invalid number of arguments/,
     a => "$spool $f $retry;"],
    (map { ["retry $_", $times, a => "$spool $f $retry $_;"] }
         qw(initial=0 initial= initial=x initial=-1s max=0 max=
            max=1x max_age=0 max_age= max_age=x permanent=200 permanent=299
            permanent=600 permanent=x permanent=4xx permanent=400,,410
            permanent=400;410 permanent 5 Max=1s)),
    ['max below initial', qr/"max" of "$retry" must not be less than "initial"/,
     a => "$spool $f $retry initial=2s max=1s;"],
    ['max below the default', qr/"$retry" must .* are 500ms and 1000ms, write/,
     a => "$spool $f $retry max=500ms;"],
    ['retry twice', qr/"$retry" directive is duplicate/,
     a => "$spool $f $retry max=1h; $retry max=1h;"],

    ['one spool, one forward', $differs, a => "$spool $f", b => $spool],
    ['the other way round', $differs, a => $spool, b => "$spool $f"],
    ['one spool, two uris', $differs, a => "$spool $f",
     b => "$spool $forward /other;"],
    ['one spool, two texts', $differs, a => "$spool $forward /x confirm=yes;",
     b => "$spool $forward /x confirm=yea;"],
    ['one spool, one text', $differs, a => "$spool $forward /x confirm=yes;",
     b => "$spool $forward /x;"],
    ['one spool, one text more', $differs,
     a => "$spool $forward /x confirm=yes;",
     b => "$spool $forward /x confirm=yes,;"],
    ['one spool, two numbers', $differs, a => "$spool $f",
     b => "$spool $forward /application concurrency=1;"],
    ['one spool, two times', $differs, a => "$spool $f",
     b => "$spool $forward /application timeout=61s;"],
    (map { ["one spool, another $_", $differs, a => "$spool $f",
            b => "$spool $f $retry $_;"] }
         qw(initial=2s max=1h max_age=4d permanent=400 permanent=
            permanent=400,410,413,415,423)),
    ['one spool, another server', $differs, a => "$spool $f",
     after => "server { listen 127.0.0.1:%%PORT_1%%; location / {
                            taptalent_webhook on; $spool $f } }"],
) {
    my ($name, $like, %at) = @$case;

    # a semicolon in a parameter has to be quoted
    $_ && s/(permanent=400;410)/"$1"/ for $at{a};

    my ($status, $output) = config(%at);
    my @messages = $output =~ /^.*\[emerg\].*$/mg;

    isnt($status, 0, "bad: $name");
    is(scalar @messages, 1, "bad: $name: one message") or diag($output);
    like($messages[0] // '', $like, "bad: $name: message");
    like($messages[0] // '', qr/in \S+:\d+/, "bad: $name: place")
        if $name ne 'an unknown variable';
    note($messages[0] // '');
}

is_deeply([glob $t->spool() . '/*/*'], [], 'nginx -t has made nothing');

done_testing();
