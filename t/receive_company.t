#!/usr/bin/perl

# taptalent_webhook_company_id: lists, variables, maps, any, missing=.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->write_file('companies.map', join '', map { "company-$_ company-$_;\n" }
                                       1 .. 3000);

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    map_hash_max_size 16384;
    map_hash_bucket_size 128;

    map $taptalent_company_id $known {
        include %%PREFIX%%/companies.map;
    }

    map $taptalent_company_id $direct {
        acme acme;
        12345 12345;
    }

    map $host $by_host {
        a.example.com acme;
        b.example.com 12345;
    }

    map $host $nothing {
        default "";
    }

    taptalent_webhook_company_id inherited;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        taptalent_webhook_company_id server;

        location /server {
            taptalent_webhook on;
        }

        location /one {
            taptalent_webhook on;
            taptalent_webhook_company_id acme;
        }

        location /list {
            taptalent_webhook on;
            taptalent_webhook_company_id acme 12345 "two words" -7
                                         12345678901234567890123 Zürich;
        }

        location /any {
            taptalent_webhook on;
            taptalent_webhook_company_id any;
        }

        location /any_missing {
            taptalent_webhook on;
            taptalent_webhook_company_id any missing=accept;
        }

        location /missing {
            taptalent_webhook on;
            taptalent_webhook_company_id acme missing=accept;
        }

        location /reject {
            taptalent_webhook on;
            taptalent_webhook_company_id acme missing=reject;
        }

        location /map {
            taptalent_webhook on;
            taptalent_webhook_company_id $known;
        }

        location /direct {
            taptalent_webhook on;
            taptalent_webhook_company_id $direct;
        }

        location /host {
            taptalent_webhook on;
            taptalent_webhook_company_id $by_host;
        }

        location /mixed {
            taptalent_webhook on;
            taptalent_webhook_company_id acme "$arg_company" "x-$arg_company";
        }

        location /nothing {
            taptalent_webhook on;
            taptalent_webhook_company_id $nothing missing=accept;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;

        location / {
            taptalent_webhook on;
        }
    }
}
EOF_CONF

$t->run();

my $huge = '12345678901234567890123';

# uri, accepted, not ours, of the wrong kind; a value is JSON text

my @cases = (
    ['/server', ['"server"'], ['"inherited"', '"serve"'], [undef]],
    ['/one', ['"acme"', '"\\u0061cme"'],
     ['"Acme"', '"acm"', '"acmee"', '"acme "', '" acme"', '1', '"any"'],
     [undef, '""', 'null', 'true', '"acme\\u0000"', '"\\u0000"',
      '"acme\\r\\nX-Evil: 1"', '"acme\\u007f"']],
    ['/list', ['"acme"', '12345', '"12345"', '"two words"', '-7', '"-7"',
               $huge, "\"$huge\"", "\"Z\xc3\xbcrich\"", '"Z\\u00fcrich"'],
     ['12346', '123456', '1234', '-12345', '"012345"', '"two"', '"7"', '7',
      "${huge}4", '"+12345"', "\"Zu\xcc\x88rich\""],
     [undef, '12345.0', '1.2345e4', '1e3']],
    ['/any', ['"acme"', '1', '"any"'], [], [undef, '""', 'null']],
    ['/any_missing', ['"acme"', '1', undef], [], ['""', 'null', '[]']],
    ['/missing', ['"acme"', undef], ['"b"', '1'], ['""', 'null', '{}']],
    ['/reject', ['"acme"'], ['"b"'], [undef, 'null']],
    ['/map', ['"company-1"', '"company-3000"'],
     ['"company-0"', '"company-3001"', '"1"', '1', '"COMPANY-1"'], [undef]],
    ['/direct', ['"acme"', '12345', '"12345"'], ['"b"', '0'], ['""']],
    ['http://a.example.com/host', ['"acme"'], ['12345', '"b"'], [undef]],
    ['http://b.example.com/host', ['12345'], ['"acme"', '"b"'], [undef]],
    ['http://c.example.com/host', [], ['12345', '"acme"', '"b"'], [undef]],
    ['/mixed?company=7', ['7', '"7"', '"acme"', '"x-7"'], ['8', '"x-"'], []],
    ['/mixed', ['"acme"', '"x-"'], ['7'], ['""']],
    ['/nothing', [undef], ['"acme"', '1'], ['""', 'null']],
);

for (@cases) {
    my ($uri, @lists) = @$_;

    for my $expected ([200, undef], [403, 'company_id'], [422, 'payload']) {
        for my $text (@{shift @lists}) {
            my $body = event(companyId => defined $text ? \$text : undef);
            my $r = $t->post($uri, $body);
            my $name = "$uri: " . ($text // 'missing');

            is($r->{status}, $expected->[0], "$name: status");
            is($r->{json}{error}, $expected->[1], "$name: verdict");

            if ($r->{status} == 200) {
                my $line = ($t->spool_lines())[-1];
                my $id = defined $text
                         ? JSON::PP->new->allow_nonref->allow_bignum->utf8
                               ->decode($text) . ''
                         : undef;
                is($line->{companyId}, $id, "$name: envelope");
                like($line->{_line}, qr/"companyId":("|null,)/,
                     "$name: a string");
                $t->forget_spool();
            }
        }
    }
}

my $r = $t->post('/', event(companyId => 'inherited'), port => $t->port(2));
is($r->{status}, 200, 'inherited from http');

# A map is evaluated for each request, also on one connection.

my $c = $t->connect();
my @ids = ('company-1', 'acme', 'company-2', 'company-1');
$c->send(join '', map { $t->message('/map', event(companyId => $_),
                                    keepalive => 1) } @ids);
is(join(' ', map { $c->answer()->{status} } @ids), '200 403 200 200',
   'a map and keepalive');
$c->close();

$t->no_alerts();

done_testing();
