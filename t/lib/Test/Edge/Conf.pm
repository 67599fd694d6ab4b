package Test::Edge::Conf;

# The configuration of Test::Edge, and what nginx -t says of it.

use strict;
use warnings;

use IO::Socket::SSL::Utils qw(CERT_create KEY_create_ec PEM_cert2string
                              PEM_key2string);
use POSIX ();


# ->conf(text): writes nginx.conf. Replaced are:
#     %%GLOBALS%%  load_module, user, daemon, pid, error_log, worker_processes
#     %%HTTP%%     temporary paths and an access log, `access.log`, whose lines
#                  are `<status> <verdict> <method> <uri>`; put at the start of
#                  http {} if the text does not name it
#     %%TLS%%      ssl_certificate and ssl_certificate_key
#     %%PREFIX%%, %%SPOOL%%, %%PORT_n%%
# The text may be named other than nginx.conf: conf(text, 'other.conf').

sub conf {
    my ($self, $text, $name) = @_;

    $text =~ s/^(\s*http\s*\{)/$1\n%%HTTP%%\n/m if $text !~ /%%HTTP%%/;

    $text =~ s/%%GLOBALS%%/$self->globals()/ge;
    $text =~ s/%%HTTP%%/$self->http()/ge;
    $text =~ s/%%TLS%%/$self->tls()/ge;
    $text =~ s/%%SPOOL%%/$self->spool()/ge;
    $text =~ s/%%PREFIX%%/$self->{prefix}/g;
    $text =~ s/%%PORT_(\d+)%%/$self->port($1)/ge;

    $self->write_file($name // 'nginx.conf', $text);

    return $self;
}

sub globals {
    my ($self) = @_;

    my $module = $self->module();
    my $user = $self->worker_user();
    my $level = $ENV{TEST_NGINX_DEBUG} ? 'debug' : 'info';

    return join "\n",
        $module ne '' ? "load_module $module;" : (),
        $user ? "user $user;" : (),
        'daemon ' . ($self->{daemon} ? 'on' : 'off') . ';',
        "worker_processes $self->{workers};",
        "pid $self->{prefix}/nginx.pid;",
        "error_log $self->{prefix}/error.log $level;";
}

sub http {
    my ($self) = @_;

    my $p = $self->{prefix};
    my @modules = grep { !$self->has("--without-http_${_}_module") }
                       qw(proxy fastcgi uwsgi scgi);

    return join "\n",
        "client_body_temp_path $p/client_body;",
        (map { "${_}_temp_path $p/$_;" } @modules),
        'log_format edge "$status $taptalent_verdict '
            . '$request_method $request_uri";',
        "access_log $p/access.log edge;";
}

sub tls {
    my ($self) = @_;

    my $p = $self->{prefix};

    if (!-e "$p/cert.pem") {
        my ($cert, $key) = CERT_create(
            subject => { commonName => 'localhost' },
            subjectAltNames => [['DNS', 'localhost'], ['IP', '127.0.0.1']],
            key => KEY_create_ec('prime256v1'),
            not_after => time() + 365 * 86400,
        );
        $self->write_file('cert.pem', PEM_cert2string($cert));
        $self->write_file('key.pem', PEM_key2string($key));
    }

    return "ssl_certificate $p/cert.pem;\nssl_certificate_key $p/key.pem;";
}


# ->config_test(): (exit status, output) of nginx -t. What it prints does not
# get into error.log.

sub config_test {
    my ($self, $name) = @_;

    my @command = ($self->binary(), '-t', '-e', 'stderr', '-p', "$self->{prefix}/",
                   '-c', $self->path($name // 'nginx.conf'));

    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        $self->child_environment();
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? >> 8 || $? & 127, $self->on_a_disk($output));
}


# ->on_a_disk(output): what nginx has said, without the warnings that the spool
# is in memory, where the tests themselves are on a tmpfs.

sub on_a_disk {
    my ($self, $output) = @_;

    return $output =~ s/^.*\[warn\].*"$self->{prefix}\/.* in memory.*\n//mgr;
}

1;
