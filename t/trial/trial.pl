#!/usr/bin/perl

# trial.pl [way...]: does what a new user does, on a clean Debian 12 and on a
# clean Debian 13, by the commands of README.md and docs/install.md as they are
# written there, to the first event that is acknowledged. Ways, all of them but
# the last without arguments:
#
#     demo        make demo, and the example of the sender's documentation
#     package     the Debian package
#     source      make install
#     compat      a module for a nginx that is built like those of nginx.org
#     static      linked into a nginx of one's own
#     container   the image, with buildah and podman
#     test        make test, which takes an hour
#
# RELEASES in the environment says on which: bookworm, trixie or, as without it,
# both.
#
# What is committed is what the user has. Each way has a Debian of its own that
# debootstrap makes once, below build/trial; what is written there is thrown
# away. Ports 80, 443 and 8443 to 8445 of the machine are used, and its network,
# for apt. Root only.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Test::Docs qw(block);
use Test::Root;

my $top = "$FindBin::Bin/../..";
chdir $top or die "$top: $!\n";
$top = POSIX::getcwd();

my $name = 'ngx_http_taptalent_webhook_module';
my $spool = '/var/spool/taptalent';
my $clone = "$top/build/trial/clone";
my $answer = '{"received":true}';

my %ways = (demo => \&demo, package => \&package, source => \&source,
            compat => \&compat, static => \&static, container => \&container,
            test => \&test);
my @ways = @ARGV ? @ARGV : qw(demo package source compat static container);

my @unknown = grep { !$ways{$_} } @ways;
die "no such way: @unknown\n" if @unknown;

my @releases = split ' ', $ENV{RELEASES} || 'bookworm trixie';

my $unavailable = Test::Root::unavailable();
die "$unavailable\n" if defined $unavailable;

for my $port (80, 443, 8443 .. 8445) {
    die "port $port is in use on this machine\n"
        if !IO::Socket::INET->new(LocalPort => $port, Listen => 1,
                                  ReuseAddr => 1);
}

$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

diag('what is tried is ' . qx{git log -1 --format='%h, "%s"'});
diag('changes that are not committed are not') if qx{git status --porcelain};

system("rm -rf $clone && git clone -q $top $clone") == 0 or exit 1;

our $release;
my ($root, $debian, $began);

for $release (@releases) {
    $debian = "$top/build/trial/$release";
    debootstrap();
    attempt($_) for @ways;
}

done_testing();


sub attempt {
    my ($way) = @_;

    $began = time();

    # A user says yes to apt-get, and has a machine that has been started, so
    # that services are.

    $root = Test::Root->new(network => 1, size => '12g',
                            lower => $way eq 'container' ? '/' : $debian);
    user(<<'SH', 'a machine') if $way ne 'container';
        echo 'APT::Get::Assume-Yes "true";' > /etc/apt/apt.conf.d/90yes
        ln -s /bin/true /sbin/init
SH

    system('cp', '-R', $clone, $root->path("/tmp/$name")) == 0
        or die "cp: $?\n";

    subtest "$way, $release" => sub { eval { $ways{$way}->(); 1 } or fail($@) };
    diag(sprintf '%s, %s: %d s', $way, $release, time() - $began);

    undef $root;
}


# the ways -------------------------------------------------------------------

sub demo {
    user(<<"SH", 'git and make');
        apt-get update
        apt-get install git make
        cd /tmp/$name
        setsid make demo > /tmp/demo.out 2>&1 &
        echo \$! > /tmp/demo.pid
SH

    ok(eventually(600, sub {
        slurp('/tmp/demo.out') =~ /removed at the end/
    }), 'make demo') or diag(slurp('/tmp/demo.out'));

    unlike(slurp('/tmp/demo.out'), qr/UNEXPECTED/, 'all was as expected');

    my $said = user(readme_curl(), 'the example, in another terminal');
    like($said, qr/\Q$answer\E$/, 'is answered');

    ok(eventually(10, sub {
        slurp('/tmp/demo.out') =~ /at the end.*^application: got resume\./ms
    }), 'and arrives') or diag(slurp('/tmp/demo.out'));

    ok($root->processes(qr/^nginx: worker/), 'nginx runs');

    # not INT, as of Ctrl-C: what a script starts in the background ignores that

    user('kill -TERM -$(cat /tmp/demo.pid)', 'its end');
    ok(eventually(20, sub { !$root->processes(qr/^nginx|^make|application/) }),
       'nothing of it is left, and no other nginx was started');
}

sub package {
    user(block('docs/install.md', 'package'), 'package');
    user(block('docs/install.md', 'example'), 'example');

    first_event();

    user(block('README.md', 'install'), 'again, as README.md says');
    event('event');

    my $said = user(block('docs/install.md', 'remove'), 'remove');
    like($said, qr/\Q$spool\E holds events, it is kept/, 'the spool is kept');
    is(files(), 2, 'with the events');
    user('nginx -t', 'nginx works without');
}

