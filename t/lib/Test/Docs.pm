package Test::Docs;

# The code blocks of the documents, so that a test runs what a reader copies.
#
# Before each block stands a comment, which no reader sees:
#
#     <!-- run: NAME -->           a test takes it by block('docs/x.md', 'NAME')
#     <!-- not run: REASON -->     and the text around it says so too
#
# A block of nginx needs none: docs.t gives each to nginx -t. It also looks that
# no block is without a mark, and that each `run' is taken by a call of block()
# with the two names written out, in some test of t/.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use POSIX ();

our @EXPORT_OK = qw(block blocks command configuration documents
                    log_pattern);

my $TOP = dirname(dirname(dirname(dirname(abs_path(__FILE__)))));


# All documents, as paths below the top of the tree.

sub documents {
    return 'README.md', map { s{^\Q$TOP\E/}{}r } sort glob "$TOP/docs/*.md";
}


# The lines that a format of ngx_log_error() makes, as a pattern: %V and such
# stand for anything.

sub log_pattern {
    my ($format) = @_;

    return join '.+', map { quotemeta }
                split /%(?:[a-zA-Z]i|u[Lz]|\*s|[a-zA-Z])/, $format, -1;
}


# The fenced blocks of a document, in order: language, text, line number of the
# fence, and the comment before it as run or not_run, if there is one.

sub blocks {
    my ($document) = @_;
    my (@blocks, $block, $mark);
    local $_;

    open my $fh, '<', "$TOP/$document" or die "$document: $!";

    while (<$fh>) {
        if ($block) {
            if (/^$block->{indent}```\s*$/) {
                push @blocks, $block;
                undef $block;

            } else {
                s/^$block->{indent}//;
                $block->{text} .= $_;
            }

        } elsif (/^( *)```(\w*)/) {
            $block = { indent => $1, language => $2, text => '', line => $.,
                       $mark ? @$mark : () };
            undef $mark;

        } elsif (/^ *<!-- (not run|run): (.+?) -->$/) {
            $mark = [$1 =~ tr/ /_/r => $2];

        } elsif (/\S/) {
            undef $mark;
        }
    }

    die "$document:$block->{line}: the block has no end\n" if $block;

    return @blocks;
}


# The text of the one block with this name; dies if there is none, or another.

sub block {
    my ($document, $name) = @_;
    my @found = grep { ($_->{run} // '') eq $name } blocks($document);

    die "$document: " . @found . " blocks are named \"$name\"\n" if @found != 1;

    return $found[0]{text};
}


# A configuration with our paths and ports instead of those of the documents;
# what is not a whole one is put into one. What it includes is written, too.

sub configuration {
    my ($t, $block) = @_;

    $block =~ s/^(?:load_module|user) .*$//mg;
    $block =~ s{/etc/ssl/[\w.]+\.crt}{%%PREFIX%%/cert.pem}g;
    $block =~ s{/etc/ssl/[\w.]+\.key}{%%PREFIX%%/key.pem}g;
    $block =~ s{/var/spool/taptalent}{%%SPOOL%%}g;
    $block =~ s{/mnt/fast}{%%PREFIX%%/fast}g;
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
            $block = "server {\n$block\n}\n";
        }

        if ($block !~ /\blisten\s/) {
            $block =~ s/^server \{\n/$&listen 127.0.0.1:%%PORT_0%%;
                       listen 127.0.0.1:%%PORT_1%% ssl;\n%%TLS%%\n/mg;
        }

        $block = "events {\n}\n\nhttp {\n$block\n}\n";
    }

    $t->tls();
    mkdir $t->path('fast');
    $t->write_file('fastcgi_params',
                   'fastcgi_param REQUEST_METHOD $request_method;');
    $t->write_file('taptalent.key', "the key of the dashboard\n");
    $t->write_file('taptalent-next.key', "the next key\n");
    $t->write_file('taptalent-signing.key', "whsec_c2lnbmluZw==\n");
    $t->write_file('companies.map', "company-uuid company-uuid;\n");

    return "%%GLOBALS%%\n\n$block";
}


# Runs a command: (exit status, what it says). An argument before it may be
# { as => [uid, gid] }.

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


1;
