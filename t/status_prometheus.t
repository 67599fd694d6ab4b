#!/usr/bin/perl

# A real Prometheus takes the metrics, and what it has counted is what was sent:
# over a reload, over a worker that is killed, and while an application is down.
# docs/monitoring.md, the alerts and the dashboard are compared with what is
# really there, and their configurations and commands are run.
#
# slow: a Prometheus that has to ask, and alerts that have to come

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use POSIX ();
use Test::More;
use Test::Docs qw(block blocks log_pattern);
use Test::Edge;
use Test::Sink;

for my $program (qw(prometheus promtool)) {
    next if grep { -x "$_/$program" } split /:/, $ENV{PATH};
    plan skip_all => "no $program here, it is in Debian's package prometheus";
}

my $t = Test::Edge->new(workers => 2);
my $app = Test::Sink->new(port => $t->port(2));
my $other = Test::Sink->new(port => $t->port(3));

my $top = $t->top();
my $json = JSON::PP->new->utf8->canonical;
my $document = $t->read_file("$top/docs/monitoring.md");
my $rules = "$top/docs/taptalent-alerts.yml";
my $rule_tests = "$top/t/monitoring/alerts_test.yml";
my $dashboard
    = $json->decode($t->read_file("$top/docs/taptalent-dashboard.json"));

my $status = $t->port(4);
my $web = $t->port(5);

my ($prometheus, %blocks);

push @{ $blocks{ $_->{language} } }, $_->{text}
    for blocks('docs/monitoring.md');

# the metrics' prefix, a spool, and the name of the example's event

my $P = 'taptalent_webhook_';
my $spool = $t->spool();
my $quarantine = $t->prefix() . '/quarantine';
my $started = 'resume.bulk_upload_parse.started';


# What was sent, and what has to come of it.

my %want = (verdicts => {}, events => {}, bytes => 0, spooled => 0,
            memory => 0, dead => 0, kept => 0, unenforced => 0);

# the status of each answer

my %answer = (accepted => 200, ignored => 200, method => 405,
              https_required => 403, content_type => 415,
              content_encoding => 415, event_header => 400,
              timestamp_header => 400, too_large => 413, json => 400,
              payload => 422, event_mismatch => 422, company_id => 403,
              unavailable => 503, key => 401, signature => 401, stale => 422,
              duplicate => 200);

nginx_start();
rules_tested();
log_lines();
metrics_documented();
prometheus_start();

load('load');
counted('load');

firing('SpoolLow', 'Unavailable', 'Refused', 'Unenforced', 'Malformed');

my $before = counters();
ok($t->reload(old_gone => 1), 'a reload');
is_deeply(counters(), $before, 'a reload: all is as it was');
load('after the reload');
counted('after the reload');

$t->expect_alert(qr/exited on signal 9/);
$before = counters();
killed();
is_deeply(counters(), $before, 'a worker is killed: all is as it was');
load('after the kill');
counted('after the kill');

down();
dead_letter();
damaged();
counted('at the end');

accepted_expressions();
commands();
access_log();

ok(prometheus_stop(), 'Prometheus ends');
$t->no_alerts();

unusual();

done_testing();


# nginx: the status location and the log_format are those of the document.

sub nginx_start {
    my ($location) = grep { /taptalent_webhook_status;/ } @{ $blocks{nginx} };
    my ($log) = grep { /log_format/ } @{ $blocks{nginx} };

    my ($format) = $log =~ /\A(log_format.*?;\n\nmap .*?^\}\n)/ms;
    my ($lines) = $log =~ /^(\s+access_log .*if=\S+;)$/ms;

    $location =~ s/127\.0\.0\.1:8081/127.0.0.1:$status/
        or fail('the status location of the document');
    $lines =~ s{/var/log/nginx/}{%%PREFIX%%/}g;

    $t->conf(<<"CONF");
%%GLOBALS%%

events { }

