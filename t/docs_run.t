#!/usr/bin/perl

# What the documents tell to do is done: the five minutes of README.md, a
# delivery and its dead letter, the hardened configuration, and commands.
#
# slow: what the documents tell takes its time

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command configuration);
use Test::Edge;

my $t = Test::Edge->new(workers => 2);
my $top = $t->top();

my %text = map { $_ => $t->read_file("$top/$_") }
               qw(README.md docs/forwarding.md);

my $root = defined $t->worker_user();

readme();
forwarding();
security();
key_file();
quarantine();
group();
development();

$t->no_alerts();

done_testing();


# the five minutes of README.md ----------------------------------------------

sub readme {
    my $block = block('README.md', 'configuration');

    cmp_ok(scalar(split /\n/, $block), '<=', 24, 'README.md: short');

    $t->conf(configuration($t, $block));
    $t->run();

    my $curl = block('README.md', 'event');
    my ($answer) = $text{'README.md'} =~ /^answers\n\n +(\S+)$/m;

    my $port = $t->port(1);
    $curl =~ s/:8443/:$port/ or fail('README.md: curl line');
    chomp $curl;

    my ($status, $output) = command('sh', '-c', "$curl -sS");

    is($status, 0, 'README.md: curl');
    is($output, $answer, 'README.md: answer');

    my @lines = $t->spool_lines();

    is(@lines, 1, 'README.md: one line in the spool');
    is($lines[0]{payload}{companyId}, 'company-uuid', 'README.md: payload');

    # the first event of the reader's own

    my $first = block('README.md', 'first event');
    $first =~ s{https://hooks\.example\.com/}{https://127.0.0.1:$port/}
        or fail('README.md: the URL');
    $first =~ s/^curl /curl -sSk /;

    ($status, $output) = command('sh', '-c', $first);

    is("$status $output", '0 {"received":true}', 'README.md: the first event');

    # there is no application yet, and then there is

    ok($t->wait_log(qr/destination "\/application" is down/),
       'README.md: the application is down');

    my $listener = listener();
    my ($request) = sort { ($b =~ /Event: resume/) <=> ($a =~ /Event: resume/) }
                    map { application(200, $listener) } 1, 2;

    like($request, qr{^POST /webhooks/taptalent HTTP/}, 'README.md: forwarded');
    like($request, qr/"companyId": "company-uuid"/, 'README.md: the event');
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       'README.md: it leaves the spool');

    large_answer('README.md', $listener);

    # each refusal says why

    my $refused = $t->post('/webhooks/taptalent', '[]', tls => 1,
                           headers => { 'X-Webhook-Event' => 'a',
                               'X-Webhook-Timestamp' => '2024-01-20T14:45:00Z'
                           });

    is($refused->{status}, 422, 'README.md: a refusal');
    is_deeply([sort keys %{$refused->{json}}], [qw(error message received)],
              'README.md: its members');

    $t->stop();
}


# An application that answers one request, and returns it. Its answer may have
# more headers, such as the cookies of a framework: with the buffers of nginx
# that would be a 502, and the event is sent again and again.

sub large_answer {
    my ($document, $listener) = @_;
    my $large = 'Set-Cookie: session=' . 'x' x 10_000 . "\r\n";

    is($t->post('/webhooks/taptalent', event(companyId => 'company-uuid', n => 9),
                tls => 1)->{status}, 200, "$document: one more event");
    like(application(200, $listener, $large), qr/^POST /,
         "$document: an answer with a header of 10 kB");
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       "$document: it counts");
    is($t->grep_log(qr/too big header/) + 0, 0, "$document: it fits");
}


sub listener {
    return IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $t->port(2), Listen => 5,
        ReuseAddr => 1, Timeout => 20,
    ) // die "listen: $!";
}

sub application {
    my ($status, $listener, $more) = @_;

    $more //= '';
    $listener //= listener();

    my $c = $listener->accept() or return '';

    my $request = '';

    while ($request !~ /^Content-Length: (\d+)\r\n.*\r\n\r\n(.*)/ms
           || length $2 < $1)
    {
        sysread $c, $request, 65536, length $request or last;
    }

    syswrite $c, "HTTP/1.1 $status X\r\nContent-Length: 0\r\n"
                 . "Connection: close\r\n$more\r\n";
    close $c;

    return $request;
}


# docs/forwarding.md ---------------------------------------------------------

