#!/usr/bin/perl

# The status location: its formats, what is counted, what is measured on the
# disk, and what of it a reload, a kill and a restart leave.

use strict;
use warnings;

use Digest::SHA qw(sha256_base64);
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Load;

my $t = Test::Edge->new(workers => 2);
my $spool = $t->spool();
my $p = $t->prefix();

my $locations = <<'EOF';
        location /hook {
            taptalent_webhook on;
            taptalent_webhook_company_id ours;
            taptalent_webhook_events "a.*" "b.*";
            taptalent_webhook_spool %%SPOOL%%;
            client_max_body_size 2k;
        }

        location /sent {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/sent;
            taptalent_webhook_forward /deliver;
            taptalent_webhook_retry initial=200ms max=400ms;
        }

        location /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /nowhere queue=3;
            taptalent_webhook_retry initial=1h max=1h;
        }

        location /report {
            taptalent_webhook on;
            taptalent_webhook_key right;
            taptalent_webhook_enforce off;
            taptalent_webhook_spool %%PREFIX%%/report;
        }

        location /low {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/low min_free=1000000g;
        }

        location = /deliver {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }

        location = /nowhere {
            internal;
            return 503;
        }
EOF

my $conf = <<"EOF";
%%GLOBALS%%
worker_shutdown_timeout 1s;

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    server {
        listen 127.0.0.1:%%PORT_0%%;

$locations
        location = /status { taptalent_webhook_status; }
        location = /if {
            taptalent_webhook_status json;
            if (\$arg_x) { set \$x 1; }
        }
        location = /except {
            taptalent_webhook_status json;
            limit_except POST { allow all; }
        }
        location = /html { taptalent_webhook_status html; }
        location = /json { taptalent_webhook_status json; }
        location = /metrics { taptalent_webhook_status prometheus; }
    }
}
EOF

$t->conf($conf);

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');

$t->run();
$t->expect_alert(qr/worker process \d+ exited on signal 9/);

formats();
configurations();
verdicts();
types();
recent();
backlog();
waiting();
unreadable();
states();
deliveries();
memory();
history();
kept();
outage();
without();

$t->no_alerts();

done_testing();


sub status {
    my $r = $t->get('/json');

    return $r->{json} || { error => $r->{body} };
}

