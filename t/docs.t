#!/usr/bin/perl

# The documents: their links, that each of their blocks is run or says why not,
# and that the reference is that of the source. Each configuration is given to
# nginx -t here; what the blocks are for is run by the test that takes them.

use strict;
use warnings;

use File::Find qw(find);
use Test::More;

use lib 't/lib';
use Test::Docs qw(block);
use Test::Edge;

my $t = Test::Edge->new(workers => 2);
my $top = $t->top();

my @documents = qw(README.md docs/directives.md docs/verification.md
                   docs/forwarding.md docs/spool.md docs/security.md
                   docs/monitoring.md
                   docs/guarantees.md docs/consumers.md docs/handlers.md
                   docs/rehearsal.md);
my %text = map { $_ => $t->read_file("$top/$_") } @documents;

links();
marks();
indented();
directives();
variables();
verdicts();
layout();
configurations();

$t->no_alerts();

done_testing();


# links ----------------------------------------------------------------------

sub links {
    for my $document (@documents) {
        my ($dir) = $document =~ m{^(.*/)?};
        my $prose = $text{$document};
        $prose =~ s/^ *```.*?^ *```//msg;

        my @broken;

        for my $link ($prose =~ /\]\(([^)]+)\)/g) {
            next if $link =~ m{^https://};

            my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
            my $target = $file eq '' ? $document : ($dir // '') . $file;
            $target =~ s{^docs/\.\./}{};

            push @broken, $link if !-e "$top/$target";
            push @broken, $link
                if defined $anchor && !anchors($text{$target})->{$anchor};
        }

        is("@broken", '', "$document: links");
    }

    my @missing = grep { index($text{'README.md'}, "]($_)") < 0 }
                  grep { $_ ne 'README.md' } @documents;

    is("@missing", '', 'README.md: a link to each document');
}

# as a heading's anchor is made by the sites that show Markdown

sub anchors {
    my ($text) = @_;
    my %anchors;

    for my $heading ($text =~ /^#+ +(.*)$/mg) {
        my $anchor = lc $heading;
        $anchor =~ s/[^\w\- ]//g;
        $anchor =~ tr/ /-/;
        $anchors{$anchor} = 1;
    }

    return \%anchors;
}


# blocks ---------------------------------------------------------------------

# Each fenced block is one of nginx, or is taken by a test under its name, or
# says why not; and what a test takes is there.

sub marks {
    my %taken = taken();

    for my $document (@documents) {
        my (@unmarked, %named);

        for my $block (blocks($document)) {
            if (defined $block->{run}) {
                $named{ $block->{run} }++;

            } elsif (!defined $block->{not_run}
                     && $block->{language} ne 'nginx')
            {
                push @unmarked, "line $block->{line}";
            }
        }

        is("@unmarked", '', "$document: each block is marked");

        my $taken = $taken{$document} // {};

        is(join(', ', grep { !$taken->{$_} } sort keys %named), '',
           "$document: a test takes each that is to be run");
        is(join(', ', grep { !$named{$_} } sort keys %$taken), '',
           "$document: each that a test takes is there");
        is(join(', ', grep { $named{$_} > 1 } sort keys %named), '',
           "$document: no name is there twice");
    }
}

# The names in calls of block(), by document.

sub taken {
    my (%taken, @tests);

    find(sub { push @tests, $File::Find::name if /\.t$/ }, "$top/t");

    for my $test (@tests) {
        my $text = $t->read_file($test);

        while ($text =~ /\bblock\(\s*'([\w.\/-]+)',\s*'([^']+)'\)/g) {
            $taken{$1}{$2} = 1;
        }
    }

    return %taken;
}

# What is indented is output, or a figure: what a reader copies is in a fence.

