
# Parts of the bench: what users would write instead, in t/bench/peers/. Each
# makes the sender's checks; "validate only" then answers, all others have the
# event on the disk before. A peer that is not installed has a row that says so.

use strict;
use warnings;

use Test::Bench;
use Test::Edge;

our ($bench, @where, @floor);

my $peers = Test::Edge->top() . '/t/bench/peers';
my $modules = '/usr/lib/nginx/modules';

my $conf = <<'EOF_CONF';
%%MODULES%%
%%GLOBALS%%

thread_pool commit threads=1;

events {
    worker_connections 4096;
}

http {
    access_log off;
    error_log %%PREFIX%%/error.log warn;
    keepalive_requests 1000000000;

    %%SETUP%%

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% ssl;
        %%TLS%%

        set $spool %%SPOOL%%;

        location = /validate {
            %%VALIDATE%%
        }

        location = /file {
            %%FILE%%
        }

        %%GROUP%%
    }
}
EOF_CONF

my %language = (
    lua => {
        packages => 'libnginx-mod-http-lua and lua-cjson',
        modules => [qw(ndk_http ngx_http_lua)],
        needs => ['/usr/lib/*/lua/5.1/cjson.so'],
        setup => "lua_package_path '$peers/?.lua;;';\n"
                 . "init_worker_by_lua_block { webhook = require 'webhook' }",
        validate => 'content_by_lua_block { webhook.validate() }',
        file => 'content_by_lua_block { webhook.file() }',
        group => 'location = /group { content_by_lua_block '
                 . '{ webhook.group() } }',
    },
    njs => {
        packages => 'libnginx-mod-http-js',
        modules => [qw(ngx_http_js)],
        needs => [],
        setup => "js_path $peers/;\njs_import webhook.js;",
        validate => 'js_content webhook.validate;',
        file => 'js_content webhook.file;',
        group => '',
    },
);

my %servers;

sub missing {
    my ($language) = @_;

    my $l = $language{$language};

    my @missing = grep { my @found = glob $_; !@found || !-e $found[0] }
                  @{ $l->{needs} },
                  map { "$modules/${_}_module.so" } @{ $l->{modules} };

    return @missing ? "needs $l->{packages}" : undef;
}

# a spool that the workers of nginx can write to

sub spool {
    my ($dir) = @_;

    my ($uid, $gid) = $> == 0 ? (getpwnam(Test::Edge::worker_user()))[2, 3]
                              : ($>, $) + 0);

    for my $path ($dir, "$dir/tmp", "$dir/new") {
        mkdir $path;
        chown $uid, $gid, $path;
    }

    return $dir;
}

sub scripted {
    my ($language, $location, %opts) = @_;

    return sub {
        my $server = $servers{$language} //= do {
            my $t = Test::Edge->new(@where);
            my $l = $language{$language};
            my $text = $conf;

            $text =~ s/%%(SETUP|VALIDATE|FILE|GROUP)%%/$l->{lc $1}/g;

            spool($t->spool());
            $t->conf($text =~ s{%%MODULES%%}{join "\n",
                     map { "load_module $modules/${_}_module.so;" }
                         @{ $l->{modules} }}re)->run();

            Test::Bench::Server->nginx($t);
        };

        return $bench->wrk($server, "/$location", %opts, $location eq 'validate'
                           ? () : (spool => $server->{edge}->spool()));
    };
}


# Programs of their own, without TLS: in use they stand behind an nginx.

sub program {
    my ($name, $path, $command, %opts) = @_;
    my ($t, $server);

    return sub {
        $t //= Test::Edge->new(@where);
        $server //= Test::Bench::Server->process($t->port(0),
            $t->prefix() . '/log', $command->($t->port(0), spool($t->spool()),
                                              $t));

        return $bench->wrk($server, $path, %opts, spool => $t->spool());
    };
}

# Installed below build/ when first asked for. Node looks for packages where the
# program is, so it goes there too.

