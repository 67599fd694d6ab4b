#!/usr/bin/perl

# "timeout=" of taptalent_webhook_forward: the longest that one attempt may
# take, the last byte of the answer included.  nginx's own timeouts are of the
# time between two bytes.

use strict;
use warnings;

use IO::Select;
use Test::More;
use Time::HiRes qw(time);

use lib 't/lib';
use Test::Edge;
use Test::Peer;

my $t = Test::Edge->new();
my $p = $t->prefix();

Test::Peer->new(port => $t->port(2), serve => \&answer);

my %to = (
    plain => '',
    unbuffered => 'proxy_buffering off;',
    stored => "proxy_store $p/proxy/stored;",
);

my $locations = join "\n", map { <<"CONF" } sort keys %to;
        location = /to/$_ {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
            $to{$_}
        }
CONF

my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
    map $taptalent_company_id $to {
        default /to/$taptalent_company_id;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $to concurrency=16 timeout=2s;
            taptalent_webhook_retry initial=50ms max=100ms;
        }

LOCATIONS
    }
}
CONF

$conf =~ s/LOCATIONS\n/$locations/;

$t->conf($conf);
$t->run();

# an answer that never comes, one without an end, and one that is in time

for my $to (sort keys %to) {
    for my $mode (qw(silent dripping headless quick)) {
        is($t->post('/hook', event(companyId => $to, mode => $mode))->{status},
           200, "$to, $mode: accepted");
    }
}

ok($t->wait_for(sub { !$t->spool_files() }, 20, 'deliveries'),
   'all are delivered');

for my $to (sort keys %to) {
    for my $mode (qw(silent dripping headless)) {
        is(join(' ', seen($to, $mode)), 'closed answered',
           "$to, $mode: closed, and tried again");
    }

    is(join(' ', seen($to, 'quick')), 'answered', "$to, quick: once");
}

is(scalar($t->grep_log(qr/\[error\].*took longer than 2000 ms.*, id \w{32}/)),
   9, 'each is logged');

# as many as can be in flight hold up nobody for longer

is($t->post('/hook', event(companyId => 'plain', mode => 'dripping',
                           n => $_))->{status}, 200, 'dripping: accepted')
    for 1 .. 16;

is($t->post('/hook', event(companyId => 'unbuffered', mode => 'quick',
                           n => 'behind'))->{status}, 200, 'quick: accepted');

ok($t->wait_for(sub { !$t->spool_files() }, 20, 'deliveries'),
   'all are delivered, also what came behind');

# nor a hand-over

is($t->post('/hook', event(companyId => 'plain', mode => 'dripping',
                           n => 'reload'))->{status}, 200, 'accepted');

my $n = () = $t->read_file('began') =~ /dripping/g;

$t->wait_for(sub { (() = $t->read_file('began') =~ /dripping/g) >= 20 }, 10,
             'the attempt') or diag("$n have begun");

my ($worker) = $t->workers();

$t->reload() or fail('reload');

ok($t->wait_for(sub { !$t->spool_files() }, 20, 'the delivery'),
   'the next worker delivers it');
ok($t->wait_for(sub { !kill 0, $worker }, 20, 'the worker'),
   'and the one before is gone');

$t->no_alerts();

done_testing();


sub seen {
    my ($to, $mode) = @_;
    return $t->read_file('seen') =~ m{^(\w+) \Q/to/$to\E $mode$}mg;
}


# The first attempt is answered as the event says, until nginx closes the
# connection; the second one well.

sub answer {
    my ($c) = @_;
    my $text = '';

    while ($text !~ /\r\n\r\n.*"mode": "\w+".*\}/s) {
        sysread $c, $text, 65536, length $text or return;
    }

    my ($uri) = $text =~ m{^\w+ (\S+)};
    my ($mode) = $text =~ /"mode": "(\w+)"/;
    my ($attempt) = $text =~ /^X-Webhook-Attempt: (\d+)/m;

    log_to('began', "$uri $mode\n");

    if ($attempt > 1 || $mode eq 'quick') {
        log_to('seen', "answered $uri $mode\n");
        syswrite $c, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
        return;
    }

    syswrite $c, $mode eq 'headless' ? "HTTP/1.0 200 OK\r\nX: "
                                     : "HTTP/1.0 200 OK\r\n\r\n"
        if $mode ne 'silent';

    my $select = IO::Select->new($c);

    # what nginx sends here is that it closes

    until ($select->can_read(0.1)) {
        syswrite $c, 'x' if $mode ne 'silent';
    }

    log_to('seen', "closed $uri $mode\n");
}

sub log_to {
    my ($name, $line) = @_;

    open my $log, '>>', "$p/$name" or return;
    syswrite $log, $line;
}
