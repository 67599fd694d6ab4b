#!/usr/bin/perl

# docs/scaling.md, run: two edges behind a balancer, each with its own spool,
# into a RabbitMQ of three nodes, of which one is killed under load.
#
#     LONG=1      more events, how fast they go out, and an edge is killed, too
#
# slow: three nodes of RabbitMQ

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(decode_base64);
use POSIX ();
use Test::Docs qw(block);
use Test::More;
use Test::Edge;
use Test::Rabbit;
use Time::HiRes qw(sleep time);

plan skip_all => 'the recipe is for the installed nginx'
    if $ENV{TEST_NGINX_BINARY};
plan skip_all => 'there is no rabbitmq-server' if !Test::Rabbit::available();

my $events = $ENV{LONG} ? 5000 : 600;
my $senders = 8;

my $t = Test::Edge->new();
my @edges = map { Test::Edge->new() } 0 .. 1;

my $began = time();
my $rabbit = Test::Rabbit->new($t, 3);
$rabbit->start(0 .. 2);
note(sprintf 'a cluster after %.1f s', time() - $began);

# the recipe's addresses become ours

my $recipe = block('docs/scaling.md', 'rabbitmq');

for my $i (0 .. 1) {
    my $text = $recipe;

    $text =~ s{10\.0\.0\.1(\d):15672}{'127.0.0.1:' . $rabbit->port($1 - 1)}ge;
    $text =~ s{10\.0\.0\.0/24}{127.0.0.0/8}g;
    $text =~ s{listen  8080}{listen 127.0.0.1:%%PORT_0%%};
    $text =~ s{/var/spool/taptalent}{%%SPOOL%%}g;
    $text =~ s{dGFwdGFsZW50OnNlY3JldA==}{Z3Vlc3Q6Z3Vlc3Q=}g;

    $edges[$i]->conf("%%GLOBALS%%\nevents { }\nhttp {\n%%HTTP%%\n"
                     . "client_max_body_size 2m;\n$text}\n");
    $edges[$i]->run();
}

my $balancer = block('docs/scaling.md', 'balancer');
$balancer =~ s{10\.0\.0\.2(\d):8080}{'127.0.0.1:' . $edges[$1 - 1]->port(0)}ge;
$balancer =~ s{listen(\s+)443 ssl}{listen 127.0.0.1:%%PORT_1%% ssl};
$balancer =~ s{^\s*ssl_certificate.*\n}{}gm;

# the balancer has no need of the module

$t->conf("%%GLOBALS%%\nevents { }\nhttp {\n%%HTTP%%\nclient_max_body_size 2m;\n"
         . $balancer =~ s/(server_name.*)/$1\n%%TLS%%/r . "}\n");
$t->run();

# an exchange without a queue: 200, and the message is nowhere

my %sent;

$rabbit->api(0, PUT => '/api/exchanges/%2F/taptalent',
             { type => 'topic', durable => \1 });

my $first = $ENV{LONG} ? 2000 : 8;

is((grep { post("first $_") == 200 } 1 .. $first), $first, 'acknowledged');

ok($t->wait_for(sub { grep { $_->grep_log(
        qr/is down, status 200 without what "confirm" asks for/) } @edges }, 20),
   'routed nowhere, not delivered');
is(files(), $first, 'all are in the spools');

# with the queue they go out

my $commands = block('docs/scaling.md', 'rabbitmq-queue');
$commands =~ s{10\.0\.0\.11:15672}{'127.0.0.1:' . $rabbit->port(0)}ge;
$commands =~ s{taptalent:secret}{guest:guest};

$t->write_file('commands', $commands);
my $output = qx{sh -e $t->{prefix}/commands 2>&1};
is($?, 0, 'the queue') or diag($output);

ok($t->wait_for(sub { files() < $first }, 40), 'the first goes out');
my ($from, $left) = (time(), files());
ok($t->wait_for(sub { files() == 0 }, 120), 'and the others');
note(sprintf '%.0f events a second', $left / (time() - $from)) if $ENV{LONG};

# odd and large ones

post_body($_) for
    event(companyId => 'company-uuid', data => \"{\r\n \"a\":\t\"\\u0000\\\"\"}"),
    event(companyId => 'company-uuid', data => \"{\"a\":\"\xc3\xbc \xf0\x9f\x98\x80\"}"),
    event(companyId => 'company-uuid', data => { a => 'x' x 1_000_000 });

