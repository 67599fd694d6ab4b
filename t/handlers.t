#!/usr/bin/perl

# The handlers of docs/handlers.md as they stand there, behind a real edge: the
# work is done once for each event, although answers get lost, the database is
# locked, and the handler is killed.

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA qw(sha256_hex);
use File::Path qw(make_path);
use IO::Socket::INET;
use POSIX ();
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command configuration);
use Test::Edge;

plan(skip_all => 'once is enough') if $ENV{TEST_NGINX_BINARY};

my @children;

END {
    my $status = $?;

    kill 'KILL', $_ for @children;
    waitpid $_, 0 for @children;
    $? = $status;
}

my $t;

run('Python', 'handler.py', block('docs/handlers.md', 'python'), 'python3');
run('PHP', 'handler.php', block('docs/handlers.md', 'php'), 'php', '-S',
    'ADDRESS');
run('Express', 'handler.js', block('docs/handlers.md', 'express'), node());

done_testing();


sub run {
    my ($name, $file, $text, @command) = @_;

    $t = Test::Edge->new();

    # the configuration of the document, but that we do not wait as long, and
    # that an answer may get lost on its way

    my $conf = block('docs/handlers.md', 'configuration');
    my $retry = 'taptalent_webhook_retry initial=50ms max=200ms;';

    $conf =~ s/^( +)(taptalent_webhook_forward .*)$/$1$2\n$1$retry/m or die;
    $conf =~ s/^/taptalent_webhook_https off;\n/;

    $t->conf(configuration($t, "server {\nlisten 8080;\n$conf}\n"));
    $t->run();

    my $port = $t->port(3);
    my $dir = $name eq 'Express' ? modules() : $t->prefix();
    my $db = $t->prefix() . '/webhooks.db';

    unlink "$dir/$file";
    open my $out, '>', "$dir/$file" or die "$dir/$file: $!";
    print $out $text;
    close $out or die "$dir/$file: $!";

    local $ENV{PORT} = $port;
    local $ENV{DATABASE} = $db;

    s/ADDRESS/127.0.0.1:$port/ for @command;

    my $start = sub {
        my $pid = child(sub {
            chdir $dir or die "$dir: $!";
            open STDIN, '<', '/dev/null';
            open STDOUT, '>>', $t->prefix() . '/handler.log';
            open STDERR, '>&', \*STDOUT;
            exec @command, $file or POSIX::_exit(127);
        });

        ok($t->wait_for(sub { IO::Socket::INET->new("127.0.0.1:$port") }, 20,
                        'the handler'), "$name: it listens")
            or BAIL_OUT($t->read_file('handler.log'));

        return $pid;
    };

    my $handler = $start->();
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                       LocalPort => $t->port(2),
                                       Listen => 64, ReuseAddr => 1)
                 or die "listen: $!";
    my $way = child(sub { way($listen, $port) });

    close $listen;

    # an event; one whose answer gets lost comes again, and is done once

    my %sent;

    send_events(\%sent, 1 .. 12);
    ok(all_done(), "$name: all have been taken");
    is(seen($db), expected(\%sent), "$name: once each");

    my @again = grep { /attempt [2-9]/ } lines('way.log');

    cmp_ok(scalar @again, '>=', 3, "$name: some came again");

    # while somebody else holds the database nothing is taken, and nothing lost

    open my $lock, '|-', 'sqlite3', $db or die "sqlite3: $!";
    $lock->autoflush(1);
    print $lock "BEGIN EXCLUSIVE;\n.shell touch $db.locked\n";
    ok($t->wait_for(sub { -e "$db.locked" }, 10, 'the lock'),
       "$name: the database is locked");

    send_events(\%sent, 13);
    ok($t->wait_for(sub { grep { /status 500/ } lines('way.log') }, 20,
                    'a 500'), "$name: it says 500");
    ok(scalar $t->spool_files(), "$name: the event stays in the spool");

    print $lock "ROLLBACK;\n";
    close $lock;

    ok(all_done(), "$name: then it is taken");
    is(seen($db), expected(\%sent), "$name: once");

    # kill -9, wherever it is

    for my $n (1 .. 3) {
        send_events(\%sent, 100 * $n .. 100 * $n + 20);
        $t->wait_for(sub { scalar(lines('way.log')) % 5 == $n }, 0.2);
        kill 'KILL', $handler;
        waitpid $handler, 0;
        @children = grep { $_ != $handler } @children;
        $handler = $start->();
    }

    ok(all_done(), "$name: killed, all have been taken");
    is(seen($db), expected(\%sent), "$name: killed, once each");
    is(scalar($t->spool_files('dead')), 0, "$name: no dead letters");

    kill 'KILL', $_ for @children;
    waitpid $_, 0 for @children;
    @children = ();

    $t->stop();
    $t->no_alerts();
}

