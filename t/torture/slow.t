#!/usr/bin/perl

# The disk is slow for the half that forwards: it reads directories and files
# and removes them in a thread, and the server goes on meanwhile. Of a directory
# of any size no more names are read than there is room for.

use warnings;
use strict;

use Fcntl qw(:flock);
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Load;
use Test::Sink;
use Test::Spool qw(list);


Test::Fault->need('root', 'strace');

my $t = Test::Edge->new();
my $spool = $t->spool();
my $app = Test::Sink->new(port => $t->port(2));

plan(skip_all => 'no threads: a slow disk holds the whole worker')
    unless $t->has('--with-threads');

$t->conf(<<'EOC');
%%GLOBALS%%

thread_pool some threads=2;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%% threads=some;
            taptalent_webhook_forward /app concurrency=1;
        }

        location /app {
            internal;
            proxy_read_timeout 300s;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /ping {
            return 200 pong;
        }
    }
}
EOC

sub body { return event(data => { n => $_[0], mode => $_[1] // '200' }) }

sub file { Test::Load::make_file($spool, [{ body => body(@_) }]) }


# Starts nginx, the call of all its threads being slow, and the lock of the one
# who forwards held, so that it does nothing before.

my $held;

sub start_slow {
    my (@inject) = @_;

    open $held, '+<', "$spool/tmp/forward.lock" or die "open(): $!";
    flock $held, LOCK_EX or die "flock(): $!";

    $t->run();

    my ($pid) = $t->workers();
    my @tids = ($pid, grep { $_ != $pid } Test::Fault->committers($pid));
    my $strace = Test::Fault->strace(\@tids, @inject);

    close $held;

    return $strace;
}

# which thread began this call, and has not returned

sub hangs {
    my ($strace, $re) = @_;

    return $t->wait_for(sub {
        my ($tid) = grep { defined } map { /^(\d+) +$re.*unfinished/ ? $1 : () }
                    split /\n/, $strace->text();
        return $tid;
    }, 10, "a thread to hang in $re");
}

sub goes_on {
    my ($name, $take) = @_;

    is($t->get('/ping', timeout => 20)->{body}, 'pong',
       "$name: others are served");

    return if !$take;

    my $answer = $t->post('/hook', body("meanwhile, $name"), timeout => 20);

    is($answer->{status}, 200, "$name: and events are taken");
}

sub empty {
    return $t->wait_for(sub { !list("$spool/new") }, 70, 'new/ to be empty');
}

# the lock's file, and the directories

$t->run();
$t->wait_log(qr/this worker forwards/);
$t->quit();


# each of the calls ------------------------------------------------------------


for my $case (['getdents64', 'a slow directory', qr/getdents64\(.*/],
              ['read', 'a slow file', qr/read\(.*ndjson/],
              ['unlinkat', 'slow to remove', qr/unlinkat\(.*/])
{
    my ($call, $name, $re) = @$case;

    file("waits, $name");

    my $strace = start_slow("$call:delay_enter=300s"
                            . ($call eq 'read' ? ':when=1' : ''));
    my ($pid) = $t->workers();
    my $tid = hangs($strace, $re);

    ok($tid && $tid != $pid, "$name: it is not the event loop that waits");

    # the loop reads that a commit has ended, so that this one call waits too

    goes_on($name, $call ne 'read');
    $strace->detach();

    ok(empty(), "$name: all is delivered in the end");
    is(scalar($app->requests(sub { $_->{status} == 200 })),
       $call eq 'read' ? 1 : 2, "$name: once");
    $app->forget();
    ok($t->quit(), "$name: nginx ends");
}


# a large directory ------------------------------------------------------------


# While the one event that is in flight is held, the scan stops when there are
# names enough; the rest of the directory is read later.

{
    my $files = 9000;

    file($_) for 1 .. $files;

    # whichever of them comes first

    $app->mode('all:hold');

    my $strace = start_slow('getppid:error=EPERM');

    $app->wait_for(sub { $app->held() == 1 }, 10, 'the first event');
    goes_on('a large directory', 1);

    # at rest when nothing more is read for two rounds of the worker

    my ($size, $since) = (0, time());

    $t->wait_for(sub {
        my $now = () = $strace->text() =~ /getdents64\(/g;
        ($size, $since) = ($now, time()) if $now != $size;
        return time() - $since > 1.2;
    }, 20, 'the scan to rest');

    my $text = $strace->detach()->text();
    my $read = 0;

    $read += $_ for $text =~ /getdents64(?:\(.*| resumed>.*)\/\* (\d+) entries/g;

    diag("a directory of $files files: $read entries were read");
    cmp_ok($read, '>', 100, 'names are read');
    cmp_ok($read, '<', 6000, 'but no more than there is room for');

    $app->mode('');
    $app->release('200');

    ok($app->wait_for($files + 1, 120), 'the rest follows');
    ok(empty(), 'and nothing is left');

    my %times;
    $times{$_->{id}}++ for $app->requests(sub { $_->{status} == 200 });

    is(scalar(keys %times), $files + 1, 'every event is delivered')
        or diag(join ' ', 'dead:', list("$spool/dead"), 'corrupt:',
                          list("$spool/corrupt"));
    is(scalar(grep { $_ != 1 } values %times), 0, 'once');
}

$t->no_alerts();

done_testing();
