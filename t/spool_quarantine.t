#!/usr/bin/perl

# taptalent_webhook_quarantine: what is refused for who sent it, or when, is kept
# with its verdict, within bounds, and can be redeemed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Fault;
use Test::Load;

my $t = Test::Edge->new(workers => 2);
my $p = $t->prefix();
my $spool = $t->spool();

my $conf = <<'EOF';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_forward /deliver;
    taptalent_webhook_quarantine %%PREFIX%%/quarantine;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% reuseport;
        listen 127.0.0.1:%%PORT_3%% ssl;
        %%TLS%%
        client_max_body_size 2k;

        location /company { taptalent_webhook on; }

        location /key {
            taptalent_webhook on;
            taptalent_webhook_key right;
            taptalent_webhook_events "a.*" "resume.*";
        }

        location /tls {
            taptalent_webhook on;
            taptalent_webhook_https on;
            taptalent_webhook_key right;
        }

        location /stale {
            taptalent_webhook on;
            taptalent_webhook_tolerance 5m;
        }

        location /signature {
            taptalent_webhook on;
            taptalent_webhook_signature preset=github key=right;
        }

        location /report {
            taptalent_webhook on;
            taptalent_webhook_key right;
            taptalent_webhook_enforce off;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_quarantine off;
        }

        location /receiver { taptalent_webhook receiver; }

        location /small {
            taptalent_webhook on;
            taptalent_webhook_quarantine %%PREFIX%%/small max_size=40k;
        }

        location /large {
            taptalent_webhook on;
            taptalent_webhook_quarantine %%PREFIX%%/large max_size=8m;
        }

        location = /deliver {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }

        location = /json { taptalent_webhook_status json; }
        location = /metrics { taptalent_webhook_status prometheus; }
    }
}
EOF

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');

$t->conf($conf);
$t->run();

my $n = 0;

sub fresh { return event(data => { id => 'quarantine-' . $n++ }, @_) }
sub files { my ($dir) = @_; my @files = sort glob "$p/$dir/new/*.ndjson";
            return @files }

sub lines {
    my ($dir) = @_;

    return map { split /\n/, $t->read_file($_) } files($dir);
}

sub counted {
    my ($dir) = @_;
    my ($q) = grep { $_->{path} eq "$p/$dir" }
                   @{ $t->get('/json')->{json}{quarantines} };

    return $q->{kept};
}

configurations();
kept();
tls();
not_kept();
redeemed();
aged();
repeated();
bounded();
trimmed();
failing();
shown();
stopped();

$t->no_alerts();

done_testing();


