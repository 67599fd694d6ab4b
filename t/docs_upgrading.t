#!/usr/bin/perl

# docs/upgrading.md: each step as it is written, with events that wait. None of
# them is lost, and none comes twice unless the document says so.
#
# slow: each step starts, and ends, an nginx or two

use strict;
use warnings;

use Digest::SHA ();
use File::Path qw(make_path remove_tree);
use Test::More;

use lib 't/lib';
use Test::Docs qw(block command configuration);
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new(daemon => 1);
my $app = Test::Sink->new(port => $t->port(2), down => 1);
my $top = $t->top();
my $prefix = $t->prefix();
my $spool = $t->spool();
my $uri = '/webhooks/taptalent';
my $n = 0;
my %sent;

our $load;

my %step = (
    'new binary' => block('docs/upgrading.md', 'new binary'),
    'old workers' => block('docs/upgrading.md', 'old workers'),
    'done' => block('docs/upgrading.md', 'done'),
    'back' => block('docs/upgrading.md', 'back'),
);

version();
another_name();
disk();
two_spools();
machine();
merge();
changes();
removal();

$t->no_alerts();

done_testing();


# The steps of a new version. The old one is the same with another number.

sub version {
    SKIP: {
        skip 'it is about the installed nginx', 1 if $ENV{TEST_NGINX_BINARY};

        my $modules = "$prefix/root/usr/lib/nginx/modules";
        my $so = "$modules/ngx_http_taptalent_webhook_module.so";
        my ($new) = $t->read_file("$top/src/ngx_http_taptalent.h")
                    =~ /_VERSION +"(\S+)"/;
        my $old = '0' x length $new;

        my $module = $t->read_file($t->module());
        is($module =~ s/\0\K\Q$new\E(?=\0)/$old/g, 1, 'the old version');

        make_path($modules);
        $t->write_file($so, $module);

        local $load = $so;
        start();
        is(running(), $old, 'it runs');
        post(3);

        my $install = block('docs/upgrading.md', 'install');

        $install =~ s{/usr/lib/nginx/modules}{$modules} or fail('the path');
        $install =~ s{^nginx -t$}{nginx()}me or fail('nginx -t');

        local $ENV{DESTDIR} = "$prefix/root";
        delete local @ENV{qw(MAKEFLAGS MAKELEVEL)};

        my $inode = (stat $so)[1];
        my ($status, $output) = command('sh', '-ec', "cd $top\n$install");
        is($status, 0, 'installed') or diag($output);
        isnt((stat $so)[1], $inode, 'it is a new file');

        ok($t->reload(old_gone => 1), 'a reload');
        is(running(), $old, 'a reload does not load it');

        # there, and back

        step('new binary');
        both();
        step('old workers');
        alone('/nginx.pid');
        is(running(), $new, 'the new one runs');
        post(3);

        step('back');
        ok($t->wait_for(sub {
            !-e "$prefix/nginx.pid.oldbin" && $t->pid() == $t->{master}
        }, 20, 'the old master'), 'the new one is gone');
        is(running(), $old, 'the old one runs');
        post(3);

        # there, for good

        step('new binary');
        both();
        step('old workers');
        alone('/nginx.pid');
        step('done');
        gone();
        is(running(), $new, 'the new one runs');
        post(3);

        # and back, later

        my $back = block('docs/upgrading.md', 'old file');
        $back =~ s{/usr/lib/nginx/modules}{$modules} or fail('the path');
        $back =~ s{^nginx -t$}{nginx()}me or fail('nginx -t');
        ($status, $output) = command('sh', '-ec', $back);
        is($status, 0, 'the old file') or diag($output);

        step('new binary');
        both();
        step('done');
        gone();
        is(running(), $old, 'the old one runs again');

        delivered('versions');
        ok($t->quit(), 'stopped');
    }
}

# The new version beside the old one, each by its own name, by reloads alone.

