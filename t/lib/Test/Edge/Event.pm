package Test::Edge::Event;

# The events that the tests send, and the times in what becomes of them.

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP ();
use Time::HiRes qw(time);
use Time::Local qw(timegm);

our @EXPORT_OK = qw(event headers_for received_at named_at time_of);

my $JSON = JSON::PP->new->allow_nonref->canonical;
my $UTF8 = JSON::PP->new->allow_nonref->canonical->utf8;


# event(%overrides): the sender's documented example as JSON, its members in
# the documented order. An override changes or adds a member, undef removes it,
# a reference to a scalar is JSON text as it is:
#     event(companyId => 12345)
#     event(companyId => \'null', data => undef)
#     event(data => { batchId => 7 })

sub event {
    my (%overrides) = @_;

    my @members = (
        event => 'resume.bulk_upload_parse.started',
        timestamp => '2024-01-20T14:45:00Z',
        companyId => 'company-uuid',
        data => \'{"batchId": "batch-uuid", "fileCount": 25}',
    );

    my @text;

    while (my ($name, $value) = splice @members, 0, 2) {
        $value = delete $overrides{$name} if exists $overrides{$name};
        push @text, member($name, $value) if defined $value;
    }

    for my $name (sort keys %overrides) {
        push @text, member($name, $overrides{$name})
            if defined $overrides{$name};
    }

    return '{' . join(', ', @text) . '}';
}

# A value is characters and becomes UTF-8; a name and JSON text are bytes.

sub member {
    my ($name, $value) = @_;

    my $text = ref $value eq 'SCALAR' ? $$value : $UTF8->encode($value);
    my $key = $JSON->encode($name);
    utf8::downgrade($key);

    return "$key: $text";
}


# received_at(time), named_at(time): such a time, now without one, as an event's
# `received` and as a file's name has it. A line that a test writes is of now:
# what is older than max_age is given up after one attempt.

sub received_at { return at('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', 1e6, @_) }
sub named_at { return at('%04d%02d%02dT%02d%02d%02d.%03dZ', 1e3, @_) }

# time_of(received): back again, 0 if it is none.

sub time_of {
    my ($text) = @_;

    my ($year, $month, $day, $h, $m, $s) =
        $text =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d\.\d+)Z$/
        or return 0;

    return timegm(int $s, $m, $h, $day, $month - 1, $year) + $s - int $s;
}

sub at {
    my ($format, $units, $time) = @_;

    $time //= time();

    my ($s, $m, $h, $day, $month, $year) = gmtime $time;

    return sprintf $format, $year + 1900, $month + 1, $day, $h, $m, $s,
                   ($time - int $time) * $units;
}


# headers_for(json, %overrides): the documented headers of this event as a list
# reference [name, value, ...]; event and timestamp come from the JSON text if
# it has them. An override changes or adds a header (names are compared without
# case), undef removes it, a list reference repeats it.

sub headers_for {
    my ($json, %overrides) = @_;

    my ($event) = ($json // '') =~ /"event"\s*:\s*"([^"\\]*)"/;
    my ($timestamp) = ($json // '') =~ /"timestamp"\s*:\s*"([^"\\]*)"/;

    my @documented = (
        'Content-Type' => 'application/json',
        'X-Webhook-Event' => $event // 'resume.bulk_upload_parse.started',
        'X-Webhook-Timestamp' => $timestamp // '2024-01-20T14:45:00Z',
    );

    my %name = map { lc $_ => $_ } keys %overrides;
    my @headers;

    while (my ($name, $value) = splice @documented, 0, 2) {
        if (my $given = delete $name{lc $name}) {
            ($name, $value) = ($given, $overrides{$given});
        }
        push @headers, map { $name => $_ } grep { defined }
                       ref $value ? @$value : $value;
    }

    for my $given (sort values %name) {
        my $value = $overrides{$given};
        push @headers, map { $given => $_ } grep { defined }
                       ref $value ? @$value : $value;
    }

    return \@headers;
}

1;