sub metrics {
    my %metrics;

    for my $line (split /\n/, $t->get('/metrics')->{body}) {
        $metrics{$1} = $2 if $line =~ /^(?!#)(.*) (\S+)$/;
    }

    return \%metrics;
}

# the spool of this name, when a condition on it has become true

sub spool {
    my ($name, $sub, $what) = @_;
    my $found;

    $t->wait_for(sub {
        ($found) = grep { $_->{path} eq "$p/$name" } @{ status()->{spools} };
        local $_ = $found;
        return $found && (!$sub || $sub->($found));
    }, 15, $what || 'the spool in the status');

    return $found;
}


# formats ----------------------------------------------------------------------

sub formats {
    my $page = $t->read_file($t->sources('page.html'));
    my %type = (html => 'text/html; charset=utf-8', json => 'application/json',
                metrics => 'text/plain; version=0.0.4; charset=utf-8');

    my $browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,'
                  . '*/*;q=0.8';
    my $prometheus = 'application/openmetrics-text;version=1.0.0;q=0.5,'
                     . 'text/plain;version=0.0.4;q=0.3,*/*;q=0.1';

    for my $case (
        ['/status', $browser, 'html'], ['/status', 'Application/JSON', 'json'],
        ['/status', $prometheus, 'metrics'], ['/status', '*/*', 'metrics'],
        ['/status', undef, 'metrics'], ['/html', $browser, 'html'],
        ['/html', undef, 'html'], ['/html', 'application/json', 'json'],
        ['/json', $browser, 'json'], ['/json', undef, 'json'],
        ['/metrics', $browser, 'metrics'],
        ['/metrics', 'application/json', 'metrics'],

        # what is excluded, what is wanted most, what is named most exactly

        ['/status', 'text/html;q=0, application/json', 'json'],
        ['/status', 'text/html;q=0', 'metrics'],
        ['/status', 'text/html;q=0.000,*/*', 'metrics'],
        ['/status', 'application/json;q=0,*/*', 'metrics'],
        ['/status', 'text/html;q=0.4,application/json;q=0.5', 'json'],
        ['/status', 'text/html;q=0.500,application/json;q=0.499', 'html'],
        ['/status', "text/html \t;\t q=0.1 , application/json ; Q=1.0", 'json'],
        ['/status', 'text/plain,text/html;q=0.9', 'metrics'],
        ['/status', 'application/json, text/plain, */*', 'json'],
        ['/status', 'application/*', 'json'],
        ['/status', 'APPLICATION/*;q=0.2,*/*;q=0.1', 'json'],
        ['/status', 'text/*', 'metrics'],
        ['/status', 'text/*;q=0.5,text/plain;q=0.1', 'html'],
        ['/status', 'text/*;q=0.5,text/plain;q=0.1,*/*', 'json'],
        ['/status', '*/*;q=0.5,text/plain;q=0,text/html;q=0', 'json'],
        ['/status', '*/*;q=0', 'metrics'],
        ['/status', 'text/html;level=1', 'html'],
        ['/status', 'text/html;x="a,application/json;q=1,";q=0.1,*/*;q=0.2',
         'metrics'],
        ['/status', 'text/html;x="\\",";q=0.1,application/json', 'json'],
        ['/status', 'text/htmlx, xtext/html, application/jsonp', 'metrics'],
        ['/status', 'text/html;q=2, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=0.1234, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=x, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=1.001, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=05, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=0./1, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=0.1:, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q=/, application/json;q=0.001', 'json'],
        ['/status', 'text/html;q5, application/json;q=0.9', 'html'],
        ['/status', 'a/b, text*, /*, application/json;q=0.1', 'json'],
        ['/status', ',, ,application/json,', 'json'],
        ['/status', ['text/html;q=0.1', 'application/json;q=0.2'], 'json'],
        ['/status', ['application/json;q=0.1', 'text/html;q=0.2'], 'html'],
        ['/status', '', 'metrics'],
        ['/html', 'application/json;q=0', 'html'],
        ['/html', 'application/json;q=0.5,text/html', 'html'],
        ['/html', '*/*;q=0.1,application/json', 'json'],
        ['/html', 'text/plain', 'html'], ['/json', 'text/html', 'json'],
    ) {
        my ($uri, $accept, $format) = @$case;
        my @accept = ref $accept ? @$accept : $accept // ();
        my $name = "$uri, Accept: " . (join(' + ', @accept) || 'none');

        my $r = $t->get($uri, headers => [Origin => 'text/html',
                                          map { (Accept => $_) } @accept]);

        is($r->{status}, 200, $name);
        is($r->{headers}{'content-type'}, $type{$format}, 'type');
        is($r->{headers}{'cache-control'}, 'no-store', 'not to be kept');
        is($r->{headers}{vary}, 'Accept', 'Vary');
        is($r->{headers}{'x-content-type-options'}, 'nosniff', 'nosniff');
        is(length $r->{body}, $r->{headers}{'content-length'}, 'length');

        if ($format eq 'html') {
            is($r->{body}, $page, 'the page, to the byte');

        } elsif ($format eq 'json') {
            ok($r->{json}{verdicts}, 'JSON');

        } else {
            like($r->{body}, qr/^taptalent_webhook_requests_total\{/m,
                 'metrics');
        }
    }

    for my $uri ('/if', '/if?x=1', '/except') {
        my $r = $t->get($uri);

        is($r->{status}, 200, $uri);
        is($r->{headers}{'content-type'}, $type{json}, 'type');
        ok($r->{json}{verdicts}, 'JSON');
    }

    my $r = $t->get('/html');
    my ($style) = $page =~ m{<style>(.*?)</style>}s;
    my ($script) = $page =~ m{<script>(.*?)</script>}s;

    is($r->{headers}{'content-security-policy'},
       "default-src 'none'; style-src 'sha256-" . sha256_base64($style)
       . "='; script-src 'sha256-" . sha256_base64($script) . "='; "
       . "connect-src 'self'; img-src data:; base-uri 'none'; "
       . "form-action 'none'; frame-ancestors 'none'",
       'the page may do nothing but show');
    is($r->{headers}{'referrer-policy'}, 'no-referrer', 'nor tell of itself');
    unlike($page, qr{<\w[^>]*\s(?:style|on\w+)=}, 'no inline style or handler');
    is(() = $page =~ m{https?://(?!www\.w3\.org/2000/svg|\$\{location)}g, 0,
       'no address of another host');

    for my $uri ('/status', '/html', '/json', '/metrics') {
        my $head = $t->get($uri, method => 'HEAD');

        is($head->{status}, 200, "HEAD $uri");
        is($head->{body}, '', 'no body');

        is($t->post($uri, event())->{status}, 405, "POST $uri");
    }

    my $c = $t->connect();

    $c->send($t->message('/json', undef, method => 'GET', headers => [],
                         keepalive => 1) x 2);
    is($c->answer(method => 'GET')->{status}, 200, 'pipelined: the first');
    is($c->answer(method => 'GET')->{status}, 200, 'the second');
    $c->close();
}


sub configurations {
    my $server = 'server { listen 127.0.0.1:%%PORT_0%%; ';

    for my $case (
        ['taptalent_webhook_zone 64k;', '', qr/invalid size "64k", write "off"/],
        ['taptalent_webhook_zone big;', '', qr/invalid size "big", write "off"/],
        ['taptalent_webhook_zone 1m; taptalent_webhook_zone 1m;', '',
         qr/"taptalent_webhook_zone" directive is duplicate/],
        ['', 'location / { taptalent_webhook_zone 1m; }',
         qr/"taptalent_webhook_zone" directive is not allowed here/],
        ['', 'location / { taptalent_webhook_status xml; }',
         qr/invalid format "xml", write "html", "json", "prometheus"/],
        ['', 'location / { taptalent_webhook_status;
                           taptalent_webhook_status; }',
         qr/"taptalent_webhook_status" directive is duplicate/],
        ['', 'location / { proxy_pass http://127.0.0.1:1;
                           taptalent_webhook_status; }',
         qr/shares its location with another directive/],
        ['', 'location / { taptalent_webhook_status;
                           proxy_pass http://127.0.0.1:1; }',
         qr/shares its location with another directive/],
        ['', 'location / { taptalent_webhook_status;
                           taptalent_webhook receiver; }',
         qr/shares its location with/],
        ['taptalent_webhook_zone off;',
         'location / { taptalent_webhook_status; }',
         qr/write a size instead of "taptalent_webhook_zone off"/],
        ['taptalent_webhook_zone 256k;',
         'location / { taptalent_webhook_status; }', undef],
        ['taptalent_webhook_zone off;', 'location / { return 200; }', undef],
    ) {
        my ($http, $location, $message) = @$case;

        $t->conf("%%GLOBALS%%\nevents { }\nhttp {\n$http\n$server $location }"
                 . "\n}\n", 'other.conf');

        my ($exit, $output) = $t->config_test('other.conf');

        if ($message) {
            isnt($exit, 0, "bad: $http $location");
            like($output, $message, 'and it says why');

        } else {
            is($exit, 0, "good: $http $location") or diag($output);
        }
    }
}


