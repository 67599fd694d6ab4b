#!/usr/bin/perl

# The Debian package: what is in it, and that it is installed, upgraded and
# purged under a running nginx, by the commands of docs/install.md, in a system
# that is thrown away.
#
# slow: a package is built, and installed in a Debian of its own

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Copy qw(copy);
use Test::More;
use Test::Docs qw(block command);
use Test::Edge;
use Test::Root;

plan(skip_all => 'once is enough') if Test::Edge::module() eq '';

my $unavailable = Test::Root::unavailable();
plan(skip_all => $unavailable) if defined $unavailable;

my $package = 'libnginx-mod-http-taptalent-webhook';
my $so = '/usr/lib/nginx/modules/ngx_http_taptalent_webhook_module.so';
my $enabled = '/etc/nginx/modules-enabled/50-mod-http-taptalent-webhook.conf';
my $spool = '/var/spool/taptalent';

my $t = Test::Edge->new();
my $top = $t->top();

my ($status, $output) = command("$top/t/build/deb.sh");
is($status, 0, 'build') or die $output;

my ($deb) = glob "$top/build/${package}_*.deb";

contents();
lint();

my $root = Test::Root->new();
my $master;

prepare();
installed();
first_event();
upgraded();
purged_with_events();
purged_in_use();
purged();
compatible();
no_complaints();

$t->no_alerts();

done_testing();


# the file -------------------------------------------------------------------

sub contents {
    my ($version) = $t->read_file("$top/CHANGES")
                    =~ /^Changes with \w+ (\S+) /m;

    my (undef, $fields) = command('dpkg-deb', '-f', $deb);
    my (undef, $abi) = command('dpkg-query', '-W', '-f', '${Provides}',
                               'nginx');

    like($fields, qr/^Version: \Q$version\E-1/m, 'the version of CHANGES');

    ($abi) = $abi =~ /(nginx-abi-\S+?)(?:,|$)/;
    like($fields, qr/^Depends: .*\Q$abi\E\b/m, 'bound to the ABI of nginx');
    like($fields, qr/^Depends: .*\blibyajl2\b/m, 'and to yajl');

    my (undef, $list) = command('dpkg-deb', '-c', $deb);

    like($list, qr{^drwxr-xr-x root/root .* \.\Q$spool\E/$}m,
         'the spool belongs to root');
    like($list, qr{^-rw-r--r-- root/root .* \.\Q$so\E$}m, 'the module');
    unlike($list, qr{ \./etc/}, 'no configuration of its own');

    for my $document (Test::Docs::documents()) {
        like($list, qr{/doc/$package/\Q$document\E$}m, $document);
    }
}

sub lint {
    my @changes = glob "$top/build/deb/*.changes";
    my ($status, $output) = command('lintian', '--allow-root', '--fail-on',
                                    'error,warning', @changes);

    is(@changes, 1, 'what lintian checks');
    is($status, 0, 'lintian') or diag($output);
    is($output, '', 'it has nothing to say');
}


# the system -----------------------------------------------------------------

# As a machine that serves something else: nothing of ours, nor of others that
# are not needed, and services may be started.

sub prepare {
    my ($status, $output) = $root->run(<<"SH");
        set -e
        dpkg --purge $package > /dev/null 2>&1
        rm -rf $so $spool /etc/nginx/modules-enabled/* /etc/nginx/conf.d/* \\
            /etc/nginx/sites-enabled/* /etc/nginx/sites-available/taptalent \\
            /var/log/nginx/*

        printf '#!/bin/sh\\nexit 0\\n' > /usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d

        echo 'server { listen 80; return 200 "as ever\\n"; }' \\
            > /etc/nginx/sites-enabled/other
        service nginx start
SH

    is($status, 0, 'another site') or die $output;

    $master = master();
    as_ever();

    # the same again, as a newer version

    copy($deb, $root->path("/tmp/$package.deb")) or die "$deb: $!";

    ($status, $output) = $root->run(<<"SH");
        set -e
        dpkg-deb -R /tmp/$package.deb /tmp/newer
        sed -i 's/^Version: .*/&.1/' /tmp/newer/DEBIAN/control
        dpkg-deb -b /tmp/newer /tmp/$package-newer.deb
SH

    is($status, 0, 'a newer version') or die $output;
}

sub installed {
    documented('dpkg -i /tmp/' . $package . '.deb', 'installed');

    is(readlink($root->path($enabled)),
       '/usr/share/nginx/modules-available/mod-http-taptalent-webhook.conf',
       'enabled');

    my ($mode, $uid, $gid) = (stat $root->path($spool))[2, 4, 5];
    is(sprintf('%o %d:%d', $mode & 07777, $uid, $gid), '755 0:0',
       'the spool');

    loaded('the module is loaded');
    as_ever();
}

