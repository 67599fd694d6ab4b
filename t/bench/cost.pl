
# Parts of the bench: memory, and instructions.

use strict;
use warnings;

use Test::Bench;
use Test::Edge;
use Test::Load;

our ($bench, @where);

my $conf = <<'EOF_CONF';
%%GLOBALS%%
%%PROCESS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log error;
    keepalive_requests 1000000000;

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;
    %%ZONE%%

    server {
        listen 127.0.0.1:%%PORT_0%%;

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
            %%FORWARD%%
        }

        location = /deliver {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        %%STATUS%%
    }
}
EOF_CONF

sub cost_conf {
    my ($t, %with) = @_;

    $with{$_} //= '' for qw(PROCESS ZONE FORWARD STATUS);

    return $t->conf($conf =~ s/%%(PROCESS|ZONE|FORWARD|STATUS)%%/$with{$1}/gr);
}


# Memory: master and worker, resident, each page counted for each process that
# has it. The events wait because nobody listens where they go to.

my $events = $ENV{WAITING} || 100_000;
my $each = $ENV{EACH} || 100;
my $waiting = sprintf '%s events waiting in files of %d',
                      Test::Bench::figure($events), $each;
my %mb;

sub memory {
    my $t = Test::Edge->new(@where);
    my $server = Test::Bench::Server->nginx($t);

    cost_conf($t, FORWARD => 'taptalent_webhook_forward /deliver;', STATUS =>
              'location = /status { taptalent_webhook_status json; }');
    $t->run();

    die "not accepted\n"
        if $t->post('/durable', event(companyId => 'company-uuid'))->{status}
           != 200;

    $mb{idle} = $server->memory('VmRSS') / 1024;

    my $r = $bench->wrk($server, '/durable', connections => 256);

    die "$r->{spoiled}\n" if defined $r->{spoiled};

    $mb{load} = $server->memory('VmHWM') / 1024;
    $t->quit();
    Test::Bench::taken($t->spool());

    for (my $i = 0; $i < $events; $i += $each) {
        Test::Load::make_file($t->spool(), [$i .. $i + $each - 1]);
    }

    $t->run();

    # all of them are known, and the destination has been tried

    $t->wait_for(sub {
        my $backlog = $t->get('/status')->{json}{spools}[0]{backlog};

        return $backlog && $backlog->{events} >= $events;
    }, 30 + $events / 5000, 'the backlog to be known') or die "not known\n";

    $t->wait_log(qr/is down|connect\(\) failed/, 30) or die "not tried\n";

    $mb{waiting} = $server->memory('VmHWM') / 1024;

    return 1;
}

sub megabytes {
    my ($what) = @_;

    return sub { return { value => $mb{$what} // die("not measured\n"),
                          unit => 'MB' } };
}

$bench->part('memory of all processes');
$bench->row('idle', sub { memory(); megabytes('idle')->() }, once => 1);
$bench->row('256 connections, at most', megabytes('load'), floor => 'idle',
            once => 1);
$bench->row("$waiting, at most", megabytes('waiting'), floor => 'idle',
            once => 1);

$bench->aim("MB that $waiting add", 'most', '32', '16', sub {
    my ($more, $idle) = map { $bench->value('memory of all processes', $_) }
                            "$waiting, at most", 'idle';

    return defined $more && defined $idle ? $more - $idle : undef;
});


# Instructions of the whole process for each event, by callgrind, which do not
# depend on what else the machine does. The difference of two counts, so that
# the start of nginx is in neither; 64 connections, so that a commit has as many
# events as it would have. Without the status location: what is measured each
# second would be, under valgrind, measured for each few events.

sub instructions {
    my ($location, %with) = @_;

    return sub {
        my ($few, $many) = map { counted($location, $_, %with) } 20, 60;

        return { value => ($many - $few) / (40 * 64), unit => '' };
    };
}

sub counted {
    my ($location, $rounds, %with) = @_;

    my $t = Test::Edge->new(@where, workers => 0);
    my $out = $t->prefix() . '/callgrind.out';

    cost_conf($t, PROCESS => 'master_process off;', %with);
    $t->run(wrapper => ['valgrind', '--tool=callgrind', "--log-file=$out.log",
                        "--callgrind-out-file=$out"]);

    my @connections;

    $t->wait_for(sub { push @connections, eval { $t->connect() } // return 0 },
                 60, 'nginx to listen');
    push @connections, map { $t->connect() } 2 .. 64;

    for my $round (1 .. $rounds) {
        for my $i (0 .. $#connections) {
            $connections[$i]->send($t->message("/$location",
                event(data => { id => "$round-$i" }), keepalive => 1));
        }

        for my $c (@connections) {
            die "not 200\n" if $c->answer()->{status} != 200;
        }
    }

    $_->close() for @connections;
    $t->stop(timeout => 60);

    return $t->read_file($out) =~ /^(?:summary|totals): (\d+)/m
           ? $1 : die "callgrind counted nothing\n";
}

if (system('command -v valgrind > /dev/null') == 0) {
    my @floor = (floor => 'return 200', once => 1);

    $bench->part('instructions for an event, plain, 64 connections');
    $bench->row('return 200', instructions('return'), once => 1);
    $bench->row('receiver', instructions('receiver'), @floor);
    $bench->row('durable', instructions('durable'), @floor);
    $bench->row('durable, `taptalent_webhook_zone off`',
                instructions('durable', ZONE => 'taptalent_webhook_zone off;'),
                @floor);
}

1;
