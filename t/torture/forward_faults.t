#!/usr/bin/perl

# Forwarding when something breaks: the application in every way, the workers,
# nginx as a whole, the disk. What was acknowledged reaches the application, or
# is in dead/, or waits in new/; as a rule once.
#
#   TEST_KILLS            kills, 40 unless set
#   TEST_RELOAD_SECONDS   of a reload each second, 20 unless set
#   TEST_UPGRADES         there and back, 2 unless set
#   TEST_SEED             of what is by chance
#   TEST_ONLY             parts: application, neighbours, kill, reload, upgrade,
#                         stop, disk, sidecar

use warnings;
use strict;

use IO::Select;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Load;
use Test::Spool qw(list event_body);


my $kills = $ENV{TEST_KILLS} || Test::Fault->scale(40);
my $seconds = $ENV{TEST_RELOAD_SECONDS} || Test::Fault->scale(20);
my $upgrades = $ENV{TEST_UPGRADES} || Test::Fault->scale(2);
my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;
my $concurrency = 16;

srand $seed;
note("TEST_SEED=$seed");

# a new binary gets no other environment

my $conf = <<'EOC';
%%GLOBALS%%
env ASAN_OPTIONS;
env UBSAN_OPTIONS;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_ack_timeout 60s;

    access_log off;
    keepalive_requests 100000;
    client_body_buffer_size 64k;

    upstream app {
        server 127.0.0.1:%%PORT_2%%;
        keepalive 16;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%
        error_log %%PREFIX%%/error.log notice;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool SPOOL min_free=0;
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

EOC

sub edge {
    my (%opts) = @_;

    my $t = Test::Edge->new(workers => 2, %opts);

    $t->conf($conf =~ s/SPOOL/$t->spool()/re);

    return $t;
}

sub part { return !$ENV{TEST_ONLY} || $ENV{TEST_ONLY} =~ /\b$_[0]\b/ }

sub a_moment { select undef, undef, undef, rand $_[0] }

# as much as two processors can take, the application included

my @load = (senders => 8, pause => 0.02);

sub load {
    my ($o, $t) = @_;

    return map { $o->load(pause => 0.01, %$_) }
               { port => $t->port(0), senders => 4, retry => 1 },
               { port => $t->port(0), senders => 3, close => 1 },
               { port => $t->port(1), senders => 1, tls => 1, retry => 1 };
}

# the worker that forwards, as the log has it

sub forwarder {
    my ($t) = @_;
    my $pid;

    for my $line ($t->grep_log(qr/this worker forwards/)) {
        my ($who, $no) = $line =~ /\] (\d+)#.* forwards "[^"]+"(.*)/;
        $pid = $no =~ /no longer/ ? ($pid || 0) == $who ? 0 : $pid : $who;
    }

    return $pid && $t->alive($pid) ? $pid : 0;
}

sub check {
    my ($o, $t, $title, $trials, %arg) = @_;

    $o->collect($arg{spool} || $t->spool());
    $o->report($title, $trials);

    is($o->lost(), 0, "$title: no acknowledged event is lost");
    is($o->altered(), 0, "$title: none is altered");

    if (!$arg{again}) {
        is($o->duplicated(), 0, "$title: none is delivered twice");
    }

    is(join(', ', $o->not_buried()), '',
       "$title: what is refused for good, and nothing else, is in dead/");

    if ($arg{graceful}) {
        is(join(', ', $o->failed()), '', "$title: no request failed");
        is($o->refused(), 0, "$title: none was refused");
        is(scalar(my @again = $o->again()), 0,
           "$title: the application has handled none twice");
    }

    cmp_ok($o->acked(), '>', 100, "$title: there were some");
}

# all that waits is delivered

sub drained {
    my ($o, $t, $title, $spool) = @_;

    $spool ||= $t->spool();

    ok($o->wait_empty($spool, 90), "$title: all is delivered in the end")
        or diag('new/: ' . join ' ', (list("$spool/new"))[0 .. 5]);
}


