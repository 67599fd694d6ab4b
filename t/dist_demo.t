#!/usr/bin/perl

# `make demo`: what it shows, that it serves until Ctrl-C, and that nothing of
# it stays.
#
# slow: the demo is built and run several times

use strict;
use warnings;

use IO::Socket::INET;
use File::Path qw(remove_tree);
use POSIX ();
use Test::More;

use lib 't/lib';
use Test::Docs qw(block);
use Test::Edge;

my $t = Test::Edge->new();

my %ports = (PORT => $t->port(1), HTTP_PORT => $t->port(0),
             APP_PORT => $t->port(3));

# a demo has a process group of its own, so it has to be ended with us

my $running;

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

END {
    kill 'TERM', $running if $running;
}


# to its end, as README.md tells to start it

my $started = time();
my $make = block('README.md', 'demo');
my $demo = demo(%ports, DEMO_EXIT => 1,
                $ENV{TEST_NGINX_BINARY} ? () : (command => $make));
my ($status, $shown) = finish($demo);

is($status, 0, 'exit status') or diag($shown);
cmp_ok(time() - $started, '<', 30 * $Test::Edge::PATIENCE, 'not long');

like($shown, qr/^\Q$_\E/m, "shows: $_") for (
    "  \$ curl -k https://localhost:$ports{PORT}/webhooks/taptalent",
    '  {"received":true}',
    '  HTTP status 200',
    '  $ jq . $(ls spool/new/*.ndjson | tail -n 1)',
    '    "event": "resume.bulk_upload_parse.started",',
    '    "companyId": "company-uuid",',
    '  {"received":false,"error":"company_id",',
    '  {"received":false,"error":"json",',
    '  {"received":false,"error":"event_header",',
    '  {"received":false,"error":"method",',
    '  HTTP status 405',
    "  \$ curl -k http://localhost:$ports{HTTP_PORT}/webhooks/taptalent",
    '  {"received":false,"error":"https_required",',
    '  {"received":true,"message":"Webhook received successfully",',
    '  403 company_id POST resume.bulk_upload_parse.started somebody-else ',
    '  destination "/application" is down, status 502, next attempt in ',
    '  destination "/application" is up again',
    '  application: refuses candidate.created, attempt 1,',
    '  {"reason":"permanent","status":422,"attempts":1,"at":"20',
    '  $ mv spool/dead/*.ndjson spool/new/',
    '  application: got candidate.created, attempt 1,',
    '  422 candidate.created ',
    '  200 candidate.created ',
);

# what waited while the application was away, arrives

my ($waited) = $shown =~ /^8\.(.*?)^9\./ms;
my ($arrived) = $shown =~ /^9\.(.*?)^10\./ms;

my @files = $waited =~ /^  (\d{8}T\S+\.ndjson)$/mg;
my @arrived = $arrived =~ /^  application: got \S+, attempt (\d+),$/mg;

is(@files, 2, 'two files wait');
is(@arrived, 2, 'two events arrive');
cmp_ok((sort @arrived)[-1], '>=', 2, 'one of them was tried before');

my @received = $shown =~ /^      received (\S+Z), \d+\.\d+ s ago$/mg;
is(@received, 5, 'each with the time when it was received');

unlike($shown, qr/UNEXPECTED/, 'nothing unexpected');
nothing_left($shown);


# until Ctrl-C, which the terminal sends to all of the process group

$demo = demo(%ports, DEMO_EXIT => 0);

$t->wait_for(sub { output($demo) =~ /removed at the end/ }, 30,
             'the demo to serve');

$shown = output($demo);
my ($command) = $shown =~ /^( +curl -k .*?event\.json)$/ms;

my $answer = qx{$command -s 2>&1};
is($answer, '{"received":true}', 'the command to try next');

ok($t->wait_for(sub { output($demo) =~ /at the end.*^application: got /ms },
                10, 'the event to arrive'), 'the application prints it');

my ($send) = $shown =~ m{^ +(\S+/t/send --insecure .*)$}m;

like(qx{$send}, qr/^acknowledged +[1-9]\d*\n.*^given up +0$/ms,
     'one of each kind');
ok($t->wait_for(sub {
    my ($end) = output($demo) =~ /at the end(.*)/s;
    (() = $end =~ /^application: got /mg) >= 8
}, 10, 'all of them to arrive'), 'they arrive');

my ($kill, $jq) = $shown =~ /^ +(kill \d+)\n +(jq \. \S+)$/m;
my ($start) = $shown =~ /^ +(perl \S+application\.pl \d+)$/m;

is(system($kill), 0, 'the application is stopped');
is(qx{$command -s 2>&1}, '{"received":true}', 'another event');

my @ids = qx{$jq} =~ /^  "id": "(\w+)"/mg;
is(@ids, 1, 'the spool as the demo tells to look at it');

my ($port) = $start =~ /(\d+)$/;

$t->wait_for(sub {
    !IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port")
}, 10, 'the application to end');

my $application = open(my $out, '-|', "exec $start") // die "fork: $!";
like(scalar(<$out>), qr/^application: got resume/, 'it arrives');
kill 'TERM', $application;
close $out;

