#!/usr/bin/perl

# The consumers of docs/consumers.md, as they stand there, on what nginx has
# stored: every body exactly, and none lost wherever they are killed. What the
# one in shell does is tested by docs.t as well.
#
# slow: each consumer is killed again and again

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use POSIX qw(WNOHANG);
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command);
use Test::Edge;

plan skip_all => 'not about the module, but about the documents'
    if $ENV{TEST_NGINX_BINARY};

my $t = Test::Edge->new(workers => 2);
our @worker = defined $t->worker_user()
              ? (getpwnam $t->worker_user())[2, 3] : ();
my $spool = $t->spool();
my @running;

$ENV{PYTHONDONTWRITEBYTECODE} = 1;

my %block = (
    consumer => block('docs/consumers.md', 'consumer'),
    post => block('docs/consumers.md', 'post'),
    store => block('docs/consumers.md', 'store'),
    path => block('docs/consumers.md', 'path'),
    service => block('docs/consumers.md', 'service'),
    loop => block('docs/consumers.md', 'loop'),
    python => block('docs/consumers.md', 'python'),
    node => block('docs/consumers.md', 'node'),
    php => block('docs/consumers.md', 'php'),
);

# what runs beside us ends with us

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

END {
    kill 'KILL', @running;
}

$t->conf(<<'CONF');
%%GLOBALS%%

events {
}

http {
    server {
        listen                   127.0.0.1:%%PORT_0%%;
        taptalent_webhook_https  off;

        location = /hook {
            taptalent_webhook             on;
            taptalent_webhook_company_id  any missing=accept;
            taptalent_webhook_spool       %%SPOOL%%;
        }

        location = /application {
            return  204;
        }
    }
}
CONF
$t->run();

# what a consumer calls to make something durable and to remove, and which of
# the calls kills it

my @database = map { ['fdatasync,fsync', $_] } 1, 2, 4, 6;
my @unlink = map { ['unlink', $_] } 1, 2;
my @rename = map { ['rename', $_] } 1, 3;

my %kill_at = (
    python => [@database, ['unlink', 1], ['unlink', 2]],
    node => [@rename, ['fsync,fdatasync', 1], ['fsync,fdatasync', 4], @unlink],
    php => [@database, @unlink],
);

for my $language (qw(python node php)) {
    whole($language);
    killed($language);
    odd_files($language);
}

for my $language (qw(shell python node php)) {
    odd_paths($language);
}

units();
endless();

$t->no_alerts();

done_testing();


# Everything that can come, each body exactly.

sub whole {
    my ($language) = @_;
    my ($command, $stored) = consumer($language);

    is_deeply([run(@$command)], [0, ''], "$language: an empty spool");

    my @bodies = bodies();
    send_all(@bodies, $bodies[0]);

    is_deeply([run(@$command)], [0, ''], "$language: all that can come");
    is($t->spool_files(), 0, "$language: new/ is empty");
    is($t->spool_files('corrupt'), 0, "$language: nothing is damaged");

    is_deeply($stored->(), by_id(@bodies), "$language: byte for byte, once");
}

# Killed at each of these calls, before it is done, and then started again.

sub killed {
    my ($language) = @_;
    my $kills = 0;

    for my $point (@{$kill_at{$language}}) {
        my ($calls, $n) = @$point;
        my ($command, $stored) = consumer($language);
        my $name = "$language: killed at $calls, $n";

        run(@$command);     # it makes its database

        my @bodies = map { event(n => "$name $_") } 1 .. 4;
        push @bodies, "{\n" . substr event(n => "$name raw"), 1;
        send_all($bodies[4]);
        is((grep { $_ != 200 } $t->post_together('/hook', @bodies[0 .. 3])), 0,
           'stored at once');

        my ($status) = run('strace', '-f', '-qq', '-o', '/dev/null',
                           '-e', "trace=$calls",
                           '-e', "inject=$calls:signal=KILL:when=$n",
                           @$command);

        $kills++ if $status == 128 + 9;

        my $half = $stored->();
        my %there = (%$half, map { $_->{id} => 1 } $t->spool_lines());
        my $expected = by_id(@bodies);

        is_deeply([sort keys %there], [sort keys %$expected],
                  "$name: nothing is lost");

        is_deeply([run(@$command)], [0, ''], "$name: again");
        is_deeply($stored->(), $expected, "$name: each is done, once");
        is($t->spool_files(), 0, "$name: new/ is empty");
    }

    is($kills, @{$kill_at{$language}}, "$language: it was killed each time");
}

# Damaged; with a line that it does not know; not a file at all.