# the application ------------------------------------------------------------


if (part('application')) {
    my $t = Test::Edge->new(workers => 2);

    $t->conf($conf =~ s/SPOOL/$t->spool()/re
                   =~ s/proxy_read_timeout 4s/proxy_read_timeout 2s/r);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2));
    my $stuck = 0;

    $t->run();

    my $load = $o->load(port => $t->port(0), @load);

    my @modes = qw(refuse hang reset half 500 429 302 404 422);

    for my $mode (@modes, 'mixed') {
        $o->wait_delivered(100) or $stuck++;
        $app->mode($mode);

        if ($mode eq 'refuse') {
            $t->mark_log();
            $t->wait_for(sub {
                $t->grep_log(qr/Connection refused/) >= 3
            }, 20, 'refused connections') or $stuck++;

        } elsif ($mode eq 'mixed') {
            $o->wait_answered(500, 120) or $stuck++;

        } else {
            # what is down is probed with one event, the rest goes on

            $o->wait_answered($mode =~ /^(?:302|404|422)$/ ? 100 : 18, 60)
                or $stuck++;
        }

        $app->mode('ok');
    }

    $o->wait_delivered(100) or $stuck++;
    $load->stop();

    is($stuck, 0, 'application: deliveries are tried, and go on after each');

    drained($o, $t, 'application');
    ok($t->quit(), 'application: stopped');
    check($o, $t, 'application', scalar(@modes) + 1);

    cmp_ok($o->answers()->{$_} || 0, '>', 0, "application: $_ was met")
        for qw(hang reset half 500 429 302 404 422);

    # the half that was sent before the timeout is not done

    $t->no_alerts();
}


# bad events -----------------------------------------------------------------


# Some events are answered 500 again and again, by half an answer of each
# protocol, by one that never ends, or with a Retry-After of a day. The others
# come as fast as without them.

if (part('neighbours')) {
    my $t = Test::Edge->new(workers => 2);

    my $halves = halves($t);
    my $text = $conf =~ s/SPOOL/$t->spool()/re;

    $text =~ s{forward /deliver concurrency=16;}
              {forward \$to concurrency=16 timeout=1s;} or die;
    $text =~ s/proxy_read_timeout 4s;/proxy_read_timeout 1s;/ or die;
    $text =~ s/(upstream app)/$halves->{map} $1/ or die;
    $text =~ s/(location = \/deliver)/$halves->{locations} $1/ or die;

    $t->conf($text);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2));
    my $stuck = 0;
    my (@without, @with);

    $t->run();

    my $load = $o->load(port => $t->port(0), senders => 4, pause => 0.02);

    # once of three times, where the machine is shared

    for my $round (1 .. 3) {
        $app->mode('ok');
        $o->wait_good(100) or $stuck++;
        $o->took_to_deliver();
        $o->wait_good(1000, 60) or $stuck++;
        push @without, $o->took_to_deliver();

        $app->mode('bad');
        $o->wait_good(100) or $stuck++;
        $o->took_to_deliver();
        $o->wait_good(2000, 60) or $stuck++;
        push @with, $o->took_to_deliver();

        diag(sprintf '  99 of 100 good events in %.1f ms, beside bad ones in '
                     . '%.1f ms', 1000 * $without[-1], 1000 * $with[-1]);
        last if $with[-1] <= 2 * $without[-1];
    }

    is($stuck, 0, 'bad events: the others are delivered');
    cmp_ok($with[-1], '<=', 2 * $without[-1], 'bad events: as fast as without');

    my ($destination) = grep { $_->{destination} eq '/deliver' }
                        @{ $t->status_of('/status')->{destinations} };

    cmp_ok($destination->{timeouts}, '>', 0, 'bad events: timeouts are counted');
    ok($t->wait_log(qr/took longer than 1000 ms/),
       'bad events: and logged');

    # an answer that never ends holds up the hand-over for "timeout" only

    $t->mark_log();
    $t->reload() or fail('bad events: reload');
    ok($t->wait_log(qr/this worker forwards/), 'bad events: it is handed over');

    $load->stop();
    $app->mode('ok');

    drained($o, $t, 'bad events');
    ok($t->quit(), 'bad events: stopped');
    check($o, $t, 'bad events', 1);

    cmp_ok($o->answers()->{$_} || 0, '>', 0, "bad events: $_ was met")
        for qw(500 429 half drip);
    cmp_ok($halves->{met}->(), '>=', 4, 'bad events: halves of all protocols');
    $halves->{end}->();

    $t->no_alerts();
}

