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
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
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
                 response key signature tolerance enforce))
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
        'taptalent_webhook_spool %%SPOOL%%;',
        'taptalent_webhook_key s3cr3t;', 'taptalent_webhook_key off;',
        'taptalent_webhook_tolerance 5m;', 'taptalent_webhook_tolerance off;',
        'taptalent_webhook_signature preset=github key=s3cr3t;',
        'taptalent_webhook_enforce on;';


# taptalent_webhook_company_id

good("company_id $_", on("taptalent_webhook_company_id $_;", $spool))
    for 'a-company', '12345', 'a b c', 'any', 'any missing=accept',
        'a missing=reject', 'a missing=accept', '$arg_company', '"x $uri y" z';

warned("company_id $_", qr/"company-uuid" is the companyId of the examples/,
       on("taptalent_webhook_company_id $_;", $spool))
    for 'company-uuid', '12345 company-uuid missing=accept';

bad("company_id $_->[0]", $_->[1],
    on("taptalent_webhook_company_id $_->[0];", $spool))
    for ['missing=accept', qr/compan/],
        ['a missing=maybe', qr/missing=(?:maybe|reject|accept)/],
        ['a missing=', qr/missing=/],
        ['a missing=accept missing=reject', qr/"missing=" is there twice/],
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
        ['off', qr/"off", write the name/], ['a off', qr/"off", write/],
        ['resume.[ab]', qr/resume\.\[ab\]/];


# taptalent_webhook_spool

my $at = '%%PREFIX%%/spool';

good("spool $_", on($company, "taptalent_webhook_spool $at $_;"))
    for '', 'min_free=0', 'min_free=64m', 'min_free=1g', 'buffer=1m',
        'sync=on', 'min_free=1m buffer=32m sync=on';

warned('spool sync=off', qr/sync=off/,
       on($company, "taptalent_webhook_spool $at sync=off;"));

SKIP: {
    my $memory = qx{stat -f -c %T /dev/shm 2>/dev/null} =~ /^(?:tmp|ram)fs$/
                 ? "/dev/shm/taptalent-$$" : undef;

    skip '/dev/shm is no tmpfs', 6 if !$memory;

    warned('a spool in memory', qr/"$memory" in \S+:\d+ .* in memory.* a disk/,
           on($company, "taptalent_webhook_spool $memory;"));
    warned('a spool in memory, sync=off', qr/sync=off/,
           on($company, "taptalent_webhook_spool $memory sync=off;"));
    good('a quarantine in memory',
         on($company, $spool, "taptalent_webhook_quarantine $memory;"));

    is(-e $memory, undef, 'none is made');
}

good('spool with a slash at the end',
     on($company, "taptalent_webhook_spool $at/;"));

bad("spool $_->[0]", $_->[1],
    on($company, "taptalent_webhook_spool $_->[0];"))
    for ['spool', qr/"spool".*from the root/],
        ['./spool', qr{"\./spool".*from the root}],
        ['off', qr/"off".*from the root/],
        ['""', qr/"".*from the root/],
        ['/', qr{"/".*write that of a directory}],
        ['//', qr{"//".*write that of a directory}],
        ["$at buffer=1g", qr/"buffer=1g".*"buffer=size" in k or m/],
        ["$at sync=on buffer=1m sync=on", qr/"sync=" is there twice/],
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
        ['other:rw', qr/other:rw/], ['0660', qr/0660/],
        ['group:w', qr/"group:w", write .* such as "group:rw"/],
        ['group:rwx', qr/"group:rwx"/], ['group:', qr/"group:"/],
        ['group:r all:r group:rw', qr/"group:" is there twice/];


# Another directive that takes the location's requests.

