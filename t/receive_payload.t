#!/usr/bin/perl

# What makes a JSON value an event: an object with event, timestamp, companyId
# and data, each once and of its type.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();

$t->conf(<<'EOF_CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id any;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    keepalive_requests 10000;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location / {
            taptalent_webhook on;
        }

        location /missing {
            taptalent_webhook on;
            taptalent_webhook_company_id any missing=accept;
        }
    }
}
EOF_CONF

$t->run();

my $path = '/';

# Headers are the documented ones, whatever the body says.

sub verdict_of {
    my ($body, $headers) = @_;
    my $r = $t->post($path, $body, headers => $headers
                                              // headers_for(event()));
    return $r->{status} == 200 ? 'accepted'
           : "$r->{status} " . ($r->{json}{error} // $r->{error} // '');
}

sub verdicts {
    my ($verdict, $group, @bodies) = @_;
    for my $body (@bodies) {
        my $name = length $body > 100 ? substr($body, 0, 100) . '...' : $body;
        is(verdict_of($body), $verdict, "$group: $name");
    }
}

sub accepted { verdicts('accepted', @_) }
sub refused { verdicts('422 payload', @_) }

my @all = ('null', 'true', 'false', '0', '1', '-1', '1.5', '"x"', '""', '[]',
           '["x"]', '{}', '{"x":1}');

sub except {
    my ($re) = @_;
    return grep { $_ !~ $re } @all;
}

sub with {
    my ($name, @texts) = @_;
    return map { my $text = $_; event($name => \$text) } @texts;
}


# an object

refused('not an object', grep({ $_ !~ /^\{/ } @all), '[' . event() . ']',
        '{}', '{"x":1}');


# members missing

for my $name (qw(event timestamp companyId data)) {
    refused("$name: missing", event($name => undef));
    refused("$name: in data only",
            event($name => undef, data => { $name => 'x' }))
        if $name ne 'data';
    refused("$name: another case", event($name => undef, uc $name => 'x'));
    refused("$name: longer", event($name => undef, "${name}s" => 'x'));
    refused("$name: shorter", event($name => undef, substr($name, 1) => 'x'));
}


# types

refused('event: type', with(event => except(qr/^"/)));
refused('timestamp: type', with(timestamp => except(qr/^"/)));
refused('companyId: type', with(companyId => except(qr/^("x"|-?\d+)$/)));
refused('data: type', with(data => except(qr/^\{/)));

accepted('data', with(data => '{}', '{"x":1}', '{"event":1,"data":[]}',
                      '{"event":"a","event":"b"}'));


# companyId

accepted('companyId', with(companyId =>
    '"a"', '"' . 'a' x 256 . '"', '12345', '0', '-1', '-0',
    '123456789012345678901234567890', '"12345"', '" "', '"\\u0041"',
    '"' . '\\u0041' x 256 . '"', '"' . "\xc3\xa9" x 128 . '"',
    '"' . '\\u00e9' x 128 . '"'));

refused('companyId', with(companyId =>
    '""', '"' . 'a' x 257 . '"', '1.0', '1e3', '1E3', '-1.5', '1.5e3',
    '"' . '\\u0041' x 257 . '"', '"' . "\xc3\xa9" x 129 . '"',
    '"' . '\\u00e9' x 129 . '"'));


# members repeated; only these four, and only at the top

my %text = (
    event => '"resume.bulk_upload_parse.started"',
    timestamp => '"2024-01-20T14:45:00Z"',
    companyId => '"company-uuid"',
    data => '{}',
);

for my $name (sort keys %text) {
    my $escaped = sprintf '\\u%04x%s', ord $name, substr $name, 1;
    my $upper = sprintf '\\u%04X%s', ord $name, substr $name, 1;
    my $every = join '', map { sprintf '\\u%04x', ord } split //, $name;

    for my $key ($name, $escaped, $upper, $every) {
        refused("$name: repeated", event() =~ s/^\{/{"$key":$text{$name},/r,
                event() =~ s/\}$/,"$key":$text{$name}}/r);
        accepted("$name: spelt with escapes",
                 event() =~ s/"$name":/"$key":/r);
    }

    refused("$name: repeated with another type",
            event() =~ s/^\{/{"$name":null,/r);
    accepted("$name: repeated in an object of another member",
             event(other => \"{\"$name\":1,\"$name\":2}"));
}

accepted('other members repeated', event() =~ s/^\{/{"x":1,"x":2,"x":3,/r);
accepted('other keys', event('' => 1), event() =~ s/^\{/{"event\\u0000":1,/r,
         event(' event' => 1), event('event ' => 1), event(events => 1));


# the order does not matter

accepted('order', '{"data":{},"companyId":1,"timestamp":"2024-01-20T14:45:00Z",'
                  . '"event":"resume.bulk_upload_parse.started"}');


# event: the header's, however it is spelt

accepted('event: escaped',
         event() =~ s/"resume\./"\\u0072\\u0065sume\\u002E/r);

is(verdict_of($_), '422 event_mismatch', "event: $_")
    for with(event => '""', '"a b"', '"' . 'x' x 5000 . '"',
             '"resume.bulk_upload_parse.started\\u0000"',
             '"resume.bulk_upload_parse.started "',
             '"Resume.bulk_upload_parse.started"');


# date-times, in the body and in the header

my @valid = qw(
    2024-01-20T14:45:00Z 2024-01-20t14:45:00z 2024-01-20T14:45:00.1Z
    2024-01-20T14:45:00.123456789012345678901234567890Z
    2024-01-20T14:45:00.000+00:00 2024-01-20T14:45:00+05:30
    2024-01-20T14:45:00-00:00 2024-01-20T14:45:00-23:59
    2024-01-20T14:45:00+23:59 2024-01-20T00:00:00Z 2024-01-20T23:59:59Z
    2016-12-31T23:59:60Z 2016-12-31T23:59:60.5Z 2024-02-29T00:00:00Z
    2000-02-29T00:00:00Z 2024-12-31T00:00:00Z 2024-04-30T00:00:00Z
    1970-01-01T00:00:00Z 9999-12-31T23:59:59Z 1900-02-28T00:00:00Z
);

my @invalid = (qw(
    2024-01-20 14:45:00Z 1705761900 1705761900000 now Z T
    2024-01-20T14:45:00 2024-01-20T14:45Z 2024-01-20T14Z 20240120T144500Z
    2024-01-20T14:45:00.Z 2024-01-20T14:45:00.5
    2024-01-20T14:45:00+0530 2024-01-20T14:45:00+05 2024-01-20T14:45:00+5:30
    2024-01-20T14:45:00+05:3 2024-01-20T14:45:00+24:00
    2024-01-20T14:45:00+05:60 2024-01-20T14:45:00+ 2024-01-20T14:45:00ZZ
    2024-01-20T14:45:00Z+00:00 2024-01-20T14:45:00GMT 2024-01-20T14:45:00A
    2024-00-20T14:45:00Z 2024-13-20T14:45:00Z 2024-01-00T14:45:00Z
    2024-01-32T14:45:00Z 2024-02-30T14:45:00Z 2023-02-29T14:45:00Z
    1900-02-29T14:45:00Z 2100-02-29T14:45:00Z 2024-04-31T14:45:00Z
    2024-06-31T14:45:00Z 2024-09-31T14:45:00Z 2024-11-31T14:45:00Z
    2024-01-20T24:00:00Z 2024-01-20T14:60:00Z 2024-01-20T14:45:61Z
    24-01-20T14:45:00Z 02024-01-20T14:45:00Z -2024-01-20T14:45:00Z
    2024-1-20T14:45:00Z 2024-01-2T14:45:00Z 2024-01-20T1:45:00Z
    2024-01-20T14:5:00Z 2024-01-20T14:45:0Z 2024/01/20T14:45:00Z
    2024-01-20T14.45.00Z 2024-W03-6T14:45:00Z 2024-020T14:45:00Z
    2024-01-20T14:45:00Zx x2024-01-20T14:45:00Z 2024-01-20X14:45:00Z
    2024-01-20T-1:45:00Z 2024-01-20T14:45:00.1.2Z
), '2024-01-20 14:45:00Z', '2024-01-20T14:45:00,5Z',
   '2024-01-20T14:45:00 Z', '2024-01-20T14:45: 0Z',
   'Sat, 20 Jan 2024 14:45:00 GMT', '2024-01-20T14:45:00Z 2024-01-20T14:45:00Z',
   '2024-01-20T14:45:00Z, 2024-01-20T14:45:00Z', '2' x 1000);

for my $timestamp (@valid) {
    my $body = event(timestamp => $timestamp);
    is(verdict_of($body), 'accepted', "timestamp: body: $timestamp");
    is(verdict_of(event(), headers_for(event(),
                                       'X-Webhook-Timestamp' => $timestamp)),
       'accepted', "timestamp: header: $timestamp");
}

for my $timestamp (@invalid) {
    my $name = substr $timestamp, 0, 60;
    is(verdict_of(event(timestamp => $timestamp)), '422 payload',
       "timestamp: body: $name");
    is(verdict_of(event(), headers_for(event(),
                                       'X-Webhook-Timestamp' => $timestamp)),
       '400 timestamp_header', "timestamp: header: $name");
}

refused('timestamp', with(timestamp => '""', '" 2024-01-20T14:45:00Z"',
                          '"2024-01-20T14:45:00Z "',
                          '"2024-01-20T14:45:00Z\\u0000"',
                          '"2024-01-20T14:45:0\\u0660Z"'));
accepted('timestamp: escaped',
         with(timestamp => '"2024\\u002d01-20T14:45:00\\u005A"'));


# both generations of the sender's documentation

accepted('generation', event(companyId => 'company-uuid'),
         event(companyId => 12345,
               data => { batchId => 7, jobId => undef, status => 'completed',
                         fileCount => 2, successCount => 1,
                         failedCount => 1 }));

refused('missing=reject', event(companyId => undef));

$path = '/missing';

accepted('missing=accept', event(companyId => undef), event());
refused('missing=accept', with(companyId => 'null', '""', 'true', '1.5', '{}'),
        event(event => undef), event(data => undef), event(timestamp => undef));

# The access log is complete when nginx has ended.

$t->quit();

my @lines = $t->spool_lines();
my $accepted = () = $t->access_log() =~ /^200 accepted /mg;

is(@lines, $accepted, "all $accepted accepted are in the spool");

$t->no_alerts();

done_testing();
