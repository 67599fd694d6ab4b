#!/usr/bin/perl

# Into an nginx from its sources, as README.md tells; what configure says where
# yajl is missing; what deps.sh says where it can install nothing; and which
# tests `make check` runs.
#
# slow: nginx is configured and the module built, twice

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp qw(tempdir);
use Test::More;
use Test::Docs qw(block command);
use Test::Edge;

my $source = '/usr/share/nginx/src';
my $top = Test::Edge::top();

plan(skip_all => 'nginx-dev is missing') if !-f "$source/configure";
plan(skip_all => 'once is enough') if Test::Edge::module() eq '';

my $dir = tempdir(CLEANUP => 1);

system("cp -RL $source $dir/nginx") == 0 or die "cp $source: $?";

# The module is for the same version and compatible, so the installed nginx
# takes it.

my $t = Test::Edge->new();
my $block = block('docs/install.md', 'compat');

$block =~ s{\.\./ngx_http_taptalent_webhook_module}{$top}
    or fail('the path');
$block =~ s{^install .*}{}ms or fail('install');

# of nginx's Makefiles nginx-dev has only this one

$block =~ s{^make}{make -s -j 2 -f objs/Makefile}m or fail('make');

{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL)};

    my ($status, $output) = command('sh', '-ec', "cd $dir/nginx\n$block");
    is($status, 0, 'configured and made') or diag($output);
}

my $so = "$dir/nginx/objs/ngx_http_taptalent_webhook_module.so";
$t->conf("load_module $so;\nevents {\n}\n\nhttp {\n}\n");

my ($status, $said) = $t->config_test();
is($status, 0, 'the installed nginx loads it') or diag($said);

unlink "$dir/nginx/objs/Makefile" or die $!;


# A compiler for which there is no yajl.

open my $cc, '>', "$dir/cc" or die "$dir/cc: $!";
print $cc <<'EOF_CC';
#!/bin/sh
for file; do
    case $file in *.c)
        if grep -q yajl "$file"; then
            echo "yajl/yajl_parse.h: No such file or directory" >&2
            exit 1
        fi
    esac
done
exec gcc "$@"
EOF_CC
close $cc;
chmod 0755, "$dir/cc";

my $output = `cd $dir/nginx && ./configure --with-cc=$dir/cc --with-compat \\
              --with-http_ssl_module --add-dynamic-module=$top 2>&1`;

isnt($?, 0, 'configure fails without yajl');
like($output, qr/error: .*yajl.*\blibyajl-dev\b/s, 'and says what to install');
ok(!-e "$dir/nginx/objs/Makefile", 'there is nothing to build');


# deps.sh where packages are missing, with programs of ours for those of the
# system: it says what to install, and neither installs nor asks.

my $path = "$dir/path";
my $called = "$dir/called";
my $deps = "$top/t/build/deps.sh";

mkdir $path or die "$path: $!";

# what the script itself needs, and no sudo

for my $name (qw(sh dirname nproc mkdir tr sed grep cat)) {
    my ($program) = grep { -x } map { "$_/$name" } split /:/, $ENV{PATH};
    symlink $program, "$path/$name" or die "$path/$name: $!";
}

sub program {
    my ($name, $text) = @_;

    open my $fh, '>', "$path/$name" or die "$path/$name: $!";
    print $fh "#!/bin/sh\n$text\n";
    close $fh or die "$path/$name: $!";
    chmod 0755, "$path/$name";
}

sub deps {
    my ($what) = @_;

    local $ENV{PATH} = $path;

    my ($status, $output) = command($deps, $what);

    ok(!-e $called, "deps.sh $what: nothing is installed");

    return ($status, $output);
}

program('apt-get', "echo apt-get > $called");
program('id', 'echo 1000');

# all are there but two

program('dpkg-query', <<'EOF_QUERY');
case $4 in
    jq) exit 1 ;;
    wrk) echo config-files ;;
    *) echo installed ;;
esac
EOF_QUERY

my ($rc, $text) = deps('build');

is($rc, 1, 'no root and no sudo: refused');
is($text, "$deps: neither root nor sudo here, please install the packages: jq\n",
   'and which packages are missing');

($rc, $text) = deps('test');
is($rc, 1, 'for the tests: refused');
like($text, qr/please install the packages: jq wrk$/, 'both are named');

# a sudo that would ask, where nobody can answer

program('sudo', "[ \"\$1\" = -n ] && exit 1; echo sudo > $called");
($rc, $text) = deps('build');
is($rc, 1, 'sudo that wants a password: refused');
like($text, qr/neither root nor sudo here/, 'and it says so');
unlink "$path/sudo";

# nothing is missing, nobody needs to be root

program('dpkg-query', 'echo installed');
($rc, $text) = deps('build');
is("$rc $text", '0 ', 'all are there: nothing to say');

# not Debian: it has no dpkg, or calls itself something else

unlink "$path/dpkg-query";
not_debian(deps('test'));

SKIP: {
    skip 'needs root and namespaces for mounts', 5
        if $> != 0 || system('unshare -m true 2>/dev/null') != 0;

    # one that has apt as well

    program('dpkg-query', 'exit 1');

    open my $fh, '>', "$dir/os-release" or die "$dir/os-release: $!";
    print $fh qq(NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n);
    close $fh;

    my ($status, $output) = command('unshare', '-m', 'sh', '-c',
        'mount --bind "$1" /etc/os-release && PATH=$2 exec "$3" test', 'sh',
        "$dir/os-release", $path, $deps);

    ok(!-e $called, 'another system with apt: nothing is installed');
    not_debian($status, $output);
}

# `make check` runs each test that does not say that it is slow.

my $copy = "$dir/check";

mkdir $_ or die "$_: $!" for map { "$copy$_" } '', '/t', '/t/build';
system('cp', "$top/Makefile", $copy) == 0 or die "cp $top/Makefile: $?";

write_file("$copy/t/build/$_.sh", "#!/bin/sh\necho $_ \$1: \$TESTS\n")
    for qw(deps test);
write_file("$copy/t/quick.t", "# A test.\n#   slow: not its head\n");
write_file("$copy/t/waits.t", "# A test.\n#\n# slow: it waits\n");

{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL)};

    my ($status, $output) = command('make', '-sC', $copy, 'check');

    is("$status $output", "0 deps test:\ntest debian: t/quick.t\n",
       'make check: the quick tests, on one nginx');
}

my @slow = map { Test::Edge::slurp($_) =~ /^# slow: *(.*)$/m ? "$_: $1" : () }
               glob "$top/t/*.t";

ok(!(grep { /: $/ } @slow), 'each slow test says why')
    or diag(join "\n", @slow);

sub not_debian {
    my ($rc, $text) = @_;
    my ($list) = $text =~ /^\Q$deps: this needs Debian 12 or later, and there \E
                           \Qthe packages \E(.*?)\Q; elsewhere build the \E
                           \Qmodule with nginx's own .\/configure, see \E
                           README\.md\n\z/x;
    my %named = map { $_ => 1 } split ' ', $list // '';

    is($rc, 1, 'not Debian: refused');
    ok(defined $list, 'and what is needed') or diag($text);
    is(join(' ', grep { !$named{$_} } qw(nginx nginx-dev libyajl-dev gcc make
                                         curl prometheus chromium)), '',
       'all packages are named');
    unlike($text, qr/apt-get|sudo|not found/, 'and no more');
}

sub write_file {
    my ($path, $content) = @_;

    open my $fh, '>', $path or die "$path: $!";
    print $fh $content;
    close $fh or die "$path: $!";
    chmod 0755, $path;
}

done_testing();
