#!/usr/bin/perl

# What lies in the spool: the bytes of a line, the parts of a file's name, who
# may read it; and what nginx refuses to have as a spool.

use warnings;
use strict;

use Digest::SHA qw(sha256_hex);
use File::Basename qw(basename);
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Edge;
use Test::Spool qw(list read_spool check_file parse_name split_line);


my $t = Test::Edge->new();
my $json = JSON::PP->new->utf8->canonical;

my $conf = <<'EOF';
%%GLOBALS%%

events {
    worker_connections 256;
}

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any missing=accept;
    taptalent_webhook_spool %%SPOOL%%;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
        }

        location /file {
            taptalent_webhook on;
            client_body_buffer_size 1k;
            client_body_in_file_only clean;
        }

        location /ping {
            return 204;
        }
    }
}

EOF

$t->conf($conf);
my $before = time();
$t->run();

my $spool = $t->spool();
my $worker = $t->worker_user();
my $uid = defined $worker ? getpwnam $worker : $>;


# the directories --------------------------------------------------------------


sub mode { return sprintf '%04o', (stat $_[0])[2] & 07777 }
sub owner { return (stat $_[0])[4] }

is(mode($spool), '0755', 'mode of the spool');
is(owner($spool), $>, 'the spool belongs to who started nginx');

for my $dir (qw(tmp new dead corrupt)) {
    is(mode("$spool/$dir") . ' ' . owner("$spool/$dir"), "0700 $uid",
       "mode and owner of $dir/");
}


# a line -----------------------------------------------------------------------


# posts it and returns its line, of a file with nothing else in it

sub spooled {
    my ($body, %arg) = @_;

    $t->forget_spool();

    my $answer = $t->post($arg{uri} || '/hook', $body, %arg);

    is("$answer->{status} $answer->{body}", '200 {"received":true}',
       'accepted: ' . $arg{name})
        or diag($answer->{error} || '');

    my @files = read_spool($spool);

    is(scalar @files, 1, 'one file') or return;
    is($files[0]->{wrong}, undef, 'name, checksum, number of lines');
    is(mode($files[0]->{path}) . ' ' . owner($files[0]->{path}), "0600 $uid",
       'mode and owner of the file');

    return $files[0]->{lines}[0];
}


sub id { return substr sha256_hex($_[0]), 0, 32 }


my $body = event();
my $line = spooled($body, name => 'the documented example');
my $received = '';

$received = $1 if $line =~ s/"received":"([^"]*)"/"received":""/;

is($line, '{"v":1,"id":"' . id($body) . '","received":"",'
          . '"event":"resume.bulk_upload_parse.started",'
          . '"timestamp":"2024-01-20T14:45:00Z","companyId":"company-uuid",'
          . '"host":"localhost",'
          . '"headers":{"content-type":"application/json",'
          . '"x-webhook-event":"resume.bulk_upload_parse.started",'
          . '"x-webhook-timestamp":"2024-01-20T14:45:00Z"},'
          . '"payload":' . $body . '}', 'the whole line');

like($received, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/,
     'format of the time');

my @at = $received =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):([\d.]+)Z$/;
my $at = timegm(0, @at[4, 3, 2], $at[1] - 1, $at[0]) + $at[5];

cmp_ok($at, '>=', $before - 1, 'received now, not before');
cmp_ok($at, '<=', time() + 1, 'received now, not later');


# the body's bytes

my %bodies = (
    'odd white space' =>
        " \t" . event(data => \"{\t\"a\" :  [ 1 ,2]\t}") . "\t ",
    'numbers as they are' =>
        event(data => \'{"a":1.0,"b":1e400,"c":-0,"d":123456789012345678901}'),
    'members repeated deeper' =>
        event(data => \'{"event":1,"event":2,"payload":{"payload":3}}'),
    'UTF-8' => event(data => { text => "Zo\x{eb} \x{1f600} \x{2028}" }),
    'escapes' => event(data => \'{"a":"\u0000\n\/\u00e9\"\ud83d\ude00\\\\"}'),
    'a lone surrogate' => event(data => \'{"a":"\ud83d"}'),
    'what looks like the envelope' =>
        event(data => { a => '","payload":{"raw":"","v":2}}' }),
    'names of the envelope' => event(v => 2, id => 'x', raw => 'eA==',
                                     payload => {}, headers => {}),
    '100 kilobytes' => event(data => { a => 'x' x 100_000 }),
);

