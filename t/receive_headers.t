#!/usr/bin/perl

# The headers of an event: as many as nginx takes, each name once in the spool,
# and one spelling of it that counts.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

my $location = sub {
    my ($name, $directives) = @_;
    return <<"CONF";
        location = /$name {
            taptalent_webhook on;
            $directives
        }
CONF
};

my $locations = join '',
    $location->('any', ''),
    $location->('key', 'taptalent_webhook_key k3y;'),
    $location->('signed', 'taptalent_webhook_signature header=X-Webhook-Sign
                key=k3y timestamp=$http_x_webhook_time
                "signed=$http_x_webhook_time.${http_X_webhook_Note_2}.'
                . '$http_x_note.$taptalent_body";'),
    $location->('underscore', 'taptalent_webhook_signature
                header=X_Webhook_Sign key=k3y;');

# freenginx and newer ones of nginx count them

configure('max_headers 100000;') == 0 or configure('');

sub configure {
    my ($directive) = @_;

    $t->conf(<<"CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    large_client_header_buffers 8 64k;
    $directive

    server {
        listen 127.0.0.1:%%PORT_0%%;
        underscores_in_headers on;
$locations
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
        ignore_invalid_headers off;
$locations
    }

    server {
        listen 127.0.0.1:%%PORT_3%%;
$locations
    }
}
CONF

    my ($status) = $t->config_test();

    return $status;
}

$t->run();


# Headers as pairs, with those of the event; what is in the spool of it.

sub stored {
    my ($name, $path, $headers, $expected, %opts) = @_;

    my $answer = $t->post($path, event(), %opts,
                          headers => [@{headers_for(event())}, @$headers]);
    is($answer->{status}, 200, "$name: accepted") or diag($answer->{body});

    my @lines = $t->spool_lines();
    is(@lines, 1, "$name: stored");

    my %stored = %{$lines[0]{headers} // {}};
    delete @stored{qw(content-type x-webhook-event x-webhook-timestamp)};
    is_deeply(\%stored, $expected, "$name: its headers") if $expected;

    $t->forget_spool();
}

sub refused {
    my ($name, $path, $verdict, $headers, %opts) = @_;

    my $answer = $t->post($path, event(), %opts,
                          headers => [@{headers_for(event())}, @$headers]);
    is($answer->{json}{error}, $verdict, "$name: $verdict");
    is(scalar $t->spool_lines(), 0, "$name: nothing is stored");

    return $answer;
}

# what the worker needs for it, in ticks

sub spent {
    my ($headers) = @_;
    my ($pid) = $t->workers();
    my @ticks;

    for (0 .. 5) {
        push @ticks, ticks($pid) if $_ % 5 == 0;
        stored("work $_", '/any', $headers) if $_ < 5;
    }

    return $ticks[1] - $ticks[0];
}

sub ticks {
    my ($pid) = @_;
    my @fields = split ' ', $t->read_file("/proc/$pid/stat") =~ s/^.*\) //sr;
    return $fields[11] + $fields[12];
}


# what is repeated is one list, in the order in which it came

stored('repeated', '/any',
       ['X-Webhook-B' => 'b1', 'X-Webhook-A' => 'a1', 'x-webhook-b' => '',
        'X-WEBHOOK-B' => 'b3', 'X-Webhook-C' => 'c', 'X-Webhook-A' => 'a2',
        'X-Other' => 'x', 'X-Webhook-Key' => 'k1', 'X-Webhook-' => 'y'],
       { 'x-webhook-a' => 'a1, a2', 'x-webhook-b' => 'b1, , b3',
         'x-webhook-c' => 'c' });

stored('repeated types', '/any', ['X-Webhook-Type' => 'a'],
       { 'x-webhook-type' => 'a' });


# Thousands, of one name, of as many names, and of each in two.

my $many = 8 * 65536 / 32 - 100;
my $value = 'x' x 8;

stored('of one name', '/any', [('X-Webhook-Same' => $value) x $many],
       { 'x-webhook-same' => join ', ', ($value) x $many });

my @names = map { sprintf 'x-webhook-%06d', $_ } 1 .. $many;

stored('of as many names', '/any', [map { ($_ => $value) } @names],
       { map { $_ => $value } @names });

@names = @names[0 .. $many / 2 - 1];

stored('each in two', '/any', [map { ($_ => $value) } @names, reverse @names],
       { map { $_ => "$value, $value" } @names });

# as much work for as many names as for one, but for what a tree costs: with a
# comparison of each with each it would be 500 times as much

my $same = spent([('X-Webhook-Same' => $value) x $many]);
my $apart = spent([map { (sprintf('x-webhook-%06d', $_) => $value) }
                       1 .. $many]);

diag("1/100 s of the worker for $many headers, 5 times: $same of one "
     . "name, $apart of as many");
cmp_ok($apart, '<', 20 * $same + 50, 'the work is in proportion');

refused('many without the key', '/key', 'key',
        [('X-Webhook-Same' => $value) x $many]);
stored('many with the key', '/key',
       ['X-Webhook-Key' => 'k3y', ('X-Webhook-Same' => $value) x $many]);


# Underscores: where nginx takes them for another header, $http_x_webhook_event
# could be either.

my @spellings = ('X_Webhook_Event', 'x-webhook_event', 'X_Webhook-Event',
                 'X_Webhook_Timestamp', 'X_Webhook_Key', 'X_Webhook_Any',
                 'X-Webhook-An_y', 'X_WEBHOOK_');

for my $name (@spellings) {
    for my $port (0, 2) {
        my $answer = refused("$name, port $port", '/any', 'event_header',
                             [$name => 'x'], port => $t->port($port));
        like($answer->{json}{message}, qr/hyphens/, "$name: it says why");
    }

    # nginx itself leaves it out

    stored("$name, ignored", '/any', [$name => 'x'], {},
           port => $t->port(3));
}

stored('other names', '/any', ['X_Web' => 'x', 'X_Webhooks_Any' => 'x',
                               'Content_Type' => 'x', '_' => 'x'], {});

my $answer = $t->post('/any', event(), headers => {
    'X-Webhook-Event' => undef,
    'X_Webhook_Event' => 'resume.bulk_upload_parse.started' });
is($answer->{json}{error}, 'event_header', 'none but the other');


# what is signed is what is stored

my $now = time();

sub signed {
    my ($time, $note, $other) = @_;
    return ('X-Webhook-Sign' => hmac_sha256_hex(
        join('.', $time, $note, $other, event()), 'k3y'));
}

my @good = ('X-Webhook-Time' => $now, 'X-Webhook-Note-2' => 'n',
            'X-Note' => 'o', signed($now, 'n', 'o'));

stored('signed', '/signed', \@good);
stored('signed, and more that is not', '/signed',
       [@good, 'X-Webhook-More' => 'x', 'X-Webhook-More' => 'y',
        'X-Webhook-Note-2-3' => 'z']);
refused('signed, with another', '/signed', 'signature',
        [@good, 'X-Webhook-Note-2' => 'x']);
refused('signed, with another before', '/signed', 'signature',
        ['X-Webhook-Note-2' => 'x', @good]);
refused('signed, with another time', '/signed', 'signature',
        [@good, 'x-webhook-time' => $now]);
refused('signed, spelled otherwise', '/signed', 'event_header',
        ['X_Webhook_Note_2' => 'n', 'X-Webhook-Note-2' => 'forged',
         @good[0, 1, 4 .. 7]]);

$t->mark_log();
refused('signed, empty', '/signed', 'signature',
        [@good, 'X-Webhook-Note-2' => '']);
like(join('', $t->grep_log(qr/refused: signature/)),
     qr/a header that is signed is repeated/, 'the log says why');

# that of the signature may be spelled so, it is not stored

stored('an underscore', '/underscore',
       ['X_Webhook_Sign' => hmac_sha256_hex(event(), 'k3y')], {});
refused('a hyphen instead', '/underscore', 'signature',
        ['X-Webhook-Sign' => hmac_sha256_hex(event(), 'k3y')]);

$t->no_alerts();

done_testing();