sub node {
    my ($name) = @_;

    return sub {
        my ($port, $spool) = @_;

        my $dir = Test::Edge->top() . '/build/peers';

        system("mkdir -p $dir && cp $peers/*.js* $dir/ && cd $dir"
               . ' && { npm ls || npm install --no-audit --no-fund; }'
               . ' > npm.log 2>&1') == 0
            or die "not measured: npm failed, see $dir/npm.log\n";

        return ('node', "$dir/$name.js", $port, $spool);
    };
}

sub hook {
    my ($port, $spool, $t) = @_;

    my $date = '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?'
               . '(Z|[+-]\\d\\d:\\d\\d)$';
    my $name = '^[A-Za-z0-9._:-]{1,128}$';
    my @rules = map { { match => {
                            type => 'regex', regex => $_->[2],
                            parameter => { source => $_->[0],
                                           name => $_->[1] } } } }
        ['header', 'Content-Type', '(?i)^application/json *(;|$)'],
        ['header', 'X-Webhook-Event', $name],
        ['header', 'X-Webhook-Timestamp', $date],
        ['payload', 'event', $name], ['payload', 'timestamp', $date],
        ['payload', 'data.batchId', '.'],
        ['payload', 'companyId', '^company-uuid$'];

    my $hooks = $t->write_file('hooks.json', JSON::PP->new->encode([{
        id => 'hook',
        'execute-command' => "$peers/hook.sh",
        'include-command-output-in-response' => \1,
        'http-methods' => ['POST'],
        'pass-arguments-to-command' => [
            { source => 'string', name => $spool },
            { source => 'raw-request-body' },
            { source => 'header', name => 'X-Webhook-Event' },
        ],
        'trigger-rule' => { and => \@rules },
        'trigger-rule-mismatch-http-response-code' => 422,
    }]));

    return ('webhook', '-hooks', $hooks, '-ip', '127.0.0.1', '-port', $port);
}

sub has {
    my ($command) = @_;

    return system("command -v $command > /dev/null") == 0
           ? undef : "needs $command";
}


my $validate = 'Lua, validate only';
my $group = 'Lua, group commit in a thread';

for my $how ('plain', 'TLS') {
    my %opts = (connections => 256, tls => $how eq 'TLS');

    $bench->part("$how, 256 connections");
    $bench->row($validate, scripted('lua', 'validate', %opts), @floor,
                missing => missing('lua'));
    $bench->row($group, scripted('lua', 'group', %opts), @floor,
                missing => missing('lua'));
}

my %opts = (connections => 64);
my @one = ('Lua, a file an event', 'Express, a file an event',
           'njs, a file an event, O_SYNC', 'adnanh/webhook, a file an event');
my @grouped = ($group, 'Fastify, group commit');

$bench->part('plain, 64 connections');
$bench->row($grouped[0], scripted('lua', 'group', %opts), @floor,
            missing => missing('lua'));
$bench->row($grouped[1], program('fastify', '/', node('fastify'), %opts),
            @floor, missing => has('node') // has('npm'));
$bench->row($one[0], scripted('lua', 'file', %opts), @floor,
            missing => missing('lua'));
$bench->row($one[1], program('express', '/', node('express'), %opts), @floor,
            missing => has('node') // has('npm'));
$bench->row($one[2], scripted('njs', 'file', %opts), @floor,
            missing => missing('njs'));
$bench->row($one[3], program('webhook', '/hooks/hook', \&hook, %opts), @floor,
            missing => has('webhook'));

# the worst of the ratios to each of these, which is that to the best of them

sub to_best {
    my ($part, @names) = @_;

    my @ratios = sort { $a <=> $b } grep { defined }
                 map { $bench->ratio($part, 'durable', $_) } @names;

    return $ratios[0];
}

$bench->aim('durable, 256 connections, TLS, to the best validate-only peer',
            'least', '1.0', '1.25',
            sub { to_best('TLS, 256 connections', $validate) });
$bench->aim('durable, 64 connections, plain, to the best durable peer', 'least',
            '1.1', '1.5', sub { to_best('plain, 64 connections', @grouped,
                                        @one) });
$bench->aim('the same to the best peer that writes a file an event', 'least',
            '10', '15', sub { to_best('plain, 64 connections', @one) });

1;
