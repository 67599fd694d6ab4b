#!/usr/bin/perl

# Store and forward: what the application gets, what each of its answers does
# to an event, and what becomes of files that somebody has put there by hand.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Compress::Zlib qw(crc32);
use Digest::SHA qw(sha256_hex);
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;
use Test::Edge qw(event received_at);
use Test::Sink;
use Time::HiRes qw(time);

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2));
my $other = Test::Sink->new(port => $t->port(3));

my $conf = <<'CONF';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any missing=accept;
    taptalent_webhook_retry initial=200ms max=800ms;

    log_subrequest on;
    log_format internal "$uri $status $http_x_webhook_attempt $request_method";

    map $taptalent_event $application {
        default             /app;
        ~^to\.(?<to>\w+)    /$to?company=$taptalent_company_id;
        ~^each\.            /each/$taptalent_event;
        ~^bare\.            app;
        ~^none\.            "";
        ~^part\.            /each/$taptalent_company_id;
        ~^zero\.            /each/%00;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        client_max_body_size 1m;
        proxy_read_timeout 1s;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $application;
            access_log %%PREFIX%%/access.log edge;
        }

        location /second {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/second;
            taptalent_webhook_forward /other concurrency=1;
            taptalent_webhook_retry initial=100ms max=100ms permanent=404;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /each/ {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /other {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_3%%;
        }

        location /vars {
            internal;
            proxy_set_header X-T "$taptalent_event|$taptalent_timestamp|$taptalent_company_id|$taptalent_event_id";
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /wrap {
            internal;
            proxy_set_body '{"e":"$taptalent_event","b":$request_body}';
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /ok {
            internal;
            access_log %%PREFIX%%/internal.log internal;
            return 204;
        }

        location /error {
            internal;
            access_log %%PREFIX%%/internal.log internal;
            return 500;
        }

        location /refused {
            internal;
            error_page 502 = /app;
            proxy_pass http://127.0.0.1:%%PORT_4%%;
        }

        location /intercepted {
            internal;
            proxy_intercept_errors on;
            error_page 500 = /app;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /teapot {
            internal;
            error_page 418 = /app;
            return 418;
        }

        location /closed {
            internal;
            access_log %%PREFIX%%/internal.log internal;
            return 444;
        }

        location /file {
            internal;
            access_log %%PREFIX%%/internal.log internal;
            alias %%PREFIX%%/nginx.conf;
        }
    }
}
CONF

$t->conf($conf);
$t->run();

my $spool = $t->spool();
my $json = JSON::PP->new->canonical;


sub list {
    my ($dir, $top) = @_;
    return map { s{.*/}{}r } sort glob(($top // $spool) . "/$dir/*");
}

sub event_files { return grep { /\.ndjson$/ } list(@_) }

sub empty {
    my ($what, $top) = @_;
    return $t->wait_for(sub { !list('new', $top) }, 15,
                        "new/ to be empty: $what");
}

# no events, no answers, no log; nginx ends and starts

sub afresh {
    my (%arg) = @_;

    $t->stop();
    unlink glob "$spool/new/* $spool/dead/* $spool/corrupt/*";
    $_->mode('') for $app, $other;
    $_->forget() for $app, $other;
    unlink $t->prefix() . '/internal.log';
    $t->conf($arg{conf} // $conf);
    $t->mark_log();
    $t->run();
}

# ->post and what the application had for it

sub delivered {
    my ($name, $body, %arg) = @_;

    $app->forget();

    is($t->post('/hook', $body, %arg)->{status}, 200, "$name: taken")
        or return;
    $app->wait_for(1, 10, $name) or return;

    return ($app->requests())[0];
}


# the body ---------------------------------------------------------------------


my $pretty = JSON::PP->new->pretty->canonical->encode($json->decode(event()));

for my $case (
    ['the documented example', event()],
    ['white space before', " \t" . event()],
    ['a blank after', event() . ' '],
    ['LF', $pretty],
    ['CR LF', $pretty =~ s/\n/\r\n/gr],
    ['CR', event() . "\r"],
    ['white space around', " \t" . event() . "\t "],
    ['UTF-8', event(data => { text => "Zo\x{eb} \x{1f600} \x{2028}" })],
    ['escapes', event(data => \'{"a":"\u0000\n\/\ud83d\ude00\"\\\\"}')],
    ['a lone surrogate', event(data => \'{"a":"\ud83d"}') . "\n"],
    ['numbers', event(data => \'{"a":1.0,"b":1e400,"c":-0}')],
    ['400 KB', event(data => { a => 'x' x 400_000 })],
    ['400 KB and CR LF', event(data => { a => 'x' x 400_000 }) . "\r\n"],
    ['what looks like the envelope',
     event(data => { a => '","payload":{"raw":"","v":2}}' }, v => 2, id => 'x',
           raw => 'eA==', headers => { a => 'b' }, payload => {},
           dead => { at => 'x' })],
) {
    my ($name, $body) = @$case;
    my $r = delivered($name, $body) or next;

    ok($r->{body} eq $body, "$name: the exact body")
        or diag(substr $r->{body}, 0, 300);
    is("$r->{method} $r->{uri}", 'POST /app', "$name: method and uri");
    is($r->{id}, substr(sha256_hex($body), 0, 32), "$name: id");
    is($r->{attempt}, 1, "$name: attempt");
}

empty('bodies');


# the headers ------------------------------------------------------------------


my @ours = qw(content-length content-type x-webhook-attempt x-webhook-event
              x-webhook-id x-webhook-received x-webhook-timestamp);
my %value = ('content-type' => 'application/json', 'x-webhook-attempt' => '1',
             'x-webhook-event' => 'resume.bulk_upload_parse.started',
             'x-webhook-timestamp' => '2024-01-20T14:45:00Z');

for my $case (
    ['as documented', {}, {}],
    ['parameters', { 'Content-Type' => 'Application/JSON;charset="utf-8"' },
     { 'content-type' => 'Application/JSON;charset="utf-8"' }],
    ['ours', { 'X-Webhook-Id' => 'fake', 'x-webhook-ATTEMPT' => '99',
               'X-Webhook-Received' => ['fake', 'fake'] }, {}],
    ['the key', { 'X-Webhook-Key' => 's3cret' }, {}],
    ['the key twice', { 'x-webhook-key' => ['s3cret', 's3cret'] }, {}],
    ['hop by hop', { TE => 'trailers', Upgrade => 'h2c', 'Keep-Alive' => 'a',
                     'Proxy-Connection' => 'x', Trailer => 'x',
                     Expect => '100-continue' }, {}],
    ['others', { Cookie => 's3cret', Authorization => 's3cret',
                 'X-Forwarded-For' => '1.2.3.4', 'X-Accel-Expires' => '1',
                 'User-Agent' => 'x', Accept => 'x', 'X-Webhook' => 'x',
                 'Content-Language' => 'de', Range => 'bytes=0-1' }, {}],
    ['repeated', { 'X-Webhook-Tag' => ['one', 'two', 'three'] },
     { 'x-webhook-tag' => 'one, two, three' }],
    ['empty', { 'X-Webhook-Tag' => '' }, { 'x-webhook-tag' => '' }],
    ['bytes', { 'X-Webhook-Tag' => join '', map { chr } 0x80 .. 0xff },
     { 'x-webhook-tag' => join '', map { chr } 0x80 .. 0xff }],
    ['UTF-8', { 'X-Webhook-Tag' => "Z\xc3\xbcrich" },
     { 'x-webhook-tag' => "Z\xc3\xbcrich" }],
    ['quotes', { 'X-Webhook-Tag' => "a\"b\\c/d\te\x01f\x7f" },
     { 'x-webhook-tag' => "a\"b\\c/d\te\x01f\x7f" }],
    ['long', { 'X-Webhook-Tag' => 'v' x 4000 },
     { 'x-webhook-tag' => 'v' x 4000 }],
) {
    my ($name, $send, $more) = @$case;
    my $body = event(data => { n => $name });
    my $r = delivered($name, $body, headers => $send,
                      $name eq 'hop by hop' ? (chunked => 10) : ()) or next;

    my %got;
    push @{ $got{lc $_->[0]} }, $_->[1] for @{ $r->{headers} };

    is_deeply([grep { !/^(?:host|connection)$/ } sort keys %got],
              [sort @ours, grep { /tag/ } keys %$more], "$name: the names");

    my %expected = (%value, %$more, 'content-length' => length $body,
                    'x-webhook-id' => substr(sha256_hex($body), 0, 32));

    is_deeply({ map { $_ => $got{$_} } keys %expected },
              { map { $_ => [$expected{$_}] } keys %expected },
              "$name: the values");
    like($r->{received}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/,
         "$name: received");
    unlike(join(' ', map { @$_ } @{ $r->{headers} }), qr/s3cret|fake/,
           "$name: nothing else");
}

empty('headers');


# what stands in a line that is not ours, or from another version

$app->forget();
put('headers.ndjson', line(event(n => 'headers'), headers =>
    ',"x-webhook-id":"fake","x-webhook-attempt":"99","x-webhook-received":"fake"'
    . ',"x-webhook-key":"s3cret","x-webhook-tag":"one"'));
ok($app->wait_for(1, 10), 'headers of a line: sent');

{
    my ($request) = $app->requests();
    my %got = map { lc $_->[0] => $_->[1] } @{ $request->{headers} };

    is(join(' ', grep { /fake|s3cret/ || $_ eq '99' } values %got), '',
       'headers of a line: ours are ours, and a key goes nowhere');
    is($got{'x-webhook-attempt'}, 1, 'headers of a line: the attempt');
    is($got{'x-webhook-tag'}, 'one', 'headers of a line: others');
}

empty('headers of a line');


# variables --------------------------------------------------------------------


my $body = event(event => 'to.vars', companyId => "Z\x{fc}rich 7");
my $r = delivered('variables', $body);

is(Test::Sink::header($r, 'X-T'), 'to.vars|2024-01-20T14:45:00Z|Z' . "\xc3\xbc"
   . 'rich 7|' . substr(sha256_hex($body), 0, 32), 'the variables');

$body = event(event => 'to.wrap', data => { a => 'w' x 100_000 });
$r = delivered('wrapped', $body);
is($r->{body}, '{"e":"to.wrap","b":' . $body . '}', 'a body of its own');
is(Test::Sink::header($r, 'Content-Length'), length $r->{body}, 'its length');


# nothing of an event ends a line of a request

for my $company ("a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0b",
                 "a HTTP/1.1\r\nX-Evil: 1\r\nX: ", '../../app', 'a?b#c',
                 "a\x7fb")
{
    my $name = 'company ' . JSON::PP->new->allow_nonref->encode($company);

    $app->forget();

    my $answer = $t->post('/hook', event(event => 'to.vars',
                                         companyId => $company));

    # it may be refused as well
    if ($answer->{status} != 200) {
        is($answer->{status}, 422, "$name: refused");
        next;
    }

    $app->wait_for(1, 5, $name);
    $r = ($app->requests())[0];
    is_deeply([grep { /evil/i } map { $_->[0] } @{ $r->{headers} }], [],
              "$name: no header of its own");
    unlike($r->{uri} . (Test::Sink::header($r, 'X-T') // ''),
           qr/[\x00-\x1f]/, "$name: no control characters");
}

afresh();


# locations that are no proxy --------------------------------------------------


$t->post('/hook', event(event => "to.$_", data => { n => $_ }))
    for qw(ok error closed file nowhere);

# the location's status of each attempt

sub internal {
    my ($uri) = @_;
    return map { /^\Q$uri\E (\d+) (\d+) POST$/ ? "$2:$1" : () }
               split /\n/, $t->read_file('internal.log');
}

$t->wait_for(sub { event_files('new') == 4 }, 5, 'the one to be done');
$t->wait_for(sub { (internal('/error'))[2] && (internal('/file'))[2]
                     && (internal('/closed'))[2] }, 10,
             'three attempts');

is_deeply([internal('/ok')], ['1:204'], 'return 204: done');
like((internal('/error'))[2], qr/^3:/, 'return 500: again');
like((internal('/file'))[2], qr/^3:/, 'a file: again');
like((internal('/closed'))[2], qr/^3:/, 'return 444: again');
is(scalar(event_files('new')), 4, 'they are kept');
is(scalar(event_files('dead')), 0, 'none of them is dead');

afresh(conf => $conf =~ s/max=800ms/max=3s/r);


# each status ------------------------------------------------------------------


# [script, attempts, gone to dead/, at least so many seconds]

my @matrix = (
    (map { [$_, 1] } 200, 201, 202, 204, 206, 226, 'close', 'big'),
    (map { [$_, 1, 1] } 400, 410, 413, 415, 422),
    (map { ["$_,200", 2] } 302, 304, 307, 401, 403, 404, 405, 408, 409, 418,
                           426, 429, 451, 500, 501, 502, 503, 504, 507,
                           qw(reset fin half halfhead garbage hang)),
    ['429r2,200', 2, 0, 2], ['503r1,204', 2, 0, 1], ['404r2,200', 2, 0, 2],
    ['429d3,200', 2, 0, 2], ['503r0,200', 2], ['404,302,500,409,200', 5],
    ['404r-1,200', 2], ['404r1s,200', 2], ['404r;2,200', 2, 0, 2],
    ['404r86400,200', 2, 0, 3], ['404r99999999999999999999,200', 2, 0, 3],
    ['404,422', 2, 1], ['slow:200', 1],
);

for my $i (0 .. $#matrix) {
    $t->post('/hook', event(event => "each.$i", data => {
                                mode => $matrix[$i][0] }));
}

$t->wait_for(sub { !event_files('new') }, 20, 'all to be done');

for my $i (0 .. $#matrix) {
    my ($script, $attempts, $dead, $least) = @{ $matrix[$i] };
    my @got = $app->requests(sub { $_->{event} eq "each.$i" });

    is(join(' ', map { $_->{attempt} } @got), join(' ', 1 .. $attempts),
       "$script: attempts");

    # nginx counts from when its turn of the event loop has begun

    cmp_ok($got[1]{start} - $got[0]{start}, '>=', $least - 0.05,
           "$script: not before $least s") if $least && $got[1];

    my @dead = grep { $_->{event} eq "each.$i" } $t->spool_lines('dead');

    is(scalar @dead, $dead ? 1 : 0, "$script: dead letters") or next;
    next if !$dead;

    my ($status) = $script =~ /(\d+)$/;
    my $why = $dead[0]{dead};

    like(delete $why->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'at');
    is_deeply($why, { reason => 'permanent', status => $status,
                      attempts => $attempts }, "$script: why");
    like($dead[0]{_line}, qr/^\{"dead":\{[^}]*\},"v":1,/, 'the first member');
    like($dead[0]{_file}, qr/^\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{16}-\d{10}\.1-1-
                              [0-9a-f]{8}\.ndjson$/x, 'its name');
    is(sprintf('%08x', crc32("$dead[0]{_line}\n")),
       ($dead[0]{_file} =~ /-(\w{8})\.ndjson$/)[0], 'its checksum');
    is(scalar(() = $t->grep_log(qr/\[error\].*\Q$dead[0]{id}\E.*status $status/)),
       1, "$script: in the log");
}


# a dead letter again ----------------------------------------------------------


sub requeue { rename "$spool/dead/$_", "$spool/new/$_" or die for @_ }

afresh();

$body = event(data => { mode => '422,422,404,200' });
$t->post('/hook', $body);
$t->wait_for(sub { event_files('dead') == 1 }, 5, 'a dead letter');
my ($first) = event_files('dead');
requeue($first);
$app->wait_for(2);
$t->wait_for(sub { event_files('dead') == 1 }, 5, 'a dead letter again');

my @dead = $t->spool_lines('dead');
is(scalar(() = $dead[0]{_line} =~ /"dead":/g), 1, '"dead" is there once');
is($dead[0]{dead}{attempts}, 1, 'the attempts are counted anew');
is($dead[0]{_payload}, $body, 'the payload is as it was');

requeue(event_files('dead'));
ok(empty('a dead letter'), 'and goes on');
is(join(' ', map { "$_->{attempt}:$_->{status}" } $app->requests()),
   '1:422 1:422 1:404 2:200', 'the attempts');
is(scalar(event_files('dead')), 0, 'it is not dead any more');


# backoff ----------------------------------------------------------------------


my ($late, $most, @jitter);

# in time once of three times, where the machine is shared

for (1 .. 3) {
    afresh();

    $t->post('/hook', event(data => { n => $_,
                                      mode => '404,404,404,404,404,200' }))
        for 1 .. 8;

    ok(empty('backoff'), 'all done in the end');

    my %at;

    push @{ $at{$_->{id}} }, $_->{start} for $app->requests();

    ($late, $most, @jitter) = (0, 0);

    for my $id (sort keys %at) {
        my @at = @{ $at{$id} };

        for my $n (1 .. $#at) {
            my $full = 0.2 * 2 ** ($n - 1);
            $full = 0.8 if $full > 0.8;
            my $gap = $at[$n] - $at[$n - 1];

            cmp_ok($gap, '>=', $full / 2 - 0.002, "backoff $n");

            $most = $gap - $full if $gap - $full > $most;
            $late++ if $gap > $full + 0.1;
            push @jitter, $gap / $full;
        }
    }

    last if $most < 0.1 * $Test::Edge::PATIENCE && $late <= @jitter / 8;
}

cmp_ok($most, '<', 0.1 * $Test::Edge::PATIENCE, 'backoff: at most that long');
cmp_ok($late, '<=', @jitter / 8, 'backoff: and as a rule in time');

@jitter = sort { $a <=> $b } @jitter;
cmp_ok($jitter[-1] - $jitter[0], '>', 0.2, 'by chance');


# files put there by hand ------------------------------------------------------


my @owner = (stat "$spool/new")[4, 5];

sub line {
    my ($body, %arg) = @_;

    my $raw = $body =~ /[\r\n]/
              ? '"raw":"' . encode_base64($body, '') . '",' : '';
    my ($event) = $body =~ /"event": *"([^"]*)"/;
    my $id = $arg{id} // substr sha256_hex($body), 0, 32;
    my $v = $arg{v} // 1;
    my $received = $arg{received} // received_at();
    my $more = $arg{headers} // '';

    return "{\"v\":$v,\"id\":\"$id\",\"received\":\"$received\","
        . "\"event\":\"$event\",\"timestamp\":\"2024-01-20T14:45:00Z\","
        . '"companyId":"company-uuid","headers":{"content-type":'
        . '"application/json","x-webhook-event":"' . $event
        . '","x-webhook-timestamp":"2024-01-20T14:45:00Z"' . $more . '},'
        . $raw . '"payload":' . $body =~ tr/\r\n/  /r . "}\n";
}

sub put {
    my ($name, $content, %arg) = @_;

    open my $fh, '>:raw', "$spool/tmp/$name" or die "open: $!";
    print $fh $content;
    close $fh;
    chown @{ $arg{owner} // \@owner }, "$spool/tmp/$name";
    rename "$spool/tmp/$name", "$spool/new/$name" or die "rename: $!";
}

sub named {
    my ($content) = @_;
    return sprintf '20260101T000000.000Z-0011223344556677-0000000001-%d-%08x'
                   . '.ndjson', $content =~ tr/\n//, crc32($content);
}

sub n { return event(data => { n => $_[0], mode => $_[1] // '200' }) }

afresh();

put('a b.ndjson', line(n('by hand')));
put('x.ndjson', line(n('first')) . line(n("sec\xc3\xb6nd") . "\r\n"));
put('-.ndjson', line(n('dash')), owner => [0, 0]);
put('what I wrote by hand last night.ndjson', line(n('long')));
put('2026-11-23-another.ndjson', line(n('no checksum')));
put('again-20261123.ndjson', line(n('a date is none')));

ok(empty('by hand'), 'any name, and a file of root');
is(scalar($app->requests()), 7, 'seven events');
is(scalar(grep { $_->{body} eq n("sec\xc3\xb6nd") . "\r\n" }
               $app->requests()), 1, 'and the exact bytes of "raw"');

# [name, content, how many of its events arrive, where it is then]

my $two = line(n('one')) . line(n('two'));

for my $case (
    ['the checksum', named($two), $two =~ s/one/One/r, 0, 'corrupt'],
    ['cut short', named($two), substr($two, 0, -20), 0, 'corrupt'],
    ['no line feed', 'cut.ndjson', substr($two, 0, -1), 0, 'corrupt'],
    ['no bytes', 'none.ndjson', '', 0, 'corrupt'],
    ['zeros', named($two), "\0" x length $two, 0, 'corrupt'],
    ['an empty line', 'empty.ndjson', "\n", 0, 'corrupt'],
    ['a bad line in the middle', 'bad.ndjson',
     line(n('one')) . "{\"v\":1,\n" . line(n('two')), 2, 'corrupt'],
    ['a bad line at the end', 'bad2.ndjson', "${two}x\n", 2, 'corrupt'],
    ['a bad line first', 'bad3.ndjson', "[]\n$two", 2, 'corrupt'],
    ['no payload', 'bad4.ndjson', line(n('one')) =~ s/,"payload".*/}/r, 0,
     'corrupt'],
    ['an event with a line feed', 'bad5.ndjson',
     line(n('one')) =~ s/"event":"resume/"event":"a\\nb/r, 0, 'corrupt'],
    ['an id with a line feed', 'bad6.ndjson',
     line(n('one'), id => 'a\r\nX-Evil: 1' . 'x' x 19), 0, 'corrupt'],
    ['a header with a line feed', 'bad7.ndjson',
     line(n('one'), headers => ',"x-webhook-a":"b\r\nX-Evil: 1"'), 0,
     'corrupt'],
    ['a name with a line feed', 'bad8.ndjson',
     line(n('one'), headers => ',"x-webhook-a: b\r\nX-Evil":"1"'), undef],
    ['headers that are not ours', 'smuggle.ndjson',
     line(n('one'), headers => ',"transfer-encoding":"chunked","x-evil":"1",'
                               . '"host":"evil","connection":"x-webhook-id"'),
     undef],
    ['another version', 'later.ndjson', line(n('one'), v => 2), 0, 'new'],
    ['another version among ours', 'later2.ndjson',
     line(n('one'), v => 2) . line(n('two')), 1, 'new'],
) {
    my ($name, $file, $content, $events, $where) = @$case;

    afresh();
    put($file, $content);

    # the one after it shows that it has been dealt with
    $t->wait_for(sub { !-e "$spool/new/$file" }, 5, $name)
        if !$where || $where ne 'new';
    $t->wait_log(qr/\[warn\].*\Q$file\E/, 5) if ($where // '') eq 'new';
    put('zzz.ndjson', line(n('after')));
    $app->wait_for(sub { grep { $_->{body} eq n('after') } @_ }, 5, $name);

    my @got = grep { $_->{body} ne n('after') } $app->requests();

    is(scalar(grep { $_->[0] =~ /evil|^transfer-encoding/i
                     || $_->[1] =~ /evil/ } map { @{ $_->{headers} } } @got),
       0, "$name: nothing smuggled");

    next if !defined $events;

    is(scalar @got, $events, "$name: what arrives");
    is($t->read_file("$spool/$where/$file"), $content,
       "$name: it is in $where/");
    is(scalar(() = $t->grep_log(qr/\[crit\].*\Q$file\E.*damaged/))
       + scalar(() = $t->grep_log(qr/\[warn\].*\Q$file\E/)), 1,
       "$name: logged once");
}


# one name twice in corrupt/: neither goes

afresh();
put('x.ndjson', "garbage 1\n");
$t->wait_for(sub { !-e "$spool/new/x.ndjson" }, 5, 'the first');
put('x.ndjson', "garbage 2\n");
$t->wait_for(sub { !-e "$spool/new/x.ndjson" }, 5, 'the second');
is(join('', sort map { $t->read_file("$spool/corrupt/$_") } list('corrupt')),
   "garbage 1\ngarbage 2\n", 'two damaged files of one name');


# those that cannot go there stay, which is said and counted once, and go later

afresh();
chmod 0500, "$spool/corrupt";

my %damaged = (
    'line.ndjson' => line(n('one')) . "garbage\n",
    'only.ndjson' => "garbage\n",
    'cut.ndjson' => substr(line(n('one')), 0, -1),
    named($two) => $two =~ s/one/One/r,
);

put($_, $damaged{$_}) for keys %damaged;

ok($t->wait_log(qr{\[crit\].*corrupt" failed}), 'corrupt/ takes none');

for my $file (sort keys %damaged) {
    ok($t->wait_log(qr/\Q$file\E" is damaged/), "$file: is damaged");
    ok(-e "$spool/new/$file", "$file: stays");
    is(scalar(() = $t->grep_log(qr{\Q$file\E" is damaged and is in
                                   .*/corrupt"}x)), 0,
       "$file: the log does not say that it has gone");
}

# another one gets the name meanwhile: it is sent, and is not damaged

put('only.ndjson', line(n('another')));
$t->wait_for(sub { !-e "$spool/new/only.ndjson" }, 5, 'another file');
delete $damaged{'only.ndjson'};

chmod 0700, "$spool/corrupt";
ok(empty('corrupt/ takes them'), 'they go later');

for my $file (sort keys %damaged) {
    is($t->read_file("$spool/corrupt/$file"), $damaged{$file},
       "$file: it is in corrupt/");
    is(scalar(() = $t->grep_log(qr/\Q$file\E" is damaged/)), 1,
       "$file: logged once");
}

is(join(' ', list('corrupt')), join(' ', sort keys %damaged,
                                              'line.ndjson.done'),
   'nothing else is there, but what was sent of one');
is_deeply([sort map { $_->{body} =~ /"n":"?(\w+)/ } $app->requests()],
          [qw(another one)], 'what could be read was sent once');


# the name of a file that is being sent gets another file

my $patient = $conf =~ s/proxy_read_timeout 1s/proxy_read_timeout 60s/r;

afresh(conf => $patient);
put('same.ndjson', line(n('one', 'hold')));
$app->wait_for(sub { $app->held() >= 1 }, 5, 'the first');
put('same.ndjson', line(n('two')) . line(n('three')));
$app->release('200');
ok(empty('two files of one name'), 'another file of the same name');
is(join(' ', sort map { $_->{data}{n} } map { $json->decode($_->{body}) }
                      $app->requests()), 'one three two', 'is sent as well');

# what is done of the one is not of the other, and nginx may be killed before

for my $killed (0, 1) {
    my $name = $killed ? 'replaced and killed' : 'replaced';

    afresh(conf => $patient);
    put('same.ndjson', line(n('one')) . line(n('two', 'hold'))
                       . line(n('three', $killed ? '404' : '404,404,200')));
    $t->wait_for(sub { -s "$spool/new/same.ndjson.done" }, 5, 'a line');
    $app->wait_for(sub { $app->held() >= 1 }, 5, 'the second');
    put('same.ndjson', join '', map { line(n($_)) } qw(four five six));
    $app->release('200');

    if ($killed) {
        ok($t->wait_for(sub { !-e "$spool/new/same.ndjson.done" }, 5),
           "$name: what was done is forgotten");
        $t->kill_all();
        $t->run();
    }

    ok(empty($name), "$name: all is taken");

    my %times;
    $times{ $json->decode($_->{body})->{data}{n} }++
        for grep { $_->{complete} } $app->requests();

    is(join(' ', map { $times{$_} // 0 } qw(one two four five six)),
       '1 1 1 1 1', "$name: each is sent once");
}

# a name again while its file is just ending

afresh();

my $again = line(n('again'));

for my $i (1 .. 200) {
    put('again.ndjson', $again);
    $app->wait_for($i, 5, "time $i") or last;
    1 while -e "$spool/new/again.ndjson";
}

is(scalar($app->requests()), 200, 'one name again and again');
ok(empty('again'), 'and nothing is left');


# what is not a file of ours

afresh();

SKIP: {
    skip 'needs root', 10 if !defined $t->worker_user();

    put('other.ndjson', line(n('other')), owner => [(getpwnam 'daemon')[2, 3]]);
    chmod 0644, "$spool/new/other.ndjson";

    $t->write_file('target', line(n('link')));
    chmod 0644, $t->prefix() . '/target';
    symlink $t->prefix() . '/target', "$spool/tmp/link.ndjson" or die;
    rename "$spool/tmp/link.ndjson", "$spool/new/link.ndjson" or die;

    POSIX::mkfifo("$spool/tmp/fifo.ndjson", 0666) or die;
    chown @owner, "$spool/tmp/fifo.ndjson";
    rename "$spool/tmp/fifo.ndjson", "$spool/new/fifo.ndjson" or die;

    mkdir "$spool/tmp/dir.ndjson", 0777 or die;
    rename "$spool/tmp/dir.ndjson", "$spool/new/dir.ndjson" or die;

    $t->write_file("$spool/tmp/hard.ndjson", line(n('hard')));
    chown @owner, "$spool/tmp/hard.ndjson";
    link "$spool/tmp/hard.ndjson", "$spool/tmp/second" or die;
    rename "$spool/tmp/hard.ndjson", "$spool/new/hard.ndjson" or die;

    for my $name (qw(other link fifo dir hard)) {
        $t->wait_log(qr/\[warn\].*$name\.ndjson.*left alone/, 5);
    }

    put('zzz.ndjson', line(n('after')));
    $t->wait_for(sub { !-e "$spool/new/zzz.ndjson" }, 5, 'the one after');
    is_deeply([list('new')], [map { "$_.ndjson" } qw(dir fifo hard link
                                                     other)], 'all there');

    # and looked at again

    symlink $t->prefix() . '/target', "$spool/tmp/link.ndjson" or die;
    rename "$spool/tmp/link.ndjson", "$spool/new/link.ndjson" or die;
    put('zzzz.ndjson', line(n('after')));
    $t->wait_for(sub { !-e "$spool/new/zzzz.ndjson" }, 5, 'the one after');
    is(scalar($app->requests(sub { $_->{body} ne n('after') })), 0,
       'none was sent');
    is(scalar(list('corrupt')), 0, 'none is corrupt');
    is(scalar(() = $t->grep_log(qr/left alone/)), 5, 'each logged once');

    put('other.ndjson', line(n('ours')));
    $app->wait_for(3);
    is(join(' ', map { $json->decode($_->{body})->{data}{n} }
                     $app->requests()), 'after after ours',
       'one of ours in the place of such a file is sent');

    rmdir "$spool/new/dir.ndjson";
    unlink "$spool/tmp/second";
}


# age --------------------------------------------------------------------------


afresh(conf => $conf =~ s/max=800ms/max=800ms max_age=2s/r);

my $old = '2024-01-01T00:00:00.000000Z';

put('old.ndjson', line(n('old', '200'), received => $old));
put('older.ndjson', line(n('older', '404'), received => $old));
$t->post('/hook', n('young', '404'));

ok(empty('age'), 'nothing is kept for ever');

is_deeply([map { "$_->{attempt}:$_->{status}" }
               $app->requests(sub { $_->{body} eq n('old', '200') })],
          ['1:200'], 'an old one is tried, and done');
is_deeply([map { "$_->{attempt}:$_->{status}" }
               $app->requests(sub { $_->{body} eq n('older', '404') })],
          ['1:404'], 'an old one is tried once');

my %why = map { $_->{payload}{data}{n} => $_->{dead} } $t->spool_lines('dead');

is_deeply([sort keys %why], ['older', 'young'], 'the others are dead');
is($why{$_}{reason} . $why{$_}{status}, 'max_age404', "why: $_")
    for qw(older young);
cmp_ok($why{young}{attempts}, '>=', 3, 'after some attempts');

# the age counts from "at" then

my ($young) = grep { !/^older/ } event_files('dead');
$app->forget();
requeue($young);
$app->wait_for(2, 5, 'two attempts');
is(join(' ', map { "$_->{attempt}:$_->{status}" }
             ($app->requests())[0, 1]), '1:404 2:404', 'a dead letter is young');
ok(empty('young'), 'and then dead again');


# a uri that is none: each attempt is logged once, and there is an end to it

for my $case (
    ['bare', 'app', 'begin with a slash'],
    ['none', '', 'begin with a slash'],
    ['part', '/each/..', 'hold neither "/.." nor a zero byte'],
    ['zero', '/each/%00', 'hold neither "/.." nor a zero byte'],
) {
    my ($name, $uri, $must) = @$case;

    afresh(conf => $conf =~ s/max=800ms/max=800ms max_age=2s/r);
    $t->post('/hook', event(event => "$name.uri", companyId => '..'));
    ok(empty($name), "$name uri: it leaves the queue");

    my ($dead) = map { $json->decode($t->read_file("$spool/dead/$_")) }
                     event_files('dead');

    is("$dead->{dead}{reason} $dead->{dead}{status}", 'max_age 0',
       "$name uri: a dead letter");
    cmp_ok($dead->{dead}{attempts}, '>=', 2, "$name uri: tried again");
    $t->wait_log(qr/ is given up with status 0 /);
    is(scalar(() = $t->grep_log(qr/uri "\Q$uri\E", it must \Q$must\E/)),
       $dead->{dead}{attempts}, "$name uri: logged once by each attempt");
    is(scalar(() = $t->grep_log(qr/\[error\]/)),
       $dead->{dead}{attempts} + 1, "$name uri: nothing else is logged");
    is(scalar($app->requests()), 0, "$name uri: nothing is sent");
}


# one line of a file -----------------------------------------------------------


afresh();
put('half.ndjson', line(n('one', 'hold')) . line(n('two'))
                   . line(n('three', '422')) . line(n('four')));

sub done { return my @lines = sort map { $_ + 0 }
                       $t->read_file("$spool/new/half.ndjson.done")
                       =~ /^\d{10}$/mg }

$t->wait_for(sub { 3 == done() }, 5, 'three lines to be done');
is(join(' ', done()), '2 3 4', 'the lines that are done');
ok(-e "$spool/new/half.ndjson", 'the file is there');
$t->kill_all();
$app->forget();
$t->run();
$app->wait_for(sub { $app->held() >= 1 }, 5, 'the line that was not done');
$app->release('200');
ok(empty('the rest'), 'the file goes, and what is beside it');
is_deeply([map { $_->{body} } $app->requests(sub { $_->{complete} })],
          [n('one', 'hold')], 'only that line was sent again');


# killed between the two removals: what is left beside a file that is gone

$t->stop();
$t->write_file("$spool/new/gone.ndjson.done", "\n0000000001\n");
chown @owner, "$spool/new/gone.ndjson.done";
$t->run();
ok(empty('what is left beside no file'), 'what is left beside no file goes');


# who fails by itself fails alone ----------------------------------------------


afresh();

$t->post('/hook', n("poison $_", '404')) for 1 .. 20;
$app->wait_for(20);
$t->post('/hook', n("good $_")) for 1 .. 50;
$app->wait_for(sub { 50 == grep { $_->{status} == 200 } @_ }, 3,
               'the good ones');
is(scalar($app->requests(sub { $_->{body} =~ /good/ })), 50,
   'poison holds up nobody');

afresh();
$other->stop();
$t->post('/hook', event(event => 'to.other', data => { n => $_ }))
    for 1 .. 100;
$t->wait_log(qr/\[warn\].*"\/other" is down/, 5);
$t->post('/hook', n("good $_")) for 1 .. 50;
ok($app->wait_for(50, 3), 'a destination that is down, either');
$app->wait_for(sub { 3 <= $t->grep_log(qr/connect\(\) failed/) }, 5, 'probes');
$other->start();
$other->wait_for(100, 10);
ok(empty('both'), 'up again: all are sent');
is(scalar(() = $t->grep_log(qr/\[warn\].*is down/)), 1, 'down: logged once');
is(scalar(() = $t->grep_log(qr/\[notice\].*is up again/)), 1, 'up: too');
cmp_ok(scalar(() = $t->grep_log(qr/\[(?:warn|error|crit)\]/)), '<=', 40,
       'an outage is not a flood');
is(scalar(do { my %id; grep { $id{$_->{id}}++ } $other->requests() }), 0,
   'none of them twice');


# dead/ cannot be written ------------------------------------------------------


afresh();

SKIP: {
    skip 'needs root', 4 if !defined $t->worker_user();

    chmod 0500, "$spool/dead";
    $t->post('/hook', n('nowhere to go', '422,422,422,200'));
    $app->wait_for(3, 10);
    is(scalar(event_files('new')), 1, 'dead/ not writable: it is kept');
    is(scalar(event_files('dead')), 0, 'not there');
    chmod 0700, "$spool/dead";
    ok(empty('dead/ is back'), 'and sent until it is done, or dead');
    is(scalar($t->grep_log(qr/\[crit\].*dead.*failed/)), 1, 'logged once');
}


# a second spool ---------------------------------------------------------------


afresh();
$t->post('/second', n('second', '404'));
$t->post('/second', n('second', '422,200'));
$t->post('/hook', n('first'));
$other->wait_for(3);
$app->wait_for(1);
ok(empty('second', $t->prefix() . '/second'), 'the second spool is emptied');
is(scalar(event_files('dead', $t->prefix() . '/second')), 1,
   'with its own permanent status');
is(join(' ', map { $_->{uri} } $app->requests(), $other->requests()),
   '/app /other /other /other', 'each to its own');

# a killed one's threads may keep the port for a moment
$t->expect_emerg(qr/bind\(\).*Address already in use/);
$t->no_alerts();

done_testing();
