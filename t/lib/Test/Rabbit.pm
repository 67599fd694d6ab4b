package Test::Rabbit;

# A cluster of RabbitMQ, of the package rabbitmq-server: Erlang nodes on
# loopback, with an epmd, ports and directories of their own.
#
#   my $rabbit = Test::Rabbit->new($t, 3);      $t reserves ports and has a prefix
#   $rabbit->start(0 .. 2);                     returns when they are a cluster
#   $rabbit->api(0, GET => '/api/overview');    decoded, dies unless 2xx
#   $rabbit->kill(1);                           kill -9 of its beam
#
# All ends with the object.

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::Edge ();

my $SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server';

sub available { return -x $SERVER }

sub new {
    my ($class, $t, $n) = @_;

    my $dir = $t->prefix() . '/rabbit';
    mkdir $dir or die "mkdir $dir: $!";

    my $self = bless { t => $t, dir => $dir, owner => $$, pids => {},
                       http => [map { $t->port("http$_") } 0 .. $n - 1],
                       epmd => $t->port('epmd') }, $class;

    for my $i (0 .. $n - 1) {
        my ($amqp, $dist) = map { $t->port("$_$i") } qw(amqp dist);

        mkdir "$dir/$i" or die "mkdir $dir/$i: $!";

        $t->write_file("$dir/$i/rabbitmq.conf", join "\n",
            "listeners.tcp.1 = 127.0.0.1:$amqp",
            'management.tcp.ip = 127.0.0.1',
            "management.tcp.port = $self->{http}[$i]",
            'cluster_partition_handling = pause_minority',
            'cluster_formation.peer_discovery_backend = classic_config',
            (map { "cluster_formation.classic_config.nodes."
                   . ($_ + 1) . " = node$_\@localhost" }
                 0 .. ($i == 0 ? 0 : $n - 1)),
            'disk_free_limit.absolute = 10MB',
            'log.file.level = warning', '');

        $t->write_file("$dir/$i/plugins", "[rabbitmq_management].\n");

        $self->{env}[$i] = {
            HOME => $dir, ERL_EPMD_ADDRESS => '127.0.0.1',
            ERL_EPMD_PORT => $self->{epmd},
            RABBITMQ_NODENAME => "node$i\@localhost",
            RABBITMQ_DIST_PORT => $dist,
            RABBITMQ_CONF_ENV_FILE => "$dir/$i/none",
            RABBITMQ_CONFIG_FILE => "$dir/$i/rabbitmq.conf",
            RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/$i/plugins",
            RABBITMQ_MNESIA_BASE => "$dir/$i", RABBITMQ_LOG_BASE => "$dir/$i",
            RABBITMQ_PID_FILE => "$dir/$i/pid",
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+S 1:1 +sbwt none',
        };
    }

    # else an interrupted test would leave the nodes behind

    $SIG{$_} = sub { exit 1 } for qw(TERM INT HUP);

    # the nodes find each other by it, and know each other by this

    $t->write_file("$dir/.erlang.cookie", 'cookie' . int(rand 1e9));
    chmod 0400, "$dir/.erlang.cookie";

    $self->spawn('epmd', $self->{env}[0], 'epmd');

    return $self;
}

sub spawn {
    my ($self, $name, $env, @command) = @_;

    my $pid = fork() // die "fork: $!";

    if ($pid == 0) {
        @ENV{keys %$env} = values %$env;
        $SIG{$_} = 'DEFAULT' for qw(PIPE INT TERM HUP CHLD);
        setpgrp;
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', "$self->{dir}/$name.log";
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    $self->{pids}{$name} = $pid;
}


# ->start(i...): the first alone, so that the others find a cluster to join; it
# knows of no others, for which RabbitMQ 4 would wait.

sub start {
    my ($self, @nodes) = @_;

    $self->spawn($_, $self->{env}[$_], $SERVER) for $nodes[0];
    $self->up($nodes[0]);

    $self->spawn($_, $self->{env}[$_], $SERVER) for @nodes[1 .. $#nodes];
    $self->up($_) for @nodes[1 .. $#nodes];

    $self->{t}->wait_for(sub {
        my $list = eval { $self->api($nodes[0], GET => '/api/nodes') } // [];
        @nodes == grep { $_->{running} } @$list;
    }, 60, 'the cluster') or die $self->logs();
}

sub up {
    my ($self, $i) = @_;

    $self->{t}->wait_for(sub {
        eval { $self->api($i, GET => '/api/overview') };
    }, 90, "node $i of RabbitMQ") or die $self->logs();
}

sub logs {
    my ($self) = @_;
    return join '', map { "$_:\n" . Test::Edge::slurp($_) }
                        glob "$self->{dir}/*.log $self->{dir}/*/*.log";
}

sub port { return $_[0]{http}[$_[1]] }

sub api {
    my ($self, $i, $method, $uri, $content) = @_;

    my $r = HTTP::Tiny->new(timeout => 20)->request($method,
        "http://127.0.0.1:$self->{http}[$i]$uri",
        { headers => { Authorization => 'Basic '
                           . encode_base64('guest:guest', ''),
                       'Content-Type' => 'application/json' },
          defined $content
          ? (content => JSON::PP->new->canonical->encode($content)) : () });

    die "$method $uri: $r->{status} $r->{content}\n" if !$r->{success};

    return length $r->{content}
           ? JSON::PP->new->allow_nonref->decode($r->{content}) : 1;
}


# ->kill(i): not the script but the Erlang machine itself.

sub kill {
    my ($self, $i) = @_;

    my $pid = delete $self->{pids}{$i} or return;
    my @beam = Test::Edge::children($pid);

    CORE::kill('KILL', @beam);
    waitpid $pid, 0;

    return @beam;
}

sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $!, $@);

    # each is the leader of its group

    for my $pid (values %{ $self->{pids} }) {
        CORE::kill('KILL', -$pid);
        waitpid $pid, 0;
    }
}

1;
