#!/usr/bin/perl

# taptalent_webhook_https: plain HTTP is refused unless said otherwise, and
# never redirected.

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
    taptalent_webhook_company_id any;
    taptalent_webhook_spool %%SPOOL%%;

    map $http_x_forwarded_proto $from_map {
        https 1;
    }

    geo $http_x_client $from_geo {
        default 0;
        10.0.0.0/8 1;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /default {
            taptalent_webhook on;
        }

        location /on {
            taptalent_webhook on;
            taptalent_webhook_https on;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_https off;
        }

        location /map {
            taptalent_webhook on;
            taptalent_webhook_https $from_map;
        }

        location /geo {
            taptalent_webhook on;
            taptalent_webhook_https $from_geo;
        }

        location /argument {
            taptalent_webhook on;
            taptalent_webhook_https $arg_https;
        }

        location /https {
            taptalent_webhook on;
            taptalent_webhook_https $https;
        }

        location /receiver {
            taptalent_webhook receiver;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
        taptalent_webhook_https off;

        location / {
            taptalent_webhook on;
        }

        location /on {
            taptalent_webhook on;
            taptalent_webhook_https on;
        }
    }
}
EOF_CONF

$t->run();

# path, plain, TLS, headers

my @cases = (
    ['/default', 403, 200],
    ['/on', 403, 200],
    ['/off', 200, 200],
    ['/map', 200, 200, 'X-Forwarded-Proto' => 'https'],
    ['/map', 403, undef, 'X-Forwarded-Proto' => 'http'],
    ['/map', 403, undef],
    ['/geo', 200, 200, 'X-Client' => '10.1.2.3'],
    ['/geo', 403, undef, 'X-Client' => '192.0.2.1'],
    ['/geo', 403, undef],
    ['/argument?https=', 403, undef],
    ['/argument?https=0', 403, undef],
    ['/argument?https=off', 403, undef],
    ['/argument?https=http', 403, undef],
    ['/argument?https=HTTP', 403, undef],
    ['/argument?https=https', 200, 200],
    ['/argument', 403, undef],
    ['/argument?https=1', 200, 200],
    ['/argument?https=on', 200, 200],
    ['/argument?https=00', 200, 200],
    ['/https', 403, 200],
    ['/receiver', 403, 200],
);

for (@cases) {
    my ($path, $plain, $tls, @headers) = @$_;
    my $headers = [@{headers_for(event())}, @headers];

    for ([$plain, 0], [$tls, 1]) {
        my ($status, $over) = @$_;
        next if !defined $status;

        my $r = $t->post($path, event(), headers => $headers, tls => $over);
        my $name = "$path @headers, tls $over";

        is($r->{status}, $status, $name);
        is($r->{json}{error}, $status == 200 ? undef : 'https_required',
           "$name: verdict");
        is($r->{headers}{location}, undef, "$name: no redirect");
    }
}

is($t->post('/', event(), port => $t->port(2))->{status}, 200, 'inherited');
is($t->post('/on', event(), port => $t->port(2))->{status}, 403,
   'not inherited');

# A refused one need not send its body, and its body is not read as a request.

my $c = $t->connect();
$c->send($t->message('/default', $t->message('/off', event()),
                     keepalive => 1, headers => headers_for(event())));
is($c->answer()->{status}, 403, 'a request in the body');
$c->send($t->message('/off', event()));
is($c->answer()->{status}, 200, 'the next request');
ok($c->eof(), 'and nothing more');
$c->close();

# The access log is complete when nginx has ended.

$t->quit();

my $accepted = () = $t->access_log() =~ m{^200 accepted POST (?!/receiver)}mg;
is(scalar $t->spool_lines(), $accepted, 'the spool has those accepted');

$t->no_alerts();

done_testing();
