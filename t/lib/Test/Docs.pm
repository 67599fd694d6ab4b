package Test::Docs;

# The code blocks of the documents, so that a test runs what a reader copies.
#
# Before each block stands a comment, which no reader sees:
#
#     <!-- run: NAME -->           a test takes it by block('docs/x.md', 'NAME')
#     <!-- not run: REASON -->     and the text around it says so too
#
# A block of nginx needs none: docs.t gives each to nginx -t.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);

our @EXPORT_OK = qw(block blocks documents);

my $TOP = dirname(dirname(dirname(dirname(abs_path(__FILE__)))));


# All documents, as paths below the top of the tree.

sub documents {
    return 'README.md', map { s{^\Q$TOP\E/}{}r } sort glob "$TOP/docs/*.md";
}


# The fenced blocks of a document, in order: language, text, line number of the
# fence, and the comment before it as run or not_run, if there is one.

sub blocks {
    my ($document) = @_;
    my (@blocks, $block, $mark);

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


1;
