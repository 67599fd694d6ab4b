#!/usr/bin/perl

# The application behind the edge, as small as one can be: it prints each event
# that it gets and answers 200.
#
#     application.pl PORT [PATTERN]
#
# An event whose type does not match PATTERN is one that it cannot handle: it
# answers 422.

use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw(time);
use Time::Local qw(timegm);

my ($port, $pattern) = @ARGV;

$pattern //= '.';

$| = 1;

my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 50,
    ReuseAddr => 1,
) or die "application: port $port: $!\n";

while (1) {
    my $c = $listener->accept() or next;

    if (my $request = read_request($c)) {
        my $status = handle($request);
        syswrite $c, "HTTP/1.1 $status\r\nContent-Length: 0\r\n"
                     . "Connection: close\r\n\r\n";
    }

    close $c;
}


# The headers, their names in lower case, and the body; undef if the client
# went away.

sub read_request {
    my ($c) = @_;
    my $text = '';

    while ($text !~ /\r\n\r\n/) {
        sysread $c, $text, 65536, length $text or return;
    }

    my ($head, $body) = split /\r\n\r\n/, $text, 2;
    my ($first, @lines) = split /\r\n/, $head;
    my %headers = map { lc $_->[0] => $_->[1] } map { [split /: /, $_, 2] }
                  @lines;

    while (length $body < ($headers{'content-length'} // 0)) {
        sysread $c, $body, 65536, length $body or return;
    }

    return { %headers, first => $first, body => $body };
}

# Returns the status. The id would tell whether the work was done before; this
# application does none.

sub handle {
    my ($request) = @_;

    return '405 Method Not Allowed' if $request->{first} !~ /^POST /;

    my $event = eval { JSON::PP->new->utf8->decode($request->{body}) }
        or return '400 Bad Request';
    my $known = $event->{event} =~ /$pattern/;

    printf "application: %s %s, attempt %d,\n    id %s,\n"
           . "    received %s, %.3f s ago\n",
           $known ? 'got' : 'refuses', $event->{event},
           @{$request}{qw(x-webhook-attempt x-webhook-id x-webhook-received)},
           age($request->{'x-webhook-received'});

    return $known ? '200 OK' : '422 Unprocessable Entity';
}

sub age {
    my ($received) = @_;

    my ($y, $mon, $d, $h, $min, $s, $fraction) =
        $received =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)(\.\d+)Z$/;

    return time() - timegm($s, $min, $h, $d, $mon - 1, $y) - $fraction;
}
