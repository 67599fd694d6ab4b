#!/usr/bin/perl

# What a delivery can be passed to: proxy_pass over TLS with verification, over
# a unix socket, by a name through a resolver, to a group with dead peers, over
# kept connections; fastcgi_pass to PHP-FPM; uwsgi_pass, scgi_pass, grpc_pass.
# Everywhere the exact body and the headers arrive, and the file goes.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use Fcntl qw(LOCK_EX);
use IO::Socket::INET;
use IO::Socket::SSL;
use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec PEM_cert2string
                              PEM_key2string);
use JSON::PP ();
use MIME::Base64 qw(decode_base64 encode_base64);
use Test::More;

use lib 't/lib';
use Test::Edge;
use Test::Peer;

my $t = Test::Edge->new();
my $p = $t->prefix();

my %with = (
    fastcgi => !$t->has('--without-http_fastcgi_module'),
    uwsgi => !$t->has('--without-http_uwsgi_module'),
    scgi => !$t->has('--without-http_scgi_module'),
    grpc => !$t->has('--without-http_grpc_module')
            && $t->has('--with-http_v2_module'),
);

certificates();

my $php = start_php();
my $dns = start_dns();

my %http = (read => \&read_http, answer => \&answer_http);

peer('tls', tls => 1, port => 10, %http);
peer('unix', path => "$p/application.sock", %http);
peer('resolved', port => 11, %http);
peer('reset', port => 12, read => \&read_http);
peer('alive', port => 13, %http);
peer('kept', port => 14, %http);
peer('wrapped', port => 15, %http);
peer('uwsgi', port => 16, read => \&read_uwsgi, answer => \&answer_http);
peer('scgi', port => 17, read => \&read_scgi, answer => \&answer_cgi);
peer('grpc', port => 18, %http);

configure(ca => 'other-ca.pem');
$t->run();

tls();
arrives('unix');
resolved();
group();
kept();
wrapped();
php();

for my $name (qw(uwsgi scgi grpc)) {
    SKIP: {
        skip "nginx without $name", 1 if !$with{$name};
        arrives($name);
    }
}

$t->no_alerts();

done_testing();


# the configuration ----------------------------------------------------------