sub configurations {
    for my $case (
        ['taptalent_webhook_quarantine q;', qr/invalid path .*, write/],
        ['taptalent_webhook_quarantine /q$host;', qr/invalid path .*, write/],
        ['taptalent_webhook_quarantine %%PREFIX%%/q size=1m;',
         qr/invalid parameter "size=1m", write "max_size=size"/],
        ['taptalent_webhook_quarantine %%PREFIX%%/q max_size=0;',
         qr/invalid parameter "max_size=0"/],
        ['taptalent_webhook_quarantine %%PREFIX%%/q max_size=x;',
         qr/invalid parameter "max_size=x"/],
        ['taptalent_webhook_quarantine %%PREFIX%%/q; '
         . 'taptalent_webhook_quarantine %%PREFIX%%/q;', qr/is duplicate/],
        ['taptalent_webhook_quarantine %%SPOOL%%;',
         qr/is that of a spool and of a quarantine, write another/],
        ['taptalent_webhook_quarantine %%PREFIX%%//spool;',
         qr/are one directory, write it in the same way/],
        ['taptalent_webhook_quarantine %%PREFIX%%/quarantine max_size=1m;',
         qr/has other parameters in/],
        ['taptalent_webhook_quarantine %%PREFIX%%/quarantine; '
         . 'taptalent_webhook_spool %%PREFIX%%/s;'
         . 'taptalent_webhook_spool_access group:r;',
         qr/shares the quarantine .* has another "taptalent_webhook_spool_acc/],
        ['taptalent_webhook_quarantine %%PREFIX%%/q max_size=1m;', undef],
        ['taptalent_webhook_quarantine %%PREFIX%%/quarantine/;', undef],
    ) {
        my ($directive, $message) = @$case;

        (my $other = $conf) =~
            s/location \/off \{.*?\}/location \/x { taptalent_webhook on; $directive }/s;
        $t->conf($other, 'other.conf');

        my ($exit, $output) = $t->config_test('other.conf');

        is($exit == 0, !$message, $directive) or diag($output);
        like($output, $message, 'and it says why') if $message;
    }

    my ($exit, $output) = $t->config_test();

    is($exit, 0, 'good') or diag($output);
    unlike($output, qr/\[warn\].*spool/, 'without a warning of a spool');
}


# each verdict, with the exact bytes and the refusal as it is without

sub kept {
    my %case = (
        company_id => ['/company', 403, companyId => "not \"ours\""],
        key => ['/key', 401],
        stale => ['/stale', 422],
        signature => ['/signature', 401],
    );

    for my $verdict (sort keys %case) {
        my ($uri, $status, %event) = @{ $case{$verdict} };
        my $event = fresh(%event);
        my $before = files('quarantine');
        my $r = $t->post($uri, $event, headers => {
            $verdict eq 'key' ? ('X-Webhook-Key' => 'wrong-secret') : (),
            'X-Hub-Signature-256' => 'sha256=' . '0' x 64,
        });

        is($r->{status}, $status, "$verdict: status");
        is($r->{json}{error}, $verdict, 'verdict');

        $t->wait_for(sub { files('quarantine') > $before }, 10, 'the file');

        my @files = files('quarantine');
        my ($line) = split /\n/, $t->read_file($files[-1]);

        is(@files, $before + 1, 'one file');
        like($line, qr/^\{"refused":\{"verdict":"$verdict"\},"v":1,"id":/,
             'the line begins with the verdict');

        my ($wrong, $lines) = Test::Spool::check_file($files[-1]);

        is($wrong, undef, 'a file as in a spool');
        is(Test::Spool::split_line($line =~ s/^\{"refused":\{[^}]*\},/{/r)
           ->{body}, $event, 'the exact bytes');
    }

    unlike(join("\n", lines('quarantine')), qr/wrong-secret/, 'no key');
    is(scalar(() = glob "$spool/new/*"), 0, 'nothing of it is in the spool');
    is((stat((files('quarantine'))[0]))[2] & 0777, 0600, 'for the worker only');
}


# over TLS, by curl, which is sure whom it talks to; what is no HTTPS is not kept

sub tls {
    my $event = fresh(n => 'over TLS');
    my $before = files('quarantine');
    my $file = $t->write_file('event.json', $event);
    my @curl = ('--no-insecure', '--cacert', $t->path('cert.pem'),
                '--data-binary', "\@$file", '-H', 'X-Webhook-Key: wrong-tls',
                '-w', ' %{http_code}',
                'https://localhost:' . $t->port(3) . '/tls');
    my @headers = @{ headers_for($event) };

    while (my ($name, $value) = splice @headers, 0, 2) {
        push @curl, '-H', "$name: $value";
    }

    is($t->post('/tls', $event, headers => { 'X-Webhook-Key' => 'wrong-tls' })
       ->{json}{error}, 'https_required', 'not over TLS');

    like(($t->curl(@curl))[1], qr/^\{.*"error":"key",.* 401$/, 'over TLS');

    $t->wait_for(sub { files('quarantine') > $before }, 10, 'the file');

    my @files = files('quarantine');
    my $line = (lines('quarantine'))[-1];

    is(@files, $before + 1, 'kept, once');
    is(Test::Spool::split_line($line =~ s/^\{"refused":\{"verdict":"key"\},/{/r)
       ->{body}, $event, 'with its exact bytes');
    unlike($line, qr/wrong-tls/, 'and no key');
}


sub not_kept {
    my $before = files('quarantine');
    my %wrong = ('X-Webhook-Key' => 'wrong');

    # what is not well-formed, or not wanted, or refused for something else

    my $bad = '{"event":"a.b"';

    is($t->post('/key', $bad, headers => { %wrong, 'X-Webhook-Event' => 'a.b' })
       ->{json}{error}, 'key', 'no JSON, and the first verdict stays');
    is($t->post('/key', '[]', headers => { %wrong, 'X-Webhook-Event' => 'a.b' })
       ->{json}{error}, 'key', 'no event');
    is($t->post('/key', event(event => 'b.b'), headers => \%wrong)
       ->{json}{error}, 'key', 'of a type that is not wanted');
    is($t->post('/key', fresh() . ' ' x 4000, headers => \%wrong)
       ->{json}{error}, 'too_large', 'too large');
    is($t->post('/company', '{')->{json}{error}, 'json', 'not JSON');
    is($t->get('/company')->{status}, 405, 'a GET');
    is($t->post('/off', fresh(companyId => 'other'))->{json}{error},
       'company_id', 'where it is off');
    is($t->post('/receiver', fresh(companyId => 'other'))->{json}{error},
       'company_id', 'the receiver');

    my $reported = Test::Spool::event_body('reported-0-1');

    is($t->post('/report', $reported)->{body}, '{"received":true}',
       'what is only reported');

    # a later commit would have had them

    $t->post('/company', fresh(companyId => 'last'));
    $t->wait_for(sub { files('quarantine') > $before }, 10, 'the file');
    is(scalar(files('quarantine')), $before + 1, 'none of them is kept');
    like((lines('quarantine'))[-1], qr/"companyId":"last"/, 'but the last');
}


# by a move, as the document says

sub redeemed {
    my @ids = map { "redeem-0-$_" } 1 .. 12;

    unlink files('quarantine');

    for my $id (@ids) {
        my $event = Test::Spool::event_body($id) =~
                        s/"company-uuid"/"company-yyyy"/r;

        next if length $event > 2000;
        $t->post('/key', Test::Spool::event_body($id),
                 headers => { 'X-Webhook-Key' => 'wrong' });
    }

    @ids = grep { length Test::Spool::event_body($_) <= 2000 } @ids;

    $t->wait_for(sub { @ids == grep { /"refused"/ } lines('quarantine') }, 10,
                 'all of them');

    for my $file (files('quarantine')) {
        rename $file, $file =~ s{\Q$p/quarantine\E}{$spool}r or die "$file: $!";
    }

    ok($o->wait_empty($spool), 'they are forwarded');
    $o->poll_app();
    is(scalar(grep { $o->{delivered}{$_} } @ids), scalar @ids, 'all of them');
    is($o->altered(), 0, 'with their exact bytes');

    # also one that the application refuses for good, and again

    my $id = 'redeem-0-40';

    $app->mode('422');
    $t->post('/key', Test::Spool::event_body($id),
             headers => { 'X-Webhook-Key' => 'wrong' });
    $t->wait_for(sub { files('quarantine') }, 10, 'the file');

    my ($file) = files('quarantine');

    rename $file, $file =~ s{\Q$p/quarantine\E}{$spool}r;
    $t->wait_for(sub { () = glob "$spool/dead/*.ndjson" }, 15, 'a dead letter');

    my ($dead) = glob "$spool/dead/*.ndjson";

    like($t->read_file($dead),
         qr/^\{"dead":\{[^}]*\},"refused":\{"verdict":"key"\},"v":1/,
         'a dead letter says both');
    $app->mode('ok');
    rename $dead, $dead =~ s{/dead/}{/new/}r;
    ok($o->wait_empty($spool), 'and is sent again');
    $o->poll_app();
    ok($o->{delivered}{$id}, 'delivered');
}


# it may have been there for longer than an event is tried

sub aged {
    my $id = 'aged-0-1';
    my $name = Test::Load::make_file("$p/quarantine", [$id],
                                     time => time() - 10 * 86400);
    my $line = $t->read_file("$p/quarantine/new/$name");

    unlink "$p/quarantine/new/$name";
    $t->write_file("$p/quarantine/aged.ndjson",
                   '{"refused":{"verdict":"key"},' . substr $line, 1);
    unlink glob "$spool/dead/*";

    $app->mode('500');
    rename "$p/quarantine/aged.ndjson", "$spool/new/aged.ndjson" or die $!;
    $o->wait_answered(1) or diag('no attempt');
    $app->mode('ok');

    ok($o->wait_empty($spool), 'an old one');
    $o->poll_app();
    ok($o->{delivered}{$id}, 'is tried again, and delivered');
    is(scalar(() = glob "$spool/dead/*"), 0, 'and not given up for its age');
}


# the sender tries four times

sub repeated {
    my $event = fresh(companyId => 'repeated');
    my $before = files('quarantine');
    my $counted = counted('quarantine');

    # the file is there a moment before it is known

    $t->post('/company', $event);
    $t->wait_for(sub { counted('quarantine') > $counted }, 10, 'the commit');

    for (1 .. 3) {
        is($t->post('/company', $event)->{status}, 403, 'refused again');
    }

    $t->post('/company', fresh(companyId => 'after'));
    $t->wait_for(sub { files('quarantine') > $before + 1 }, 10, 'the file');
    is(scalar(files('quarantine')), $before + 2, 'and kept once');
}


sub bounded {
    my $size = sub { my $sum = 0; $sum += -s $_ || 0 for files('small');
                     return $sum };
    my $most = 0;

    # what a quarantine has not written is not its to remove

    my $foreign = Test::Load::make_file("$p/small", ['foreign-0-1'],
                                        time => time() - 86400);

    # nor are they in the way, however many they are

    $t->write_file("small/new/$_.ndjson", "{}\n") for 1000 .. 1299;

    for my $i (1 .. 300) {
        $t->post('/small', fresh(companyId => "small-$i"));

        # on a slow disk there would be many events in a file

        $t->wait_for(sub { counted('small') == $i }, 20, 'all to be kept')
            if $i % 10 == 0;

        my $now = $size->();

        $most = $now if $now > $most;
    }

    is(counted('small'), 300, 'each has been kept');

    my ($newest) = map { -s $_ } reverse files('small');

    cmp_ok($most, '<=', 4 * 40960, 'never much more than max_size');
    cmp_ok($size->(), '<=', 40960 + 8192 + $newest, 'nor at the end');
    cmp_ok($most, '>', 20000, 'but not much less');

    ok(-e "$p/small/new/$foreign", 'an event of a spool is not removed');
    is(scalar(grep { m{/1\d{3}\.ndjson$} } files('small')), 300,
       'nor what is none');

    my @kept = map { /"companyId":"small-(\d+)"/ } lines('small');

    cmp_ok(scalar(grep { $_ > 250 } @kept), '>', 0, 'the newest are there');
    is(scalar(grep { $_ == 1 } @kept), 0, 'the oldest is gone');
    cmp_ok(scalar(@kept), '<=', scalar(keys %{{ map { $_ => 1 } @kept }}),
           'each is there once');
}


# workers that find it too large at the same time remove what one would

sub trimmed {
    my $unfit = $> != 0 ? 'needs root' : Test::Fault->no_strace();

    SKIP: {
        skip $unfit, 6 if $unfit;
        trim_at_once();
    }
}

sub trim_at_once {
    my $max = 8 * 1024 * 1024;
    my $line = '{"refused":{"verdict":"key"},' . 'x' x 9970 . "\n";

    for my $i (0 .. $max / 10000 + 10) {
        $t->write_file(sprintf('large/new/20200101T000000.%03dZ-%016x-%010d-1-'
                               . '%08x.ndjson', $i, 0, $i, 0), $line);
    }

    # one that nobody may read is none of a quarantine, perhaps: it stays

    my $closed = 'large/new/20190101T000000.000Z-by-hand.ndjson';

    chmod 0, $t->write_file($closed, $line) or die "chmod: $!";

    # they do not know yet what it holds

    ok($t->reload(old_gone => 1), 'reload');

    my $strace = Test::Fault->strace(
        [map { Test::Fault->committers($_) } $t->workers()],
        'unlinkat:delay_enter=10000');
    my @connections = map { $t->connect(port => $t->port(1)) } 1 .. 20;

    $_->send($t->message('/large', fresh(companyId => 'large')))
        for @connections;
    is(scalar(grep { $_->answer()->{status} == 403 } @connections), 20,
       'refused');

    ok($t->reload(old_gone => 1), 'reload, so that the commits have ended');
    $strace->detach();

    my $size = 0;

    $size += -s $_ for files('large');
    cmp_ok($size, '<=', 0.91 * $max, 'a tenth of it is free');
    cmp_ok($size, '>', 0.88 * $max, 'and not more');
    ok(-e $t->path($closed), 'what cannot be read stays');
    unlink $t->path($closed);
}


# a quarantine that fails refuses as one that is not there

sub failing {
    SKIP: {
        skip 'needs root', 4 if $> != 0;

        my $is = (stat "$p/quarantine/tmp")[2] & 07777;

        chmod 0, "$p/quarantine/tmp";
        is($t->post('/company', fresh(companyId => 'x'))->{json}{error},
           'company_id', 'the refusal stays');
        $t->wait_for(sub { $t->grep_log(qr{quarantine/tmp" failed}) }, 10,
                     'the log');
        is($t->post('/key', fresh(), headers => { 'X-Webhook-Key' => 'w' })
           ->{json}{error}, 'key', 'also before the body');
        is($t->post('/company', Test::Spool::event_body('others-0-1'))
           ->{status}, 200, 'others are taken');
        chmod $is, "$p/quarantine/tmp";

        my $before = files('quarantine');

        ok($t->wait_for(sub {
            $t->post('/key', fresh(), headers => { 'X-Webhook-Key' => 'w' });
            return files('quarantine') > $before;
        }, 20, 'the quarantine to work'), 'and it works again');
    }
}


sub shown {
    my $status;

    $t->wait_for(sub {
        $status = $t->get('/json')->{json};
        my ($q) = grep { $_->{path} eq "$p/quarantine" }
                       @{ $status->{quarantines} };
        return $q && $q->{backlog}
               && $q->{backlog}{files} == files('quarantine')
               && !$status->{spools}[0]{backlog}{events}
               && !$status->{history}{backlog}[-1];
    }, 15, 'the status');

    my ($q) = grep { $_->{path} eq "$p/quarantine" }
                   @{ $status->{quarantines} };

    is(@{ $status->{quarantines} }, 3, 'three quarantines');
    is(@{ $status->{spools} }, 1, 'which are no spools');
    cmp_ok($q->{kept}, '>=', files('quarantine'), 'how many were kept');
    is($q->{backlog}{files}, scalar(files('quarantine')), 'files');
    is($q->{max_size}, 64 * 1024 * 1024, 'max_size');
    is($status->{history}{backlog}[-1] // 0, 0, 'nothing of it waits');
    like($t->get('/metrics')->{body},
         qr/^taptalent_webhook_quarantined_events_total\{quarantine=
            "\Q$p\E\/quarantine"\}\ $q->{kept}$/mx, 'the same in the metrics');
}


# a graceful stop waits for what is being kept

sub stopped {
    # a worker that has seen it fail tries but once a second

    ok($t->reload(old_gone => 1), 'reload');

    my @connections = map { $t->connect() } 1 .. 20;

    $_->send($t->message('/company', fresh(companyId => 'stop')))
        for @connections;
    is(scalar(grep { $_->answer()->{status} == 403 } @connections), 20,
       'refused');
    ok($t->quit(), 'stopped');

    my $kept = grep { /"companyId":"stop"/ } lines('quarantine');

    is($kept, 20, 'and all of them are kept');
}
