#!/usr/bin/perl

# An event is done by an answer whose end was seen. Each protocol, buffered and
# not, and each way to end an answer: those that are cut are tried again, and
# those that are complete are not.

use strict;
use warnings;

use Fcntl qw(LOCK_EX);
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;

use lib 't/lib';
use Test::Edge;
use Test::Frames;
use Test::Peer;

my $t = Test::Edge->new();
my $p = $t->prefix();

# the body is looked into by some of the locations

my $BODY = 'hello<!--# include virtual="/included" -->';
my $LENGTH = length $BODY;

my ($YES, $NO) = (1, 0);


# Where they go: the protocol, the peer's port, and what stands there. Those of
# an "accel" are given "X-Accel-Buffering: no" by the application.

my %to = (
    'proxy' => ['http', ''],
    'proxy-off' => ['http', 'proxy_buffering off;'],
    'proxy-accel' => ['http', ''],
    'proxy-kept' => ['http', 'proxy_http_version 1.1;
                              proxy_set_header Connection "";'],
    'proxy-small' => ['http', 'proxy_buffer_size 1k; proxy_buffers 2 1k;
                               proxy_busy_buffers_size 1k;'],
    'proxy-stored' => ['http', 'proxy_store %%PREFIX%%/proxy/stored;
                                THREADS'],
    'proxy-filtered' => ['http', 'ssi on; ssi_types *; FILTERS'],

    'fastcgi' => ['fastcgi', ''],
    'fastcgi-off' => ['fastcgi', 'fastcgi_buffering off;'],
    'fastcgi-accel' => ['fastcgi', ''],
    'fastcgi-kept' => ['fastcgi', 'fastcgi_keep_conn on;'],

    'uwsgi' => ['uwsgi', ''],
    'uwsgi-off' => ['uwsgi', 'uwsgi_buffering off;'],
    'uwsgi-accel' => ['uwsgi', ''],

    'scgi' => ['scgi', ''],
    'scgi-off' => ['scgi', 'scgi_buffering off;'],
    'scgi-accel' => ['scgi', ''],

    'grpc' => ['grpc', ''],
);

my %port = (http => 2, fastcgi => 3, uwsgi => 4, scgi => 5, grpc => 6);

my %with = (
    http => !$t->has('--without-http_proxy_module'),
    fastcgi => !$t->has('--without-http_fastcgi_module'),
    uwsgi => !$t->has('--without-http_uwsgi_module'),
    scgi => !$t->has('--without-http_scgi_module'),
    grpc => !$t->has('--without-http_grpc_module')
            && $t->has('--with-http_v2_module'),
);


# The answers: what is sent, what becomes of the connection then, and whether
# it counts. "keep" and "hang" leave it open, which is the same to see.

my $OK = "HTTP/1.1 200 OK\r\n";

my %http = (
    'a length' => ["${OK}Content-Length: $LENGTH\r\n\r\n$BODY", 'keep', $YES],
    'a length, and closed' =>
        ["${OK}Content-Length: $LENGTH\r\n\r\n$BODY", 'close', $YES],
    'a length of 0' => ["${OK}Content-Length: 0\r\n\r\n", 'keep', $YES],
    '204' => ["HTTP/1.1 204 No Content\r\n\r\n", 'keep', $YES],
    'more than the length' =>
        ["${OK}Content-Length: 3\r\n\r\n$BODY", 'keep', $YES],
    'the end of HTTP/1.0' => ["HTTP/1.0 200 OK\r\n\r\n$BODY", 'close', $YES],
    'no length, and closed' =>
        ["${OK}Connection: close\r\n\r\n$BODY", 'close', $YES],
    'chunks' => ["${OK}Transfer-Encoding: chunked\r\n\r\n"
                 . chunk($BODY) . "0\r\n\r\n", 'keep', $YES],

    '100 before' => ["HTTP/1.1 100 Continue\r\n\r\n${OK}Content-Length: 0\r\n"
                     . "\r\n", 'close', $NO],
    '103 before' => ["HTTP/1.1 103 Early Hints\r\n\r\n${OK}Content-Length: "
                     . "0\r\n\r\n", 'close',
                     $t->version() >= 1029000 ? $YES : $NO],

    'half a header' => ["${OK}Content-Le", 'close', $NO],
    'a short length' =>
        ["${OK}Content-Length: 99\r\n\r\n$BODY", 'close', $NO],
    'nothing of a length' => ["${OK}Content-Length: 99\r\n\r\n", 'close', $NO],
    'a short length, and reset' =>
        ["${OK}Content-Length: 99\r\n\r\n$BODY", 'reset', $NO],
    'no length, and reset' => ["$OK\r\n$BODY", 'reset', $NO],
    'no last chunk' => ["${OK}Transfer-Encoding: chunked\r\n\r\n"
                        . chunk($BODY), 'close', $NO],
    'half a chunk' => ["${OK}Transfer-Encoding: chunked\r\n\r\nff\r\n$BODY",
                       'close', $NO],
    'chunks, and reset' => ["${OK}Transfer-Encoding: chunked\r\n\r\n"
                            . chunk($BODY), 'reset', $NO],

    'a short length, and silence' =>
        ["${OK}Content-Length: 99\r\n\r\n$BODY", 'hang', $NO],
    'no length, and silence' => ["$OK\r\n$BODY", 'hang', $NO],
    'a chunk, and silence' => ["${OK}Transfer-Encoding: chunked\r\n\r\n"
                               . chunk($BODY), 'hang', $NO],
);

# uwsgi and SCGI: the close is the end, if there is no length

my $CGI = "Status: 200 OK\r\nContent-Type: text/plain\r\n";

my %cgi = (
    'a length' => ["${CGI}Content-Length: $LENGTH\r\n\r\n$BODY", 'keep', $YES],
    'no length, and closed' => ["$CGI\r\n$BODY", 'close', $YES],
    'a length of 0' => ["${CGI}Content-Length: 0\r\n\r\n", 'close', $YES],
    '204' => ["Status: 204 No Content\r\n\r\n", 'close', $YES],

    'a short length' =>
        ["${CGI}Content-Length: 99\r\n\r\n$BODY", 'close', $NO],
    'a short length, and reset' =>
        ["${CGI}Content-Length: 99\r\n\r\n$BODY", 'reset', $NO],
    'no length, and reset' => ["$CGI\r\n$BODY", 'reset', $NO],

    'a short length, and silence' =>
        ["${CGI}Content-Length: 99\r\n\r\n$BODY", 'hang', $NO],
    'no length, and silence' => ["$CGI\r\n$BODY", 'hang', $NO],
);

my $END = record(3, pack 'NC4', 0, 0, 0, 0, 0);

my %fastcgi = (
    'a request that ended' =>
        [out("$CGI\r\n$BODY") . out('') . $END, 'close', $YES],
    'a stream that is not closed before' =>
        [out("$CGI\r\n$BODY") . $END, 'close', $YES],
    'a length' => [out("${CGI}Content-Length: $LENGTH\r\n\r\n$BODY")
                   . out('') . $END, 'close', $YES],
    'an empty one' => [out("$CGI\r\n") . out('') . $END, 'close', $YES],
    '204' => [out("Status: 204 No Content\r\n\r\n") . out('') . $END,
              'close', $YES],
    'an error of the script' =>
        [record(7, 'an error') . out("$CGI\r\n$BODY") . out('')
         . record(3, pack 'NC4', 255, 0, 0, 0, 0), 'close', $YES],
    'many records' => [out($CGI) . out("\r\n") . (out('x' x 5000)) x 20
                       . out('') . $END, 'close', $YES],

    'an end, and reset' =>
        [out("$CGI\r\n$BODY") . out('') . $END, 'reset', $YES],

    # the stream has its end, that of the request is not waited for
    'the end of the stream' => [out("$CGI\r\n$BODY") . out(''), 'close',
                                { 'fastcgi' => $YES }],

    'no end' => [out("$CGI\r\n$BODY"), 'close', $NO],
    'no end, nothing but a header' => [out("$CGI\r\n"), 'close', $NO],
    'no end of 204' => [out("Status: 204 No Content\r\n\r\n"), 'close', $NO],
    'no end of many records' =>
        [out("$CGI\r\n") . (out('x' x 5000)) x 20, 'close', $NO],
    'half a record' =>
        [out("$CGI\r\n") . substr(out($BODY), 0, 12), 'close', $NO],
    'half the head of a record' =>
        [out("$CGI\r\n$BODY") . substr($END, 0, 4), 'close', $NO],
    'no end, and reset' => [out("$CGI\r\n$BODY"), 'reset', $NO],
    'a short length' => [out("${CGI}Content-Length: 99\r\n\r\n$BODY") . out('')
                         . $END, 'close', $NO],

    'no end, and silence' => [out("$CGI\r\n$BODY"), 'hang', $NO],
);

my $SETTINGS = Test::Frames::bytes(4, 0, 0, '')
               . Test::Frames::bytes(4, 1, 0, '');

my %grpc = (
    'data' => [h2() . h2_data(1), 'hang', $YES],
    'data and trailers' => [h2() . h2_data(0) . h2_trailers(), 'hang', $YES],
    'a header only' => [$SETTINGS . Test::Frames::head(1, [':status', 200], 1),
                        'hang', $YES],
    'data, and what is left is not asked for' =>
        [h2() . h2_data(1) . Test::Frames::bytes(3, 0, 1, pack 'N', 0),
         'hang', $YES],

    'an error in the trailers' =>
        [h2() . h2_data(0) . h2_trailers(13), 'hang', $NO],
    'an error in the header' =>
        [$SETTINGS . Test::Frames::head(1, [':status', 200, 'grpc-status', 13],
                                        1), 'hang', $NO],
    'no error in the header' =>
        [$SETTINGS . Test::Frames::head(1, [':status', 200, 'grpc-status', 0],
                                        1), 'hang', $YES],

    'a reset of the stream' =>
        [h2() . h2_data(0) . Test::Frames::bytes(3, 0, 1, pack 'N', 2),
         'hang', $NO],
    'a reset without an error' =>
        [h2() . h2_data(0) . Test::Frames::bytes(3, 0, 1, pack 'N', 0),
         'hang', $NO],
    'a header, and closed' => [h2(), 'close', $NO],
    'data, and closed' => [h2() . h2_data(0), 'close', $NO],
    'half a frame' => [h2() . substr(h2_data(1), 0, 12), 'close', $NO],
    'data, and reset' => [h2() . h2_data(0), 'reset', $NO],
    'GOAWAY, and closed' =>
        [h2() . h2_data(0) . Test::Frames::bytes(7, 0, 0, pack 'NN', 0, 0),
         'close', $NO],
    'a short length' => [h2('content-length' => 99) . h2_data(1), 'hang', $NO],

    'a header, and silence' => [h2(), 'hang', $NO],
    'data, and silence' => [h2() . h2_data(0), 'hang', $NO],
);

my %answers = (http => \%http, fastcgi => \%fastcgi, uwsgi => \%cgi,
               scgi => \%cgi, grpc => \%grpc);

my %read = (http => \&read_http, fastcgi => \&read_fastcgi,
            uwsgi => \&read_uwsgi, scgi => \&read_scgi, grpc => \&read_grpc);


for my $protocol (grep { $with{$_} } sort keys %port) {
    Test::Peer->new(port => $t->port($port{$protocol}), seconds => 120,
                    serve => sub { serve($protocol, @_) });
}

configure(timeout => '60s');
$t->run();

table(0);

configure(timeout => '1s');
$t->reload() or fail('reload');

table(1);

$t->no_alerts();

done_testing();


# Each answer to all who speak its protocol at once. The second time an event
# comes it is answered well.

sub table {
    my ($silence) = @_;

    for my $protocol (grep { $with{$_} } sort keys %answers) {
        my $answers = $answers{$protocol};

        for my $name (sort keys %$answers) {
            next if ($name =~ /silence/ ? 1 : 0) != $silence;

            my @to = sort grep { $to{$_}[0] eq $protocol } keys %to;

            for my $to (@to) {
                is($t->post('/hook', event(companyId => $to, n => $name))
                     ->{status}, 200, "$to, $name: accepted")
            }

            $t->wait_for(sub { !$t->spool_files() }, 30, "all: $name");

            for my $to (@to) {
                my $counts = $answers->{$name}[2];

                $counts = $counts->{$to} // $NO if ref $counts;

                is(seen("$to/$name"), $counts ? 1 : 2,
                   "$to, $name: "
                   . ($counts ? 'delivered' : 'not delivered'));
            }
        }
    }
}


# the configuration ----------------------------------------------------------

sub configure {
    my (%opts) = @_;

    my $locations = '';

    for my $to (sort keys %to) {
        my ($protocol, $more) = @{$to{$to}};
        my $module = $protocol eq 'http' ? 'proxy' : $protocol;
        my $scheme = $protocol eq 'http' ? 'http://' : '';

        next if !$with{$protocol};

        my $params = $protocol =~ /fastcgi|uwsgi|scgi/
            ? "${module}_param CONTENT_LENGTH \$content_length;" : '';

        $params = '' if $protocol eq 'scgi';

        $locations .= <<"CONF";
        location = /to/$to {
            internal;
            ${module}_pass ${scheme}127.0.0.1:%%PORT_$port{$protocol}%%;
            ${module}_read_timeout $opts{timeout};
            $params
            $more
        }
CONF
    }

    my $threads = $t->has('--with-threads') ? 'aio threads; aio_write on;' : '';
    my $filters = join ' ',
        ($t->has('--with-http_sub_module')
            ? 'sub_filter hello bye; sub_filter_types *;' : ()),
        ($t->has('--with-http_gunzip_module') ? 'gunzip on;' : ()),
        ($t->has('--with-http_addition_module')
            ? 'add_after_body /included; addition_types *;' : ());

    s/THREADS/$threads/, s/FILTERS/$filters/ for $locations;

    my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
    map $taptalent_company_id $to {
        default            /to/none;
        "~^(?<n>[a-z-]+)$" /to/$n;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward $to concurrency=64;
            taptalent_webhook_retry initial=50ms max=100ms;
        }

        location = /included {
            return 200 included;
        }

LOCATIONS
    }
}
CONF

    $conf =~ s/LOCATIONS\n/$locations/;
    $t->conf($conf);
}


# what is sent ---------------------------------------------------------------

sub chunk { return sprintf "%x\r\n%s\r\n", length $_[0], $_[0] }

sub record {
    my ($type, $data) = @_;
    return pack('CCnnCC', 1, $type, 1, length $data, 0, 0) . $data;
}

sub out { return record(6, $_[0]) }

sub h2 {
    my (@fields) = @_;
    return $SETTINGS . Test::Frames::head(1, [':status', 200, @fields], 0);
}

sub h2_data { return Test::Frames::bytes(0, $_[0], 1, $BODY) }

sub h2_trailers {
    return Test::Frames::head(1, ['grpc-status', $_[0] // 0], 1);
}


# the applications -----------------------------------------------------------

sub serve {
    my ($protocol, $c) = @_;

    my $request = $read{$protocol}->($c) // return;
    my $body = $request->{body};

    my ($to) = $body =~ /"companyId": "([^"]+)"/ or die "no event: $body\n";
    my ($name) = $body =~ /"n": "([^"]+)"/ or die "no answer: $body\n";

    my $answers = $answers{$protocol};
    my $first = noted("$to/$name") == 1;

    # the second time, as good as can be

    my ($good) = grep { $answers->{$_}[2] eq $YES } sort keys %$answers;
    my ($text, $then) = @{ $answers->{$first ? $name : $good} };

    if ($to =~ /accel/) {
        my $header = "X-Accel-Buffering: no\r\n";

        if ($protocol eq 'fastcgi') {
            $text =~ s/^(\x01\x06..)(..)(..)(Status:)/
                       $1 . pack('n', unpack('n', $2) + length $header)
                       . $3 . $header . $4/sex;

        } elsif ($protocol eq 'http') {
            $text =~ s/\r\n/\r\n$header/;

        } else {
            $text = $header . $text;
        }
    }

    for (my $n = 0; $n < length $text; ) {
        $n += $c->syswrite($text, length $text, $n) // return;
    }

    if ($then eq 'keep' || $then eq 'hang') {
        1 while $c->sysread(my $end, 4096);

    } elsif ($then eq 'reset') {
        drained($c);
        setsockopt $c, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
    }

    close $c;
}


# until the peer has read all; a reset would take it away from it

sub drained {
    my ($c) = @_;

    my ($ours, $its) = map { sprintf ':%04X', $_ } $c->sockport(),
                                                   $c->peerport();

    $t->wait_for(sub {
        open my $fh, '<', '/proc/net/tcp' or return 1;
        my ($queue) = map { /$its \w+$ours \w+ \w+:(\w+)/ ? $1 : () }
                          map { s/ \w{8}:/ :/gr } <$fh>;
        return !defined $queue || hex($queue) == 0;
    }, 5);
}


# one more of these, and how many there are

sub noted {
    my ($what) = @_;

    open my $fh, '>>', "$p/seen" or die "open: $!";
    flock $fh, LOCK_EX;
    syswrite $fh, "$what\n";

    return seen($what);
}

sub seen {
    my ($what) = @_;
    return scalar grep { $_ eq $what } split /\n/, $t->read_file('seen');
}
