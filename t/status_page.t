#!/usr/bin/perl

# The page of the status location, in a browser: it moves with the events, says
# what is wrong, shows what senders have sent as text, and asks nobody but the
# nginx it is from.
#
# slow: a browser, and a page that asks once a second

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use List::Util qw(max min sum0);
use Test::Browser;
use Test::Edge;
use Test::Fault;
use Test::Load;
use Test::More;
use Time::HiRes qw(time);

plan(skip_all => 'once is enough') if $ENV{TEST_NGINX_BINARY};
plan(skip_all => Test::Browser->missing()) if Test::Browser->missing();

binmode $_, ':encoding(UTF-8)'
    for map { Test::More->builder()->$_() } qw(output failure_output);

my $t = Test::Edge->new(workers => 2);

my $conf = <<'EOF';
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_retry initial=200ms max=800ms;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_company_id company-uuid;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /small {
            taptalent_webhook on;
            taptalent_webhook_company_id company-uuid;
            taptalent_webhook_spool %%PREFIX%%/small/spool min_free=0;
            taptalent_webhook_forward /application;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
        }

        location = /status { taptalent_webhook_status; }
    }
}
EOF

# a disk that a test can fill

my $unfit = $> != 0 ? 'needs root' : Test::Fault->no_loop();
my $small;

if ($unfit) {
    mkdir $t->path('small') or die "mkdir: $!";

} else {
    $small = Test::Fault->filesystem($t, 'ext4', '8m', dir => 'small');
}

$t->conf($conf);

my $origin = 'http://127.0.0.1:' . $t->port(0);
my $hostile = '<img src=x onerror=alert(1)>';
my $sent = 0;

my $o = Test::Load->new();
my $app = $o->app($t->port(2), 'ok');

$t->run();

my $b = Test::Browser->new(port => $t->port(3));

opened();
load();
refused();
hidden();
down();
console();
unconfirmed();
low();
full();
outage();
requests();
policy();

$b->end();
$t->no_alerts();

done_testing();


# What is seen of the page. A chart's solid line is of the steps that are over.
# The innerText of what is hidden would be all of its text.

sub look {
    return $b->js(<<'EOF');
        const all = (where, selector) => [...where.querySelectorAll(selector)]
            .filter(e => e.checkVisibility());
        const text = (where, selector) =>
            all(where, selector).slice(0, 1).map(e => e.innerText).join();
        const attribute = (where, selector, name) => all(where, selector)
            .slice(0, 1).map(e => e.getAttribute(name)).join();

        return {
            title: document.title,
            live: text(document, '#live'),
            lost: text(document, '#lost'),
            old: document.querySelector('main.old') != null,
            headline: text(document, '#health strong'),
            health: text(document, '#health'),
            destinations: text(document, '#destinations tbody'),
            spools: text(document, '#spools tbody'),
            tiles: Object.fromEntries(all(document, '#tiles article').map(e =>
                [text(e, 'h3'), {
                    figure: text(e, '.big').replaceAll(',', ''),
                    curve: attribute(e, '.curve', 'd'),
                    label: attribute(e, '.plot', 'aria-label')
                }])),
            histograms: all(document, '#timing article')
                .filter(e => all(e, 'rect.col').length)
                .map(e => text(e, 'h2')),
            rows: all(document, '#rows tbody tr')
                .map(e => all(e, 'td').map(cell => cell.innerText.trim()))
        };
EOF
}

# it, when a condition on it has become true

sub page {
    my ($sub, $seconds, $what) = @_;
    my $page;

    my $true = $t->wait_for(sub {
        local $_ = $page = look();
        return $sub->();
    }, $seconds, $what);

    diag(explain($page)) if !$true;

    return $page;
}

sub figure {
    my ($page, $name) = @_;
    my $figure = $page->{tiles}{$name}{figure} // '';

    return $figure =~ /^\d+$/ ? $figure : -1;
}

sub status {
    my $r = $t->get('/status', headers => [Accept => 'application/json']);

    return $r->{json} || { error => $r->{body} };
}

sub delivered { return sum0(map { $_->{delivered} } @{ $_[0]{destinations} }) }


# The page and the JSON, when all has been delivered; they say the same.

