package Test::Edge::Files;

# What Test::Edge has below its prefix: files of any kind, and the spool's.
# slurp(path) is a whole file; one that does not exist is ''.

use strict;
use warnings;

use Exporter qw(import);
use File::Basename qw(basename);
use File::Find ();
use JSON::PP ();
use Test::More ();

our @EXPORT_OK = qw(slurp);


# ->write_file(name, content), ->read_file(name): files below the prefix.
# A file that does not exist reads as ''.

sub write_file {
    my ($self, $name, $content) = @_;
    my $path = $self->path($name);
    open my $fh, '>:raw', $path or die "open $path: $!";
    print $fh $content;
    close $fh or die "close $path: $!";
    return $path;
}

sub read_file {
    my ($self, $name) = @_;
    open my $fh, '<:raw', $self->path($name) or return '';
    local $/;
    return scalar(<$fh>) // '';
}

sub path {
    my ($self, $name) = @_;
    return $name =~ m{^/} ? $name : "$self->{prefix}/$name";
}

sub slurp {
    my ($path) = @_;
    open my $fh, '<:raw', $path or return '';
    local $/;
    return scalar(<$fh>) // '';
}


# ->found({ name => bytes }, except => qr//): `file: name` for each file below
# the prefix that holds one of these secrets, as it is or as a string of JSON,
# and the bytes looked at. Where a secret has to be is not looked at: nginx.conf,
# *.key, and lines like `except`.

sub found {
    my ($self, $secrets, %opts) = @_;

    my ($looked, @found) = (0);

    File::Find::find({ no_chdir => 1, wanted => sub {
        return if -l || !-f || /\.key$|\/nginx\.conf$/;

        my $text = slurp($_);

        $looked += length $text;
        $text = join "\n", grep { $_ !~ $opts{except} } split /\n/, $text
            if $opts{except};

        for my $name (sort keys %$secrets) {
            my $json = $secrets->{$name} =~ s/(["\\])/\\$1/gr;

            $json =~ s/([^ -~])/sprintf '\\u%04x', ord $1/ge;

            push @found, "$_: $name"
                if grep { index($text, $_) >= 0 } $secrets->{$name}, $json;
        }
    } }, $self->{prefix});

    return (join("\n", sort @found), $looked);
}


# ->spool_files(dir = 'new'): the paths of its *.ndjson in order of names.
# ->spool_lines(dir): their lines, decoded; besides the envelope's members each
# has _line and _payload, the exact bytes, and _file, the file's name. A payload
# that JSON::PP does not take (a lone surrogate, say) is undef.
# ->forget_spool: removes all of new/, for the next case.

sub spool_files {
    my ($self, $dir) = @_;
    $dir //= 'new';
    my @files = sort glob $self->spool() . "/$dir/*.ndjson";

    return @files;
}

sub spool_lines {
    my ($self, $dir) = @_;
    my @lines;

    for my $path ($self->spool_files($dir)) {
        my $content = slurp($path);
        Test::More::diag("$path: no newline at the end")
            if $content !~ /\n\z/;

        for my $line (split /\n/, $content) {
            my $start = index $line, ',"payload":';
            my $payload = $start < 0 ? '' : substr $line, $start + 11, -1;
            my $envelope = $start < 0 ? $line : substr($line, 0, $start) . '}';

            my $decoded = eval { JSON::PP->new->utf8->decode($envelope) };
            if (!$decoded) {
                Test::More::diag("$path: not JSON: $@$line");
                $decoded = {};
            }

            $decoded->{payload} =
                eval { JSON::PP->new->utf8->allow_nonref->decode($payload) };

            push @lines, { %$decoded, _line => $line, _payload => $payload,
                           _file => basename($path) };
        }
    }

    return @lines;
}

sub forget_spool {
    my ($self) = @_;
    return unlink $self->spool_files();
}

1;
