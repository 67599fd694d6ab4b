#!/usr/bin/perl

# For a long time: load of all kinds, clients that go away in the middle, and an
# application that fails in each of its ways, in turn. At the end all has been
# delivered, and memory, descriptors and connections are what they were.
#
#   TEST_SOAK_SECONDS   how long, 20 unless set

use warnings;
use strict;

use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Load;
use Test::Spool qw(list event_body);


my $seconds = $ENV{TEST_SOAK_SECONDS} || Test::Fault->scale(20);

my $t = Test::Edge->new(workers => 2, quarantine => 4);
my $spool = $t->spool();
my $status = $t->has('--with-http_stub_status_module')
             ? 'location = /status { stub_status; }' : '';

$t->conf(<<"EOF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 60s;

    access_log off;
    keepalive_requests 1000;
    client_body_buffer_size 16k;
    client_body_timeout 2s;

    upstream app {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 16;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
        error_log %%PREFIX%%/error.log crit;

        $status

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool $spool min_free=0;
            taptalent_webhook_forward /deliver concurrency=16;
            taptalent_webhook_retry initial=100ms max=1s;
        }

        location = /deliver {
            internal;
            proxy_pass http://app/app/deliver;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 4s;
        }
    }
}

EOF

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');

$t->run();

my @workers = $t->workers();

sub load {
    return map { $o->load(pause => 0.05, retry => 1, %$_) }
               { port => $t->port(0), senders => 3, conns => 4 },
               { port => $t->port(0), senders => 2, close => 1, pause => 0.1 },
               { port => $t->port(1), senders => 1, tls => 1 };
}


# who goes away: after a part of the head or of the body, or without a look at
# the answer; sometimes he only stays

sub rude {
    my $parent = $$;
    my $pid = fork() // die "fork() failed: $!";

    return $pid if $pid;

    $SIG{TERM} = sub { POSIX::_exit(0) };
    srand;

    my ($n, @idle) = (0);

    while (getppid() == $parent) {
        my $bytes = $t->message('/hook', event_body("rude-0-" . $n++));
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                      PeerPort => $t->port(0)) or next;

        syswrite $s, substr $bytes, 0, rand length $bytes;
        push @idle, $s if $n % 5 == 0;
        shift @idle if @idle > 20;
        setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_LINGER(),
                   pack 'll', 1, 0 if $n % 2;
        select undef, undef, undef, 0.02;
    }

    POSIX::_exit(0);
}

sub slurp { return Test::Fault::slurp($_[0]) }

sub resident {
    my $sum = 0;

    $sum += $_ for map { slurp("/proc/$_/status") =~ /^VmRSS:\s+(\d+)/m }
                   @workers;
    return $sum;
}

sub descriptors {
    return scalar(() = map { glob "/proc/$_/fd/*" } @workers);
}

sub connections {
    return $status ? ($t->get('/status')->{body} =~ /Active \D+(\d+)/)[0] : 1;
}

# all is delivered, nobody is connected

sub at_rest {
    my ($what) = @_;

    $app->mode('ok');
    ok($o->wait_empty($spool, 90), "$what: all is delivered");
    ok($t->wait_for(sub { connections() == 1 }, 20, 'connections to end'),
       "$what: no connection is left");

    return (resident(), descriptors());
}


my @modes = qw(jitter:20 mixed refuse ok half 500 reset 429 hang 302 slow:50);
my $pause = $seconds / 10 < 5 ? $seconds / 10 : 5;
my $stuck = 0;

# One fault after another under load, while $more->() of how many there were.
# Returns the memory after each.

sub faults {
    my ($more) = @_;
    my @loads = load();
    my $rude = rude();
    my @memory;

    $o->wait_delivered(500) or diag('slow');

    while ($stuck <= 3 && $more->(scalar @memory)) {
        $app->mode($modes[@memory % @modes]);
        select undef, undef, undef, $pause / 2;

        $app->mode('ok');
        $o->wait_delivered(50) or $stuck++;
        select undef, undef, undef, $pause / 2;

        push @memory, resident();
    }

    kill 'TERM', $rude;
    waitpid $rude, 0;
    $_->stop() for @loads;

    return @memory;
}


# What it takes once: pools of connections, buffers, arenas of the threads. Each
# fault has a peak of its own, and an allocator keeps what a peak took.

faults(sub { $_[0] < @modes });

my ($memory, $open) = at_rest('at first');


# the long time

my $end = time() + $seconds;
my @samples = faults(sub { time() < $end });

is($stuck, 0, 'deliveries go on after each fault');

my ($memory_then, $open_then) = at_rest('at last');

diag(sprintf '  %d s: memory of both workers %.1f MB, then %.1f MB; '
     . 'descriptors %d, then %d', $seconds, $memory / 1024,
     $memory_then / 1024, $open, $open_then);

# of the load's peaks the last fifth and the first

my $fifth = int(@samples / 5) || 1;
my ($first) = sort { $b <=> $a } @samples[0 .. $fifth - 1];
my ($last) = sort { $b <=> $a } @samples[-$fifth .. -1];

diag(sprintf '  under load at most %.1f MB in its first fifth, %.1f MB in its '
     . 'last', $first / 1024, $last / 1024);

cmp_ok($memory_then, '<', $memory + 16384, 'memory is what it was');
cmp_ok($last, '<', $first + 16384, 'also under load');
cmp_ok($open_then, '<=', $open + 16, 'so are descriptors');

is_deeply([$t->workers()], \@workers, 'the workers are the same');

ok($t->quit(), 'stopped');

# half a message may have been all of it

$o->collect($spool);
delete $o->{$_}{'?'} for qw(delivered handled);
$o->report('soak', scalar @samples);

is($o->lost(), 0, 'no acknowledged event is lost');
is($o->altered(), 0, 'none is altered');
is($o->duplicated(), 0, 'none is delivered twice');
is(join(', ', $o->failed()), '', 'no request failed');

$t->no_alerts();

done_testing();
