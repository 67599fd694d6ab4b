#!/usr/bin/perl

# Into an nginx from its sources, as README.md tells; and what configure says
# where yajl is missing.

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

done_testing();
