#!/usr/bin/perl

# Store and forward: what the edge took, the application gets, exactly, once,
# and what happens with each way to answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Test::More;
use Test::Edge qw(event received_at);
use Time::HiRes qw(time);

my $t = Test::Edge->new();
my $log = $t->prefix . '/application.log';

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_retry initial=200ms max=1s;

    map $taptalent_event $application {
        default       /application;
        ~^other\.     /other;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $application concurrency=4;
        }

        location /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /application queue=3;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_1%%;
            proxy_set_header X-Variables
                "$taptalent_event $taptalent_company_id $taptalent_event_id";
            proxy_read_timeout 3s;
        }

        location = /other {
            internal;
            return 204;
        }
    }
}
EOF_CONF

my $json = JSON::PP->new->canonical;
my $application = application($t->port(1));

$t->run();

# what arrives

my $body = "{\n  \"event\": \"resume.x\",\r\n  \"timestamp\": "
    . "\"2024-01-20T14:45:00Z\",\n  \"companyId\": 12345,\n"
    . "  \"data\": {\"name\": \"J\xc3\xbcrgen \\ud83d\"}\n}\n";

is($t->post('/hook', $body, headers => [
    'Content-Type' => 'application/json; charset=utf-8',
    'X-Webhook-Event' => 'resume.x',
    'X-Webhook-Timestamp' => '2024-01-20T14:45:01Z',
    'X-Webhook-Key' => 'secret', 'X-Webhook-Id' => 'forged',
    'X-Webhook-Attempt' => '9', 'X-Webhook-Received' => 'never',
    'X-Webhook-Extra' => "caf\xe9", 'X-Webhook-Extra' => 'b "c"',
    'X-Other' => 'no', 'TE' => 'trailers'])->{status}, 200, 'accepted');

my ($got) = arrived(1);
my $id = substr sha256_hex($body), 0, 32;
my %h = %{ $got->{headers} };

is($got->{body}, unpack('H*', $body), 'the exact body');
# nginx's default until 1.29.7, and the one since then

my $http = $t->version() < 1_029_007 ? '1.0' : '1.1';
is($got->{line}, "POST /application HTTP/$http", 'a POST');
is($h{'content-type'}, 'application/json; charset=utf-8', 'Content-Type');
is($h{'x-webhook-event'}, 'resume.x', 'X-Webhook-Event');
is($h{'x-webhook-timestamp'}, '2024-01-20T14:45:01Z', 'X-Webhook-Timestamp');
is($h{'x-webhook-extra'}, unpack('H*', "caf\xe9, b \"c\""),
   'a repeated header, its bytes restored');
is($h{'x-webhook-id'}, $id, 'X-Webhook-Id is ours');
is($h{'x-webhook-attempt'}, '1', 'X-Webhook-Attempt is ours');
like($h{'x-webhook-received'}, qr/^\d{4}-\d\d-\d\dT[\d:]+\.\d{6}Z$/,
     'X-Webhook-Received is ours');
is($h{'content-length'}, length $body, 'Content-Length');
is($h{'x-variables'}, "resume.x 12345 $id", 'variables');
is_deeply([grep { exists $h{$_} } qw(x-webhook-key x-other te
                                    transfer-encoding)], [], 'nothing else');

empty('taken');

# how it answers: each event says what is to come, attempt by attempt

for (['201', 1], ['204', 1], ['404,200', 2], ['302,302,200', 3],
     ['408,200', 2], ['500,200', 2], ['503,503,200', 3], ['429r1,200', 2],
     ['reset,200', 2], ['half,200', 2], ['hang,200', 2])
{
    my ($answers, $attempts) = @$_;

    my $from = count();
    send_event($answers);
    my @got = arrived($from + $attempts);

    is($got[-1]{headers}{'x-webhook-attempt'}, $attempts,
       "$answers: in $attempts attempts");
    empty($answers);
    is(count(), $from + $attempts, "$answers: and no more");

    if ($answers eq '429r1,200') {
        my $delay = $got[-1]{time} - $got[-2]{time};
        ok($delay >= 0.99, "Retry-After, $delay s");
    }
}