sub indented {
    my %command = map { $_ => 1 } qw(
        apt apt-cache apt-get apt-mark awk base64 cat cd chgrp chmod chown cp
        curl cut dd df dig dmesg docker dpkg du echo env eval exec export find
        for git grep gzip head if install ip journalctl jq kill ln ls make
        mkdir mount mv nc nginx node npm npx openssl perl php pip podman
        printf promtool prove psql python python3 rabbitmqctl rm rmdir rsync
        scp sed set sh sleep sort sqlite3 ssh sudo systemctl tail tar tee test
        timeout touch umount until useradd wget while xargs
    );

    for my $document (@documents) {
        my ($fence, $empty, $n, @commands) = (0, 1, 0);

        for my $line (split /\n/, $text{$document}) {
            $n++;
            $fence = !$fence if $line =~ /^ *```/;

            if (!$fence && $empty && $line =~ /^ {4,}(\S.*)$/) {
                my $text = $1;
                my ($word) = $text =~ m{^[(\$\# ]*([\w./-]*)};

                push @commands, "$n: $line"
                    if $command{$word} || $word =~ m{^\./|\.(?:sh|pl|t)$}
                       || $text =~ /^\w.*[;{]$/;
            }

            $empty = $line eq '';
        }

        is(join("\n", @commands), '',
           "$document: no indented block is a command");
    }
}


# the reference and the source -----------------------------------------------

sub source {
    return join '', map { $t->read_file($_) }
                        glob("$top/*.c"), glob("$top/src/*.c");
}

sub directives {
    my %context = (MAIN => 'http', SRV => 'server', LOC => 'location');
    my (%source, %documented);

    my $source = source();

    while ($source =~ /\{\ ngx_string\("(\w+)"\),\s*
                       ((?:NGX_HTTP_\w+_CONF\|)+) NGX_CONF_/xg)
    {
        my ($name, $flags) = ($1, $2);
        $source{$name} =
            join ', ', map { $context{$_} } $flags =~ /NGX_HTTP_(\w+?)_CONF/g;
    }

    ok(%source, 'directives found in the source');

    my ($part) = $text{'docs/directives.md'} =~ /^## Directives$(.*?)^## /ms;

    for my $section (split /^(?=### )/m, $part) {
        my ($name) = $section =~ /^### (\w+)$/m or next;

        ok($section =~ /^\*\*Syntax:\*\*\ `\Q$name\E\ [^`]+;`\n\n
                         ^\*\*Default:\*\*\ (-|`\Q$name\E\ [^`]+;`)\n\n
                         ^\*\*Context:\*\*\ ([\w, ]+)\n\n
                         ^[A-Z]/mx, "$name: form")
            or next;

        my ($default, $where) = ($1, $2);

        $documented{$name} = $where;

        # each parameter of the syntax is told of

        my ($syntax) = $section =~ /^\*\*Syntax:\*\* `(.*)`$/m;
        my ($rest) = $section =~ /^\*\*Context:.*?\n(.*)/ms;
        my @names = grep { $_ ne 'parameter' } $syntax =~ /[\[ ](\w+)=/g;

        is(join(' ', grep { $rest !~ /`\Q$_\E=/ } @names), '',
           "$name: its parameters") if @names;

        next if $default eq '-';

        $default =~ tr/`//d;
        config_ok($where eq 'http' ? "events {\n}\n\nhttp {\n$default\n}\n"
                                   : "location / { $default }",
                  "$name: default");
    }

    is_deeply(\%documented, \%source, 'directives and their contexts');

    # and so is each that the source looks for

    my @parameters = $source =~ /(?:strn?cmp\([^"\n]*|string\()"(\w+)=/g;

    cmp_ok(scalar @parameters, '>', 20, 'parameters found in the source');
    is(join(' ', grep { $part !~ /`\Q$_\E=/ } @parameters), '',
       'each parameter of the source is there');

    my ($contents) = $text{'docs/directives.md'} =~ /^(- \[Example.*?)^## /ms;
    my @listed = $contents =~ /\[(taptalent_\w+)\]/g;
    is_deeply([sort @listed], [sort keys %source], 'list of contents');
}

