package Test::Browser;

# A headless Chromium by the WebDriver protocol of chromedriver. Perl's core
# modules only.
#
#   plan(skip_all => Test::Browser->missing()) if Test::Browser->missing();
#   my $b = Test::Browser->new(port => $t->port(5));
#   $b->open('http://127.0.0.1:8080/status');
#   my $title = $b->js('return document.title');
#   $b->click('#more');
#   my @said = $b->console();
#   my @events = $b->network();
#
# What WebDriver says is wrong, is fatal. All that Chromium writes is in a
# directory of its own, which is removed at the end, after its processes.

use warnings;
use strict;

use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use HTTP::Tiny;
use JSON::PP ();
use POSIX qw(WNOHANG);
use Test::Edge ();
use Test::More ();
use Time::HiRes qw(sleep time);


my $JSON = JSON::PP->new->utf8->allow_nonref->canonical;
my @ARGS = qw(--headless --no-sandbox --disable-gpu --disable-quic
              --disable-dev-shm-usage --disable-background-networking
              --disable-component-update --disable-sync --no-first-run
              --no-proxy-server);

my @browsers;
my $owner = $$;


$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);


END {
    if ($owner == $$) {
        my $status = $?;

        $_->end() for @browsers;

        $? = $status;
    }
}


# Why there is no browser to be had; '' if there is.

sub missing {
    my ($class) = @_;

    for my $name (qw(chromium chromedriver)) {
        return "needs $name of Debian, see t/build/deps.sh"
            if !defined program($name);
    }

    return '';
}

sub program {
    my ($name) = @_;

    return (grep { -x } map { "$_/$name" } split /:/, $ENV{PATH})[0];
}


# Test::Browser->new(port => n): chromedriver on this port of 127.0.0.1, and an
# empty page.

sub new {
    my ($class, %arg) = @_;

    my $dir = tempdir('browser-XXXXXXXX', TMPDIR => 1, CLEANUP => 0);
    my $self = bless { %arg, dir => $dir }, $class;

    push @browsers, $self;

    my $pid = fork() // die "fork() failed: $!";

    if ($pid == 0) {
        setpgrp 0, 0;

        $SIG{$_} = 'DEFAULT' for qw(PIPE INT TERM HUP CHLD);
        delete @ENV{grep { /^(?:XDG|DBUS|CHROM|DISPLAY|WAYLAND)/ } keys %ENV};
        @ENV{qw(HOME TMPDIR LC_ALL TZ)} = ($dir, $dir, 'C.UTF-8', 'UTC');

        CORE::open STDIN, '<', '/dev/null';
        CORE::open STDOUT, '>', "$dir/chromedriver.log";
        CORE::open STDERR, '>&', \*STDOUT;
        exec program('chromedriver'), "--port=$arg{port}"
            or POSIX::_exit(127);
    }

    # by both, as either may come first
    setpgrp $pid, $pid;

    $self->{pid} = $pid;

    # each request has a connection of its own, and no proxy

    $self->{http} = HTTP::Tiny->new(
        timeout => 30 * $Test::Edge::PATIENCE, keep_alive => 0,
        proxy => undef, http_proxy => undef,
        default_headers => { 'Content-Type' => 'application/json' });

    Test::Edge->wait_for(sub {
        return eval { $self->call(GET => '/status')->{ready} };
    }, 20, 'chromedriver')
        or die "chromedriver does not answer\n" . $self->log();

    my $session = eval {
        $self->call(POST => '/session', { capabilities => { alwaysMatch => {
            browserName => 'chrome',
            'goog:loggingPrefs' => { browser => 'ALL', performance => 'ALL' },
            'goog:chromeOptions' => {
                binary => program('chromium'),
                args => [@ARGS, "--user-data-dir=$dir/profile"],
                perfLoggingPrefs => { enableNetwork => JSON::PP::true,
                                      enablePage => JSON::PP::false },
            },
        } } });
    } or die "no session: $@" . $self->log();

    $self->{session} = "/session/$session->{sessionId}";
    Test::More::note("chromium $session->{capabilities}{browserVersion}");

    return $self;
}

sub log {
    my ($self) = @_;
    return join '', grep { /\S/ } split /^/,
                    Test::Edge::slurp("$self->{dir}/chromedriver.log");
}