sub agree {
    my ($name) = @_;
    my $status;

    $t->wait_for(sub {
        $status = status();
        return $status->{verdicts}{accepted} == delivered($status);
    }, 15, "$name: all to be delivered");

    my $n = $status->{verdicts}{accepted};
    my $page = page(sub { figure($_, 'Accepted') == $n
                          && figure($_, 'Delivered') == $n }, 5,
                    "$name: the figures of the JSON");

    is(figure($page, 'Accepted'), $n, "$name: accepted");
    is(figure($page, 'Delivered'), $n, "$name: delivered");

    return ($page, $status);
}


# Nothing sticks out on any screen, and dark is dark.

sub layout {
    my ($name) = @_;
    my %light;

    for my $screen ([360, 'light'], [360, 'dark'], [820, 'dark'],
                    [1440, 'dark'], [1440, 'light'])
    {
        my ($width, $scheme) = @$screen;

        $b->screen($width, $scheme);

        my $seen = $b->js(<<'EOF');
            const style = getComputedStyle(document.body);
            const light = color => Math.max(...color.match(/\d+/g)) / 255;

            return { inner: innerWidth,
                     wide: document.documentElement.scrollWidth,
                     paper: light(style.backgroundColor),
                     ink: light(style.color) };
EOF

        is($seen->{inner}, $width, "$name: $scheme, $width px");
        cmp_ok($seen->{wide}, '<=', $width,
               "$name: nothing sticks out of $width px");
        cmp_ok($scheme eq 'dark' ? $seen->{ink} - $seen->{paper}
                                 : $seen->{paper} - $seen->{ink}, '>', 0.5,
               "$name: it is $scheme");
    }
}


# before the first event -------------------------------------------------------

sub opened {
    $b->screen(1440, 'light');
    $b->open("$origin/status");
    $b->js('console.error("this is heard")');

    my $page = page(sub { $_->{headline} ne '' }, 10, 'the page');

    like($page->{headline}, qr/^Ready\. No event has been taken yet/, 'ready');
    like($page->{live}, qr/ live, \d\d:\d\d:\d\d$/, 'live');
    is($page->{lost}, '', 'not lost');
    is($page->{title}, 'TapTalent webhooks', 'title');
    is(figure($page, $_), 0, "$_: none") for qw(Accepted Delivered Refused);
}


# under load -------------------------------------------------------------------