my ($prefix) = $shown =~ m{Its files are in\s+(\S+)\. };
my $log = $t->read_file("$prefix/error.log");
my @errors = grep { /\[(alert|emerg|crit|error)\]/ } split /\n/, $log;

# an event may meet the application while it is being stopped

@errors = grep { !/connect\(\)[ ]failed|is[ ]given[ ]up[ ]with[ ]status[ ]422
                   |upstream[ ]prematurely[ ]closed|recv\(\)[ ]failed
                   |(?:writev|send)\(\)[ ]failed/x } @errors;
is("@errors", '', 'error log of the demo');

kill 'INT', -$demo->{pid};
($status) = finish($demo);

is($status, 130, 'exit status of Ctrl-C');
nothing_left($shown);


# ended in another way

$demo = demo(%ports, DEMO_EXIT => 0);
$t->wait_for(sub { output($demo) =~ /removed at the end/ }, 30,
             'the demo to serve');
$shown = output($demo);

kill 'TERM', $demo->{pid};
($status) = finish($demo);

is($status, 143, 'exit status of TERM');
nothing_left($shown);


# nobody reads what it says any more

$demo = demo(%ports, command => '"$DEMO" | head -n 8');
($status, $shown) = finish($demo);

is($status, 0, 'ends when its output is closed');
nothing_left($shown);


# killed by force, where the kernel can be told to end nginx then

SKIP: {
    skip 'no setpriv --pdeathsig', 3
        if system('setpriv --pdeathsig TERM true 2> /dev/null') != 0;

    $demo = demo(%ports, DEMO_EXIT => 0);
    $t->wait_for(sub { output($demo) =~ /removed at the end/ }, 30,
                 'the demo to serve');
    $shown = output($demo);
    ($prefix) = $shown =~ m{Its files are in\s+(\S+)\. };

    kill 'KILL', $demo->{pid};
    ($status) = finish($demo);

    is($status, 128 + 9, 'exit status of KILL');
    ok($t->wait_for(sub { !processes($prefix) }, 10, 'nginx to end'),
       'nginx ends');
    ok($t->wait_for(sub { !listening() }, 10, 'its workers to end'),
       'its workers end');

    remove_tree($prefix);
}


# where it cannot work

my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1,
                                  LocalPort => $t->port(2)) or die $!;

($status, $shown) = finish(demo(%ports, PORT => $t->port(2)));
is($status, 1, 'port taken');
like($shown, qr/port ${\$t->port(2)} is in use.* PORT=\d+$/m, 'it is named');

for my $name (qw(HTTP_PORT APP_PORT)) {
    ($status, $shown) = finish(demo(%ports, $name => $t->port(2)));
    is($status, 1, "$name taken");
    like($shown, qr/port ${\$t->port(2)} is in use.* $name=\d+$/m,
         'it is named');
}

close $taken;

($status, $shown) = finish(demo(%ports, TEST_NGINX_MODULE => '/none.so'));
is($status, 1, 'no module');
like($shown, qr{"/none\.so" is missing}, 'it is named');

($status, $shown) = finish(demo(%ports, TEST_NGINX_BINARY => '/none'));
is($status, 1, 'no nginx');
like($shown, qr/nginx is not installed/, 'it is named');

$t->no_alerts();

done_testing();


# The demo in a process group of its own, with the signals of a terminal.

sub demo {
    my (%env) = @_;

    my $command = delete $env{command} // 'exec "$DEMO"';
    my $file = $t->write_file('demo.out', '');

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        setpgrp;
        $t->child_environment();
        $SIG{$_} = 'DEFAULT' for qw(INT QUIT TERM HUP PIPE);
        @ENV{keys %env} = values %env;
        delete @ENV{qw(MAKEFLAGS MAKELEVEL)};

        # where it may look for a module or an nginx, it looks there
        $ENV{TEST_NGINX_MODULE} //= $t->module();
        $ENV{TEST_NGINX_BINARY} //= $t->binary();

        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $file;
        open STDERR, '>&', \*STDOUT;

        $ENV{DEMO} = $t->top() . '/t/demo/demo.sh';
        exec '/bin/sh', '-c', $command or POSIX::_exit(127);
    }

    $running = $pid;

    return { pid => $pid, file => $file };
}

sub output {
    my ($demo) = @_;
    return $t->read_file($demo->{file});
}

sub finish {
    my ($demo) = @_;
    my $status;

    $t->wait_for(sub {
        waitpid($demo->{pid}, POSIX::WNOHANG()) == $demo->{pid} or return 0;
        $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
        return 1;
    }, 60, 'the demo to end') or kill 'KILL', -$demo->{pid};

    $running = undef;

    return ($status, output($demo));
}

sub nothing_left {
    my ($shown) = @_;
    my ($prefix) = $shown =~ m{Its files are in\s+(\S+)\. };

    ok(defined $prefix, 'the demo says where its files are') or return;
    ok(!-e $prefix, 'nothing is left on the disk');
    is(join(' ', processes($prefix)), '', 'no process is left');
    is(join(' ', listening()), '', 'nobody listens');
}

sub processes {
    my ($prefix) = @_;

    return grep {
        index(Test::Edge::slurp("$_/cmdline"), $prefix) >= 0
    } glob '/proc/[0-9]*';
}

sub listening {
    return grep {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $_)
    } values %ports;
}