sub forwarding {
    my $text = $text{'docs/forwarding.md'};

    # the limits are those of the source

    my $header = $t->read_file($t->sources('queue.h'));
    my %limit = $header =~ /^#define NGX_HTTP_TAPTALENT_(\w+) +(\d+)/mg;

    my ($events, $megabytes, $destinations) =
        $text =~ /^- (\d+) events, or (\d+) megabytes .*^- (\d+) dest/ms;

    is($events, $limit{WAITING}, 'docs/forwarding.md: waiting events');
    is($megabytes, $limit{BYTES} / 2 ** 20, 'docs/forwarding.md: their bytes');
    is($destinations, $limit{DESTS}, 'docs/forwarding.md: destinations');

    # what arrives is what is shown

    my $block = block('docs/forwarding.md', 'configuration');
    $t->conf(configuration($t, $block));
    $t->run();

    is($t->post('/webhooks/taptalent', event(), tls => 1)->{status}, 200,
       'docs/forwarding.md: an event');

    my ($head) = application(422) =~ /^(.*?)\r\n\r\n/s;
    my @names = $head =~ /^([^:\r]+): /mg;

    my ($shown) = $text =~ /^( +POST .*?)^$/ms;
    my @shown = $shown =~ /^ +([\w-]+): /mg;

    is("@names", "@shown", 'docs/forwarding.md: headers');

    my ($line) = $head =~ /^(.*?)\r$/m;
    like($shown, qr/^ +\Q$line\E$/m, 'docs/forwarding.md: request line');

    # the table of ids

    my $table = block('docs/forwarding.md', 'table');
    my $twice = join '', map { "INSERT INTO webhook_events VALUES ('a', '$_')"
                               . " ON CONFLICT DO NOTHING;" } 1, 2;
    my ($exit, $rows) = command('sqlite3', ':memory:',
                                "$table$twice SELECT * FROM webhook_events");
    is("$exit $rows", "0 a|1\n", 'docs/forwarding.md: an id only once');

    # a dead letter, which is looked at and sent again

    ok($t->wait_for(sub { $t->spool_files('dead') }, 10, 'a dead letter'),
       'docs/forwarding.md: a dead letter');

    my ($members) = $text =~ /^## Dead letters$(.*?)^## /ms;
    my @documented = $members =~ /^\| `(\w+)` \|/mg;
    my ($letter) = $t->spool_lines('dead');
    is(join(' ', sort keys %{$letter->{dead}}), join(' ', sort @documented),
       'docs/forwarding.md: its members');
    is(substr($letter->{_line}, 0, 8), '{"dead":', 'the first member');

    my $spool = $t->spool();
    my $list = block('docs/forwarding.md', 'dead letters');
    $list =~ s{/var/spool/taptalent}{$spool};

    like(qx{$list}, qr/^\S+Z\tpermanent\t422\t\S+\t$letter->{id}$/,
         'docs/forwarding.md: list of dead letters');

    my ($name) = block('docs/forwarding.md', 'send one again')
                 =~ m{^mv dead/(\S+) new/$};
    s/[0-9a-f]/0/g for $name, my $real = $letter->{_file};
    s/0{4,}\./0./ for $name, $real;
    is($real, $name, 'docs/forwarding.md: form of its name');

    # it is sent again alone

    (my $one = block('docs/forwarding.md', 'send one again'))
        =~ s{dead/\S+}{dead/$letter->{_file}};
    is(system("cd $spool && $one"), 0, 'docs/forwarding.md: one again');
    like(application(422), qr/^X-Webhook-Id: $letter->{id}\r$/m,
         'docs/forwarding.md: it comes');
    ok($t->wait_for(sub { $t->spool_files('dead') }, 10, 'a dead letter'),
       'docs/forwarding.md: a dead letter again');

    my $again = block('docs/forwarding.md', 'send all again');
    is(system("cd $spool && $again"), 0, 'docs/forwarding.md: sent again');

    like(application(200), qr/^X-Webhook-Id: $letter->{id}\r$/m,
         'docs/forwarding.md: it arrives');
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       'docs/forwarding.md: it leaves the spool');

    like($t->read_file('delivery.log'),
         qr/ $letter->{id} \S+ \S+ 422 \S+\n.* $letter->{id} \S+ \S+ 200 /s,
         'docs/forwarding.md: the log of deliveries');

    large_answer('docs/forwarding.md');

    $t->stop();
}


# docs/security.md -----------------------------------------------------------

# What the configuration there keeps out, and what it lets in.