sub odd_files {
    my ($language) = @_;
    my ($command, $stored) = consumer($language);

    send_all(event());

    my ($file) = $t->spool_files();
    my $content = $t->read_file($file);
    $t->write_file($file, $content =~ s/"received":"2/"received":"3/r);

    my ($status, $output) = run(@$command);

    is($status, 1, "$language: a damaged file");
    like($output, qr/damaged/, "$language: it is named");
    is($t->spool_files(), 0, "$language: it is not in new/");
    is($t->spool_files('corrupt'), 1, "$language: but in corrupt/");
    unlink $t->spool_files('corrupt');

    # without a checksum and the last line end

    my $unknown = $content =~ s/"v":1/"v":2/r;
    my $last = $content =~ s/\n\z//r;
    $t->write_file("$spool/new/0.ndjson", "$unknown$last");
    $t->write_file("$spool/new/not-an-event", 'x');
    symlink '/etc/passwd', "$spool/new/1.ndjson" or die "symlink: $!";
    send_all(event(n => 1));

    ($status, $output) = run(@$command);

    is($status, 1, "$language: an unknown version");
    like($output, qr/^\S+0\.ndjson:? unknown version$/, "$language: it is named");
    is_deeply($stored->(), by_id(event(), event(n => 1)),
              "$language: the others are done");
    is_deeply([map { s{.*/}{}r } $t->spool_files()], ['0.ndjson', '1.ndjson'],
              "$language: its file stays");

    unlink glob "$spool/new/*";
}


# A spool whose own path looks like something of a spool, or like a pattern, and
# names that look like those of nginx.

sub odd_paths {
    my ($language) = @_;

    send_all(event(n => 7));

    my ($file) = $t->spool_files();
    my ($name) = $file =~ m{([^/]+)$};
    my $content = $t->read_file($file);

    unlink $file;

    for my $path ("new/$language/corrupt/spool", "a [b]* $language/new/new") {
        my $odd = $t->path($path);
        my @dirs = map { "$odd/$_" } qw(new corrupt);

        command('mkdir', '-p', @dirs);
        chown @worker, @dirs if @worker;

        my ($command, $stored) = consumer($language, $odd);
        my $put = sub {
            my ($as, $text) = @_;

            chown @worker, $t->write_file("$odd/new/$as", $text);
        };

        $put->($name, $content =~ s/"received":"2/"received":"3/r);
        $put->('0-20261123.ndjson', $content);

        my ($status, $output) = run(@$command);

        is($status, 1, "$language, $path: a damaged file");
        like($output, qr/\Q$name\E.*damaged/, "$language: it is named");
        ok(-e "$odd/corrupt/$name", "$language: it is in corrupt/");
        ok(!-e "$odd/new/$name", "$language: and not in new/");
        ok(!-e "$odd/new/0-20261123.ndjson",
           "$language: one with a date in its name is done");
        is_deeply($stored->(), by_id(event(n => 7)), "$language: it is stored");

        # what cannot be moved holds up no other

        rmdir "$odd/corrupt" or unlink "$odd/corrupt/$name";
        rmdir "$odd/corrupt" or die "rmdir() failed: $!";
        $put->($name, 'x');
        $put->('z.ndjson', $content);

        ($status) = run(@$command);

        is($status, 1, "$language: without corrupt/");
        ok(-e "$odd/new/$name", "$language: a damaged one stays");
        ok(!-e "$odd/new/z.ndjson", "$language: the next one is done");
    }
}


# systemd, and without it ------------------------------------------------------

sub units {
    for my $name (qw(consumer post)) {
        my $file = 'taptalent-' . ($name eq 'consumer' ? 'consume' : $name);
        chmod 0755, $t->write_file($file, $block{$name});
    }

    my $bin = $t->prefix();
    my @units;

    for my $name (qw(path service)) {
        my $text = $block{$name};
        $text =~ s{/usr/local/bin}{$bin}g;
        push @units, $t->write_file("taptalent-consume.$name", $text);
    }

    my ($status, $output) = command('systemd-analyze', 'verify', @units);

    is($status, 0, 'the units are right');
    is(join('', grep { /taptalent/ } split /^/, $output), '',
       'nothing is said about them');

    my ($glob) = $t->read_file($units[0]) =~ /^PathExistsGlob=(.*)$/m;
    $glob =~ s{/var/spool/taptalent}{$spool};
    is(scalar(@{[glob $glob]}), 0, 'the path unit: nothing to do');

    send_all(event());
    is(scalar(@{[glob $glob]}), 1, 'the path unit: a file');

    my ($exec) = $t->read_file($units[1]) =~ /^ExecStart=(.*?[^\\])$/ms;
    my $state = directory('unit');
    my $port = $t->port(0);
    $exec =~ s{/var/spool/taptalent}{$spool};
    $exec =~ s{/var/lib/taptalent}{$state};
    $exec =~ s{127\.0\.0\.1:3000/\S+}{127.0.0.1:$port/application};

    is_deeply([run('sh', '-c', $exec)], [0, ''], 'the command of the service');
    is($t->spool_files(), 0, 'it has done its work');
    ok($t->wait_for(sub {
        $t->access_log() =~ /^204 \S+ POST \/application$/m;
    }, 5, 'the log'), 'by a POST');
}

