#!/usr/bin/perl

# The handlers of docs/handlers.md, as they stand there, behind an nginx that
# forwards: each event is in SQLite once, although a handler is killed between
# its commit and its answer.
#
# slow: the handlers are killed again and again

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use POSIX ();
use Test::More;

use lib 't/lib';
use Test::Docs qw(block blocks);
use Test::Edge;

plan skip_all => 'not about the module, but about the documents'
    if $ENV{TEST_NGINX_BINARY};

my $t = Test::Edge->new();
my $p = $t->prefix();
my @worker = defined $t->worker_user()
             ? (getpwnam $t->worker_user())[2, 3] : ();
my (%group, $lock);

# what runs beside us ends with us

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

END {
    kill 'KILL', $lock // (), map { -$_ } keys %group;
}

my $modules = $t->top() . '/build/handlers';
install();

mkdir "$p/php" or die "mkdir: $!";
chown @worker, "$p/php" if @worker;
write_php();

my ($fastcgi) = map { $_->{text} } grep { $_->{language} eq 'nginx' }
                blocks('docs/handlers.md');
$fastcgi =~ s{/run/php/php-fpm\.sock}{$p/php/fpm.sock};
$fastcgi =~ s{/srv/taptalent/}{$p/php/}g;
$fastcgi =~ s{= /application}{= /php-application};

$t->conf(<<"CONF");
%%GLOBALS%%

events {
}

http {
    log_format  delivery  '\$uri \$taptalent_event_id \$upstream_status.';

    taptalent_webhook_company_id  any;
    taptalent_webhook_https       off;
    taptalent_webhook_retry       initial=50ms max=300ms;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        log_subrequest  on;
        access_log      %%PREFIX%%/delivery.log delivery;

        location = /express {
            taptalent_webhook          on;
            taptalent_webhook_spool    %%PREFIX%%/spool-express;
            taptalent_webhook_forward  /express-application;
        }

        location = /wsgi {
            taptalent_webhook          on;
            taptalent_webhook_spool    %%PREFIX%%/spool-wsgi;
            taptalent_webhook_forward  /wsgi-application;
        }

        location = /php {
            taptalent_webhook          on;
            taptalent_webhook_spool    %%PREFIX%%/spool-php;
            taptalent_webhook_forward  /php-application;
        }

        location = /express-application {
            internal;
            proxy_pass  http://127.0.0.1:%%PORT_2%%/webhooks/taptalent;
        }

        location = /wsgi-application {
            internal;
            proxy_pass  http://127.0.0.1:%%PORT_3%%/webhooks/taptalent;
        }

        $fastcgi
    }
}
CONF
$t->run();

for my $name (qw(express wsgi php)) {
    my $handler = handler($name);

    start($handler);
    delivered($handler);
    locked($handler);
    killed($handler);
    stop($handler);
}

$t->no_alerts();

done_testing();


# Every body exactly, and one that comes twice.

sub delivered {
    my ($handler) = @_;
    my $name = $handler->{name};

    my @bodies = (
        event(),
        "{\r\n" . substr(event(n => 1), 1),
        event(data => \qq({"t":"\xc3\xa9 \xf0\x9f\x98\x80 'x' \\u0000"})),
        event(data => \'{"half":"\ud83d","n":12345678901234567890.10}'),
        event(data => \('{"long":"' . 'x' x 200_000 . '"}')),
    );

    send_event($handler, $_) for @bodies, $bodies[0];
    empty($handler);

    my %expected = map { id($_) => 1 } @bodies;
    is_deeply(rows($handler, 'webhook_events', 'id'), [sort keys %expected],
              "$name: each id once");
    is_deeply(rows($handler, 'work', 'hex(body)'),
              [sort map { uc unpack 'H*', $_ } @bodies],
              "$name: the work was done once, on the exact bytes");
}

# While its database is locked, it says that it cannot.

