#!/usr/bin/perl

# What our parser takes, others take too, and see the same event in it: Perl's
# JSON::PP, and jq. Otherwise what was checked here would not be what an
# application gets. Inputs are those of t/fuzz/corpus and what becomes of them
# by chance.
#
#   TEST_DIFFERENTIAL   how many by chance, 4000 unless set
#   TEST_SEED           of what is by chance

use warnings;
use strict;

use Encode qw(encode_utf8);
use File::Temp qw(tempdir);
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;


plan(skip_all => 'once is enough') if $ENV{TEST_NGINX_BINARY};
plan(skip_all => 'needs jq') unless grep { -x "$_/jq" } split /:/, $ENV{PATH};

my $top = Test::Edge::top();
my $name = 'resume.bulk_upload_parse.started';
my $count = $ENV{TEST_DIFFERENTIAL} || 4000;
my $seed = $ENV{TEST_SEED} || int(time()) % 1_000_000;

srand $seed;
note("TEST_SEED=$seed");

my $out = `$top/t/build/source.sh bookworm 2>&1`;
plan(skip_all => "there are no sources of nginx: $out") if $? != 0;

$out = `$top/t/build/fuzz.sh replay 2>&1`;
is($?, 0, 'the driver is built') or diag($out);

if ($?) {
    done_testing();
    exit;
}


my $dir = tempdir('edge-differential-XXXXXXXX', TMPDIR => 1, CLEANUP => 1);

# Deeper than 64 is for us to refuse. jq goes to 256.

my $json = JSON::PP->new->utf8->allow_nonref->max_depth(512);

my $date_time = qr/^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?
                   ([Zz]|[+-]\d\d:\d\d)\z/ax;

# The first line is not of the body, see t/fuzz/payload.c.

my @seeds = map { slurp($_) =~ s/^[^\n]*\n//r }
                sort glob "$top/t/fuzz/corpus/payload/*";
my @events = grep { defined +(by_perl($_))[0]{event} } @seeds;
my @tokens = tokens("$top/t/fuzz/json.dict");

my @bodies = (@seeds, map { mutated() } 1 .. $count);
my @repaired = map { repaired($_) } @bodies;

# What they make of each body, and of those with half a surrogate pair in them
# when there is a character in its place.

my @theirs = map { { perl => $_ } } by_perl(@bodies);
my @jq = by_jq(@bodies);
my @halves = grep { $repaired[$_] ne $bodies[$_] } 0 .. $#bodies;
my @halves_perl = by_perl(@repaired[@halves]);
my @halves_jq = by_jq(@repaired[@halves]);

is(@jq, @bodies, 'jq has an answer for each');

for my $i (0 .. $#bodies) {
    $theirs[$i]{jq} = $jq[$i];
}

for my $i (0 .. $#halves) {
    $theirs[$halves[$i]]{repaired} = { perl => $halves_perl[$i],
                                       jq => $halves_jq[$i] };
}

compare('missing=reject', ours());
compare('missing=accept', ours('missing'));

done_testing();


sub compare {
    my ($what, @ours) = @_;

    is(@ours, @bodies, "$what: a verdict for each") or return;

    my (%seen, @wrong);

    for my $i (0 .. $#bodies) {
        my ($ours, $theirs) = ($ours[$i], $theirs[$i]);

        $seen{$ours->{verdict}}++;

        # The header is compared last, so this too has all its members.

        if ($ours->{verdict} =~ /^(accepted|event_mismatch)$/) {
            my @what = differences($ours, $theirs, $what =~ /accept$/);
            push @wrong, join ', ', @what, encode_base64($bodies[$i], '')
                if @what;

        } elsif ($ours->{verdict} eq 'json' && !$theirs->{perl}{error}
                 && !$theirs->{jq}{error})
        {
            $seen{stricter}++;
            $seen{deeper}++ if depth($bodies[$i]) > 64;
        }
    }

    $_ //= 0 for @seen{qw(accepted event_mismatch payload json stricter
                          deeper)};

    cmp_ok($seen{accepted}, '>', @bodies / 10,
           "$what: enough are accepted for this to say something");

    is(@wrong, 0, "$what: JSON::PP and jq see what we see")
        or diag("TEST_SEED=$seed\n",
                map { "$_\n" } grep { defined } @wrong[0 .. 9]);

    diag("$what: " . @bodies . " bodies, $seen{accepted} accepted, "
         . "$seen{event_mismatch} of another event, $seen{payload} no event, "
         . "$seen{json} not JSON, but $seen{stricter} of these are to both of "
         . "them, $seen{deeper} of which are deeper than 64");
}