sub source {
    user(block('docs/install.md', 'source'), 'source');
    write_file('/etc/nginx/sites-available/taptalent',
               block('docs/install.md', 'site'));
    user(block('docs/install.md', 'enable'), 'enable');

    first_event();

    my $old = slurp('/run/nginx.pid');

    user(block('docs/install.md', 'upgrade'), 'upgrade');
    isnt(slurp('/run/nginx.pid'), $old, 'another nginx');
    event('event');

    user(block('docs/install.md', 'remove-source'), 'remove');
    user('nginx -t', 'nginx works without');
}

# What nginx.org says of its packages for Debian: nginx -V.

sub compat {
    my $version = nginx_source();

    user(<<"SH", 'a nginx as that of nginx.org');
        adduser --system --group --no-create-home nginx
        mkdir -p /var/cache/nginx /usr/lib/nginx/modules
        cd /tmp/nginx-$version
        ./configure --prefix=/etc/nginx --sbin-path=/usr/sbin/nginx \\
            --modules-path=/usr/lib/nginx/modules \\
            --conf-path=/etc/nginx/nginx.conf \\
            --error-log-path=/var/log/nginx/error.log \\
            --http-log-path=/var/log/nginx/access.log \\
            --pid-path=/var/run/nginx.pid --lock-path=/var/run/nginx.lock \\
            --http-client-body-temp-path=/var/cache/nginx/client_temp \\
            --http-proxy-temp-path=/var/cache/nginx/proxy_temp \\
            --http-fastcgi-temp-path=/var/cache/nginx/fastcgi_temp \\
            --http-uwsgi-temp-path=/var/cache/nginx/uwsgi_temp \\
            --http-scgi-temp-path=/var/cache/nginx/scgi_temp \\
            --user=nginx --group=nginx --with-compat --with-file-aio \\
            --with-threads --with-http_addition_module \\
            --with-http_auth_request_module --with-http_dav_module \\
            --with-http_flv_module --with-http_gunzip_module \\
            --with-http_gzip_static_module --with-http_mp4_module \\
            --with-http_random_index_module --with-http_realip_module \\
            --with-http_secure_link_module --with-http_slice_module \\
            --with-http_ssl_module --with-http_stub_status_module \\
            --with-http_sub_module --with-http_v2_module --with-mail \\
            --with-mail_ssl_module --with-stream --with-stream_realip_module \\
            --with-stream_ssl_module --with-stream_ssl_preread_module \\
            --with-cc-opt='-g -O2 -fstack-protector-strong -fPIC' \\
            --with-ld-opt='-Wl,-z,relro -Wl,-z,now -Wl,--as-needed -pie'
        make -j2
        make install
        make clean
        mkdir /etc/nginx/conf.d
        ln -s ../../usr/lib/nginx/modules /etc/nginx/modules
SH

    user("cd /tmp/nginx-$version\n" . block('docs/install.md', 'compat'),
         'compat');

    write_file('/etc/nginx/nginx.conf', <<"CONF");
load_module modules/$name.so;
user nginx;
error_log /var/log/nginx/error.log notice;
pid /var/run/nginx.pid;
events { }
http {
    include /etc/nginx/conf.d/*.conf;
}
CONF

    write_file('/etc/nginx/conf.d/taptalent.conf',
               block('docs/install.md', 'site'));

    # nginx.org's packages have a service; here it is started by hand

    user(block('docs/install.md', 'certificate'), 'certificate');
    user('nginx -t && nginx', 'start');
    event('the first event');

    my ($status, $said) = $root->run("stat -c %U $spool/new");
    is($said, "nginx\n", 'the owner of the directories');
}

sub static {
    my $version = nginx_source();

    user("cd /tmp/nginx-$version\n" . block('docs/install.md', 'static'),
         'static');

    write_file('/usr/local/nginx/conf/nginx.conf', "user www-data;\n"
               . "events { }\nhttp {\n" . block('docs/install.md', 'site')
               . "}\n");

    user(block('docs/install.md', 'certificate'), 'certificate');
    user('/usr/local/nginx/sbin/nginx -t && /usr/local/nginx/sbin/nginx',
         'start');
    event('the first event');
}

# The commands say docker; podman does it. Neither the limits of processes nor
# the cgroups of every machine let it do as it likes, and the network is the
# machine's, so that -p has no effect.

sub container {
    write_file('/tmp/Dockerfile', block('docs/install.md', 'dockerfile')
                                  =~ s/bookworm/$release/gr);
    write_file('/tmp/taptalent', block('docs/install.md', 'site'));

    write_file('/usr/local/bin/docker', <<'SH');
#!/bin/sh
storage="--storage-driver overlay --root /tmp/storage --runroot /tmp/run"
command=$1
shift

case $command in
build)
    exec buildah $storage bud --isolation chroot --pull-never "$@" ;;
run)
    exec podman $storage --cgroup-manager cgroupfs run --cgroups=disabled \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network host "$@"
    ;;
*)
    exec podman $storage --cgroup-manager cgroupfs $command "$@" ;;
esac
SH

    system('tar', '-C', $debian, '-cf', $root->path('/tmp/base.tar'), '.') == 0
        or die "tar: $?\n";

    user(<<"SH", "debian:$release-slim, of debootstrap");
        chmod 755 /usr/local/bin/docker
        mount -t sysfs sysfs /sys
        mount -t tmpfs tmpfs /sys/fs/cgroup
        docker import /tmp/base.tar docker.io/library/debian:$release-slim
        rm /tmp/base.tar
SH

    user("cd /tmp\n" . block('docs/install.md', 'image'), 'image');
    user("cd /tmp\n" . block('docs/install.md', 'certificate')
                       =~ s{/etc/ssl/}{}gr, 'certificate');
    user("cd /tmp\n" . block('docs/install.md', 'container'), 'container');

    event('the first event', 'the container');

    my $said = user("docker exec edge ls -l $spool/new; docker logs edge 2>&1",
                    'in the container');
    like($said, qr/^-rw------- 1 www-data .*\.ndjson$/m, 'the spool');
    like($said, qr/"POST \/webhooks\/taptalent HTTP\S+ 200 /, 'the log');

    user('docker stop edge && docker rm edge', 'it stops');

    # the next container has the same volume

    user("cd /tmp\n" . block('docs/install.md', 'container'), 'another one');
    event('an event');

    $said = user("docker exec edge ls $spool/new", 'the spool');
    is(scalar(split /\n/, $said), 2, 'the event before is still there');

    user('docker stop edge && docker rm edge', 'it stops');
}

sub test {
    user(<<"SH", 'make test');
        apt-get update
        apt-get install git make
        make test
SH
}


# steps ----------------------------------------------------------------------

sub first_event {
    user(block('docs/install.md', 'certificate'), 'certificate');
    user(block('docs/install.md', 'start'), 'start');

    event('the first event');

    my $said = user(block('docs/install.md', 'spool'), 'spool');
    like($said, qr/^\S+\.ndjson\n\z/, 'it is in the spool');
}

sub event {
    my ($what) = @_;
    my $said;

    # nginx may be about to start

    eventually(10, sub {
        my $curl = block('docs/install.md', 'event') =~ s/-k/-sk/r;
        $said = ($root->run($curl))[1];
        $said eq $answer
    });

    is($said, $answer, $what);
    diag(sprintf '    acknowledged after %d s', time() - $began)
        if $what =~ /first/;
}

# As a user who is root, in the clone.

sub user {
    my ($script, $what) = @_;

    my ($status, $said) = $root->run("set -e\ncd /tmp/$name 2> /dev/null || :\n"
                                     . $script,
                                     DEBIAN_FRONTEND => 'noninteractive');

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($status, 0, $what) or diag($script, $said);
    die "this way ends here\n" if $status != 0;

    return $said;
}

sub nginx_source {
    user("apt-get update\n" . block('docs/install.md', 'headers'), 'headers');

    system("$top/t/build/source.sh", $release) == 0 or die "source.sh: $?\n";

    my $source = "$top/build/source-$release";
    my ($version) = Test::Root::slurp("$source/src/core/nginx.h")
                    =~ /NGINX_VERSION\s+"([\d.]+)"/;

    system('cp', '-R', $source, $root->path("/tmp/nginx-$version")) == 0
        or die "cp: $?\n";

    # of a tarball it would have this name

    symlink 'auto/configure', $root->path("/tmp/nginx-$version/configure");

    return $version;
}

sub readme_curl {
    my ($curl) = grep { $_->{text} =~ /^curl / }
                 Test::Docs::blocks('README.md');
    return $curl->{text} =~ s/^curl /curl -sS /r;
}

sub files {
    my @files = glob $root->path("$spool/new/*.ndjson");
    return scalar @files;
}

sub slurp {
    my ($name) = @_;
    return Test::Root::slurp($root->path($name));
}

sub write_file {
    my ($name, $content) = @_;
    open my $fh, '>:raw', $root->path($name) or die "$name: $!\n";
    print $fh $content;
    close $fh or die "$name: $!\n";
}

sub eventually {
    my ($seconds, $sub) = @_;
    my $deadline = time() + $seconds;

    until ($sub->()) {
        return 0 if time() > $deadline;
        sleep 0.1;
    }

    return 1;
}

sub debootstrap {
    return if -e "$debian/debootstrapped";

    system("rm -rf $debian && mkdir -p $debian") == 0 or exit 1;
    diag('debootstrap, this takes a minute');

    system("debootstrap --variant=minbase $release $debian"
           . " http://deb.debian.org/debian > $top/build/trial/debootstrap.log")
        == 0 or die "the output is in build/trial/debootstrap.log\n";

    open my $fh, '>', "$debian/debootstrapped" or die "$debian: $!\n";
}
