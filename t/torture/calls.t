#!/usr/bin/perl

# What strace sees: which calls make an event durable, a dead letter, a start
# of nginx, in which order and with which flags. A call that only matters when
# the power goes, or when somebody has put a link there, is missed by no other
# test.

use warnings;
use strict;

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
my $threads = $t->has('--with-threads');
my $p = $t->prefix();
my $spool = $t->spool();
my $app = Test::Sink->new(port => $t->port(2));

my $pool = $threads ? 'thread_pool one threads=1;' : '';
my $on = $threads ? 'threads=one' : '';

# nothing is logged for what goes well

my $globals = $t->globals() =~ s/^(error_log .*) info;/$1 notice;/mr;

$t->conf(<<"EOC");
$globals

$pool

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    access_log off;
    keepalive_timeout 300s;
    keepalive_requests 1000000;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool $p/kept $on min_free=0;
        }

        location /forwarded {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%% $on min_free=0;
            taptalent_webhook_forward /app;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}

EOC


# The calls of a trace in the order in which they returned: { tid, name, args,
# result }. One that was interrupted by another is put together.

sub calls {
    my ($text) = @_;
    my (@calls, %begun);

    for my $line (split /\n/, $text) {
        my ($tid, $rest) = $line =~ /^(\d+) +(.*)/ or next;

        if ($rest =~ /^(.*) <unfinished \.\.\.>$/) {
            $begun{$tid} = $1;
            next;
        }

        $rest = delete($begun{$tid}) . $1
            if $rest =~ /^<\.\.\. \w+ resumed>(.*)/ && defined $begun{$tid};

        my ($name, $args, $result) = $rest =~ /^(\w+)\((.*)\)\s+= (.*)$/
            or next;

        push @calls, { tid => $tid, name => $name, args => $args,
                       result => $result };
    }

    return @calls;
}

sub names { return join ' ', map { $_->{name} } @_ }


# a start ----------------------------------------------------------------------


# The directories are made by the master, by name: that is safe only where no
# worker may write, so that it touches nothing inside of them. What is made is
# there after a power failure only if the directory above it was synced.

my $trace = "$p/trace";

$t->run(wrapper => ['strace', '-f', '-y', '-s', '256', '-o', $trace, '-e',
                    'trace=openat,open,mkdir,chown,lchown,fchown,chmod,fsync,'
                    . 'fchmod,flock,unlinkat,clone,clone3,fork,vfork']);

my ($pid) = $t->workers();
my $master = $t->{master};

ok($t->wait_log(qr/this worker forwards/), 'a worker forwards');
is($t->post('/hook', event())->{status}, 200, 'an event is taken');
ok($t->stop(), 'stopped');

my @start = calls($t->read_file('trace'));