sub locked {
    my ($handler) = @_;
    my $name = $handler->{name};

    $lock = open(my $locker, '-|', '/usr/bin/python3', '-c', <<'PYTHON',
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(600)
PYTHON
        $handler->{database}) // die "python3: $!";

    is(scalar(<$locker>), "locked\n", "$name: its database is locked");

    my $body = event(locked => $name);
    send_event($handler, $body);
    $t->wait_for(sub { answers($handler, $body) =~ /503 / }, 10, 'a 503');

    is_deeply(rows($handler, 'webhook_events', 'id', id => id($body)), [],
              "$name: nothing is done");

    kill 'KILL', $lock;
    close $locker;
    undef $lock;
    empty($handler);

    like(answers($handler, $body), qr/^(?:50[34] )+204 $/,
         "$name: 503, until it is there");
    is_deeply(rows($handler, 'webhook_events', 'count(*)', id => id($body)), [1],
              "$name: then it is done, once");
}

# Killed as it writes or flushes; strace is attached to the running handler.

sub killed {
    my ($handler) = @_;
    my $name = $handler->{name};
    my ($before, $after) = (0, 0);

    for my $point (map({ ['pwrite64', $_] } 1, 2),
                   map({ ['fdatasync,fsync', $_] } 1 .. 3))
    {
        my ($calls, $n) = @$point;
        my $body = event(killed => "$name $calls $n");
        my $pid = $handler->{worker} ? $handler->{worker}->() : $handler->{pid};
        my $strace = attach($pid, $calls, $n);

        # the master of PHP would have another worker answer at once

        kill 'STOP', $handler->{pid} if $handler->{worker};

        send_event($handler, $body);

        $t->wait_for(sub {
            !$t->alive($pid) || answers($handler, $body) =~ /204/
        }, 10, 'an end');

        if ($t->alive($pid)) {
            kill 'TERM', $strace;

        } else {
            my $rows = rows($handler, 'webhook_events', 'count(*)',
                            id => id($body));

            $rows->[0] ? $after++ : $before++;

            start($handler) if !$handler->{worker};
        }

        kill 'CONT', $handler->{pid} if $handler->{worker};

        waitpid $strace, 0;
        empty($handler);

        is_deeply(rows($handler, 'webhook_events', 'count(*)', id => id($body)),
                  [1], "$name, killed at $calls, $n: it is there");
        is_deeply(rows($handler, 'work', 'count(*)',
                       'hex(body)' => uc unpack 'H*', $body),
                  [1], "$name, killed at $calls, $n: it was done once");
    }

    cmp_ok($before, '>=', 1, "$name: killed before its commit");
    cmp_ok($after, '>=', 1, "$name: killed between its commit and its answer");
}

sub attach {
    my ($pid, $calls, $n) = @_;

    my $strace = fork() // die "fork: $!";
    execute('strace', '-f', '-qq', '-o', '/dev/null', '-p', $pid,
            '-e', "trace=$calls", '-e', "inject=$calls:signal=KILL:when=$n")
        if $strace == 0;

    $t->wait_for(sub {
        Test::Edge::slurp("/proc/$pid/status") =~ /^TracerPid:\s+[1-9]/m
    }, 10, 'strace to attach');

    return $strace;
}


# handlers -------------------------------------------------------------------

sub handler {
    my ($name) = @_;

    return {
        name => $name, database => "$p/php/events.db",
        command => [(grep { -x } glob '/usr/sbin/php-fpm*')[0], '-F', '-O', '-y',
                    "$p/php/fpm.conf"],
        ready => sub { -S "$p/php/fpm.sock" },
    } if $name eq 'php';

    my $port = $t->port($name eq 'express' ? 2 : 3);
    my $extension = $name eq 'express' ? 'js' : 'py';
    my $text = $name eq 'express' ? block('docs/handlers.md', 'express')
                                  : block('docs/handlers.md', 'wsgi');
    my $script = $t->write_file("handler.$extension", $text);

    return {
        name => $name, database => "$p/$name.db",
        command => [$name eq 'express' ? 'node' : '/usr/bin/python3', $script,
                    "$p/$name.db", $port],
        ready => sub {
            IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
        },
    };
}