for my $mode ('on', 'receiver') {
    bad("taptalent_webhook $mode and a second handler, $_->[0]",
        qr/shares its location.*proxy_pass.*another location/,
        location => join ' ', map { s/MODE/$mode/r } @{$_}[1 .. $#$_])
        for ['after it', 'taptalent_webhook MODE;', $company, $spool,
             'proxy_pass http://127.0.0.1:1;'],
            ['before it', 'proxy_pass http://127.0.0.1:1;',
             'taptalent_webhook MODE;', $company, $spool];
}


# taptalent_webhook_ack_timeout, taptalent_webhook_response

good("ack_timeout $_",
     on($company, $spool, "taptalent_webhook_ack_timeout $_;"))
    for '1s', '500ms', '4', '4999ms';

warned("ack_timeout $_", qr/sender waits for 5 seconds only.*such as "4s"/,
       on($company, $spool, "taptalent_webhook_ack_timeout $_;"))
    for '5s', '1m';

bad("ack_timeout $_", qr/invalid time "\Q$_\E", write one.*such as "4s"/,
    on($company, $spool, "taptalent_webhook_ack_timeout $_;"))
    for '0', 'off', 'soon', '1x', '-1s';

good("response $_", on($company, $spool, "taptalent_webhook_response $_;"))
    for 'brief', 'full';

bad("response $_", qr/"\Q$_\E", write "brief" or "full"/,
    on($company, $spool, "taptalent_webhook_response $_;"))
    for 'long', 'on';

bad('a directive misspelt', qr/unknown directive "taptalent_webhook_spol"/,
    on($company, 'taptalent_webhook_spol %%SPOOL%%;'));


# Secrets: whatever is wrong, no message shows any of one.

$t->write_file('good.key', "s3cr3t\n");
$t->write_file('same.key', "s3cr3t");
$t->write_file('empty.key', '');
$t->write_file('newline.key', "\n");
$t->write_file('crlf.key', "\r\n");
$t->write_file('nul.key', "s3cr3t\0s3cr3t\n");
$t->write_file('large.key', 's3cr3t' x 683);
$t->write_file('largest.key', 'x' x 4095 . "\n");
$t->write_file('binary.key', join '', map { chr } 0 .. 255);
$t->write_file('base64.key', "czNjcjN0\n");
symlink $t->path('good.key'), $t->path('link.key');
mkdir $t->path('directory.key');
system('mkfifo', $t->path('fifo.key'));

sub told {
    my ($name) = @_;
    my ($status, $output) = $t->config_test();
    unlike($output, qr/s3cr3t|czNjcjN0|733363723374/i, "$name: not the secret");
}

sub bad_secret {
    my ($name, $expected, @directives) = @_;
    bad($name, $expected, on($company, $spool, @directives));
    told($name);
}


# taptalent_webhook_key

good("key $_", on($company, $spool, "taptalent_webhook_key $_;"))
    for 's3cr3t', 's3cr3t other', '"two words"', 'off', 'off2', 'file',
        'file:%%PREFIX%%/good.key', 'file:good.key', 'file:good.key other',
        'file:link.key', 'file:largest.key', "'a\"b\\c'", 'key=x', 'file.key';

good('key here and there', http => "taptalent_webhook_key s3cr3t; $company",
     server => "taptalent_webhook_key off; $spool",
     location => 'taptalent_webhook on; taptalent_webhook_key other;');

for ('s3cr3t s3cr3t', 's3cr3t other file:same.key',
     'file:good.key file:same.key')
{
    warned("key $_", qr/keys \d and \d of "taptalent_webhook_key" are the same/,
           on($company, $spool, "taptalent_webhook_key $_;"));
    told("key $_");
}

warned('key /s3cr3t', qr/key begins with "\/", write "file:" before it/,
       on($company, $spool, 'taptalent_webhook_key /s3cr3t;'));
told('key /s3cr3t');

bad_secret("key $_->[0]", $_->[1], "taptalent_webhook_key $_->[0];")
    for ['""', qr/no key, write the key itself, or "file:"/],
        ['s3cr3t ""', qr/no key, write the key itself, or "file:"/],
        ['on', qr/no key, write the key itself/],
        ['off s3cr3t', qr/keys and "off", write either/],
        ['s3cr3t off', qr/keys and "off", write either/],
        ['$http_s3cr3t', qr/may not hold variables.* into a file/],
        ['s3cr3t$', qr/may not hold variables.* into a file/],
        ["other s3cr3t\x01", qr/key 2 .*control character.* one key on one line/],
        ['file:', qr/no path after "file:", write that of a file/],
        ['file:none.key', qr/none\.key" failed, write the path.*No such file/],
        ['file:good.key/x', qr{good\.key/x" failed.*Not a directory}],
        ['file:directory.key', qr/directory\.key" is not a regular file, write/],
        ['file:fifo.key', qr/fifo\.key" is not a regular file, write/],
        ['file:/dev/null', qr{/dev/null" is not a regular file, write}],
        ['file:empty.key', qr/empty\.key" is empty, write/],
        ['file:newline.key', qr/newline\.key" is empty, write/],
        ['file:crlf.key', qr/crlf\.key" is empty, write/],
        ['file:large.key', qr/large\.key" is larger than 4096 bytes, write/],
        ['file:nul.key', qr/key 1 .*control character/];

bad('key twice', qr/"taptalent_webhook_key" directive is duplicate/,
    on($company, $spool, 'taptalent_webhook_key s3cr3t;' x 2));
told('key twice');

SKIP: {
    skip 'root is needed', 3 if $> != 0;

    # the file of somebody else, for whom nginx -t is not root

    my ($status, $output) = config(on($company,
        'taptalent_webhook_forward /f;', 'taptalent_webhook_key file:good.key;'));
    is($status, 0, 'a file of 0600, as root') or diag($output);

    chmod 0600, $t->path('good.key');
    my $user = $t->worker_user();
    my $binary = $t->binary();
    my $prefix = $t->prefix();

    my $as = "setpriv --reuid=$user --clear-groups";

    skip 'nor may nginx be read', 2
        if system("$as test -r " . ($t->module() || $binary)) != 0;

    $output = qx{$as $binary -t -e stderr -p $prefix/ \\
                 -c $prefix/nginx.conf 2>&1};
    like($output, qr/\[emerg\].*good\.key" failed, write .*Permission denied/,
         'a file that may not be read');
    unlike($output, qr/s3cr3t/, 'a file that may not be read: not the secret');
}


# taptalent_webhook_signature

good("signature $_", on($company, $spool, "taptalent_webhook_signature $_;"))
    for 'off', (map { "preset=$_ key=s3cr3t" } qw(github stripe shopify slack)),
        'preset=standard-webhooks key=whsec_czNjcjN0',
        'preset=standard-webhooks key=czNjcjN0 key_format=base64',
        'key=s3cr3t key=other preset=github', 'key=file:good.key preset=github',
        'header=X-Sign key=s3cr3t', 'header=x_sign key=file:binary.key',
        'header=X key=file:base64.key key_format=base64',
        'header=X key=733363723374 key_format=hex algorithm=sha512',
        'header=X key=s3cr3t prefix= encoding=base64 algorithm=sha1',
        'header=X key=s3cr3t "signed=$host $taptalent_body"',
        'header=X key=s3cr3t signed=${taptalent_body}',
        'header=X key=s3cr3t separator=comma timestamp=param:t '
            . '"signed=$taptalent_signature_timestamp$taptalent_body"',
        'header=X key=s3cr3t timestamp=$http_x_time tolerance=1h '
            . 'signed=$http_x_time.$taptalent_body',
        'header=X key=s3cr3t timestamp=$http_x_time tolerance=off',
        'preset=stripe key=s3cr3t tolerance=off',
        'preset=stripe key=s3cr3t tolerance=10m header=X prefix=v2=',
        'preset=slack key=s3cr3t separator=space';

for ('key=s3cr3t key=s3cr3t', 'key=s3cr3t key=other key=file:same.key') {
    warned("signature $_", qr/keys 1 and \d of the signature are the same/,
           on($company, $spool, "taptalent_webhook_signature preset=github $_;"));
    told("signature $_");
}

bad_secret("signature $_->[0]", $_->[1], "taptalent_webhook_signature $_->[0];")
    for ['preset=github', qr/needs a key, write "key="/],
        ['on', qr/parameter 1 is not known, write it as "name=value"/],
        ['off key=s3cr3t', qr/parameter 1 is not known/],
        ['preset=github s3cr3t', qr/parameter 2 is not known.*key/],
        ['preset=github kye=s3cr3t', qr/parameter 2 is not known.*key/],
        ['preset=github KEY=s3cr3t', qr/parameter 2 is not known/],
        ['preset=github czNjcjN0==', qr/parameter 2 is not known/],
        ['preset=gitlab key=s3cr3t', qr/"preset=gitlab", write one of .*github/],
        ['preset= key=s3cr3t', qr/"preset=", write one of/],
        ['preset=github preset=github key=s3cr3t', qr/"preset=github", write/],
        ['preset=github key=', qr/no key, write the key itself/],
        ['preset=github key=file:', qr/no path after "file:"/],
        ['preset=github key=file:none.key', qr/none\.key" failed, write/],
        ['preset=github key=file:empty.key', qr/empty\.key" is empty/],
        ['preset=github key=s3cr3t$', qr/may not hold variables/],
        ['preset=standard-webhooks key=s3cr3t',
         qr/key 1 .* not of the format "whsec", write/],
        ['preset=standard-webhooks key=czNjcjN0',
         qr/key 1 .* not of the format "whsec", write/],
        ['preset=standard-webhooks key=whsec_',
         qr/key 1 .* not of the format "whsec"/],
        ['preset=standard-webhooks key=whsec_czNjcjN0 key=whsec_s3cr3',
         qr/key 2 .* not of the format "whsec"/],
        ['header=X key=s3cr3t key_format=hex', qr/not of the format "hex"/],
        ['header=X key=73336372337 key_format=hex', qr/the format "hex"/],
        ['header=X key=s3cr3t! key_format=base64', qr/the format "base64"/],
        ['header=X key=file:good.key key_format=hex', qr/the format "hex"/],
        ['preset=github key=s3cr3t key_format=ascii',
         qr/"key_format=ascii", write "key_format=raw"/],
        ['key=s3cr3t', qr/header "" of a signature, write "header="/],
        ['key=s3cr3t header=', qr/"header=", write "header=" and the name/],
        ['key=s3cr3t "header=X Y"', qr/header "X Y" of a signature, write/],
        ['key=s3cr3t header=X:', qr/header "X:" of a signature, write/],
        ['key=s3cr3t header=$x', qr/header "\$x" of a signature, write/],
        ['preset=github key=s3cr3t separator=semicolon',
         qr/"separator=semicolon", write "separator=none"/],
        ['preset=github key=s3cr3t separator=', qr/"separator=", write/],
        ['preset=github key=s3cr3t encoding=base32',
         qr/"encoding=base32", write "encoding=hex"/],
        ['preset=github key=s3cr3t algorithm=md5',
         qr/"algorithm=md5", write "algorithm=sha256"/],
        ['preset=github key=s3cr3t encoding=hex encoding=hex',
         qr/"encoding=" is there twice/],
        ['preset=stripe key=s3cr3t prefix=v1,', qr/"v1,".* holds the separator/],
        ['preset=github key=s3cr3t signed=', qr/"signed=", write/],
        ['preset=github key=s3cr3t signed=x', qr/"signed=x" is without the body/],
        ['preset=github key=s3cr3t signed=$request_body',
         qr/without the body.* write "\$taptalent_body"/],
        ['preset=github key=s3cr3t "signed=$no_such $taptalent_body"',
         qr/unknown "no_such" variable/],
        ['preset=github key=s3cr3t timestamp=', qr/"timestamp=", write/],
        ['preset=github key=s3cr3t timestamp=t', qr/"timestamp=t", write/],
        ['preset=stripe key=s3cr3t timestamp=param:',
         qr/"timestamp=param:", write/],
        ['preset=github key=s3cr3t timestamp=param:t',
         qr/"timestamp=param:t", write.* "separator="/],
        ['preset=github key=s3cr3t timestamp=$no_such tolerance=off',
         qr/unknown "no_such" variable/],
        ['preset=github key=s3cr3t timestamp=$http_x',
         qr/time of the signature is not in what is signed.*"tolerance=off"/],
        ['preset=github key=s3cr3t tolerance=5m', qr/no time, write "timestamp="/],
        ['preset=github key=s3cr3t '
         . 'signed=$taptalent_signature_timestamp.$taptalent_body',
         qr/no time, write "timestamp="/],
        ['preset=slack key=s3cr3t tolerance=0', qr/"tolerance=0", write/],
        ['preset=slack key=s3cr3t tolerance=', qr/"tolerance=", write/],
        ['preset=slack key=s3cr3t tolerance=soon', qr/"tolerance=soon", write/];


# what a key has around it without anybody seeing it, in a file and without

my $mark = "\xef\xbb\xbf";
my $space = qr/has white space at its beginning or its end/;
my $byte_order = qr/begins with a byte order mark/;
my $lines = qr/has more than one line/;

for (["s3cr3t\n\n", $space], ["s3cr3t \n", $space], ["s3cr3t\t", $space],
     [" s3cr3t\n", $space], ["\ns3cr3t\n", $space], ["s3cr3t\r", $space],
     ["s3cr3t\n\r\n", $space], [" \n", $space], ["s3cr3t\f\n", $space],
     ["${mark}s3cr3t\n", $byte_order], ["$mark\n", $byte_order],
     ["\xff\xfes\x003\0c\0", $byte_order], ["\xfe\xff\0s\x003\0c", $byte_order],
     ["s3cr3t\ns3cr3t-2\n", $lines], ["s3cr3t\r\ns3cr3t-2\r\n", $lines])
{
    my ($bytes, $expected) = @$_;
    my $shown = $bytes =~ s/[^ -~]/sprintf '%%%02x', ord $&/ger;

    $t->write_file('around.key', $bytes);

    bad_secret("$shown, $_", qr/around\.key" $expected, write the path of a/,
               "$_;")
        for 'taptalent_webhook_key file:around.key',
            'taptalent_webhook_signature preset=github key=file:around.key';
}

for (['s3cr3t ', $space], [' s3cr3t', $space], ["s3cr3t\n", $space],
     ["${mark}s3cr3t", $byte_order],
     ["s3cr3t\ns3cr3t-2", $lines])
{
    my ($bytes, $expected) = @$_;
    my $shown = $bytes =~ s/[^ -~]/sprintf '%%%02x', ord $&/ger;

    bad_secret("inline $shown, $_->[0]", qr/a key $expected, write the key and/,
               $_->[1])
        for ['key', "taptalent_webhook_key good \"$bytes\";"],
            ['signature', "taptalent_webhook_signature preset=github key=good "
                          . "\"key=$bytes\";"];
}

bad_secret('around, other formats', $space, 'taptalent_webhook_signature '
           . 'preset=standard-webhooks "key=whsec_czNjcjN0 ";');

$t->write_file('around.key', "one\ttab, \xef\xbb\xbf within, \xc3\xa9\r\n");
good('signature, nothing around it', on($company, $spool,
     'taptalent_webhook_signature preset=github key=file:around.key;'));


# whether the time is signed, variable by variable

good("signed time $_->[0], $_->[1]", on($company, $spool,
     'taptalent_webhook_signature header=X key=s3cr3t '
     . "\"timestamp=$_->[0]\" \"signed=$_->[1]\";"))
    for ['$http_x_t', '$http_x_t.$taptalent_body'],
        ['$http_x_t', '${http_x_t}0.$taptalent_body'],
        ['${http_x_t}', '$http_x_t.${taptalent_body}'],
        ['${http_x_t}', '${http_x_t}$taptalent_body'],
        ['$HTTP_X_T', '$http_x_t$taptalent_body'],
        ['$http_x_t', '$taptalent_signature_timestamp.$taptalent_body'],
        ['$http_x_t', '${taptalent_signature_timestamp}${taptalent_body}'],
        ['$http_x_t', '$http_x_t_nonce.$http_x_t.$taptalent_body_base64'],
        ['$http_x_d $http_x_t', '$http_x_d $http_x_t.$taptalent_body'];

bad_secret("unsigned time $_->[0], $_->[1]",
           qr/time of the signature is not in what is signed/,
           'taptalent_webhook_signature header=X key=s3cr3t separator=comma '
           . "\"timestamp=$_->[0]\" \"signed=$_->[1]\";")
    for ['$http_x_t', '$http_x_t_nonce.$taptalent_body'],
        ['$http_x_t', '$http_x_tt.$taptalent_body'],
        ['${http_x_t}', '${http_x_t_nonce}.$taptalent_body'],
        ['${http_x_t}', '$http_x_t_nonce.$taptalent_body'],
        ['$http_x_t', 'http_x_t.$taptalent_body'],
        ['$http_x_d $http_x_t', '$http_x_t.$taptalent_body'],
        ['param:t', 'aram:t$taptalent_body'],
        ['param:$http_x_t', '$http_x_t$taptalent_body'];

bad_secret('a body of another name', qr/without the body/,
           'taptalent_webhook_signature header=X key=s3cr3t '
           . 'signed=taptalent_body$taptalent_event_id;');


# taptalent_webhook_tolerance, taptalent_webhook_enforce

good("tolerance $_",
     on($company, $spool, "taptalent_webhook_tolerance $_;"))
    for 'off', '1s', '5m', '"1d 2h"', 300;

bad("tolerance $_", qr/"\Q$_\E", write "off" or .* such as "5m"/,
    on($company, $spool, "taptalent_webhook_tolerance $_;"))
    for 'on', '0', '0s', '500ms', '-1m', 'soon';

good('enforce on', on($company, $spool, 'taptalent_webhook_enforce on;'));
good('enforce off, and nothing to take',
     http => "$company $spool taptalent_webhook_enforce off;");
good('enforce off for a receiver',
     at_location('taptalent_webhook receiver; taptalent_webhook_enforce off;'));
warned('enforce off', qr/"taptalent_webhook_enforce off", events of anybody/,
       on($company, $spool, 'taptalent_webhook_enforce off;'));
bad('enforce log', qr/"log".*"on" or "off"/,
    on($company, $spool, 'taptalent_webhook_enforce log;'));


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