sub first_event {
    documented(block('docs/install.md', $_), $_) for qw(example certificate);

    my $said = documented(block('docs/install.md', 'start'), 'start');
    like($said, qr/test is successful/, 'the example is valid');
    as_ever();

    # new workers, which may not be there yet

    $said = '';
    $t->wait_for(sub {
        my $curl = block('docs/install.md', 'event') =~ s/-k/-sk/r;
        $said = ($root->run($curl))[1];
    }, 10, 'the new configuration');

    is($said, '{"received":true}', 'the first event');

    $said = documented(block('docs/install.md', 'spool'), 'spool');
    like($said, qr/^\S+\.ndjson\n\z/, 'is in the spool');
}

# While events come.

sub upgraded {
    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        open STDOUT, '>', '/dev/null';
        $root->run(<<'SH');
            n=0
            while [ ! -e /tmp/enough ]; do
                n=$((n + 1))
                printf '%s %s\n' $n "$(curl -sk -m 10 \
                    https://localhost/webhooks/taptalent \
                    -H 'Content-Type: application/json' \
                    -H 'X-Webhook-Event: candidate.created' \
                    -H 'X-Webhook-Timestamp: 2026-11-24T08:00:00Z' \
                    -d '{"event":"candidate.created","companyId":"company-uuid",
                         "timestamp":"2026-11-24T08:00:00Z",
                         "data":{"n":'$n'}}')"
            done > /tmp/answers
            touch /tmp/ended
SH
        POSIX::_exit(0);
    }

    my $answers = sub {
        return split /\n/, $t->read_file($root->path('/tmp/answers'));
    };

    $t->wait_for(sub { $answers->() >= 10 }, 10, 'events to come');

    my $old = (stat $root->path($so))[1];
    documented("dpkg -i /tmp/$package-newer.deb", 'upgraded');
    isnt((stat $root->path($so))[1], $old, 'another module');

    # nginx has handed over to another one

    isnt(master(), $master, 'another nginx');
    $t->wait_for(sub { !-d $root->path("/proc/$master") }, 10,
                 'the old one to end');
    $master = master();

    loaded('which has the new module');

    my $n = $answers->();
    $t->wait_for(sub { $answers->() >= $n + 10 }, 10, 'events to come');

    $t->write_file($root->path('/tmp/enough'), '');
    waitpid $pid, 0;
    ok(-e $root->path('/tmp/ended'), 'the sender has ended');

    my @refused = grep { !/^\d+ \{"received":true\}$/ } $answers->();
    is("@refused", '', 'no event was refused, of ' . $answers->());

    my %stored = map { $_ => 1 }
                 map { $t->read_file($_) =~ /"data":\{"n":(\d+)\}/g } files();
    my @lost = grep { /^(\d+)/ && !$stored{$1} } $answers->();

    is("@lost", '', 'and none is lost');
    as_ever();
}

sub purged_with_events {
    my $events = files();

    my $said = documented(remove(), 'removed');

    like($said, qr/^\Q$spool\E holds events, it is kept$/m, 'it says so');
    is(files(), $events, "all $events files are in the spool");
    ok(!-l $root->path($enabled), 'not enabled');
    ok(!-e $root->path($so), 'no module');

    unloaded();
    as_ever();
}

# The application takes them; then the package is purged in spite of a site.

sub purged_in_use {
    documented("dpkg -i /tmp/$package.deb", 'installed again');
    loaded('the module is loaded again');

    documented(<<'SH', 'with an application');
        echo 'server { listen 127.0.0.1:3000; return 200; }' \
            > /etc/nginx/sites-enabled/application
        ln -s ../sites-available/taptalent /etc/nginx/sites-enabled/
        service nginx reload
SH

    ok($t->wait_for(sub { !files() }, 20, 'all to be delivered'),
       'what was left is delivered');

    my $said = documented("dpkg --purge $package", 'purged with a site');

    like($said, qr/^nginx still uses \Q$spool\E, it is kept$/m, 'it says so');
    as_ever();

    # the module is gone, but nginx has it

    ($said) = ($root->run(block('docs/install.md', 'event') =~ s/-k/-sk/r))[1];
    is($said, '{"received":true}', 'nginx goes on with what it has');

    ok($t->wait_for(sub { !files() }, 20, 'the event to be delivered'),
       'and delivers');
}

