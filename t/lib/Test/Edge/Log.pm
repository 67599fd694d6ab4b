package Test::Edge::Log;

# The logs of Test::Edge, and what must not be in them at the end.

use strict;
use warnings;

use Test::Edge::Files qw(slurp);
use Test::More ();


# ->error_log, ->access_log: the whole text, or its lines in list context.
# ->grep_log(qr//): the lines of the error log that match; in scalar context
# their number. ->mark_log: later calls of grep_log see only what comes after.
# ->wait_log(qr//, seconds): waits for a line.

sub error_log { return $_[0]->text_or_lines('error.log') }
sub access_log { return $_[0]->text_or_lines('access.log') }

sub text_or_lines {
    my ($self, $name) = @_;
    my $text = $self->read_file($name);
    return wantarray ? split(/\n/, $text) : $text;
}

sub mark_log {
    my ($self) = @_;
    return $self->{mark} = length $self->read_file('error.log');
}

sub grep_log {
    my ($self, $re) = @_;
    my $text = substr $self->read_file('error.log'), $self->{mark} // 0;
    my @lines = grep { $_ =~ $re } split /\n/, $text;
    return wantarray ? @lines : scalar @lines;
}

sub wait_log {
    my ($self, $re, $seconds) = @_;
    return $self->wait_for(sub { scalar $self->grep_log($re) },
                           $seconds // 10, "a log line like $re");
}


# ->expect_alert(qr//), ->expect_emerg(qr//): such lines of the error log are
# part of the test.
# ->no_alerts: the last tests of each file. Stops nginx, then: no [alert], no
# [emerg], no report of a sanitizer.

sub expect_alert { my ($self, $re) = @_; push @{$self->{expected}}, $re }
sub expect_emerg { my ($self, $re) = @_; push @{$self->{expected}}, $re }

sub no_alerts {
    my ($self) = @_;

    my $tests = Test::More->builder();
    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $tests->ok($self->stop(), 'nginx ends in time');

    my @lines = grep { /\[(alert|emerg)\]/ } $self->error_log();
    for my $re (@{$self->{expected}}) {
        @lines = grep { $_ !~ $re } @lines;
    }

    $tests->ok(!@lines, 'no alerts') or $tests->diag(join "\n", @lines);

    my @reports = map { slurp($_) } glob "$self->{prefix}/sanitizer/*";
    push @reports, grep {
        /AddressSanitizer|LeakSanitizer|runtime error:|SUMMARY: /
    } $self->error_log(), split /\n/, $self->read_file('stderr.log');

    $tests->ok(!@reports, 'no sanitizer errors')
        or $tests->diag(join "\n", @reports);

    return !@lines && !@reports;
}

1;