# Peers that take what comes, answer by a half and close. The first attempt of
# some events is theirs.

sub halves {
    my ($t) = @_;

    my $cgi = "Status: 200 OK\r\nContent-Type: text/plain\r\n";
    my $record = sub { return pack('CCnnCC', 1, 6, 1, length $_[0], 0, 0)
                              . $_[0] };

    my %half = (
        fastcgi => $record->("$cgi\r\nhalf"),
        uwsgi => "${cgi}Content-Length: 99\r\n\r\nhalf",
        scgi => "${cgi}Content-Length: 99\r\n\r\nhalf",

        # SETTINGS, and HEADERS with :status 200
        grpc => pack('H*', '000000040000000000' . '00000101040000000188'),
    );

    my @protocols = grep { !$t->has("--without-http_${_}_module") }
                         qw(fastcgi uwsgi scgi);

    push @protocols, 'grpc' if $t->has('--with-http_v2_module');

    my ($map, $locations, %listen) = ('', '');

    for my $i (0 .. $#protocols) {
        my $protocol = $protocols[$i];
        my $port = $t->port(10 + $i);

        $map .= "~^1${i}[0-3] /half/$protocol;\n";

        for my $off ('', $protocol eq 'grpc' ? () : '-off') {
            my $buffering = $off ? "${protocol}_buffering off;" : '';

            $locations .= "location = /half/$protocol$off { internal; "
                . "${protocol}_pass 127.0.0.1:$port; $buffering }\n";
            $map .= "~^1${i}[4-7] /half/$protocol$off;\n" if $off;
        }

        $listen{$protocol} = IO::Socket::INET->new(
            LocalAddr => "127.0.0.1:$port", Listen => 511, ReuseAddr => 1)
            or die "listen() failed: $!";
    }

    my $log = $t->prefix() . '/halves.log';
    my $pid = fork() // die "fork() failed: $!";

    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);

        my %of = map { fileno $listen{$_} => $_ } keys %listen;
        my $select = IO::Select->new(values %listen);

        while (1) {
            for my $s ($select->can_read()) {
                my $protocol = $of{fileno $s};
                my $c = $s->accept() or next;

                sysread $c, my $in, 262144;
                syswrite $c, $half{$protocol};
                close $c;

                open my $fh, '>>', $log or die;
                syswrite $fh, "$protocol\n";
                close $fh;
            }
        }
    }

    return {
        map => "map \"\$http_x_webhook_attempt\$taptalent_event_id\" \$to {
                    default /deliver;\n$map}\n",
        locations => "$locations location = /status { taptalent_webhook_status;
                                                    }\n",
        met => sub {
            my %met = map { $_ => 1 } split /\n/,
                          Test::Spool::read_file($log) // '';
            return scalar(keys %met) + 4 - @protocols;
        },
        end => sub { kill 'TERM', $pid; waitpid $pid, 0 },
    };
}


# kill -9 --------------------------------------------------------------------


