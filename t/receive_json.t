#!/usr/bin/perl

# What is one JSON value and what is not: RFC 8259, in well-formed UTF-8, no
# deeper than 64.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(decode_base64);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id any;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    client_max_body_size 10m;
    keepalive_requests 10000;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location / {
            taptalent_webhook on;
        }
    }
}
EOF_CONF

$t->run();

my $c = $t->connect();
my @accepted;

# The verdict of a body as the answer tells it, over one connection as long as
# it lasts.

sub verdict_of {
    my ($body) = @_;

    $c = $t->connect() if !$c;

    $c->send($t->message('/', $body, keepalive => 1,
                         headers => [@{headers_for(event())}]));
    my $r = $c->answer();

    if (($r->{headers}{connection} // 'close') eq 'close') {
        $c->close();
        undef $c;
    }

    return "no answer: $r->{error}" if !$r->{status};

    if ($r->{status} == 200) {
        push @accepted, sha256_hex($body);
        return 'accepted';
    }

    return "$r->{status} " . ($r->{json}{error} // '');
}

# Bytes that are not printable are named as such.

sub printable {
    my ($text) = @_;
    $text = substr($text, 0, 9) . '...' . substr($text, -40)
        if length $text > 60;
    $text =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/ge;
    return $text;
}

sub accepted {
    my ($group, @bodies) = @_;
    for my $body (@bodies) {
        is(verdict_of($body), 'accepted', "$group: " . printable($body));
    }
}

sub refused {
    my ($group, @bodies) = @_;
    for my $body (@bodies) {
        is(verdict_of($body), '400 json', "$group: " . printable($body));
    }
}

# A value inside an event's data, and the same value between quotes.

sub value { return map { event(data => \"{\"x\":$_}") } @_ }
sub text { return value(map { "\"$_\"" } @_) }
sub nested { my ($open, $close, $n) = @_; return $open x $n . 1 . $close x $n }


# literals, numbers

accepted('value', value(qw(null true false [] {} "" 0), '[1,2]', '{"a":{}}'));

accepted('number', value(qw(
    0 -0 1 -1 12345678901234567890 9223372036854775807 9223372036854775808
    -9223372036854775809 0.0 0.1 -0.1 1e1 1E1 1e+1 1e-1 1.5e300 1e400 1e-400
    -1e999999 0e0 0.00000000000000000000000000000000001
), '9' x 5000, '0.' . '1' x 5000));

refused('number', value(qw(
    01 -01 00 +1 .5 5. 1.e1 1e 1e+ 1E- - -- 0x10 1_000 1a NaN Infinity -Infinity
    1.2.3 1e1.5 ), '1 2', '- 1'));

refused('literal', value(qw(
    nul tru fals True NULL None undefined nulll truefalse ),
    "'x'", 'x', '"x', 'x"', '"a" "b"', "\x00"));

refused('structure', value(
    '[', ']', '{', '}', '[1', '[1,', '[1,]', '[,1]', '[,]', '[1 2]', '[1:2]',
    '{"a"}', '{"a":}', '{"a":1,}', '{,}', '{"a" 1}', '{a:1}', '{1:1}',
    '{"a":1 "b":2}', '{"a"::1}', '{null:1}', '[1}', '{"a":1]', '[[]', '[]]',
));

refused('comment', value('1/**/', '/* x */1', "1//x\n", '1#x'));


# the whole

refused('whole', '', ' ', "\r\n", 'x', event() . event(), event() . ' x',
        event() . ',', event() . '}', event() . '[]', event() . '1',
        event() . "\x00", "\x00" . event(), substr(event(), 1),
        substr(event(), 0, -1), event() . "\x1a", 'null null', '"', '{',
        '{"event"', '{"event":', '{"event":"x"', ',' . event());

refused('whole, then a token begins', map { event() . $_, event() . " $_" }
        '"', '"x', '"x"', '"\\', '"\\u12', '"x\\"', 't', 'tr', 'tru', 'true',
        'n', 'f', '-', '1', '1.', '1e', '[', '{', '/', "\xc3", "\"\xc3");

refused('byte order mark', "\xef\xbb\xbf" . event(), event() . "\xef\xbb\xbf",
        "\xfe\xff", "\xff\xfe{\x00}\x00");


# white space

accepted('white space', event() . " \t\r\n", " \t\r\n" . event(),
         value(" \t\r\n1\t \r\n", "[ 1\t,\r\n2 ]", "{ \"a\"\t:\n1 }"));

refused('not white space', map({ event() . $_ } "\f", "\x0b", "\xc2\xa0",
                               "\xe2\x80\xa8", "\x85", "\b"),
        "\f" . event(), "\x0b" . event(), value("\f1", "1\f", "\x0b1",
        "[1,\f2]", "[1\x0b,2]", "{\"a\"\x0b:1}", "{\f}", "\xc2\xa01"));


# strings

accepted('string', text('', 'a', "/", '\\/', '\\"', '\\\\', '\\b\\f\\n\\r\\t',
                        '\\u0000', '\\u0041', '\\uABCD', '\\uabcd', '\\uFFFF',
                        '\\ud83d\\ude00', "\x7f", '//', '/* */'));

accepted('lone surrogate, escaped', text('\\ud83d', '\\ude00', '\\ud83dx',
                                         '\\ud83d\\ud83d', '\\ude00\\ud83d',
                                         '\\ud83d\\n'));

refused('string', text('\\', '\\x41', '\\a', '\\0', "\\'", '\\u', '\\u1',
                       '\\u12', '\\u123', '\\u123g', '\\u 123', '\\U0041',
                       '\\u+123', '\\v', "\\\n"));

refused('control character', text(map { chr } 0 .. 31));

refused('control character in a key',
        map { event(data => \"{\"a$_\":1}") } "\n", "\x00", "\x1f", "\t");


# UTF-8

accepted('UTF-8', text("\xc2\x80", "\xc3\xa9", "\xdf\xbf", "\xe0\xa0\x80",
                       "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd",
                       "\xef\xbf\xbe", "\xef\xbf\xbf", "\xf0\x90\x80\x80",
                       "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xef\xbb\xbf"),
         event(data => \"{\"\xc3\xa9\":1}"), event("\xe2\x82\xac" => 1));

my @malformed = (
    "\x80", "\xbf", "\xc3", "\xc3\x28", "\xc0\xaf", "\xc0\x80", "\xc1\xbf",
    "\xe0\x80\xaf", "\xe0\x9f\xbf", "\xe2\x82", "\xe2\x28\xa1", "\xe2\x82\x28",
    "\xf0\x80\x80\xaf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x98", "\xf0\x28\x8c\xbc",
    "\xf0\x90\x28\xbc", "\xf0\x28\x8c\x28", "\xf0\x90\x80", "\xed\xa0\x80",
    "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbf\xbf",
    "\xed\xa0\xbd\xed\xb8\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
    "\xf7\xbf\xbf\xbf", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80",
    "\xfe", "\xff", "\xc3\xa9\xa9", "\xe9",
);

refused('UTF-8', text(@malformed));
refused('UTF-8, in a key', map { event(data => \"{\"$_\":1}") } @malformed);
refused('UTF-8, in a top-level key', event("\xed\xa0\x80" => 1),
        event("\xff" => 1));
refused('UTF-8, between tokens', value("\xff", "\xc3\xa9", "1\x80"));
refused('UTF-8, after an escape', text("\\n\xff", "\\u0041\xc0\x80"));
refused('UTF-8, other encodings', join('', map { "$_\x00" } split //, event()),
        join('', map { "\x00$_" } split //, event()));


# depth: the event itself is the first level, data the second

accepted('depth 64', value(nested('[', ']', 62), nested('{"a":', '}', 62),
                           nested('[{"a":', '}]', 31)));
refused('depth 65', value(nested('[', ']', 63), nested('{"a":', '}', 63),
                          nested('[{"a":', '}]', 32)));
refused('depth, far beyond', value(nested('[', ']', 100_000),
                                   nested('{"a":', '}', 100_000)));
refused('depth, not closed', '[' x 1_000_000, '{"a":' x 100_000);
is(verdict_of(nested('[', ']', 64)), '422 payload', 'depth 64, no event');
refused('depth 65, no event', nested('[', ']', 65));


# large

accepted('large', text('x' x 2_000_000, '\\u00e9' x 300_000,
                       "\xf0\x9f\x98\x80" x 300_000),
         value('[' . join(',', (1) x 300_000) . ']',
               '[' . '[],' x 300_000 . '0]',
               '{' . join(',', map { "\"k$_\":$_" } 1 .. 50_000) . '}',
               ' ' x 1_000_000 . '1', '1' x 1_000_000),
         event() . ' ' x 1_000_000, event('k' x 100_000 => 1));
refused('large', text('x' x 2_000_000 . "\xff"), event() . ' ' x 1_000_000
        . 'x', value('[' . '[],' x 300_000 . ']'));


# every other byte where white space, and where a string's byte may be

my %space = map { $_ => 1 } 9, 10, 13, 32;
my @wrong;

for my $byte (0 .. 255) {
    my $verdict = verdict_of(event() . chr $byte);
    push @wrong, "$byte: $verdict"
        if $verdict ne ($space{$byte} ? 'accepted' : '400 json');
}

is("@wrong", '', 'each byte after the event');

@wrong = ();

for my $byte (0 .. 255) {
    my $good = $byte >= 32 && $byte < 128 && $byte != ord('"')
               && $byte != ord('\\');
    my $verdict = verdict_of((text('a' . chr($byte) . 'z'))[0]);
    push @wrong, "$byte: $verdict"
        if $verdict ne ($good ? 'accepted' : '400 json');
}

is("@wrong", '', 'each byte in a string');


# all that was accepted is in the spool, byte for byte, and nothing else

my @stored = map {
    sha256_hex(defined $_->{raw} ? decode_base64($_->{raw}) : $_->{_payload})
} $t->spool_lines();

is(@stored, @accepted, 'the spool has as many events as were accepted');
is(join(' ', sort @stored), join(' ', sort @accepted), 'and the same bytes');

$t->no_alerts();

done_testing();