http {
    $format

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_events resume.* candidate.*;
    taptalent_webhook_retry initial=200ms max=400ms;

    $location

    server {
        listen 127.0.0.1:%%PORT_0%%;
        client_max_body_size 64k;
        $lines

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /key {
            taptalent_webhook on;
            taptalent_webhook_key s3cret;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /signature {
            taptalent_webhook on;
            taptalent_webhook_signature key=s3cret header=X-Signature;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /stale {
            taptalent_webhook on;
            taptalent_webhook_tolerance 5m;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /unenforced {
            taptalent_webhook on;
            taptalent_webhook_enforce off;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /dedup {
            taptalent_webhook on;
            taptalent_webhook_dedup 10m;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /quarantine {
            taptalent_webhook on;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /memory {
            taptalent_webhook on;
            taptalent_webhook_forward /other queue=64;
        }

        location = /secure {
            taptalent_webhook on;
            taptalent_webhook_https on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        # no disk has this much

        location = /full {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/full min_free=8000000000m;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location = /other {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_3%%;
        }
    }
}
CONF

    $t->run();
}


# What the status location says, as a list of [name, { labels }, value]; the
# types of the families, and all of the text.

sub scrape {
    my ($edge, $port) = (@_, $t, $status);
    my $r = $edge->get('/status', port => $port);
    my (%type, @samples);

    is($r->{status}, 200, 'the status') if $r->{status} != 200;

    for my $line (split /\n/, $r->{body}) {
        $type{$1} = $2 if $line =~ /^# TYPE (\S+) (\S+)$/;
        next if $line =~ /^#/;

        my ($name, $labels, $value)
            = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/ or do {
                fail("a line of the metrics: $line");
                next;
            };

        my %labels;
        $labels{$1} = $2
            while ($labels // '') =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;

        push @samples, [$name, \%labels, $value];
    }

    return (\@samples, \%type, $r->{body});
}

# the family of a sample

sub family {
    my ($name, $type) = @_;

    return $name if $type->{$name};

    (my $family = $name) =~ s/_(?:bucket|sum|count)$//;
    return $family;
}

# the samples that are there twice, which Prometheus does not take

sub twice {
    my ($samples) = @_;
    my %seen;

    $seen{ $_->[0] . $json->encode($_->[1]) }++ for @$samples;

    return join ' ', grep { $seen{$_} > 1 } sort keys %seen;
}

# All counters, by name and labels, as they are now. A histogram is one too.

sub counters {
    my ($samples, $type) = scrape();
    my %counters;

    for my $sample (@$samples) {
        my ($name, $labels, $value) = @$sample;
        next if $type->{ family($name, $type) } eq 'gauge';
        $counters{ $name . $json->encode($labels) } = $value;
    }

    return \%counters;
}


# promtool -------------------------------------------------------------------


# A program's exit status and all that it has said.

sub command {
    my (@command) = @_;

    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? >> 8 || $? & 127, $output);
}

sub rules_tested {
    my ($rc, $output) = command('promtool', 'check', 'rules', $rules);

    is($rc, 0, 'promtool check rules') or diag($output);

    ($rc, $output) = command('promtool', 'test', 'rules', $rule_tests);

    is($rc, 0, 'promtool test rules') or diag($output);

    # each alert has a test in which it fires, a severity and a section

    my $tests = $t->read_file($rule_tests);
    my @names;

    for my $rule (split /^(?= +- alert:)/m, $t->read_file($rules)) {
        my ($name) = $rule =~ /- alert: (\w+)/ or next;
        my ($runbook) = $rule =~ /^ +runbook: (\S+)$/m;

        push @names, $name;

        like($rule, qr/^ +severity: (?:critical|warning|info)$/m,
             "$name: severity");
        like($rule, qr/^ +summary: .*^ +description: /ms,
             "$name: what it says");
        is($runbook, 'docs/monitoring.md#' . lc $name, "$name: runbook");
        like($document, qr/^### $name$/m, "$name: its section");
        like($tests, qr/alertname: $name\n +exp_alerts:/, "$name: fires");
        like($tests, qr/alertname: $name\n(?! +exp_alerts:)/,
             "$name: does not fire");
    }

    my @sections = $document =~ /^### (TaptalentWebhook\w+)$/mg;
    is_deeply([sort @sections], [sort @names], 'sections of alerts');
}


# The lines of the error log that the document shows are those of the source.

sub log_lines {
    my %shown;

    my ($part) = $document =~ /^## The error log$(.*?)^## /ms;

    $shown{"$1 $2"} = 0
        while $part =~ /^\| (\w+) \| `(.+?)` \| .* \|$/mg;

    for my $file (map { $t->sources("$_.c") }
                      qw(request respond commit status_measure deliver
                         deliver_request deliver_answer owner queue attempt
                         queue_task dest item file dedup variables
                         webhook_module))
    {
        my $source = $t->read_file($file)
                     =~ s/\bngx_\w+_n\s+"/"%s/gr;

        while ($source =~ /ngx_log_error\(([\w>-]+), [^"]*?
                           ((?:"(?:[^"\\]|\\.)*"\s*)+)/xg)
        {
            my ($level, $text) = ($1, $2);

            # what nginx -t says
            next if $file =~ /_module/ && $level =~ /EMERG|WARN/;

            $text =~ s/"\s+"//g;
            $text =~ s/^"|"\s*$//g;
            $text =~ s/\\"/"/g;

            my $re = log_pattern($text);
            my %level = (NGX_LOG_ERR => 'error', NGX_LOG_CRIT => 'crit',
                         NGX_LOG_WARN => 'warn', NGX_LOG_NOTICE => 'notice',
                         NGX_LOG_INFO => 'info');
            my $word = $level{$level} // '\w+';
            my @lines = grep { /^$word $re$/ } keys %shown;

            ok(@lines > 0, "the document has: $level, $text");
            $shown{$_}++ for @lines;
        }
    }

    my @unknown = grep { !$shown{$_} } sort keys %shown;
    is("@unknown", '', 'the document has no other lines of the log');
}


# Prometheus -----------------------------------------------------------------


# Its configuration is the document's, but for the address and the interval.

sub prometheus_start {
    my $prefix = $t->prefix();
    my $conf = block('docs/monitoring.md', 'prometheus');

    mkdir "$prefix/prometheus" or die "mkdir: $!";

    $t->write_file('prometheus/prometheus.yml', $conf);

    # a Prometheus that is a service is not ours to reload

    my $install = block('docs/monitoring.md', 'rules');
    $install =~ s{/etc/prometheus}{$prefix/prometheus}g;
    $install =~ s{^systemctl reload prometheus$}{}m or fail('the reload');

    my ($rc, $output) = command('sh', '-ec', "cd $top\n$install");
    is($rc, 0, 'promtool check config') or diag($output);

    $conf =~ s/127\.0\.0\.1:8081/127.0.0.1:$status/;
    $conf =~ s/_interval: 15s/_interval: 1s/g;
    $t->write_file('prometheus/prometheus.yml', $conf);

    $prometheus = fork() // die "fork: $!";

    if ($prometheus == 0) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', "$prefix/prometheus/log";
        open STDERR, '>&', \*STDOUT;
        $SIG{$_} = 'DEFAULT' for qw(PIPE INT TERM HUP CHLD);
        exec 'prometheus',
             "--config.file=$prefix/prometheus/prometheus.yml",
             "--storage.tsdb.path=$prefix/prometheus/data",
             "--web.listen-address=127.0.0.1:$web", '--log.level=warn'
            or POSIX::_exit(127);
    }

    my $ready = $t->wait_for(sub {
        $t->get('/-/ready', port => $web)->{status} == 200
    }, 20, 'Prometheus');

    ok($ready, 'Prometheus runs') or diag($t->read_file('prometheus/log'));

    equal('up', { '' => 1 }, 'it scrapes');
}

sub prometheus_stop {
    my $pid = $prometheus or return 1;

    kill 'TERM', $pid;

    my $ended = $t->wait_for(sub { waitpid($pid, POSIX::WNOHANG) == $pid },
                             10, 'Prometheus to end');
    if (!$ended) {
        kill 'KILL', $pid;
        waitpid $pid, 0;
    }

    $prometheus = undef;

    return $ended;
}

END {
    if ($prometheus) {
        local $?;
        kill 'KILL', $prometheus;
        waitpid $prometheus, 0;
    }
}

sub api {
    my ($path, %arguments) = @_;

    my $query = join '&', map {
        my $value = $arguments{$_};
        $value =~ s/([^A-Za-z0-9])/sprintf '%%%02x', ord $1/ge;
        "$_=$value"
    } sort keys %arguments;

    # HTTP/1.0: a long answer is not chunked

    my $r = $t->get("/api/v1/$path?$query", port => $web, version => '1.0');

    return $r->{json} // { status => 'error',
                           error => $r->{error} // $r->{body} };
}

# The result of an expression as { labels => value }, the labels that Prometheus
# itself adds left out; of one label it is its value alone.

sub result {
    my ($expression) = @_;

    my $answer = api('query', query => $expression);
    my %result;

    for my $series (@{ $answer->{data}{result} // [] }) {
        my %labels = %{ $series->{metric} };
        delete @labels{qw(__name__ job instance)};
        delete $labels{forward} if exists $labels{destination};
        $result{ join ' ', map { $labels{$_} } sort keys %labels }
            = 0 + $series->{value}[1];
    }

    return \%result;
}

# Waits until the expression's result is this.

sub equal {
    my ($expression, $want, $name) = @_;

    my $got;

    $t->wait_for(sub {
        $got = result($expression);
        return $json->encode($got) eq $json->encode($want);
    }, 20);

    is_deeply($got, $want, $name);
}

# Waits until the expression has a result.

sub some {
    my ($expression, $name) = @_;
    ok($t->wait_for(sub { %{ result($expression) } }, 10, $expression), $name);
}

sub firing {
    my (@names) = @_;

    for my $name (@names) {
        some(qq(ALERTS{alertname="TaptalentWebhook$name",alertstate="firing"}),
             "the alert $name fires");
    }
}


# the load -------------------------------------------------------------------


# Each of some senders at once sends the same: of these cases so many.

sub cases {
    my $text = { 'Content-Type' => 'text/plain' };

    return (
        [12, 'accepted', event(data => { n => 1 })],
        [7, 'accepted', event(event => 'candidate.updated')],
        [3, 'accepted', event(data => { n => 2 }), path => '/memory'],
        [2, 'ignored', event(event => 'other')],
        [1, 'method', undef, method => 'GET', headers => []],
        [1, 'https_required', event(), path => '/secure'],
        [1, 'content_type', event(), headers => $text],
        [2, 'content_encoding', event(),
         headers => { 'Content-Encoding' => 'gzip' }],
        [1, 'event_header', event(), headers => { 'X-Webhook-Event' => 'a b' }],
        [1, 'timestamp_header', event(),
         headers => { 'X-Webhook-Timestamp' => 'now' }],
        [1, 'too_large', event(data => { a => 'x' x 70_000 })],
        [3, 'json', '[x'],
        [4, 'payload', event(data => undef)],
        [2, 'event_mismatch', event(event => 'resume.a'),
         headers => { 'X-Webhook-Event' => 'resume.b' }],
        [5, 'company_id', event(companyId => 'acme')],
        [3, 'key', event(), path => '/key'],
        [1, 'signature', event(), path => '/signature'],
        [2, 'stale', event(), path => '/stale'],
        [2, 'unavailable', event(), path => '/full'],
    );
}

sub load {
    my ($name) = @_;

    my @senders = map { sender() } 1 .. 4;
    my $failed = 0;

    for my $pid (@senders) {
        waitpid $pid, 0;
        $failed++ if $?;
    }

    is($failed, 0, "$name: all answers");

    for my $case (cases()) {
        my ($n, $verdict, $body, %opts) = @$case;
        sent($n * @senders, $verdict, $body, %opts);
    }

    # an event is known as soon as it is durable, by the next request

    my $body = event(data => { load => $name });

    post(1, 'accepted', $body, path => '/dedup');
    post(2, 'duplicate', $body, path => '/dedup');

    # what is the same is kept once

    my $other = event(companyId => 'acme', data => { load => $name });

    post(1, 'company_id', $other, path => '/quarantine');
    post(2, 'accepted', $other, path => '/unenforced');

    $want{kept}++;
    $want{unenforced} += 2;
}

sub sender {
    my $pid = fork() // die "fork: $!";

    return $pid if $pid;

    my $failed = 0;

    for my $case (cases()) {
        my ($n, $verdict, $body, %opts) = @$case;
        my $path = delete $opts{path} // '/hook';

        for (1 .. $n) {
            my $r = $t->post($path, $body, %opts);
            next if $r->{status} == $answer{$verdict};

            diag("$verdict: $r->{status}, " . ($r->{error} // ''));
            $failed++;
        }
    }

    POSIX::_exit($failed ? 1 : 0);
}

# notes what must have been counted

sub sent {
    my ($n, $verdict, $body, %opts) = @_;

    $want{verdicts}{$verdict} += $n;
    return if $verdict ne 'accepted';

    my ($event) = $body =~ /"event": *"([^"]*)"/;

    $want{events}{$event} += $n;
    $want{bytes} += $n * length $body;
    $want{ ($opts{path} // '') eq '/memory' ? 'memory' : 'spooled' } += $n;
}

# one after the other, by us

sub post {
    my ($n, $verdict, $body, %opts) = @_;

    for (1 .. $n) {
        my $r = $t->post($opts{path} // '/hook', $body);
        is($r->{status}, $answer{$verdict}, $verdict)
            if $r->{status} != $answer{$verdict};
    }

    sent($n, $verdict, $body, %opts);
}


# Prometheus has exactly what was sent.

sub counted {
    my ($name) = @_;

    my $dead = $want{dead};
    my $one = qq({spool="$spool"});

    equal("${P}requests_total > 0", $want{verdicts}, "$name: verdicts");
    equal("${P}unenforced_total > 0", { company_id => $want{unenforced} },
          "$name: not enforced");
    equal("${P}events_total > 0", $want{events}, "$name: events");
    equal("${P}received_bytes_total", { '' => $want{bytes} },
          "$name: bytes");

    equal("${P}quarantined_events_total", { $quarantine => $want{kept} },
          "$name: kept");
    equal("${P}quarantine_events", { $quarantine => $want{kept} },
          "$name: kept, and there");
    equal("sum(${P}commit_events_sum)", { '' => $want{spooled} },
          "$name: committed");
    equal(qq(sum(${P}commits_total{result="error"})), { '' => 0 },
          "$name: no failed commit");
    for my $what (qw(duration_seconds events)) {
        my $count = "${P}commit_${what}_count$one";

        equal(qq($count - ignoring (result)
                 ${P}commits_total{spool="$spool",result="ok"}),
              { $spool => 0 }, "$name: commits, $what");
        equal(qq($count - ignoring (le)
                 ${P}commit_${what}_bucket{spool="$spool",le="+Inf"}),
              { $spool => 0 }, "$name: commits, $what, buckets");
    }

    equal(qq(${P}deliveries_total{outcome="delivered"}),
          { "/application delivered $spool" => $want{spooled} - $dead,
            '/other delivered' => $want{memory} }, "$name: delivered");
    equal("${P}delivery_latency_seconds_count$one",
          { $spool => $want{spooled} - $dead }, "$name: latency");

    # an attempt that failed is one that is not the first, later

    equal(qq(sum(${P}delivery_retries_total)
             - sum(${P}deliveries_total{outcome="retry"})), { '' => 0 },
          "$name: retries");

    equal("${P}backlog_events$one", { $spool => 0 }, "$name: nothing waits");
    equal("${P}queue_events", { '/other' => 0 },
          "$name: nor in memory");

    # nothing has ever gone backwards

    my @backwards = grep { %{ result("resets(${P}${_}[10m]) > 0") } }
                    qw(requests_total events_total received_bytes_total
                       commits_total commit_duration_seconds_count
                       commit_events_sum deliveries_total
                       delivery_latency_seconds_count dead_letters_total);

    is("@backwards", '', "$name: no counter was reset");
    equal("changes(${P}start_time_seconds[10m])", { '' => 0 },
          "$name: since when");
}


# what goes wrong ------------------------------------------------------------


sub killed {
    my ($worker) = $t->workers();

    kill 'KILL', $worker;

    ok($t->wait_for(sub {
        my @workers = $t->workers();
        return @workers == 2 && !grep { $_ == $worker } @workers;
    }, 10, 'another worker'), 'a worker is killed');
}

sub down {
    my $up = "${P}destination_up";
    my $paused = "${P}destination_paused_until_timestamp_seconds";

    equal($up, { "/application $spool" => 1, '/other' => 1 }, 'up');
    equal($paused, { "/application $spool" => 0, '/other' => 0 },
          'up: not paused');

    $_->stop() for $app, $other;

    post(5, 'accepted', event(data => { n => 3 }));
    post(3, 'accepted', event(data => { n => 4 }), path => '/memory');

    equal($up, { "/application $spool" => 0, '/other' => 0 }, 'down');
    equal(qq(${P}backlog_events{spool="$spool"}), { $spool => 5 },
          'down: events wait');
    equal(qq(${P}backlog_files{spool="$spool"}),
          { $spool => scalar $t->spool_files() }, 'down: in files');
    equal("${P}queue_events", { '/other' => 3 }, 'down: in memory too');

    my $bytes = 0;
    $bytes += -s for $t->spool_files();
    equal(qq(${P}backlog_bytes{spool="$spool"}), { $spool => $bytes },
          'down: bytes');

    some(qq(${P}backlog_oldest_age_seconds{spool="$spool"} > 1),
         'down: they get older');
    some("$paused > 0", 'down: paused');
    some('ALERTS{alertname="TaptalentWebhookDestinationDown",'
         . 'alertstate="pending"}', 'down: the alert is pending');

    $_->start() for $app, $other;

    equal($up, { "/application $spool" => 1, '/other' => 1 }, 'up again');
    equal($paused, { "/application $spool" => 0, '/other' => 0 },
          'up again: not paused');
    equal(qq(${P}backlog_oldest_age_seconds{spool="$spool"}),
          { $spool => 0 }, 'up again: nothing is old');
    some(qq(${P}delivery_retries_total{spool="$spool"} > 0),
         'up again: tried again');
}

sub dead_letter {
    post(2, 'accepted', event(data => { mode => '422' }));
    $want{dead} = 2;

    equal(qq(${P}dead_letters_total{spool="$spool"}),
          { "permanent $spool" => 2, "max_age $spool" => 0 }, 'dead letters');
    equal(qq(${P}spool_dead_letters{spool="$spool"}), { $spool => 2 },
          'dead letters: files');
    equal(qq(${P}deliveries_total{outcome="dead"}),
          { "/application dead $spool" => 2, '/other dead' => 0 },
          'dead letters: attempts');
    firing('DeadLetters');
}

sub damaged {
    $t->write_file("$spool/tmp/x.ndjson", "x\n");
    rename "$spool/tmp/x.ndjson", "$spool/new/x.ndjson" or die "rename: $!";

    equal(qq(${P}corrupt_files_total{spool="$spool"}), { $spool => 1 },
          'a damaged file');
    equal(qq(${P}spool_corrupt_files{spool="$spool"}), { $spool => 1 },
          'a damaged file: there');
    firing('Corrupt');
}


# the documents --------------------------------------------------------------


# The table of metrics is what is exported, and what is exported is well-formed.

sub metrics_documented {

    # all of the families are there only if something has happened

    load('first');

    ok($t->wait_for(sub {
        my ($samples) = scrape();
        my %names = map { $_->[0] => 1 } @$samples;
        return $names{"${P}deliveries_total"} && $names{"${P}backlog_events"};
    }, 10, 'all metrics'), 'all metrics');

    my ($samples, $type, $text) = scrape();

    my $file = $t->write_file('metrics', $text);
    my ($rc, $output) = command('sh', '-c', 'promtool check metrics < "$1"',
                                'sh', $file);

    is($rc, 0, 'promtool check metrics');
    is($output, '', 'promtool check metrics: silent');

    is(twice($samples), '', 'no sample is there twice');

    my (%exported, %documented);

    for my $sample (@$samples) {
        my ($name, $labels) = @$sample;
        my $family = family($name, $type);
        my @labels = sort grep { $_ ne 'le' } keys %$labels;

        $exported{$family} = join ' ', $type->{$family} // '?', @labels;
    }

    my ($part) = $document =~ /^## Metrics$(.*?)^## /ms;

    while ($part =~ /^\| `(\w+)` \| (\w+) \|([^|]*)\|/mg) {
        my ($name, $kind, $labels) = ($1, $2, $3);
        $documented{$name} = join ' ', $kind, sort $labels =~ /`(\w+)`/g;
    }

    is_deeply(\%documented, \%exported, 'the metrics and the document');

    # every verdict has a counter from the beginning

    my ($table) = $t->read_file("$top/docs/directives.md")
                  =~ /^## Verdicts$(.*?)^## /ms;
    my @verdicts = map { $_->[1]{verdict} }
                   grep { $_->[0] eq "${P}requests_total" } @$samples;

    is_deeply([sort @verdicts], [sort $table =~ /^\| `(\w+)` \| \d/mg],
              'all verdicts');
}


# Another nginx, with what is unusual: an event of the type "other", and several
# locations without a spool, some of them with the same destination.

sub unusual {
    my $edge = Test::Edge->new();

    $edge->conf(<<'CONF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;

    map $taptalent_event $application {
        default  /application;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /status {
            taptalent_webhook_status;
        }

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location = /1 {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
        }

        location = /2 {
            taptalent_webhook on;
            taptalent_webhook_forward /application queue=7;
        }

        location = /3 {
            taptalent_webhook on;
            taptalent_webhook_forward $application;
        }

        location = /application {
            internal;
            return 204;
        }
    }
}
CONF

    $edge->run();
    $edge->post("/$_", event(event => 'other')) for qw(hook 1 2 3 3);

    my $port = $edge->port(0);
    my $sum = sub {
        my ($name, %labels) = @_;
        my ($samples) = scrape($edge, $port);
        my $n = 0;

        for my $sample (grep { $_->[0] eq "$P$name" } @$samples) {
            next if grep { $sample->[1]{$_} ne $labels{$_} } keys %labels;
            $n += $sample->[2];
        }

        return $n;
    };

    $edge->wait_for(sub {
        $sum->('deliveries_total', outcome => 'delivered') >= 4
    }, 10, 'deliveries');

    my ($samples) = scrape($edge, $port);

    is(twice($samples), '', 'unusual: no sample is there twice');
    is($sum->('events_total', event => 'other'), 5, 'unusual: the type other');
    is($sum->('deliveries_total', outcome => 'delivered'), 4,
       'unusual: deliveries');
    is($sum->('delivery_latency_seconds_count', spool => ''), 4,
       'unusual: their latency');

    $edge->no_alerts();
}


# Each expression is one that Prometheus takes, and names nothing that is not
# exported.

sub accepted_expressions {
    my ($samples, $type) = scrape();

    my %names = map { $_->[0] => 1 } @$samples;
    my %labels = map { $_ => 1 } qw(job instance le),
                 map { keys %{ $_->[1] } } @$samples;
    my (@dashboard, @rules);

    # the dashboard

    my $walk;
    $walk = sub {
        my ($node) = @_;

        if (ref $node eq 'HASH') {
            push @dashboard, $node->{expr} if exists $node->{expr};
            $walk->($_) for map { $node->{$_} } sort keys %$node;

        } elsif (ref $node eq 'ARRAY') {
            $walk->($_) for @$node;
        }
    };

    $walk->($dashboard);

    for my $expression (@dashboard) {
        $expression =~ s/\$__(?:rate_interval|range|interval)\b/5m/g;
        $expression =~ s/\$\w+/.*/g;
    }

    cmp_ok(scalar @dashboard, '>', 20, 'expressions of the dashboard');

    # what its variables ask for

    for my $variable (@{ $dashboard->{templating}{list} }) {
        next if $variable->{type} ne 'query';

        my ($name, $matchers, $label) = $variable->{query}{query}
            =~ /^label_values\((\w+)(\{.*\})?, (\w+)\)$/;

        ok($name && $names{$name} && $labels{$label},
           "the dashboard's variable $variable->{name}");
    }

    # the rules, as Prometheus has read them

    my $answer = api('rules');

    for my $group (@{ $answer->{data}{groups} }) {
        for my $rule (@{ $group->{rules} }) {
            is($rule->{health}, 'ok', "$rule->{name}: evaluated")
                or diag($rule->{lastError});
            push @rules, $rule->{query};
        }
    }

    my $n = () = $t->read_file($rules) =~ /^ +- alert: /mg;
    is(scalar @rules, $n, 'all rules');

    # the document's

    my @document = split /\n\n/, block('docs/monitoring.md', 'queries');

    s/^#.*\n//mg for @document;

    for my $expression (@dashboard, @rules, @document) {
        (my $line = $expression) =~ s/\s+/ /g;

        my $result = api('query', query => $expression);
        is($result->{status}, 'success', $line)
            or diag($result->{error});

        my ($metrics, $used) = names($expression);

        delete $metrics->{up} if grep { $_ eq $expression } @rules;

        my @unknown = ((grep { !$names{$_} } sort keys %$metrics),
                       (grep { !$labels{$_} } sort keys %$used));

        is("@unknown", '', '  names and labels that there are');
    }

    # and those of the dashboard say something

    for my $expression (@dashboard) {
        (my $all = $expression) =~ s/ > 0$//;
        ok(%{ result($all) }, "a result of $all");
    }
}

# The metrics and the labels that an expression names.

sub names {
    my ($text) = @_;

    my (%metrics, %labels);

    $text =~ s/"(?:[^"\\]|\\.)*"/""/g;

    $text =~ s/\[[^\]]*\]//g;
    $labels{$_} = 1 for map { /(\w+)\s*[=!]/g } $text =~ /\{([^}]*)\}/g;
    $text =~ s/\{[^}]*\}//g;

    my $lists = qr/\b(?:by|on|without|ignoring|group_left|group_right)\s*
                   \(([^)]*)\)/x;
    $labels{$_} = 1 for map { /(\w+)/g } $text =~ /$lists/g;
    $text =~ s/$lists//g;

    for my $word ($text =~ /(?<![\w.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])/g) {
        next if $word =~ /^(?:and|or|unless|offset|bool|sum|max|min|avg|topk)$/;
        $metrics{$word} = 1;
    }

    return (\%metrics, \%labels);
}


# The shell commands of the document.

sub commands {
    my $block = block('docs/monitoring.md', 'status');

    if (!grep { -x "$_/jq" && -x "$_/curl" } split /:/, $ENV{PATH}) {
        diag('no jq or curl here, the commands are not tried');
        return;
    }

    $block =~ s/127\.0\.0\.1:8081/127.0.0.1:$status/g;

    my ($function, @commands) = split /^\n/m, $block;

    # loops have no empty lines, so each is one command

    for my $command (@commands) {
        my ($title) = $command =~ /^# (.*)$/m;
        my ($rc, $output) = command('sh', '-c', "$function\n$command");

        if ($command =~ /^until /m) {
            is("$rc $output", '0 ', $title);

        } elsif ($command =~ /jq -e/) {
            # /full is low
            is("$rc $output", "1 false\n", $title);

        } else {
            is($rc, 0, $title) or diag($output);
            like($output, qr/\S/, '  it says something');
            unlike($output, qr/^jq: /m, '  and no error');
        }
    }

    (my $scrape = block('docs/monitoring.md', 'scrape'))
        =~ s/127\.0\.0\.1:8081/127.0.0.1:$status/;
    like(qx{$scrape}, qr/^taptalent_webhook_build_info\{/m,
         'what Prometheus sees');

    (my $kept = block('docs/monitoring.md', 'quarantine'))
        =~ s{/var/spool/taptalent-quarantine}{$quarantine};
    like(qx{$kept}, qr/^\S+Z\t\w+\t\S*\t\Q$started\E$/m,
         'what is in the quarantine');

    my $log = $t->path('error.log');
    (my $grep = block('docs/monitoring.md', 'error log'))
        =~ s{/var/log/nginx/error\.log}{$log};
    like(qx{$grep}, qr/\[crit\] .*\n/, 'what must not be in the error log');
    unlike(qx{$grep}, qr/\[(?:error|warn|notice|info)\] /, 'and nothing else');
}

sub access_log {
    my $read = sub {
        return map { $json->decode($_) } split /\n/, $t->read_file($_[0]);
    };

    my @all = $read->('webhook.log');
    my @refused = $read->('webhook-refused.log');

    # two workers may have written to the two in another order

    is_deeply([sort map { $json->encode($_) } @refused],
              [sort map { $json->encode($_) }
                    grep { $_->{status} >= 400 } @all],
              'the log of refusals');

    my %verdicts;
    $verdicts{ $_->{verdict} }++ for @all;
    is_deeply(\%verdicts, $want{verdicts}, 'the access log');

    is(scalar(grep { $_->{verdict} eq 'company_id'
                     && $_->{company_id} eq 'acme' } @refused),
       $want{verdicts}{company_id}, 'the access log: companies');
    is(scalar(grep { $_->{event} eq $started
                     && $_->{id} =~ /^[0-9a-f]{32}$/
                     && $_->{timestamp} eq '2024-01-20T14:45:00Z'
                     && $_->{seconds} >= 0 && $_->{bytes} > 200 }
              grep { $_->{verdict} eq 'company_id' } @all),
       $want{verdicts}{company_id}, 'the access log: events');

    my $block = block('docs/monitoring.md', 'access log');
    my $prefix = $t->prefix();

    $block =~ s{/var/log/nginx/}{$prefix/}g;

    my ($rc, $output) = command('sh', '-ec', $block);

    is($rc, 0, 'the access log: jq') or diag($output);
    like($output, qr/^ *$want{verdicts}{company_id} company_id$/m,
         'the access log: jq counts');
}