# counters ---------------------------------------------------------------------

sub verdicts {
    my $before = status()->{verdicts};
    my $bytes = status()->{bytes};
    my $good = event(event => 'a.x', companyId => 'ours');
    my %sent = (accepted => 3, ignored => 1, method => 2, content_type => 1,
                content_encoding => 1, event_header => 1, timestamp_header => 1,
                too_large => 2, json => 1, payload => 1, event_mismatch => 1,
                company_id => 2, unavailable => 1);

    $t->post('/hook', $good) for 1 .. 3;
    $t->post('/hook', event(event => 'c.x'));
    $t->get('/hook') for 1 .. 2;
    $t->post('/hook', $good, headers => { 'Content-Type' => 'text/plain' });
    $t->post('/hook', $good, headers => { 'Content-Encoding' => 'gzip' });
    $t->post('/hook', $good, headers => { 'X-Webhook-Event' => undef });
    $t->post('/hook', $good, headers => { 'X-Webhook-Timestamp' => 'now' });
    $t->post('/hook', $good . ' ' x 4096);
    $t->post('/hook', $good . ' ' x 4096, chunked => 1000);
    $t->post('/hook', '{', headers => { 'X-Webhook-Event' => 'a.x' });
    $t->post('/hook', '[]', headers => { 'X-Webhook-Event' => 'a.x' });
    $t->post('/hook', $good, headers => { 'X-Webhook-Event' => 'a.y' });
    $t->post('/hook', event(event => 'a.x', companyId => 'theirs')) for 1 .. 2;
    $t->post('/low', $good);

    my $after = status()->{verdicts};
    my $metrics = metrics();

    for my $verdict (sort keys %$after) {
        is($after->{$verdict} - $before->{$verdict}, $sent{$verdict} // 0,
           "$verdict: " . ($sent{$verdict} // 0));
        is($metrics->{"taptalent_webhook_requests_total{verdict=\"$verdict\"}"},
           $after->{$verdict}, 'the same in the metrics');
    }

    is(status()->{bytes} - $bytes, 3 * length $good, 'bytes of what was taken');
    is($metrics->{'taptalent_webhook_received_bytes_total'}, status()->{bytes},
       'the same in the metrics');
    is(status()->{events}{'a.x'}, 3, 'by type');
    is($metrics->{'taptalent_webhook_events_total{event="a.x"}'}, 3,
       'the same in the metrics');
    ok(!exists status()->{events}{'c.x'}, 'no type of what was not taken');

    my $s = spool('spool');

    is($s->{commits}, 3, 'commits');
    is($s->{committed}, 3, 'events in them');
    is($s->{commit_errors}, 0, 'none failed');
    is($s->{commit_duration}{count}, 3, 'how long they took: how many');
    cmp_ok($s->{commit_duration}{sum}, '>', 0, 'in all');
    is_deeply($s->{commit_events}{buckets}[0], [1, 3], 'commits of one event');
    is($metrics->{"taptalent_webhook_commits_total{spool=\"$spool\","
                  . 'result="ok"}'}, 3, 'the same in the metrics');
    is($metrics->{"taptalent_webhook_commit_duration_seconds_count{spool="
                  . "\"$spool\"}"}, 3, 'and the histogram');
    is($metrics->{"taptalent_webhook_commit_events_bucket{spool=\"$spool\","
                  . 'le="+Inf"}'}, 3, 'up to its end');
}


# more types than there are names for

sub types {
    my $c = $t->connect();

    for my $i (1 .. 80) {
        $c->send($t->message('/hook', event(event => "b.$i",
                                            companyId => 'ours'),
                             keepalive => 1));
        is($c->answer()->{status}, 200, "type $i") if $i == 1 || $i == 80;
        $c->answer() if $i != 1 && $i != 80;
    }

    $c->close();

    my $events = status()->{events};

    is(scalar keys %$events, 65, 'no more types than 64, and other');
    is($events->{other}, 17, 'the rest of them');
    is($events->{'b.1'}, 1, 'the first one by its name');

    my $sum = 0;
    $sum += $_ for values %$events;

    is($sum, status()->{verdicts}{accepted}, 'together all that was accepted');
}


sub recent {
    my $text = "<b>\"\\' \x{e9}";
    my $long = 'x' x 256;

    $t->post('/hook', event(event => 'a.hostile', companyId => $text));
    $t->post('/hook', event(event => 'a.long', companyId => $long));

    my ($last, $one) = @{ status()->{recent} };

    is($last->{company}, $long, 'the longest companyId');
    is($one->{verdict}, 'company_id', 'the last but one: verdict');
    is($one->{status}, 403, 'status');
    is($one->{event}, 'a.hostile', 'event');
    is($one->{company}, $text, 'companyId, exactly');
    like($one->{id}, qr/^[0-9a-f]{32}$/, 'id');
    is($one->{why}, 'this companyId is not received here', 'the reason');
    like($one->{hint}, qr/taptalent_webhook_company_id/, 'what to do');
    cmp_ok(abs($one->{time} - time()), '<', 60, 'time');

    $t->post('/hook', '{', headers => { 'X-Webhook-Event' => 'a.x' })
        for 1 .. 70;

    # what is not enforced is counted, and why is said

    $t->post('/report', event(event => 'a.report'));

    my ($reported) = @{ status()->{recent} };

    is($reported->{verdict}, 'accepted', 'not enforced: accepted');
    like($reported->{why}, qr/^not enforced: send the key of/, 'and why not');
    is(status()->{unenforced}{key}, 1, 'counted');
    is(metrics()->{'taptalent_webhook_unenforced_total{verdict="key"}'}, 1,
       'the same in the metrics');

    my @recent = @{ status()->{recent} };
    my @refused = grep { $_->{status} >= 300 } @recent;
    my @taken = grep { $_->{status} < 300 } @recent;

    is(@refused, 64, 'the last 64 that were refused');
    is(@taken, 32, 'and the last 32 that were taken, however many refused');
    is_deeply([map { $_->{time} } @recent],
              [sort { $b <=> $a } map { $_->{time} } @recent], 'newest first');
    unlike($t->get('/json')->{body}, qr/batchId/, 'no payload');
}


# the disk ---------------------------------------------------------------------

sub backlog {
    $t->forget_spool();

    my $s = spool('spool', sub { $_->{backlog} && $_->{backlog}{files} == 0 },
                  'an empty spool');

    is($s->{backlog}{events}, 0, 'no events');
    is($s->{backlog}{oldest}, 0, 'no oldest');

    my @ids = map { "backlog-$_" } 1 .. 5;
    my $name = Test::Load::make_file($spool, \@ids, time => time() - 3600);

    Test::Load::make_file($spool, ['backlog-6']);
    $t->write_file("$spool/new/by-hand.ndjson", "{}\n");
    $t->write_file("$spool/new/no-file-of-ours", 'x');
    $t->write_file("$spool/new/$name.done", "\n0000000002\n\n0000000004\n");
    $t->write_file("$spool/dead/one.ndjson", "{}\n");
    $t->write_file("$spool/corrupt/two.ndjson", "{}\n");
    $t->write_file("$spool/corrupt/two.ndjson.done", "x");
    mkdir "$spool/new/directory.ndjson";

    $s = spool('spool', sub { $_->{backlog}{files} == 3
                              && $_->{backlog}{dead} == 1
                              && $_->{backlog}{corrupt_files} == 1 },
               'what was put there')->{backlog};

    is($s->{events}, 5 - 2 + 1 + 1, 'events that are not done');

    my $bytes = 0;
    $bytes += -s for glob "$spool/new/2*.ndjson $spool/new/by-hand.ndjson";

    is($s->{bytes}, $bytes, 'bytes');
    cmp_ok($s->{oldest}, '>=', 3600, 'age of the oldest');
    cmp_ok($s->{oldest}, '<', 3660, 'by its name');
    cmp_ok($s->{free}, '>', 0, 'free space');
    is($s->{min_free}, 64 * 1024 * 1024, 'min_free');

    my $metrics = metrics();

    is($metrics->{"taptalent_webhook_backlog_events{spool=\"$spool\"}"}, 5,
       'the same in the metrics');
    cmp_ok($metrics->{"taptalent_webhook_backlog_oldest_age_seconds{spool="
                      . "\"$spool\"}"}, '>=', 3600, 'the age too');
    is($metrics->{"taptalent_webhook_spool_dead_letters{spool=\"$spool\"}"}, 1,
       'and dead letters');

    rmdir "$spool/new/directory.ndjson";
    unlink glob "$spool/new/* $spool/dead/* $spool/corrupt/*";

    spool('spool', sub { $_->{backlog}{files} == 0 && !$_->{backlog}{dead} },
          'it is gone');
}


# Never 0 while an event waits, whatever lies there.

sub waiting {
    my $line = "{}\n";
    my $done = sub {
        return join '', map { ref ? "\n=$$_\n" : sprintf "\n%010d\n", $_ } @_;
    };

    # of a file that was moved away half done; of one that is there, twice

    my $put = sub { return Test::Load::make_file($spool, [map { "w-$_" } @_]) };
    my $gone = $put->(1 .. 5);
    my ($crc) = $gone =~ /-([0-9a-f]{8})\.ndjson$/;

    unlink "$spool/new/$gone";
    $t->write_file("$spool/new/$gone.done", $done->(\$crc, 1 .. 4));
    $put->(7);
    $put->(8);
    events_are(2, 'what was done of a file that is gone');

    my $twice = $put->(1 .. 5);
    ($crc) = $twice =~ /-([0-9a-f]{8})\.ndjson$/;
    my $records = $done->(\$crc, 1, 2, 2, 1, 2, 1, 99, 0);

    $t->write_file("$spool/new/$twice.done", "000$records\n00000");
    events_are(2 + 3, 'what was done twice was done once');
    $t->write_file("$spool/new/$twice.done", $done->(\$crc, 1 .. 5));
    events_are(2 + 1, 'all of it is done: it is there yet');
    $t->write_file("$spool/new/$twice.done",
                   $done->(\sprintf('%08x', hex($crc) ^ 1), 1 .. 4));
    events_are(2 + 5, 'what was done of another file of this name');

    # records across the pieces that are read

    my $many = $put->(1 .. 6000);
    ($crc) = $many =~ /-([0-9a-f]{8})\.ndjson$/;
    $t->write_file("$spool/new/$many.done", 'x' x 20000 . $done->(
                   \$crc, grep { $_ % 3 } 1 .. 6000));
    events_are(2 + 5 + 2000, 'a large sidecar');
    unlink glob "$spool/new/*";

    # under names that say nothing, or seem to

    for my $name ('by-hand', 'events-2-20261123', 'x-1-0123abcd', '-1-00000000',
                  '20261123T081113.123Z-1-2-x-0123abcd', 'events-99-20261123',
                  '20269999T081113.123Z-by-hand')
    {
        $t->write_file("$spool/new/$name.ndjson", $line x 7);
        events_are(7, "$name.ndjson: its lines");
        $t->write_file("$spool/new/$name.ndjson.done", $done->(2, 4, 4));
        events_are(5, "$name.ndjson: but what is done");
        unlink glob "$spool/new/*";
    }

    $t->write_file("$spool/new/$_.ndjson", $line x 3) for 1 .. 400;
    events_are(1200, 'many of them');
    $t->write_file("$spool/new/$_.ndjson", $line x 3) for 401 .. 6000;
    ok(spool('spool', sub { $_->{backlog}{files} == 6000
                            && $_->{backlog}{events} > 10000
                            && $_->{backlog}{events} <= 6000 + 2 * 4096 }),
       'more than are remembered: each of the others is one');
    unlink glob "$spool/new/*";
    $t->write_file("$spool/new/empty.ndjson", '');
    events_are(1, 'one without a line');
    $t->write_file("$spool/new/empty.ndjson", $line x 4);
    events_are(4, 'it has another content');
    unlink glob "$spool/new/*";

    # more than is read at once, and what is never read

    $t->write_file("$spool/new/large.ndjson", $line x 6_000_000);
    events_are(6_000_000, 'a large one: all in the end');
    unlink glob "$spool/new/*";
    $t->write_file("$spool/new/sparse.ndjson", $line x 2);
    truncate "$spool/new/sparse.ndjson", 5 * 1024 ** 3 or die "truncate: $!";
    events_are(1, 'one that is too large');
    is(spool('spool')->{backlog}{bytes}, 5 * 1024 ** 3, 'its bytes');
    is(metrics()->{"taptalent_webhook_backlog_bytes{spool=\"$spool\"}"},
       5 * 1024 ** 3, 'the same in the metrics');
    rename "$spool/new/sparse.ndjson", "$spool/new/20261123T081113.123Z-"
           . '0123456789abcdef-0000000001-20000000-0123abcd.ndjson';
    events_are(20_000_000, 'one with more than anybody writes, by its name');
    unlink glob "$spool/new/*";
    events_are(0, 'nothing');
}

sub events_are {
    my ($events, $name) = @_;

    my $s = spool('spool', sub { $_->{backlog}
                                 && $_->{backlog}{events} == $events }, $name);

    is($s->{backlog}{events}, $events, $name);
}


# What can be known is told, and of the rest there is a line.

sub unreadable {
    my $bits = sub { return (stat $_[0])[2] & 07777 };

    Test::Load::make_file($spool, ['u-1', 'u-2']);

    for my $case (['dead', 'dead', 'spool_dead_letters'],
                  ['corrupt', 'corrupt_files', 'spool_corrupt_files'])
    {
        my ($dir, $member, $metric) = @$case;
        my $is = $bits->("$spool/$dir");

        $t->mark_log();
        chmod 0, "$spool/$dir";

        my $s = spool('spool', sub { $_->{backlog}
                                     && !defined $_->{backlog}{$member} },
                      "$dir/ cannot be read");

        is($s->{backlog}{events}, 2, "$dir/ cannot be read: what waits");
        cmp_ok($s->{backlog}{free}, '>', 0, 'and how much is free');

        my $metrics = metrics();

        is($metrics->{"taptalent_webhook_backlog_events{spool=\"$spool\"}"}, 2,
           'the same in the metrics');
        is($metrics->{"taptalent_webhook_$metric\{spool=\"$spool\"}"}, undef,
           'in which there is nothing of it');
        is(scalar(() = $t->grep_log(qr{"\Q$spool\E/$dir" failed, what waits})),
           scalar(() = $t->grep_log(qr{"\Q$spool\E/\w+" failed, what waits})),
           'no other is said to be so');
        ok(scalar $t->grep_log(qr{openat\(\) "\Q$spool\E/$dir" failed, what}),
           'a line says why');

        chmod $is, "$spool/$dir";
        spool('spool', sub { defined $_->{backlog}{$member} }, "$dir/ again");
    }

    my $is = $bits->("$spool/new");

    chmod 0, "$spool/new";
    spool('spool', sub { !$_->{backlog} }, 'new/ cannot be read');
    is(spool('spool')->{backlog}, undef, 'new/ cannot be read: it is not known');
    is(metrics()->{"taptalent_webhook_backlog_events{spool=\"$spool\"}"}, undef,
       'nor in the metrics');
    is(metrics()->{"taptalent_webhook_spool_dead_letters{spool=\"$spool\"}"}, 0,
       'but dead/ is');
    chmod $is, "$spool/new";
    events_are(2, 'new/ can be read again');
    unlink glob "$spool/new/*";
    events_are(0, 'nothing');
}


sub states {
    is(spool('spool')->{state}, 'ok', 'a spool that works');
    is(spool('low', sub { $_->{state} eq 'low' }, 'low')->{state}, 'low',
       'one with less space than min_free');
    is(metrics()->{"taptalent_webhook_spool_low{spool=\"$p/low\"}"}, 1,
       'the same in the metrics');

    # what needs more than 32 bits

    my ($free) = qx{df -B1 --output=avail \Q$p\E} =~ /(\d+)\s*\z/;
    my $low = spool('low')->{backlog};

    is($low->{min_free}, 1000000 * 1024 ** 3, 'min_free');
    cmp_ok(abs($low->{free} - $free), '<', 1024 ** 3, 'free, as df says');
    is(metrics()->{"taptalent_webhook_spool_min_free_bytes{spool=\"$p/low\"}"},
       1000000 * 1024 ** 3, 'the same in the metrics');
    cmp_ok(abs($low->{time} - time()), '<', 60, 'when it was measured');

    SKIP: {
        skip 'needs root', 6 if $> != 0;

        my $errors = spool('spool')->{commit_errors};
        my $good = event(event => 'a.x', companyId => 'ours');
        my $is = (stat "$spool/tmp")[2] & 07777;

        chmod 0, "$spool/tmp";
        is($t->post('/hook', $good)->{status}, 503, 'tmp/ cannot be written');
        chmod $is, "$spool/tmp";

        my $s = spool('spool');

        is($s->{state}, 'failed', 'one that has failed');
        is($s->{commit_errors}, $errors + 1, 'the commit is counted');
        is(metrics()->{"taptalent_webhook_spool_failed{spool=\"$spool\"}"}, 1,
           'the same in the metrics');

        ok($t->wait_for(sub {
            $t->post('/hook', $good);
            return spool('spool')->{state} eq 'ok';
        }, 20, 'the spool to work'), 'and works again');
        is(metrics()->{"taptalent_webhook_spool_failed{spool=\"$spool\"}"}, 0,
           'the same in the metrics');
    }
}


# deliveries -------------------------------------------------------------------

sub destination {
    my ($spool, $sub, $what) = @_;
    my $found;

    $t->wait_for(sub {
        ($found) = grep { $_->{spool} eq $spool }
                        @{ status()->{destinations} };
        local $_ = $found;
        return $found && (!$sub || $sub->($found));
    }, 20, $what || 'the destination in the status');

    return $found;
}

sub deliveries {
    my $n = 0;
    my $send = sub {
        return $t->post('/sent', Test::Spool::event_body('status-0-' . $n++));
    };

    $send->() for 1 .. 4;

    my $d = destination("$p/sent", sub { $_->{delivered} == 4 }, 'deliveries');

    is($d->{delivered}, 4, 'delivered');
    is($d->{destination}, '/deliver', 'where to');
    is($d->{retry}, 0, 'without a failure');
    is($d->{retries}, 0, 'each at once');
    ok($d->{up}, 'it is up');
    is($d->{last_error}, undef, 'no error');

    my $latency = spool('sent')->{delivery_latency};

    is($latency->{count}, 4, 'how long it took: how many');
    cmp_ok($latency->{sum}, '>', 0, 'in all');
    cmp_ok($latency->{sum}, '<', 40, 'which is not the age of something');

    # three events that fail, not one that does so three times

    $app->mode('500');
    $send->() for 1 .. 3;

    $d = destination("$p/sent", sub { !$_->{up} && $_->{retries} }, 'down');

    is($d->{last_error}{status}, 500, 'the status of the last error');
    cmp_ok(abs($d->{last_error}{time} - time()), '<', 60, 'its time');
    cmp_ok($d->{paused_until}, '>', time() - 60, 'when it is tried again');
    cmp_ok($d->{retry}, '>=', 3, 'failures');
    is(metrics()->{"taptalent_webhook_destination_up{spool=\"$p/sent\","
                   . 'destination="/deliver"}'}, 0, 'the same in the metrics');
    spool('sent', sub { $_->{backlog}{events} == 3 }, 'they wait');

    # of who is dead nothing is believed

    my ($owner) = map { /(\d+)#/ } grep { /this worker forwards/ && /sent/ }
                  $t->error_log();

    $app->mode('ok');

    $d = destination("$p/sent", sub { $_->{up} && $_->{delivered} == 7 },
                     'it is up again');
    is($d->{paused_until}, 0, 'and not paused');

    $app->mode('422');
    $send->();

    $d = destination("$p/sent", sub { $_->{dead} == 1 }, 'given up');
    is($d->{delivered}, 7, 'not delivered');

    my $s = spool('sent', sub { $_->{dead_permanent} == 1
                                && $_->{backlog}{dead} == 1 }, 'dead');

    is($s->{dead_permanent}, 1, 'a dead letter, by its reason');
    is($s->{dead_max_age}, 0, 'and by no other');
    is(metrics()->{"taptalent_webhook_dead_letters_total{spool=\"$p/sent\","
                   . 'reason="permanent"}'}, 1, 'the same in the metrics');

    # it is given up when it is in dead/, and once

    SKIP: {
        skip 'needs root', 6 if $> != 0;

        my $is = (stat "$p/sent/dead")[2] & 07777;
        my $errors = $d->{retry};

        $t->mark_log();
        chmod 0555, "$p/sent/dead";
        $send->();
        $d = destination("$p/sent", sub { $_->{retry} >= $errors + 3 },
                         'dead/ takes nothing: it is tried again');
        is($d->{dead}, 1, 'dead/ takes nothing: it is not given up');
        is(spool('sent')->{dead_permanent}, 1, 'nor counted as a dead letter');
        is(scalar(() = $t->grep_log(qr/is given up with status 422/)), 0,
           'nor said to be one');
        chmod $is, "$p/sent/dead";
        $d = destination("$p/sent", sub { $_->{dead} == 2 }, 'given up');
        is($d->{dead}, 2, 'it is given up once');
        is(spool('sent', sub { $_->{backlog}{dead} == 2 })->{dead_permanent}, 2,
           'and is a dead letter once');
        is(scalar(() = $t->grep_log(qr/is given up with status 422/)), 1,
           'and said so once');

        my ($letter) = glob "$p/sent/dead/*";

        unlink $letter;
    }

    $t->write_file("$p/sent/new/broken.ndjson", "{\n");
    is(spool('sent', sub { $_->{corrupt} == 1 && $_->{backlog}{corrupt_files} },
             'damage')->{corrupt}, 1, 'a damaged file');

    # more than 71 minutes are more than 32 bits of microseconds

    $app->mode('ok');
    Test::Load::make_file("$p/sent", ['late-0-1'], time => time() - 7200);
    destination("$p/sent", sub { $_->{delivered} == 8 }, 'a late one');
    $latency = spool('sent', sub { $_->{delivery_latency}{count} == 8 })
                   ->{delivery_latency};
    cmp_ok($latency->{sum}, '>=', 7200, 'how long it took');
    cmp_ok($latency->{sum}, '<', 7300, 'and no longer');

    $app->mode('500');
    $send->() for 1 .. 3;
    destination("$p/sent", sub { !$_->{up} }, 'down');

    kill 'KILL', $owner;
    $app->mode('ok');
    ok(destination("$p/sent", sub { $_->{up} && $_->{delivered} == 11 },
                   'the next one delivers')->{up}, 'up, as the next one knows');
}


# from memory: what a worker holds ends with the worker

sub memory {
    my $queue = sub { return status()->{queues}[0] };

    is($queue->()->{forward}, '/nowhere', 'a queue in memory');
    is($queue->()->{limit}, 3, 'its limit');
    is($queue->()->{events}, 0, 'it is empty');

    my $full = $t->wait_for(sub {
        $t->post('/memory', event());
        return $queue->()->{events} == 6;
    }, 20, 'the queues to be full');

    ok($full, 'what waits in both workers');
    is($queue->()->{workers}, 2, 'of two');
    is(metrics()->{'taptalent_webhook_queue_events{spool="",forward="/nowhere"}'}, 6,
       'the same in the metrics');
    is(metrics()->{'taptalent_webhook_queue_limit{spool="",forward="/nowhere"}'}, 3,
       'the limit too');

    my ($one) = $t->workers();

    kill 'KILL', $one;
    ok($t->wait_for(sub { $queue->()->{events} == 3 }, 15, 'half of them'),
       'what was in the one that was killed is not counted');
    $t->wait_for(sub { $t->workers() == 2 }, 15, 'two workers');
}


sub history {
    my $status = status();
    my $h = $status->{history};
    my %sum;

    for my $series (qw(accepted refused delivered backlog)) {
        is(@{ $h->{$series} }, 120, "$series: ten minutes");
        $sum{$series} += $_ // 0 for @{ $h->{$series} };
    }

    my $refused = 0;
    $refused += $status->{verdicts}{$_}
        for grep { !/^(?:accepted|ignored|duplicate)$/ }
                 keys %{ $status->{verdicts} };

    is($sum{accepted}, $status->{verdicts}{accepted}, 'all that was accepted');
    is($sum{refused}, $refused, 'all that was refused');
    is($sum{delivered}, 11, 'all that was delivered');
    cmp_ok($sum{backlog}, '>', 0, 'what waited');
    is($h->{step}, 5, 'steps');
    is($h->{time} % 5, 0, 'at full ones');
}


# what stays -------------------------------------------------------------------

sub kept {
    my $before = status();
    my $good = event(event => 'a.x', companyId => 'ours');

    ok($t->reload(old_gone => 1), 'reload');
    $t->post('/hook', $good) for 1 .. 2;

    my $after = status();

    is($after->{verdicts}{accepted}, $before->{verdicts}{accepted} + 2,
       'a reload keeps the counters');
    is($after->{since}, $before->{since}, 'and their beginning');
    is($after->{events}{'a.x'}, $before->{events}{'a.x'} + 2, 'and the types');
    is_deeply($after->{verdicts}{json}, $before->{verdicts}{json},
              'and other verdicts');

    my @workers = $t->workers();

    kill 'KILL', @workers;
    $t->wait_for(sub { my %old = map { $_ => 1 } @workers;
                       my @new = grep { !$old{$_} } $t->workers();
                       return @new == 2 }, 15, 'new workers');
    $t->post('/hook', $good);

    is(status()->{verdicts}{accepted}, $before->{verdicts}{accepted} + 3,
       'so does a kill');
    cmp_ok(spool('spool')->{committed}, '>=', 3, 'and the spools');

    $t->stop();
    $t->run();
    is(status()->{verdicts}{accepted}, 0, 'a restart does not');
}


# while nothing can be stored there is one line a second, not one an event

sub outage {
    $t->mark_log();

    my $c = $t->connect();
    my $began = time();

    for (1 .. 200) {
        $c->send($t->message('/low', event(), keepalive => 1));
        $c->answer();
    }

    $c->close();

    my @lines = $t->grep_log(qr/webhook refused: unavailable/);

    cmp_ok(@lines, '>=', 1, 'an outage is logged');
    cmp_ok(@lines, '<=', 3 * (time() - $began + 2), 'but not for each event');

    $t->wait_for(sub {
        $t->post('/low', event());
        return scalar $t->grep_log(qr/unavailable: .*, after \d+ more/);
    }, 10, 'how many there were');

    ok(scalar $t->grep_log(qr/unavailable: .*, after \d+ more/),
       'and how many there were is said');
}


sub without {
    (my $off = $conf) =~ s/^http \{/http {\n    taptalent_webhook_zone off;/m;

    $off =~ s/^.*taptalent_webhook_status.*\n//mg;
    $t->conf($off);

    ok($t->reload(old_gone => 1), 'reload, with the zone off');
    is($t->post('/hook', event(event => 'a.x', companyId => 'ours'))->{status},
       200, 'events are taken all the same');
    is($t->get('/status')->{status}, 404, 'and nothing is shown');

    $t->conf($conf);
    ok($t->reload(old_gone => 1), 'and on again');
    is(status()->{verdicts}{accepted}, 0, 'it begins at zero');
}