for my $name (sort keys %bodies) {
    my $part = split_line(spooled($bodies{$name}, name => $name));

    is($part->{payload}, $bodies{$name}, "payload: $name");
    is($part->{raw}, undef, 'no raw');
    is($part->{id}, id($bodies{$name}), 'id');
}

my %ways = (
    'in a file' => { uri => '/file' },
    'chunked' => { chunked => [1, 7, 300, 4096] },
    'chunked, in a file' => { uri => '/file', chunked => 1000 },
    'byte for byte' => { split => [400, 1], part => 600 },
);

for my $name (sort keys %ways) {
    my %arg = %{ $ways{$name} };
    my $body = event(data => { a => 'y' x (delete $arg{part} || 50_000) });
    my $part = split_line(spooled($body, name => $name, %arg));

    is($part->{payload}, $body, "payload: $name");
    is($part->{id}, id($body), 'id');
}


# line feeds

my $pretty = JSON::PP->new->utf8->pretty->canonical
                     ->encode($json->decode(event()));

for my $case (['line feeds', $pretty],
              ['CR and LF', $pretty =~ s/\n/\r\n/gr],
              ['a CR only', event() . "\r"],
              ['a LF in front', "\n" . event()],
              ['in a file', ($pretty =~ s/"batch-uuid"/'"' . 'b' x 30000 . '"'
                                        /er), '/file'])
{
    my ($name, $body, $uri) = @$case;
    my $line = spooled($body, name => $name, uri => $uri);
    my $part = split_line($line);
    my $flat = $body =~ tr/\r\n/  /r;

    is($part->{payload}, $flat, "payload with spaces: $name");
    is($part->{body}, $body, 'raw has the exact bytes');
    like($part->{raw}, qr{^(?:[A-Za-z0-9+/]{4})*
                          (?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$}x,
         'base64 with padding');
    is($part->{id}, id($body), 'the id is that of the exact bytes');
}


# companyId

for my $case (['an integer', \'12345', '12345'],
              ['a negative one', \'-7', '-7'],
              ['zero', \'0', '0'],
              ['a long one', \'123456789012345678901234567890',
               '123456789012345678901234567890'],
              ['digits in a string', '12345', '12345'],
              ['with escapes', \'"\u0061\"\\\\\u00e9\/"',
               "a\"\\\x{e9}/"],
              ['UTF-8', "Z\x{fc}rich \x{1f600}", "Z\x{fc}rich \x{1f600}"],
              ['256 bytes', 'c' x 256, 'c' x 256],
              ['missing', undef, undef])
{
    my ($name, $value, $expected) = @$case;
    my $line = spooled(event(companyId => $value), name => "company $name");

    is($json->decode($line)->{companyId}, $expected, "companyId: $name");
    like($line, defined $expected ? qr/,"companyId":"/ : qr/,"companyId":null,/,
         'a string or null');
}


# headers

my %documented = ('content-type' => 'application/json',
                  'x-webhook-event' => 'resume.bulk_upload_parse.started',
                  'x-webhook-timestamp' => '2024-01-20T14:45:00Z');

for my $case (['parameters',
               { 'Content-Type' => 'Application/JSON; charset="utf-8"' },
               { 'content-type' => 'Application/JSON; charset="utf-8"' }],
              ['others of the sender', { 'X-WEBHOOK-Delivery-Id' => 'a b' },
               { 'x-webhook-delivery-id' => 'a b' }],
              ['repeated', { 'X-Webhook-Tag' => ['one', 'two', 'three'] },
               { 'x-webhook-tag' => 'one, two, three' }],
              ['empty', { 'X-Webhook-Tag' => '' }, { 'x-webhook-tag' => '' }],
              ['the key', { 'X-Webhook-Key' => 's3cret' }, {}],
              ['the key in other case', { 'x-webhook-KEY' => 's3cret' }, {}],
              ['the key twice', { 'X-Webhook-Key' => ['s3cret', 's3cret2'] },
               {}],
              ['what begins like the key', { 'X-Webhook-Key-Id' => 'k1' },
               { 'x-webhook-key-id' => 'k1' }],
              ['no name after the prefix', { 'X-Webhook-' => 'x' }, {}],
              ['those of others', { Cookie => 's3cret', Authorization => 'x',
                                    'X-Webhook' => 'x', 'X-Other' => 'x' }, {}],
              ['quotes', { 'X-Webhook-Tag' => "a\"b\\c/d\te\x01f\x7f" },
               { 'x-webhook-tag' => "a\"b\\c/d\te\x01f\x7f" }],
              ['UTF-8', { 'X-Webhook-Tag' => "Z\xc3\xbcrich" },
               { 'x-webhook-tag' => "Z\xc3\xbcrich" }],
              ['every byte', { 'X-Webhook-Tag' => join '', map { chr }
                                                       0x80 .. 0xff },
               { 'x-webhook-tag' => join '', map { chr } 0x80 .. 0xff }],
              ['long', { 'X-Webhook-Tag' => 'v' x 4000 },
               { 'x-webhook-tag' => 'v' x 4000 }])
{
    my ($name, $send, $expected) = @$case;
    my $line = spooled(event(), name => "headers, $name", headers => $send);

    is_deeply($json->decode($line)->{headers}, { %documented, %$expected },
              "headers: $name");

    unlike($line, qr/s3cret/, 'no secret');
    unlike($line, qr/[^\x20-\x7e]/, 'ASCII');
}

like(spooled(event(), name => 'bytes', headers => { 'X-Webhook-T' => "\xfc" }),
     qr/"x-webhook-t":"\\u00fc"/i, 'a byte from 0x80 is \\u00XX');

# header and body each have a timestamp, the line has the header's

$line = spooled(event(), name => 'two timestamps', headers =>
                { 'X-Webhook-Timestamp' => '2024-01-20T15:45:00.5+01:00' });

is($json->decode($line)->{timestamp}, '2024-01-20T15:45:00.5+01:00',
   'the timestamp is the header\'s');
is($json->decode($line)->{payload}{timestamp}, '2024-01-20T14:45:00Z',
   'the payload keeps its own');


# files ------------------------------------------------------------------------


$t->forget_spool();
$t->post('/hook', event(data => { n => $_ })) for 1 .. 3;

my @files = read_spool($spool);

is(scalar @files, 3, 'one after the other: a file for each');
is(scalar(grep { $_->{start} eq $files[0]->{start} } @files), 3,
   'the same start of a worker');
is($files[2]->{seq} - $files[0]->{seq}, 2, 'the sequence counts');
is_deeply([map { $json->decode($_->{lines}[0])->{payload}{data}{n} } @files],
          [1, 2, 3], 'names sort as events came');

my ($name_time) = $files[0]->{time};
my ($line_time) = split_line($files[0]->{lines}[0])->{received};

$line_time =~ tr/:-//d;
is(substr($name_time, 0, 13), substr($line_time, 0, 13),
   'time in the name is UTC as well');

is_deeply([grep { !/^[0-9a-f]{16}\.lock$/ } list("$spool/tmp")], [],
          'nothing is left in tmp/ but the lock');
is(scalar(list("$spool/tmp")), 1, 'one lock for one worker');


# many at once: a stopped worker finds them all when it goes on

$t->forget_spool();

my $many = 50;
my @conns = map { $t->connect() } 1 .. $many;

for my $c (@conns) {
    $c->send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    $c->answer(method => 'GET');
}

my ($pid) = $t->workers();

kill 'STOP', $pid;
$t->wait_for(sub { $t->read_file("/proc/$pid/status") =~ /^State:\s+T/m }, 5,
             'the worker to stop');

for my $i (0 .. $#conns) {
    $conns[$i]->send($t->message('/hook', event(data => { n => $i }),
                                 keepalive => 1));
}

kill 'CONT', $pid;

my @answers = map { $_->answer() } @conns;

is(scalar(grep { $_->{status} == 200 } @answers), $many,
   'all at once: all accepted');

@files = read_spool($spool);

is_deeply([grep { defined } map { $_->{wrong} } @files], [], 'files are whole');
is_deeply([sort { $a <=> $b } map { $json->decode($_)->{payload}{data}{n} }
                              map { @{ $_->{lines} } } @files],
          [0 .. $many - 1], 'every event once');
cmp_ok(scalar @files, '<=', 5, 'and few files');
diag("$many events at once: " . scalar(@files) . ' files');

$_->close() for @conns;


# who may read it --------------------------------------------------------------


ok($t->stop(), 'stopped');
is_deeply([list("$spool/tmp")], [], 'no lock is left by an orderly stop');

for my $case (['group:rw', '0660', '0770'], ['user:rw group:r', '0640', '0750'],
              ['user:rw group:r all:r', '0644', '0755'],
              ['user:rw', '0600', '0700'])
{
    my ($access, $file_mode, $dir_mode) = @$case;

    $t->conf($conf =~ s/(?=taptalent_webhook_spool)/
                        taptalent_webhook_spool_access $access;\n/xr);
    $t->run();
    $t->forget_spool();

    is($t->post('/hook', event())->{status}, 200, "access $access");
    is(mode($_), $file_mode, 'mode of a file') for $t->spool_files();

    for my $dir (qw(tmp new dead corrupt)) {
        is(mode("$spool/$dir") . ' ' . owner("$spool/$dir"), "$dir_mode $uid",
           "mode and owner of $dir/");
    }

    is(mode($spool), '0755', 'the spool itself is as before');

    $t->stop();
}

$t->conf($conf);


# nginx -t ---------------------------------------------------------------------


my $start = '0011223344556677';
my $leftover = "20260101T000000.000Z-$start-0000000001-1-00000000.ndjson";

sub put {
    my ($path, $content) = @_;

    open my $fh, '>', $path or die "open() \"$path\" failed: $!";
    print $fh $content;
    close $fh;
    chown $uid, -1, $path;
}

put("$spool/tmp/$leftover", 'half');
put("$spool/tmp/$start.lock", '');
put("$spool/new/damaged.ndjson", 'x');

sub state_of_spool {
    return join "\n", map { join ' ', $_, (lstat $_)[2, 3, 4, 5, 7, 9, 10] }
                      sort glob("$spool $spool/* $spool/*/*");
}

my $state = state_of_spool();
my ($status, $out) = $t->config_test();

is($status, 0, 'nginx -t') or diag($out);
is(state_of_spool(), $state, 'nginx -t changes nothing in the spool');

SKIP: {
    my $trace = $t->prefix() . '/trace';
    my @strace = ('strace', '-f', '-o', $trace);

    skip 'needs strace', 1 if system("@strace true >/dev/null 2>&1") != 0;

    system(join ' ', @strace, $t->binary(), '-t', '-q', '-p', $t->prefix(),
           '-e', 'stderr', '-c', $t->prefix() . '/nginx.conf', '2>/dev/null');

    my @calls = grep { /\Q$spool\E/ && !/conf/ } split /\n/,
                $t->read_file('trace');

    is_deeply([grep { !/\b(?:\w*stat\w*|statx|readlink|\w*access\w*)\(/ }
                    @calls], [], 'nor does it open or make anything there');
}

unlink "$spool/new/damaged.ndjson";


# what must not be a spool -----------------------------------------------------


sub refused {
    my ($name, $like) = @_;

    my $started = eval { $t->run(); 1 };
    my $said = $@;

    ok(!$started, "refused: $name");
    like($said, $like, 'and says why') unless $started;

    $t->stop() if $started;
}

$t->expect_emerg(qr/\[emerg\]/);

rename $spool, "$spool.real" or die;
symlink "$spool.real", $spool or die;
refused('a link', qr/\[emerg\].*\Q$spool\E.*not a directory/);

unlink $spool;
put($spool, '');
refused('a file', qr/\[emerg\].*\Q$spool\E.*not a directory/);

unlink $spool;
rename "$spool.real", $spool or die;

rename "$spool/tmp", "$spool/tmp.real" or die;
symlink "$spool/tmp.real", "$spool/tmp" or die;
refused('tmp/ is a link', qr/\[emerg\].*\Q$spool\/tmp\E/);
unlink "$spool/tmp";
rename "$spool/tmp.real", "$spool/tmp" or die;

SKIP: {
    skip 'needs root', 6 unless defined $worker;

    chown $uid, -1, $spool;
    refused('a spool of the worker', qr/\[emerg\].*\Q$spool\E.*chown root/);
    chown 0, -1, $spool;

    for my $mode (0775, 0777) {
        chmod $mode, $spool;
        refused(sprintf('a spool of mode %o', $mode),
                qr/\[emerg\].*\Q$spool\E.*chmod 755/);
    }

    chmod 0755, $spool;
}

$t->run();
is($t->post('/hook', event())->{status}, 200, 'and as it was, it is taken');

$t->no_alerts();

done_testing();