sub another_name {
    SKIP: {
        skip 'it is about the installed nginx', 1 if $ENV{TEST_NGINX_BINARY};

        my %so = map { $_ => "$prefix/$_/module.so" } qw(old new);
        my $module = $t->read_file($t->module());
        my ($new) = $t->read_file("$top/src/ngx_http_taptalent.h")
                    =~ /_VERSION +"(\S+)"/;
        my $old = '0' x length $new;

        make_path("$prefix/$_") for keys %so;
        $t->write_file($so{new}, $module);
        $t->write_file($so{old}, $module =~ s/\0\K\Q$new\E(?=\0)/$old/gr);

        local $load = $so{old};
        start();
        is(running(), $old, 'by its name');
        post(3);

        for my $case ([$new, 'old', 'new'], [$old, 'new', 'old'],
                      [$new, 'old', 'new'])
        {
            my ($version, $from, $to) = @$case;
            my $conf = $t->read_file('nginx.conf');

            $conf =~ s/^load_module \K\Q$so{$from}\E;/$so{$to};/m
                or fail('the name');
            $t->write_file('nginx.conf', $conf);

            ok($t->reload(old_gone => 1), "a reload, to the $to one");
            is(running(), $version, "it is the $to one that answers");

            my $maps = $t->read_file('/proc/' . $t->pid() . '/maps');
            is(join(' ', map { $maps =~ /\Q$so{$_}\E/ ? $_ : () } qw(old new)),
               $to, 'the other one is not loaded any more');
            is($t->get('/status')->{json}{verdicts}{accepted}, 0,
               'the status counts from zero');
            post(3);
        }

        delivered('another name');
        ok($t->quit(), 'stopped');
    }
}

sub nginx {
    return $t->binary() . " -t -q -e stderr -p $prefix -c $prefix/nginx.conf";
}

# The version of the module that answers.

sub running {
    return $t->get('/status')->{json}{version};
}

sub step {
    my ($name) = @_;

    (my $block = $step{$name}) =~ s{/run/}{$prefix/}g;
    my ($status, $output) = command('sh', '-ec', $block);
    is("$status $output", '0 ', $name);
}

sub both {
    ok($t->wait_for(sub {
        my $pid = $t->pid();
        return $pid && $pid != $t->{master} && -e "$prefix/nginx.pid.oldbin"
               && $t->workers(master => $pid);
    }, 20, 'the new master'), 'both run');
}

sub alone {
    ok($t->wait_for(sub { !$t->workers(master => $t->{master}, all => 1) }, 20,
                    'the old workers'), 'the old workers are gone');
}

sub gone {
    my $old = $t->{master};

    ok($t->wait_for(sub { !$t->alive($old) }, 20, 'the old master'),
       'the old master is gone');
    $t->{master} = $t->pid();
}


# A stop and a copy.

sub disk {
    start();
    post(3);
    ok($t->quit(), 'stopped');

    my $copy = block('docs/upgrading.md', 'copy');
    $copy =~ s{/mnt/fast}{$prefix/fast}g;
    $copy =~ s{/var/spool/taptalent}{$spool}g;
    my ($status, $output) = command('sh', '-ec', $copy);
    is("$status $output", '0 ', 'copied');

    start(sub { s{\Q$spool\E}{$prefix/fast/taptalent}g });
    delivered('another disk');
    ok($t->wait_for(sub { !(() = glob "$prefix/fast/taptalent/new/*") }, 10,
                    'an empty spool'), 'it is empty');
    ok($t->quit(), 'stopped');

    $t->forget_spool();
}


# A second spool, until the first is empty.

sub two_spools {
    start();
    post(3);

    conf(block('docs/upgrading.md', 'two spools'));
    ok($t->reload(old_gone => 1), 'two spools');
    post(3);

    is($t->post('/old-spool', event(), tls => 1)->{status}, 404,
       'nobody can post to the old one');
    is(scalar(() = glob "$prefix/fast/taptalent/new/*.ndjson"), 3,
       'what is new is in the new one');
    is(scalar($t->spool_files()), 3, 'what waited is in the old one');

    $app->start();
    waits();
    is(scalar($t->spool_files()), 0, 'the old one is empty');
    delivered('two spools');
    ok($t->quit(), 'stopped');
}