sub send_events {
    my ($sent, @n) = @_;
    my @types = qw(resume.bulk_upload_parse.started candidate.updated);

    for my $n (@n) {
        my $event = event(event => $types[$n % 2], data => { n => $n });

        $t->post('/webhooks/taptalent', $event)->{status} == 200
            or die "event $n was refused\n";
        $sent->{substr sha256_hex($event), 0, 32} = $types[$n % 2];
    }
}

sub all_done {
    return $t->wait_for(sub { !$t->spool_files() }, 30, 'an empty spool');
}

# what the handler has in its tables, and what should be there

sub seen {
    my ($db) = @_;
    my ($status, $rows) = command('sqlite3', $db,
        'SELECT id, event FROM webhook_events ORDER BY id;'
        . ' SELECT event, n FROM totals ORDER BY event');

    return $status ? "sqlite3: $rows" : $rows;
}

sub expected {
    my ($sent) = @_;
    my %total;

    $total{$_}++ for values %$sent;

    return join '', map { "$_\n" }
           (map { "$_|$sent->{$_}" } sort keys %$sent),
           (map { "$_|$total{$_}" } sort keys %total);
}


# The way to the handler, on which the answer to each third event gets lost the
# first time. It notes the attempts, and what was answered.

sub way {
    my ($listen, $port) = @_;
    my $n = 0;

    $SIG{CHLD} = 'IGNORE';

    while (1) {
        my $s = $listen->accept() or next;

        $n++;
        next if fork();

        close $listen;
        my $request = message($s);
        my ($attempt) = $request =~ /^X-Webhook-Attempt: (\d+)\r$/mi;
        my $c = IO::Socket::INET->new("127.0.0.1:$port");
        my $answer = '';

        if ($c) {
            $request =~ s/^Connection: .*\r\n//mi;
            $request =~ s/\r\n/\r\nConnection: close\r\n/;
            syswrite $c, $request;
            while (sysread $c, $answer, 65536, length $answer) { }
        }

        my ($status) = $answer =~ m{^HTTP/1\.[01] (\d+)};
        my $lost = $attempt == 1 && $n % 3 == 0;

        open my $log, '>>', $t->prefix() . '/way.log' or POSIX::_exit(1);
        syswrite $log, "attempt $attempt, status " . ($status // '-')
                       . ($lost ? ', lost' : '') . "\n";

        syswrite $s, $answer if !$lost;
        POSIX::_exit(0);
    }
}

sub message {
    my ($s) = @_;
    my $text = '';

    while (sysread $s, $text, 65536, length $text) {
        my ($head) = $text =~ /^(.*?\r\n\r\n)/s or next;
        my ($length) = $head =~ /^Content-Length: (\d+)\r$/mi;

        last if length $text >= length($head) + ($length // 0);
    }

    return $text;
}

sub lines {
    my ($name) = @_;
    my $path = $t->prefix() . "/$name";

    return -e $path ? split(/\n/, $t->read_file($name)) : ();
}

sub child {
    my ($sub) = @_;
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        @children = ();
        $sub->();
        POSIX::_exit(0);
    }

    push @children, $pid;
    return $pid;
}


# Express, where it is installed as the document says, once for all runs.

sub modules {
    my $dir = $t->top() . '/build/handlers';

    make_path($dir);

    if (!-d "$dir/node_modules/express") {
        open my $out, '>', "$dir/package.json" or die "$dir/package.json: $!";
        print $out "{}\n";
        close $out;

        my ($status, $output) =
            command('sh', '-c', "cd $dir && "
                                . block('docs/handlers.md',
                                        'express packages'));
        is($status, 0, 'npm install') or diag($output);
    }

    return $dir;
}

# One that has SQLite built in: the system's, or that of npm.

sub node {
    my ($status) = command('node', '-e', 'require("node:sqlite")');

    return 'node' if $status == 0;

    my $top = abs_path('.');
    my $dir = "$top/build/node";
    my %cpu = ('x86_64' => 'x64', 'aarch64' => 'arm64');
    my $package = 'node-linux-' . ($cpu{(POSIX::uname())[4]} // 'x64');
    my $node = "$dir/node_modules/$package/bin/node";

    if (!-x $node) {
        make_path($dir);

        my ($status, $output) =
            command('npm', 'install', '--no-save', '--no-audit', '--no-fund',
                    '--prefix', $dir, "$package\@24");
        is($status, 0, 'npm install node') or diag($output);
    }

    return $node;
}
