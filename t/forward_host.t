#!/usr/bin/perl

# What a delivery knows of a client: the host that the event came with, and an
# address. The lines that stand in every location work in the one that events
# are forwarded to.

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new();
my $p = $t->prefix();
my $sink = Test::Sink->new(port => $t->port(2));

# all that proxy_params, fastcgi_params and the like have

my @variables = qw(host http_host remote_addr remote_port remote_user
                   server_addr server_port server_name server_protocol scheme
                   https request_method request_uri document_uri document_root
                   content_type content_length query_string
                   proxy_add_x_forwarded_for realip_remote_addr);

@variables = grep { $_ ne 'realip_remote_addr'
                    || $t->has('--with-http_realip_module') } @variables;

my $set = join "\n", map { my $name = $_; $name =~ tr/_/-/;
                           "proxy_set_header X-V-$name \"[\$$_]\";" }
                         @variables;

my $realip = $t->has('--with-http_realip_module')
             ? 'set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;'
             : '';

# what a server is called, and what that makes of an event without a host

my %servers = (
    named => ['server_name hooks.example.com;', 'hooks.example.com'],
    unnamed => ['', 'localhost'],
    any => ['server_name _;', 'localhost'],
    wild => ['server_name *.example.com;', 'localhost'],
    dotted => ['server_name .example.com;', 'example.com'],
    regex => ['server_name "~^(?<s>.+)\.example\.com$";', 'localhost'],
);

my $servers = '';
my $n = 10;

for my $name (sort keys %servers) {
    $servers .= <<"CONF";
    server {
        listen 127.0.0.1:%%PORT_$n%%;
        $servers{$name}[0]
        $realip

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_company_id any;
            taptalent_webhook_spool %%PREFIX%%/spool-$name;
            taptalent_webhook_forward /to?a=b;
            taptalent_webhook_retry initial=100ms max=100ms;
        }

        location = /to {
            internal;
            root %%PREFIX%%/html;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            proxy_set_header Host \$http_host;
            proxy_set_header X-Real-IP \$remote_addr;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto \$scheme;
            $set
        }
    }
CONF

    $servers{$name}[2] = $n++;
}

my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
SERVERS
    server {
        listen 127.0.0.1:%%PORT_3%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_company_id company-uuid;
            taptalent_webhook_key secret;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine;
            taptalent_webhook_spool %%SPOOL%%;
        }
    }
}
CONF

$conf =~ s/SERVERS\n/$servers/;
$t->conf($conf);
$t->run();

for my $name (sort keys %servers) {
    my $got = delivery($name, 'Hooks.Example.COM:8443');

    is($got->{host}, 'Hooks.Example.COM:8443', "$name: Host");
    is($got->{'x-v-http-host'}, '[Hooks.Example.COM:8443]', "$name: http_host");
    is($got->{'x-v-host'}, '[hooks.example.com]', "$name: host");
}

# each of the variables, and a client's address is never one of nginx's own

{
    my $got = delivery('named', 'hooks.example.com');

    my %expected = (
        remote_addr => '127.0.0.1', remote_port => '49152', remote_user => '',
        server_addr => '127.0.0.1', server_port => '80',
        server_name => 'hooks.example.com', server_protocol => 'HTTP/1.1',
        scheme => 'http', https => '', request_method => 'POST',
        request_uri => '/to?a=b', document_uri => '/to',
        document_root => "$p/html", content_type => 'application/json',
        query_string => 'a=b', proxy_add_x_forwarded_for => '127.0.0.1',
        realip_remote_addr => '127.0.0.1',
    );

    for my $name (grep { exists $expected{$_} } @variables) {
        my $header = "x-v-$name" =~ tr/_/-/r;
        is($got->{$header}, "[$expected{$name}]", "\$$name");
    }

    like($got->{'x-v-content-length'}, qr/^\[\d+\]$/, '$content_length');
    is($got->{'x-real-ip'}, '127.0.0.1', 'X-Real-IP');
    is($got->{'x-forwarded-for'}, '127.0.0.1', 'X-Forwarded-For');
    is($got->{'x-forwarded-proto'}, 'http', 'X-Forwarded-Proto');
}

# hosts of all kinds; what is none that everybody takes is not stored