sub configure {
    my (%opts) = @_;

    my @names = qw(tls name unix resolved group kept wrapped);
    push @names, grep { $with{$_} } qw(fastcgi uwsgi scgi grpc);

    my $ingest = join "\n", map { <<"CONF" } @names;
        location = /$_ {
            taptalent_webhook on;
            taptalent_webhook_spool %%PREFIX%%/spool-$_;
            taptalent_webhook_forward /to/$_;
        }
CONF

    my %more = (fastcgi => <<'FASTCGI', uwsgi => <<'UWSGI', scgi => <<'SCGI',
        location = /to/fastcgi {
            internal;
            fastcgi_pass unix:%%PREFIX%%/php/fpm.sock;
            fastcgi_param SCRIPT_FILENAME %%PREFIX%%/php/store.php;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param HTTP_X_VARIABLES $variables;
        }
FASTCGI
        location = /to/uwsgi {
            internal;
            uwsgi_pass 127.0.0.1:%%PORT_16%%;
            uwsgi_param REQUEST_METHOD $request_method;
            uwsgi_param REQUEST_URI $request_uri;
            uwsgi_param CONTENT_TYPE $content_type;
            uwsgi_param CONTENT_LENGTH $content_length;
            uwsgi_param HTTP_X_VARIABLES $variables;
        }
UWSGI
        location = /to/scgi {
            internal;
            scgi_pass 127.0.0.1:%%PORT_17%%;
            scgi_param REQUEST_METHOD $request_method;
            scgi_param REQUEST_URI $request_uri;
            scgi_param CONTENT_TYPE $content_type;
            scgi_param HTTP_X_VARIABLES $variables;
        }
SCGI
        grpc => <<'GRPC');
        location = /to/grpc {
            internal;
            grpc_pass grpc://127.0.0.1:%%PORT_19%%;
            grpc_set_header X-Variables $variables;
        }
GRPC

    # HTTP/2 is spoken by nginx itself, which hands the rest to a peer

    my $http2 = $with{grpc} ? <<'CONF' : '';
    server {
        listen 127.0.0.1:%%PORT_19%% http2;
        location / {
            client_max_body_size 10m;
            proxy_pass http://127.0.0.1:%%PORT_18%%;
        }
    }
CONF

    my $more = join '', map { $with{$_} ? $more{$_} : '' } sort keys %more;

    my $conf = <<'CONF';
%%GLOBALS%%

events {
}

http {
    upstream group {
        server 127.0.0.1:%%PORT_9%% max_fails=0;
        server 127.0.0.1:%%PORT_12%% max_fails=0;
        server 127.0.0.1:%%PORT_13%% max_fails=0;
    }

    upstream kept {
        server 127.0.0.1:%%PORT_14%%;
        keepalive 4;
    }

HTTP2
    server {
        listen 127.0.0.1:%%PORT_0%%;

        set $variables "$taptalent_event $taptalent_timestamp $taptalent_company_id $taptalent_event_id";

        taptalent_webhook_https off;
        taptalent_webhook_company_id any;
        taptalent_webhook_retry initial=100ms max=500ms;

        proxy_set_header X-Variables $variables;

INGEST
        location = /to/tls {
            internal;
            proxy_pass https://127.0.0.1:%%PORT_10%%/application;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate %%PREFIX%%/CA;
            proxy_ssl_name application.test;
            proxy_ssl_server_name on;
        }

        location = /to/name {
            internal;
            proxy_pass https://127.0.0.1:%%PORT_10%%/application;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate %%PREFIX%%/ca.pem;
            proxy_ssl_name somebody-else.test;
        }

        location = /to/unix {
            internal;
            proxy_pass http://unix:%%PREFIX%%/application.sock:/application;
        }

        location = /to/resolved {
            internal;
            resolver 127.0.0.1:DNS valid=1s ipv6=off;
            resolver_timeout 2s;
            set $application application.test;
            proxy_pass http://$application:%%PORT_11%%/application;
        }

        location = /to/group {
            internal;
            proxy_pass http://group/application;
            proxy_next_upstream error timeout non_idempotent;
        }

        location = /to/kept {
            internal;
            proxy_pass http://kept/application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Variables $variables;
        }

        location = /to/wrapped {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_15%%/application;
            proxy_set_body '{"id":"$taptalent_event_id","event":$request_body}';
        }

MORE
    }
}
CONF

    $conf =~ s/^INGEST$/$ingest/m;
    $conf =~ s/^MORE$/$more/m;
    $conf =~ s/^HTTP2$/$http2/m;
    $conf =~ s{%%PREFIX%%/CA;}{%%PREFIX%%/$opts{ca};};
    $conf =~ s/:DNS/:$dns/;

    $t->conf($conf);
}


# the tests ------------------------------------------------------------------

# A certificate of a CA that is not known, one of another name, and the right
# one after a reload.

sub tls {
    my @bodies = send_all('tls');

    $t->post('/name', event(n => 'other name'));

    ok($t->wait_log(qr{destination "/to/tls" is down, status 502}),
       'tls, wrong CA: the destination is down');
    ok($t->wait_log(qr{destination "/to/name" is down, status 502}),
       'tls, wrong name: the destination is down');
    ok($t->grep_log(qr/SSL certificate verify error/),
       'tls, wrong CA: the reason is logged');
    ok($t->grep_log(qr/SSL certificate does not match/),
       'tls, wrong name: the reason is logged');

    is(got('tls'), 0, 'tls: nothing was sent');
    is(files('tls'), 2, 'tls, wrong CA: the events wait');

    configure(ca => 'ca.pem');
    $t->reload() or fail('reload');

    arrived('tls', @bodies);
    is(files('name'), 1, 'tls, wrong name: the event waits');
}

# A name that is not known at first.

sub resolved {
    my @bodies = send_all('resolved');

    ok($t->wait_log(qr{destination "/to/resolved" is down, status 502}),
       'resolver: the name is not known');
    is(files('resolved'), 2, 'resolver: the events wait');

    $t->write_file('dns.known', '');

    arrived('resolved', @bodies);
}

# One peer refuses, one resets when it has the request, one is well.

sub group {
    my @bodies = send_all('group', 6);

    arrived('alive', @bodies);

    my @reset = got('reset');
    cmp_ok(@reset, '>=', 1, 'group: one peer got a request and reset');

    my @again = grep { $_->{headers}{'x-webhook-attempt'} != 1 } got('alive');
    is(@again, 0, 'group: it was one attempt');
    is(scalar($t->grep_log(qr{destination "/to/group" is down})), 0,
       'group: never down');
    is(files('group'), 0, 'group: the spool is empty');
}