if (part('kill')) {
    my $t = edge();
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'jitter:20');
    my (%killed, @times);
    my $stuck = 0;

    $t->expect_alert(qr/worker process \d+ exited on signal 9/);
    $t->run();

    my $load = $o->load(port => $t->port(0), @load);

    for my $n (1 .. $kills) {
        $o->wait_delivered(50) or $stuck++;
        last if $stuck > 3;

        a_moment(0.1);

        my @workers = $t->workers();
        my $forwarder = forwarder($t);
        my $whom = $n % 4 == 0 ? 'all' : $n % 4 == 2 || !$forwarder ? 'any'
                   : 'the forwarder';

        $killed{$whom}++;

        # before it: this process may be held up at any place

        push @times, time();

        if ($whom eq 'all') {
            Test::Fault->kill_all($t);
            $t->run();

        } else {
            kill 'KILL', $whom eq 'any' ? $workers[rand @workers] : $forwarder;
        }
    }

    $o->wait_delivered(50) or $stuck++;
    $load->stop();

    is($stuck, 0, 'kill: deliveries go on after each');

    drained($o, $t, 'kill');
    ok($t->quit(), 'kill: stopped');

    my $title = 'kill -9, ' . join ', ', map { "$killed{$_} of $_" }
                                             sort keys %killed;

    check($o, $t, $title, $kills, again => 1);

    # each second delivery belongs to the first kill after the first one; what
    # was sent just before the kill may have been read just after it

    my (%again, @why);

    for my $again ($o->again()) {
        my ($id, $first, $next) = @$again;
        my @before = grep { $times[$_] <= $next } 0 .. $#times;
        my ($k) = grep { $times[$_] >= $first } @before;

        $k = $before[-1] if !defined $k && @before
                            && $times[$before[-1]] > $first - 1;

        defined $k ? $again{$k}++ : push @why, "$id $first $next";
    }

    my @most = sort { $b <=> $a } 0, values %again;

    diag("  handled twice for one kill: at most $most[0], concurrency is "
         . $concurrency);
    cmp_ok($most[0], '<=', $concurrency,
           'kill: at most what was in flight is sent again');
    is(join(', ', @why), '', 'kill: and nothing without a kill');

    $t->no_alerts();
}


# reload ---------------------------------------------------------------------


if (part('reload')) {
    my $t = edge();
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'jitter:20');
    my ($missed, $stuck) = (0, 0);

    $t->run();

    my @loads = load($o, $t);

    for (1 .. $seconds) {
        my $next = time() + 1;

        $o->wait_delivered(10) or $stuck++;
        $t->reload() or $missed++;
        $t->wait_for(sub { time() >= $next }, 2);
    }

    $o->wait_delivered(10) or $stuck++;
    $_->stop() for @loads;

    is($missed, 0, 'reload: each has brought new workers');
    is($stuck, 0, 'reload: deliveries go on after each');

    drained($o, $t, 'reload');
    ok($t->wait_for(sub { $t->workers(all => 1) == 2 }, 15, 'the old workers'),
       'reload: all old workers have ended');
    ok($t->quit(), 'reload: stopped');

    check($o, $t, 'reload each second', $seconds, graceful => 1);

    $t->no_alerts();
}


# upgrade of nginx -------------------------------------------------------------


if (part('upgrade')) {
    my $t = edge(daemon => 1);
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'jitter:20');
    my %missed;

    my $step = sub {
        my ($ok, $what) = @_;

        $missed{$what}++ unless $ok;
    };

    for my $n (1 .. $upgrades) {
        my $forward = $n % 2;

        $t->run();

        my @loads = load($o, $t);

        $o->wait_delivered(100);

        my $old = $t->pid();

        kill 'USR2', $old;

        $step->($t->wait_for(sub {
            my $new = $t->pid();
            return $new && $new != $old
                   && -e $t->prefix() . '/nginx.pid.oldbin'
                   && $t->workers(master => $new) >= 2;
        }, 20, 'the new binary'), 'the new binary has started');

        my $new = $t->pid();

        $o->wait_delivered(100);

        # the old workers go, and what only they had is done

        kill 'WINCH', $old;
        $step->($t->wait_for(sub { !$t->workers(master => $old, all => 1) }, 20,
                             'the old workers to end'), 'the old workers go');
        $step->($o->wait_delivered(100), 'the new ones deliver');

        if ($forward) {
            kill 'QUIT', $old;
            $step->($t->wait_for(sub { !$t->alive($old) }, 20,
                                 'the old binary'), 'the old binary has ended');
            $t->{master} = $new;

        } else {
            kill 'HUP', $old;
            $step->($t->wait_for(sub { $t->workers(master => $old) >= 2 }, 20,
                                 'the old binary\'s workers'),
                    'the old workers are back');
            kill 'QUIT', $new;
            $step->($t->wait_for(sub { !$t->alive($new) }, 20,
                                 'the new binary'), 'the new binary has ended');
            $t->wait_for(sub { ($t->pid() || 0) == $old }, 5, 'nginx.pid');
        }

        $step->($o->wait_delivered(100), 'deliveries go on');
        $_->stop() for @loads;

        $step->($o->wait_empty($t->spool(), 90), 'all is delivered in the end');
        $step->($t->quit(), 'it stops');
    }

    is(join(', ', map { "$missed{$_} times not: $_" } sort keys %missed), '',
       'upgrade: each goes its way');
    check($o, $t, 'upgrade, forward and back', $upgrades, graceful => 1);

    $t->no_alerts();
}