ok($t->wait_for(sub { files() == 0 }, 40), 'odd ones');

# under load the leader of the queue is killed, and, if there is time, an edge

my $leader = $rabbit->api(0, GET => '/api/queues/%2F/taptalent')->{leader};
my ($victim) = $leader =~ /^node(\d)\@/;
my $alive = $victim ? 0 : 1;
my $start = time();
my @senders = map { sender($_) } 1 .. $senders;

ok($t->wait_for(sub { acknowledged() >= $events / 3 }, 120), 'load');
is(scalar($rabbit->kill($victim)), 1, "$leader is killed");

if ($ENV{LONG}) {
    ok($t->wait_for(sub { acknowledged() >= $events / 2 }, 300), 'more load');
    $edges[1]->kill_all();
    $edges[1]->run();
    pass('an edge is killed');
}

ok($t->wait_for(sub { waitpid($_, POSIX::WNOHANG) > 0 and $_ = 0
                          for grep { $_ } @senders;
                      !grep { $_ } @senders }, 600), 'the senders end');

$sent{$_} = 1 for acknowledged();

note(sprintf '%d events acknowledged in %.1f s', scalar(keys %sent),
     time() - $start);
cmp_ok(scalar(keys %sent), '>=', $events, 'nearly all are acknowledged')
    if !$ENV{LONG};

ok($t->wait_for(sub { files() == 0 }, $ENV{LONG} ? 300 : 60), 'all go out');
note(sprintf 'all forwarded after %.1f s', time() - $start);

# what is in the queue is what was acknowledged

my (%got, $copies);

while (1) {
    my $list = eval { $rabbit->api($alive, POST => '/api/queues/%2F/taptalent/get',
        { count => 500, ackmode => 'ack_requeue_false', encoding => 'base64' }) };

    if (!$list) {
        diag($@);
        last;
    }

    last if !@$list;

    for my $message (@$list) {
        my $body = decode_base64($message->{payload});
        my $id = substr sha256_hex($body), 0, 32;

        $got{$id}++;
        $copies++;

        if ($message->{properties}{message_id} ne $id
            || $message->{properties}{delivery_mode} != 2
            || $message->{routing_key} !~ /^resume\./)
        {
            fail("properties of $id");
        }
    }
}

is((grep { !$got{$_} } keys %sent), 0, 'of ' . keys(%sent) . ' none is lost');
is((grep { !$sent{$_} } keys %got), 0, 'and none was made up');
note($copies - keys(%got) . ' came twice');

my @share = map { scalar(() = $_->access_log() =~ /^200 accepted/mg) } @edges;
ok(!(grep { !$_ } @share), "both edges had their share: @share");

is((() = map { glob $_->spool . '/{dead,corrupt}/*' } @edges), 0,
   'no dead letters');

undef $rabbit;

$_->no_alerts() for @edges, $t;
done_testing();


# To the balancer, as the sender does: again after a failure. What has got a 2xx
# is in %sent.

sub post {
    my ($serial) = @_;
    return post_body(event(companyId => 'company-uuid',
                           data => { serial => $serial }));
}

sub post_body {
    my ($body) = @_;

    for my $delay (0, 0.2, 0.4, 0.8) {
        sleep $delay if $delay;

        my $status = $t->post('/webhooks/taptalent', $body, tls => 1)->{status};

        if ($status == 200) {
            $sent{substr sha256_hex($body), 0, 32} = 1;
            return $status;
        }
    }

    return 0;
}

# A process that sends its share, and writes down what is acknowledged.

sub sender {
    my ($k) = @_;

    my $pid = fork() // die "fork: $!";
    return $pid if $pid;

    srand $$;
    open my $fh, '>>', $t->prefix . '/acknowledged';

    for my $n (1 .. $events / $senders) {
        %sent = ();
        post("load $k $n");
        syswrite $fh, "$_\n" for keys %sent;
    }

    POSIX::_exit(0);
}

sub acknowledged {
    my @ids = $t->read_file('acknowledged') =~ /^(\w+)\n/mg;
    return @ids;
}

# What waits in both spools. One that sends alone makes a file of each event.

sub files { return scalar(() = map { glob $_->spool . '/new/*' } @edges) }
