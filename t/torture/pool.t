#!/usr/bin/perl

# The thread pool has no room: an event that was delivered is settled all the
# same, what is to be measured waits, and what is to be committed is refused.

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge qw(event);
use Test::Fault;
use Test::Sink;


Test::Fault->need('strace');

my $t = Test::Edge->new();
my $app = Test::Sink->new(port => $t->port(2));
my $p = $t->prefix();

plan(skip_all => 'nginx is without threads') unless $t->has('--with-threads');

$t->conf(<<'EOC');
%%GLOBALS%%

thread_pool narrow threads=1 max_queue=1;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /one {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/one min_free=0 threads=narrow;
            taptalent_webhook_forward /app;
        }

        location /two {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/two min_free=0 threads=narrow;
        }

        location /three {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/three min_free=0 threads=narrow;
        }

        location /app {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /status {
            taptalent_webhook_status;
        }
    }
}
EOC

$t->run();

my $n = 0;

sub post { return $t->post("/$_[0]", event(n => ++$n))->{status} }

sub begin {
    my $c = $t->connect();

    $c->send($t->message("/$_[0]", event(n => ++$n)));

    return $c;
}

sub files { return scalar(my @files = glob "$p/$_[0]/new/*.ndjson") }


# one is in flight

$app->mode('all:hold');
is(post($_), 200, "$_: works") for qw(one two three);
ok($t->wait_for(sub { $app->held() == 1 }, 10), 'it is in flight');
is(files('one'), 1, 'its file is there');

# the thread waits for the disk with one commit, and another one is queued

my ($worker) = $t->workers();
my ($thread) = Test::Fault->committers($worker);
my $strace = Test::Fault->strace([$thread], 'fdatasync:delay_enter=300s');
my @waiting = (begin('one'));

ok($t->wait_for(sub { $strace->text() =~ /fdatasync/ }, 10),
   'the thread waits for the disk');
push @waiting, begin('two');

# one more has no room, so that there is none

ok($t->wait_for(sub { post('three') == 503 }, 10), 'no room: 503');
ok($t->wait_log(qr/"narrow" queue overflow/), 'no room: nginx says so');

$app->mode('all:200');
$app->release('200');
ok($t->wait_for(sub { files('one') == 0 }, 10),
   'no room: what was delivered is settled');
is(scalar($app->requests()), 1, 'no room: and not sent again');

$strace->detach();
is(join(' ', map { $_->answer()->{status} } @waiting), '200 200',
   'the others are accepted');
ok($t->wait_for(sub { post('three') == 200 }, 10), 'room: accepted');
ok($app->wait_for(2, 10), 'room: delivered');

my $backlog = sub {
    return { map { $_->{path} => $_->{backlog} }
                 @{$t->status_of('/status')->{spools}} };
};

ok($t->wait_for(sub { ($backlog->()->{"$p/two"} // {})->{files} == 2 }, 10),
   'room: measured');

$t->no_alerts();

done_testing();
