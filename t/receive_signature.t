#!/usr/bin/perl

# taptalent_webhook_signature: the published vectors of each scheme, and each
# way of not having signed.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha1 hmac_sha256 hmac_sha512);
use FindBin;
use lib "$FindBin::Bin/lib";
use MIME::Base64 qw(encode_base64 decode_base64);

use Test::More;
use Test::Edge;
use Test::Sink;

my $t = Test::Edge->new();


# Published: the secret, headers and body, and what it must be. None are
# published for Stripe and Shopify; theirs are recomputed by openssl only, as
# the others are too.

my $slack = 'token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J'
    . '&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar'
    . '&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text='
    . '&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J'
    . '%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN'
    . '&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c';

my @vectors = (
    { scheme => 'github', name => 'docs.github.com',
      secret => q(It's a Secret to Everybody), body => 'Hello, World!',
      verdict => 'json', text => 'Hello, World!',
      sign => '757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17',
      headers => { 'X-Hub-Signature-256' => 'sha256=SIGN' } },

    { scheme => 'standard-webhooks', name => 'standard-webhooks',
      secret => 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD',
      body => '{"email":"test@example.com","username":"test_user"}',
      verdict => 'payload', text => 'msg_27UH4WbU6Z5A5EzD8u03UvzRbpk.'
      . '1649367553.{"email":"test@example.com","username":"test_user"}',
      sign => 'tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=',
      headers => { 'webhook-id' => 'msg_27UH4WbU6Z5A5EzD8u03UvzRbpk',
                   'webhook-timestamp' => '1649367553',
                   'webhook-signature' => 'v1,SIGN' } },

    { scheme => 'standard-webhooks', name => 'svix',
      secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
      body => '{"test": 2432232314}', verdict => 'payload',
      text => 'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}',
      sign => 'g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
      headers => { 'webhook-id' => 'msg_p5jXN8AQM9LWM0D4loKWxJek',
                   'webhook-timestamp' => '1614265330',
                   'webhook-signature' => 'v1,SIGN' } },

    { scheme => 'slack', name => 'docs.slack.dev',
      secret => '8f742231b10e8888abcd99yyyzzz85a5', body => $slack,
      verdict => 'json', text => "v0:1531420618:$slack",
      sign => 'a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503',
      headers => { 'X-Slack-Request-Timestamp' => '1531420618',
                   'X-Slack-Signature' => 'v0=SIGN' } },

    { scheme => 'stripe', name => 'recomputed',
      secret => 'whsec_0123456789abcdef', body => '{"id":"evt_1"}',
      verdict => 'payload', text => '1492774577.{"id":"evt_1"}',
      headers => { 'Stripe-Signature' => 't=1492774577,v1=SIGN,v0=6ffbb59b2300'
          . 'aae63f272406069a9788598b792a944a07aba816edb039989a39' } },

    { scheme => 'shopify', name => 'recomputed', secret => 'hush',
      body => '{"id":820982911946154508}', verdict => 'payload',
      text => '{"id":820982911946154508}',
      headers => { 'X-Shopify-Hmac-SHA256' => 'SIGN' } },
);

# Each scheme by its preset, and once more by its parameters alone.

my %scheme = (
    'standard-webhooks' => {
        parameters => 'header=Webhook-Signature "prefix=v1," separator=space '
            . 'encoding=base64 key_format=whsec algorithm=sha256 '
            . '"signed=$http_webhook_id.$http_webhook_timestamp.$taptalent_body"'
            . ' timestamp=$http_webhook_timestamp tolerance=300s',
        keys => ['whsec_' . encode_base64('the old key', ''),
                 'whsec_' . encode_base64("the new\0key\xff", '')],
        base64 => 1, prefix => 'v1,', header => 'webhook-signature',
        time => 'webhook-timestamp', list => ' ', unknown => 'v2,AAAA',
        text => 'id_1.TIME.BODY', more => { 'webhook-id' => 'id_1' },
    },
    github => {
        parameters => 'header=x-hub-signature-256 prefix=sha256= encoding=hex',
        keys => ['github old', 'github new'],
        prefix => 'sha256=', header => 'X-Hub-Signature-256', text => 'BODY',
    },
    stripe => {
        parameters => 'header=Stripe-Signature prefix=v1= separator=comma '
            . '"signed=$taptalent_signature_timestamp.${taptalent_body}" '
            . 'timestamp=param:t',
        keys => ['whsec_old+/=', 'whsec_new+/='],
        prefix => 'v1=', header => 'Stripe-Signature', param => 't',
        list => ',', unknown => 'v0=00ff', text => 'TIME.BODY',
    },
    shopify => {
        parameters => 'header=X-Shopify-Hmac-SHA256 encoding=base64 '
            . 'signed=$taptalent_body',
        keys => ['shopify old', 'shopify new'], base64 => 1,
        prefix => '', header => 'X-Shopify-Hmac-SHA256', text => 'BODY',
    },
    slack => {
        parameters => 'header=X-Slack-Signature prefix=v0= '
            . '"signed=v0:$http_x_slack_request_timestamp:$taptalent_body" '
            . 'timestamp=$http_x_slack_request_timestamp tolerance=5m',
        keys => ['slack old', 'slack new'],
        prefix => 'v0=', header => 'X-Slack-Signature',
        time => 'X-Slack-Request-Timestamp', text => 'v0:TIME:BODY',
    },
);

my $locations = '';

for my $name (sort keys %scheme) {
    my $s = $scheme{$name};
    my ($old, $new) = @{$s->{keys}};

    # one of the two in a file, 0600

    chmod 0600, $t->write_file("$name.key", "$new\n");

    for (['preset', "preset=$name"], ['free', $s->{parameters}]) {
        my ($path, $parameters) = @$_;

        $locations .= <<"EOF_CONF";
        location /$path/$name {
            taptalent_webhook on;
            taptalent_webhook_signature $parameters "key=$old"
                                        key=file:$name.key;
        }
EOF_CONF
    }
}

for my $i (0 .. $#vectors) {
    my $v = $vectors[$i];
    my $off = $scheme{$v->{scheme}}{text} =~ /TIME/ ? 'tolerance=off' : '';

    $locations .= <<"EOF_CONF";
        location /vector/$i {
            taptalent_webhook on;
            taptalent_webhook_signature $off "key=$v->{secret}"
                                        preset=$v->{scheme};
        }
EOF_CONF
}

$t->conf(<<"EOF_CONF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_company_id company-uuid;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_https off;
    taptalent_webhook_signature header=X-Webhook-Signature key=of-http;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        $locations

        location /inherited {
            taptalent_webhook on;
        }

        location /off {
            taptalent_webhook on;
            taptalent_webhook_signature off;
        }

        location /sha512 {
            taptalent_webhook on;
            taptalent_webhook_signature header=X-Sign algorithm=sha512
                key_format=hex key=00ff0aF0;
        }

        location /sha512base64 {
            taptalent_webhook on;
            taptalent_webhook_signature header=X-Sign algorithm=sha512
                encoding=base64 key_format=base64 key=AP8K8A==;
        }

        location /sha1 {
            taptalent_webhook on;
            taptalent_webhook_signature preset=github algorithm=sha1
                header=X-Hub-Signature prefix=sha1= key=k;
        }

        location /iso {
            taptalent_webhook on;
            taptalent_webhook_signature header=X-Sign key=k tolerance=10m
                timestamp=\$http_x_webhook_timestamp
                "signed=\$http_x_webhook_timestamp|\$taptalent_body";
            add_header X-Time \$taptalent_signature_timestamp always;
        }

        location /endless {
            taptalent_webhook on;
            taptalent_webhook_signature preset=stripe key=k
                tolerance=9223372036854775807;
        }

        location /file {
            taptalent_webhook on;
            taptalent_webhook_signature preset=stripe key=k;
            client_body_buffer_size 100;
        }

        location /receiver {
            taptalent_webhook receiver;
            taptalent_webhook_signature preset=stripe key=k;
        }

        location /resume {
            taptalent_webhook on;
            taptalent_webhook_events resume.*;
        }

        location /forward {
            taptalent_webhook on;
            taptalent_webhook_signature preset=github "key=$scheme{github}{keys}[0]"
                                        key=file:github.key;
            taptalent_webhook_spool %%PREFIX%%/forwarded;
            taptalent_webhook_forward /application;
            taptalent_webhook_quarantine %%PREFIX%%/quarantine;
        }

        location /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }

        location /status/json { taptalent_webhook_status json; }
        location /status/prometheus { taptalent_webhook_status prometheus; }
        location /status/html { taptalent_webhook_status html; }
    }
}
EOF_CONF