sub kept {
    my @bodies;

    for my $i (1 .. 8) {
        push @bodies, send_all('kept', 1, $i);
        $t->wait_for(sub { got('kept') >= $i && !files('kept') }, 10,
                     'a delivery');
    }

    arrived('kept', @bodies);

    my %connections = map { $_->{connection} => 1 } got('kept');
    is(keys %connections, 1, 'keepalive: one connection for all');
}

# proxy_set_body with $request_body

sub wrapped {
    my ($body) = send_all('wrapped', 1);

    ok($t->wait_for(sub { got('wrapped') && !files('wrapped') }, 10,
                    'a delivery'), 'proxy_set_body: delivered');

    my ($got) = got('wrapped');
    my $id = substr sha256_hex($body), 0, 32;

    is($got->{body}, qq({"id":"$id","event":$body}), 'proxy_set_body: body');
    is($got->{headers}{'content-length'}, length $got->{body},
       'proxy_set_body: length');
}

sub php {
    SKIP: {
        skip 'nginx without fastcgi', 1 if !$with{fastcgi};
        skip 'no php-fpm', 1 if !$php;

        arrives('fastcgi');
    }
}

sub arrives {
    my ($name) = @_;
    arrived($name, send_all($name));
}

# Two bodies, a small one with line ends and one larger than any buffer, or
# several.

