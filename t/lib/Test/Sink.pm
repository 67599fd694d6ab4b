package Test::Sink;

# An application behind the edge: a process that takes HTTP/1.1 requests,
# answers as it is told and logs each of them.
#
#   my $sink = Test::Sink->new(port => $t->port(2));
#   $t->post('/hook', event(data => { mode => '404,429r2,200' }));
#   $sink->wait_for(3);                          requests, see below
#   my @requests = $sink->requests();
#   $sink->mode('all:503');                      from now on
#   $sink->stop();  $sink->start();              connections are refused; again
#
# What it answers is a script: a list with commas, one for each time it sees
# the event, the last for all times after. It is "mode":"..." anywhere in the
# body, of an event that has it, else the default. An element of it is one of
#
#   200, 404...   this status; 3xx come with a Location
#   429r2         with Retry-After: 2, in seconds, or any other text;
#                 429r;2 has two of them, the first one is empty
#   503d3         with Retry-After: a date 3 seconds from now
#   close         200, and closes the connection
#   big           200 and a megabyte
#   accel:/uri    200 with X-Accel-Redirect
#   slow:300      200 after 300 ms; slow:300:503 another element after that
#   hold          waits for release('200')
#   reset, fin    no answer, the connection is reset, or closed in order
#   half          a part of the body, then the end; halfhead a part of a header
#   drip          200, and a byte of the body every 100 ms, for ever
#   garbage       not HTTP
#   hang          no answer, the connection stays open
#
# A request is logged when it has been answered, or will not be:
#
#   time, start   when it was answered, when it had come
#   id, attempt, received, event          its X-Webhook-* headers
#   method, uri, headers                  [[name, value], ...] as received
#   sha256, body                          bytes
#   answer, status                        the script's element, its status or 0
#   complete                              1: all of the answer was written

use warnings;
use strict;

use File::Temp qw(tempfile);
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Test::Edge ();
use Test::More ();
use Time::HiRes qw(sleep time);


# Test::Sink->new(%arg): listens when it returns.
#
#   port or path   where, on 127.0.0.1 or a unix socket
#   tls            { SSL_cert_file => ..., SSL_key_file => ... }, or 1 with
#                  these two below `edge`, a Test::Edge
#   default        the script of an event that has none, 200
#   log            a file of its own otherwise
#   down           1: does not listen yet

sub new {
    my ($class, %arg) = @_;

    my $log = $arg{log};

    if (!defined $log) {
        (my $fh, $log) = tempfile('sink-XXXXXXXX', TMPDIR => 1);
    }

    if ($arg{tls} && !ref $arg{tls}) {
        my $prefix = $arg{edge}->prefix();
        $arg{edge}->tls();
        $arg{tls} = { SSL_cert_file => "$prefix/cert.pem",
                      SSL_key_file => "$prefix/key.pem" };
    }

    delete $arg{edge};

    my $self = bless { default => '200', %arg, log => $log, owner => $$,
                       temporary => !defined $arg{log}, offset => 0,
                       list => [] }, $class;

    socketpair(my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "socketpair() failed: $!";

    my $pid = fork() // die "fork() failed: $!";

    if ($pid == 0) {
        close $ours;
        $SIG{PIPE} = 'IGNORE';
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP CHLD);
        eval { Test::Sink::Process->new($self, $its)->run(); 1 }
            or print STDERR "sink: $@";
        POSIX::_exit(0);
    }

    close $its;

    $self->{pid} = $pid;
    $self->{control} = $ours;
    $self->start() unless $arg{down};

    return $self;
}

sub pid { return $_[0]{pid} }
sub port { return $_[0]{port} }
sub log { return $_[0]{log} }


# ->mode('all:<element>'): the answer to all; mode(''): scripts again.
# ->stop, ->start: not listening, and all connections closed; listening again.
# ->held: how many wait for release. ->release('200'): answers these.

sub mode { my ($self, $mode) = @_; return $self->command("mode $mode") }
sub stop { return $_[0]->command('stop') }
sub start { return $_[0]->command('start') }
sub held { return $_[0]->command('held') }