my $sink = Test::Sink->new(port => $t->port(2));

$t->run();


# One request and what becomes of it.

sub sent {
    my ($name, $path, $verdict, $body, $headers, %opts) = @_;

    my %status = (accepted => 200, signature => 401, stale => 422,
                  json => 400, payload => 422);

    $t->mark_log();
    my $spooled = $t->spool_files();
    my $r = $t->post($path, $body, headers => $headers, %opts);

    is($r->{status}, $status{$verdict}, "$name: status");
    is($r->{json}{error}, $verdict eq 'accepted' ? undef : $verdict,
       "$name: verdict");
    is($t->spool_files() - $spooled,
       $verdict eq 'accepted' && $path !~ /receiver/ ? 1 : 0, "$name: spool");

    return $r;
}


# the vectors

for my $i (0 .. $#vectors) {
    my $v = $vectors[$i];
    my $name = "$v->{scheme}, $v->{name}";
    my $s = $scheme{$v->{scheme}};
    my $sign = openssl($v->{secret} =~ /^whsec_/ && $s->{base64}
                       ? decode_base64($v->{secret} =~ s/whsec_//r)
                       : $v->{secret}, $v->{text});

    $sign = $s->{base64} ? encode_base64($sign, '') : unpack 'H*', $sign;
    $v->{sign} //= $sign;
    is($sign, $v->{sign}, "$name: openssl");

    my %headers = %{$v->{headers}};
    s/SIGN/$v->{sign}/ for values %headers;

    # the body is no event: that is found next

    sent($name, "/vector/$i", $v->{verdict}, $v->{body}, \%headers);
    sent("$name, altered", "/vector/$i", 'signature', "$v->{body} ",
         \%headers);
}

sub openssl {
    my ($key, $text) = @_;

    my $file = $t->write_file('text', $text);
    my $hex = unpack 'H*', $key;

    return scalar qx{openssl dgst -sha256 -mac HMAC -macopt hexkey:$hex \\
                     -binary $file};
}


# What a scheme sends: the headers for a body; key, time and sign may be others.

sub signed {
    my ($name, $body, %opts) = @_;

    my $s = $scheme{$name};
    my $time = $opts{time} // time();
    my $key = $opts{key} // $s->{keys}[0];
    my $text = $s->{text};

    $key = decode_base64($key =~ s/^whsec_//r) if $name =~ /standard/;
    $text =~ s/TIME/$time/;
    $text =~ s/BODY/$body/;

    my $sign = hmac_sha256($text, $key);
    $sign = $s->{base64} ? encode_base64($sign, '') : unpack 'H*', $sign;
    $sign = $opts{sign}->($sign) if $opts{sign};

    my $value = $s->{prefix} . $sign;
    $value = $opts{value}->($value) if $opts{value};

    my $sent = $opts{sent} // $time;
    $value = "$s->{param}=$sent$s->{list}$value" if $s->{param};

    return {
        %{$s->{more} // {}},
        $s->{time} ? ($s->{time} => $sent) : (),
        $s->{header} => $value,
    };
}

for my $name (sort keys %scheme) {
    for my $path ("/preset/$name", "/free/$name") {
        scheme($name, $path);
    }
}

sub scheme {
    my ($name, $path) = @_;

    my $s = $scheme{$name};
    my $body = event(n => $path);
    my $now = time();

    my $case = sub {
        my ($what, $verdict, $headers, %opts) = @_;
        return sent("$path, $what", $path, $verdict, delete $opts{body}
                    // $body, $headers, %opts);
    };

    # right

    $case->('right', 'accepted', signed($name, $body));
    $case->('right, over TLS', 'accepted', signed($name, $body), tls => 1);
    $case->('the second key', 'accepted',
            signed($name, $body, key => $s->{keys}[1]));
    $case->('chunked', 'accepted', signed($name, $body), chunked => 7);
    $case->('another body', 'accepted', signed($name, "$body\r\n"),
            body => "$body\r\n");

    # the body, in a byte, and in what JSON does not care for

    for (["$body ", 'a space'], [" $body", 'a space before'],
         [$body =~ s/25/26/r, 'a digit'], [substr($body, 0, -1), 'cut'],
         ['', 'empty'])
    {
        my ($altered, $what) = @$_;
        my $r = $case->("altered body, $what", 'signature',
                        signed($name, $body), body => $altered);
        unlike($r->{body}, qr/[0-9a-f]{20}/, 'the answer tells no digest');
    }

    my @lines = $t->grep_log(qr/webhook refused/);
    like($lines[0] // '', qr/\[warn\].* refused: signature: .*, event "/,
         "$path: at warn");
    unlike(join('', @lines), qr/\Q$_\E/, "$path: without the key")
        for @{$s->{keys}};

    # the signature

    $case->('wrong key', 'signature', signed($name, $body, key => 'x'));
    $case->('empty key', 'signature', signed($name, $body, key => ''));

    my $headers = signed($name, $body);
    my $value = $headers->{$s->{header}};

    $case->('missing', 'signature', { %$headers, $s->{header} => undef });
    $case->('empty', 'signature', { %$headers, $s->{header} => '' });
    $case->('repeated', 'signature',
            { %$headers, $s->{header} => [$value, $value] });
    $case->('repeated, once empty', 'signature',
            { %$headers, $s->{header} => ['', $value] });
    $case->('blanks around it', 'accepted',
            { %$headers, $s->{header} => "  $value  " });

    for (['truncated', sub { $_[0] =~ s/.=*$//r }],
         ['truncated by a byte', sub { $_[0] =~ s/..=*$//r }],
         ['half', sub { substr $_[0], 0, length($_[0]) / 2 }],
         ['nothing', sub { '' }],
         ['longer', sub { "$_[0]0" }],
         ['longer by a byte', sub { "$_[0]00" }],
         ['twice', sub { $_[0] x 2 }],
         ['another last digit', sub {
             my ($before, $digit, $after) = $_[0] =~ /^(.*)([^=])(=*)$/;
             return $before . ($digit eq '0' ? 8 : 0) . $after;
         }],
         ['another first digit', sub { $_[0] =~ s/^(.)/$1 eq '0' ? 1 : 0/er }],
         ['no digit', sub { $_[0] =~ s/^./-/r }])
    {
        my ($what, $sign) = @$_;
        $case->($what, 'signature', signed($name, $body, sign => $sign));
    }

    # hexadecimal digits have two cases, and base64 has not

    $case->('upper case', $s->{base64} ? 'signature' : 'accepted',
            signed($name, $body, sign => sub { uc $_[0] }));

    if ($s->{base64}) {
        $case->('hexadecimal', 'signature', signed($name, $body, sign => sub {
            unpack 'H*', decode_base64($_[0]);
        }));
        $case->('unpadded', 'accepted',
                signed($name, $body, sign => sub { $_[0] =~ s/=//r }));
        $case->('padded too much', 'signature',
                signed($name, $body, sign => sub { "$_[0]=" }));
        $case->('of URLs', 'signature', signed($name, $body, sign => sub {
            $_[0] =~ tr{+/}{-_}r =~ s/^[^-_]*$/-/r;
        }));

    } else {
        $case->('base64', 'signature', signed($name, $body, sign => sub {
            encode_base64(pack('H*', $_[0]), '');
        }));
    }

    if ($s->{prefix} ne '') {
        $case->('prefix missing', 'signature',
                signed($name, $body, value => sub { $_[0] =~
                       s/^\Q$s->{prefix}\E//r }));
        $case->('prefix in upper case', 'signature',
                signed($name, $body, value => sub { $_[0] =~
                       s/^(\Q$s->{prefix}\E)/\U$1/r }));
        $case->('another version', 'signature',
                signed($name, $body, value => sub { $_[0] =~
                       s/^(\w+)\d/${1}9/r }));
    }

    # in a list

    my $list = $s->{list} // ',';
    my ($yes, $no) = $s->{list} ? ('accepted') x 2 : ('signature') x 2;
    my $wrong = $s->{prefix} . ($s->{base64} ? 'A' x 43 . '=' : '0' x 64);
    my $unknown = $s->{unknown} // 'v9=00';

    for (['unknown version first', sub { "$unknown$list$_[0]" }],
         ['unknown version last', sub { "$_[0]$list$unknown" }],
         ['a wrong one first', sub { "$wrong$list$_[0]" }],
         ['a wrong one last', sub { "$_[0]$list$wrong" }],
         ['among many', sub { join $list, ($wrong, $unknown) x 20, $_[0] }],
         ['empty elements', sub { "$list$list$_[0]$list" }])
    {
        my ($what, $element) = @$_;
        $case->($what, $yes, signed($name, $body, value => $element));
    }

    $case->('wrong ones only', 'signature', signed($name, $body, value => sub {
        join $list, $wrong, $unknown, $wrong;
    }));
    $case->('another separator', 'signature',
            signed($name, $body, value => sub { "$wrong;$_[0]" }));

    # the time

    return if $s->{text} !~ /TIME/;

    $case->('altered time', 'signature',
            signed($name, $body, sent => $now - 1));

    for ([-290, 'accepted'], [290, 'accepted'], [-400, 'stale'],
         [400, 'stale'], [-1e9, 'stale'], [1e9, 'stale'])
    {
        my ($by, $verdict) = @$_;
        $case->("$by s", $verdict, signed($name, $body, time => time() + $by));
    }

    for my $time ('', 'now', '-1', '+1', '1e9', ' ', "$now.5", "0x$now",
                  '9' x 20)
    {
        $case->("time '$time'", 'signature',
                signed($name, $body, time => $time));
    }

    $case->('milliseconds', 'accepted',
            signed($name, $body, time => "${now}123"));
    $case->('a date-time', 'accepted',
            signed($name, $body, time => iso($now, 'Z')));
    $case->('stale, and not even signed', 'stale',
            signed($name, $body, time => $now - 1000, key => 'x'));

    if ($s->{time}) {
        my $headers = signed($name, $body);

        $case->('no time', 'signature', { %$headers, $s->{time} => undef });
        $case->('a second time', 'signature',
                { %$headers, $s->{time} => [$now - 1, $now] });

    } else {
        for my $list ("v1=0", "t=$now,t=$now,", "t=1,t=$now,", "T=$now,",
                      "tt=$now,", "t$now,")
        {
            my $headers = signed($name, $body);
            $headers->{$s->{header}} =~ s/^t=\d+,/$list/;
            $case->("time as $list", 'signature', $headers);
        }

        my $headers = signed($name, $body);
        $headers->{$s->{header}} =~ s/^(t=\d+),(.*)/$2,$1/;
        $case->('time last', 'accepted', $headers);
    }
}

sub iso {
    my ($time, $zone) = @_;
    my @tm = gmtime $time;

    return sprintf '%04d-%02d-%02dT%02d:%02d:%02d%s', $tm[5] + 1900,
                   $tm[4] + 1, @tm[3, 2, 1, 0], $zone;
}


# parameters of all kinds

my $body = event();
my $binary = "\x00\xff\x0a\xf0";
my $hex = unpack 'H*', hmac_sha512($body, $binary);
my $sign = encode_base64(hmac_sha512($body, $binary), '');

sent('sha512', '/sha512', 'accepted', $body, { 'X-Sign' => $hex });
sent('sha512, in upper case', '/sha512', 'accepted', $body,
     { 'X-Sign' => uc $hex });
sent('sha512, half', '/sha512', 'signature', $body,
     { 'X-Sign' => substr $hex, 0, 64 });
sent('sha512, sha256', '/sha512', 'signature', $body,
     { 'X-Sign' => unpack 'H*', hmac_sha256($body, $binary) });
sent('sha512base64', '/sha512base64', 'accepted', $body,
     { 'x-SIGN' => $sign });
sent('sha512base64, hexadecimal', '/sha512base64', 'signature', $body,
     { 'X-Sign' => $hex });
sent('sha1', '/sha1', 'accepted', $body,
     { 'X-Hub-Signature' => 'sha1=' . unpack 'H*', hmac_sha1($body, 'k') });
sent('sha1, sha256', '/sha1', 'signature', $body,
     { 'X-Hub-Signature' => 'sha1=' . unpack 'H*', hmac_sha256($body, 'k') });

for ([0, 'Z', 'accepted'], [7200 - 500, '+02:00', 'accepted'],
     [-3600 + 500, '-01:00', 'accepted'], [-700, 'Z', 'stale'],
     [700, 'Z', 'stale'], [0, '+02:00', 'stale'])
{
    my ($by, $zone, $verdict) = @$_;
    my $time = iso(time() + $by, $zone);

    my $r = sent("$by s $zone", '/iso', $verdict, $body,
                 { 'X-Webhook-Timestamp' => $time, 'X-Sign' => unpack 'H*',
                   hmac_sha256("$time|$body", 'k') });
    is($r->{headers}{'x-time'}, $time, "$by s $zone: variable");
}


# a tolerance that no time is beyond

for my $time (0, 1, time(), 999999999999, 9999999999999) {
    sent("endless, $time", '/endless', 'accepted', $body,
         { 'Stripe-Signature' => "t=$time,v1=" . unpack 'H*',
           hmac_sha256("$time.$body", 'k') });
}


# where it stands

my %of_http = ('X-Webhook-Signature' => unpack 'H*',
               hmac_sha256($body, 'of-http'));

sent('inherited', '/inherited', 'accepted', $body, { %of_http });
sent('inherited, missing', '/inherited', 'signature', $body, { });
sent('off', '/off', 'accepted', $body, { });

is(($t->spool_lines())[-1]{headers}{'x-webhook-signature'}, undef,
   'the spool has what came');
sent('inherited', '/inherited', 'accepted', $body, { %of_http });
is(($t->spool_lines())[-1]{headers}{'x-webhook-signature'},
   $of_http{'X-Webhook-Signature'}, 'the spool has the header');


# a large body, in a file and in pieces; another byte at its end

my $large = event(more => join ' ', 1 .. 100_000);
my $time = time();
my %large = ('Stripe-Signature' => "t=$time,v1=" . unpack 'H*',
             hmac_sha256("$time.$large", 'k'));

sent('large', '/file', 'accepted', $large, { %large });
sent('large, chunked', '/file', 'accepted', $large, { %large },
     chunked => [5000, 1]);
sent('large, altered', '/file', 'signature', $large =~ s/99999/99998/r,
     { %large });

# before anything parses it

sent('no JSON', '/inherited', 'signature', '[x', { %of_http });
sent('no JSON, signed', '/inherited', 'json', '[x',
     { 'X-Webhook-Signature' => unpack 'H*', hmac_sha256('[x', 'of-http') });
sent('no body, signed', '/inherited', 'json', '',
     { 'X-Webhook-Signature' => unpack 'H*', hmac_sha256('', 'of-http') });

# what the head tells, before the body is there

for (['missing', { }, 401],
     ['stale', { 'Stripe-Signature' => 't=1,v1=0' }, 422],
     ['malformed', { 'Stripe-Signature' => 't=,v1=0' }, 401])
{
    my ($name, $headers, $status) = @$_;
    my $path = $name eq 'missing' ? '/inherited' : '/receiver';
    my $c = $t->connect();

    $c->send(substr $t->message($path, $body, headers => $headers), 0, -1);
    is($c->answer()->{status}, $status, "$name: before the body");
    $c->close();
}

# an event that is not wanted is not read

my $other = event(event => 'candidate.updated');

is($t->post('/resume', $other, headers => { %of_http })->{body},
   '{"received":true,"ignored":true}', 'ignored');
is($t->post('/resume', $other)->{status}, 401, 'ignored, but for its header');

# pipelined, each its own

my $c = $t->connect();
my @bodies = map { event(n => $_) } 1 .. 4;

$c->send(join '', map {
    my $signed = $_ == 2 ? $bodies[0] : $bodies[$_];
    $t->message('/inherited', $bodies[$_], keepalive => 1, headers => {
        'X-Webhook-Signature' => unpack 'H*', hmac_sha256($signed, 'of-http'),
    });
} 0 .. 3);
is(join(' ', map { $c->answer()->{status} } 0 .. 3), '200 200 401 200',
   'pipelined');
$c->close();

my $r = sent('receiver', '/receiver', 'accepted', $body,
             { 'Stripe-Signature' => "t=$time,v1=" . unpack 'H*',
               hmac_sha256("$time.$body", 'k') });
is($r->{json}{payload}{event}, 'resume.bulk_upload_parse.started', 'in full');


# Forwarded, given up, and refused into quarantine: the application gets the
# signature that came, and no key.

my %state = (delivered => event(n => 'delivered'), dead =>
             event(data => { mode => '422' }), refused => event(n => 'refused'));

for my $state (sort keys %state) {
    my $key = $state eq 'refused' ? { key => 'x' } : {};
    my $r = $t->post('/forward', $state{$state}, tls => 1,
                     headers => signed('github', $state{$state}, %$key));

    is($r->{status}, $state eq 'refused' ? 401 : 200, "forward: $state");
}

ok($sink->wait_for(2), 'both are forwarded');
$t->wait_for(sub { kept('forwarded/dead') && kept('quarantine/new')
                   && !kept('forwarded/new') }, 10, 'all to be where it goes');

like($t->read_file(kept('forwarded/dead')), qr/"mode":"422"/, 'a dead letter');
like($t->read_file(kept('quarantine/new')), qr/"n": "refused"/, 'quarantine');

sub kept { my ($dir) = @_; return (glob $t->path("$dir/*.ndjson"))[0] }


# The keys are nowhere: not in a log, not in a spool, not in what the status
# says; neither as they are written nor as they are used.

for my $form (qw(json prometheus html)) {
    my $r = $t->get("/status/$form");
    is($r->{status}, 200, "status, $form");
    $t->write_file("status.$form", $r->{body});
}

like($t->read_file('status.json'), qr/"verdict":"signature"/,
     'the status has refusals');

$t->quit();

my %secret = ('of http' => 'of-http');

for my $name (keys %scheme) {
    for my $i (0, 1) {
        my $key = $scheme{$name}{keys}[$i];

        $secret{"$name $i"} = $key;
        $secret{"$name $i, used"} = decode_base64($key =~ s/^whsec_//r)
            if $name =~ /standard/;
    }
}

my ($found, $looked) = $t->found(\%secret);

is($found, '', 'no key is in any file');
cmp_ok($looked, '>', 100_000, 'and there were some');

$t->no_alerts();

done_testing();