# each of them has failed alone, one after the other was delivered

unlike(join('', $t->error_log), qr/destination "\/application" is down/,
       'the destination was never down');

# soon, once of three times, and never too early: nginx counts in milliseconds

my ($one, $two);

for (1 .. 3) {
    my $from = count();
    send_event('302,302,200');
    my @got = arrived($from + 3);

    ($one, $two) = map { $got[$_ + 1]{time} - $got[$_]{time} } -3, -2;
    cmp_ok($one, '>=', 0.098, 'first delay');
    cmp_ok($two, '>=', 0.198, 'second delay');
    last if $one < 0.3 && $two < 0.6;
}

cmp_ok($one, '<', 0.3, 'first delay');
cmp_ok($two, '<', 0.6, 'second delay');

# one that fails holds up no other; a permanent status is a dead letter

my $from = count();
send_event('404,404,404,404,200');
send_event('422,200');
send_event('200') for 1 .. 5;
my @got = arrived($from + 11);
my ($good, $poison) = map { my $answer = $_;
                            [grep { $got[$_]{answer} eq $answer } $from .. $#got]
                          } '200', '404';
is(@$good, 6, 'all but the one are delivered');
cmp_ok($good->[4], '<', $poison->[-1], 'others go on');
empty('poison');

my @dead = glob $t->spool . '/dead/*';
is(@dead, 1, 'a dead letter');
open my $fh, '<', $dead[0];
my $letter = $json->decode(<$fh>);
is_deeply([@{ $letter->{dead} }{qw(reason status attempts)}],
          ['permanent', 422, 1], 'says why');
like($letter->{dead}{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'and when');

$from = count();
(my $name = $dead[0]) =~ s{.*/}{};
rename $dead[0], $t->spool . "/new/$name" or die "rename: $!";
@got = arrived($from + 1);
is($got[-1]{headers}{'x-webhook-id'}, $letter->{id}, 'is sent again');
ok($t->wait_for(sub { 1 == (() = glob $t->spool . '/dead/*') }, 10),
   'dead again');
empty('requeued');

# what is damaged or not ours

my $new = $t->spool . '/new';
$from = count();
my $damaged = '20260101T000000.000Z-0011223344556677-0000000001-1-00000000'
              . '.ndjson';
file($damaged, line('200'));
file('hand.ndjson', "no line\n" . line('200'));
file('future.ndjson', "{\"v\":2}\n");
symlink '/etc/passwd', "$new/link.ndjson";
arrived($from + 1);
ok($t->wait_for(sub { -e $t->spool . "/corrupt/$damaged"
                      && -e $t->spool . '/corrupt/hand.ndjson' }, 10),
   'corrupt');
ok(-e "$new/future.ndjson", 'another version stays');
ok(-l "$new/link.ndjson", 'a link stays');
ok($t->wait_log(qr/future\.ndjson" has lines of a version/), 'is said');
unlink "$new/future.ndjson", "$new/link.ndjson";

# routing, and locations that are no proxy

$from = count();
is($t->post('/hook', event(event => 'other.x'))->{status}, 200, 'routed');
empty('routed');
is(count(), $from, 'to the other location');

# the application is away, nginx restarts, nothing is lost or sent twice

$application->('stop');
$from = count();
send_event('200') for 1 .. 20;
ok($t->wait_log(qr/is down, status 502/), 'is down');
ok($t->reload(), 'reload');
send_event('200') for 1 .. 5;
$application = application($t->port(1));
@got = arrived($from + 25);
empty('after the outage');
is(keys %{ { map { $_->{headers}{'x-webhook-id'} => 1 } @got[-25 .. -1] } },
   25, 'each once');

# from memory

$application->('stop');
$from = count();
my @status = map { $t->post('/memory', event(n => $_))->{status} } 1 .. 5;
is("@status", '200 200 200 503 503', 'the queue is bounded');
$application = application($t->port(1));
arrived($from + 3);
is($t->post('/memory', event(n => 6))->{status}, 200, 'and has room again');
arrived($from + 4);

$application->('stop');
$t->no_alerts();
done_testing();


my $n;

sub send_event {
    my ($answers) = @_;

    my $status = $t->post('/hook', event(data => { answers => $answers,
                                                   n => ++$n }))->{status};
    is($status, 200, "$answers: accepted") if $status != 200;
}

sub line {
    my ($answers) = @_;

    my $payload = event(data => { answers => $answers, n => ++$n });
    $payload =~ s/\n/ /g;

    return '{"v":1,"id":"' . substr(sha256_hex($payload), 0, 32)
        . '","received":"' . received_at() . '","event":"a.b",'
        . '"timestamp":"2024-01-20T14:45:00Z","companyId":null,"headers":{},'
        . "\"payload\":$payload}\n";
}

sub file {
    my ($name, $text) = @_;

    open my $fh, '>', "$new/../tmp/$name" or die "$name: $!";
    print {$fh} $text;
    close $fh;
    rename "$new/../tmp/$name", "$new/$name" or die "$name: $!";
}

sub empty {
    my ($what) = @_;

    ok($t->wait_for(sub { !(() = glob $t->spool . '/new/*') }, 10),
       "$what: new/ is empty");
}

sub count { return scalar requests() }

sub requests {
    open my $fh, '<', $log or return;
    return map { $json->decode($_) } grep { /\n\z/ } <$fh>;
}

sub arrived {
    my ($n) = @_;

    ok($t->wait_for(sub { requests() >= $n }, 15), "$n requests");
    return requests();
}


# The application: one process, answers as the event says.

sub application {
    my ($port) = @_;

    my $listen = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port",
        Listen => 64, ReuseAddr => 1) or die "listen: $!";

    my $pid = fork // die "fork: $!";

    if ($pid == 0) {
        serve($listen);
        POSIX::_exit(0);
    }

    close $listen;

    return sub { kill 'KILL', $pid; waitpid $pid, 0 };
}

sub serve {
    my ($listen) = @_;

    open my $out, '>>', $log or die "$log: $!";
    $out->autoflush(1);

    my $select = IO::Select->new($listen);
    my %in;

    while (1) {
        for my $c ($select->can_read()) {

            if ($c == $listen) {
                $select->add(scalar $c->accept());
                next;
            }

            if (sysread $c, $in{$c} //= '', 65536, length $in{$c}) {
                next if !answer($out, $c, $in{$c});
            }

            $select->remove($c);
            delete $in{$c};
            close $c;
        }
    }
}

# false as long as the request is not there, or is to hang

sub answer {
    my ($out, $c, $in) = @_;

    my ($line, $head) = $in =~ /^(.*?)\r\n(.*?\r\n)\r\n/s or return 0;
    my $body = substr $in, length("$line\r\n$head\r\n");

    my %headers = map { /^([^:]+): ?(.*)/ ? (lc $1, $2) : () }
                  split /\r\n/, $head;
    return 0 if length $body < $headers{'content-length'};

    my @answers = split /,/, $body =~ /"answers":\s*"([^"]*)"/ ? $1 : '200';
    my $answer = $answers[$headers{'x-webhook-attempt'} - 1] // $answers[-1];

    /[^\x20-\x7e]/ and $_ = unpack 'H*', $_ for values %headers;

    print {$out} $json->encode({ time => time, line => $line,
        headers => \%headers, body => unpack('H*', $body),
        answer => $answer }), "\n";

    return 0 if $answer eq 'hang';
    return 1 if $answer eq 'reset';

    my ($status, $after) = $answer =~ /^(\d+)(?:r(\d+))?/;
    my $length = $answer eq 'half' ? 100 : 2;

    syswrite $c, 'HTTP/1.1 ' . ($status // 200) . " X\r\n"
        . (defined $after ? "Retry-After: $after\r\n" : '')
        . "Content-Length: $length\r\n\r\nok";

    return 1;
}