sub endless {
    my $loop = $t->write_file('taptalent-loop', $block{loop});
    chmod 0755, $loop;

    my ($command, $stored) = consumer('python');
    my $lock = directory('loop') . '/lock';
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        setpgrp;
        execute($loop, $lock, @$command);
    }

    push @running, -$pid;

    send_all(event());
    $t->wait_for(sub { !$t->spool_files() }, 10, 'the first event');
    send_all(event(n => 2));
    $t->wait_for(sub { !$t->spool_files() }, 10, 'the second event');

    is_deeply($stored->(), by_id(event(), event(n => 2)), 'a loop');

    kill 'TERM', -$pid;
    waitpid $pid, 0;
    @running = ();
}


# A consumer and a place for what it stores: its command, and a sub that tells
# what is there, as id => body.

sub consumer {
    my ($language, $from) = @_;
    my $n = our $places++;
    my $place = directory("place-$n");

    $from //= $spool;

    if ($language eq 'shell') {
        my @scripts = map { $t->write_file("taptalent-$_", $block{$_}) }
                      qw(consumer store);

        chmod 0755, @scripts;

        return ([$scripts[0], $from, directory("state-$n"), $scripts[1],
                 $place], sub { return filed($place) });
    }

    my $extension = { python => 'py', node => 'js', php => 'php' }->{$language};
    my $script = $t->write_file("taptalent-consume.$extension",
                                $block{$language});

    if ($language eq 'node') {
        return (['node', $script, $from, $place],
                sub { return filed($place) });
    }

    my $program = $language eq 'python' ? '/usr/bin/python3' : 'php';

    return ([$program, $script, $from, "$place/db"],
            sub { return stored("$place/db") });
}

sub filed {
    my ($place) = @_;

    return { map { m{/(\w+)\.json$} => $t->read_file($_) }
             glob "$place/*.json" };
}

sub stored {
    my ($database) = @_;

    my ($status, $output) = run('/usr/bin/python3', '-c', <<'PYTHON', $database);
import sqlite3, sys
for id, body in sqlite3.connect(sys.argv[1]).execute("SELECT * FROM events"):
    print(id, bytes(body).hex())
PYTHON

    $status == 0 or diag($output);

    return { map { /^(\w+) (\w+)$/ ? ($1 => pack 'H*', $2) : () }
             split /\n/, $output };
}

sub by_id {
    return { map { substr(sha256_hex($_), 0, 32) => $_ } @_ };
}

sub directory {
    my ($name) = @_;
    my $path = $t->path($name);
    mkdir $path or die "mkdir $path: $!";
    chown @worker, $path if @worker;
    return $path;
}

sub bodies {
    my $plain = event();

    return (
        $plain,
        "$plain\n",
        $plain =~ s/, /,\r\n\t/gr,
        event(companyId => 12345),
        event(companyId => undef),
        event(data => \'{"a":[{"x":1,"payload":{"y":"}"}}]}'),
        event(data => \'{"n":12345678901234567890.10,"e":1e999,"z":-0.0}'),
        event(data => \qq({"t":"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"})),
        event(data => \'{"half":"\ud83d","nul":"\u0000","nl":"\n"}'),
        event(data => \("{\n\"long\":\"" . 'y' x 200000 . '"}')),
    );
}

sub send_all {
    for my $body (@_) {
        my $answer = $t->post('/hook', $body, headers => {
            'X-Webhook-Note' => "\"a\\b\" \xe9 ,\"payload\":",
        });
        is($answer->{status}, 200, 'stored') or diag($answer->{body});
    }
}

# Runs as the user of the workers: (exit status, output).

sub run {
    return command({ as => \@worker }, @_);
}

sub execute {
    my (@command) = @_;

    if (@worker) {
        $) = "$worker[1] $worker[1]";
        $( = $worker[1];
        POSIX::setuid($worker[0]);
    }

    $SIG{PIPE} = 'DEFAULT';
    open STDIN, '<', '/dev/null';
    open STDERR, '>&', \*STDOUT;
    exec @command or POSIX::_exit(127);
}
