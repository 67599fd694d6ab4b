#!/usr/bin/perl

# docs/troubleshooting.md: each verdict is there with its status, each line that
# is quoted is one that the module, or nginx -t, really says, and the commands
# work.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command log_pattern);
use Test::Edge;

my $t = Test::Edge->new();
my $top = $t->top();
my $text = $t->read_file("$top/docs/troubleshooting.md");
my $source = join '', map { $t->read_file($_) } grep { /\.c$/ } $t->sources();
my $spool = $t->spool();

# what is indented and not in a fence; those of nginx -t begin with the level

my @quoted = map { /^    (\S.*)$/mg } $text =~ s/^ *```.*?^ *```//msgr;
my @start = grep { /^\[/ } @quoted;
my @refused = grep { /^webhook refused: / } @quoted;
my @other = grep { !/^\[|^webhook refused: / } @quoted;

verdicts();
lines();
refusals();
starts();
counted();

$t->no_alerts();

done_testing();


sub verdicts {
    my ($table) = $t->read_file("$top/docs/directives.md")
                  =~ /^## Verdicts$(.*?)^## /ms;
    my %status = $table =~ /^\| `(\w+)` \| (\d+)/mg;
    my ($part) = $text =~ /^## Verdicts$(.*?)^## /ms;
    my %documented;

    for my $section (split /^(?=### )/m, $part) {
        my ($words, $status) = $section =~ /^### (.*)\n\n(\d+)\b/ or next;
        $documented{$_} = $status for split /, /, $words;
    }

    is_deeply(\%documented, \%status, 'the verdicts and their statuses');
}


# Each line is one of the source: its reason, or its format.

sub lines {
    (my $joined = $source) =~ s/"\s*\n\s*"//g;
    $joined =~ s/\\"/\0/g;
    my @strings = map { tr/\0/"/r } $joined =~ /"([^"\n]*)"/g;
    my %string = map { $_ => 1 } @strings;

    ok(@refused > 20, 'refusals');
    ok(@other > 10, 'other lines');

    for my $line (@refused) {
        my ($word, $why) = $line =~ /^webhook refused: (\w+): (.*)$/;
        ok($string{$word} && $string{$why}, $line);
    }

    # a name of a call is one that is logged

    my @formats = map { log_pattern($_) }
                      (grep { /[a-z]{3} .*[a-z]{3}/ } @strings),
                      failed(\%string);

    for my $line (@other) {
        my ($call) = $line =~ /^(\w+\(\)) /;

        ok(scalar(grep { $line =~ /^$_$/ } @formats), $line);
        ok($string{$call}, "$call is a call of the module") if defined $call;
    }
}


# A commit that has failed is logged by a format that has no word of its own.

sub failed {
    my ($string) = @_;
    my @parts = ('events are refused', 'until reload', 'but for one a second');

    ok($string->{$_}, $_) for '%s "%V/%s" failed, %s %s', @parts;

    return map { "%s \"%V/%s\" failed, $parts[0] $_" } @parts[1, 2];
}

# The refusals, but for those of a disk, are made; and the example.

sub refusals {
    $t->conf(<<'CONF');
%%GLOBALS%%

events {
}

http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        client_max_body_size 64k;
        taptalent_webhook_company_id company-uuid;
        taptalent_webhook_spool %%SPOOL%%;

        location = /webhooks/taptalent {
            taptalent_webhook on;
        }

        location = /key {
            taptalent_webhook on;
            taptalent_webhook_key secret;
        }

        location = /signature {
            taptalent_webhook on;
            taptalent_webhook_signature key=secret header=X-Signature
                timestamp=$http_x_time signed=$http_x_time.$taptalent_body;
        }

        location = /stale {
            taptalent_webhook on;
            taptalent_webhook_tolerance 5m;
        }
    }
}
CONF

    $t->run();

    my $now = time();
    my $body = event();
    my $signed = sub {
        my ($time, $key) = @_;
        return hmac_sha256_hex("$time.$body", $key);
    };
    my $uri = '/webhooks/taptalent';
    my $deep = '[' x 65 . ']' x 65;

    $t->get($uri, tls => 1);
    $t->post($uri, $body);
    $t->post($uri, $body, tls => 1, headers => { @$_ }) for
        ['Content-Type' => 'text/plain'],
        ['Content-Encoding' => 'gzip'],
        ['X-Webhook-Event' => ''],
        ['X-Webhook-Timestamp' => 'now'],
        ['X-Webhook-Event' => 'another'];
    $t->post($uri, $_, tls => 1) for
        event(data => 'x' x 70000), '{', event(data => \$deep), '[]',
        event(companyId => undef), event(data => 1),
        event(companyId => 'another');
    $t->post('/key', $body, tls => 1, headers => { 'X-Webhook-Key' => $_ })
        for undef, 'another';
    $t->post('/stale', $body, tls => 1);
    $t->post('/signature', $body, tls => 1, headers => { @$_ }) for
        ['X-Time' => $now],
        ['X-Time' => $now, 'X-Signature' => ['a', 'b']],
        ['X-Time' => 'x', 'X-Signature' => $signed->('x', 'secret')],
        ['X-Time' => $now, 'X-Signature' => 'none'],
        ['X-Time' => $now, 'X-Signature' => $signed->($now, 'another')],
        ['X-Time' => 1000, 'X-Signature' => $signed->(1000, 'secret')];

    for my $line (grep { !/: unavailable: / } @refused) {
        ok(scalar($t->grep_log(qr/ \Q$line\E(?:, |$)/)), "seen: $line");
    }

    # the example: the way to the module is open

    my $ask = block('docs/troubleshooting.md', 'ask');
    my $port = $t->port(1);

    $ask =~ s{https://hooks\.example\.com/}{https://127.0.0.1:$port/}
        or fail('the URL');
    $ask =~ s/^curl /curl -sSk /;

    my ($exit, $output) = command('sh', '-c', $ask);
    like($output, qr/ 403 .*"error":"company_id"/s, 'the example: healthy');

    $ask =~ s{/webhooks/taptalent}{/key};
    ($exit, $output) = command('sh', '-c', $ask);
    like($output, qr/ 401 .*"error":"key"/s, 'with a key: healthy');

    is($t->forget_spool(), 0, 'nothing is stored');
    $t->stop();
}


# What keeps nginx from starting, and what it warns of: the end of its message,
# and the configuration of which it says so.

sub starts {
    my $location = 'taptalent_webhook on;';
    my $any = 'taptalent_webhook_company_id any;';
    my $to = 'taptalent_webhook_spool %%SPOOL%%;';

    my @cases = (
        ['no "taptalent_webhook_company_id"', "$location $to"],
        ['no destination', "$location $any"],
        ['shares its location', "$location $any $to proxy_pass http://[::1];"],
        ['shares the spool', "$location $any $to } location /a { $location"
                             . " $any $to taptalent_webhook_forward /b;"],
        ['taptalent.key', "taptalent_webhook_key file:/etc/nginx/taptalent.key;"
                          . "$location $any $to"],
        ['cannot be made', "$location $any"
                    . 'taptalent_webhook_spool /var/spool/none/taptalent;'],
        ['has no spool', "$location $any taptalent_webhook_forward /a;"],
        ['sync=off', "$location $any taptalent_webhook_spool %%SPOOL%% "
                     . 'sync=off;'],
        ['_enforce off', "$location $any $to taptalent_webhook_enforce off;"],
        ['company-uuid', 'taptalent_webhook_company_id company-uuid;'],
        ['over HTTPS only', "$location $any $to"],
        ['"return" in the location', "$location $any $to return 200;"],
        ['finds no location', "$location $any $to"
                              . 'taptalent_webhook_forward /application; }'
                              . 'location = /b {'],
        ['is inside of the spool', "$location $any $to"
                       . 'taptalent_webhook_quarantine %%SPOOL%%/quarantine;'],
        ['would go from the user', "$location $any $to", sub {
            mkdir "$spool/$_" for '', qw(tmp new dead corrupt);
            chmod 0755, $spool;
            chown scalar(getpwnam 'nobody'), -1,
                  map { "$spool/$_" } qw(tmp new dead corrupt);

            # the owner there is the user here, and the other way round

            my %to = ('www-data' => 'nobody', nobody => 'www-data');

            s/(www-data|nobody)/$to{$1}/g, s/-R 65534/-R 33/
                for grep { /would go/ } @start;
         }],
        ['must be root\'s', "$location $any $to", sub {
            chmod 0775, $spool;
         }],
        ['is not a directory', "$location $any $to", sub {
            chmod 0755, $spool;
            rename $spool, "$spool.real";
            symlink "$spool.real", $spool;
         }],
    );

    my %seen;

    for my $case (@cases) {
        my ($what, $block, $before) = @$case;

        SKIP: {
            skip 'not root', 1 if $before && !defined $t->worker_user();

            $before->() if $before;
            $t->conf("%%GLOBALS%%\nevents { }\nhttp { server {\n"
                     . "listen 127.0.0.1:%%PORT_0%%;\nlocation = /hook { $block }\n"
                     . "} }\n");
            said(\%seen, $what);
        }
    }

    unlink $spool;
    rename "$spool.real", $spool;

    module(\%seen) if !$ENV{TEST_NGINX_BINARY};

    # what this nginx, or this user, has no way to see

    my ($loading) = $text =~ /^### The module is not loaded$(.*?)^### /ms;
    my %not = map { $_ => 1 } $loading =~ /^    (\[.*)$/mg;

    %not = () if !$ENV{TEST_NGINX_BINARY};
    $not{$_} = 1 for defined $t->worker_user() ? ()
                     : grep { /must be root's|is not a directory|would go/ }
                          @start;

    my @not = grep { !$seen{$_} && !$not{$_} } @start;
    is(join("\n", @not), '', 'each message has been seen');
}

sub said {
    my ($seen, $what) = @_;
    my ($status, $output) = $t->config_test();
    my $prefix = $t->prefix();

    for ($output) {
        s/^nginx: //mg;
        s{\Q$spool\E}{/var/spool/taptalent}g;
        s{\Q$prefix\E/(?:modules|load\w*)/}{/usr/lib/nginx/modules/}g;
        s{\Q$prefix\E/nginx\.conf}{/etc/nginx/nginx.conf}g;
        s{nginx\.conf:\d+}{nginx.conf:N}g;
        s{^\S+ \S+ (\[\w+\]) \d+#\d+: }{$1 }mg;
    }

    my @found = grep {
        my $line = s{nginx\.conf:\d+}{nginx.conf:N}gr;
        index("\n$output", "\n$line\n") >= 0
    } @start;

    ok(scalar(grep { index($_, $what) >= 0 } @found), "nginx -t: $what")
        or diag($output);
    $seen->{$_} = 1 for @found;
}

# A module that is not there, of another version, of another build, too late, or
# twice.

sub module {
    my ($seen) = @_;
    my $so = 'ngx_http_taptalent_webhook_module.so';
    my $module = $t->read_file($t->module());
    my $path = $t->path("modules/$so");
    my $version = $t->version();

    mkdir $t->path('modules');

    my $conf = sub {
        my ($before, $after) = @_;
        $t->write_file('nginx.conf', "$before\nevents { }\n$after\nhttp {\n"
                       . "server { location / { taptalent_webhook on; } } }\n");
    };

    $conf->('', '');
    said($seen, 'unknown directive');

    $conf->('', "load_module $path;");
    said($seen, 'too late');

    $conf->("load_module $path;", '');
    said($seen, 'cannot open shared object');

    (my $older = $module) =~ s/\Q${\pack 'Q<', $version}\E/pack 'Q<',
                                                               $version - 1/ge;
    $t->write_file("modules/$so", $older);
    my $n = $version - 1;
    $_ =~ s/version \d+ instead of \d+/version $n instead of $version/
        for @start;
    said($seen, "version $n");

    my ($signature) = $module =~ /\0([48],[48],[48],[01]{30,})\0/;
    (my $other = $signature) =~ tr/01/10/;
    (my $build = $module) =~ s/\x00\Q$signature\E\x00/\0$other\0/;
    $t->write_file("modules/$so", $build);
    said($seen, 'is not binary compatible');

    $t->write_file("modules/$so", $module);
    $conf->("load_module $path;\nload_module $path;", '');
    said($seen, 'is already loaded');
}


# What there is in a spool.

sub counted {
    my $count = block('docs/troubleshooting.md', 'count');

    $count =~ s{/var/spool/taptalent}{$spool};
    mkdir "$spool/$_" for '', qw(new dead corrupt);

    $t->write_file("$spool/$_", '') for qw(new/a.ndjson new/b.ndjson
                                           new/a.ndjson.done dead/c.ndjson
                                           corrupt/d.ndjson.1);
    my ($status, $output) = command('sh', '-c', $count);
    is("$status $output", "0 new: 2\ndead: 1\ncorrupt: 1\n", 'what there is');
}