sub load {
    my $load = $o->load(port => $t->port(0), uri => '/hook', senders => 1,
                        pause => 0.02);

    my $first = page(sub { figure($_, 'Delivered') > 0 }, 10,
                     'the first figures');

    for my $name (qw(Accepted Delivered)) {
        my $before = figure($first, $name);
        my $after = page(sub { figure($_, $name) > $before }, 5,
                         "$name to grow");

        cmp_ok(figure($after, $name), '>', $before, "$name: the figure grows");
    }

    # it is seen among however many others, and by whom looks for it

    for my $button (1, 2) {
        $b->click("#filter button:nth-child($button)");
        my ($took) = refuse("$hostile, under load $button",
                            "under load $button");
        cmp_ok($took, '<', 2 * $Test::Edge::PATIENCE, "under load: $took s");
    }

    $b->click('#filter button:nth-child(1)');

    # a step of the history is 5 s

    for my $name (qw(Accepted Delivered)) {
        my $before = $first->{tiles}{$name}{curve};
        my $after = page(sub { $_->{tiles}{$name}{curve} ne $before
                               && min(heights($_, $name)) < 90 }, 15,
                         "the chart of $name to move");

        isnt($after->{tiles}{$name}{curve}, $before, "$name: the chart moves");
        cmp_ok(min(heights($after, $name)), '<', 90, "$name: it rises");
        cmp_ok(max(heights($after, $name)), '<=', 98, "$name: from its ground");
    }

    $load->stop();

    my ($page, $status) = agree('after the load');

    is($status->{verdicts}{accepted}, $o->acked(), 'what was acknowledged');

    for my $name (qw(Accepted Delivered)) {
        my ($label) = $page->{tiles}{$name}{label} =~ /: ([\d,]+) in all/;

        is(($label // '') =~ tr/,//dr, sum0(@{ $status->{history}{lc $name} }),
           "$name: the chart is of the history");
    }

    is_deeply($page->{histograms},
              ['Time to commit to disk', 'Events in a commit',
               'Time from receipt to delivery'], 'histograms');
}

# y of each step that is over, downwards from 0 to 100

sub heights {
    my ($page, $name) = @_;
    return $page->{tiles}{$name}{curve} =~ /(?:^M\d+ |V)([\d.]+)H\d+/g;
}


# Sends an event of another company. How long after its answer its row is there,
# which is known by a part of the company, and the row.

sub refuse {
    my ($company, $part) = @_;

    # just after an answer the next one is the farthest away

    my $live = look()->{live};
    page(sub { $_->{live} ne $live }, 10, 'another answer');

    my $r = $t->post('/hook', event(companyId => $company));
    my $answered = time();

    is($r->{status}, 403, 'refused');
    $sent++;

    my $row;
    page(sub { ($row) = grep { index("@$_", $part) >= 0 } @{ $_->{rows} } }, 8,
         'the row');

    return (sprintf('%.2f', time() - $answered), $row);
}


# at rest ----------------------------------------------------------------------

sub refused {
    my @took;

    # a busy machine may be late for one, not for all

    for my $n (1 .. 4) {
        my $company = "$hostile, the $n. \"'&amp;\x{202e}\x{1f600}</td>"
                      . 'x' x 150;
        my ($took, $row) = refuse($company, "the $n.");
        my ($entry) = grep { $_->{company} eq $company }
                      @{ status()->{recent} };

        push @took, $took;

        ok($row && $entry, 'it is there') or last;

        like($row->[0] // '', qr/^\d\d:\d\d:\d\d$/, 'its time');
        like($row->[1] // '', qr/company_id\s+403$/, 'its verdict');
        is($row->[2] // '', "resume.bulk_upload_parse.started\n$company",
           'its event and company, as text');
        is($row->[3] // '', $entry->{id}, 'its id');

        my ($why, $hint) = map { ucfirst($_) . '.' } @$entry{qw(why hint)};
        is($row->[4] // '', "$why\n$hint", 'its reason and its hint');
        like($why, qr/^This companyId is not received here/, 'the reason');
        like($hint, qr/taptalent_webhook_company_id/, 'the hint');

        cmp_ok($took, '<', 2 * $Test::Edge::PATIENCE, "seen after $took s");
        last if $took < 2;
    }

    cmp_ok(min(@took), '<', 2, 'in two seconds');

    # as the event's name

    $t->post('/hook', event(event => $hostile));
    $t->post('/hook', event(event => $hostile),
             headers => { 'X-Webhook-Event' => 'resume.parsed' });
    $sent += 2;

    my $page = page(sub { figure($_, 'Refused') == $sent }, 5,
                    'all refusals');
    is(figure($page, 'Refused'), $sent, 'the refusals are counted');
    like($page->{headline}, qr/^All well/, 'they are not our fault');
    like($page->{health}, qr/\b$sent requests were refused in the last minute/,
         'but are told of');

    is_deeply($b->js(<<'EOF'), [], 'nothing of what was sent is markup');
        const known = new Set(`html head meta link title style body header h1 h2
            h3 span noscript p main section div table thead tbody tr th td time
            code wbr button article dl dt dd ul li svg path rect line strong b
            footer script`.split(/\s+/));

        return [...document.querySelectorAll('*')].map(e => e.localName)
            .filter(name => !known.has(name));
EOF

    is($b->js('return document.querySelectorAll("img, [onerror]").length'), 0,
       'no image');

    layout('refused');
}


# where nobody looks -----------------------------------------------------------

sub hidden {
    my $asked = 'return performance.getEntriesByType("resource").length';

    $b->hide();
    is($b->js('return document.visibilityState'), 'hidden', 'a hidden page');

    my $before = $b->js($asked);
    my $accepted = figure(look(), 'Accepted');

    is($t->post('/hook', Test::Spool::event_body('page-0'))->{status}, 200,
       'an event nobody sees');
    sleep 3;

    # one may have been on its way

    cmp_ok($b->js($asked), '<=', $before + 1, 'it does not ask');

    $b->unhide();
    my $page = page(sub { figure($_, 'Accepted') == $accepted + 1 }, 5,
                    'the page to be seen again');
    is(figure($page, 'Accepted'), $accepted + 1, 'when it is seen it does');

    # again and again: see requests()

    $b->js(<<'EOF');
        for (let i = 0; i < 5; i++) {
            document.dispatchEvent(new Event('visibilitychange'));
        }
EOF
}


# without the application ------------------------------------------------------

sub down {
    $app->mode('refuse');

    my $event = Test::Spool::event_body('page-1');
    is($t->post('/hook', $event)->{status}, 200, 'taken without it');

    my $page = page(sub { $_->{headline} =~ /down/
                          && figure($_, 'Waiting') == 1 }, 10,
                    'the destination to be down');

    like($page->{headline}, qr{^The\ application\ at\ /application\ is\ down
         \ \(502\ bad\ gateway\),\ 1\ event\ waits,\ next\ attempt\ }x,
         'the headline names it');
    like($page->{title}, qr/^Attention: /, 'so does the title');
    like($page->{destinations}, qr{^/application\s.*\bdown\b.*\b502\b}s,
         'and its row');
    is(figure($page, 'Waiting'), 1, 'what waits');

    layout('down');

    $app->mode('ok');

    $page = page(sub { $_->{headline} !~ /down/ }, 10, 'it to be up again');

    like($page->{headline}, qr/^All well/, 'all is well again');
    is($page->{title}, 'TapTalent webhooks', 'the title, too');
    like($page->{destinations}, qr{^/application\s.*\bup\b.*\b502\b}s,
         'the row knows the last error');

    agree('up again');
    page(sub { figure($_, 'Waiting') == 0 }, 5, 'nothing to wait');
}


# until now nothing was to go wrong in the browser

sub console {
    my @said = $b->console();

    is(scalar(grep { $_->{message} =~ /this is heard/ } @said), 1,
       'what the console gets is heard');

    my @wrong = grep { $_->{message} !~ /this is heard/ } @said;
    is_deeply(\@wrong, [], 'and it was nothing else');
}


# without room -----------------------------------------------------------------

# The event gets this status, in the end: who refuses tries but once a second.

sub answered {
    my ($uri, $status, $id) = @_;

    ok($t->wait_for(sub {
        $t->post($uri, Test::Spool::event_body($id))->{status} == $status
    }, 10, "a $status"), "$uri: $status");
}

# a 2xx that is none

sub unconfirmed {
    $t->conf($conf =~ s{(forward /application);}{$1 'confirm="routed":true';}gr);
    ok($t->reload(old_gone => 1), 'an answer has to confirm');
    answered('/hook', 200, $_) for 'page-6', 'page-6b', 'page-6c';

    my $page = page(sub { $_->{headline} =~ / is down / }, 10,
                    'the destination to be down');

    like($page->{headline}, qr/^The\ application\ at\ \/application\ is\ down
         \ \(20\d\ without\ what\ confirm\ asks\ for\),\ /x,
         'unconfirmed: the headline says so');
    like($page->{health}, qr/has not taken the event/,
         'unconfirmed: and what it means');

    $t->conf($conf);
    ok($t->reload(old_gone => 1), 'reload');
    page(sub { $_->{headline} !~ / is down / && figure($_, 'Waiting') == 0 },
         10, 'it to be up again');
}

# no disk has this much

sub low {
    my $spool = $t->spool();
    my $left = qr/, [\d.]+ [kMGT]iB left/;

    $t->conf($conf =~ s/(%%SPOOL%%);/$1 min_free=8000000000m;/r);
    ok($t->reload(old_gone => 1), 'min_free is more than there is');
    answered('/hook', 503, 'page-3');

    my @row;
    my $page = page(sub {
        @row = grep { ($_->[1] // '') =~ / unavailable\s+503/ } @{ $_->{rows} };
        return $_->{headline} =~ /is low/ && @row;
    }, 10, 'the disk to be low');

    like($page->{headline},
         qr/^The disk of \Q$spool\E is low: events are refused$left/,
         'the headline says so');
    like($page->{health}, qr/Less than min_free .*\bMake room\b/s,
         'and what to do');
    like($page->{title}, qr/^Failing: /, 'the title, too');
    like($page->{spools}, qr/^\Q$spool\E\s.*\blow, refuses\s.*B free\s/s,
         'and the row of the spool');
    like($row[0][4] // '', qr/^The disk of the spool is low\./,
         'the reason of the refusal');

    layout('low');

    $t->conf($conf);
    ok($t->reload(old_gone => 1), 'reload');
    answered('/hook', 200, 'page-3');
    $page = page(sub { $_->{title} !~ /^Failing/ }, 10, 'room');
    like($page->{spools}, qr/^\Q$spool\E\s+\S ok\s/, 'there is room again');
}

sub full {
    SKIP: {
        skip $unfit, 1 if $unfit;

        my $path = $t->path('small/spool');

        answered('/small', 200, 'page-4');
        agree('before the disk is full');
        $small->fill();
        answered('/small', 503, 'page-5');

        # what is left is measured once a second

        my $page = page(sub { $_->{headline} =~ /^The disk of/ }, 10,
                        'the disk to be full');

        is($page->{headline},
           "The disk of $path is full: events are refused, 0 bytes left",
           'full: the headline says so');
        like($page->{health}, qr/\bMake room\./, 'full: and what to do');
        like($page->{title}, qr/^Failing: /, 'full: the title, too');

        layout('full');

        $small->drain();
        answered('/small', 200, 'page-5');
        page(sub { $_->{title} !~ /^Failing/ }, 10, 'room');
        agree('when there is room');
    }
}


# without nginx ----------------------------------------------------------------

sub outage {
    $t->stop();

    my $page = page(sub { $_->{lost} ne '' }, 10, 'nginx to be missed');

    like($page->{lost}, qr/^No answer from nginx since \d\d:\d\d:\d\d, trying/,
         'no answer');
    like($page->{live}, qr/ no answer$/, 'not live');
    like($page->{title}, qr/^No answer/, 'the title');
    ok($page->{old}, 'what is shown is old');
    cmp_ok(figure($page, 'Accepted'), '>', 0, 'and still there');

    layout('no answer');

    $t->run();

    $page = page(sub { $_->{lost} eq '' }, 10, 'it to be there again');

    is($page->{lost}, '', 'an answer');
    like($page->{live}, qr/ live, /, 'live');
    is($page->{title}, 'TapTalent webhooks', 'the title, too');
    ok(!$page->{old}, 'what is shown is new');

    is($t->post('/hook', Test::Spool::event_body('page-2'))->{status}, 200,
       'an event');

    ($page) = agree('after the outage');
    like($page->{headline}, qr/^All well/, 'all is well');

    my @wrong = grep { $_->{source} ne 'network'
                       || $_->{message} !~ /^\Q$origin\E\S* .*net::ERR_/ }
                $b->console();
    is_deeply(\@wrong, [], 'no errors but that there was no answer');
}


# what it has asked ------------------------------------------------------------

sub requests {
    my (%flying, @elsewhere, $open);
    my ($polls, $most) = (0, 0);

    for my $event ($b->network()) {
        my ($method, $it) = @$event;

        if ($method eq 'Network.requestWillBeSent') {
            my $url = $it->{request}{url};

            # a page of Chromium's own is the first

            $open ||= $url eq "$origin/status" or next;

            push @elsewhere, $url if $url !~ m{^(?:\Q$origin\E/|data:)};

            # the document still comes when its script already asks

            next if ($it->{type} // '') ne 'Fetch';

            $polls++;
            $flying{$it->{requestId}} = 1;
            $most = max($most, scalar keys %flying);

        } elsif ($method =~ /^Network\.loading(?:Finished|Failed)$/) {
            delete $flying{$it->{requestId}};

        } elsif ($method =~ /^Network\.web(?:Socket|Transport)Created$/) {
            push @elsewhere, $it->{url};
        }
    }

    is_deeply(\@elsewhere, [], 'nobody else was asked');
    cmp_ok($polls, '>', 10, "nginx was, $polls times");
    is($most, 1, 'one at a time');
}


# If markup did get in, it could do nothing.

sub policy {
    my $said = '';

    $b->js(<<'EOF', "http://127.0.0.1:" . $t->port(2) . '/image');
        const [url] = arguments;

        document.body.insertAdjacentHTML('beforeend',
            `<img src="${url}" onerror="document.title = 'run'">`);
        document.body.append(Object.assign(document.createElement('script'),
            { textContent: 'document.title = "run"' }));
EOF

    $t->wait_for(sub {
        $said .= $_->{message} for $b->console();
        return $said =~ /img-src/ && $said =~ /inline script/;
    }, 5, 'the policy to be broken');

    like($said, qr/Loading the image .* violates .*img-src/, 'no image');
    like($said, qr/inline event handler violates .*script-src/, 'no handler');
    like($said, qr/inline script violates .*script-src/, 'no script');
    isnt($b->js('return document.title'), 'run', 'it has not run');
}