# graceful stops -------------------------------------------------------------


if (part('stop')) {
    my $t = edge();
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'slow:300');
    my $trials = Test::Fault->scale(5);
    my ($stuck, $late) = (0, 0);

    for (1 .. $trials) {
        $t->run();

        my $load = $o->load(port => $t->port(0), @load);

        $o->wait_delivered(32) or $stuck++;
        $t->quit() or $late++;
        $load->stop();
    }

    is($stuck, 0, 'QUIT, slow application: deliveries go on after each');
    is($late, 0, 'QUIT, slow application: nginx has ended');
    is($o->answers()->{gone} || 0, 0,
       'QUIT, slow application: no delivery was broken off');

    $app->mode('ok');
    $t->run();
    drained($o, $t, 'QUIT, slow application');
    ok($t->quit(), 'QUIT, slow application: stopped');
    check($o, $t, 'QUIT, slow application', $trials);
    is(scalar(my @again = $o->again()), 0,
       'QUIT, slow application: the application has handled none twice');

    $t->no_alerts();
}

if (part('stop')) {
    my $t = Test::Edge->new(workers => 2);
    my $title = 'worker_shutdown_timeout';

    $t->conf($conf =~ s/SPOOL/$t->spool()/re
                   =~ s/(?=events \{)/worker_shutdown_timeout 500ms;\n/r
                   =~ s/proxy_read_timeout 4s/proxy_read_timeout 60s/r);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2));
    my $trials = Test::Fault->scale(5);
    my ($late, $stuck, $longest) = (0, 0, 0);

    for (1 .. $trials) {
        $app->mode('ok');
        $t->run();

        my $load = $o->load(port => $t->port(0), @load);

        $o->wait_delivered(32) or $stuck++;

        # no more than these: some may hang before mode() returns

        my $all = ($o->answers()->{hang} || 0) + $concurrency;

        $app->mode('hang');
        $o->wait_until(sub { ($o->answers()->{hang} || 0) >= $all }, 30)
            or $stuck++;

        my $start = time();

        $t->quit() or $late++;
        $longest = time() - $start if time() - $start > $longest;
        $load->stop();
    }

    is($stuck, 0, "$title: deliveries go on after each");
    is($late, 0, "$title: nginx has ended");
    diag(sprintf '  nginx ended within %.3f s of worker_shutdown_timeout=500ms',
         $longest);
    cmp_ok($longest, '<', 10 * $Test::Edge::PATIENCE, "$title: and in time");

    $app->mode('ok');
    $t->run();
    drained($o, $t, $title);
    ok($t->quit(), "$title: stopped");
    check($o, $t, $title, $trials);

    $t->no_alerts();
}


# the disk -------------------------------------------------------------------