# The loop that waits for the old spool.

sub waits {
    my $wait = block('docs/upgrading.md', 'wait');

    $wait =~ s{/var/spool/taptalent}{$spool};

    my ($status, $output) = command('timeout', 60, 'sh', '-ec', $wait);
    is("$status $output", '0 ', 'the wait ends');
}


# A spool that is sent to another machine, here with nothing between.

sub machine {
    start();
    post(3);
    ok($t->quit(), 'stopped');

    my $copy = block('docs/upgrading.md', 'copy away');
    mkdir "$prefix/old";
    mkdir "$prefix/other";
    rename $spool, "$prefix/old/taptalent" or die "rename: $!";
    $copy =~ s{tar -C /var/spool}{tar -C $prefix/old} or fail('from');
    $copy =~ s{ssh \S+ tar -C /var/spool}{env tar -C $prefix/other}
        or fail('to');
    my ($status, $output) = command('sh', '-ec', $copy);
    is("$status $output", '0 ', 'copied');

    start(sub { s{\Q$spool\E}{$prefix/other/taptalent}g });
    delivered('another machine');
    ok($t->quit(), 'stopped');
}


# The copy that machine() has left, into a spool that is in use.

sub merge {
    my @old = glob "$prefix/old/taptalent/new/*.ndjson";
    is(scalar @old, 3, 'three are there');

    start();
    post(2);
    $sent{$_} = 1 for map { /"id":"(\w+)"/ } map { $t->read_file($_) } @old;

    my $merge = block('docs/upgrading.md', 'merge');
    $merge =~ s{/mnt/old}{$prefix/old};
    $merge =~ s{/var/spool/taptalent}{$spool}g;
    my ($status, $output) = command('sh', '-ec', $merge);
    is("$status $output", '0 ', 'merged');
    is(join(' ', glob "$spool/dead/*"), '', 'nothing is left beside it');

    delivered('what is left of a spool');
    ok($t->quit(), 'stopped');
}


# What the table of changes says of permissions and of another user.

sub changes {
    my $other = getgrnam('nogroup') ? 'nobody nogroup' : 'nobody';
    my $mode = sub { return sprintf '%04o', (stat $_[0])[2] & 07777 };

    SKIP: {
        skip 'not root', 1 if !defined $t->worker_user();

        start();
        post(2);
        my ($file) = $t->spool_files();
        my $conf = $t->read_file('nginx.conf');

        $conf =~ s/(taptalent_webhook_spool \S+;)/$1
                   taptalent_webhook_spool_access group:r;/;
        $t->write_file('nginx.conf', $conf);
        ok($t->reload(old_gone => 1), 'other permissions');
        is($mode->("$spool/new"), '0750', 'the directories change');
        is($mode->($file), '0600', 'the files keep theirs');

        $conf =~ s/^user .*$/user $other;/m or fail('user');
        $t->write_file('nginx.conf', $conf);
        ok($t->reload(old_gone => 1), 'another user');
        post(1);
        ok($t->wait_log(qr/forward\.lock" failed, nothing is forwarded: .*13:/),
           'nothing is forwarded');

        my @run = $t->grep_log(qr/forward\.lock" failed/);
        is(scalar @run, 1, 'said once');
        is(-e $file ? 'there' : 'gone', 'there', 'what was there waits');

        my ($run) = $run[0] =~ /: if .* run "(chown [^"]+)"/;
        my ($uid) = (getpwnam('nobody'))[2];
        is($run, "chown -R $uid $spool/*", 'what to do');
        is(system($run), 0, 'the files have the new owner');

        delivered('another user');
        ok($t->quit(), 'stopped');

        remove_tree($spool);
    }
}


