#!/usr/bin/perl

# What is mechanical in nginx's C style.

use strict;
use warnings;

use FindBin;
use Test::More;

my $top = "$FindBin::Bin/..";

for my $path (sort glob("$top/*.[ch]"), glob("$top/src/*.[ch]"),
                   glob("$top/t/fuzz/*.[ch]"), glob("$top/t/bench/*.[ch]")) {
    my ($name) = $path =~ m{^\Q$top\E/(.*)$};

    open my $file, '<:raw', $path or die "$path: $!";
    my $text = do { local $/; <$file> };

    my @faults = faults($text);
    ok(!@faults, $name) or diag(join "\n", map { "$name:$_" } @faults);
}

done_testing();


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
