#!/usr/bin/perl

# Who answers a delivery: the application itself, after a redirect within nginx
# or killed in the middle of its answer; nginx; a cache, whose answers do not
# count.

use strict;
use warnings;

use JSON::PP ();
use Test::More;

use lib 't/lib';
use Test::Edge;
use Test::Peer;
use Test::Sink;

my $t = Test::Edge->new();
my $p = $t->prefix();

my $fastcgi = !$t->has('--without-http_fastcgi_module') && start_php();
my $cache = !$t->has('--without-http-cache');
my $sink = Test::Sink->new(port => $t->port(2));

$t->write_file('html/file', 'x' x 300_000);

configure();
$t->run();

nginx();
redirects();

SKIP: {
    skip 'nginx without a cache', 1 if !$cache;
    cache();
}

SKIP: {
    skip 'no PHP-FPM', 1 if !$fastcgi;
    php();
}

$t->no_alerts();

done_testing();


sub nginx {
    for my $to (qw(return text)) {
        send_to($to);
        delivered($to);
    }
}

# The answer is that of the location that it leads to, and half of that is none.

sub redirects {
    send_to('proxy', 'accel:/to/return');
    delivered('X-Accel-Redirect to what nginx says itself');

    send_to('proxy', 'accel:/file');
    delivered('X-Accel-Redirect to a file');

    send_to('proxy', 'accel:/to/proxy,200');
    delivered('X-Accel-Redirect to another answer');

    $sink->forget();
    send_to('proxy', 'accel:/to/proxy,half,200');
    delivered('X-Accel-Redirect to half an answer');

    is(join(' ', map { $_->{answer} } $sink->requests()),
       'accel:/to/proxy half 200', 'half of it is none');
}

# An answer that was for another event, fresh and, when the application fails,
# stale.

sub cache {
    send_to('cached', '200');
    delivered('the first');

    $sink->forget();
    send_to('cached', '500,200');

    ok($t->wait_log(qr/answered from a cache, the application has not seen it/),
       'the log says so');

    delivered('the second');

    is(join(' ', map { $_->{answer} } $sink->requests()), '500 200',
       'the second is not out of the cache');
}

# The worker is killed in the middle of an answer, and one that takes too long
# is ended by PHP-FPM.

sub php {
    for my $how (qw(kill sleep)) {
        for my $to (qw(php php-off php-accel)) {
            send_to($to, $how);
        }

        delivered("PHP, $how");

        for my $to (qw(php php-off php-accel)) {
            is($t->read_file("php/$to.$how"), "1\n2\n",
               "$to, " . ($how eq 'kill' ? 'killed' : 'too late')
               . ': the second attempt counts');
        }
    }
}


sub send_to {
    my ($to, $mode) = @_;

    my $event = event(companyId => $to, mode => $mode // '200');

    is($t->post('/hook', $event)->{status}, 200, "to $to: accepted");
}

sub delivered {
    my ($what) = @_;

    ok($t->wait_for(sub { !$t->spool_files() }, 20, $what),
       "$what: delivered");
}


sub configure {
    my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
    map $taptalent_company_id $to {
        default            /to/none;
        "~^(?<n>[a-z-]+)$" /to/$n;
    }

    CACHE

    server {
        listen 127.0.0.1:%%PORT_0%%;

        root %%PREFIX%%/html;

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $to;
            taptalent_webhook_retry initial=50ms max=100ms;
        }

        location = /to/return {
            internal;
            return 204;
        }

        location = /to/text {
            internal;
            return 200 text;
        }

        location = /to/proxy {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /file {
            internal;
            THREADS
        }

        location = /to/cached {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            CACHED
        }

        PHP
    }
}
CONF

    my $cached = 'proxy_cache cache;
            proxy_cache_methods POST;
            proxy_cache_key all;
            proxy_cache_valid 200 2s;
            proxy_cache_use_stale http_500;';
    my $php = '';

    for my $to ($fastcgi ? qw(php php-off php-accel) : ()) {
        my $buffering = $to =~ /off/ ? 'off' : 'on';

        $php .= <<"PHP";
        location = /to/$to {
            internal;
            fastcgi_pass unix:%%PREFIX%%/php/fpm.sock;
            fastcgi_buffering $buffering;
            fastcgi_param SCRIPT_FILENAME %%PREFIX%%/php/work.php;
            fastcgi_param REQUEST_METHOD \$request_method;
            fastcgi_param CONTENT_TYPE \$content_type;
            fastcgi_param CONTENT_LENGTH \$content_length;
            fastcgi_param TO $to;
        }
PHP
    }

    for ($conf) {
        s/CACHED/$cache ? $cached : ''/e;
        s/CACHE/$cache ? "proxy_cache_path $p\/cache keys_zone=cache:1m;"
                       : ''/e;
        s/THREADS/$t->has('--with-threads') ? 'aio threads; sendfile off;'
                                            : ''/e;
        s/PHP/$php/;
    }

    $t->conf($conf);
}


# PHP-FPM, with a configuration and a directory of its own, unprivileged

sub start_php {
    return 0 if !Test::Peer->php($t, 'pm.max_children' => 4,
                                 'request_terminate_timeout' => '2s');

    $t->write_file('php/work.php', <<'PHP');
<?php
$to = $_SERVER['TO'];
$how = json_decode(file_get_contents('php://input'))->mode;
$attempt = $_SERVER['HTTP_X_WEBHOOK_ATTEMPT'];

file_put_contents(__DIR__ . "/$to.$how", "$attempt\n", FILE_APPEND);

if ($to == 'php-accel') {
    header('X-Accel-Buffering: no');
}

echo str_repeat('x', 5000);
flush();

if ($attempt == 1 && $how == 'kill') {
    exec('kill -9 ' . getmypid());
}

if ($attempt == 1 && $how == 'sleep') {
    sleep(60);
}
PHP

    return 1;
}
