#!/usr/bin/perl

# docs/spool.md: the form of a line and of a name, and its consumer, which is
# killed, refused, and given all that can come.
#
# slow: the consumer is killed and started again many times

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command);
use Test::Edge;

my $t = Test::Edge->new(workers => 2);
my $top = $t->top();
my $text = $t->read_file("$top/docs/spool.md");

my $root = defined $t->worker_user();
my @worker = $root ? (getpwnam $t->worker_user())[2, 3] : ();

envelope();
consumer();
post();

$t->no_alerts();

done_testing();


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

sub envelope {
    $t->forget_spool();
    run_spools();

    my ($part) = $text =~ /^## Lines$(.*?)^## /ms;
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

    my $checksum = block('docs/spool.md', 'checksum');
    my ($file) = $t->spool_files();
    $checksum =~ s/FILE/$file/;
    my ($crc) = $line->{_file} =~ /-(\w{8})\.ndjson$/;

    is(qx{$checksum}, "$crc\n", 'checksum in shell');

    # the file's name

    my ($name) = $text =~ /^ +(\S+\.ndjson)$/m;
    s/[0-9a-f]/0/g for $name, my $real = $line->{_file};
    is($real, $name, 'form of the name');

    # what is waiting

    my $jq = block('docs/spool.md', 'waiting');
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

    my $consume = script('consumer', block('docs/consumers.md', 'consumer'));
    my $store = script('store', block('docs/consumers.md', 'store'));

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
        is((grep { $_ != 200 } $t->post_together('/first', map { event(n => $n++) }
                                                 1 .. 20)),
           0, 'stored at once');

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
    is((grep { $_ != 200 } $t->post_together('/first', map { event(event => $_) }
                                             @names)),
       0, 'stored at once');

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
    my $consume = script('consumer', block('docs/consumers.md', 'consumer'));
    my $post = script('post', block('docs/consumers.md', 'post'));
    my @command = ($consume, $t->spool(), $t->path('state'), $post);
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

sub script {
    my ($name, $script) = @_;
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
