#!/usr/bin/perl

# nginx -t: what is right by itself, and loses or refuses every event all the
# same. Each has a warning, or an error where it cannot work, that says what to
# write; what only looks like one of these has none.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();
my $prefix = $t->prefix();

my $pass = 'proxy_pass http://127.0.0.1:%%PORT_2%%;';
my $target = "location = /application { internal; $pass }";

# on: what is in the location; uri: where events go; target: the location for
# them; server, http: what else there is; listen: instead of ssl

sub config {
    my (%at) = @_;

    $_ //= '' for @at{qw(http server on)};
    $at{listen} //= 'listen 127.0.0.1:%%PORT_1%% ssl;';
    $at{target} //= $target;
    $at{forward} //= 'taptalent_webhook_forward ' . ($at{uri} // '/application')
                     . ';';
    $at{spool} //= 'taptalent_webhook_spool %%SPOOL%%;';

    $t->conf(<<"CONF");
%%GLOBALS%%

events { }

http {
    %%HTTP%%
    %%TLS%%
    $at{http}

    server {
        $at{listen}
        $at{server}

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_company_id any;
            $at{spool}
            $at{forward}
            $at{on}
        }

        $at{target}
    }
}
CONF

    return $t->config_test();
}

# the messages of these levels, without time, pid and the like