sub release {
    my ($self, $answer) = @_;
    return $self->command('release ' . ($answer // '200'));
}

sub command {
    my ($self, $command) = @_;

    syswrite $self->{control}, "$command\n";

    my $answer = readline $self->{control};
    die "sink: \"$command\" failed: " . ($answer // 'it is gone')
        if !defined $answer || $answer !~ /^ok(?: (.*))?$/;

    return $1 // 1;
}


# ->requests: all that have been logged until now. ->requests(sub): those for
# which it is true, each being $_. ->forget: those until now are not listed
# again.

sub requests {
    my ($self, $filter) = @_;

    $self->poll();

    return grep { $filter->() } @{ $self->{list} } if $filter;
    return @{ $self->{list} };
}

sub forget {
    my ($self) = @_;
    $self->poll();
    @{ $self->{list} } = ();
}

sub poll {
    my ($self) = @_;

    # what it has answered before this it has logged
    eval { $self->command('sync') };

    open my $fh, '<:raw', $self->{log} or return;
    seek $fh, $self->{offset}, 0;

    while (my $line = <$fh>) {
        last if $line !~ /\n\z/;
        $self->{offset} += length $line;
        push @{ $self->{list} }, decode($line);
    }
}


# ->wait_for(n or sub, seconds, what): until n requests are listed, or the sub,
# which gets them, returns what is true; '' and a diagnostic after the time.

sub wait_for {
    my ($self, $until, $seconds, $what) = @_;

    $seconds = ($seconds // 10) * $Test::Edge::PATIENCE;

    my $deadline = time() + $seconds;
    my $pause = 0.002;

    while (1) {
        my @list = $self->requests();
        my $value = ref $until ? $until->(@list) : @list >= $until;
        return $value if $value;

        if (time() > $deadline) {
            $what //= ref $until ? 'the application' : "$until requests";
            Test::More::diag("waited $seconds s in vain for $what; "
                             . scalar(@list) . ' requests');
            return '';
        }

        sleep($pause);
        $pause *= 1.5 if $pause < 0.03;
    }
}


# A line of the log. All that is not plain in a string is \u00XX, so that this
# is fast.

sub encode {
    my ($request) = @_;

    my @members;

    for my $name (qw(time start attempt status complete)) {
        my $value = $request->{$name};
        push @members, "\"$name\":" . (defined $value && $value =~ /^[\d.]+$/
                                       ? $value + 0 : 'null');
    }

    for my $name (qw(id received event method uri answer sha256)) {
        push @members, "\"$name\":" . quoted($request->{$name});
    }

    push @members, '"headers":['
        . join(',', map { '[' . quoted($_->[0]) . ',' . quoted($_->[1]) . ']' }
                        @{ $request->{headers} }) . ']';

    return '{' . join(',', @members) . ',"body":' . quoted($request->{body})
           . "}\n";
}

sub quoted {
    my ($text) = @_;
    return 'null' if !defined $text;
    $text =~ s/([^\x20-\x7e]|["\\])/sprintf '\\u%04x', ord $1/ge;
    return "\"$text\"";
}

sub decode {
    my ($line) = @_;

    my %request;

    my $value = qr/(null|[\d.e+-]+|"[^"]*")/;
    my ($start, $headers, $body) =
        $line =~ /^\{(.*?),"headers":\[(.*)\],"body":$value\}$/
        or die "sink: not a line of the log: $line";

    while ($start =~ /"(\w+)":$value/g) {
        $request{$1} = unquoted($2);
    }

    while ($headers =~ /\[$value,$value\]/g) {
        push @{ $request{headers} }, [unquoted($1), unquoted($2)];
    }

    $request{body} = unquoted($body);

    return \%request;
}

sub unquoted {
    my ($text) = @_;
    return undef if $text eq 'null';
    return $text + 0 if $text !~ s/^"(.*)"$/$1/;
    $text =~ s/\\u00(..)/chr hex $1/ge;
    return $text;
}


# header(request, name): its value; all of them in list context.

sub header {
    my ($request, $name) = @_;
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name }
                                      @{ $request->{headers} };
    return wantarray ? @values : $values[0];
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $!, $@);

    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    unlink $self->{log} if $self->{temporary};
    unlink $self->{path} if defined $self->{path};
}


package Test::Sink::Process;

# One process, one select().

use warnings;
use strict;

use Digest::SHA qw(sha256_hex);
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use Fcntl qw(O_APPEND O_CREAT O_WRONLY);
use Socket qw(IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_NODELAY);
use Time::HiRes qw(time);

my %reason = (200 => 'OK', 204 => 'No Content', 302 => 'Found',
              404 => 'Not Found', 429 => 'Too Many Requests',
              500 => 'Internal Server Error', 503 => 'Service Unavailable');

sub new {
    my ($class, $sink, $control) = @_;

    require IO::Socket::SSL if $sink->{tls};

    sysopen my $log, $sink->{log}, O_WRONLY | O_APPEND | O_CREAT, 0644
        or die "open() \"$sink->{log}\" failed: $!\n";

    return bless { sink => $sink, control => $control, log => $log,
                   mode => '', seen => {}, conns => {}, late => [],
                   in => '', out => '' }, $class;
}


sub run {
    my ($self) = @_;

    vec($self->{in}, fileno $self->{control}, 1) = 1;

    while (1) {
        my $wait;

        for my $late (@{ $self->{late} }) {
            my $left = $late->{at} - time();
            $left = 0 if $left < 0;
            $wait = $left if !defined $wait || $left < $wait;
        }

        my ($in, $out) = ($self->{in}, $self->{out});
        my $n = select $in, $out, undef, $wait;

        if ($n > 0) {
            if (vec $in, fileno $self->{control}, 1) {
                $self->control() or return;
            }

            $self->accept() if $self->{listen}
                               && vec $in, fileno $self->{listen}, 1;

            for my $fd (keys %{ $self->{conns} }) {
                my $c = $self->{conns}{$fd} or next;
                $self->write($c) if vec $out, $fd, 1;
                $self->read($c) if vec($in, $fd, 1) && !$c->{gone};
            }
        }

        my $now = time();
        my @due = grep { $_->{at} <= $now } @{ $self->{late} };

        if (@due) {
            @{ $self->{late} } = grep { $_->{at} > $now } @{ $self->{late} };
            $self->answer($_->{conn}, $_->{request}, $_->{element}) for @due;
        }
    }
}


sub control {
    my ($self) = @_;

    # commands wait for their answer, so a read is one command
    my $n = sysread $self->{control}, my $text, 65536;
    return 0 if !$n;

    my $answer = 'ok';
    my ($command, $rest) = $text =~ /^(\w+) ?(.*)\n/;

    if ($command eq 'mode') {
        $self->{mode} = $rest;

    } elsif ($command eq 'start') {
        $answer = $self->listen();

    } elsif ($command eq 'stop') {
        $self->shut();

    } elsif ($command eq 'held') {
        $answer .= ' ' . grep { $_->{held} } values %{ $self->{conns} };

    } elsif ($command eq 'release') {
        for my $c (values %{ $self->{conns} }) {
            my $request = delete $c->{held} or next;
            $self->answer($c, $request, $rest);
        }
    }

    syswrite $self->{control}, "$answer\n";

    return 1;
}


sub listen {
    my ($self) = @_;

    my $sink = $self->{sink};

    return 'ok' if $self->{listen};

    if (defined $sink->{path}) {
        unlink $sink->{path};
        $self->{listen} = IO::Socket::UNIX->new(Local => $sink->{path},
                                                Listen => 1024);
        chmod 0777, $sink->{path};

    } else {
        $self->{listen} = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $sink->{port},
            Listen => 1024, ReuseAddr => 1);
    }

    return "listen() failed: $!" if !$self->{listen};

    $self->{listen}->blocking(0);
    vec($self->{in}, fileno $self->{listen}, 1) = 1;

    return 'ok';
}


sub shut {
    my ($self) = @_;

    if (my $listen = delete $self->{listen}) {
        vec($self->{in}, fileno $listen, 1) = 0;
        close $listen;
        unlink $self->{sink}{path} if defined $self->{sink}{path};
    }

    $self->close($_) for values %{ $self->{conns} };
}


sub accept {
    my ($self) = @_;

    for (1 .. 64) {
        my $socket = $self->{listen}->accept() or return;

        $socket->blocking(0);
        setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1
            if !defined $self->{sink}{path};

        my $c = { socket => $socket, fd => fileno $socket, in => '',
                  out => '' };

        if ($self->{sink}{tls}) {
            $c->{socket} = IO::Socket::SSL->start_SSL($socket,
                SSL_server => 1, SSL_startHandshake => 0,
                %{ $self->{sink}{tls} }) or next;
            $c->{handshake} = 1;
        }

        $self->{conns}{$c->{fd}} = $c;
        vec($self->{in}, $c->{fd}, 1) = 1;
    }
}


sub close {
    my ($self, $c, %arg) = @_;

    return if $c->{gone};

    $c->{gone} = 1;
    vec($self->{in}, $c->{fd}, 1) = 0;
    vec($self->{out}, $c->{fd}, 1) = 0;
    delete $self->{conns}{$c->{fd}};

    $self->write_log($c->{busy}, 0) if $c->{busy};

    setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)
        if $arg{reset};

    if ($self->{sink}{tls}) {
        $c->{socket}->close($arg{reset} ? (SSL_no_shutdown => 1) : ());

    } else {
        close $c->{socket};
    }
}


sub read {
    my ($self, $c) = @_;

    if ($c->{handshake}) {
        if (!$c->{socket}->accept_SSL()) {
            return if $! == EAGAIN || $! == EWOULDBLOCK;
            return $self->close($c);
        }

        delete $c->{handshake};
    }

    while (1) {
        # IO::Socket::SSL empties the buffer if there is nothing to read
        my $n = $c->{socket}->sysread(my $part, 262144);

        if (!$n) {
            last if !defined $n && ($! == EAGAIN || $! == EINTR
                                    || $! == EWOULDBLOCK);
            return $self->close($c);
        }

        $c->{in} .= $part;

        last if !$self->{sink}{tls} && $n < 262144;
    }

    $self->requests($c);
}


sub requests {
    my ($self, $c) = @_;

    while (!$c->{gone} && !$c->{busy}) {
        my $request = $c->{request};

        if (!$request) {
            $c->{in} =~ s/^(.*?)\r\n\r\n//s or return;
            my ($first, @lines) = split /\r\n/, $1;

            $request = { headers => [map { [split /: ?/, $_, 2] } @lines] };
            @$request{qw(method uri)} = split / /, $first;
            my %header = map { lc $_->[0] => $_->[1] }
                             @{ $request->{headers} };

            $request->{$_} = $header{"x-webhook-$_"}
                for qw(id attempt received event);
            $request->{length} = $header{'content-length'} // 0;
            $request->{chunked} = 1 if $header{'transfer-encoding'};
            $request->{last} = lc($header{connection} // '') eq 'close'
                               || $first =~ m{HTTP/1\.0$};
            $request->{body} = '';
            $c->{request} = $request;
        }

        if ($request->{chunked}) {
            while ($c->{in} =~ /^([0-9a-f]+)\r\n/i) {
                my ($head, $size) = (length($1) + 2, hex $1);
                return if length $c->{in} < $head + $size + 2;
                $request->{body} .= substr $c->{in}, $head, $size;
                substr $c->{in}, 0, $head + $size + 2, '';
                $request->{chunked} = 0 if !$size;
                last if !$size;
            }
            return if $request->{chunked};

        } else {
            return if length $c->{in} < $request->{length};
            $request->{body} = substr $c->{in}, 0, $request->{length}, '';
        }

        delete $c->{request};
        $request->{start} = time();
        $request->{sha256} = sha256_hex($request->{body});
        $c->{busy} = $request;

        $self->answer($c, $request, $self->element($request));
    }
}


# the element of the script whose turn it is

sub element {
    my ($self, $request) = @_;

    my $turn = $self->{seen}{ $request->{id} // $request->{sha256} }++;

    return $1 if $self->{mode} =~ /^all:(.*)$/;

    my ($script) = $request->{body} =~ /"mode"\s*:\s*"?([^",}](?:[^"}]*))/;
    my @script = split /,/, $script // $self->{sink}{default};

    return $script[$turn < $#script ? $turn : $#script] // '200';
}


sub answer {
    my ($self, $c, $request, $element) = @_;

    return if $c->{gone};

    $request->{answer} //= $element;
    $request->{status} = 0;

    if ($element =~ /^slow:(\d+)(?::(.*))?$/) {
        push @{ $self->{late} }, { conn => $c, request => $request,
                                   at => time() + $1 / 1000,
                                   element => $2 // '200' };
        return;
    }

    if ($element eq 'hold') {
        $c->{held} = $request;
        return;
    }

    if ($element eq 'hang') {
        # the connection's end must not log it again
        $self->write_log($request, 0);
        $c->{busy} = { logged => 1 };
        return;
    }

    return $self->close($c, reset => 1) if $element eq 'reset';
    return $self->close($c) if $element eq 'fin';

    my %part = (half => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
                halfhead => "HTTP/1.1 200 OK\r\nContent-Le",
                garbage => "what?\r\n\r\n");

    if ($part{$element}) {
        $c->{out} = $part{$element};
        $c->{part} = 1;
        return $self->write($c);
    }

    if ($element =~ /^drip/) {
        $c->{out} .= "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
            if $element eq 'drip';
        $c->{out} .= '.';
        $c->{dripping} = 1;
        $self->write($c);
        push @{ $self->{late} }, { conn => $c, request => $request,
                                   at => time() + 0.1, element => 'dripping' };
        return;
    }

    my ($status, $retry, $after) = $element =~ /^(\d{3})(?:([rd])(\S+))?$/;

    $status //= 200;
    $request->{status} = $status;
    $c->{last} = $request->{last} || $element eq 'close';

    my $body = $element eq 'big' ? 'x' x 1_048_576 : 'ok';
    my @headers = ('Content-Type: text/plain');

    $body = '' if $status == 204 || $status == 304;
    push @headers, 'Content-Length: ' . length $body if $status != 204;
    push @headers, 'Connection: close' if $c->{last};
    push @headers, 'Location: http://127.0.0.1:1/elsewhere'
        if $status =~ /^3/;
    push @headers, "X-Accel-Redirect: $1" if $element =~ /^accel:(.*)$/;
    push @headers, map { "Retry-After: $_" }
                       $retry eq 'r' ? split /;/, $after
                                     : http_date(time() + $after)
        if defined $retry;

    $c->{out} = "HTTP/1.1 $status " . ($reason{$status} // 'Status') . "\r\n"
                . join("\r\n", @headers) . "\r\n\r\n$body";

    $self->write($c);
}

sub http_date {
    my ($time) = @_;

    my ($s, $m, $h, $day, $month, $year, $wday) = gmtime POSIX::ceil($time);

    return sprintf '%s, %02d %s %04d %02d:%02d:%02d GMT',
                   (qw(Sun Mon Tue Wed Thu Fri Sat))[$wday], $day,
                   (qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[$month],
                   $year + 1900, $h, $m, $s;
}


sub write {
    my ($self, $c) = @_;

    # who gets the answer may look at its own clock before this goes on

    $c->{busy}{time} //= time() if $c->{busy};

    while (length $c->{out}) {
        my $n = $c->{socket}->syswrite($c->{out}, 65536);

        if (!defined $n) {
            if ($! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR) {
                vec($self->{out}, $c->{fd}, 1) = 1;
                return;
            }
            return $self->close($c);
        }

        substr $c->{out}, 0, $n, '';
    }

    vec($self->{out}, $c->{fd}, 1) = 0;

    return $self->close($c) if $c->{part};
    return if $c->{dripping};

    $self->write_log(delete $c->{busy}, 1) if $c->{busy};

    return $self->close($c) if $c->{last};

    $self->requests($c) if length $c->{in};
}


sub write_log {
    my ($self, $request, $complete) = @_;

    return if $request->{logged}++;

    $request->{time} //= time();
    $request->{complete} = $complete;

    my $line = Test::Sink::encode($request);
    my $offset = 0;

    while ($offset < length $line) {
        $offset += syswrite($self->{log}, $line, length $line, $offset)
                   // die "write() failed: $!\n";
    }
}

1;
