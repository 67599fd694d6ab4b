#!/usr/bin/perl

# For a system that is no application of ours: an answer that must say a text
# to count, "confirm=", and the event in base64, to be put into JSON.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use JSON::PP ();
use MIME::Base64 qw(decode_base64);
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Test::More;
use Test::Edge;
use Time::HiRes qw(sleep);

my $t = Test::Edge->new();

my $json = JSON::PP->new->canonical;
my $log = $t->prefix . '/system.log';
my $yes = '{"routed":true}';

mkdir $t->prefix . '/files' or die "mkdir: $!";
$t->write_file('files/yes.html', ('x' x 300_000) . $yes . ('x' x 100_000));
$t->write_file('files/no.html', 'x' x 400_000);
$t->write_file('files/ssi.html', '<!--# include virtual="/yes" -->');

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_retry initial=50ms max=200ms;

    map $taptalent_event $way {
        default       /buffered;
        ~^unbuffered  /unbuffered;
        ~^small       /small;
        ~^keepalive   /keepalive;
    }

    upstream system {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 4;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $way 'confirm="routed":true';
        }

        location /overlap {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/overlap;
            taptalent_webhook_forward /buffered confirm=aabaaab;
        }

        location /old {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/old;
            taptalent_webhook_forward /buffered confirm=yes;
            taptalent_webhook_retry initial=50ms max=200ms max_age=3s;
        }

        location /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /buffered confirm=yes;
        }

        location /any {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/any;
            taptalent_webhook_forward /buffered;
        }

        location /encoded {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/encoded;
            taptalent_webhook_forward /base64 confirm=yes;
        }

        location /redirected {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/redirected;
            taptalent_webhook_forward /accel confirm=yes;
        }

        location = /buffered {
            internal;
            gzip on;
            gzip_types *;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /unbuffered {
            internal;
            proxy_buffering off;
            proxy_buffer_size 256;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /small {
            internal;
            proxy_buffer_size 256;
            proxy_buffers 2 256;
            proxy_busy_buffers_size 256;
            postpone_output 0;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /keepalive {
            internal;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://system;
        }

        location = /base64 {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            proxy_set_body
                '{"id":"$taptalent_event_id","base64":"$taptalent_body_base64"}';
        }

        location = /accel {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /files/ {
            internal;
            root %%PREFIX%%;
            ssi on;
        }

        location = /yes {
            internal;
            return 200 '{"routed":true}';
        }
    }
}
EOF_CONF

my $parent = $$;
my $system = system_of_theirs($t->port(2));

END {
    if ($system && $$ == $parent) {
        local $?;
        kill 'KILL', $system;
        waitpid $system, 0;
    }
}

$t->run();

# what it says, time by time, and how often it is asked

for my $way (qw(buffered unbuffered small keepalive)) {

    for (['in one piece', 1, [200, $yes]],
         ['as a part', 1, [200, "[\n [{\"x\":1,\"routed\":true}, 2]\n"]],
         ['bit by bit', 1, [200, split //, $yes]],
         ['in two pieces', 1, [200, '{"rou', 'ted":true}']],
         ['after its beginning', 1, [200, '"rout"routed', '":"routed":t',
                                     'rue']],
         ['after much', 1, [200, 'x' x 200_000, $yes, 'x' x 100_000]],
         ['with another 2xx', 1, [201, $yes]],
         ['no', 2, [200, '{"routed":false}'], [200, $yes]],
         ['twice no', 3, ([200, '{"routed":false}']) x 2, [200, $yes]],
         ['not to the end', 2, [200, '{"routed":tru'], [200, $yes]],
         ['halves of two answers', 3, [200, '{"routed":'], [200, 'true}'],
          [200, $yes]],
         ['nothing', 2, [200], [200, $yes]],
         ['204', 2, [204], [200, $yes]],
         ['much, but not it', 2, [200, ('{"routed":false}' x 2000) x 5],
          [200, $yes]],
         ['with 500', 2, [500, $yes], [200, $yes]],
         ['with 302', 2, [302, $yes], [200, $yes]],
         ['with half an answer', 2, [-200, $yes], [200, $yes]])
    {
        my ($name, $times, @answers) = @$_;
        is(asked('/hook', $way, @answers), $times, "$way: $name");
    }
}

# an internal redirect, to a file; what is included is not the answer

is(asked('/hook', 'buffered', ['/files/yes.html']), 1, 'of a file');
is(asked('/hook', 'buffered', ['/files/no.html'], [200, $yes]), 2,
   'not of a file');
is(asked('/hook', 'buffered', ['/files/ssi.html'], [200, $yes]), 2,
   'not included');

# a text that begins as it goes on

for my $no (qw(aabaaa aabaabaaa aabaa baabaaa aabaaxaab)) {
    is(asked('/overlap', 'x', [200, $no], [200, 'aabaaab']), 2, "not $no");
}

for my $found (qw(aabaaab aabaabaaab aaabaaab aabaaaabaaab aabaabaabaaabx)) {
    is(asked('/overlap', 'x', [200, $found]), 1, "$found");
    is(asked('/overlap', 'x', [200, split //, $found]), 1, "$found, in bits");
}

# without the parameter any 2xx counts; without a spool it is the same

is(asked('/any', 'x', [200, 'no']), 1, 'any');
is(asked('/memory', 'x', [200, 'no'], [200, 'yes']), 2, 'from memory');

# a destination that says no to all is down, and what is in it stays

$t->mark_log();
send_event('/hook', 'buffered', ([200, '{"routed":false}']) x 4, [200, $yes])
    for 1 .. 3;
ok($t->wait_for(sub { emptied('spool') }, 20), 'taken in the end');
my @down = $t->grep_log(qr/\[warn\].*is down/);
is(@down, 1, 'down') or diag(@down);
like($down[0], qr{\[warn\]\ .*\ destination\ "/buffered"\ is\ down,\ status
                  \ 200\ without\ what\ "confirm"\ asks\ for,\ next}x,
     'and why');
like(join('', $t->grep_log(qr/up again/)), qr{"/buffered" is up}, 'up');

# one that never says yes is a dead letter

my ($id) = send_event('/old', 'x', [200, 'no']);
ok($t->wait_for(sub { () = glob $t->prefix . '/old/dead/*.ndjson' }, 10),
   'a dead letter');
my ($file) = glob $t->prefix . '/old/dead/*.ndjson';
my $letter = $json->decode($t->read_file($file));
is_deeply([$letter->{id}, @{ $letter->{dead} }{qw(reason status)}],
          [$id, 'max_age', 200], 'says why');
ok($letter->{dead}{attempts} > 2, "after $letter->{dead}{attempts} attempts");

# base64: each length, all kinds of bytes, one that is large

for my $more ((map { 'x' x $_ } 0 .. 3), "\xc3\xbc \xe2\x82\xac \\\"\\\\",
              join(' ', 1 .. 100_000))
{
    my $data = "{\"answers\":[[200,\"yes\"]],\n\r\n\t\"more\":\"$more\"}";
    my $body = event(data => \$data);
    my $before = -s $log || 0;

    is($t->post('/encoded', $body)->{status}, 200, length($body) . ' bytes');
    ok($t->wait_for(sub { emptied('encoded') }, 10), 'taken');

    my ($got) = requests($before);
    my $sent = $json->decode($got->{body});

    is(sha256_hex(decode_base64($sent->{base64})), sha256_hex($body), 'exact');
    is($sent->{id}, substr(sha256_hex($body), 0, 32), 'its id');
}

# the same after an internal redirect

my $body = event(data => { answers => [['/base64'], [200, 'yes']] });
my $before = -s $log;
is($t->post('/redirected', $body)->{status}, 200, 'redirected');
ok($t->wait_for(sub { emptied('redirected') }, 10), 'redirected: taken');
my @got = requests($before);
is(decode_base64($json->decode($got[-1]{body} // '{}')->{base64} // ''), $body,
   'redirected: exact');
is($json->decode($got[-1]{body} // '{}')->{id}, substr(sha256_hex($body), 0, 32),
   'and its id');

$t->no_alerts();
done_testing();


my $serial = 0;

# Sends an event for which the system gives these answers, one by one; how
# often it was asked.

sub asked {
    my ($uri, $way, @answers) = @_;
    my $before = -s $log || 0;

    my ($id) = send_event($uri, $way, @answers);

    my %spool = ('/hook' => 'spool', '/overlap' => 'overlap', '/any' => 'any');

    $t->wait_for(sub {
        my @got = requests($before);
        return $spool{$uri} ? emptied($spool{$uri}) : @got >= @answers;
    }, 10, 'the answers');

    my @got = requests($before);
    my @other = grep { $_->{id} ne $id } @got;

    return @other ? 'others' : scalar @got;
}

sub send_event {
    my ($uri, $way, @answers) = @_;
    my $body = event(event => "$way.x",
                     data => { answers => \@answers, serial => ++$serial });

    my $r = $t->post($uri, $body);
    is($r->{status}, 200, "accepted $serial") if $r->{status} != 200;

    return substr sha256_hex($body), 0, 32;
}

sub emptied {
    my ($spool) = @_;
    return !(() = glob $t->prefix . "/$spool/new/*");
}

sub requests {
    my ($from) = @_;
    return map { $json->decode($_) }
           substr($t->read_file('system.log'), $from) =~ /^(.*)\n/mg;
}


# The system: an answer is [status, piece, ...], as the event says, the last one
# for all times after; a negative status ends too early, a path is
# X-Accel-Redirect. Connections are kept when nginx asks for it.

sub system_of_theirs {
    my ($port) = @_;

    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64,
                                       LocalPort => $port, ReuseAddr => 1)
        or die "listen: $!";

    my $pid = fork() // die "fork: $!";

    return $pid if $pid;

    my %times;
    my @open;
    my $in = '';
    vec($in, fileno $listen, 1) = 1;

    while (1) {
        select my $ready = $in, undef, undef, undef;

        if (vec($ready, fileno $listen, 1)) {
            my $s = $listen->accept();
            setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
            push @open, $s;
            vec($in, fileno $s, 1) = 1;
        }

        # what grep returns are the elements themselves

        my @ready = grep { vec $ready, fileno $_, 1 } @open;

        for my $s (@ready) {
            next if serve($s, \%times);
            vec($in, fileno $s, 1) = 0;
            @open = grep { $_ != $s } @open;
            close $s;
        }
    }
}

sub serve {
    my ($s, $times) = @_;
    my ($request, $body) = ('', '');

    until ($request =~ /\r\n\r\n/) {
        sysread $s, $request, 65536, length $request or return 0;
    }

    ($request, $body) = $request =~ /\A(.*?\r\n)\r\n(.*)\z/s;
    my ($length) = $request =~ /^Content-Length: (\d+)/mi;

    while (length $body < $length) {
        sysread $s, $body, 65536, length $body or return 0;
    }

    my ($id) = $request =~ /^X-Webhook-Id: (\w+)/mi;

    open my $fh, '>>', $log or die "open: $!";
    my $event = $json->decode($body);
    my $line = { id => $id };

    if ($event->{base64}) {
        $line->{body} = $body;
        $event = $json->decode(decode_base64($event->{base64}));
    }

    syswrite $fh, $json->encode($line) . "\n";
    close $fh;

    my @answers = @{ $event->{data}{answers} };
    my $n = $times->{$id}++;
    my ($status, @pieces) = @{ $answers[$n < @answers ? $n : -1] };
    my $keep = $request =~ m{^POST \S+ HTTP/1\.1} && $status !~ /^-/ ? 1 : 0;

    my $accel = $status =~ m{^/} ? "X-Accel-Redirect: $status\r\n" : '';
    $status = 200 if $accel;

    $length = length join '', @pieces;
    $length += 10 if $status < 0;
    $status = abs $status;

    my $head = "HTTP/1.1 $status X\r\nContent-Type: text/html\r\n$accel"
        . ($status == 204 ? '' : "Content-Length: $length\r\n")
        . ($keep ? '' : "Connection: close\r\n") . "\r\n";

    for my $piece ($head, @pieces) {
        my $done = 0;

        while ($done < length $piece) {
            $done += syswrite $s, $piece, length($piece) - $done, $done
                or return 0;
        }

        sleep 0.005 if @pieces > 1;
    }

    return $keep;
}
