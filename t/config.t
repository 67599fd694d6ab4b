#!/usr/bin/perl

# nginx -t: what is good, and for every mistake a message that says what to
# write. What is in a spool it leaves alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();
my $threads = $t->has('--with-threads');

my $company = 'taptalent_webhook_company_id any;';
my $spool = 'taptalent_webhook_spool %%SPOOL%%;';

# (status, output) of a configuration; http, server and location are what stands
# at these places, main at the top.

sub config {
    my (%at) = @_;
    $_ //= '' for @at{qw(main http server location)};

    $t->conf(<<"EOF_CONF");
%%GLOBALS%%
$at{main}

events { }

http {
    $at{http}

    server {
        listen 127.0.0.1:%%PORT_0%%;
        $at{server}

        location /hook {
            $at{location}
        }
    }
}
EOF_CONF

    return $t->config_test();
}

sub good {
    my ($name, %at) = @_;
    my ($status, $output) = config(%at);
    ok($status == 0 && $output !~ /\[(?:emerg|warn)\]/, "good: $name")
        or diag($output);
}

sub warned {
    my ($name, $expected, %at) = @_;
    my ($status, $output) = config(%at);
    ok($status == 0 && $output !~ /\[emerg\]/, "warned: $name")
        or diag($output);
    like($output, qr/\[warn\].*$expected/, "warned: $name: message");
}

# The message names the line, what is wrong, and what to write.