sub send_all {
    my ($name, $n, $first) = @_;

    $first //= 1;
    my @bodies;

    for my $i ($first .. $first + ($n // 2) - 1) {
        my $body = event(n => "$name $i \x{e9}\x{20ac}");
        $body =~ s/, /,\r\n\t/g if $i % 2;
        $body = event(n => $i, data => \('{"x":"' . 'x' x 300_000 . '"}'))
            if $i == 2;
        push @bodies, $body;

        is($t->post("/$name", $body, headers => {
                'X-Webhook-Note' => "a \"b\" \xe9",
                'X-Webhook-Key' => 'secret',
                'X-Webhook-Id' => 'forged',
                'Cookie' => 'secret',
           })->{status}, 200, "$name: accepted");
    }

    return @bodies;
}

sub arrived {
    my ($name, @bodies) = @_;

    $t->wait_for(sub { got($name) >= @bodies && !files($name) }, 15,
                 "deliveries to $name");

    my %got = map { $_->{body} => $_ } got($name);

    is(scalar(got($name)), @bodies, "$name: each once");
    is(files($name), 0, "$name: the spool is empty");

    for my $body (@bodies) {
        my $id = substr sha256_hex($body), 0, 32;
        my $got = $got{$body};

        ok($got, "$name: the exact body") or next;

        my %headers = %{$got->{headers}};

        is($got->{method}, 'POST', "$name: method");
        is($headers{'content-length'}, length $body, "$name: length")
            if $name ne 'grpc';
        is($headers{'content-type'}, 'application/json', "$name: type");
        is($headers{'x-webhook-event'}, 'resume.bulk_upload_parse.started',
           "$name: event");
        is($headers{'x-webhook-timestamp'}, '2024-01-20T14:45:00Z',
           "$name: timestamp");
        is($headers{'x-webhook-note'}, "a \"b\" \xe9", "$name: odd bytes");
        is($headers{'x-webhook-id'}, $id, "$name: id");
        like($headers{'x-webhook-attempt'}, qr/^[1-9]\d?$/, "$name: attempt");
        like($headers{'x-webhook-received'},
             qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, "$name: received");
        is($headers{'x-variables'}, "resume.bulk_upload_parse.started "
           . "2024-01-20T14:45:00Z company-uuid $id", "$name: variables");
        is(join(' ', grep { /key|cookie|forged|secret/ } %headers), '',
           "$name: no secrets");
    }
}

# What is left in new/; a sidecar would count too.

sub files {
    my ($name) = @_;
    $name = 'group' if $name eq 'alive';
    my @files = glob "$p/spool-$name/new/*";
    return scalar @files;
}


# the applications -----------------------------------------------------------

# peer(name, %opts): notes each request: { connection, method, uri, headers,
# body }.
#     port => n | path => ..., tls => 1
#     read => sub(socket): a request or undef at the end
#     answer => sub(socket, request); without it the connection is reset

sub peer {
    my ($name, %opts) = @_;

    Test::Peer->new($opts{path} ? (path => $opts{path})
                                : (port => $t->port($opts{port})),
                    serve => sub { serve($name, @_, %opts) });
}

sub serve {
    my ($name, $c, %opts) = @_;

    if ($opts{tls}) {
        $c = IO::Socket::SSL->start_SSL(
            $c, SSL_server => 1, SSL_cert_file => "$p/application.pem",
            SSL_key_file => "$p/application.key",
        ) or return;
    }

    while (my $request = $opts{read}->($c)) {
        $request->{connection} = $$;
        note_request($name, $request);

        if (!$opts{answer}) {
            setsockopt $c, Socket::SOL_SOCKET(), Socket::SO_LINGER(),
                       pack('ii', 1, 0);
            last;
        }

        $opts{answer}->($c, $request);
        last if !$request->{keep};
    }

    close $c;
}

sub answer_http {
    my ($c, $request) = @_;
    my $connection = $request->{keep} ? 'keep-alive' : 'close';

    $c->syswrite("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
                 . "Connection: $connection\r\n\r\nok");
}

sub answer_cgi {
    my ($c) = @_;
    $c->syswrite("Status: 200 OK\r\nContent-Type: text/plain\r\n\r\nok");
}

# one line a request: values are bytes, the body is base64

sub note_request {
    my ($name, $request) = @_;

    my %note = (%$request, body => encode_base64($request->{body}, ''));
    my $line = JSON::PP->new->latin1->encode(\%note) . "\n";

    open my $fh, '>>:raw', "$p/$name.got" or die "open: $!";
    flock $fh, LOCK_EX;
    syswrite $fh, $line;
    close $fh;
}

sub got {
    my ($name) = @_;

    return php_got() if $name eq 'fastcgi';

    return map {
        my $note = JSON::PP->new->latin1->decode($_);
        $note->{body} = decode_base64($note->{body});
        $note;
    } $t->read_file("$name.got") =~ /^(.*)\n/mg;
}


# A script that writes what it gets.

sub start_php {
    return 0 if !$with{fastcgi}
                || !Test::Peer->php($t, 'pm.max_children' => 2);

    $t->write_file('php/store.php', <<'PHP');
<?php
$body = file_get_contents('php://input');
$server = array_map('base64_encode', array_filter($_SERVER, 'is_string'));
$file = tempnam(__DIR__, 'request');
file_put_contents($file, json_encode(
    ['server' => $server, 'body' => base64_encode($body)]));
rename($file, $file . '.json');
http_response_code(201);
PHP

    return 1;
}

sub php_got {
    my @got;

    for my $file (glob "$p/php/*.json") {
        my $note = JSON::PP->new->decode($t->read_file($file));
        my %server = map { $_ => decode_base64($note->{server}{$_}) }
                     keys %{$note->{server}};

        push @got, {
            method => $server{REQUEST_METHOD}, uri => $server{REQUEST_URI},
            headers => cgi_headers(%server),
            body => decode_base64($note->{body}),
        };
    }

    return @got;
}


# A name server: every name is 127.0.0.1 if the file dns.known is there, and
# unknown if not. Returns its port.

sub start_dns {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                       Proto => 'udp') or die "udp: $!";

    Test::Peer->process(sub {
        while (1) {
            my $from = $socket->recv(my $query, 512) or next;

            my ($id) = unpack 'n', $query;
            my ($question) = substr($query, 12) =~ /^(.*?\0....)/s or next;
            my $known = -e "$p/dns.known";

            my $answer = pack('nnnnnn', $id, $known ? 0x8180 : 0x8183, 1,
                              $known ? 1 : 0, 0, 0) . $question;

            $answer .= pack('nnnNn', 0xc00c, 1, 1, 1, 4)
                       . pack('C4', 127, 0, 0, 1) if $known;

            $socket->send($answer, 0, $from);
        }
    });

    return $socket->sockport();
}


# A CA, the application's certificate by it, and another CA of the same name.

sub certificates {
    my @ca;

    for my $name ('ca', 'other-ca') {
        my ($cert, $key) = CERT_create(
            CA => 1, subject => { commonName => 'test CA' },
            key => KEY_create_ec('prime256v1'),
        );
        $t->write_file("$name.pem", PEM_cert2string($cert));
        push @ca, [$cert, $key];
    }

    my ($cert, $key) = CERT_create(
        subject => { commonName => 'application.test' },
        subjectAltNames => [['DNS', 'application.test']],
        key => KEY_create_ec('prime256v1'),
        issuer => $ca[0],
    );

    $t->write_file('application.pem', PEM_cert2string($cert));
    $t->write_file('application.key', PEM_key2string($key));
}
