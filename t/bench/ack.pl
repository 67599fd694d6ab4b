
# Parts of the bench: what is acknowledged.

use strict;
use warnings;

use Test::Bench;
use Test::Edge;

our ($bench, @where, @floor);

my $conf = <<'EOF_CONF';
%%GLOBALS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log warn;
    keepalive_requests 1000000000;

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl http2;
        %%TLS%%

        location = /return {
            return 200 '{"received":true}';
        }

        location = /receiver {
            taptalent_webhook receiver;
            taptalent_webhook_response brief;
        }

        location = /durable {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location = /durable-memory {
            client_body_buffer_size 1m;
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
        }

        location = /status {
            taptalent_webhook_status;
        }
    }
}
EOF_CONF

my %servers;

# One nginx for each number of workers, zone and kind of listening, started when
# it is first measured.

sub edge {
    my (%opts) = @_;

    my ($workers, $zone) = ($opts{workers} // 1, $opts{zone} // '');
    my $reuseport = $workers > 1 && ($opts{reuseport} // 1);

    return $servers{"$workers $zone $reuseport"} //= do {
        my $t = Test::Edge->new(@where, workers => $workers);
        my $text = $conf;

        $text =~ s/(listen \S+?)(?= ssl|;)/$1 reuseport/g if $reuseport;

        if ($zone ne '') {
            $text =~ s/^http \{\n\K/    taptalent_webhook_zone $zone;\n/m;
            $text =~ s/^ +location = .status \{.*?\}$//ms;
        }

        $t->conf($text)->run();

        Test::Bench::Server->nginx($t);
    };
}

sub answered {
    my ($location, %opts) = @_;

    return sub {
        my $server = edge(%opts);

        return $bench->wrk($server, "/$location", %opts, $location =~ /durable/
                           ? (spool => $server->{edge}->spool()) : ());
    };
}


@floor = (floor => 'return 200');


# The first parts have the peers as well: peers.pl adds them.

for my $tls (0, 1) {
    my $how = $tls ? 'TLS' : 'plain';
    my %opts = (connections => 256, tls => $tls);

    $bench->part("$how, 256 connections");
    $bench->row('return 200', answered('return', %opts));
    $bench->row('receiver', answered('receiver', %opts), @floor);
    $bench->row('durable', answered('durable', %opts), @floor);
}

$bench->part('plain, 64 connections');
$bench->row('return 200', answered('return', connections => 64));
$bench->row('durable', answered('durable', connections => 64), @floor);

$bench->aim('durable, 256 connections, plain, to `return 200`', 'least',
            '0.55', '0.70', sub { $bench->ratio('plain, 256 connections',
                                            'durable', 'return 200') });
$bench->aim('durable, 256 connections, TLS, to `return 200`', 'least', '0.65',
            '0.78',
            sub { $bench->ratio('TLS, 256 connections', 'durable',
                                'return 200') });
$bench->aim('validate only, plain, to `return 200`', 'least', '0.75', '0.85',
            sub { $bench->ratio('plain, 256 connections', 'receiver',
                                'return 200') });
$bench->aim('processor time of a durable event, 256 connections, TLS, to '
            . '`return 200`', 'most', '1.7', '1.4',
            sub { $bench->ratio('TLS, 256 connections', 'durable',
                                'return 200', 'cpu') });


# From one connection to a thousand, with one worker and with two.

for my $workers (1, 2) {
    for my $tls (0, 1) {
        for my $connections (1, 8, 64, 256, 1024) {
            next if $workers == 1 && ($connections == 256
                                      || $connections == 64 && !$tls);

            my %opts = (connections => $connections, tls => $tls,
                        workers => $workers);

            $bench->part(($tls ? 'TLS' : 'plain') . ", $connections connection"
                         . ($connections > 1 ? 's' : '')
                         . ($workers > 1 ? ", $workers workers" : ''));
            $bench->row('return 200', answered('return', %opts));
            $bench->row('durable', answered('durable', %opts), @floor);
            $bench->row('durable, without `reuseport`',
                        answered('durable', %opts, reuseport => 0), @floor)
                if $workers > 1 && $connections == 256;
        }
    }
}

$bench->aim('processor time of a durable event with 1024 connections, plain, '
            . 'to that with 1', 'most', '1.0', '', sub {
    my ($many, $one) = map { $bench->value("plain, $_", 'durable', 'cpu') }
                           '1024 connections', '1 connection';

    return $many && $one ? $many / $one : undef;
});


# HTTP/2, and TLS as always with it. The bodies of a run are the same bytes:
# h2load has no other. It makes no difference here, where duplicates are not
# looked for, and each of them is stored.

sub answered_h2 {
    my ($location) = @_;

    return sub {
        my $server = edge();

        return $bench->h2load($server, "/$location", connections => 16,
                              streams => 16, $location eq 'durable'
                              ? (spool => $server->{edge}->spool()) : ());
    };
}

$bench->part('HTTP/2, 16 connections of 16 streams');
$bench->row('return 200', answered_h2('return'));
$bench->row('durable', answered_h2('durable'), @floor);


# No more connections than "buffer" of the spool holds bodies of. What the disk
# takes is measured with files of as much as a commit has, half of the bodies.

sub disk_rate {
    my ($bytes, $dir) = (8 * 500_000, edge()->{edge}->prefix() . '/disk');
    my ($disk, $seconds) = ($bench->compiled('disk'), $bench->seconds());

    mkdir $dir;

    my $output = qx{$disk $dir $bytes $seconds};

    $? == 0 && $output =~ /^\d+ ([\d.]+)/ or die "disk failed\n";
    Test::Bench::taken($dir);

    return { value => $bytes / $1, unit => 'MB/s' };
}

for my $body ([300, '300 B'], [10_000, '10 kB'], [500_000, '500 kB']) {
    my ($size, $name) = @$body;
    my $connections = 16;
    my %opts = (size => $size, connections => $connections, unit => 'MB/s');

    $bench->part("bodies of $name, $connections connections");
    $bench->row('return 200', answered('return', %opts));
    $bench->row('the disk alone', \&disk_rate, @floor) if $size > 100_000;
    $bench->row('durable', answered('durable', %opts), @floor);
    $bench->row('durable, `client_body_buffer_size 1m`',
                answered('durable-memory', %opts), @floor) if $size > 16384;
}


# What it costs to count.

$bench->part('counting, plain, 64 connections');
$bench->row('durable, `taptalent_webhook_zone off`',
            answered('durable', connections => 64, zone => 'off'));
$bench->row('durable', answered('durable', connections => 64),
            floor => 'durable, `taptalent_webhook_zone off`');


# One after another, in turn: the disk, and an acknowledgement with all around
# it. The file has as many bytes as the event's has.

sub latencies {
    my $edge = edge()->{edge};
    my ($dir, $disk) = ($edge->prefix() . '/disk', $bench->compiled('disk'));
    my ($seconds, $port) = (2 * $bench->seconds(), $edge->port(0));

    mkdir $dir;

    my $output = qx{$disk $dir 500 $seconds $port /durable 2>&1};
    my ($n, $raw, $acks, $ack) = $output =~ /^(\d+) (\S+) .*\n(\d+) (\S+) /;

    die "$output\n" if $? || !$acks;

    Test::Bench::taken($dir);

    my ($events) = Test::Bench::taken($edge->spool());

    die "$acks events were acknowledged, $events are there\n"
        if $events < $acks;

    return ({ value => $raw, unit => 'us' }, { value => $ack, unit => 'us' });
}

# whichever of the two is asked for first measures both

{
    my @both;

    my $take = sub {
        my ($i) = @_;

        @both = latencies() if !$both[$i];
        (my $one, $both[$i]) = ($both[$i], undef);

        return $one;
    };

    my $part = 'one event after another, median latency';

    $bench->part($part);
    $bench->row('the disk alone', sub { $take->(0) });
    $bench->row('durable', sub { $take->(1) }, floor => 'the disk alone');

    $bench->aim('latency of one event after another, to the disk', 'most',
                '1.5', '1.2', sub { $bench->ratio($part, 'durable',
                                                  'the disk alone') });
}

1;
