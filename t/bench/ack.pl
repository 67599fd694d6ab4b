
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

# one nginx for each number of workers, started when it is first measured

sub edge {
    my ($workers) = @_;

    return $servers{$workers} //= do {
        my $t = Test::Edge->new(@where, workers => $workers);

        $t->conf($workers == 1 ? $conf
                 : $conf =~ s/(listen \S+?)(?= ssl|;)/$1 reuseport/gr);
        $t->run();

        Test::Bench::Server->nginx($t);
    };
}

sub answered {
    my ($location, %opts) = @_;

    return sub {
        my $server = edge(delete $opts{workers} // 1);

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
$bench->aim('the same over TLS', 'least', '0.65', '0.78',
            sub { $bench->ratio('TLS, 256 connections', 'durable',
                                'return 200') });
$bench->aim('validate only, plain, to `return 200`', 'least', '0.75', '0.85',
            sub { $bench->ratio('plain, 256 connections', 'receiver',
                                'return 200') });
$bench->aim('processor time of a durable event, 256 connections, TLS, to '
            . '`return 200`', 'most', '1.7', '1.4',
            sub { $bench->ratio('TLS, 256 connections', 'durable',
                                'return 200', 'cpu') });


# One after another: the disk, and an acknowledgement with all around it.

sub latencies {
    my $server = edge(1);
    my $dir = $server->{edge}->prefix() . '/disk';
    my ($disk, $spool) = ($bench->compiled('disk'), $server->{edge}->spool());
    my $slice = $bench->seconds() / 4;

    mkdir $dir;

    my ($raw, $ack) = $bench->alternate(
        sub {
            my $output = qx{$disk $dir 480 $slice};

            $? == 0 && $output =~ /^\d+ ([\d.]+)/ or die "disk failed\n";
            Test::Bench::taken($dir);

            return $1;
        },
        sub {
            my $r = $bench->wrk($server, '/durable', connections => 1,
                                unit => 'us', seconds => $slice,
                                spool => $spool);

            die "$r->{spoiled}\n" if defined $r->{spoiled};

            return $r->{value};
        });

    return ({ value => $raw, unit => 'us' }, { value => $ack, unit => 'us' });
}

{
    my $ack;

    $bench->part('one event after another, median latency');
    $bench->row('the disk alone', sub { (my $raw, $ack) = latencies(); $raw });
    $bench->row('durable', sub { $ack }, floor => 'the disk alone');

    $bench->aim('latency of one event after another, to the disk', 'most',
                '1.5', '1.2', sub { $bench->ratio('one event after another, median '
                                         . 'latency', 'durable',
                                         'the disk alone') });
}

1;
