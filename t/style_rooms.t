#!/usr/bin/perl

# How the sources know each other: a file calls those of its own room and of the
# rooms below, and none that calls it, by whatever way. And that a file and each
# of its functions can be read at one go.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;

# from the bottom to the top

my @rooms = qw(event spool zone commit forward receive status conf module);

my (%text, %room, %defined, %calls);

for my $path (grep { /\.c$/ } Test::Edge->sources()) {
    my ($room, $name) = $path =~ m{(?:/src/(\w+))?/ngx_http_taptalent_(\w+)\.c$};

    $text{$name} = Test::Edge::slurp($path);
    $room{$name} = $room // 'module';

    my @functions = functions($text{$name});
    my @long = grep { $_->{lines} > 100 } @functions;

    cmp_ok($text{$name} =~ tr/\n//, '<=', 900, "$name.c: lines");
    ok(!@long, "$name.c: no function is long")
        or diag(map { "$_->{name}(): $_->{lines} lines\n" } @long);

    $defined{$_->{name}} = $name for grep { !$_->{static} } @functions;
}

for my $name (sort keys %text) {
    for my $function ($text{$name} =~ /\b(ngx_http_taptalent_\w+)\b/g) {
        my $file = $defined{$function} // next;

        $calls{$name}{$file} = 1 if $file ne $name;
    }

    is(join(' ', grep { rank($_) > rank($name) } sort keys %{$calls{$name}}), '',
       "$name.c: calls no room above its own");
}

cmp_ok(scalar keys %text, '>', 20, 'files');
cmp_ok(scalar keys %defined, '>', 100, 'functions that others call');
is(join(', ', circles()), '', 'no circle among files');

# these can fail

$calls{spool_name}{spool} = $calls{spool}{spool_name} = 1;
like(join(', ', circles()), qr/spool_name -> spool -> spool_name/,
     'a circle is found');

done_testing();


sub functions {
    my ($text) = @_;
    my @functions;

    while ($text =~ /^([^\n]*)\n(ngx_http_taptalent_\w+)\([^;{}]*\)\n
                     (\{\n.*?^\}\n)/gmsx)
    {
        push @functions, { name => $2, lines => $3 =~ tr/\n//,
                           static => $1 =~ /^static\b/ ? 1 : 0 };
    }

    return @functions;
}


sub rank {
    my ($name) = @_;
    my ($rank) = grep { $rooms[$_] eq $room{$name} } 0 .. $#rooms;

    return $rank // die "$room{$name} is no room\n";
}


# "one -> two -> one" for each way that comes back

sub circles {
    my (@circles, %seen, $visit);

    $visit = sub {
        my ($name, @way) = @_;
        my ($at) = grep { $way[$_] eq $name } 0 .. $#way;

        if (defined $at) {
            push @circles, join ' -> ', @way[$at .. $#way], $name;

        } elsif (!$seen{$name}++) {
            $visit->($_, @way, $name) for sort keys %{$calls{$name}};
        }
    };

    $visit->($_) for sort keys %text;

    return @circles;
}
