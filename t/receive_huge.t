#!/usr/bin/perl

# A body larger than a variable of nginx can be: it is never signed, nor
# delivered, by the part that would fit.
#
# slow: bodies of more than 256 megabytes

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new();

my ($memory) = $t->read_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+)/m;
my ($disk) = `df -Pk ${\$t->prefix()}` =~ /(\d+)\s+\d+%\s\S+\n\z/;

plan(skip_all => 'needs 3 GB of memory and 1 GB of disk')
    if ($memory // 0) < 3 << 20 || ($disk // 0) < 1 << 20;

$t->conf(<<'CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_retry initial=100ms max=100ms;

    client_max_body_size 300m;
    client_body_timeout 600s;
    send_timeout 600s;

    log_format body '$status $taptalent_verdict "$taptalent_body"';
    log_format delivered '$uri $status "$taptalent_body"';

    map $taptalent_body $company {
        default x$taptalent_company_id;
        ''      $taptalent_company_id;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /signed {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
            taptalent_webhook_signature header=X-Sign key=k3y
                signed=v0:$taptalent_body;
            access_log %%PREFIX%%/signed.log body;
        }

        location = /company {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
            taptalent_webhook_company_id $company;
        }

        location = /forwarded {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
        }

        location = /application {
            internal;
            log_subrequest on;
            access_log %%PREFIX%%/delivered.log delivered;
            set $text "the body: $taptalent_body";
            proxy_set_header X-Text $taptalent_event_id;
            proxy_set_body $text;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
CONF

my $sink = Test::Sink->new(port => $t->port(2));

$t->run();

# of 28 bits those that are beyond leave the first 17 bytes

my $more = event(more => '') =~ s/"\}$//r;
my $part = substr $more, 0, 17;
my $size = (1 << 28) + 17;

sub sent {
    my ($path, $size, @headers) = @_;

    my $c = $t->connect();
    my $block = 'x' x (1 << 20);
    my $left = $size - length($more) - 2;

    $c->send($t->message($path, $more, length => $size,
                         headers => [@{headers_for("$more\"}")}, @headers]));

    while ($left > 0) {
        my $n = $left < length $block ? $left : length $block;
        $c->send(substr($block, 0, $n), timeout => 600) or last;
        $left -= $n;
    }

    $c->send('"}');

    my $answer = $c->answer(timeout => 600);
    $c->close();

    return $answer;
}

my $answer = sent('/signed', $size,
                  'X-Sign' => hmac_sha256_hex("v0:$part", 'k3y'));

is($answer->{status}, 413, 'a part is signed: status');
is($answer->{json}{error}, 'too_large', 'a part is signed: verdict');

$t->wait_for(sub { my @lines = split /\n/, $t->read_file('signed.log');
                   @lines == 1 }, 10, 'the access log');
is($t->read_file('signed.log'), qq(413 too_large "-"\n), 'the access log');

$answer = sent('/company', $size);
is($answer->{json}{error}, 'too_large', 'a company that is made of it');

like(($t->grep_log(qr/too large for a variable/))[0] // '',
     qr/\[error\].* a body of $size bytes .*write "client_max_body_size 191m"/,
     'the error log');

# what fits by itself, but not with the text around it

$size = (1 << 28) - 5;

$t->mark_log();
$answer = sent('/forwarded', $size);
is($answer->{status}, 200, 'forwarded: acknowledged');

ok($t->wait_for(sub {
    my @log = split /\n/, $t->read_file('delivered.log');
    @log >= 2 && $sink->requests() >= 2
}, 60, 'two attempts'), 'forwarded: it is tried again');

is(join(' ', grep { $_ ne 'the body: ' } map { $_->{body} } $sink->requests()),
   '', 'forwarded: no part of it is sent');
ok(scalar $t->grep_log(qr/too large for a variable/),
   'forwarded: the error log says why');

ok(-1 == index($t->read_file('delivered.log'), $part),
   'nor is it in the log of deliveries');

$t->no_alerts();

done_testing();
