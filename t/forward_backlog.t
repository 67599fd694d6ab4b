#!/usr/bin/perl

# A backlog of any size costs no more memory than the window in flight, and
# neither keeps the server from accepting nor the first event from leaving.
#     TEST_BACKLOG   files of one event, 20000
#
# slow: 20000 files of events go out

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Compress::Zlib qw(crc32);
use Digest::SHA qw(sha256_hex);
use Test::More;
use Test::Edge qw(event named_at received_at);
use Test::Fault;
use Time::HiRes qw(time);

my $files = $ENV{TEST_BACKLOG} || 20000;
my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    log_format id '$msec $http_x_webhook_id $http_x_webhook_n';

    upstream application {
        server 127.0.0.1:%%PORT_1%%;
        keepalive 64;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_https off;
            taptalent_webhook_company_id any;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application concurrency=CONCURRENCY;
        }

        location = /application {
            internal;
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    }

    server {
        listen 127.0.0.1:%%PORT_1%%;
        keepalive_requests 1000000000;
        access_log %%PREFIX%%/arrived.log id;
        return STATUS;
    }
}
EOF_CONF

my $conf = $t->read_file('nginx.conf');
my $spool = $t->spool;
my $arrived = $t->prefix . '/arrived.log';

# the spool is made at the first start

start(200, 32);
my $idle = rss();
ok($t->quit(), 'the spool is made');

# the destination is down: a bounded number of events is in memory

fill($files);
start(503, 32);
ok($t->wait_log(qr/is down, status 503/), 'down');
is($t->post('/hook', event())->{status}, 200, 'events are accepted meanwhile');
settled();
memory('memory while it is down');
ok($t->quit(), 'stopped');

# it is up

unlink $arrived;
my $began = time();
start(200, 32);
my $status = $t->post('/hook', event(n => 1))->{status};
my $took = time() - $began;
is($status, 200, 'events are accepted at once');
cmp_ok($took, '<', $Test::Edge::PATIENCE, "in $took s from the start");

ok($t->wait_for(sub { empty() }, 60 + $files / 1000), 'all are taken');
my $drained = time() - $began;
memory('memory');
ok($t->quit(), 'stopped');

my @lines = arrived();
my %times;
$times{$_->[2]}++ for grep { $_->[2] ne '-' } @lines;

is(scalar keys %times, $files, 'each has arrived');
is((grep { $_ != 1 } values %times), 0, 'once');
cmp_ok($lines[0][0] - $began, '<', 1.5 * $Test::Edge::PATIENCE,
       sprintf 'the first one %.3f s after the start', $lines[0][0] - $began);
diag(sprintf "%d files of one event in %.1f s, %.0f events/s", $files,
     $drained, $files / $drained);

# while events wait for the disk, deliveries give way, and come all the same

SKIP: {
    my $missing = $> ? 'needs root' : Test::Fault->no_strace();

    skip $missing, 1 if $missing;
    skip 'no threads: nothing waits', 1 if !$t->has('--with-threads');

    $conf =~ s/(error_log \S+) info;/$1 debug;/ or die 'no error_log';
    $conf =~ s/(taptalent_webhook_spool )/taptalent_webhook_ack_timeout 600s;
            $1/;

    for my $resolution ('', 'timer_resolution 500ms;') {
        gives_way($resolution);
    }

    $conf =~ s/(error_log \S+) debug;/$1 info;/;
}

# as far as the window reaches, the oldest is first

unlink $arrived;
fill(1000);
start(200, 1);
ok($t->wait_for(sub { empty() }, 30), 'all of a small backlog are taken');
ok($t->quit(), 'stopped');
is_deeply([map { $_->[2] } arrived()], [1 .. 1000], 'in order');

$t->no_alerts();
done_testing();


sub gives_way {
    my ($resolution) = @_;
    my $name = $resolution || 'by default';

    $t->write_file('nginx.conf', "$resolution\n"
                   . $conf =~ s/STATUS/200/r =~ s/CONCURRENCY/64/r);
    unlink $arrived;
    $t->mark_log();
    $t->run();

    is($t->post('/hook', event())->{status}, 200, "$name: one after another");
    fill(2000);
    ok($t->wait_for(sub { empty() }, 60), "$name: taken");
    is(scalar $t->grep_log(qr/queue: gives way/), 0,
       "$name: they give way to nobody");

    my $strace = Test::Fault->strace(
        [Test::Fault->committers($t->workers())], 'fdatasync:delay_enter=300s');

    my @waiting = map { $t->connect() } 1 .. 3;
    $_->send($t->message('/hook', event())) for @waiting;

    # the worker has read what had come before this

    is($t->get('/none')->{status}, 404, "$name: three wait for the disk");

    # what an eighth of the time is worth depends on who else is there

    fill(1000);
    ok($t->wait_for(sub { empty() }, 50), "$name: all are taken meanwhile");
    ok(scalar $t->grep_log(qr/queue: gives way/), "$name: a share at a time")
        if $t->debugs();

    $strace->detach();
    is_deeply([map { $_->answer()->{status} } @waiting], [200, 200, 200],
              "$name: they are accepted");
    ok($t->wait_for(sub { empty() }, 60), "$name: and taken");
    ok($t->quit(), "$name: stopped");
}

sub start {
    my ($status, $concurrency) = @_;

    $t->write_file('nginx.conf', $conf =~ s/STATUS/$status/r
                                       =~ s/CONCURRENCY/$concurrency/r);
    $t->run();
}

# the most that the worker has had, kB

sub rss {
    my ($pid) = $t->workers;

    open my $fh, '<', "/proc/$pid/status" or die "/proc/$pid/status: $!";
    return join('', <$fh>) =~ /VmHWM:\s+(\d+)/ ? $1 : die 'no VmHWM';
}

sub memory {
    my ($name) = @_;

    SKIP: {
        skip 'a sanitizer keeps what is freed', 1 if $t->has('-fsanitize');

        my $more = rss() - $idle;
        cmp_ok($more, '<', 32768, "$name, $more kB more");
    }
}

# it reads no more

sub settled {
    my ($rss, $since) = (0, time());

    $t->wait_for(sub {
        ($rss, $since) = (rss(), time()) if rss() != $rss;
        return time() - $since > 0.7;
    }, 30);
}

sub empty {
    opendir my $dir, "$spool/new" or die "$spool/new: $!";

    while (defined(my $name = readdir $dir)) {
        return 0 if $name =~ /^[^.]/;
    }

    return 1;
}

sub arrived {
    open my $fh, '<', $arrived or return;
    return map { chomp; [split / /] } <$fh>;
}

sub fill {
    my ($files) = @_;

    my ($uid, $gid) = (stat "$spool/new")[4, 5];
    my $now = int time();

    for my $n (1 .. $files) {
        my $payload = event(data => { n => $n });
        $payload =~ tr/\n/ /;

        my $line = '{"v":1,"id":"' . substr(sha256_hex($payload), 0, 32)
            . '","received":"' . received_at($now) . '","event":"a.b",'
            . '"timestamp":"2024-01-20T14:45:00Z","companyId":null,'
            . '"headers":{"content-type":"application/json",'
            . "\"x-webhook-n\":\"$n\"},\"payload\":$payload}\n";

        my $name = sprintf '%s/new/%s-0123456789abcdef-%010d-1-%08x.ndjson',
            $spool, named_at($now), $n, crc32($line);

        open my $fh, '>', $name or die "$name: $!";
        print {$fh} $line;
        close $fh;
        chown $uid, $gid, $name;
    }
}
