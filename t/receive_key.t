#!/usr/bin/perl

# taptalent_webhook_key: the secret in X-Webhook-Key, inline and in files, and
# that it is nowhere else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new();

# nginx itself logs the headers of a request at the debug level

my $debug = $t->debugs();
$ENV{TEST_NGINX_DEBUG} = 1 if $debug;

my %key = (
    inline => 'inline-0d1f5c7a9b3e',
    old => 'old-88f2c4d6e0a1 with spaces',
    new => 'new-5a7c9e1b3d5f',
    file => 'file-$argument-{}";\\-c3a5e7',
    crlf => 'crlf-91b3d5f7a9c1',
    bare => 'bare-2468ace02468',
    long => 'long-' . 'x' x 4090,
    high => "high-\xc3\xa9\xff-13579b",
);

$t->write_file('file.key', "$key{file}\n");
$t->write_file('crlf.key', "$key{crlf}\r\n");
$t->write_file('bare.key', $key{bare});
$t->write_file('long.key', $key{long});
$t->write_file('high.key', "$key{high}\n");
$t->write_file('new.key', "$key{new}\n");

# the master reads them, as root, and nobody else needs to

chmod 0600, map { $t->path("$_.key") } qw(file crlf bare long high new);

$t->conf(<<"EOF_CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_https off;
    taptalent_webhook_key $key{inline};
    large_client_header_buffers 4 16k;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /inherited {
            taptalent_webhook on;
        }

        location /tls {
            taptalent_webhook on;
            taptalent_webhook_https on;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_key off;
        }

        location /file {
            taptalent_webhook on;
            taptalent_webhook_key file:%%PREFIX%%/file.key;
        }

        location /relative {
            taptalent_webhook on;
            taptalent_webhook_key file:file.key;
        }

        location /crlf {
            taptalent_webhook on;
            taptalent_webhook_key file:crlf.key;
        }

        location /bare {
            taptalent_webhook on;
            taptalent_webhook_key file:bare.key;
        }

        location /long {
            taptalent_webhook on;
            taptalent_webhook_key file:long.key;
        }

        location /high {
            taptalent_webhook on;
            taptalent_webhook_key file:high.key;
        }

        location /rotation {
            taptalent_webhook on;
            taptalent_webhook_key "$key{old}" file:new.key;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
        }

        location /receiver {
            taptalent_webhook receiver;
        }

        location /forward {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/forwarded;
            taptalent_webhook_forward /application;
        }

        location /status/json { taptalent_webhook_status json; }
        location /status/prometheus { taptalent_webhook_status prometheus; }
        location /status/html { taptalent_webhook_status html; }

        location /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
EOF_CONF

my $sink = Test::Sink->new(port => $t->port(2));

$t->run();


# One event with these keys, and what becomes of it.

sub sent {
    my ($path, $name, $verdict, $keys, %opts) = @_;

    my $spooled = $t->spool_lines();
    my $r = $t->post($path, $opts{body} // event(),
                     headers => { 'X-Webhook-Key' => $keys }, %opts);
    my $status = $verdict eq 'key' ? 401 : 200;

    is($r->{status}, $status, "$path, $name: status");
    is($r->{json}{error}, $status == 200 ? undef : $verdict,
       "$path, $name: verdict");
    is($t->spool_lines() - $spooled,
       $verdict eq 'accepted' && $path !~ /forward|receiver/ ? 1 : 0,
       "$path, $name: spool");

    return $r;
}

sub accepted { sent(@_[0, 1], 'accepted', @_[2 .. $#_]) }
sub refused { sent(@_[0, 1], 'key', @_[2 .. $#_]) }


# over TLS and without, in each place

for my $tls (0, 1) {
    accepted('/inherited', "tls $tls", $key{inline}, tls => $tls);
    refused('/inherited', "another, tls $tls", $key{new}, tls => $tls);
    refused('/inherited', "none, tls $tls", undef, tls => $tls);
}

accepted('/tls', 'over TLS', $key{inline}, tls => 1);
accepted('/off', 'none', undef);
accepted('/off', 'any', 'anything');

accepted('/file', 'from a file', $key{file});
accepted('/relative', 'beside nginx.conf', $key{file});
accepted('/crlf', 'with CR LF', $key{crlf});
accepted('/bare', 'without a line break', $key{bare});
accepted('/long', 'a long one', $key{long});
accepted('/high', 'bytes', $key{high});

refused('/file', 'another', $key{inline});
refused('/file', 'the path', 'file:file.key');
refused('/long', 'shorter', substr($key{long}, 0, -1));
refused('/long', 'longer', "$key{long}x");

# all of it, once, and exactly

for my $path ('/inherited', '/receiver') {
    my $key = $key{inline};

    accepted($path, 'exactly', $key);
    refused($path, 'missing', undef);
    refused($path, 'empty', '');
    refused($path, 'repeated', [$key, $key]);
    refused($path, 'repeated, the first is right', [$key, 'x']);
    refused($path, 'repeated, the second is right', ['x', $key]);
    refused($path, 'a list', "$key, $key");
    refused($path, 'quoted', "\"$key\"");
    refused($path, 'shorter', substr($key, 0, -1));
    refused($path, 'longer', "${key}0");
    refused($path, 'its beginning', substr($key, 0, 1));
    refused($path, 'in upper case', uc $key);
    refused($path, 'the last character', substr($key, 0, -1) . 'f');
    refused($path, 'the first character', 'j' . substr($key, 1));
}

# blanks around it are not of it, in HTTP

accepted('/inherited', 'blanks', "  $key{inline}  ");

# rotation: each, and no other

accepted('/rotation', 'the old one', $key{old});
accepted('/rotation', 'the new one', $key{new});
refused('/rotation', 'both', [$key{old}, $key{new}]);
refused('/rotation', 'both in one', "$key{old} $key{new}");
refused('/rotation', 'that of http', $key{inline});

# before the event type, which would be acknowledged, and after what is cheaper

my $other = event(event => 'candidate.updated');

sent('/resume', 'ignored', 'ignored', $key{inline}, body => $other);
refused('/resume', 'not even ignored', undef, body => $other);

my $r = $t->post('/inherited', event(),
                 headers => { 'X-Webhook-Timestamp' => 'now' });
is($r->{json}{error}, 'timestamp_header', 'the form of the head comes first');

$r = $t->post('/tls', event());
is($r->{json}{error}, 'https_required', 'and HTTPS before everything');

# before the body is read

my $c = $t->connect();
$c->send(substr $t->message('/inherited', event()), 0, -1);
is($c->answer()->{status}, 401, 'refused before its body is there');
$c->close();

# one line of the log at warn, which says why and no more

for (['missing', undef, qr/send the key/], ['empty', '', qr/send the key/],
     ['repeated', ['a', 'b'], qr/send the key/],
     ['another', 'a', qr/not that of this endpoint/])
{
    my ($name, $keys, $why) = @$_;

    $t->mark_log();
    $r = refused('/inherited', $name, $keys);
    my @lines = $t->grep_log(qr/webhook refused/);
    is(@lines, 1, "$name: one line");
    like($lines[0] // '', qr/\[warn\] .* refused: key: .*$why.*, event "/,
         "$name: at warn");
    like($r->{json}{message}, $why, "$name: the answer says why");
}

$t->wait_for(sub { ($t->access_log())[-1] =~ /^401 key POST/ }, 5,
             'the access log');
like(scalar $t->access_log(), qr{^401 key POST /inherited$}m, 'access log');


# A file that has changed counts from the next reload on.

$t->write_file('bare.key', "changed-77b1d3");
accepted('/bare', 'changed', $key{bare});
ok($t->reload(old_gone => 1), 'reload');
accepted('/bare', 'reloaded', 'changed-77b1d3');
refused('/bare', 'the one before', $key{bare});
$key{changed} = 'changed-77b1d3';

# One that is gone stops no nginx that runs.

rename $t->path('bare.key'), $t->path('gone.key');
$t->expect_emerg(qr/bare\.key" failed/);
ok(!$t->reload(), 'a reload without the file is refused');
accepted('/bare', 'nginx runs on', $key{changed});
rename $t->path('gone.key'), $t->path('bare.key');


# The application gets the event without the key.

$sink->forget();
accepted('/forward', 'forwarded', $key{inline});
ok($sink->wait_for(1), 'forwarded');

my ($request) = $sink->requests();
my @names = map { lc $_->[0] } @{$request->{headers}};

is(scalar(grep { $_ eq 'x-webhook-event' } @names), 1, 'with its headers');
is(scalar(grep { $_ eq 'x-webhook-key' } @names), 0, 'and no key');
unlike(join("\n", map { @$_ } @{$request->{headers}}), qr/\Q$key{inline}\E/,
       'under no other name');


# Nowhere: not in the logs, not in the spool. A request's own headers are in a
# debug log, by nginx, and only there.

for my $form (qw(json prometheus html)) {
    my $r = $t->get("/status/$form");
    is($r->{status}, 200, "status, $form");
    $t->write_file("status.$form", $r->{body});
}

$t->quit();

my ($found, $looked) = $t->found(\%key, $debug
                                 ? (except => qr/\[debug\].* http header: "/)
                                 : ());

is($found, '', 'the keys are nowhere else');
cmp_ok($looked, '>', 10000, 'there was something to look at');
like(scalar $t->error_log(), qr/\[debug\].* http header: "X-Webhook-Key/,
     'nginx itself logs headers when it debugs') if $debug;

my @lines = grep { /X-Webhook-Key|x-webhook-key/i && !/http header: / }
            map { $_->{_line} } $t->spool_lines();
is(@lines, 0, 'not even its name is in the spool');

$t->no_alerts();

done_testing();
