#!/usr/bin/perl

# The sender to try with, t/send: what it sends, when it tries again, what it
# says; and the rehearsal of an outage as docs/rehearsal.md tells it.
#
# slow: the sender waits between its attempts

use strict;
use warnings;

use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec PEM_cert2string
                              PEM_key2string);
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

use lib 't/lib';
use Test::Docs qw(block blocks);
use Test::Edge;
use Test::Sink;

plan skip_all => 'a tool, not the module' if $ENV{TEST_NGINX_BINARY};

my $t = Test::Edge->new();
my $sender = $t->top() . '/t/send';
my %running;

# what runs beside us ends with us

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

END {
    kill 'KILL', keys %running;
}

my $certificate = client_certificate();

$t->write_file('webhook.key', "the key\n");
$t->write_file('other.key', "another key\n");
$t->write_file('signing.key', "whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ=\n");
$t->write_file('other-signing.key', "whsec_b3RoZXIgb3RoZXIgb3RoZXI=\n");

$t->conf(<<'CONF');
%%GLOBALS%%

events {
}

http {
    taptalent_webhook_company_id  company-uuid 12345;
    taptalent_webhook_spool       %%SPOOL%%;

    server {
        listen  127.0.0.1:%%PORT_0%%;
        listen  127.0.0.1:%%PORT_1%% ssl;
        listen  127.0.0.2:%%PORT_1%% ssl;

        %%TLS%%

        location = /hook {
            taptalent_webhook      on;
            taptalent_webhook_key  file:%%PREFIX%%/webhook.key;
        }

        location = /any {
            taptalent_webhook             on;
            taptalent_webhook_company_id  any;
        }

        location = /signed {
            taptalent_webhook            on;
            taptalent_webhook_signature  preset=standard-webhooks
                                         key_format=whsec
                                         key=file:%%PREFIX%%/signing.key;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_2%% ssl;

        %%TLS%%

        ssl_client_certificate  %%PREFIX%%/client.pem;
        ssl_verify_client       on;

        location = /hook {
            taptalent_webhook  on;
        }
    }
}
CONF
$t->run();

my $sink = Test::Sink->new(port => $t->port(3), default => '503,reset,200');

my @trust = ('--ca-file', $t->path('cert.pem'));
my @key = ('--key-file', $t->path('webhook.key'));
my $url = 'https://localhost:' . $t->port(1);

# what takes its time goes on beside the rest

my $hanging = Test::Sink->new(port => $t->port(4), default => 'hang,200');
my $slow = start('--count', 2, '--connections', 2,
                 'http://127.0.0.1:' . $t->port(4) . '/');

usage();
events();
refusals();
timing();
rate();
terminal();
interrupted();
short_outage();
long_outage();
no_answer();

$t->stop();
rehearsal();

$sink->stop();
$hanging->stop();

$t->no_alerts();

done_testing();


# what it sends --------------------------------------------------------------

sub events {
    my ($status, $output) = finish(start(@trust, @key, '--count', 70,
                                         '--connections', 5, '--log',
                                         $t->path('log'), "$url/hook"));

    is($status, 0, 'all events, in both forms') or diag($output);
    is_deeply(told($output), { events => 70, acknowledged => 70, retried => 0,
                               'given up' => 0, attempts => 70 },
              'what it says');
    like($output, qr/^latency +median \d+\.\d ms, 99% \d+\.\d ms, longest \d/m,
         'the latency');
    unlike($output, qr/\r/, 'no progress line');

    my @lines = $t->spool_lines();
    my %ids = map { $_->{id} => 1 } @lines;
    my %seen;

    for my $line (@lines) {
        my $number = $line->{_payload} =~ /"companyId":12345,/;
        my $form = $number ? 'newer' : 'older';
        $seen{"$line->{event} $form"}++;

        my ($batch) = $line->{_payload} =~ /"batchId":(\d+|"[^"]+"),/;
        next if !defined $batch;

        # whole, for JavaScript as well

        $batch =~ /^\d+$/ == $number && (!$number || $batch < 2 ** 53)
            or fail("batchId $batch");
    }

    my %each = map { $_ => 10 } (
        map({ "resume.bulk_upload_parse.$_ older" } qw(started failed)),
        map({ "resume.bulk_upload_parse.$_ newer" }
            qw(started completed failed)),
        'candidate.updated newer', 'job.updated newer',
    );

    is_deeply(\%seen, \%each, 'every event in its forms');
    is(keys %ids, 70, 'no two are the same');
    is_deeply([sort keys %ids], [sort map { $_->[0] } logged()],
              'the log has the ids of the spool');

    my ($first) = logged();
    is("@$first[1 .. 3]", 'acknowledged 1 200', 'what became of it');
    like($first->[5], qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when');

    $t->forget_spool();

    # the rest of the options

    ($status, $output) = finish(start(
        '--insecure', '--event', 'job.closed', '--form', 'newer',
        '--company-id', 777, '--pretty', "$url/any"));
    is($status, 0, 'an event of another name') or diag($output);

    my ($line) = $t->spool_lines();
    is($line->{event}, 'job.closed', 'its name');
    like($line->{_payload}, qr/"companyId": 777, /, 'its company');
    ok($line->{raw}, 'it came in several lines');

    $t->forget_spool();

    ($status, $output) = finish(start(
        @trust, '--company-id', 'a "b"', "$url/any"));
    is($status, 0, 'a company that is no number') or diag($output);
    is_deeply([map { $_->{payload}{companyId} } $t->spool_lines()],
              [('a "b"') x 7], 'a string in both forms');

    $t->forget_spool();

    ($status, $output) = finish(start(
        @trust, '--sign-file', $t->path('signing.key'), "$url/signed"));
    is($status, 0, 'signed') or diag($output);

    ($status, $output) = finish(start(
        @trust, '--client-cert', $t->path('client.pem'), '--client-key',
        $t->path('client-key.pem'), 'https://localhost:' . $t->port(2)
                                    . '/hook'));
    is($status, 0, 'with a certificate of its own') or diag($output);

    $t->forget_spool();

    # the headers, exactly

    $sink->mode('all:200');
    finish(start('--key', 's3cret', '--event', 'candidate.updated',
                 'http://127.0.0.1:' . $t->port(3) . '/x?y=z'));
    $sink->wait_for(1);

    my ($request) = $sink->requests();
    my %header = map { @$_ } @{$request->{headers}};

    is("$request->{method} $request->{uri}", 'POST /x?y=z', 'request');
    is(join(' ', sort map { lc } keys %header),
       'connection content-length content-type host x-webhook-event '
       . 'x-webhook-key x-webhook-timestamp', 'headers');

    my %lower = map { lc $_ => $header{$_} } keys %header;
    is($lower{'content-type'}, 'application/json', 'type');
    is($lower{'x-webhook-event'}, 'candidate.updated', 'event');
    is($lower{'x-webhook-key'}, 's3cret', 'key');
    like($request->{body}, qr/"timestamp":"\Q$lower{'x-webhook-timestamp'}"/,
         'timestamp');
}

# Each is tried four times, as TapTalent does with any answer that is not 2xx.
# They go on at the same time.

sub refusals {
    my @one = ('--count', 1);
    my $other = 'https://127.0.0.2:' . $t->port(1);
    my $mutual = 'https://localhost:' . $t->port(2);

    my @cases = (
        [[@one, "$url/hook"], qr/TLS: certificate verify failed/,
         'a certificate of nobody known'],
        [[@one, @trust, "$other/hook"], qr/TLS: hostname verification failed/,
         'the certificate of another'],
        [[@one, @trust, "$url/hook"], qr/status 401, key/, 'no key'],
        [[@one, @trust, '--key-file', $t->path('other.key'), "$url/hook"],
         qr/status 401, key/, 'another key'],
        [[@one, @trust, @key, '--company-id', 'b', "$url/hook"],
         qr/status 403, company_id/, 'another company'],
        [[@one, @trust, '--sign-file', $t->path('other-signing.key'),
          "$url/signed"], qr/status 401, signature/, 'another signature'],
        [[@one, @trust, "$mutual/hook"], qr/status 400/, 'no certificate'],
        [[@one, 'http://127.0.0.1:' . $t->port(1) . '/hook'], qr/status 400/,
         'not TLS'],
        [[@one, 'https://127.0.0.1:' . $t->port(0) . '/'], qr/TLS: .+/,
         'TLS where there is none'],
        [[@one, 'http://127.0.0.1:' . $t->port(9) . '/hook'],
         qr/connection refused/, 'nobody listens'],
    );

    my @started = map { start(@{$_->[0]}) } @cases;

    for my $case (@cases) {
        my ($status, $output) = finish(shift @started);

        is($status, 1, "$case->[2]: exit status");
        like($output, qr/^  failed +4: $case->[1]$/m, "$case->[2]: why");
        is_deeply(told($output), { events => 1, acknowledged => 0, retried => 1,
                                   'given up' => 1, attempts => 4 },
                  "$case->[2]: given up");
    }

    is($t->spool_files(), 0, 'nothing is stored');
}


# when it sends --------------------------------------------------------------

sub timing {
    $sink->mode('all:503');

    my $before = $sink->requests();
    my ($status) = finish(start('--count', 1, 'http://127.0.0.1:'
                                              . $t->port(3) . '/'));
    is($status, 1, 'given up');

    $sink->wait_for($before + 4);

    my @requests = $sink->requests();
    @requests = @requests[$before .. $#requests];
    my %bodies = map { $_->{body} => 1 } @requests;

    is(@requests, 4, 'four attempts');
    is(keys %bodies, 1, 'with the same bytes');

    my @expected = (0.2, 0.4, 0.8);

    for my $i (0 .. 2) {
        my $gap = $requests[$i + 1]{start} - $requests[$i]{time};

        # the sink's clock is read a little before the answer leaves

        cmp_ok($gap, '>=', $expected[$i] - 0.001, "retry after $expected[$i]");
        cmp_ok($gap, '<', $expected[$i] + 0.15 * $Test::Edge::PATIENCE,
               'and soon');
    }

    # an answer at the second attempt

    $sink->mode('');
    ($status, my $output) = finish(start('--count', 1, 'http://127.0.0.1:'
                                         . $t->port(3) . '/'));

    is($status, 0, 'acknowledged at last') or diag($output);
    is_deeply(told($output), { events => 1, acknowledged => 1, retried => 1,
                               'given up' => 0, attempts => 3 },
              'what it says');
    like($output, qr/^  failed +1: connection reset/m, 'one reason');
    like($output, qr/^  failed +1: status 503$/m, 'the other reason');
}

sub no_answer {
    my ($status, $output) = finish($slow);

    is($status, 0, 'no answer at first') or diag($output);
    is(told($output)->{retried}, 2, 'tried again');
    like($output, qr/^  failed +2: no answer in 5 s$/m, 'it says why');

    my ($longest) = $output =~ / in (\d+\.\d) s,/;
    cmp_ok($longest, '>=', 5.2, 'after 5 s and 200 ms');
}

sub rate {
    my ($status, $output, @early);

    # once of three times: the first may have been held up itself

    for (1 .. 3) {
        unlink $t->path('log');

        ($status, $output) = finish(start(
            @trust, @key, '--rate', 50, '--count', 50, '--log',
            $t->path('log'), "$url/hook"));

        is($status, 0, 'a rate') or diag($output);

        my @times = sort { $a <=> $b } map { seconds($_->[5]) } logged();

        is(@times, 50, 'so many events');

        @early = grep { $times[$_] - $times[0] < $_ / 50 - 0.002 } 0 .. $#times;
        last if !@early;
    }

    is("@early", '', 'none of them too early');

    ($status, $output) = finish(start(
        @trust, @key, '--rate', 20, '--seconds', 0.5, "$url/hook"));

    is($status, 0, 'for so long') or diag($output);
    my $n = told($output)->{events};
    cmp_ok($n, '<=', 10, 'not more than that');
    cmp_ok($n, '>=', 1, 'and not none');

    $t->forget_spool();
}


# outages --------------------------------------------------------------------

# All attempts of an event are within 1.4 s, so no shorter outage loses one. A
# machine that is busy may take longer to start nginx: then once more, and if it
# always does, there is nothing to see.

sub short_outage {
    my ($status, $output, $gone);

    for (1 .. 10) {
        unlink $t->path('log');
        $t->forget_spool();

        my $outage = start(@trust, @key, '--rate', 40, '--seconds', 2, '--log',
                           $t->path('log'), "$url/hook");

        $t->wait_for(sub { logged() >= 5 }, 10, 'the first events');

        my $down = time();
        $t->quit();
        sleep 0.4 if time() - $down < 0.4;
        $t->run();
        $gone = time() - $down;

        ($status, $output) = finish($outage);
        last if $gone < 1.3;
    }

    SKIP: {
        skip sprintf('nginx was away for %.2f s', $gone), 4 if $gone >= 1.3;

        is($status, 0, 'the edge is away for a moment') or diag($output);
        cmp_ok(told($output)->{retried}, '>=', 1, 'events were tried again');
        like($output, qr/connection refused/, 'and it says why');

        my %stored = map { $_->{id} => 1 } $t->spool_lines();

        is(scalar(grep { !$stored{$_->[0]} } logged()), 0,
           'every one is in the spool');
    }
}

sub long_outage {
    unlink $t->path('log');
    $t->forget_spool();

    my $outage = start(@trust, @key, '--rate', 40, '--log', $t->path('log'),
                       "$url/hook");

    $t->wait_for(sub { logged() >= 5 }, 10, 'the first events');
    $t->kill_all();
    $t->wait_for(sub { grep({ $_->[1] eq 'given up' } logged()) >= 3 }, 10,
                 'events to be given up');
    $t->run();

    my $n = logged();
    $t->wait_for(sub {
        my @after = logged();
        grep { $_->[1] eq 'acknowledged' } @after[$n .. $#after]
    }, 10, 'events to be acknowledged again');

    kill 'INT', $outage->{pid};
    my ($status, $output) = finish($outage);

    is($status, 1, 'the edge is away for longer');

    my %outcome;
    $outcome{$_->[1]}{$_->[0]} = 1 for logged();
    is(keys %{$outcome{$_}}, told($output)->{$_}, "$_, as logged")
        for 'given up', 'acknowledged';

    my %stored = map { $_->{id} => 1 } $t->spool_lines();

    is(scalar(grep { !$stored{$_} } keys %{$outcome{acknowledged}}), 0,
       'what was acknowledged is in the spool');
    $t->forget_spool();
}


# docs/rehearsal.md ----------------------------------------------------------

# Its commands, on an nginx with its configuration. Only what they name is ours,
# and a minute is two seconds.

sub rehearsal {
    my ($conf) = map { $_->{text} } grep { $_->{language} eq 'nginx' }
                 blocks('docs/rehearsal.md');

    my $spool = $t->spool() . '-rehearsal';
    my $p = $t->prefix();
    my $port = $t->port(1);
    my $count = 0;

    $conf =~ s{listen +443 ssl}{listen 127.0.0.1:$port ssl};
    $conf =~ s{/etc/ssl/\S+\.(crt|key);}{$1 eq 'crt' ? "$p/cert.pem;"
                                                     : "$p/key.pem;"}ge;
    $conf =~ s{/var/spool/taptalent-rehearsal}{$spool};
    $conf =~ s{127\.0\.0\.1:3000}{127.0.0.1:@{[$t->port(5)]}};
    $conf =~ s{/var/log/nginx/}{$p/};

    my %block = (
        one => block('docs/rehearsal.md', 'one'),
        many => block('docs/rehearsal.md', 'many'),
        spool => block('docs/rehearsal.md', 'spool'),
        compare => block('docs/rehearsal.md', 'compare'),
        noted => block('docs/rehearsal.md', 'noted'),
    );

    my $run = sub {
        my ($name) = @_;
        my $text = $block{$name};

        $text =~ s{^t/send }{exec $sender @trust }mg;
        $text =~ s{hooks\.example\.com}{localhost:$port}g;
        $text =~ s{--rate 10 --seconds 60}{--rate 25 --seconds 2}g;
        $text =~ s{/var/spool/taptalent-rehearsal}{$spool}g;
        $text =~ s{/var/log/nginx/}{$p/}g;

        return start({ shell => "cd $p && $text" });
    };

    unlink $t->path('sent.log');
    $t->conf("%%GLOBALS%%\nevents { }\nhttp {\n"
             . "taptalent_webhook_retry initial=50ms max=200ms;\n$conf\n}\n");
    $t->run();

    my $application = Test::Sink->new(port => $t->port(5));

    my ($status, $output) = finish($run->('one'));

    is($status, 0, 'rehearsal: all is well') or diag($output);

    my ($example) = $t->read_file($t->top() . '/docs/rehearsal.md')
                    =~ /^(    events .*?)^$/ms;
    s/^    //gm, s/[\d.]+/0/g for $example, my $words = $output;
    is($words, $example, 'rehearsal: what it says');

    # the application is away

    my $many = $run->('many');
    $application->stop();
    my $waiting;
    $t->wait_for(sub {
        ($status, $waiting) = finish($run->('spool'));
        $waiting > 3
    }, 10, 'events to wait');
    cmp_ok($waiting, '>', 3, 'rehearsal: events wait in the spool');
    ok($t->reload(), 'rehearsal: a reload at the same time');
    $application->start();

    ($status, $output) = finish($many);
    is($status, 0, 'rehearsal: none is given up') or diag($output);
    is(told($output)->{retried}, 0, 'rehearsal: none is tried again');

    # nginx is away, for a moment or for longer

    $many = $run->('many');
    $t->wait_for(sub { (my @sent = sent()) > 60 }, 10, 'events to be sent');
    $t->quit();
    $t->run();
    finish($many);

    $t->wait_for(sub { !@{[glob "$spool/new/*"]} }, 10, 'an empty spool');

    # nothing is missing, but for what is taken away here

    is_deeply([finish($run->('compare'))], [0, ''],
              'rehearsal: what was acknowledged has arrived');

    my @acknowledged = grep { $_->[1] eq 'acknowledged' } sent();
    my $log = $t->read_file('rehearsal.log');
    my $id = $acknowledged[-1][0];

    cmp_ok(scalar(@acknowledged), '>=', 70, 'rehearsal: that is many');
    $t->write_file('rehearsal.log', $log =~ s/^$id .*\n//gmr);
    is_deeply([finish($run->('compare'))], [0, "$id\n"],
              'rehearsal: what has not is named');

    system('sqlite3', "$p/events.db", 'CREATE TABLE webhook_events (id);'
           . " INSERT INTO webhook_events VALUES ('b'), ('a')");
    is_deeply([finish($run->('noted'))], [0, ''],
              'rehearsal: what the application has noted');
    is($t->read_file('arrived'), "a\nb\n", 'rehearsal: its ids');

    $application->stop();
}

sub sent {
    return map { [split /\t/] } split /\n/, $t->read_file('sent.log');
}


# on a terminal --------------------------------------------------------------

sub terminal {
    my $command = join ' ', $sender, @trust, @key, '--rate', 20, '--count', 20,
                            "$url/hook";
    my $output = qx{script -qec "$command" /dev/null < /dev/null};

    like($output, qr/\r\d+ sent, \d+ acknowledged, \d+ to be .*, 0 given up/,
         'a progress line');
    like($output, qr/\e\[Kevents +20 in .*^acknowledged +20\r$/sm,
         'which goes at the end');

    $output = qx{script -qec "$command --quiet" /dev/null < /dev/null};
    unlike($output, qr/ sent, /, 'none with --quiet');

    $t->forget_spool();
}

sub interrupted {
    unlink $t->path('log');

    my $running = start(@trust, @key, '--rate', 20, '--log', $t->path('log'),
                        "$url/hook");

    $t->wait_for(sub { logged() >= 3 }, 10, 'the first events');
    kill 'INT', $running->{pid};

    my ($status, $output) = finish($running);
    is($status, 0, 'Ctrl-C');
    is(told($output)->{'given up'}, 0, 'it says what was');

    # twice, while there is no answer

    unlink $t->path('log');
    $sink->mode('all:hang');
    my $before = $sink->requests();

    $running = start('--count', 3, '--connections', 3, '--log', $t->path('log'),
                     'http://127.0.0.1:' . $t->port(3) . '/');
    $t->wait_for(sub { established($t->port(3)) >= 3 }, 4, 'three connections');

    kill 'INT', $running->{pid};
    sleep 0.05;
    ok(!ended($running), 'it waits');

    # two that it has not seen yet are one, a third at its end would be one more

    for (1 .. 5) {
        kill 'INT', $running->{pid};
        last if $t->wait_for(sub { ended($running) }, 2);
    }

    ($status, $output) = finish($running);
    is($status, 1, 'Ctrl-C twice');
    is(told($output)->{interrupted}, 3, 'three were under way');
    is(join(' ', map { $_->[1] } logged()), 'interrupted ' x 2 . 'interrupted',
       'as logged');

    $t->forget_spool();
}


# the command line -----------------------------------------------------------

sub usage {
    my $here = 'http://127.0.0.1:1/';

    my @cases = (
        [[], qr/^send: which URL\?/],
        [['ftp://a/'], qr/^send: "ftp:.*" is no URL: it should be https:/],
        [[$here, $here], qr/^send: one URL only/],
        [['--count', '0', $here], qr/^send: --count takes a whole number/],
        [['--rate', '-1', $here], qr/^send: --rate takes a number above 0/],
        [['--seconds', '0', $here], qr/^send: --seconds takes a number/],
        [['--connections', 'x', $here], qr/^send: --connections takes/],
        [['--form', 'old', $here], qr/^send: --form takes older, newer or/],
        [['--event', 'a b', $here], qr/^send: --event takes a name/],
        [['--event', 'job.updated', '--form', 'older', $here],
         qr/^send: the older form has no event job\.updated/],
        [['--key', 'a', '--key-file', '/dev/null', $here], qr/^send: --key and/],
        [['--key-file', '/none', $here], qr{^send: /none: No such file}],
        [['--key-file', '/dev/null', $here], qr/its first line is empty/],
        [['--key', "a\nb", $here], qr/^send: a key cannot hold line breaks/],
        [['--sign-file', $t->path('webhook.key'), $here], qr/: no secret, /],
        [['--ca-file', '/none', 'https://127.0.0.1/'],
         qr{^send: /none: No such file}],
        [['--ca-file', $t->path('webhook.key'), 'https://127.0.0.1/'],
         qr/^send: the certificates cannot be used: /],
        [['--client-cert', $t->path('client.pem'), 'https://127.0.0.1/'],
         qr/^send: --client-cert and --client-key need each other/],
        [['--insecure', '--ca-file', $t->path('cert.pem'), 'https://a/'],
         qr/contradict|^send: a: /],
        [['--log', '/none/log', $here], qr{^send: /none/log: No such file}],
        [['--nothing', $here], qr/^send: unknown option: nothing$/m],
    );

    for my $case (@cases) {
        my ($status, $output) = finish(start(@{$case->[0]}));
        my $name = join(' ', @{$case->[0]}) =~ s/\n/ /gr || 'nothing';

        is($status, 2, "usage: $name") or diag($output);
        like($output, $case->[1], 'it says why');
    }

    my ($status, $output) = finish(start('--help'));

    is($status, 0, '--help');
    like($output, qr/^NAME\n.*^ +candidate\.updated +newer form\n.*^EXIT STATUS/ms,
         'tells all');
    is(scalar(grep { length > 80 } split /\n/, $output), 0, 'in 80 columns');

    my ($source) = $t->read_file($sender);
    my ($list) = $source =~ /qw\((count=s .*?)\)\)/s;
    my @missing = grep { $output !~ /--\Q$_\E\b/ } $list =~ /([a-z-]{2,})/g;
    is("@missing", '', 'every option');
}


# tools ----------------------------------------------------------------------

# It runs beside the test: finish() gives its exit status and what it printed.

sub start {
    my @command = ref $_[0] ? ('/bin/sh', '-c', $_[0]{shell}) : ($sender, @_);
    my $n = our $started++;
    my $file = $t->write_file("sender-$n.out", '');
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT PIPE TERM);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $file;
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    $running{$pid} = 1;

    return { pid => $pid, file => $file };
}

sub ended {
    my ($process) = @_;

    if (!defined $process->{status}
        && waitpid($process->{pid}, WNOHANG) == $process->{pid})
    {
        delete $running{$process->{pid}};
        $process->{status} = $? & 127 ? 128 + ($? & 127) : $? >> 8;
    }

    return defined $process->{status};
}

sub finish {
    my ($process) = @_;

    $t->wait_for(sub { ended($process) }, 40, 'the sender to end')
        or kill 'KILL', $process->{pid};

    return ($process->{status} // -1, $t->read_file($process->{file}));
}

# The numbers of the summary.

sub told {
    my ($output) = @_;
    return { $output =~ /^([a-z][a-z ]*?) +(\d+)(?: in .*)?$/mg };
}

sub logged {
    return map { [split /\t/] } split /\n/, $t->read_file('log');
}

sub seconds {
    my ($h, $m, $s) = $_[0] =~ /T(\d\d):(\d\d):([\d.]+)Z$/;
    return ($h * 60 + $m) * 60 + $s;
}

sub established {
    my ($port) = @_;
    my $hex = sprintf ':%04X', $port;
    return scalar grep { (split)[2] =~ /$hex$/ && (split)[3] eq '01' }
                       split /\n/, Test::Edge::slurp('/proc/net/tcp');
}

sub client_certificate {
    my ($certificate, $key) = CERT_create(
        subject => { commonName => 'taptalent' }, purpose => 'client',
        key => KEY_create_ec('prime256v1'), not_after => time() + 365 * 86400,
    );

    $t->write_file('client.pem', PEM_cert2string($certificate));
    $t->write_file('client-key.pem', PEM_key2string($key));
}