sub said {
    my ($output, $level) = @_;

    return grep { !/configuration file .* test failed/ }
           $output =~ /^(?:\w+:|\S+ \S+) \[$level\] (?:\d+#\d+: )?(.*)$/mg;
}

sub good {
    my ($name, %at) = @_;
    my ($status, $output) = config(%at);

    is($status, 0, "good: $name") or diag($output);
    is(join("\n", said($output, '(?:warn|emerg)')), '', "good: $name: silent");
}

sub warned {
    my ($name, $like, %at) = @_;
    my ($status, $output) = config(%at);
    my @warnings = said($output, 'warn');

    is($status, 0, "warned: $name") or diag($output);
    is(scalar @warnings, 1, "warned: $name: once") or diag($output);
    like($warnings[0] // '', $like, "warned: $name: what");
    like($warnings[0] // '', qr/ in \S+:\d+\b.*, write /,
         "warned: $name: to do");
}

sub bad {
    my ($name, $like, %at) = @_;
    my ($status, $output) = config(%at);
    my @errors = said($output, 'emerg');

    isnt($status, 0, "bad: $name");
    is(scalar @errors, 1, "bad: $name: one message") or diag($output);
    like($errors[0] // '', $like, "bad: $name: what");
    like($errors[0] // '', qr/ in \S+:\d+\b.*, write /, "bad: $name: to do");
    ok(!-e "$prefix/spool/tmp" && !-e "$prefix/second",
       "bad: $name: nothing is made");
}


# where events go --------------------------------------------------------------


my $nowhere = qr{forward \S+" for "taptalent_webhook on" in \S+ finds no loca};

good('an exact location');
good('a prefix', target => "location /app { internal; $pass }");
good('a prefix, the longest', target => "location /app { internal; $pass }
     location /a { } location /application/x { }");
good('a prefix before regexes', target => "location ^~ /app { internal; $pass }
     location ~ ^/app { }");
good('a prefix of all', target => "location / { internal; $pass }");
good('one inside of another', target => "location /app { return 404;
     location /app/in { internal; $pass } }", uri => '/app/in/x');
good('a regex', target => "location ~ ^/APP { } location ~* ^/APP { internal;
     $pass }");
good('a regex before a prefix', target => "location /application { return 404; }
     location ~ cation\$ { internal; $pass }");
good('a regex in a prefix', target => "location /app { return 404;
     location ~ cation\$ { internal; $pass } }");
good('arguments', uri => '/application?to=1');
good('an escaped name', uri => '/app%6cication');
good('many names', target => join('', map { "location = /$_ { }"
     . " location /$_$_/ { }" } 'a' .. 'z') . $target);
good('variables', uri => '/x/$taptalent_event', target => '');
good('a rewrite in the server', server => 'rewrite ^/application$ /there;',
     target => "location = /there { internal; $pass }");
good('a rewrite in the location', target => "location = /application { internal;
     rewrite ^ /there; } location = /there { $pass }");
good('if in the location', target => "location = /application { internal;
     if (\$taptalent_event ~ x) { return 404; } $pass }");
good('try_files in the location', target => "location = /application { internal;
     try_files /nothing \@there; } location \@there { $pass }");
good('another spool', target => 'location = /application { internal;
     taptalent_webhook on; taptalent_webhook_company_id any;
     taptalent_webhook_spool %%PREFIX%%/second; }');
good('no forward', forward => '', target => '');
good('variables, one of which is a constant', http => 'map $host $to {
     default /nowhere; }', uri => '$to', target => '');

warned('no location', $nowhere, target => '');
warned('none of this name', $nowhere, uri => '/aplication');
warned('a longer name', $nowhere, uri => '/application2');
warned('a shorter name', $nowhere, uri => '/applicatio');
warned('a regex that differs', $nowhere, target => 'location ~ ^/APP { }');
warned('a named location', $nowhere,
       target => "location \@application { $pass }");
warned('one in another server', $nowhere, target => "} server {
       listen 127.0.0.1:%%PORT_0%%; $target");
warned('one with a slash, which is a redirect', $nowhere,
       target => "location /application/ { internal; $pass }");
warned('two locations with the spool, once', $nowhere, target =>
       'location = /hook2 { taptalent_webhook on;
        taptalent_webhook_company_id any; taptalent_webhook_spool %%SPOOL%%;
        taptalent_webhook_forward /application; }');
warned('the whole server', qr{location "/" of .* is open to anybody, past all},
       target => "location / { $pass }");
warned('an open location', qr{"/application" of .* is open to anybody},
       target => "location = /application { $pass }");
warned('return 204', qr{"/application" of .* answers all events with "return 2},
       target => 'location = /application { internal; return 204; }');
warned('return 404', qr{answers all events with "return 404"},
       target => "location = /application { internal; set \$x 1; return 404;
                  $pass }");
warned('nobody', qr{"/application" of .* passes events to nobody},
       target => 'location = /application { internal; }');

bad('itself, by a prefix', qr{leads to the location of that in \S+:\d+},
    uri => '/hook2', target => 'location /hook { taptalent_webhook on;
    taptalent_webhook_company_id any; taptalent_webhook_spool %%PREFIX%%/second;
    taptalent_webhook_forward /hook3; }');
bad('itself', qr{leads back to the location of}, uri => '/hook');


# what answers before ----------------------------------------------------------


good('if with return', on => 'if ($arg_x) { return 403; }');
good('set', on => 'set $x 1; set $y $x$x;');
good('if in the server', server => 'if ($arg_x) { return 403; }');
good('limit_except', on => 'limit_except POST { deny all; }');

warned("return in the $_->[0]", qr/"return" in the $_->[0] of .* answers all/,
       @$_[1, 2])
    for ['location', on => 'return 503;'], ['location', on => 'return 200 ok;'],
        ['location', on => 'set $x 1; set $y z; return 301 https://x/;'],
        ['server', server => 'return 301 https://$host$request_uri;'];

warned('try_files', qr/"try_files" in the location of .* answers all/,
       on => 'try_files $uri =404;');


# HTTPS ------------------------------------------------------------------------


my $plain = 'listen 127.0.0.1:%%PORT_0%%;';
my $https = qr/takes events over HTTPS only, .*has "ssl": all events are refu/;

good('plain HTTP', listen => $plain, on => 'taptalent_webhook_https off;');
good('behind a balancer', listen => $plain,
     on => 'taptalent_webhook_https $arg_x;');
good('plain and TLS', listen => "$plain listen 127.0.0.1:%%PORT_1%% ssl;");
good('TLS by another server on the same address', listen =>
     'listen 127.0.0.1:%%PORT_1%%;', http => 'server { server_name x;
      listen 127.0.0.1:%%PORT_1%% ssl; }');
good('nobody can post', listen => $plain, on => 'internal;');
warned('plain HTTP alone', $https, listen => $plain);
warned('TLS in another server', $https, listen => $plain, http =>
       'server { listen 127.0.0.1:%%PORT_1%% ssl; }');


# spools inside of each other --------------------------------------------------


sub both {
    my ($one, $two, $more) = @_;

    my $quarantine = $two =~ /^quarantine / ? "taptalent_webhook_$two;" : '';

    $two = $quarantine ? '' : "location = /hook2 { taptalent_webhook on;
                               taptalent_webhook_company_id any;
                               taptalent_webhook_spool $two; }";

    return (spool => "taptalent_webhook_spool $one; $quarantine",
            target => "$target $two", http => $more);
}

my $inside = qr/" in \S+:\d+ is inside of the (?:spool|quarantine) "/;
my $one = 'are one directory, write it in the same way in both';
my $p = '%%PREFIX%%';

good('beside each other', both("$p/spool", "$p/spool-quarantine"));
good('with one beginning', both("$p/spool", "quarantine $p/spool2"));

bad('a quarantine in a spool', $inside,
    both("$p/spool", "quarantine $p/spool/q"));
bad('a spool in a quarantine', $inside,
    both("$p/second/in", "quarantine $p/second"));
bad('a spool in another one', $inside, both("$p/spool", "$p/spool/new"));
bad('the other way round', $inside, both("$p/spool/dead", "$p/spool"));

symlink $prefix, "$prefix/link" or die "symlink() failed: $!";

bad('one directory, by a link', qr/$one/, both("$p/spool", "$p/link/spool"));
bad('one directory, by dots', qr/$one/, both("$p/spool", "$p/./spool"));
bad('inside, by a link', $inside, both("$p/spool", "$p/link/spool/x"));
bad('inside, by dots', $inside,
    both("$p/spool", "quarantine $p/proxy/../spool/x"));

# and where they are there already

SKIP: {
    for ('spool', 'spool/new', 'spool/new/x', 'outside') {
        mkdir "$prefix/$_" or die "mkdir() failed: $!";
    }

    chmod 0755, map { "$prefix/$_" } qw(spool spool/new spool/new/x outside);
    symlink "$prefix/spool/new", "$prefix/new" or die "symlink() failed: $!";

    bad('there: inside', $inside, both("$p/spool", "$p/spool/new/x"));
    bad('there: by a link', $inside, both("$p/spool", "quarantine $p/new/x"));
    bad('there: of a link, new', $inside,
        both("$p/spool", "quarantine $p/new/y"));
    bad('there: a cache in it', qr/"\S+\/new\/tmp", where nginx keeps other fi/,
        both("$p/spool", "$p/second",
             "proxy_cache_path $p/new/tmp keys_zone=x:1m;"));
    bad('there: below a cache', qr/"\S+\/spool", where nginx keeps other files/,
        both("$p/spool/own", "$p/second",
             "proxy_cache_path $p/spool keys_zone=x:1m;"));

    skip 'mount is not allowed', 3
        if system("mount --bind $prefix/spool $prefix/outside 2>/dev/null");

    bad('there: mounted twice', qr/$one/, both("$p/spool", "$p/outside"));
    bad('there: inside of what is mounted twice', $inside,
        both("$p/outside", "$p/spool/new/x"));

    system("umount $prefix/outside") == 0 or diag('umount failed');
}


# the disk, and the way there --------------------------------------------------


my $disk = '%%PREFIX%%/disk/spool';

system("rm -rf $prefix/spool $prefix/new");
mkdir "$prefix/disk" or die "mkdir() failed: $!";

warned('min_free', qr/"min_free" of the spool .* is more than the \d+ bytes of/,
       spool => 'taptalent_webhook_spool %%SPOOL%% min_free=8000000000m;');

SKIP: {
    skip 'root is needed', 10 if !defined $t->worker_user();

    chmod 0700, "$prefix/disk";
    warned('a closed directory', qr{"\S+/disk/spool" in \S+ is closed to the},
           spool => "taptalent_webhook_spool $disk;");
    chmod 0711, "$prefix/disk";
    good('an open one', spool => "taptalent_webhook_spool $disk;");

    skip 'mount is not allowed', 4
        if system("mount -t tmpfs none $prefix/disk 2>/dev/null") != 0;

    mkdir "$prefix/disk/spool";
    system("mount -o remount,ro $prefix/disk");

    my ($status, $output) = config(spool => "taptalent_webhook_spool $disk;");

    like($output, qr/\[warn\].*disk\/spool" in \S+ is on a filesystem that is /,
         'a disk that is mounted read-only');
    system("umount $prefix/disk") == 0 or diag('umount failed');
}

$t->no_alerts();

done_testing();