SKIP: {
    my $why = Test::Fault->no_loop();

    skip $why, 1 if $why;
    skip 'not asked for', 1 unless part('disk');

    # full, while a backlog waits

    my $t = Test::Edge->new(workers => 2);
    my $fs = Test::Fault->filesystem($t, 'ext4', '24m');
    my $spool = $fs->dir() . '/spool';

    $t->conf($conf =~ s/SPOOL/$spool/r);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'refuse');

    $t->run();

    my $load = $o->load(port => $t->port(0), senders => 4, conns => 8);

    ok($o->wait_acked(1500), 'full disk: a backlog');
    $fs->fill();

    ok($t->wait_for(sub { $o->refused() > 20 }, 20, '503'),
       'full disk: nothing more is taken');
    $load->stop();

    my $backlog = my @before = list("$spool/new");
    my ($free) = $fs->free();

    $app->mode('ok');
    drained($o, $t, 'full disk', $spool);
    cmp_ok(($fs->free())[0], '>', $free, 'full disk: deliveries free it');

    $load = $o->load(port => $t->port(0), @load);
    ok($o->wait_acked(50), 'full disk: and events are taken again');
    $load->stop();
    drained($o, $t, 'full disk', $spool);

    ok($t->quit(), 'full disk: stopped');
    check($o, $t, "full disk, $backlog files", 1, spool => $spool);
    is(scalar(my @again = $o->again()), 0,
       'full disk: the application has handled none twice');

    $t->no_alerts();
    $fs->drain()->umount();
}

SKIP: {
    my $why = Test::Fault->no_loop();

    skip $why, 1 if $why;
    skip 'not asked for', 1 unless part('disk');

    # full, and a reload while the lines of a file are being delivered

    my $t = Test::Edge->new(workers => 1);
    my $fs = Test::Fault->filesystem($t, 'ext4', '24m');
    my $spool = $fs->dir() . '/spool';
    my $trials = Test::Fault->scale(5);
    my ($stuck, $seen) = (0, 0);

    $t->conf($conf =~ s/SPOOL/$spool/r);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'refuse');

    $t->run();

    for (1 .. $trials) {
        $app->mode('refuse');

        my $load = $o->load(port => $t->port(0), senders => 4, conns => 32);

        $o->wait_acked(1000) or $stuck++;
        $fs->fill();
        $t->wait_for(sub { $o->refused() > 20 }, 20, '503') or $stuck++;
        $load->stop();

        $app->mode('jitter:10');
        $o->wait_delivered(100) or $stuck++;

        # with the disk still full what was delivered could not be noted

        $fs->drain();
        $t->reload(old_gone => 1) or $stuck++;
        $app->mode('ok');
        drained($o, $t, 'full disk and reload', $spool);

        # the sender asks once a second, until it is let through

        $t->wait_for(sub {
            my $id = 'seen-0-' . $seen++;

            $o->note_sent($id);
            return $t->post('/hook', event_body($id))->{status} == 200
                   && $o->note_acked($id);
        }, 10, 'space to be seen') or $stuck++;

        $o->wait_empty($spool);
    }

    is($stuck, 0, 'full disk and reload: went as planned');
    ok($t->quit(), 'full disk and reload: stopped');
    check($o, $t, 'full disk and reload', $trials, spool => $spool);

    $t->no_alerts();
    $fs->drain()->umount();
}