sub security {
    my $block = block('docs/security.md', 'configuration');
    my ($path) = $block =~ /^ +location = (\S{40,}) \{/m;

    $block =~ s/rate=500r/rate=1r/ or fail('rate');
    $block =~ s/burst=1000 /burst=500 / or fail('burst');

    my ($conns) = $block =~ /limit_conn +\w+ (\d+);/;
    my ($size) = $block =~ /client_max_body_size +(\d+)k;/;
    my ($free) = $block =~ /(min_free=\w+)/;

    $block =~ s/allow +203\S+;/allow 127.0.0.1;/ or fail('allow');
    $block =~ s/client_body_timeout +5s;/client_body_timeout 1s;/
        or fail('client_body_timeout');

    # a machine of tests may have less
    $block =~ s/$free/min_free=0/;

    $t->conf(configuration($t, $block));
    $t->run();

    my %key = ('X-Webhook-Key' => 'the key of the dashboard');
    my @host = (host => 'hooks.example.com', headers => \%key);
    my @to = (tls => 1, ssl => { SSL_hostname => 'hooks.example.com' }, @host);
    my $what = 'docs/security.md';

    is($t->post($path, event(), @to)->{status}, 200, "$what: an event");
    is(scalar($t->spool_files()), 1, "$what: is stored");
    is($t->post($path, event(), @to, headers => {})->{status}, 401,
       "$what: without the key");
    is($t->post('/webhooks/taptalent', event(), @to)->{status}, 404,
       "$what: another path");
    is($t->post('/application', event(), @to)->{status}, 404,
       "$what: the internal location");
    is($t->post($path, event(companyId => 'other'), @to)->{status}, 403,
       "$what: another company");
    like($t->post($path, event(), tls => 1)->{error} // '', qr/TLS/,
         "$what: another name gets no certificate");

    my $large = event(data => { pad => 'x' x ($size * 1024) });
    is($t->post($path, $large, @to)->{status}, 413, "$what: a large event");

    # another address

    my $port = $t->port(1);
    my ($exit, $output) = $t->curl('--interface', '127.0.0.2', '--resolve',
        "hooks.example.com:$port:127.0.0.1", '-w', '%{http_code}', '-o',
        '/dev/null', '-d', '{}', "https://hooks.example.com:$port$path");
    is($output, 403, "$what: another address");

    # who sends slowly is let go

    my $c = $t->connect(@to);
    $c->send(substr $t->message($path, event(), @host), 0, -1);
    ok($c->eof(10), "$what: half a body");

    # too many at once, none of whom is let go before the last has come

    $block =~ s/client_body_timeout 1s;/client_body_timeout 600s;/
        or fail('client_body_timeout');

    $t->conf(configuration($t, $block));
    ok($t->reload(old_gone => 1), "$what: reload");

    my @slow;

    for (1 .. $conns) {
        push @slow, $t->connect(@to);
        $slow[-1]->send(substr $t->message($path, event(), @host), 0, -1);
    }

    # each has been read when one finds the place taken

    my $busy = $t->wait_for(sub {
        my $status = $t->post($path, event(), @to)->{status};
        return $status == 200 ? 0 : $status;
    }, 10, 'limit_conn');

    is($busy, 429, "$what: too many connections");
    $_->close() for @slow;

    # too many in a row: the burst, and what the rate allows meanwhile

    $t->wait_for(sub { $t->post($path, event(), @to)->{status} == 200 }, 10,
                 'room again');

    my %status;
    my $k = $t->connect(@to);

    for (1 .. 900) {
        last if ($status{429} // 0) == 20;

        $k->send($t->message($path, event(), @host, keepalive => 1));
        $status{ $k->answer()->{status} }++;
    }

    is(join(' ', sort keys %status), '200 429', "$what: too many in a row");

    my $log = $t->read_file('webhook.log');

    like($log, qr/ 429 - /, "$what: they are in the log");
    unlike($log, qr/webhooks/, "$what: the path is not");

    my $find = block('docs/security.md', 'old');
    my $spool = $t->spool();

    s{/var/spool/taptalent}{$spool}g for $find;
    $t->write_file("$spool/dead/$_.ndjson", '') for qw(old new);
    utime 0, 0, "$spool/dead/old.ndjson";
    is(system($find), 0, "$what: what is old goes");
    is(join(' ', map { s{.*/}{}r } $t->spool_files('dead')), 'new.ndjson',
       "$what: and nothing else");

    $t->stop();
    unlink $t->spool_files(), $t->spool_files('dead');
}


# docs/verification.md, docs/directives.md ------------------------------------

sub key_file {
    my $write = block('docs/verification.md', 'write key');
    my $file = $t->path('written.key');

    $write =~ s{/etc/nginx/taptalent\.key}{$file} or fail('the path');

    open my $sh, '|-', 'sh', '-c', $write or die "sh: $!";
    print $sh "the key\n";
    close $sh;

    is($t->read_file('written.key'), "the key\n",
       'docs/verification.md: the key is written');
    is(sprintf('%04o', (stat $file)[2] & 07777), '0600',
       'docs/verification.md: for nobody else');
}

# A key that is wrong, and what it has refused.

sub quarantine {
    my $block = block('docs/verification.md', 'quarantine');
    my $kept = $t->path('kept');
    my $what = 'docs/verification.md';

    $block =~ s{/var/spool/taptalent-quarantine}{$kept};
    $block =~ s{^server \{}{server \{\nlisten 127.0.0.1:%%PORT_0%%;
                            taptalent_webhook_https off;}m or fail('server');

    $t->conf(configuration($t, $block));
    $t->run();

    my $listener = listener();
    my $path = '/webhooks/taptalent';
    my @wrong = (headers => { 'X-Webhook-Key' => 'another key' });

    my @files;

    # one after another, or two of them may be in one file

    for my $n (1 .. 3) {
        is($t->post($path, event(n => $n), @wrong)->{status}, 401,
           "$what: refused");
        ok($t->wait_for(sub { (@files = glob "$kept/new/*.ndjson") == $n }, 10,
                        'the quarantine'), "$what: kept");
    }

    my ($spool, $look) = ($t->spool(), block('docs/verification.md', 'look'));
    $look =~ s{/var/spool/taptalent-quarantine}{$kept};
    my @shown = qx{$look};

    is(scalar(grep { m{^\["key","company-uuid","resume\.[\w.]+","\w{32}"\]$} }
                   @shown), 3, "$what: what there is");

    # one, then the others

    for my $redeem (block('docs/verification.md', 'redeem'),
                    block('docs/directives.md', 'redeem'))
    {
        my ($file) = map { s{.*/}{}r } glob "$kept/new/*.ndjson";

        $redeem =~ s{/var/spool/taptalent-quarantine}{$kept};
        $redeem =~ s{/var/spool/taptalent}{$spool};
        $redeem =~ s{\bFILE\b}{$file};
        is(system($redeem), 0, "$what: redeemed");
    }

    my %got;

    while (keys %got < 3) {
        my $request = application(200, $listener) or last;
        $got{$1} = 1 if $request =~ /^X-Webhook-Id: (\w+)\r$/m;
    }

    is(scalar(keys %got), 3, "$what: they arrive");
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       "$what: they leave the spool");

    $t->stop();
}

# The spool is that of another group.

sub group {
    my $block = block('docs/directives.md', 'group');
    my ($name, $gid) = (getgrnam 'users')[0, 2];
    my $spool = $t->spool();

    SKIP: {
        skip 'not root', 4 if !$root;

        $block =~ s{/var/spool/taptalent}{$spool};
        $block =~ s{\bhooks\b}{$name} or fail('the group');

        $t->conf(configuration($t, <<'CONF'));
server {
    listen 8080;
    taptalent_webhook_https off;

    location = /hook {
        taptalent_webhook on;
        taptalent_webhook_company_id any;
        taptalent_webhook_spool /var/spool/taptalent;
        taptalent_webhook_spool_access group:rw;
    }
}
CONF
        $t->run();
        is(system($block), 0, 'docs/directives.md: another group');
        is($t->post('/hook', event())->{status}, 200, 'an event');

        my ($file) = $t->spool_files();
        is((stat $file)[5], $gid, 'its file is that of the group');
        is(sprintf('%04o', (stat _)[2] & 07777), '0660', 'its mode');

        $t->stop();
        $t->forget_spool();
    }
}


# docs/development.md: the build, and a test of the tests ---------------------

sub development {
    my $what = 'docs/development.md';
    my $build = block('docs/development.md', 'build');
    my $one = block('docs/development.md', 'test');
    my $static = block('docs/development.md', 'static');
    my $test = $t->write_file('one.t', block('docs/development.md', 'a test'));
    my @in = ('sh', '-ec');

    delete local @ENV{qw(MAKEFLAGS MAKELEVEL HARNESS_ACTIVE HARNESS_OPTIONS)};

    SKIP: {
        skip 'it is about the installed nginx', 1 if $ENV{TEST_NGINX_BINARY};

        my ($status, $output) = command(@in, "cd $top\n$build");
        like("$status $output", qr/^0 built build\/debian\//, "$what: make");
    }

    my ($status, $output) = command(@in, "cd $top\n$one");
    like("$status $output", qr/^0 .*^Result: PASS$/ms, "$what: a test is run");

    ($status, $output) = command(@in, "cd $top\nprove $test");
    like("$status $output", qr/^0 .*^Result: PASS$/ms, "$what: the example");

    SKIP: {
        skip 'the variant is not built', 1 if !-x "$top/build/static/nginx";

        ($status, $output) = command(@in, "cd $top\n$static");
        like("$status $output", qr/^0 .*^Result: PASS$/ms, "$what: a variant");
    }
}
