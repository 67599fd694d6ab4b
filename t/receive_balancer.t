#!/usr/bin/perl

# The configurations of docs/verification.md: behind a balancer, with the PROXY
# protocol, with client certificates, with limits, with many companies; what
# they take, and that nobody can forge it.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec PEM_cert2string
                              PEM_key2string);
use Socket qw(inet_aton);
use Test::More;
use Test::Docs qw(block);
use Test::Edge;

my $t = Test::Edge->new();

plan(skip_all => 'needs realip') if !$t->has('http_realip_module');

# the addresses of the balancer and of anybody else

my ($balancer, $client) = ('127.0.0.2', '127.0.0.1');
my $key = 'the key of the dashboard';
my %key = ('X-Webhook-Key' => $key);
my $path = '/webhooks/taptalent';

$t->tls();
chmod 0600, $t->write_file('taptalent.key', "$key\n");
certificates();
$t->write_file('companies.map', join '', map { "$_ $_;\n" } 1 .. 1000);

today();
enforce();
forwarded();
proxy_protocol();
client_certificates();
companies();
command();

$t->no_alerts();

done_testing();


# Runs a configuration of the document; with servers of ours beside it.

sub documented {
    my ($block, $more) = @_;

    $block =~ s{/etc/ssl/hooks[\w.]+\.crt}{%%PREFIX%%/cert.pem}g;
    $block =~ s{/etc/ssl/hooks[\w.]+\.key}{%%PREFIX%%/key.pem}g;
    $block =~ s{/etc/ssl/}{%%PREFIX%%/}g;
    $block =~ s{/etc/nginx/}{%%PREFIX%%/}g;
    $block =~ s{/var/spool/taptalent}{%%SPOOL%%}g;
    $block =~ s{/var/log/nginx/}{%%PREFIX%%/}g;
    $block =~ s{\blisten(\s+)443 ssl\b}{listen$1 127.0.0.1:%%PORT_1%% ssl}g;
    $block =~ s{\blisten(\s+)8080\b}{listen$1 127.0.0.1:%%PORT_0%%}g;
    $block =~ s{127\.0\.0\.1:3000}{127.0.0.1:%%PORT_9%%}g;
    $block =~ s{10\.0\.0\.0/24}{$balancer/32}g;

    # what is about something else listens nowhere

    $block =~ s{(server \{\n)(?!\s+listen)}{$1 listen 127.0.0.1:%%PORT_0%%;
        taptalent_webhook_https off;\n};

    $more //= '';
    $t->conf("%%GLOBALS%%\nevents { }\nhttp {\n%%HTTP%%\n"
             . "log_format address '\$remote_addr \$status';\n"
             . "access_log %%PREFIX%%/address.log address;\n"
             . "$block\n$more\n}\n");

    $t->stop() if $t->{master};
    $t->forget_spool();
    $t->run();

    return $block;
}

# One event, and what becomes of it.

sub sent {
    my ($name, $verdict, %opts) = @_;

    my %status = (accepted => 200, https_required => 403, company_id => 403,
                  key => 401);
    my $headers = { %key, %{delete $opts{headers} // {}} };
    my $body = delete $opts{body} // event();
    my $spooled = $t->spool_lines();
    my $r = $t->post($path, $body, headers => $headers, %opts);

    is($r->{status}, $status{$verdict}, "$name: status");
    is($r->{json}{error}, $verdict eq 'accepted' ? undef : $verdict,
       "$name: verdict");
    is($t->spool_lines() - $spooled, $verdict eq 'accepted' ? 1 : 0,
       "$name: spool");

    return $r;
}


sub today {
    my $block = block('docs/verification.md', 'today');

    $block =~ s/rate=500r/rate=20r/ or fail('rate');
    $block =~ s/burst=1000 /burst=500 / or fail('burst');
    $block = documented($block);

    my ($burst) = $block =~ /burst=(\d+)/;
    my ($conns) = $block =~ /limit_conn +\w+ (\d+);/;
    my @tls = (tls => 1);

    sent('today', 'accepted', @tls);
    sent('today, another key', 'key', @tls,
         headers => { 'X-Webhook-Key' => 'x' });
    sent('today, another company', 'company_id', @tls,
         body => event(companyId => 'other'));

    # too many at once

    my @slow = map { $t->connect(@tls) } 1 .. $conns;

    $_->send(substr $t->message($path, event(), headers => \%key), 0, -1)
        for @slow;

    # each has been read when one finds the place taken

    my $refused = $t->wait_for(sub {
        my $status = $t->post($path, event(), headers => \%key,
                              @tls)->{status};
        return $status == 429 && $t->grep_log(qr/limiting connections/);
    }, 10, 'limit_conn');

    ok($refused, 'limit_conn: 429');
    $_->close() for @slow;

    $t->wait_for(sub {
        $t->post($path, event(), headers => \%key, @tls)->{status} == 200;
    }, 10, 'room again');

    # too many in a row; each that is not refused is in the spool

    my $spooled = $t->spool_lines();
    my %status;
    my $c = $t->connect(@tls);

    for (1 .. 30 * $burst) {
        last if ($status{429} // 0) == 20;

        $c->send($t->message($path, event(n => $_), headers => \%key,
                             keepalive => 1));
        my $r = $c->answer();
        $status{ $r->{status} }++;
        $status{json}++ if $r->{status} != 200 && $r->{json};
    }

    $c->close();

    is(join(' ', sort keys %status), '200 429', 'limit_req: 200 and 429');
    cmp_ok($status{200}, '>=', $burst / 2, 'limit_req: a burst is taken');
    is($t->spool_lines() - $spooled, $status{200},
       'limit_req: what is taken is stored');
}


# What is said of an event that would be refused, and the command that counts.

sub enforce {
    documented(block('docs/verification.md', 'enforce'));

    sent('enforce, the key', 'accepted',
         headers => { 'X-Webhook-Timestamp' => iso() });
    sent('enforce, no key', 'accepted',
         headers => { 'X-Webhook-Key' => undef,
                      'X-Webhook-Timestamp' => iso() }) for 1 .. 2;
    sent('enforce, the time', 'accepted');

    my $awk = block('docs/verification.md', 'count');
    my $log = $t->path('webhook.log');
    $awk =~ s{/var/log/nginx/webhook\.log}{$log} or fail('awk');

    ok($t->wait_for(sub {
        join(' ', sort split /\n/, qx{$awk}) eq '1 - 1 stale 2 key'
    }, 5), 'enforce: the log is counted') or diag(qx{$awk});
    is($t->grep_log(qr/webhook accepted all the same: key: /), 2,
       'enforce: the error log');
}

sub iso {
    my @tm = gmtime;
    return sprintf '%04d-%02d-%02dT%02d:%02d:%02dZ', $tm[5] + 1900,
                   $tm[4] + 1, @tm[3, 2, 1, 0];
}


# A balancer that is nginx: it ends TLS and says so, whatever it has been told.

sub forwarded {
    documented(block('docs/verification.md', 'forwarded'), <<"CONF");
    server {
        listen 127.0.0.1:%%PORT_2%%;
        listen 127.0.0.1:%%PORT_3%% ssl;
        %%TLS%%
        access_log off;

        location / {
            proxy_pass http://127.0.0.1:%%PORT_0%%;
            proxy_bind $balancer;
            proxy_set_header Host \$host;
            proxy_set_header X-Forwarded-Proto \$scheme;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
        }
    }
CONF

    my @plain = (port => $t->port(2));
    my @tls = (port => $t->port(3), tls => 1);
    my %forged = ('X-Forwarded-Proto' => 'https');

    sent('balancer, TLS', 'accepted', @tls);
    sent('balancer, TLS, without the key', 'key', @tls,
         headers => { 'X-Webhook-Key' => undef });
    sent('balancer, TLS, "http" sent', 'accepted', @tls,
         headers => { 'X-Forwarded-Proto' => 'http' });
    sent('balancer, plain', 'https_required', @plain);
    sent('balancer, plain, forged', 'https_required', @plain,
         headers => \%forged);
    sent('balancer, plain, forged twice', 'https_required', @plain,
         headers => { 'X-Forwarded-Proto' => ['https', 'https'] });
    sent('balancer, plain, forged address', 'https_required', @plain,
         headers => { %forged, 'X-Forwarded-For' => $balancer });

    my ($forge, $port) = (block('docs/verification.md', 'forge'), $t->port(2));
    chomp $forge;
    $forge =~ s{//hooks\.example\.com/}{//127.0.0.1:$port/} or fail('the URL');
    like(qx{$forge 2> /dev/null}, qr/"error":"https_required"/,
         'balancer, plain, forged as the document tells');

    # past the balancer

    sent('direct', 'https_required');
    sent('direct, forged', 'https_required', headers => \%forged);

    for ($balancer, "$balancer, $balancer", "$client, $balancer", '10.0.0.1') {
        sent("direct, forged as $_", 'https_required',
             headers => { %forged, 'X-Forwarded-For' => $_,
                          'X-Real-IP' => $_ });
    }

    # as the balancer says it

    my @as = (from => $balancer);

    sent("from its address, $_", 'accepted', @as,
         headers => { 'X-Forwarded-Proto' => $_ }) for 'https', 'HTTPS';

    for my $proto (undef, '', 'http', 'https, http', 'http, https',
                   'https,https', 'httpsx', '1')
    {
        sent('from its address, ' . ($proto // 'nothing'), 'https_required',
             @as, headers => { 'X-Forwarded-Proto' => $proto });
    }

    # the address of the client is for logs and limits

    $t->write_file('address.log', '');
    sent('address', 'accepted', @as,
         headers => { %forged, 'X-Forwarded-For' => '203.0.113.7' });
    ok($t->wait_for(sub {
        $t->read_file('address.log') =~ /^203\.0\.113\.7 200$/m
    }, 5), 'the address of the client');

    # and that of the balancer, when it is claimed, makes nobody the balancer

    sent('the balancer\'s own address', 'accepted', @as,
         headers => { %forged, 'X-Forwarded-For' => $client });
    sent('through it, from its own address', 'https_required', @plain,
         headers => { %forged, 'X-Forwarded-For' => "$balancer, $balancer" });
}


sub proxy_protocol {
    documented(block('docs/verification.md', 'proxy-protocol'));

    my @as = (from => $balancer);

    my $line = sub {
        my ($port, $from) = @_;
        return sprintf "PROXY TCP4 %s 198.51.100.1 40000 %d\r\n",
                       $from // '203.0.113.9', $port;
    };

    my $case = sub {
        my ($name, $verdict, $first, @from) = @_;
        sent("PROXY, $name", $verdict, @from, raw => $first
             . $t->message($path, event(), headers => \%key));
    };

    $case->('port 443', 'accepted', $line->(443), @as);
    $case->('port 80', 'https_required', $line->(80), @as);
    $case->('port 4430', 'https_required', $line->(4430), @as);
    $case->('unknown', 'https_required', "PROXY UNKNOWN\r\n", @as);
    $case->('version 2, port 443', 'accepted', version2(443), @as);
    $case->('version 2, port 80', 'https_required', version2(80), @as);
    $case->('version 2, a check of the balancer', 'https_required',
            "\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", @as);

    # anybody can write that line

    $case->('another address', 'https_required', $line->(443));
    $case->('another address, version 2', 'https_required', version2(443));
    $case->('as from the balancer', 'https_required',
            $line->(443, $balancer));
    $case->('as from the balancer, version 2', 'https_required',
            version2(443, $balancer));

    my $r = $t->post($path, event(), headers => \%key, from => $balancer);
    is($r->{status}, 0, 'PROXY, without the line: closed');

    $r = $t->request($line->(443) . $line->(443)
                     . $t->message($path, event(), headers => \%key), @as);
    is($r->{status}, 400, 'PROXY, twice');

    # and headers do not count here

    sent('PROXY, a header', 'https_required', @as, raw => $line->(80)
         . $t->message($path, event(),
                       headers => { %key, 'X-Forwarded-Proto' => 'https',
                                    'X-Forwarded-Port' => 443 }));

    $t->write_file('address.log', '');
    $case->('address', 'accepted', $line->(443), @as);
    ok($t->wait_for(sub {
        $t->read_file('address.log') =~ /^203\.0\.113\.9 200$/m
    }, 5), 'PROXY: the address of the client');
}

sub version2 {
    my ($port, $from) = @_;

    return "\r\n\r\n\0\r\nQUIT\n\x21\x11" . pack('n', 12)
           . inet_aton($from // '203.0.113.9') . inet_aton('198.51.100.1')
           . pack('nn', 40000, $port);
}


# An authority and a client that it has signed; another one; one that signs
# itself.

sub certificates {
    my %named;

    for (['gateway', undef], ['client', 'gateway'], ['other', undef],
         ['stranger', 'other'], ['old', 'gateway'])
    {
        my ($name, $issuer) = @$_;

        my ($cert, $private) = CERT_create(
            subject => { commonName => $name },
            $issuer ? (issuer => $named{$issuer}, purpose => 'client')
                    : (CA => 1),
            key => KEY_create_ec('prime256v1'),
            not_before => time() - 20 * 86400,
            not_after => time() + ($name eq 'old' ? -86400 : 86400),
        );

        $named{$name} = [$cert, $private];
        $t->write_file("$name.crt", PEM_cert2string($cert));
        $t->write_file("$name.pem", PEM_key2string($private));
    }
}

sub client_certificates {
    documented(block('docs/verification.md', 'certificates'));

    my $as = sub {
        my ($name) = @_;
        return (tls => 1, ssl => { SSL_cert_file => $t->path("$name.crt"),
                                   SSL_key_file => $t->path("$name.pem") });
    };

    sent('certificate', 'accepted', $as->('client'));

    # a request that claims it, in each way that a proxy might

    my %claim = ('X-SSL-Client-Verify' => 'SUCCESS',
                 'SSL-Client-Verify' => 'SUCCESS');

    for (['none', tls => 1], ['of another authority', $as->('stranger')],
         ['that signs itself', $as->('other')], ['of yesterday', $as->('old')])
    {
        my ($name, @opts) = @$_;
        my $spooled = $t->spool_lines();
        my $r = $t->post($path, event(), headers => { %key, %claim }, @opts);

        is($r->{status}, 400, "certificate $name: status");
        is($r->{json}, undef, "certificate $name: nginx's own answer");
        is($t->spool_lines() - $spooled, 0, "certificate $name: spool");
    }
}


sub companies {
    documented(block('docs/verification.md', 'companies'));

    sent("company $_", 'accepted', body => event(companyId => $_))
        for 1, 1000, '500';
    sent("company $_", 'company_id', body => event(companyId => $_))
        for 0, 1001, '0500', 'default', 'companies.map';
}


# a scheme that is tried without nginx

sub command {
    my $openssl = block('docs/verification.md', 'openssl');

    my $body = event();
    my $file = $t->write_file('body.json', $body);

    $openssl =~ s/body\.json/$file/;

    my $digits = hmac_sha256_hex("1492774577.$body", 'the key');

    like(qx{$openssl}, qr/= $digits$/, 'openssl says what nginx compares');
}