sub bad {
    my ($name, $expected, %at) = @_;
    my ($status, $output) = config(%at);

    isnt($status, 0, "bad: $name");
    my @messages = grep { !/configuration file .* test failed/ }
                   $output =~ /^(.*\[emerg\].*)$/mg;
    is(@messages, 1, "bad: $name: one message") or diag($output);
    like($messages[0] // '', $expected, "bad: $name: message");
    note($messages[0] // '');
}

sub at_location { return map { (location => join ' ', @$_) } [@_] }
sub on { return at_location('taptalent_webhook on;', @_) }


# taptalent_webhook

good('off', at_location('taptalent_webhook off;'));
good('the least', on($company, $spool));
good('receiver alone', at_location('taptalent_webhook receiver;'));
good('everything', on($company, $spool, 'taptalent_webhook_https on;
     taptalent_webhook_events resume.*; taptalent_webhook_spool_access
     user:rw group:r; taptalent_webhook_ack_timeout 3s;
     taptalent_webhook_response full;'));
good('from http', http => "$company $spool",
     location => 'taptalent_webhook on;');
good('from server', server => "$company $spool",
     location => 'taptalent_webhook on;');
good('several locations, one spool', http => "$company $spool",
     server => 'location /a { taptalent_webhook on; }
                location /b { taptalent_webhook on;
                              taptalent_webhook_response full; }');
good('several locations, the same spool again', http => $company,
     server => "location /a { taptalent_webhook on; $spool }
                location /b { taptalent_webhook on; $spool }");
good('two spools', http => $company,
     server => 'location /a { taptalent_webhook on;
                              taptalent_webhook_spool %%PREFIX%%/a; }
                location /b { taptalent_webhook on;
                              taptalent_webhook_spool %%PREFIX%%/b; }');
good('a nested location',
     on($company, $spool, 'location /hook/in { taptalent_webhook on; }'));
good('nothing on, nothing needed', location => '', http => '');
good('settings where nothing is on', http => "$company $spool");

bad('unknown value', qr/"maybe".*"on".*"off".*"receiver"/,
    at_location('taptalent_webhook maybe;', $company, $spool));
bad('no value', qr/invalid number of arguments in "taptalent_webhook"/,
    at_location('taptalent_webhook;'));
bad('two values', qr/invalid number of arguments in "taptalent_webhook"/,
    at_location('taptalent_webhook on receiver;', $company, $spool));
bad('twice', qr/"taptalent_webhook".*duplicate/,
    at_location('taptalent_webhook on; taptalent_webhook on;', $company,
                $spool));
bad('in server', qr/"taptalent_webhook" directive is not allowed here/,
    server => "taptalent_webhook on; $company $spool");
bad('in http', qr/"taptalent_webhook" directive is not allowed here/,
    http => "taptalent_webhook on; $company $spool");
bad('in if', qr/"taptalent_webhook" directive is not allowed here/,
    location => "if (\$arg_a) { taptalent_webhook on; } $company $spool");

bad('no company', qr/taptalent_webhook_company_id/, on($spool));
bad('no destination', qr/taptalent_webhook_spool/, on($company));
bad('nothing', qr/taptalent_webhook_(company_id|spool)/, on());


# the same things in main, and for each directive: twice, no value

for my $name (qw(company_id https events spool spool_access ack_timeout
                 response))
{
    bad("$name: no value",
        qr/invalid number of arguments in "taptalent_webhook_$name"/,
        at_location("taptalent_webhook_$name;"));
    bad("$name: in main",
        qr/"taptalent_webhook_$name" directive is not allowed here/,
        main => "taptalent_webhook_$name x;");
}

bad("$_: twice", qr/duplicate/, on($company, $spool, "$_ $_"))
    for 'taptalent_webhook_company_id any;',
        'taptalent_webhook_https on;', 'taptalent_webhook_response full;',
        'taptalent_webhook_events a.*;', 'taptalent_webhook_ack_timeout 1s;',
        'taptalent_webhook_spool_access user:rw;',
        'taptalent_webhook_spool %%SPOOL%%;';


# taptalent_webhook_company_id

good("company_id $_", on("taptalent_webhook_company_id $_;", $spool))
    for 'company-uuid', '12345', 'a b c', 'any', 'any missing=accept',
        'a missing=reject', 'a missing=accept', '$arg_company', '"x $uri y" z';

bad("company_id $_->[0]", $_->[1],
    on("taptalent_webhook_company_id $_->[0];", $spool))
    for ['missing=accept', qr/compan/],
        ['a missing=maybe', qr/missing=(?:maybe|reject|accept)/],
        ['a missing=', qr/missing=/],
        ['""', qr/empty|compan/],
        ['$no_such_variable', qr/unknown "no_such_variable" variable/];


# taptalent_webhook_https

good("https $_", on($company, $spool, "taptalent_webhook_https $_;"))
    for 'on', 'off', '$https', '$arg_https';

good('https from map and geo', http => 'map $http_x $m { https 1; }
     geo $g { default 0; 127.0.0.1 1; }',
     server => "$company $spool location /m { taptalent_webhook on;
                taptalent_webhook_https \$m; } location /g {
                taptalent_webhook on; taptalent_webhook_https \$g; }");

bad("https $_->[0]", $_->[1],
    on($company, $spool, "taptalent_webhook_https $_->[0];"))
    for ['yes', qr/"yes".*on/], ['1', qr/"1".*on/], ['""', qr/"".*on/],
        ['on off', qr/invalid number of arguments/],
        ['$no_such', qr/unknown "no_such" variable/];


# taptalent_webhook_events

good("events $_", on($company, $spool, "taptalent_webhook_events $_;"))
    for 'resume.*', '*', 'resume.* candidate.updated', 'a:b_c-d.E9';

bad("events $_->[0]", $_->[1],
    on($company, $spool, "taptalent_webhook_events $_->[0];"))
    for ['""', qr/empty|pattern/], ['"a b"', qr/"a b"/], ['a/b', qr{"a/b"}],
        ['resume.[ab]', qr/resume\.\[ab\]/];


# taptalent_webhook_spool

my $at = '%%PREFIX%%/spool';

good("spool $_", on($company, "taptalent_webhook_spool $at $_;"))
    for '', 'min_free=0', 'min_free=64m', 'min_free=1g', 'buffer=1m',
        'sync=on', 'min_free=1m buffer=32m sync=on';

warned('spool sync=off', qr/sync=off/,
       on($company, "taptalent_webhook_spool $at sync=off;"));

good('spool with a slash at the end',
     on($company, "taptalent_webhook_spool $at/;"));

bad("spool $_->[0]", $_->[1],
    on($company, "taptalent_webhook_spool $_->[0];"))
    for ['spool', qr/"spool".*absolute/],
        ['./spool', qr{"\./spool".*absolute}],
        ['""', qr/absolute|empty/],
        ["$at min_fre=1m", qr/min_fre=1m/],
        ["$at min_free", qr/min_free/],
        ["$at min_free=x", qr/min_free=x/],
        ["$at min_free=-1", qr/min_free=-1/],
        ["$at min_free=", qr/min_free=/],
        ["$at buffer=0", qr/buffer=0/],
        ["$at buffer=lots", qr/buffer=lots/],
        ["$at buffer=-1m", qr/buffer=-1m/],
        ["$at sync=maybe", qr/sync=maybe.*on/],
        ["$at sync=", qr/sync=/],
        ["$at /another", qr{/another}],
        ["$at threads=", qr/threads=/],
        ['%%PREFIX%%/no/such', qr{/no}],
        ['%%PREFIX%%/nginx.conf', qr{nginx\.conf.*director}i],
        ['/dev/null', qr{/dev/null.*director}i];

if (!$threads) {
    bad('threads= without threads', qr/"threads=default".*without threads/,
        on($company, "taptalent_webhook_spool $at threads=default;"));

} else {
    good('spool threads=', main => 'thread_pool edge threads=2;',
         on($company, "taptalent_webhook_spool $at threads=edge;"));
    good('spool threads=default',
         on($company, "taptalent_webhook_spool $at threads=default;"));
    bad('unknown thread pool', qr/thread pool.*"nosuch"|"nosuch".*thread pool/,
        on($company, "taptalent_webhook_spool $at threads=nosuch;"));
}


# two locations share a spool with different settings

my @others = ('min_free=1m', 'buffer=1m', 'sync=off');
push @others, 'threads=edge' if $threads;

for my $other (@others) {
    bad("shared, $other", qr/spool.*the same in both/,
        main => $threads ? 'thread_pool edge threads=2;' : '',
        http => $company,
        server => "location /a { taptalent_webhook on;
                                 taptalent_webhook_spool $at; }
                   location /b { taptalent_webhook on;
                                 taptalent_webhook_spool $at $other; }");
}

bad('shared, spool_access', qr/spool.*the same in both/,
    http => $company,
    server => "$spool location /a { taptalent_webhook on; }
               location /b { taptalent_webhook on;
                             taptalent_webhook_spool_access group:rw; }");


# taptalent_webhook_spool_access

good("spool_access $_",
     on($company, $spool, "taptalent_webhook_spool_access $_;"))
    for 'user:rw', 'group:rw', 'user:rw group:r', 'group:rw all:r';

bad("spool_access $_->[0]", $_->[1],
    on($company, $spool, "taptalent_webhook_spool_access $_->[0];"))
    for ['rw', qr/"rw"/], ['group:x', qr/group:x/], ['group', qr/"group"/],
        ['other:rw', qr/other:rw/], ['0660', qr/0660/];


# Another directive that takes the location's requests.

for my $mode ('on', 'receiver') {
    bad("taptalent_webhook $mode and a second handler, $_->[0]",
        qr/shares its location.*proxy_pass.*another location/,
        location => join ' ', map { s/MODE/$mode/r } @{$_}[1 .. $#$_])
        for ['after it', 'taptalent_webhook MODE;', $company, $spool,
             'proxy_pass http://127.0.0.1:1;'];
}


# taptalent_webhook_ack_timeout, taptalent_webhook_response

bad('ack_timeout 0', qr/stored in time.*such as "4s"/,
    on($company, $spool, 'taptalent_webhook_ack_timeout 0;'));


good("ack_timeout $_",
     on($company, $spool, "taptalent_webhook_ack_timeout $_;"))
    for '1s', '500ms', '4', '1m';

bad("ack_timeout $_", qr/taptalent_webhook_ack_timeout.*\Q$_\E|
                         \Q$_\E.*taptalent_webhook_ack_timeout|
                         invalid\ value/x,
    on($company, $spool, "taptalent_webhook_ack_timeout $_;"))
    for 'soon', '1x', '-1s';

good("response $_", on($company, $spool, "taptalent_webhook_response $_;"))
    for 'brief', 'full';

bad("response $_", qr/"\Q$_\E"/,
    on($company, $spool, "taptalent_webhook_response $_;"))
    for 'long', 'on';

bad('a directive misspelt', qr/unknown directive "taptalent_webhook_spol"/,
    on($company, 'taptalent_webhook_spol %%SPOOL%%;'));


# A spool that is there: nginx -t neither opens, locks, recovers nor deletes.

SKIP: {
    config(on($company, $spool));
    $t->run();
    is($t->post('/hook', event())->{json}{error}, 'https_required', 'it runs');
    $t->stop();

    my $leftover = '0123456789abcdef';
    my $path = $t->spool();
    $t->write_file("$path/tmp/$leftover.lock", '');
    $t->write_file("$path/tmp/20261123T081113.123Z-$leftover-0000000001-1-"
                   . '00000000.ndjson', "{}\n");
    $t->write_file("$path/new/garbage.ndjson", "{}\n");

    my $before = `ls -lARn --time-style=full-iso $path`;
    good('a spool with leftovers', on($company, $spool));
    is(`ls -lARn --time-style=full-iso $path`, $before,
       'nginx -t leaves the spool alone');

    # Mistakes about what is there.

    unlink "$path/new/garbage.ndjson";

    skip 'root is needed', 1 if $> != 0;

    SKIP: {
        skip 'mount is not allowed', 3
            if system("mount -t tmpfs none $path/new 2>/dev/null") != 0;

        bad('tmp/ and new/ on different filesystems', qr/filesystem/,
            on($company, $spool));
        system("umount $path/new") == 0 or diag("umount $path/new failed");
    }

    chmod 0777, $path;
    bad('a spool that anybody may write', qr/spool/, on($company, $spool));
    chmod 0755, $path;

    chown scalar getpwnam($t->worker_user()), -1, $path;
    bad('a spool that the workers own', qr/spool/, on($company, $spool));
    chown 0, -1, $path;

    rename "$path/new", "$path/old";
    symlink '/tmp', "$path/new";
    bad('new/ is a symlink', qr/new/, on($company, $spool));
    unlink "$path/new";
    rename "$path/old", "$path/new";

    good('the spool again', on($company, $spool));
}


# A reload with a mistake keeps the old configuration.

config(on($company, $spool, 'taptalent_webhook_https off;'));
$t->run();
is($t->post('/hook', event())->{status}, 200, 'before the reload');

config(on($company));
$t->expect_emerg(qr/taptalent_webhook_spool/);
ok(!$t->reload(), 'a reload with a mistake is refused');
is($t->post('/hook', event())->{status}, 200, 'the old configuration runs on');



# The blocks in a location have its settings.

config(http => "$company $spool taptalent_webhook_https off;
                client_max_body_size 1k;",
       server => 'location /on { taptalent_webhook on;
                      if ($arg_if) { set $x 1; }
                      if ($arg_refuse) { return 402; }
                  }
                  location /receiver { taptalent_webhook receiver;
                      if ($arg_if) { set $x 1; }
                  }
                  location /except { taptalent_webhook on;
                      limit_except GET { allow all; }
                  }
                  location /post { taptalent_webhook on;
                      limit_except POST { deny all; }
                  }
                  location /low { taptalent_webhook on;
                      taptalent_webhook_spool %%PREFIX%%/low
                                              min_free=8000000000m;
                      if ($arg_if) { set $x 1; }
                  }');
ok($t->reload(old_gone => 1), 'blocks');

for (['/on', 200], ['/on?if=1', 200], ['/on?refuse=1', 402],
     ['/receiver', 200], ['/receiver?if=1', 200], ['/except', 200],
     ['/post', 200], ['/low', 503], ['/low?if=1', 503])
{
    my ($uri, $status) = @$_;

    is($t->post($uri, event())->{status}, $status, "$uri: status");
    next if $status == 402;

    is($t->post($uri, event(more => 'x' x 1000))->{json}{error}, 'too_large',
       "$uri: too large");
}

is($t->get('/post')->{status}, 403, 'limit_except denies');

$t->no_alerts();

done_testing();
