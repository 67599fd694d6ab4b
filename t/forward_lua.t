#!/usr/bin/perl

# Lua in the location that events are forwarded to, or in all of the server: it
# works there as for a client's request, and what it answers counts.

use strict;
use warnings;

use Test::More;

use lib 't/lib';
use Test::Edge;
use Test::Sink;

plan(skip_all => 'the Lua module of the installed nginx')
    if $ENV{TEST_NGINX_BINARY};

my @lua = map { "/usr/lib/nginx/modules/${_}_module.so" } qw(ndk_http
                                                            ngx_http_lua);

plan(skip_all => 'needs libnginx-mod-http-lua') if grep { !-f } @lua;

my $t = Test::Edge->new();
my $p = $t->prefix();
my $sink = Test::Sink->new(port => $t->port(2));

my $load = join ' ', map { "load_module $_;" } @lua;

my $pass = 'proxy_pass http://127.0.0.1:%%PORT_2%%;';


# What stands in the location, and the status of each attempt.

my %to = (
    set => ["set_by_lua_block \$x { return ngx.var.request_method }
             proxy_set_header X-Set \$x; $pass", '200'],
    rewrite => ["rewrite_by_lua_block {
                     ngx.req.set_header('X-Set', ngx.req.get_method())
                 } $pass", '200'],
    access => ["access_by_lua_block { ngx.log(ngx.NOTICE, 'asked') } $pass",
               '200'],
    header => ["header_filter_by_lua_block { ngx.header['X-Set'] = 'x' }
                $pass", '200'],
    body => ["body_filter_by_lua_block { ngx.arg[1] = ngx.arg[1]:upper() }
              $pass", '200'],
    log => ["log_by_lua_block { ngx.log(ngx.NOTICE, 'noted ', ngx.status) }
             $pass", '200'],

    # the last buffer is not what makes an answer whole

    nothing => ["body_filter_by_lua_block { ngx.arg[1] = nil } $pass", '200'],
    early => ["body_filter_by_lua_block { ngx.arg[2] = true } $pass",
              '200 200', 'half,200'],

    # it answers itself

    ok => ['content_by_lua_block { ngx.exit(200) }', '200'],
    created => ['content_by_lua_block { ngx.exit(201) }', '201'],
    none => ['content_by_lua_block { ngx.exit(204) }', '204'],
    accepted => ['content_by_lua_block { ngx.status = 202; ngx.say("x") }',
                 '202'],
    early_none => ['rewrite_by_lua_block { ngx.exit(204) }', '204'],
    waits => ['content_by_lua_block { ngx.sleep(0.01); ngx.exit(204) }',
              '204'],
    body_read => ['content_by_lua_block {
                       ngx.req.read_body()
                       ngx.exit(#ngx.req.get_body_data() > 100 and 204 or 500)
                   }', '204'],
    asks => ['content_by_lua_block {
                  local r = ngx.location.capture("/sink",
                      { method = ngx.HTTP_POST,
                        body = ngx.var.request_body })
                  ngx.exit(r.status)
              }', '503 200', '503,200'],
    connects => ['content_by_lua_block {
                      local s = ngx.socket.tcp()
                      local ok = s:connect("127.0.0.1", %%PORT_2%%)
                      s:send("GET / HTTP/1.0\r\n\r\n")
                      local line = s:receive()
                      ngx.exit(line:find("200") and 204 or 500)
                  }', '204'],

    # and not

    fails => ['content_by_lua_block {
                   if ngx.req.get_headers()["X-Webhook-Attempt"] == "1" then
                       ngx.exit(500)
                   end
                   ngx.exit(204)
               }', '500 204'],
    half => ['content_by_lua_block {
                  ngx.say("x"); ngx.flush()
                  if ngx.req.get_headers()["X-Webhook-Attempt"] == "1" then
                      ngx.exit(ngx.ERROR)
                  end
              }', '200 200'],
);

my %order = (before => ["$load %%GLOBALS%%", ''],
             after => ["%%GLOBALS%% $load", <<'LUA']);
        rewrite_by_lua_block { ngx.ctx.began = ngx.now() }
        header_filter_by_lua_block { ngx.header['X-Server'] = 'x' }
        body_filter_by_lua_block { ngx.ctx.bytes = #ngx.arg[1] }
        log_by_lua_block { ngx.log(ngx.INFO, 'since ', ngx.ctx.began) }
LUA

for my $order (sort keys %order) {
    configure(@{ $order{$order} });
    $order eq 'after' ? $t->run() : $t->reload() || fail('reload');
    all($order);
}

is(scalar($t->grep_log(qr/API disabled/)), 0, 'no API is disabled');
ok($t->grep_log(qr/noted 200/), 'log_by_lua runs');

$t->no_alerts();

done_testing();


sub all {
    my ($order) = @_;

    for my $to (sort keys %to) {
        is($t->post('/hook', event(companyId => $to, at => $order,
                                   mode => $to{$to}[2] // '200'))->{status},
           200, "$order, $to: accepted");
    }

    $t->wait_for(sub { !$t->spool_files() }, 30, 'deliveries');

    my $log = $t->read_file('delivery.log');

    for my $to (sort keys %to) {
        my @statuses = $log =~ m{^$order /to/$to (\d+)$}mg;

        splice @statuses, 4, -1, '...' if @statuses > 5;

        is("@statuses", $to{$to}[1],
           "$order, $to: delivered by the attempt that it should be");
    }
}

sub configure {
    my ($globals, $server) = @_;

    my $order = $server ? 'after' : 'before';
    my $locations = join '', map { <<"CONF" } sort keys %to;
        location = /to/$_ {
            internal;
            $to{$_}[0]
        }
CONF

    my $conf = <<'CONF';
GLOBALS

events {
}

http {
    log_format delivery 'ORDER $uri $status';

    map $taptalent_company_id $to {
        default /to/$taptalent_company_id;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;
        log_subrequest on;

SERVER
        location = /hook {
            access_log off;
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $to concurrency=64;
            taptalent_webhook_retry initial=50ms max=100ms;
        }

        location = /sink {
            internal;
            access_log off;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        access_log %%PREFIX%%/delivery.log delivery;
LOCATIONS
    }
}
CONF

    for ($conf) {
        s/GLOBALS/$globals/;
        s/ORDER/$order/;
        s/SERVER\n/$server/;
        s/LOCATIONS\n/$locations/;
    }

    $t->conf($conf);
}