for (['127.0.0.1:8080', '127.0.0.1:8080', '127.0.0.1'],
     ['[::1]:8080', '[::1]:8080', '[::1]'], ['[2001:db8::A]', '[2001:db8::A]',
                                             '[2001:db8::a]'],
     ['a_b-c.example', 'a_b-c.example', 'a_b-c.example'],
     ['hooks.example.com.', 'hooks.example.com', 'hooks.example.com'],
     ['x' x 255 . ':65535', 'x' x 255 . ':65535', 'x' x 255],
     ['x' x 300, 'hooks.example.com', 'hooks.example.com'],
     ["a\"b", 'hooks.example.com', 'hooks.example.com'],
     ["a\\b", 'hooks.example.com', 'hooks.example.com'],
     ["a\xff", 'hooks.example.com', 'hooks.example.com'])
{
    my ($host, $http_host, $name) = @$_;
    my $got = delivery('named', $host) or next;
    my $short = substr $host, 0, 20;

    is($got->{'x-v-http-host'}, "[$http_host]", "$short: http_host");
    is($got->{'x-v-host'}, "[$name]", "$short: host");
}

# the request line, where it names another host

{
    my $got = delivery('named', 'other.example.org',
                       'http://real.example.org/hook');

    is($got->{'x-v-http-host'}, '[real.example.org]',
       'a host in the request line');
}

# a line of before there was such a member, and one that is damaged

for my $name (sort keys %servers) {
    my $got = by_hand($name, '');

    is($got->{'x-v-http-host'}, "[$servers{$name}[1]]",
       "$name, without a host: http_host");
    is($got->{'x-v-host'}, "[$servers{$name}[1]]",
       "$name, without a host: host");
}

by_hand('named', '"host":"a\r\nX-Injected: 1",');

ok($t->wait_for(sub { () = glob "$p/spool-named/corrupt/*.ndjson" }, 10,
                'a damaged line'), 'a host that is none: the line is damaged');

# what is in the line, of the spool and of a quarantine

is($t->post('/hook', event(), port => $t->port(3),
            host => 'hooks.example.com:8443',
            headers => { 'X-Webhook-Key' => 'secret' })->{status}, 200,
   'for a consumer');

is(($t->spool_lines())[0]{host}, 'hooks.example.com:8443', 'host in the spool');

is($t->post('/hook', event(companyId => 'other'), port => $t->port(3),
            host => 'hooks.example.com',
            headers => { 'X-Webhook-Key' => 'secret' })->{status}, 403,
   'for the quarantine');

$t->wait_for(sub { () = glob "$p/quarantine/new/*" }, 10, 'the quarantine');

my ($file) = glob "$p/quarantine/new/*";

like($t->read_file($file),
     qr/,"host":"hooks\.example\.com","headers":/, 'host in the quarantine');

$t->no_alerts();

done_testing();


# the headers of the delivery

sub delivery {
    my ($name, $host, $uri) = @_;

    $sink->forget();

    my $status = $t->post($uri // '/hook', event(n => rand),
                          port => $t->port($servers{$name}[2]),
                          host => $host)->{status};

    # newer ones take no others; these do not come to the module

    return undef if $status == 400 && $host =~ /[^\w.:\[\]-]/
                    && $t->get('/none', port => $t->port($servers{$name}[2]),
                               host => $host)->{status} == 400;

    is($status, 200, "$name, " . substr($host, 0, 20) . ': accepted')
        or return undef;

    return seen($name);
}

sub by_hand {
    my ($name, $member) = @_;

    my $id = sprintf '%032x', rand 1 << 32;
    my $body = event();

    $sink->forget();

    $t->write_file("spool-$name/by-hand", '{"v":1,"id":"' . $id
        . '","received":"2026-11-23T08:11:13.123456Z","event":'
        . '"resume.bulk_upload_parse.started","timestamp":'
        . '"2024-01-20T14:45:00Z","companyId":"company-uuid",' . $member
        . '"headers":{"content-type":"application/json"},"payload":'
        . "$body}\n");

    rename "$p/spool-$name/by-hand", "$p/spool-$name/new/$id.ndjson"
        or die "rename: $!";

    return $member eq '' ? seen($name) : undef;
}

sub seen {
    my ($name) = @_;

    ok($t->wait_for(sub { my @files = glob "$p/spool-$name/new/*"; !@files },
                    10, $name), "$name: delivered");

    my ($request) = $sink->requests();

    return { map { lc $_->[0] => $_->[1] } @{ $request->{headers} } };
}