for my $dir ($spool, "$p/kept") {
    my ($name) = $dir =~ m{([^/]+)$};
    my @master = grep { $_->{tid} == $master } @start;
    my ($made) = grep { $master[$_]{name} eq 'mkdir'
                        && $master[$_]{args} =~ /^"\Q$dir\E"/ } 0 .. $#master;
    my ($synced) = grep { $master[$_]{name} eq 'fsync'
                          && $master[$_]{args} =~ /^\d+<\Q$p\E>$/
                          && $_ > ($made // @master) } 0 .. $#master;
    my ($forked) = grep { $master[$_]{name} =~ /clone|fork/ } 0 .. $#master;

    ok(defined $synced, "$name/: the master syncs the directory above");
    cmp_ok($synced // 1e9, '<', $forked // 0, 'before there is a worker');

    # the four directories were made in it

    my @worker = grep { $_->{tid} != $master } @start;
    my ($of_spool) = grep { $worker[$_]{name} eq 'fsync'
                            && $worker[$_]{args} =~ /^\d+<\Q$dir\E>$/
                            && $worker[$_]{result} eq '0' } 0 .. $#worker;
    my ($first) = grep { $worker[$_]{args} =~ m{\Q$dir\E/tmp>, "2.*ndjson} }
                       0 .. $#worker;

    ok(defined $of_spool, "$name/: a worker syncs it");
    cmp_ok($of_spool // 1e9, '<', $first, 'before an event is in it')
        if $dir =~ /kept/;

    for my $sub (qw(tmp new dead corrupt)) {
        my %who = map { $_->{tid} => 1 }
                  grep { $_->{name} =~ /^open/
                         && $_->{args} =~ m{"\Q$dir/$sub\E"} } @start;

        is(join(' ', sort keys %who), $pid,
           "$name/$sub/ is opened by the worker, and by nobody else");
    }

    # by name or by descriptor

    is_deeply([map { "$_->{name}($_->{args})" }
               grep { $_->{tid} == $master
                      && $_->{args} =~ m{\Q$dir\E/\w+(?:/|>)} } @start], [],
              "$name/: the master touches nothing inside of the four");
}

my %owner = map { $_->{tid} => 1 }
            grep { $_->{name} eq 'flock' && $_->{args} =~ /forward\.lock/ }
                 @start;

ok(%owner && !$owner{$master}, 'who forwards has opened and locked by himself');


# a commit ---------------------------------------------------------------------


unlink map { "$p/kept/new/$_" } list("$p/kept/new");
$t->run();
($pid) = $t->workers();

# What all threads of the worker did meanwhile. The client may know the answer,
# and the test see a file gone, before strace has said so: $last is a call that
# the trace must have, so many times.

sub traced {
    my ($inject, $last, $times, $sub) = @_;

    my @tids = ($pid, grep { $_ != $pid } Test::Fault->committers($pid));

    # without threads strace says no thread

    my $strace = Test::Fault->strace(\@tids, @$inject);
    my $result = $sub->();
    my @calls;

    $t->wait_for(sub {
        my $text = $strace->text();

        $text =~ s/^/$pid /mg if @tids == 1;
        @calls = grep { $_->{args} =~ m{\Q$p\E/|"HTTP/1} } calls($text);

        return $times <= grep { "$_->{name} $_->{args}" =~ $last } @calls;
    }, 5, "$last in the trace");

    $strace->detach();

    return ($result, @calls);
}

# without those that only look, and those that log

sub changing {
    return grep { $_->{name} !~ /stat/ && $_->{args} !~ /error\.log/ } @_;
}

my $c = $t->connect();

# the first one opens and measures

$c->send($t->message('/hook', event(), keepalive => 1));
$c->answer();

my ($answer, @calls) = traced([], qr{"HTTP/1}, 1, sub {
    $c->send($t->message('/hook', event(data => { n => 1 }), keepalive => 1));
    return $c->answer();
});

@calls = changing(@calls);

is($answer->{status}, 200, 'an event is taken');
is(names(@calls), "openat write fdatasync close renameat2 fsync "
                  . $calls[-1]{name},
   'the calls of a commit, in this order');

my ($open, $write, $sync, $close, $rename, $dir) = @calls;
my ($file) = $open->{args} =~ /"([^"]+)"/;

like($open->{args}, qr{^\d+<\Q$p\E/kept/tmp>,\ "[^"/]+",\ O_WRONLY\|O_CREAT\|
                       O_EXCL\|(?:O_\w+\|)*O_NOFOLLOW\|(?:O_\w+\|)*O_CLOEXEC,
                       \ 0600$}x, 'a new file of ours, and no link');
like($write->{args}, qr{^\d+<\Q$p/kept/tmp/$file\E>}, 'it is written');
is((split /, /, $write->{args})[-1], -s "$p/kept/new/$file", 'all of it');
like($sync->{args}, qr{^\d+<\Q$p/kept/tmp/$file\E>$}, 'it is synced');
like($rename->{args}, qr{/kept/tmp>,\ "\Q$file\E",\ \d+<\Q$p\E/kept/new>,
                         \ "\Q$file\E",\ RENAME_NOREPLACE$}x,
     'it replaces no other file');
like($dir->{args}, qr{^\d+<\Q$p\E/kept/new>$}, 'the directory is synced');
like($calls[-1]{args}, qr{"HTTP/1\.1 200}, 'then comes the answer');
is($calls[-1]{tid}, $pid, 'of the worker');

SKIP: {
    skip 'no threads', 1 unless $threads;

    is_deeply([grep { $_->{tid} == $pid } @calls[0 .. 5]], [],
              'none of these calls is the event loop\'s');
}

# after an error the descriptor is only closed: a second fdatasync() would
# succeed without the data

($answer, @calls) = traced(['fdatasync:error=ENOSPC:when=1'], qr{"HTTP/1}, 1,
                           sub {
    $c->send($t->message('/hook', event(data => { n => 2 }), keepalive => 1));
    return $c->answer();
});

is($answer->{status}, 503, 'fdatasync() fails');
is(names(changing(@calls)),
   'openat write fdatasync close unlinkat ' . $calls[-1]{name},
   'it is not called again, and nothing is left');
like($calls[-1]{args}, qr{"HTTP/1\.1 503}, 'the answer is the last');

ok($t->wait_for(sub {
    $t->post('/hook', event())->{status} == 200
}, 5, 'recovery'), 'taken again');


# a dead letter ----------------------------------------------------------------


# until the file is gone

(undef, @calls) = traced([], qr{unlinkat.*/new>}, 2, sub {
    $t->post('/forwarded', event(data => { mode => '422' }));
    $t->wait_for(sub { list("$spool/dead") && !list("$spool/new") }, 10,
                 'a dead letter');
});

@calls = changing(@calls);

# those of the commit, and of what reads the file, come before

my ($at) = grep { $calls[$_]{name} eq 'renameat2'
                  && $calls[$_]{args} =~ m{/spool/dead>} } 0 .. $#calls;

ok(defined $at, 'a file is moved to dead/') or $at = 4;

like(names(@calls[$at - 4 .. $#calls]),
     qr/^openat\ write\ fdatasync\ close\ renameat2\ fsync\ unlinkat\ unlinkat/,
     'a dead letter is made durable like an event, then the event goes')
    or diag(join "\n", map { "$_->{name}($_->{args})" } @calls);
like($calls[$at]{args}, qr{<\Q$spool\E/tmp>.*RENAME_NOREPLACE$},
     'from tmp/, over no other file');
like($calls[$at + 1]{args}, qr{^\d+<\Q$spool\E/dead>$}, 'dead/ is synced');
like($calls[$at + 2]{args}, qr{<\Q$spool\E/new>, "[^"]+\.ndjson"},
     'first the file goes');
like($calls[$at + 3]{args}, qr{<\Q$spool\E/new>, "[^"]+\.ndjson\.done"},
     'then what is beside it');

# two lines that are equal are two events, and two dead letters

unlink map { "$spool/dead/$_" } list("$spool/dead");
$app->forget();

my $twice = { body => event(data => { n => 'twice', mode => '422' }) };

Test::Load::make_file($spool, [$twice, $twice]);

ok($t->wait_for(sub { !list("$spool/new") }, 70, 'both'), 'both are given up');
is(scalar(list("$spool/dead")), 2, 'two equal lines are two dead letters');
is(scalar($app->requests()), 2, 'and both were tried');


# a disk that fails ------------------------------------------------------------


# What is delivered cannot be noted any more, and would be sent again after a
# restart: nothing more is sent.

for my $error (qw(EIO EROFS EUCLEAN)) {
    my @tids = ($pid, grep { $_ != $pid } Test::Fault->committers($pid));
    my $strace = Test::Fault->strace(\@tids, "unlinkat:error=$error");

    $app->forget();
    $t->mark_log();

    $t->post('/forwarded', event(data => { n => "fails, $error" }));
    ok($t->wait_log(qr/\[crit\].*unlinkat\(\).*nothing\ is\ forwarded\ until
                       \ reload/x), "$error: forwarding stops");

    $strace->detach();
    $t->post('/forwarded', event(data => { n => "waits, $error" }));

    # longer than the worker needs to look

    ok(!$t->wait_for(sub { $app->requests() > 1 }, 0.3),
       "$error: nothing more is sent");

    ok($t->reload(old_gone => 1), "$error: reload");
    ($pid) = $t->workers();
    ok($t->wait_for(sub { !list("$spool/new") }, 10, 'an empty spool'),
       "$error: and all is sent");
}

$c = $t->connect();


# the figures of the disk ------------------------------------------------------


# asked for once a second, not for each event and not once for all

{
    my @at;
    my $refused = 0;

    (undef, @calls) = traced([], qr{"HTTP/1}, 1, sub {
        my $began = time();

        while (time() - $began < 4) {
            $c->send($t->message('/hook', event(), keepalive => 1));
            $refused++ if $c->answer()->{status} != 200;
            push @at, time();
        }
    });

    my $asked = grep { $_->{name} eq 'fstatfs' } @calls;
    my ($least, $last) = (0, 0);

    for my $at (@at) {
        next if $at - $last < 1.3;
        $least++;
        $last = $at;
    }

    is($refused, 0, 'all of these events are taken');
    diag(scalar(@at) . " events in 4 s, the disk was asked $asked times");

    # the first may have had the figures of an event before

    cmp_ok($asked, '>=', $least - 1, 'the figures are about a second old');
    cmp_ok($asked, '<=', $at[-1] - $at[0] + 2, 'and not newer than needed');
    cmp_ok(scalar(@at), '>', 2 * $asked, 'there were more events than that');
}

$t->no_alerts();

done_testing();