sub variables {
    my $source = source();
    my %source;

    $source{$1} = 1
        while $source =~ /\{ ngx_string\("(taptalent_\w+)"\), NULL,/g;

    ok(%source, 'variables found in the source');

    my ($part) =
        $text{'docs/directives.md'} =~ /^## Embedded variables$(.*)/ms;
    my %documented = map { $_ => 1 } $part =~ /^`\$(\w+)`\n: /mg;

    is_deeply(\%documented, \%source, 'variables');

    # no other name is used anywhere

    my %used = map { $_ => 1 } map { /(?<!\w)(\$?taptalent_\w+)/g }
               values %text;
    my @unknown = grep {
        my ($sigil, $name) = /^(\$?)(.*)/;
        my ($metric) = $name =~ /^taptalent_webhook_(\w+?)
                                  (?:_bucket|_sum|_count)?$/x;

        # metrics are compared by prometheus.t; the other is the name of a job

        $sigil ? !$source{$name}
               : $source !~ /ngx_string\("\Q$name\E"\)/
                 && $name ne 'taptalent_webhook'
                 && !(defined $metric && $source =~ /"\Q$metric\E/);
    } sort keys %used;

    is("@unknown", '', 'no unknown names');
}

sub verdicts {
    my %number = (
        NGX_HTTP_OK => 200,
        NGX_HTTP_BAD_REQUEST => 400,
        NGX_HTTP_UNAUTHORIZED => 401,
        NGX_HTTP_FORBIDDEN => 403,
        NGX_HTTP_NOT_ALLOWED => 405,
        NGX_HTTP_REQUEST_ENTITY_TOO_LARGE => 413,
        NGX_HTTP_UNSUPPORTED_MEDIA_TYPE => 415,
        NGX_HTTP_SERVICE_UNAVAILABLE => 503,
    );

    my ($table) = source() =~ /ngx_http_taptalent_answers\[\] = (.*?)^\};/ms;
    my %source;

    while ($table =~ /ngx_string\("(\w+)"\), (\w+)/g) {
        $source{$1} = $number{$2} // $2;
    }

    ok(%source, 'verdicts found in the source');

    my ($part) = $text{'docs/directives.md'} =~ /^## Verdicts$(.*?)^## /ms;
    my %documented = $part =~ /^\| `(\w+)` \| (\d+)/mg;

    is_deeply(\%documented, \%source, 'verdicts');

    ($part) = $text{'README.md'} =~ /^## What is answered$(.*?)^## /ms;
    my %short;

    for my $line ($part =~ /^(\| \d+ .*)$/mg) {
        my ($status, $words) = $line =~ /^\| (\d+) \| ([^|]*) \|/;
        $short{$_} = $status for $words =~ /`(\w+)`/g;
    }

    is_deeply(\%short, \%source, 'verdicts in README.md');
}


# docs/development.md: all files are named, and no function that is not there

sub layout {
    my $text = $text{'docs/development.md'};
    my $source = source() . join '', map { $t->read_file($_) }
                                         glob "$top/src/*.h";
    my ($layout) = $text =~ /^## Layout$(.*?)^## /ms;
    my ($way) = $text =~ /^## The way of an event$(.*?)^## /ms;
    my ($tests) = $text =~ /^## Adding a test$(.*?)^## /ms;

    my @files = map { s{.*/ngx_http_taptalent_?}{}r } glob "$top/src/*";
    my @named = map { /`(\w+\.(?:c|h|html))`/g } $layout =~ /^(\|[^|]*\|)/mg;

    is(join(' ', sort @named), join(' ', sort grep { $_ ne '.h' } @files),
       'docs/development.md: the files of src/');

    is(join(' ', grep { $source !~ /^ngx_http_taptalent_\Q$_\E\(/m }
                      $way =~ /`(\w+)\(\)`/g), '',
       'docs/development.md: its functions are there');

    is(join(' ', sort $tests =~ /^\| `(\w+)` \|/mg),
       join(' ', map { m{(\w+)\.pm$} } sort glob "$top/t/lib/Test/*.pm"),
       'docs/development.md: the modules of the tests');
}


# configurations -------------------------------------------------------------

sub configurations {
    my $n = 0;

    for my $document (@documents) {
        for my $block (grep { $_->{language} eq 'nginx' } blocks($document)) {
            config_ok($block->{text}, "$document:$block->{line}");
            $n++;
        }

        ok($n > 0, "$document: configurations") if $document !~ /spool|guarantees|consumers|rehearsal/;
    }
}

# Paths and ports of the documents become ours; what is not a whole
# configuration is put into one.

sub configuration {
    my ($block) = @_;

    $block =~ s/^load_module .*$//m;
    $block =~ s{/etc/ssl/[\w.]+\.crt}{%%PREFIX%%/cert.pem}g;
    $block =~ s{/etc/ssl/[\w.]+\.key}{%%PREFIX%%/key.pem}g;
    $block =~ s{/var/spool/taptalent}{%%SPOOL%%}g;
    $block =~ s{/var/log/nginx/}{%%PREFIX%%/}g;
    $block =~ s{\blisten(\s+)443 ssl\b}{listen$1 127.0.0.1:%%PORT_1%% ssl}g;
    $block =~ s{\blisten(\s+)8080\b}{listen$1 127.0.0.1:%%PORT_0%%}g;
    $block =~ s{/etc/nginx/([\w-]+\.(?:key|map))\b}{%%PREFIX%%/$1}g;
    $block =~ s{127\.0\.0\.1:3000}{127.0.0.1:%%PORT_2%%}g;

    if ($block !~ /^http \{/m) {

        if ($block !~ /^(?:server|map|geo|location) /m) {
            $block = "location / {\n$block\n}\n";
        }

        if ($block =~ /\A\s*location /) {
            $block = "server {\nlisten 127.0.0.1:%%PORT_0%%;\n$block\n}\n";
        }

        $block = "events {\n}\n\nhttp {\n$block\n}\n";
    }

    ok($n, "$n configurations");
}

sub config_ok {
    my ($block, $name) = @_;

    if ($block =~ /\$realip_/ && !$t->has('http_realip_module')) {
        pass("$name # skipped, no realip");
        return;
    }

    $t->conf(configuration($t, $block));
    my ($status, $output) = $t->config_test();

    is($status, 0, $name) or diag("$block\n$output");

    if ($block =~ /_forward / && $block !~ /_spool /) {
        like($output, qr/\[warn\].* has no spool/, "$name: a warning");
        return;
    }

    if ($block =~ /_enforce +off/ && $block =~ /_webhook +on/) {
        like($output, qr/\[warn\].* events of anybody/, "$name: a warning");
        return;
    }

    unlike($output, qr/\[warn\]/, "$name: no warnings");
}


# the five minutes of README.md ----------------------------------------------

sub readme {
    my ($block) = $text{'README.md'} =~ /^```nginx\n(.*?)^```$/ms;

    cmp_ok(scalar(split /\n/, $block), '<=', 21, 'README.md: short');

    $t->conf(configuration($block));
    $t->run();

    my ($curl) = $text{'README.md'} =~ /^```sh\n(curl .*?)^```$/ms;
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

    # there is no application yet, and then there is

    ok($t->wait_log(qr/destination "\/application" is down/),
       'README.md: the application is down');

    my $request = application(200);

    like($request, qr{^POST /webhooks/taptalent HTTP/}, 'README.md: forwarded');
    like($request, qr/"companyId": "company-uuid"/, 'README.md: the event');
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       'README.md: it leaves the spool');

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


# An application that answers one request, and returns it.

sub application {
    my ($status) = @_;

    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $t->port(2), Listen => 5,
        ReuseAddr => 1, Timeout => 20,
    ) or die "listen: $!";

    my $c = $listener->accept() or return '';
    close $listener;

    my $request = '';

    while ($request !~ /^Content-Length: (\d+)\r\n.*\r\n\r\n(.*)/ms
           || length $2 < $1)
    {
        sysread $c, $request, 65536, length $request or last;
    }

    syswrite $c, "HTTP/1.1 $status X\r\nContent-Length: 0\r\n"
                 . "Connection: close\r\n\r\n";
    close $c;

    return $request;
}


# docs/forwarding.md ---------------------------------------------------------

sub forwarding {
    my $text = $text{'docs/forwarding.md'};

    # the limits are those of the source

    my $header = $t->read_file("$top/src/ngx_http_taptalent_queue.h");
    my %limit = $header =~ /^#define NGX_HTTP_TAPTALENT_(\w+) +(\d+)/mg;

    my ($events, $megabytes, $destinations) =
        $text =~ /^- (\d+) events, or (\d+) megabytes .*^- (\d+) dest/ms;

    is($events, $limit{WAITING}, 'docs/forwarding.md: waiting events');
    is($megabytes, $limit{BYTES} / 2 ** 20, 'docs/forwarding.md: their bytes');
    is($destinations, $limit{DESTS}, 'docs/forwarding.md: destinations');

    # what arrives is what is shown

    my ($block) = $text =~ /^```nginx\n(.*?)^```$/ms;
    $t->conf(configuration($block));
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
    my ($list) = $text =~ /^    (cd \S+\n +jq -r .*?ndjson)$/ms;
    $list =~ s{/var/spool/taptalent}{$spool};

    like(qx{$list}, qr/^\S+Z\tpermanent\t422\t\S+\t$letter->{id}$/,
         'docs/forwarding.md: list of dead letters');

    my ($name) = $text =~ m{^ +mv dead/(\S+) new/$}m;
    s/[0-9a-f]/0/g for $name, my $real = $letter->{_file};
    s/0{4,}\./0./ for $name, $real;
    is($real, $name, 'docs/forwarding.md: form of its name');

    my ($again) = $text =~ /^ +(find dead .*)$/m;
    is(system("cd $spool && $again"), 0, 'docs/forwarding.md: sent again');

    like(application(200), qr/^X-Webhook-Id: $letter->{id}\r$/m,
         'docs/forwarding.md: it arrives');
    ok($t->wait_for(sub { !$t->spool_files() }, 10, 'an empty spool'),
       'docs/forwarding.md: it leaves the spool');

    like($t->read_file('delivery.log'),
         qr/ $letter->{id} \S+ \S+ 422 \S+\n.* $letter->{id} \S+ \S+ 200 /s,
         'docs/forwarding.md: the log of deliveries');

    $t->stop();
}


# docs/security.md -----------------------------------------------------------

# What the configuration there keeps out, and what it lets in.

sub security {
    my ($block) = $text{'docs/security.md'} =~ /^```nginx\n(.*?)^```$/ms;
    my ($path) = $block =~ /^ +location = (\S{40,}) \{/m;
    my ($burst) = $block =~ /burst=(\d+)/;
    my ($conns) = $block =~ /limit_conn +\w+ (\d+);/;
    my ($size) = $block =~ /client_max_body_size +(\d+)k;/;
    my ($free) = $block =~ /(min_free=\w+)/;

    $block =~ s/allow +203\S+;/allow 127.0.0.1;/ or fail('allow');
    $block =~ s/client_body_timeout +5s;/client_body_timeout 1s;/
        or fail('client_body_timeout');

    # a machine of tests may have less
    $block =~ s/$free/min_free=0/;

    $t->conf(configuration($block));
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

    # too many at once

    my @slow = map { $t->connect(@to) } 1 .. $conns;

    $_->send(substr $t->message($path, event(), @host), 0, -1) for @slow;

    # each has been read when one finds the place taken

    my $busy = $t->wait_for(sub {
        my $status = $t->post($path, event(), @to)->{status};
        return $status == 200 ? 0 : $status;
    }, 1);

    is($busy, 429, "$what: too many connections");
    $_->close() for @slow;

    # too many in a row: the burst, and what the rate allows meanwhile

    $t->wait_for(sub { $t->post($path, event(), @to)->{status} == 200 }, 10,
                 'room again');

    my %status;
    my $k = $t->connect(@to);

    for (1 .. 3 * $burst) {
        $k->send($t->message($path, event(), @host, keepalive => 1));
        $status{ $k->answer()->{status} }++;
    }

    is(join(' ', sort keys %status), '200 429', "$what: too many in a row");

    my $log = $t->read_file('webhook.log');

    like($log, qr/ 429 - /, "$what: they are in the log");
    unlike($log, qr/webhooks/, "$what: the path is not");

    my ($find) = $text{$what} =~ /^ +(find \/var.*?-delete)$/ms;
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


# docs/spool.md --------------------------------------------------------------

# A spool, the second one open to the group, and an application that is
# another webhook.

sub run_spools {
    $t->conf(<<'CONF');
%%GLOBALS%%

events {
}

http {
    server {
        listen 127.0.0.1:%%PORT_0%%;

        taptalent_webhook_company_id any missing=accept;
        taptalent_webhook_https off;

        location = /first {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location = /second {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/second;
            taptalent_webhook_spool_access group:rw;
        }

        location = /broken {
            return 500;
        }

        location = /moved {
            return 302 /second;
        }

        location = /busy {
            return 503;
        }
    }
}
CONF

    $t->run() if !$t->{master};
}

# What a consumer has to cope with: line breaks, quotes, look-alikes of the
# envelope, numbers that do not fit, text in other scripts, half surrogates.

sub bodies {
    my $plain = event();
    (my $lines = $plain) =~ s/, /,\r\n\t/g;

    return (
        $plain,
        "$plain\n",
        $lines,
        event(companyId => 12345),
        event(companyId => undef),
        event(companyId => \q("it's \"a\" \u0027$(id)`id`\\\\ \u00fc")),
        event(data => \'{"a":[{"x":1,"payload":{"y":"}"}}]}'),
        event(data => \'{"n":12345678901234567890.10,"e":1e999,"z":-0.0}'),
        event(data => \qq({"t":"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"})),
        event(data => \'{"half":"\ud83d","nul":"\u0000","nl":"\n"}'),
        event(data => \('{"long":"' . 'x' x 20000 . '"}')),
        event(data => \("{\n\"long\":\"" . 'y' x 200000 . '"}')),
        event(more => '%s \\n $HOME * ; "', data => \'{}'),
    );
}

sub send_all {
    my ($uri, @bodies) = @_;

    for my $body (@bodies) {
        my $answer = $t->post($uri, $body, headers => {
            'X-Webhook-Note' => "\"a\\b\" \xe9 ,\"payload\":",
            'X-Webhook-Key' => 'secret',
        });
        is($answer->{status}, 200, 'stored') or diag($answer->{body});
    }
}

# Events that end at the same moment, so that several get into one file.

sub send_group {
    my ($uri, @bodies) = @_;

    my @connections = map {
        my $message = $t->message($uri, $_);
        my $c = $t->connect();
        $c->send(substr $message, 0, -1);
        [$c, substr $message, -1];
    } @bodies;

    $_->[0]->send($_->[1]) for @connections;

    my @refused = grep { $_->[0]->answer()->{status} != 200 } @connections;
    is(@refused, 0, 'stored at once');

    $_->[0]->close() for @connections;
}

sub envelope {
    $t->forget_spool();
    run_spools();

    my ($part) = $text{'docs/spool.md'} =~ /^## Lines$(.*?)^## /ms;
    my @documented = $part =~ /^\| `(\w+)` \|/mg;

    send_all('/first', "\n" . event());

    my ($line) = $t->spool_lines();
    my $json = $line->{_line};
    my @order = sort { index($json, "\"$a\":") <=> index($json, "\"$b\":") }
                grep { !/^_/ } keys %$line;

    is_deeply(\@order, \@documented, 'members in their order');
    unlike($json, qr/secret/, 'no key');

    # the example has the same ones, and its id

    my ($example) = $part =~ /^    (\{"v":1.*?\}\}$)/ms;
    my @shown = $example =~ /^ *\{?"(\w+)":/mg;
    is_deeply(\@shown, \@documented, 'members of the example');

    my ($raw) = $example =~ /"raw":"(\w+)/;
    my ($begin) = $t->read_file("$top/t/demo/demo.sh") =~ /^(\{\n.*?^\}\n)/ms;
    my ($id) = $example =~ /"id":"(\w+)"/;

    is(index(encode_base64($begin, ''), $raw), 0, 'raw of the example');
    is($id, substr(sha256_hex($begin), 0, 32), 'id of the example');

    # the checksum in shell

    my ($checksum) = $text{'docs/spool.md'} =~ /^ +(gzip -c < FILE .*)$/m;
    my ($file) = $t->spool_files();
    $checksum =~ s/FILE/$file/;
    my ($crc) = $line->{_file} =~ /-(\w{8})\.ndjson$/;

    is(qx{$checksum}, "$crc\n", 'checksum in shell');

    # the file's name

    my ($name) = $text{'docs/spool.md'} =~ /^ +(\S+\.ndjson)$/m;
    s/[0-9a-f]/0/g for $name, my $real = $line->{_file};
    is($real, $name, 'form of the name');

    # what is waiting

    my ($jq) = $text{'docs/spool.md'} =~ /^ +(jq -r .*?ndjson)$/ms;
    my $spool = $t->spool();
    $jq =~ s{/var/spool/taptalent}{$spool};

    is(qx{$jq}, join("\t", map { $line->{$_} }
                               qw(received event companyId id)) . "\n",
       'list of what is waiting');

    $t->forget_spool();
}

sub consumer {
    my $spool = $t->spool();
    my $state = $t->path('state');
    my $out = $t->path('out');

    my $consume = script('consumer');
    my $store = script('store');

    my @consumer = ($consume, $spool, $state);

    # everything that can come, each body exactly

    mkdir $out;
    mkdir $state;
    chown @worker, $out, $state if $root;

    my @bodies = bodies();
    send_all('/first', @bodies);
    send_all('/first', $bodies[0]);

    my ($status, $output) = command({ as => \@worker }, @consumer, $store,
                                    $out);

    is($status, 0, 'consumer, as the user of the workers') or diag($output);
    is($output, '', 'it has nothing to say');
    is($t->spool_files(), 0, 'new/ is empty');
    is($t->spool_files('corrupt'), 0, 'nothing is damaged');

    my %stored = map { $t->read_file($_) => 1 } glob "$out/*.json";
    my @missing = grep { !$stored{$_} } @bodies;

    is(@missing, 0, 'every body is there, byte for byte');
    is(keys %stored, @bodies, 'and nothing else');

    # a command that tells what it gets

    my $tell = executable('tell', <<'SH');
printf '%s|' "$WEBHOOK_ID" "$WEBHOOK_EVENT" "$WEBHOOK_TIMESTAMP" \
             "$WEBHOOK_COMPANY_ID" "$WEBHOOK_RECEIVED"
SH

    send_all('/first', event(companyId => \q("it's \u00fc $(id)")));
    my ($line) = $t->spool_lines();

    ($status, $output) = command(@consumer, $tell);
    is($output, join('|', $line->{id}, $line->{event}, $line->{timestamp},
                     "it's \xc3\xbc \$(id)", $line->{received}, ''),
       'environment of the command');

    killed($spool, $state, $consume);
    refused($spool, $state, $consume);
    odd_files($spool, $state, $consume);
}

# Killed at one event after the other, started again each time.

sub killed {
    my ($spool, $state, $consume) = @_;

    my $log = $t->path('killed.log');

    # The command logs the event, then kills its consumer at every third.

    my $command = executable('kill-every-third', <<SH);
echo "\$WEBHOOK_ID" >> $log
[ \$((\$(wc -l < $log) % 3)) -ne 0 ] || kill -9 \$PPID
SH

    my $n = 0;
    my ($expected, $largest) = (0, 0);

    # until a group was one

    while ($largest < 4 && $n < 1000) {
        send_group('/first', map { event(n => $n++) } 1 .. 20);

        for my $file ($t->spool_files()) {
            my ($events) = $file =~ /-(\d+)-\w{8}\.ndjson$/;
            $largest = $events if $events > $largest;
        }
    }

    cmp_ok($largest, '>=', 4, 'several events in a file');
    is(scalar($t->spool_lines()), $n, "$n events");

    my $kills = 0;
    my ($status, $output);

    while ($kills <= $n) {
        ($status, $output) = command($consume, $spool, $state, $command);
        last if $status == 0;
        $kills++;
    }

    is($status, 0, 'everything is done at last') or diag($output);
    cmp_ok($kills, '>=', 6, "$kills times killed");
    is($t->spool_files(), 0, 'new/ is empty');
    is($t->spool_files('corrupt'), 0, 'nothing is damaged');

    my %seen;
    $seen{$_}++ for split /\n/, $t->read_file($log);

    my @again = grep { $_ > 1 } values %seen;

    is(keys %seen, $n, 'no event is lost');
    cmp_ok(@again, '<=', $kills, 'only those are repeated that were broken');

    command($consume, $spool, $state, 'true');
    is(join(' ', glob "$state/*.done"), '', 'nothing is left in the state');
}

# A command that fails, for one event and for all.

sub refused {
    my ($spool, $state, $consume) = @_;

    my $log = $t->path('refused.log');
    my $refuse = $t->path('refuse');

    my $command = executable('refuse-some', <<SH);
grep -q "\$WEBHOOK_EVENT" $refuse && exit \$(cat $refuse.status)
echo "\$WEBHOOK_EVENT" >> $log
SH

    my @names = map { "e.$_" } 'a' .. 'f';
    send_group('/first', map { event(event => $_) } @names);

    $t->write_file('refuse', "e.c\n");
    $t->write_file('refuse.status', "1\n");

    my ($status, $output) = command($consume, $spool, $state, $command);

    is($status, 1, 'an event that is refused');
    like($output, qr/event \w+ is not done/, 'it is named');

    command($consume, $spool, $state, $command);

    is(join(' ', sort split /\n/, $t->read_file($log)), 'e.a e.b e.d e.e e.f',
       'the others are done, once');

    my @left = grep { $_->{event} eq 'e.c' } $t->spool_lines();
    is(@left, 1, 'it stays');

    $t->write_file('refuse.status', "75\n");
    send_all('/first', event(event => 'e.g'));

    ($status) = command($consume, $spool, $state, $command);

    is($status, 75, 'nothing can be done');
    unlike($t->read_file($log), qr/e\.g/, 'the pass ends');

    $t->write_file('refuse', "none\n");
    ($status) = command($consume, $spool, $state, $command);

    is($status, 0, 'the rest');
    is(join(' ', sort split /\n/, $t->read_file($log)),
       'e.a e.b e.c e.d e.e e.f e.g', 'every event is done, once');
    is($t->spool_files(), 0, 'new/ is empty');
}

sub odd_files {
    my ($spool, $state, $consume) = @_;

    # damaged

    send_all('/first', event());
    my ($damaged) = $t->spool_files();
    my $content = $t->read_file($damaged);
    (my $changed = $content) =~ s/"received":"2/"received":"3/;
    $t->write_file($damaged, $changed);

    my ($status, $output) = command($consume, $spool, $state, 'false');

    is($status, 1, 'a damaged file');
    like($output, qr/is damaged/, 'it is named');
    is($t->spool_files(), 0, 'it is not in new/ any more');
    is($t->spool_files('corrupt'), 1, 'but in corrupt/');
    unlink $t->spool_files('corrupt');

    # without a checksum, but the id does not fit; without an end

    ($changed = $content) =~ s/batch-uuid/batch-uuix/;

    for my $text ($changed, substr($content, 0, -20)) {
        $t->write_file("$spool/new/by-hand.ndjson", $text);
        ($status) = command($consume, $spool, $state, 'false');
        is($status, 1, 'damaged, without a checksum');
        is($t->spool_files('corrupt'), 1, 'to corrupt/');
        unlink $t->spool_files('corrupt');
    }

    # by hand, also without the last LF

    for my $text ($content, substr($content, 0, -1)) {
        $t->write_file("$spool/new/by-hand.ndjson", $text);
        ($status, $output) = command($consume, $spool, $state, 'cat');
        is($status, 0, 'a file put there by hand');
        is($output, event(), 'its event');
    }

    # half a note of what is done; a whole one

    for my $case (["line 1 do\nline 1", event()], ["line 1 done\n", '']) {
        $t->write_file("$spool/new/noted.ndjson", $content);
        $t->write_file("$state/noted.ndjson.done", $case->[0]);
        ($status, $output) = command($consume, $spool, $state, 'cat');
        is($status, 0, 'a note of what is done');
        is($output, $case->[1], 'what is not done is done');
    }

    # a tool that is missing is not a damaged file

    $t->write_file("$spool/new/by-hand.ndjson", $content);
    my $tools = $t->path('tools');
    mkdir $tools;
    symlink "/usr/bin/$_", "$tools/$_" for qw(awk base64 flock grep gzip);

    ($status, $output) = command('/usr/bin/env', "PATH=$tools", '/bin/sh',
                                 $consume, $spool, $state, 'cat');
    is($status, 69, 'a tool is missing');
    like($output, qr/jq is not installed/, 'it is named');
    is(unlink("$spool/new/by-hand.ndjson"), 1, 'the file stays');

    # a newer version, and what is no file of events

    (my $newer = $content) =~ s/"v":1/"v":2/;
    $t->write_file("$spool/new/newer.ndjson", $newer);
    $t->write_file("$spool/new/note.txt", 'a note');
    symlink '/etc/passwd', "$spool/new/link.ndjson";
    mkdir "$spool/new/directory.ndjson";

    ($status, $output) = command($consume, $spool, $state, 'cat');

    is($status, 1, 'a newer version');
    like($output, qr/unknown version 2/, 'it is named');
    ok(-l "$spool/new/link.ndjson", 'a link is left alone');
    is($t->spool_files('corrupt'), 0, 'nothing is damaged');
    ok(-e "$spool/new/newer.ndjson", 'it stays');

    unlink map { "$spool/new/$_" } qw(newer.ndjson note.txt link.ndjson);
    rmdir "$spool/new/directory.ndjson";

    # two of them

    send_all('/first', event());
    my $other = executable('other', "$consume $spool $state true");

    ($status, $output) = command($consume, $spool, $state, $other);

    is($status, 75, 'two consumers at once');
    like($output, qr/another consumer is running/, 'the second says so');

    # no access

    if ($root) {
        my ($uid) = (getpwnam 'nobody')[2];
        my $own = $t->path('nobody');
        mkdir $own;
        chown $uid, $worker[1], $own;

        ($status, $output) = command({ as => [$uid, $worker[1]] },
                                     $consume, $spool, $own, 'true');
        is($status, 77, 'another user');
        like($output, qr/no access/, 'it says so');

        # unless the spool is open to the group

        send_all('/second', event());
        ($status, $output) = command({ as => [$uid, $worker[1]] }, $consume,
                                     $t->path('second'), $own, 'cat');
        is($status, 0, 'another user of the group');
        is($output, event(), 'its event');
        is(join(' ', glob $t->path('second/new/*')), '', 'taken');
    }

    is($t->forget_spool(), 1, 'one is left');
}

# The command that posts, to another location with a spool.

sub post {
    my @command = (script('consumer'), $t->spool(), $t->path('state'),
                   script('post'));
    my $url = 'http://127.0.0.1:' . $t->port(0);

    my @bodies = bodies();
    send_all('/first', @bodies);
    my @first = $t->spool_lines();

    my ($status) = command(@command, 'http://127.0.0.1:' . $t->port(9));
    is($status, 75, 'the application is not there');
    is(scalar($t->spool_lines()), @first, 'nothing is gone');

    for my $case (['/broken', 1], ['/moved', 1], ['/busy', 75]) {
        my ($uri, $expected) = @$case;

        ($status) = command(@command, "$url$uri");
        is($status, $expected, "the application answers as $uri");
        is(scalar($t->spool_lines()), @first, 'nothing is gone');
    }

    ($status, my $output) = command(@command, "$url/second");
    is($status, 0, 'posted to the application') or diag($output);
    is($t->spool_files(), 0, 'new/ is empty');

    my @second;
    {
        no warnings 'redefine';
        local *Test::Edge::spool = sub { $t->path('second') };
        @second = $t->spool_lines();
    }

    is_deeply([map { $_->{id} } @second], [map { $_->{id} } @first],
              'byte for byte');
    is_deeply([map { $_->{headers}{'x-webhook-id'} } @second],
              [map { $_->{id} } @first], 'with the id');
}


# commands -------------------------------------------------------------------

# The script of docs/spool.md that is marked with this name.

sub script {
    my ($name) = @_;
    my $script = block('docs/consumers.md', $name);

    my $path = $t->write_file("$name.sh", $script);
    chmod 0755, $path;

    return $path;
}

sub executable {
    my ($name, $text) = @_;
    my $path = $t->write_file($name, "#!/bin/sh\n$text");
    chmod 0755, $path;
    return $path;
}

# (exit status, what it says)

sub command {
    my %opts = ref $_[0] ? %{shift()} : ();
    my @command = @_;

    my $pid = open(my $out, '-|') // die "fork: $!";

    if ($pid == 0) {
        if (my ($uid, $gid) = @{$opts{as} // []}) {
            $) = "$gid $gid";
            $( = $gid;
            POSIX::setuid($uid);
        }

        $SIG{PIPE} = 'DEFAULT';
        open STDIN, '<', '/dev/null';
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? & 127 ? 128 + ($? & 127) : $? >> 8, $output);
}