# From the last event in custody to an nginx without the module.

sub removal {
    start();
    post(3);

    conf(block('docs/upgrading.md', 'leaving'));
    ok($t->reload(old_gone => 1), 'no more custody');

    $app->start();
    waits();
    is($t->post($uri, event(n => ++$n), tls => 1)->{status}, 200,
       'the application answers itself');
    ok($app->wait_for(sub { grep { !defined $_->{id} } @_ }, 10,
                      'the one that is passed on'), 'it has no id');
    delivered('leaving');

    SKIP: {
        skip 'the module is linked in', 1 if $t->module() eq '';

        conf("location / {\n    return 204;\n}\n");
        my $conf = $t->read_file('nginx.conf');
        $conf =~ s/^load_module.*$//m;
        $conf =~ s/^log_format.*$//m;
        $conf =~ s/^access_log.*$/access_log off;/m;
        $t->write_file('nginx.conf', $conf);
        ok($t->reload(old_gone => 1), 'without the module');
        is($t->get('/')->{status}, 204, 'it serves');
    }

    my $remove = block('docs/upgrading.md', 'remove');
    $remove =~ s{/var/spool/taptalent}{$spool}g;

    $t->write_file("$spool/dead/one.ndjson", '');
    command('sh', '-ec', $remove);
    is(join(' ', map { s{^\Q$spool\E}{}r } glob "$spool/* $spool/*/*"),
       '/dead /dead/one.ndjson', 'a dead letter stays');

    unlink "$spool/dead/one.ndjson";
    my ($status, $output) = command('sh', '-ec', $remove);
    is("$status $output", '0 ', 'removed');
    ok(!-e $spool, 'it is gone');
    ok($t->quit(), 'stopped');
}


# The usual configuration, or a changed one, and nginx.

sub start {
    my ($change) = @_;

    conf(<<'CONF');
server {
    listen 443 ssl;
    listen 8080;
    ssl_certificate /etc/ssl/a.crt;
    ssl_certificate_key /etc/ssl/a.key;

    location = /status {
        taptalent_webhook_status json;
    }

    location = /webhooks/taptalent {
        taptalent_webhook on;
        taptalent_webhook_company_id company-uuid;
        taptalent_webhook_spool /var/spool/taptalent;
        taptalent_webhook_forward /application;

        # however long the application was away, soon
        taptalent_webhook_retry max=1s;
    }

    location = /application {
        internal;
        proxy_pass http://127.0.0.1:3000/webhooks/taptalent;
    }
}
CONF

    if ($change) {
        local $_ = $t->read_file('nginx.conf');
        $change->();
        $t->write_file('nginx.conf', $_);
    }

    $app->stop();
    $app->forget();
    %sent = ();
    $t->run();
}

sub conf {
    my ($block) = @_;

    $t->conf(configuration($t, $block));

    if ($load) {
        my $conf = $t->read_file('nginx.conf');
        $conf =~ s/^load_module \S+;/load_module $load;/m or die 'load_module';
        $t->write_file('nginx.conf', $conf);
    }
}

# Takes so many events.

sub post {
    my ($count) = @_;

    for (1 .. $count) {
        my $body = event(n => ++$n);
        my $answer = $t->post($uri, $body, tls => 1);

        is($answer->{status}, 200, "event $n") or diag($answer->{body});
        $sent{ Digest::SHA::sha256_hex($body) =~ s/^.{32}\K.*//r } = 1;
    }
}

# All that was sent arrives, and each once.

sub delivered {
    my ($what) = @_;

    $app->start();
    ok($app->wait_for(sub {
        my %got = map { ($_->{id} // '') => 1 } @_;
        return !grep { !$got{$_} } keys %sent;
    }, 20, 'the events'), "$what: all arrive");

    my %times;
    $times{ $_->{id} }++ for grep { defined $_->{id} } $app->requests();
    is(join(' ', grep { $times{$_} > 1 } sort keys %times), '',
       "$what: each once");
}
