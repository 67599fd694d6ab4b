#!/usr/bin/perl

# The documents: their links, that each of their blocks is run or says why not,
# and that the reference is that of the source. Each configuration is given to
# nginx -t here; what the blocks are for is run by the test that takes them.

use strict;
use warnings;

use File::Find qw(find);
use Test::More;

use lib 't/lib';
use Test::Docs qw(blocks configuration documents);
use Test::Edge;

my $t = Test::Edge->new(workers => 2);
my $top = $t->top();

my @documents = documents();
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

# The names in calls of block(), by document, in the tests and in that of the
# ways of installation, which is `make trial`.

sub taken {
    my (%taken, @tests);

    find(sub { push @tests, $File::Find::name if /\.t$|^trial\.pl$/ },
         "$top/t");

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
    return join '', map { $t->read_file($_) } grep { /\.c$/ } $t->sources();
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

        # metrics are compared by status_prometheus.t; the other is the name of
        # a job

        $sigil ? !$source{$name}
               : $source !~ /ngx_string\("\Q$name\E"\)/
                 && $name ne 'taptalent_webhook'
                 && !(defined $metric && $source =~ /"\Q$metric\E/);
    } sort keys %used;

    is("@unknown", '', 'no unknown names');
}

sub verdicts {
    my ($table) = source() =~ /ngx_http_taptalent_verdicts\[\] = (.*?)^\};/ms;
    my %source = $table =~ /ngx_string\("(\w+)"\), (\d+)/g;

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
    my $source = join '', map { $t->read_file($_) } $t->sources();
    my ($layout) = $text =~ /^## Layout$(.*?)^## /ms;
    my ($way) = $text =~ /^## The way of an event$(.*?)^## /ms;
    my ($tests) = $text =~ /^## Adding a test$(.*?)^## /ms;

    my @files = map { s{.*/ngx_http_taptalent_?}{}r }
                    grep { m{/src/} } $t->sources();
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
            like($block->{text}, qr/_buffer_size +16k;\n.*_buffers +8 16k;/,
                 "$document:$block->{line}: room for a large header")
                if $block->{text} =~ m{_forward +/application;}
                   && $block->{text} =~ /_pass /;
            $n++;
        }
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

    # the reader's own has to be there instead, and that is what nginx says

    my $examples = () = $output =~ /\[warn\].* the companyId of the examples, /g;

    $output =~ s/^.*\[warn\].* the companyId of the examples, .*\n//mg;

    my $uuids = () = $block =~ /^\s*taptalent_webhook_company_id .*company-uuid/mg;

    is($examples, $uuids, "$name: not yet the reader's company");

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