# Of a body that is JSON.

sub depth {
    my ($body) = @_;
    my ($depth, $max) = (0, 0);

    $body =~ s/"(?:[^"\\]|\\.)*"//gs;

    for my $char ($body =~ /[\[\]{}]/g) {
        $depth += $char =~ /[\[{]/ ? 1 : -1;
        $max = $depth if $depth > $max;
    }

    return $max;
}


# A body that we have taken. Where it holds half a surrogate pair they may say
# so, see docs/spool.md, and it is the repaired one that is compared.

sub differences {
    my ($ours, $theirs, $missing) = @_;

    my @wrong;

    if ($theirs->{repaired}) {
        for my $who (qw(perl jq)) {
            my $error = $theirs->{$who}{error} // next;
            push @wrong, "$who: $error" if $error !~ /surrogate/;
        }

        $theirs = $theirs->{repaired};
    }

    for my $who (qw(perl jq)) {
        my $event = $theirs->{$who};

        if ($event->{error}) {
            push @wrong, "$who: $event->{error}";
            next;
        }

        push @wrong, "$who: $_" for members($ours, $event, $missing);
    }

    # JSON::PP makes a string of a number with many digits, jq does not.

    push @wrong, 'jq: the type of companyId'
        if ($theirs->{jq}{company_type} // 'null')
           ne ($ours->{json} eq '' ? 'null'
               : $ours->{json} =~ /^"/ ? 'string' : 'number');

    return @wrong;
}


sub members {
    my ($ours, $theirs, $missing) = @_;

    my ($event, $timestamp, $company) = @$theirs{qw(event timestamp companyId)};

    return 'no object' if !defined $event;

    my @wrong;

    push @wrong, "event: $event"
        if ($ours->{verdict} eq 'accepted') != ($event eq $name);

    push @wrong, 'timestamp: ' . ($timestamp // 'none')
        if ($timestamp // '') !~ $date_time;

    push @wrong, "data: $theirs->{data}" if $theirs->{data} ne 'object';

    if (!$theirs->{has_company}) {
        push @wrong, 'companyId: none' if !$missing || $ours->{company} ne '';

    } elsif (!defined $company
             || !same_company($ours, $company, exists $theirs->{company_type}))
    {
        push @wrong, 'companyId: ' . ($company // 'null');
    }

    return @wrong;
}


# A number is an integer. To jq it is a double, rounded; to JSON::PP with at
# most 20 digits an integer of Perl, or a double if it is too large for that,
# and with more digits the text.

sub same_company {
    my ($ours, $theirs, $jq) = @_;

    return encode_utf8($theirs) eq $ours->{company} if $ours->{json} =~ /^"/;
    return 0 if $ours->{company} !~ /^-?(0|[1-9]\d*)\z/a;
    return double($theirs) == double($ours->{company}) if $jq;
    return $theirs eq $ours->{company} if length $ours->{company} > 20;
    return $theirs == 0 + $ours->{company};
}

sub double { return unpack 'd', pack 'd', $_[0] }


# They: either an error, or the four members if it is an object.

sub by_perl {
    my @theirs;

    for my $body (@_) {
        my $value = eval { $json->decode($body) };

        push @theirs, $@ ? { error => $@ } : ref $value ne 'HASH' ? {} : {
            event => $value->{event},
            timestamp => $value->{timestamp},
            companyId => $value->{companyId},
            has_company => exists $value->{companyId},
            data => ref $value->{data} eq 'HASH' ? 'object' : 'other',
        };
    }

    return @theirs;
}


# One jq for all, a line of base64 for each. What it decodes is text: a body
# that is not UTF-8 gets there repaired, but such a one we have refused.

sub by_jq {
    my $filter = <<'EOF';
try (
    @base64d | fromjson |
    if type == "object" then
        {
            event, timestamp, companyId,
            has_company: has("companyId"),
            company_type: (.companyId | type),
            data: (.data | type)
        }
    else {} end
) catch { error: . }
EOF

    my $in = join '', map { encode_base64($_, '') . "\n" } @_;
    my @lines = split /\n/, run($in, 'jq', '-R', '-c', $filter);

    return map { JSON::PP->new->utf8->decode($_) } @lines;
}


sub ours {
    my (@missing) = @_;

    my $in = join '', map { pack 'N/a', $_ } @bodies;

    return map {
        my ($verdict, $company, $json) = /^(\w+) =(\w*) =(\w*)$/;
        { verdict => $verdict // $_, company => pack('H*', $company // ''),
          json => pack('H*', $json // '') }
    } split /\n/, run($in, "$top/build/fuzz/replay/accept", $name, @missing);
}


# Output of a command for this input.

sub run {
    my ($in, @command) = @_;

    open my $file, '+>:raw', "$dir/in" or die "$dir/in: $!";
    print $file $in;
    close $file or die "$dir/in: $!";

    my $pid = open(my $out, '-|') // die "fork: $!";

    if ($pid == 0) {
        open STDIN, '<', "$dir/in" or POSIX::_exit(126);
        exec @command or POSIX::_exit(127);
    }

    binmode $out;
    my $output = do { local $/; <$out> } // '';
    close $out;

    is($?, 0, "$command[0] ends well");

    return $output;
}


# Half a surrogate pair, escaped, becomes a character.

sub repaired {
    my ($body) = @_;

    my $low = qr/\\u[dD][c-fC-F][0-9a-fA-F]{2}/;
    my $high = qr/\\u[dD][89abAB][0-9a-fA-F]{2}/;

    return $body =~ s{($high$low|\\[^u])|$high|$low}{$1 // '\\ufffd'}gser;
}


# inputs -----------------------------------------------------------------------


sub tokens {
    my ($path) = @_;

    my @tokens = map { /^"(.*)"$/ ? $1 : () } split /\n/, slurp($path);

    s/\\(x([0-9a-f]{2})|.)/defined $2 ? chr hex $2 : $1/ge for @tokens;

    return @tokens;
}


sub any { return $_[int rand @_] }


# One of the seeds, changed in some places: half of the changes keep it JSON,
# for most of the places.

sub mutated {
    my $body = any(rand() < 0.7 ? @events : @seeds);

    for (0 .. rand 3) {
        my $at = int rand length($body) + 1;
        my $size = 1 + int rand 8;
        my $what = int rand 10;

        if ($what < 3) {
            my $member = '"' . text() . '":' . value(4);
            put(\$body, qr/(?<=\{)/, $body =~ /\{\s*\}/ ? $member : "$member,");

        } elsif ($what < 4) {
            put(\$body, qr/(?<=[\[\{:,])/, any(' ', "\t", "\r\n", "\n"));

        } elsif ($what < 5) {
            put(\$body, qr/(?<=[\}\]"])(?=[\},])/, ',"x":' . value(4));

        } elsif ($what < 6) {
            my $value = value(4);
            my $member = any(qw(companyId companyId event timestamp data));
            $body =~ s/("$member"\s*:\s*)[^,]*/$1$value/;

        } elsif ($what < 7) {
            substr $body, $at, 0, any(@tokens);

        } elsif ($what < 8) {
            substr $body, $at, $size, '' if $at < length $body;

        } elsif ($what < 9) {
            substr $body, $at, rand() < 0.5, chr rand 256;

        } else {
            my $other = any(@seeds);
            $body = substr($body, 0, $at) . substr $other, rand length $other;
        }
    }

    return $body;
}


# Puts a text at one of the places that match.

sub put {
    my ($body, $where, $text) = @_;

    my @at;
    push @at, $-[0] while $$body =~ /$where/g;

    substr $$body, any(@at), 0, $text if @at;
}


sub value {
    my ($depth) = @_;

    my $what = int rand($depth ? 8 : 6);

    return any(qw(null true false)) if $what == 0;
    return number() if $what < 3;
    return '"' . text() . '"' if $what < 6;
    return '[' . join(',', map { value($depth - 1) } 1 .. rand 4) . ']'
        if $what == 6;
    return '{' . join(',', map { '"' . text() . '":' . value($depth - 1) }
                               1 .. rand 4) . '}';
}


sub number {
    return any('', '-') . any(0, 1 + int rand 1e9, 1 + int(rand 9) . '5' x 30)
           . any('', '', '', '.' . int rand 1e6)
           . any('', '', '', any('e', 'E') . any('', '+', '-') . int rand 500);
}


sub text {
    return join '', map {
        any(chr(32 + int rand 2), chr(35 + int rand 57),
            chr(93 + int rand 34), '\\' . any(split //, '"\\/bfnrt'),
            sprintf('\\u%04x', rand 0x10000), '\\ud83d\\ude00',
            any("\x7f", "\xc2\x80", "\xe2\x82\xac", "\xef\xbf\xbf",
                "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"))
    } 1 .. rand 6;
}


sub slurp {
    my ($path) = @_;

    open my $file, '<:raw', $path or die "$path: $!";
    local $/;

    return <$file>;
}