sub purged {
    documented("dpkg -i /tmp/$package.deb", 'installed for the last time');
    $master = master();
    loaded('the module is loaded');

    # workers that end hold their locks for a moment

    my ($disable, $purge) = remove() =~ /^(.*?)^(dpkg .*)/ms;

    documented($disable, 'the site is removed');
    ok($t->wait_for(sub {
        ($root->run('curl -sk https://localhost/'))[0] == 7
            && !$root->processes(qr/is shutting down/)
    }, 10, 'old workers to end'), 'the old workers end');
    documented($purge, 'and the package');
    unloaded();

    ok(!-e $root->path($spool), 'an empty spool is removed');
    as_ever();

    # one that is not the package's

    documented(<<"SH", 'a link for a spool');
        set -e
        mkdir -p /srv/spool/new && chmod 755 /srv/spool
        rm -rf $spool && ln -s /srv/spool $spool
        dpkg -i /tmp/$package.deb
        dpkg --purge $package
SH

    ok(-d $root->path('/srv/spool/new'), 'what a link points to is not ours');
}

# A module built --with-compat and few other options, as for the packages of
# nginx.org, for this nginx, which has more of them. The source is of the same
# version.

sub compatible {
    my $name = 'ngx_http_taptalent_webhook_module';
    my $source = "$top/build/source-bookworm";

    my ($status, $output) = command("$top/t/build/source.sh", 'bookworm');
    is($status, 0, 'the source of nginx') or die $output;

    SKIP: {
        my ($version) = $t->read_file("$source/src/core/nginx.h")
                        =~ /NGINX_VERSION\s+"([\d.]+)"/;

        skip "the source is of $version", 4
            if $t->configured() !~ m{nginx/\Q$version\E\s};

        mkdir $root->path("/tmp/$name");
        command('cp', '-R', $source, $root->path('/tmp/nginx'));
        command('cp', '-R', "$top/config", "$top/src", glob("$top/*.c"),
                $root->path("/tmp/$name"));

        # of a tarball it would have this name

        symlink 'auto/configure', $root->path('/tmp/nginx/configure');

        documented("cd /tmp/nginx\n" . block('docs/install.md', 'compat'),
                   'compat');
        documented(<<"SH", 'it is loaded');
            echo 'load_module modules/$name.so;' \\
                > /etc/nginx/modules-enabled/50-taptalent.conf
            ${\block('docs/install.md', 'enable')}
            nginx -t
            service nginx reload
SH

        my $said = '';
        $t->wait_for(sub {
            my $curl = block('docs/install.md', 'event') =~ s/-k/-sk/r;
            $said = ($root->run($curl))[1];
        }, 10, 'the new configuration');

        is($said, '{"received":true}', 'and takes an event');

        documented(block('docs/install.md', 'remove-source'), 'and is removed');
    }
}

sub no_complaints {
    my $log = $t->read_file($root->path('/var/log/nginx/error.log'));

    # of the reload without the module

    my @lines = grep { /\[(alert|emerg|crit)\]/ && !/unknown directive/ }
                split /\n/, $log;

    is("@lines", '', 'the error log');
}


# steps ----------------------------------------------------------------------

# What docs/install.md says, or something else that has to work.

sub documented {
    my ($script, $name) = @_;

    my ($status, $output) = $root->run("set -e\n$script",
                                       DEBIAN_FRONTEND => 'noninteractive');
    is($status, 0, $name) or diag($output);

    return $output;
}

# There is no network for apt-get, which asks as well.

sub remove {
    my $script = block('docs/install.md', 'remove');
    $script =~ s/^apt-get purge /dpkg --purge /m or die "no apt-get purge\n";

    return $script;
}

sub files {
    my @files = glob $root->path("$spool/new/*.ndjson");
    return @files;
}

sub master {
    return $t->read_file($root->path('/run/nginx.pid')) =~ /^(\d+)/ ? $1 : 0;
}

sub as_ever {
    my (undef, $said) = $root->run('curl -s -m 10 http://localhost/');

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($said, "as ever\n", 'the other site');
    is(master(), $master, 'the same nginx');
}

# Of each worker that does not end, the mappings of the module. Of a file that
# was replaced they say (deleted).

sub mappings {
    return map {
        join "\n", grep { /webhook_module/ }
                   split /\n/, $t->read_file($root->path("/proc/$_/maps"))
    } $root->processes(qr/^nginx: worker process\s*$/);
}

sub loaded {
    my ($name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $inode = (stat $root->path($so))[1];
    my @workers;

    ok($t->wait_for(sub {
        @workers = mappings();
        return @workers && !grep { !/ $inode +\Q$so\E$/m } @workers;
    }, 10, 'workers with the module'), $name)
        or diag(join "\n", $inode, @workers);
}

sub unloaded {
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok($t->wait_for(sub { my @workers = mappings(); !grep { $_ } @workers }, 10,
                    'workers without the module'), 'no module is loaded');
}
