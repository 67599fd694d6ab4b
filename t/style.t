#!/usr/bin/perl

# What is mechanical in nginx's C style, and what Perl gets wrong in silence.

use strict;
use warnings;

use FindBin;
use Test::More;

my $top = "$FindBin::Bin/..";

for my $path (sort glob("$top/*.[ch]"),
                   map { glob "$top/$_/*.[ch]" } qw(src src/* t/bench t/build
                                                    t/fuzz t/torture)) {
    my ($name) = $path =~ m{^\Q$top\E/(.*)$};

    open my $file, '<:raw', $path or die "$path: $!";
    my $text = do { local $/; <$file> };

    my @faults = faults($text);
    ok(!@faults, $name) or diag(join "\n", map { "$name:$_" } @faults);
}

for my $path (map { glob "$top/t/$_" } qw(*.t torture/*.t torture/*.pl
                                         lib/Test/*.pm lib/Test/*/*.pm
                                         bench/*.pl demo/*.pl trial/*.pl send))
{
    my ($name) = $path =~ m{^\Q$top\E/(.*)$};

    open my $file, '<', $path or die "$path: $!";
    my @faults = scalar_globs(do { local $/; <$file> });

    ok(!@faults, $name) or diag(join "\n", map { "$name:$_" } @faults);
}

is(join(' ', map { s/:.*//r } scalar_globs(<<'PERL')), '1 2 3 4 5 6 7 8',
ok(wait_for(sub { !glob "$one/new/*" }, 10), 'empty');
if (glob "$one/*") { ...; }
my $file = glob "$one/*";
ok(glob("$one/*"), 'a file');
is(1, glob "$one/*", 'one');
wait_for(sub { glob "$one/*" });
sub files { return glob "$one/*" }
my $angle = <$one/*>;
my ($first) = glob "$one/*";
my @files = sort glob "$one/*";
return !(() = glob "$one/*");
unlink glob "$one/*";
is(join(' ', 'x', glob "$one/*"), '', 'none');
for my $path (sort(glob "$one/*"), glob("$two/*")) { ...; }
my @names = map { s{.*/}{}r } glob "$one/*";
my @all = map { glob "$_/*" } @dirs;
is((() = glob "$one/*"), 1, 'one');
return (glob "$one/*")[0];
PERL
   'glob in scalar context is found, in list context it is not');

done_testing();


# In scalar context glob goes through the listing of another time, and then says
# that there is nothing, whatever there is. What stands before it tells that it
# is in list context: an assignment to a list, a function or a block that takes
# one, an array; and what may stand before these.

sub scalar_globs {
    my ($text) = @_;
    my @faults;

    $text =~ s/^ *#.*//mg;
    $text =~ s/<<'PERL'.*?\nPERL\n/"\n" x ($& =~ tr{\n}{})/es;

    my $glob = qr/(?<![\w\$\@%&:'\/-])glob\b(?=\(| [("'\$])/;
    my $angle = qr/(?<=[=(!] )<[^<>\s]*\*[^<>\s]*>/;
    my $list = qr/(?:\) =|[\@%]\w+ [=:]|\b(?:sort|unlink|for)|\bmap \{|\}) |\[/;
    my $call = qr/\b(?:sort|unlink|for|join|command|for my \$\w+|return) ?\(/;
    my $more = qr/[^()]*(?:\(\)[^()]*)*, $/;

    while ($text =~ /$glob|$angle/g) {
        my $n = 1 + (substr($text, 0, $-[0]) =~ tr/\n//);
        my $before = substr($text, 0, $-[0]) =~ s/.*;//sr =~ s/\s+/ /gr;

        1 while $before =~ s/\((?:[^()]|\(\))+\)(?! =)/()/;

        push @faults, "$n: glob in scalar context"
            if $before !~ /(?:$list|$call)$|$call$more|\b(?:unlink|grep) .*, $/
               && $before !~ /$list[^(]*(?:glob ?\(\), )+$/;
    }

    return @faults;
}


sub faults {
    my ($text) = @_;
    my @faults;

    push @faults, '1: the first line is not empty' if $text !~ /\A\n[^\n]/;
    push @faults, 'the end: one newline' if $text !~ /[^\n]\n\z/;

    my @lines = split /\n/, $text;
    my @code = split /\n/, without_literals($text);

    for my $i (0 .. $#lines) {
        my ($line, $code, $n) = ($lines[$i], $code[$i] // '', $i + 1);
        my $before = $i ? $lines[$i - 1] : '';
        my $after = $lines[$i + 1] // '';

        push @faults, "$n: longer than 80" if length $line > 80;
        push @faults, "$n: tab" if $line =~ /\t/;
        push @faults, "$n: trailing blanks" if $line =~ /\s$/;
        push @faults, "$n: not ASCII" if $line =~ /[^\x20-\x7e\t]/;
        push @faults, "$n: // comment" if $code =~ m{//};
        push @faults, "$n: no empty line before else"
            if $code =~ /^\s*\} else\b/ && $before ne '';
        push @faults, "$n: else on a line of its own" if $code =~ /^\s*else\b/;
        push @faults, "$n: for ( ;; )" if $code =~ /\bfor \(;;\)/;
        push @faults, "$n: no blank after a keyword"
            if $code =~ /\b(?:if|for|while|switch)\(/;
        push @faults, "$n: sizeof without parentheses"
            if $code =~ /\bsizeof(?!\()/;
        push @faults, "$n: blank inside parentheses"
            if $code =~ /\(\s+\S|\S\s+\)/ && $code !~ /\bfor \( |^\s*\)/;
        push @faults, "$n: the pointer's star belongs to the name"
            if $code =~ /\b(?:ngx_\w+_t|u_char|char|void)\* /;

        # A condition on one line whose body has no brace.

        push @faults, "$n: body without braces"
            if $code =~ /^\s+(?:if|for|while) (\((?:[^()]++|(?1))*\))\s*$/
               && $after !~ /^\s*\{/;
        push @faults, "$n: body without braces"
            if $code =~ /^\s+(?:if|for|while) (\((?:[^()]++|(?1))*\))\s*[^\s{]/;

        # The return type stands on a line of its own.

        push @faults, "$n: a function's name starts its line"
            if $code =~ /^(?!static ngx_inline)[a-z]\w*[\w\s*]*\s\**\w+\(/
               && function_follows(\@code, $i);

        # Two empty lines after a function, and anything else that ends so.

        if ($code =~ /^\}/ && $i < $#lines) {
            my $empty = 0;
            $empty++ while ($lines[$i + 1 + $empty] // 'x') eq '';
            my $next = $lines[$i + 1 + $empty] // '';

            push @faults, "$n: $empty empty lines after it"
                if $empty != 2 && $next !~ /^#/ && $next ne '';
        }
    }

    push @faults, 'three empty lines' if $text =~ /\n\n\n\n/;

    return @faults;
}


# Comments and strings become as many blanks or x.

sub without_literals {
    my ($text) = @_;

    $text =~ s{("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|/\*.*?\*/)}{
        my $literal = $1;
        my $with = $literal =~ m{^/} ? ' ' : 'x';
        $literal =~ s/[^\n]/$with/g;
        $literal
    }gse;

    return $text;
}


# Whether a definition, not a declaration, begins at this line.

sub function_follows {
    my ($code, $i) = @_;

    for my $line (@$code[$i .. $#$code]) {
        return 1 if $line =~ /^\{/;
        return 0 if $line =~ /[;=]/ || $line =~ /^#/;
    }

    return 0;
}
