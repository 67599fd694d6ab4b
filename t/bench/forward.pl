
# Parts of the bench: what is forwarded, and what is accepted meanwhile.

use strict;
use warnings;

use Test::Bench;
use Test::Edge;
use Test::Load;
use Time::HiRes qw(sleep time);

our ($bench, @where);

my $conf = <<'EOF_CONF';
%%GLOBALS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log error;
    keepalive_requests 1000000000;

    taptalent_webhook_https off;
    taptalent_webhook_company_id company-uuid;

    upstream application {
        server 127.0.0.1:%%UPSTREAM%%;
        keepalive 64;
        keepalive_requests 1000000000;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        proxy_http_version 1.1;
        proxy_set_header Connection "";

        location = /direct {
            proxy_pass http://application/direct;
        }

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            %%FORWARD%%
        }

        location = /deliver {
            internal;
            proxy_pass http://application/deliver;
        }

        location = /status {
            taptalent_webhook_status;
        }
    }
}
EOF_CONF

my ($upstream, $t, $server);
my ($made, $asked) = (0, 0);


# The application: an nginx that says 204 and counts. The module's nginx is
# started anew for each row, with an empty spool.

sub upstream {
    return if $upstream;

    $upstream = Test::Edge->new(@where);
    $upstream->conf(<<'EOF_CONF');
%%GLOBALS%%

events {
    worker_connections 4096;
}

http {
    access_log off;
    keepalive_requests 1000000000;

    server {
        listen 127.0.0.1:%%PORT_0%% reuseport;

        location / {
            return 204;
        }

        location = /status {
            stub_status;
        }
    }
}
EOF_CONF
    $upstream->run();

    $t = Test::Edge->new(@where);
    $server = Test::Bench::Server->nginx($t);
}

# Starts nginx; forward is the directive's value, '' without it; down is a
# destination that refuses connections; backlog events are there, each in a file
# of so many. Returned is what the sub returns, with nginx ended and new/ empty.

sub forwarding {
    my ($forward, $sub, %opts) = @_;

    upstream();

    my $port = $opts{down} ? $t->port(9) : $upstream->port(0);
    my $value = $forward eq '' ? '' : "taptalent_webhook_forward $forward;";

    $t->conf($conf =~ s/%%UPSTREAM%%/$port/r =~ s/%%FORWARD%%/$value/r);

    if ($opts{backlog}) {

        # makes the spool
        $t->run();
        $t->quit();

        for (my $i = 0; $i < $opts{backlog}; $i += $opts{each}) {
            Test::Load::make_file($t->spool(), [map { $made++ }
                                                1 .. $opts{each}]);
        }
    }

    my $result = eval { $sub->() } // { spoiled => "$@" =~ s/\s+\z//r };

    $t->quit();
    Test::Bench::taken($t->spool()) if -e $t->spool();

    return $result;
}


# what the application has been asked, its status excepted

sub arrived {
    my $text = $upstream->get('/status')->{body};
    my ($requests) = $text =~ /^ \d+ \d+ (\d+) $/m or die $text;

    return $requests - ++$asked;
}

sub until_empty {
    my ($seconds) = @_;

    my $until = time() + $seconds;

    opendir my $dir, $t->spool() . '/new' or die "opendir() failed: $!";

    for ( ;; ) {
        rewinddir $dir;

        my $name;
        do { $name = readdir $dir } while defined $name && $name =~ /^\./;

        return if !defined $name;

        die "the backlog is still there after $seconds s\n" if time() > $until;
        sleep 0.002;
    }
}


sub direct {
    return forwarding('', sub {
        $t->run();
        $bench->wrk($server, '/direct', connections => 64);
    });
}

# from the start of nginx until new/ is empty, that is, with the look for files

sub backlog {
    my ($n, $each) = @_;

    return forwarding('/deliver concurrency=64', sub {
        my ($before, $since) = (arrived(), time());

        $t->run();

        my $cpu = $server->cpu();

        until_empty(60);

        my $seconds = time() - $since;
        my $delivered = arrived() - $before;

        die "$n events, $delivered deliveries\n" if $delivered != $n;

        return { value => $n / $seconds, unit => '/s', commit => $each,
                 cpu => ($server->cpu() - $cpu) / $n * 1e6 };
    }, backlog => $n, each => $each);
}

$bench->part('forwarding, 64 at once');
$bench->row('`proxy_pass`', \&direct);
$bench->row('backlog in files of 100', sub { backlog(30_000, 100) },
            floor => '`proxy_pass`');
$bench->row('backlog in files of 1', sub { backlog(10_000, 1) },
            floor => '`proxy_pass`');

$bench->aim('forward rate to `proxy_pass`', 'least', '0.70', '0.90',
            sub { $bench->ratio('forwarding, 64 at once',
                                'backlog in files of 100', '`proxy_pass`') });


# What is accepted, with 64 connections, in the same location, or, with count,
# what is delivered meanwhile.

sub accepting {
    my ($forward, %opts) = @_;

    return forwarding($forward, sub {
        my $before = arrived();

        $t->run();

        my $r = $bench->wrk($server, '/hook', connections => 64,
                            $opts{count} ? (counter => \&arrived) : (),
                            $forward eq '' || $opts{down}
                            ? (spool => $t->spool()) : ());

        die "the backlog was gone before the end\n"
            if $opts{backlog} && arrived() - $before >= $opts{backlog};

        return $r if !$opts{count} || $r->{spoiled};
        return { value => $r->{counted}, unit => '/s' };
    }, %opts);
}

my $seconds = $bench->seconds() + 0.7;

$bench->part('accepting, 64 connections');
$bench->row('nothing is forwarded', sub { accepting('') });
$bench->row('forwarding what arrives', sub { accepting('/deliver') },
            floor => 'nothing is forwarded');
$bench->row('while a backlog drains',
            sub { accepting('/deliver', each => 100,
                            backlog => 100 * int($seconds * 400)) },
            floor => 'nothing is forwarded');
$bench->row('delivered meanwhile',
            sub { accepting('/deliver', each => 100, count => 1,
                            backlog => 100 * int($seconds * 400)) });
$bench->row('while the destination is down',
            sub { accepting('/deliver', down => 1) },
            floor => 'nothing is forwarded');

$bench->aim('accept rate while a backlog drains, to without', 'least',
            '0.70', '0.85', sub { $bench->ratio('accepting, 64 connections',
                                      'while a backlog drains',
                                      'nothing is forwarded') });

1;