SKIP: {
    my $why = Test::Fault->no_loop();

    skip $why, 1 if $why;
    skip 'not asked for', 1 unless part('disk');

    # read-only, after an error of the filesystem, as it comes in life

    my $t = Test::Edge->new(workers => 2);
    my $fs = Test::Fault->filesystem($t, 'ext4', '24m',
                                     options => 'errors=remount-ro');
    my $spool = $fs->dir() . '/spool';
    my $title = 'read-only';

    $t->conf($conf =~ s/SPOOL/$spool/r);

    my $o = Test::Load->new();
    my $app = $o->app($t->port(2), 'jitter:20');

    $t->run();

    my $load = $o->load(port => $t->port(0), senders => 4, conns => 8);

    ok($o->wait_acked(1000), "$title: a backlog");

    # a sidecar is not synced, and an error loses what is not: so that the
    # bound is known, nothing ends between the sync and the error

    $app->mode('slow:2000');
    $o->wait_until(sub {
        my $n = $o->answered();
        select undef, undef, undef, 0.3;
        return $n == $o->answered();
    }, 20);

    my $synced = $o->answered();

    system 'sync', '-f', $fs->dir();

    if ($fs->remount('ro') ne '') {
        my ($dev) = $fs->device() =~ m{([^/]+)$};

        open my $fh, '>', "/sys/fs/ext4/$dev/trigger_fs_error" or die $!;
        print $fh "test\n";
        close $fh;

        $fs->remount('ro,abort');
    }

    my $unsynced = $o->answered() - $synced;

    ok($t->wait_for(sub { $o->refused() > 20 }, 20, '503'),
       "$title: nothing more is taken");
    $load->stop();
    ok($t->wait_for(sub {
        scalar $t->grep_log(qr/nothing is forwarded until reload/)
    }, 20, 'deliveries to stop'), "$title: the log says that it stops");

    # as many as were in flight may still end, then it is quiet

    my ($n, $since) = (-1, 0);

    $t->wait_for(sub {
        ($n, $since) = ($o->answered(), time()) if $o->answered() != $n;
        return time() - $since > 3;
    }, 20, 'no more deliveries');

    my $waiting = grep { !/\.done$/ } list("$spool/new");

    cmp_ok($waiting, '>', 0, "$title: a backlog stays");
    is($o->answered(), $n, "$title: deliveries have stopped");

    # mounted anew, as an operator would

    $t->stop();
    $fs->umount()->mount();
    $app->mode('ok');
    $t->run();

    drained($o, $t, $title, $spool);
    ok($t->quit(), "$title: stopped");
    check($o, $t, $title, 1, spool => $spool, again => 1);
    cmp_ok(scalar(my @again = $o->again()), '<=', $concurrency + $unsynced,
           "$title: at most what was in flight is sent again");

    $t->no_alerts();
    $fs->umount();
}


# the sidecar ------------------------------------------------------------------


# A power failure or a full disk cuts a number in two: "1" is left of "12". What
# is written next must not make another number of it.

if (part('sidecar')) {
    my $t = Test::Edge->new(workers => 1);
    my $o = Test::Load->new();
    my $app = $o->app($t->port(2));
    my $spool = $t->spool();
    my $trials = 0;

    $t->conf($conf =~ s/SPOOL/$spool/r
                   =~ s/initial=100ms max=1s/initial=1h max=1h/r);
    $t->run();
    $t->quit();

    for my $torn ('', '1', "4\n1", "4\n5\n1", '9' x 30, '-1', "0\n", "21\n1") {
        my %done = map { $_ => 1 } grep { $_ } $torn =~ /^(\d+)\n/mg;
        my @ids = map { "torn-$trials-$_" } 1 .. 20;
        my $name = Test::Load::make_file($spool, \@ids);

        open my $fh, '>', "$spool/new/$name.done" or die "open() failed: $!";
        print $fh $torn;
        chown((stat "$spool/new")[4, 5], $fh);
        close $fh;

        $o->note_sent($_) for @ids;
        $o->note_acked($_) for grep { !/-(\d+)$/ || !$done{$1} } @ids;

        # one line is done, it is noted, and all ends

        $app->mode('only:3');
        $t->run();
        $t->wait_for(sub {
            (stat "$spool/new/$name.done")[7] > length $torn
        }, 10, 'the line to be noted');
        Test::Fault->kill_all($t);

        $app->mode('ok');
        $t->run();
        drained($o, $t, 'torn sidecar');
        ok($t->quit(), 'torn sidecar: stopped');
        $trials++;
    }

    check($o, $t, 'torn sidecar', $trials, again => 1);
    cmp_ok($o->duplicated(), '<=', $trials,
           'torn sidecar: at most what was written after it is sent again');
    $t->no_alerts();
}


done_testing();
