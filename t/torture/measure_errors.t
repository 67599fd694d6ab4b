#!/usr/bin/perl

# Each call by which the status measures a spool fails: what is not known is
# shown as unknown, a line says why, once, and never is it less than what waits.
# And who measures leaves or dies meanwhile.

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge qw(event);
use Test::Fault;


Test::Fault->need('root', 'strace');

my $t = Test::Edge->new();
my $spool = $t->spool();

$t->conf(<<'EOC');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%% min_free=0;
        }

        location /status {
            taptalent_webhook_status;
        }
    }
}
EOC

$t->run();


# three files, two of which have names that say nothing

my $files = sub {
    my $time = time();

    for my $name (qw(one two)) {
        $t->write_file("$spool/new/$name.ndjson", "{}\n" x 3);

        # another time: it is counted again

        utime $time, $time -= 10, "$spool/new/$name.ndjson";
    }
};

is($t->post('/hook', event())->{status}, 200, 'an event');
$files->();
measured(sub { $_[0]{events} == 7 && $_[0]{files} == 3 }, 'all is known');


# a call that fails ------------------------------------------------------------


for my $case (
    ['a file is damaged', 'one.ndjson', 'newfstatat:error=EIO',
     { events => 1 + 1 + 3, files => 3 }],
    ['a file is gone', 'one.ndjson', 'newfstatat:error=ENOENT',
     { events => 1 + 3, files => 2 }],
    ['who may not see a file', 'one.ndjson', 'newfstatat:error=EACCES',
     undef, 'fstatat', 'new'],
    ['new/ is damaged', "$spool/new", 'getdents64:error=EIO',
     undef, 'readdir', 'new'],
    ['no more descriptors', "$spool/new", 'openat:error=EMFILE',
     undef, 'openat', 'new'],
    ['new/ is no directory', "$spool/new", 'fcntl:error=EBADF',
     undef, 'fdopendir', 'new'],
    ['dead/ is damaged', "$spool/dead", 'getdents64:error=EIO',
     { events => 7, dead => undef }, 'readdir', 'dead'],
    ['corrupt/ is damaged', "$spool/corrupt", 'getdents64:error=EIO',
     { events => 7, corrupt_files => undef }, 'readdir', 'corrupt'],
    ['nobody knows how much is free', undef, 'fstatfs:error=EIO',
     { events => 7, free => undef }, 'fstatvfs', 'new'],
    ['a file cannot be opened', 'two.ndjson', 'openat:error=EACCES',
     { events => 1 + 3 + 1 }],
    ['a file cannot be opened now', 'two.ndjson', 'openat:error=EMFILE',
     { events => 1 + 3 + 1 }],
    ['a file cannot be read', undef, 'pread64:error=EIO',
     { events => 1 + 1 + 1 }],
) {
    my ($name, $path, $inject, $backlog, $call, $dir) = @$case;

    my $strace = Test::Fault->strace([threads()],
                                     defined $path ? ({ path => $path }) : (),
                                     $inject);
    $t->mark_log();
    $files->();

    measured(sub {
        my ($got) = @_;

        return !$got if !$backlog;
        return $got && !grep { ($got->{$_} // '') ne ($backlog->{$_} // '') }
                             keys %$backlog;
    }, $name);

    # it is measured once more, and nothing is said of it again

    my $before = $strace->injected();

    ok($t->wait_for(sub { $strace->injected() > $before }, 10),
       "$name: once more") if defined $call;

    $strace->detach();

    my @lines = $t->grep_log(qr/what waits there is not known/);

    is(scalar @lines, defined $call ? 1 : 0, "$name: lines");
    like("@lines", qr{\[error\].* $call\(\) "\Q$spool\E/$dir" failed},
         "$name: it says why") if defined $call;

    # what could not be read is tried again when it has changed

    $files->();
    measured(sub {
        my ($got) = @_;

        return $got && $got->{events} == 7 && $got->{files} == 3
               && 3 == grep { defined } @{$got}{qw(dead corrupt_files free)};
    }, "$name: known again");
}


# who measures leaves, or dies -------------------------------------------------


# Many entries, since one looks now and then only whether to leave; the worker
# still has a request of which a half has come.

SKIP: {
    skip 'without threads who measures hears of nothing meanwhile', 6
        if !$t->has('--with-threads');

    $t->write_file("$spool/new/entry-$_.ndjson", "{}\n") for 1 .. 2500;
    measured(sub { $_[0]{files} == 2503 }, 'many files');

    my ($old) = $t->workers();
    my $strace = Test::Fault->strace([threads()], { path => "$spool/new" },
                                     'getdents64:delay_exit=1s');
    my $held = $t->connect();

    $held->send(substr $t->message('/hook', event()), 0, -10);
    ok($t->wait_for(sub { $strace->injected() }, 10), 'it measures');
    ok($t->reload(), 'a reload');
    $strace->detach();
    unlink "$spool/new/entry-1.ndjson";
    measured(sub { $_[0]{files} == 2502 }, 'the next one measures', 5);
    ok($t->alive($old), 'while the old one waits for a client');
    $held->close();
    ok($t->wait_for(sub { !$t->alive($old) }, 10), 'the old one has left');
}

$t->expect_alert(qr/exited on signal 9/);

SKIP: {
    skip 'without threads the worker stands still', 3
        if !$t->has('--with-threads');

    my ($old) = $t->workers();
    my $strace = Test::Fault->strace([threads()], { path => "$spool/new" },
                                     'getdents64:delay_enter=300s');

    # its first call of these is in the strace's log when it begins

    ok($t->wait_for(sub { $strace->text() =~ /getdents64/ }, 10), 'it measures');
    kill 'KILL', $old;
    $strace->detach();
    unlink glob "$spool/new/entry-*";
    ok($t->wait_for(sub { $t->workers() && ($t->workers())[0] != $old }, 10),
       'it was killed, another one is there');
    measured(sub { $_[0]{files} == 3 }, 'which measures', 5);
}

ok($t->quit(), 'stopped');
$t->no_alerts();

done_testing();


sub threads {
    my ($pid) = $t->workers();

    return Test::Fault->committers($pid);
}

# until the figures of the spool are so

sub measured {
    my ($are, $name, $seconds) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $backlog;

    ok($t->wait_for(sub {
        $backlog = $t->status_of('/status')->{spools}[0]{backlog};
        return $are->($backlog);
    }, $seconds // 10), $name) or diag(explain($backlog));
}