sub start {
    my ($handler) = @_;

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        setpgrp;
        $ENV{NODE_PATH} = "$modules/node_modules";

        if ($handler->{name} eq 'php' && @worker) {
            $) = "$worker[1] $worker[1]";
            $( = $worker[1];
            POSIX::setuid($worker[0]);
        }

        open STDOUT, '>>', "$p/$handler->{name}.out";
        open STDERR, '>&', \*STDOUT;
        execute(@{$handler->{command}});
    }

    $group{$pid} = 1;
    $handler->{pid} = $pid;
    $handler->{worker} = sub { (Test::Edge::children($pid))[0] }
        if $handler->{name} eq 'php';

    $t->wait_for(sub {
        waitpid($_, POSIX::WNOHANG()) == $_ and delete $group{$_}
            for grep { $_ != $pid } keys %group;
        $handler->{ready}->()
    }, 20, "$handler->{name} to start")
        or diag($t->read_file("$handler->{name}.out"));
}

sub stop {
    my ($handler) = @_;
    kill 'KILL', -$handler->{pid};
    waitpid $handler->{pid}, 0;
    delete $group{$handler->{pid}};
}

sub execute {
    my (@command) = @_;
    $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
    $ENV{PYTHONDONTWRITEBYTECODE} = 1;
    open STDIN, '<', '/dev/null';
    exec @command or POSIX::_exit(127);
}

sub write_php {
    $t->write_file('php/handler.php', block('docs/handlers.md', 'php'));
    $t->write_file('php/fpm.conf', <<"CONF");
[global]
error_log = $p/php/error.log

[www]
listen = $p/php/fpm.sock
listen.mode = 0666
pm = static
pm.max_children = 1
CONF
}

# As the document tells, into the directory of what is built.

sub install {
    my $install = block('docs/handlers.md', 'install');
    my $stamp = "$modules/installed";

    return if Test::Edge::slurp($stamp) eq $install;

    system("mkdir -p $modules && cd $modules && echo '{}' > package.json && "
           . "{ timeout 600 $install } > npm.log 2>&1 < /dev/null") == 0
        or die "npm failed, see $modules/npm.log\n";

    open my $fh, '>', $stamp or die "$stamp: $!";
    print $fh $install;
    close $fh or die "$stamp: $!";
}


# what is there --------------------------------------------------------------

sub send_event {
    my ($handler, $body) = @_;
    my $answer = $t->post("/$handler->{name}", $body);
    is($answer->{status}, 200, 'stored') or diag($answer->{body});
}

sub id { return substr sha256_hex($_[0]), 0, 32 }

sub empty {
    my ($handler) = @_;
    my @files;

    ok($t->wait_for(sub {
        @files = glob "$p/spool-$handler->{name}/{new,dead}/*";
        !@files
    }, 15, 'an empty spool'), "$handler->{name}: all is delivered")
        or diag("@files\n", $t->read_file("$handler->{name}.out"),
                $t->read_file('php/error.log'));
}

# The statuses of its attempts so far, each with a blank.

sub answers {
    my ($handler, $body) = @_;
    my $id = id($body);
    return join '', map { "$_ " }
           $t->read_file('delivery.log')
               =~ m{^/$handler->{name}-application $id (\d+)\.$}mg;
}

# The values of a column, sorted, where another has this value.

sub rows {
    my ($handler, $table, $column, $where, $value) = @_;

    my $query = "SELECT $column FROM $table";
    $query .= " WHERE $where = '$value'" if $where;

    open my $out, '-|', '/usr/bin/python3', '-c', <<'PYTHON',
import sqlite3, sys
for row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]):
    print(row[0])
PYTHON
        $handler->{database}, $query or die "python3: $!";

    chomp(my @rows = <$out>);
    close $out or diag("$query fails");

    return [sort @rows];
}