sub call {
    my ($self, $method, $path, $parameters) = @_;

    my $r = $self->{http}->request($method,
        "http://127.0.0.1:$self->{port}$path",
        $method eq 'POST' ? { content => $JSON->encode($parameters // {}) }
                          : {});

    my $answer = eval { $JSON->decode($r->{content}) };
    my $value = $answer && $answer->{value};

    die "webdriver: $method $path: "
        . (ref $value ? "$value->{error}: $value->{message}"
                      : "$r->{status} $r->{content}") . "\n"
        if !$r->{success};

    return $value;
}

sub command {
    my ($self, $path, $parameters) = @_;
    return $self->call(POST => $self->{session} . $path, $parameters);
}


# ->open(url): when it has been loaded. ->js(script, @arguments): what the body
# of a function returns. ->click(selector): the first element, with the mouse.
# ->cdp(command, %parameters): of the Chrome DevTools protocol.

sub open {
    my ($self, $url) = @_;
    return $self->command('/url', { url => $url });
}

sub js {
    my ($self, $script, @arguments) = @_;
    return $self->command('/execute/sync', { script => $script,
                                             args => \@arguments });
}

sub click {
    my ($self, $selector) = @_;

    my $element = $self->command('/element', { using => 'css selector',
                                               value => $selector });
    my ($id) = values %$element;

    return $self->command("/element/$id/click");
}

sub cdp {
    my ($self, $command, %parameters) = @_;
    return $self->command('/goog/cdp/execute', { cmd => $command,
                                                 params => \%parameters });
}


# ->screen(width, 'dark'): in CSS pixels, and 'dark' or 'light'.
# ->hide, ->unhide: the window, and with it the page.

sub screen {
    my ($self, $width, $scheme) = @_;

    # as on a desktop: a mobile one would widen until all of a page is seen

    $self->cdp('Emulation.setDeviceMetricsOverride', width => $width,
               height => 900, deviceScaleFactor => 1,
               mobile => JSON::PP::false);
    $self->cdp('Emulation.setEmulatedMedia', features => [
        { name => 'prefers-color-scheme', value => $scheme }]);
}

sub hide { return $_[0]->command('/window/minimize') }
sub unhide { return $_[0]->command('/window/rect', { width => 1440,
                                                     height => 900 }) }


# ->console: what the console has got since the last time, errors of the page,
# of the network and of its policy included, each { level, source, message }.
# ->network: the events of the network since the last time, in their order, each
# [method, parameters]. Both take a moment to get here.

sub console {
    my ($self) = @_;
    return @{ $self->command('/se/log', { type => 'browser' }) };
}

sub network {
    my ($self) = @_;

    return map { [@$_{qw(method params)}] }
           grep { $_->{method} =~ /^Network\./ }
           map { $JSON->decode(bytes($_->{message}))->{message} }
               @{ $self->command('/se/log', { type => 'performance' }) };
}

sub bytes {
    my ($text) = @_;
    utf8::encode($text);
    return $text;
}


# ->end: Chromium and chromedriver, however they are, and their files.

sub end {
    my ($self) = @_;

    my $dir = delete $self->{dir} or return;

    # where it hangs it is killed all the same

    if (my $session = delete $self->{session}) {
        $self->{http}->timeout(5);
        eval { $self->call(DELETE => $session) };
    }

    if (my $pid = delete $self->{pid}) {
        kill 'TERM', -$pid;

        for (1 .. 100) {
            last if waitpid($pid, WNOHANG) != 0;
            sleep 0.02;
        }

        kill 'KILL', -$pid;
        waitpid $pid, 0;
    }

    # what has a process group of its own

    for (1 .. 100) {
        my @left = grep { Test::Edge::slurp("/proc/$_/environ")
                              =~ /(?:^|\0)HOME=\Q$dir\E\0/ }
                        map { m{(\d+)} } glob '/proc/[0-9]*' or last;
        kill 'KILL', @left;
        sleep 0.02;
    }

    for (1 .. 10) {
        remove_tree($dir, { error => \my $errors });
        last if !-e $dir;
        sleep 0.05;
    }
}


1;
