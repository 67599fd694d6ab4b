#!/usr/bin/perl

# The clock is set, by a year, forward and backward, while nginx runs and while
# it does not. Events are taken and delivered as before; none is lost, and none
# is given up because it seems old.
#
# The clock of the machine is left alone, see Test::Fault.

use warnings;
use strict;

use Fcntl qw(:flock);
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Sink;
use Test::Spool qw(list read_spool check_file parse_name);


Test::Fault->need('gcc');

use constant YEAR => 366 * 86400;

my $t = Test::Edge->new(workers => 2);
my $app = Test::Sink->new(port => $t->port(2));
my $p = $t->prefix();
my $spool = $t->spool();
my @starts;


# the clock --------------------------------------------------------------------


my $clock = Test::Fault->clock($p);

set_clock(0);


# from now on it is so much more than it should be

sub set_clock { $clock->set(@_) }

# a sanitizer would rather be the first library

sub start {
    my $asan = "detect_leaks=0:halt_on_error=1:verify_asan_link_order=0:"
               . "log_path=$p/sanitizer/report";

    $t->run(env => { $clock->env(), ASAN_OPTIONS => $asan });
}


my $conf = <<'EOC';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_retry initial=200ms max=400ms max_age=3d;

    keepalive_requests 100000;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /app;
        }

        location /kept {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/kept;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
EOC

$t->conf($conf);
start();

sub n { return event(data => { n => $_[0], mode => $_[1] // '200' }) }

sub taken {
    my ($uri, $body) = @_;

    is($t->post($uri, $body)->{status}, 200, "taken: $_[2]");
}

sub empty {
    my ($what) = @_;

    return $t->wait_for(sub { !list("$spool/new") }, 10, "new/: $what");
}

sub requests_of {
    my ($n) = @_;

    return $app->requests(sub { $_->{body} =~ /"n":\s*"\Q$n\E"/ });
}

# how the clock of nginx differs from ours, seen in the name of a file

sub offset_seen {
    unlink map { "$p/kept/new/$_" } list("$p/kept/new");
    $t->post('/kept', event());

    my ($file) = read_spool("$p/kept") or return 'no file';
    my ($name) = $file->{time};

    return substr($name, 0, 4) - (gmtime)[5] - 1900;
}

is(offset_seen(), 0, 'the clock is right');


# while it runs ----------------------------------------------------------------


for my $jump ([YEAR, 'a year ahead'], [0, 'right again'],
              [-YEAR(), 'a year behind'], [0, 'and right again'],
              [YEAR, 'ahead, the second time'],
              [-YEAR(), 'from ahead to behind'])
{
    my ($offset, $name) = @$jump;
    my $years = (gmtime time() + $offset)[5] - (gmtime)[5];

    # what waits: one in its backoff, one that is held by the application, and
    # a timeout of each kind of request

    $app->forget();
    taken('/hook', n("late $name", '404,404,404,200'), "$name, in backoff");
    taken('/hook', n("held $name", 'hold,200'), "$name, in flight");

    $app->wait_for(sub { $app->held() == 1 }, 10, 'the one in flight');
    $t->wait_for(sub { requests_of("late $name") }, 10, 'an attempt');

    set_clock($offset);

    $t->wait_for(sub { offset_seen() == $years }, 10, 'the clock of nginx');
    is(offset_seen(), $years, "$name: nginx believes it");

    my $began = time();

    taken('/hook', n("new $name"), $name);
    ok($app->wait_for(sub { scalar requests_of("new $name") }, 5),
       "$name: a new event is delivered");

    $app->release('200');
    ok(empty($name), "$name: and so is what was waiting");
    cmp_ok(time() - $began, '<', 5 * $Test::Edge::PATIENCE,
           "$name: within seconds");

    is(join(' ', map { $_->{attempt} } requests_of("late $name")), '1 2 3 4',
       "$name: the backoff goes on");
    is(scalar(my @held = requests_of("held $name")), 1, "$name: no timeout");
    is(scalar(list("$spool/dead")), 0, "$name: none is given up");
}

is_deeply([grep { defined } map { (check_file($_))[0] }
                glob "$p/kept/new/*"], [], 'names and files are right');


# Older than max_age by the clock when nginx starts: what has not been tried by
# this process is not given up.

set_clock(0);
$t->stop();
$app->forget();
$app->stop();
start();

taken('/hook', n("waits $_"), "event $_") for 1 .. 20;
ok($t->wait_log(qr/is down/), 'the application is away');
$t->stop();

set_clock(YEAR);
$app->start();
start();

ok(empty('what seems old'), 'all that seems a year old');
is(scalar(grep { $_->{status} == 200 } $app->requests()), 20,
   'is delivered all the same');
is(scalar(list("$spool/dead")), 0, 'none is given up unattempted');

# one that fails then is; sent again, when the clock is right, it was given up
# in a year from now

$app->stop();
$t->stop();
set_clock(0);
start();
taken('/hook', n('fails', '404,200'), 'one that fails');
$t->stop();
set_clock(YEAR);
$app->start();
start();

ok(empty('the one that fails'), 'one that seems a year old and fails');
is(scalar(list("$spool/dead")), 1, 'is given up');
is(scalar(my @failed = requests_of('fails')), 1, 'after an attempt');

set_clock(0);
$t->wait_for(sub { offset_seen() == 0 }, 10, 'the clock');

my ($dead) = list("$spool/dead");

rename "$spool/dead/$dead", "$spool/new/$dead" or die "rename(): $!";
ok(empty('a dead letter of the future'), 'a dead letter of the future');
is(join(' ', map { $_->{status} } requests_of('fails')), '404 200', 'is sent');


# An error that stays is logged once a minute, and a minute is not a matter of
# the clock.

SKIP: {
    skip 'needs root', 2 if !defined $t->worker_user();

    chmod 0500, "$spool/dead";
    $t->mark_log();
    taken('/hook', n('nowhere', '422'), 'one that dead/ does not take');
    $app->wait_for(sub { requests_of('nowhere') >= 2 }, 10, 'two attempts');
    set_clock(YEAR);
    $t->wait_for(sub { offset_seen() == 1 }, 10, 'the clock');
    my $tried = requests_of('nowhere');
    $app->wait_for(sub { requests_of('nowhere') >= $tried + 3 }, 10, 'more');
    is(scalar($t->grep_log(qr/\[crit\].*dead.*failed/)), 1, 'logged once');
    chmod 0700, "$spool/dead";
    ok(empty('dead/ is back'), 'and given up when dead/ is back');
    set_clock(0);
    unlink map { "$spool/dead/$_" } list("$spool/dead");
}


# between two starts -----------------------------------------------------------


# Leftovers go when their start is dead, and stay when it lives, whatever the
# clock says; names do not clash, and files of the future are sent.

$t->stop();

for my $jump ([YEAR, 'a year ahead'], [-YEAR(), 'a year behind']) {
    my ($offset, $name) = @$jump;

    $app->forget();
    $app->stop();
    set_clock(0);
    start();
    taken('/hook', n("old $_ $name"), "$name, event $_") for 1 .. 5;
    $t->kill_all('KILL');

    # one unfinished of the dead, and one of a start that lives

    my ($lock) = grep { /^[0-9a-f]{16}\.lock$/ } list("$spool/tmp");
    my $living = '00112233445566aa';
    my @left = map { '20260101T000000.000Z-' . $_
                     . '-0000000001-1-0123abcd.ndjson' }
                   substr($lock, 0, 16), $living;

    for my $file (@left, "$living.lock") {
        open my $fh, '>', "$spool/tmp/$file" or die "open(): $!";
        chown((stat "$spool/tmp")[4, 5], $fh);
    }

    open my $held, '+<', "$spool/tmp/$living.lock" or die "open(): $!";
    flock $held, LOCK_EX or die "flock(): $!";

    set_clock($offset);
    $app->start();
    start();

    ok(empty($name), "$name: what was there is delivered");
    is(scalar(grep { $_->{status} == 200 } $app->requests()), 5,
       "$name: all of it");
    is(scalar(list("$spool/dead")), 0, "$name: none is given up");

    ok(!-e "$spool/tmp/$left[0]", "$name: a leftover of the dead goes");
    ok(-e "$spool/tmp/$left[1]", "$name: one of the living stays");

    taken('/hook', n("new $name"), "$name, a new one");
    ok(empty($name), "$name: and delivered");

    close $held;
    unlink "$spool/tmp/$left[1]", "$spool/tmp/$living.lock";

    # nor does it mind a reload

    ok($t->reload(old_gone => 1), "$name: reload");
    set_clock(0);
    taken('/hook', n("back $name"), "$name, after a reload");
    ok(empty($name), "$name: and delivered");
    ok($t->quit(), "$name: nginx ends");
}

# a killed one's threads may keep the port for a moment
$t->expect_emerg(qr/bind\(\).*Address already in use/);
$t->no_alerts();

done_testing();
