#!/usr/bin/perl

# What a client says of an answer that it may have already, or in part, changes
# no answer: an event that is stored is answered with 200.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

my $t = Test::Edge->new();
my $gzip = !$t->has('--without-http_gzip_module');
my $types = $gzip ? "gzip on;\ngzip_types application/json text/plain;\n"
                    . 'gzip_min_length 1;' : '';

$t->conf(<<"EOF_CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_https off;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_events resume.*;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location /hook {
            taptalent_webhook on;
        }

        location /decorated {
            taptalent_webhook on;
            taptalent_webhook_response full;

            $types
            etag on;
            expires 1d;
            if_modified_since before;
            add_header Last-Modified "Sat, 20 Jan 2024 14:45:00 GMT";
            add_header Accept-Ranges bytes;
        }

        location /status/json { taptalent_webhook_status json; }
        location /status/prometheus { taptalent_webhook_status prometheus; }

        location /status/html {
            taptalent_webhook_status html;
            add_header Last-Modified "Sat, 20 Jan 2024 14:45:00 GMT";
        }
    }
}
EOF_CONF

$t->run();

my $date = 'Mon, 01 Jan 2001 00:00:00 GMT';
my $later = 'Fri, 01 Jan 2100 00:00:00 GMT';

my @headers = (
    { 'If-Match' => '"x"' }, { 'If-Match' => '*' },
    { 'If-None-Match' => '"x"' }, { 'If-None-Match' => '*' },
    { 'If-None-Match' => 'W/"x"' },
    { 'If-Modified-Since' => $date }, { 'If-Modified-Since' => $later },
    { 'If-Modified-Since' => 'Sat, 20 Jan 2024 14:45:00 GMT' },
    { 'If-Unmodified-Since' => $date }, { 'If-Unmodified-Since' => $later },
    { 'Range' => 'bytes=0-3' }, { 'Range' => 'bytes=-3' },
    { 'Range' => 'bytes=100000-' }, { 'Range' => 'bytes=0-0,2-3' },
    { 'Range' => 'bytes=0-3', 'If-Range' => '"x"' },
    { 'Range' => 'bytes=0-3', 'If-Range' => $later },
    { 'Expect' => '100-continue' }, { 'Expect' => 'x' },
    { 'Accept-Encoding' => 'gzip', 'If-None-Match' => '*',
      'Range' => 'bytes=0-3' },
);

for my $headers (@headers) {
    my $with = join ', ', map { "$_: $headers->{$_}" } sort keys %$headers;

    for my $path ('/hook', '/decorated') {
        my $body = event(path => $path);
        my $answer = $t->post($path, $body, headers => $headers);

        is($answer->{status}, 200, "$path, $with: accepted");
        is($answer->{headers}{'content-range'}, undef, "$path, $with: whole");

        is($answer->{json}{received}, JSON::PP::true(), "$path, $with: answer")
            if !$answer->{headers}{'content-encoding'};

        is(join("\n", map { $_->{_payload} } $t->spool_lines()), $body,
           "$path, $with: stored");

        $t->forget_spool();
    }

    my $answer = $t->post('/hook', event(event => 'candidate.updated'),
                          headers => $headers);
    is($answer->{status}, 200, "$with: ignored");
    is($answer->{body}, '{"received":true,"ignored":true}',
       "$with: ignored, answer");

    $answer = $t->post('/hook', event(companyId => 'x'), headers => $headers);
    is($answer->{status}, 403, "$with: refused");

    for my $form (qw(json prometheus html)) {
        my $r = $t->post("/status/$form", undef, method => 'GET',
                         headers => [%$headers]);

        is($r->{status}, 200, "$form, $with: status");
        is($r->{headers}{'content-range'}, undef, "$form, $with: whole");
    }
}

# each has a verdict in the access log

my $sent = @headers * 7;

$t->wait_for(sub { my @lines = $t->access_log(); @lines >= $sent }, 5,
             'the access log');
is(join("\n", grep { !m{^(200 (accepted|ignored)|403 company_id) POST /}
                    && !m{^200 - GET /status/} } $t->access_log()), '',
   'the access log has a verdict for each');

$t->no_alerts();

done_testing();
