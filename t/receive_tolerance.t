#!/usr/bin/perl

# taptalent_webhook_tolerance: how far X-Webhook-Timestamp may be from now.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX qw(strftime);
use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_https off;
    taptalent_webhook_tolerance 5m;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        location /inherited {
            taptalent_webhook on;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_tolerance off;
        }

        location /day {
            taptalent_webhook on;
            taptalent_webhook_tolerance 1d;
        }

        location /long {
            taptalent_webhook on;
            taptalent_webhook_tolerance 10000y;
        }

        location /endless {
            taptalent_webhook on;
            taptalent_webhook_tolerance 9223372036854775807s;
        }

        location /receiver {
            taptalent_webhook receiver;
        }

        location /key {
            taptalent_webhook on;
            taptalent_webhook_key secret;
            taptalent_webhook_events resume.*;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
        taptalent_webhook_tolerance off;

        location / {
            taptalent_webhook on;
        }
    }
}
EOF_CONF

$t->run();


# an event of so many seconds from now, as a time of this zone

sub at {
    my ($by, $zone, $fraction) = @_;

    my ($sign, $hour, $min) = ($zone // 'Z') =~ /^([+-])(\d+):(\d+)$/;
    my $offset = $sign ? "${sign}1" * ($hour * 3600 + $min * 60) : 0;

    return strftime('%Y-%m-%dT%H:%M:%S', gmtime(time() + $by + $offset))
           . ($fraction // '') . ($zone // 'Z');
}

sub sent {
    my ($name, $path, $verdict, $timestamp, %opts) = @_;

    my $spooled = $t->spool_lines();
    my %headers = %{delete $opts{headers} // {}};
    my $body = delete $opts{body} // event();
    my $r = $t->post($path, $body, %opts,
                     headers => { 'X-Webhook-Timestamp' => $timestamp,
                                  %headers });

    my %status = (accepted => 200, stale => 422, key => 401,
                  timestamp_header => 400);

    is($r->{status}, $status{$verdict}, "$name: status");
    is($r->{json}{error}, $verdict eq 'accepted' ? undef : $verdict,
       "$name: verdict");
    is($t->spool_lines() - $spooled,
       $verdict eq 'accepted' && $path ne '/receiver' ? 1 : 0,
       "$name: spool");

    return $r;
}

# the time, its fraction and its zone; a second or two may go by

for my $tls (0, 1) {
    for ([0, 'accepted'], [-290, 'accepted'], [299, 'accepted'],
         [-301, 'stale'], [310, 'stale'], [-86400, 'stale'],
         [86400, 'stale'], [2 ** 32, 'stale'], [-2 ** 32, 'stale'],
         [-290, 'accepted', '+05:30'],
         [290, 'accepted', '-11:00'], [-310, 'stale', '+05:30'],
         [310, 'stale', '-11:00'], [0, 'accepted', 'z', '.999'],
         [0, 'accepted', '+00:00', '.5'])
    {
        my ($by, $verdict, $zone, $fraction) = @$_;
        my $timestamp = at($by, $zone, $fraction);

        sent("tls $tls, $by s, $timestamp", '/inherited', $verdict,
             $timestamp, tls => $tls);
    }
}

for my $timestamp ('2024-01-20T14:45:00Z', '0000-01-01T00:00:00Z',
                   '9999-12-31T23:59:60Z', '1970-01-01T00:00:00Z')
{
    sent($timestamp, '/inherited', 'stale', $timestamp);
    sent("off, $timestamp", '/off', 'accepted', $timestamp);
    sent("10000y, $timestamp", '/long', 'accepted', $timestamp);
    sent("endless, $timestamp", '/endless', 'accepted', $timestamp);
}

# the zone is read, not the text

(my $local = at(0)) =~ s/Z$/+02:00/;
sent('another zone', '/inherited', 'stale', $local);

sent('a day', '/day', 'accepted', at(-86000));
sent('more than a day', '/day', 'stale', at(-87000));
sent('receiver', '/receiver', 'accepted', at(0));
sent('receiver, stale', '/receiver', 'stale', at(-400));
sent('another server', '/', 'accepted', at(-400), port => $t->port(2));

# the header decides; the payload's is when it has happened

sent('an old payload', '/inherited', 'accepted', at(0),
     body => event(timestamp => '2001-01-01T00:00:00Z'));
sent('a new payload', '/inherited', 'stale', at(-400),
     body => event(timestamp => at(0)));

# its place: after the form and the key, before the type

sent('malformed', '/inherited', 'timestamp_header', 'now');
sent('without the key', '/key', 'key', at(-400));
sent('with the key', '/key', 'stale', at(-400),
     headers => { 'X-Webhook-Key' => 'secret' },
     body => event(event => 'candidate.updated'));

my $c = $t->connect();
my $timestamp = at(-400);
$c->send(substr $t->message('/inherited', event(timestamp => $timestamp)),
         0, -1);
is($c->answer()->{status}, 422, 'before the body is there');
$c->close();

# its line in the log

$t->mark_log();
sent('logged', '/inherited', 'stale', at(-400));
my @lines = $t->grep_log(qr/webhook refused/);
is(@lines, 1, 'one line');
like($lines[0], qr/\[info\].* refused: stale: the timestamp is too .*, event "/,
     'at info');

$t->no_alerts();

done_testing();
