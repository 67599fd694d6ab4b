package Test::Spool;

# What lies in a spool, and whether it is what was acknowledged.
#
#   my $o = Test::Spool->new();                  one oracle for a test
#   my $load = $o->load(port => 8080, uri => '/hook', senders => 8);
#   $o->wait_acked(100);                          while something breaks
#   $load->stop();
#   $o->collect($spool);                          reads spool/new
#   $o->report('kill -9', $trials);               the line of figures
#   $o->lost, $o->altered, $o->duplicated
#
# Every event is a function of its id, so the reader knows all its bytes:
# lost = acknowledged and not in the spool; altered = in the spool, but not
# with the bytes sent, or in a file whose name, checksum or lines are wrong.

use warnings;
use strict;

use base 'Exporter';

our @EXPORT_OK = qw(list read_spool read_file parse_name check_file split_line
                    event_body);

use Compress::Zlib ();
use Digest::SHA qw(sha256_hex);
use File::Temp ();
use MIME::Base64 qw(decode_base64);
use POSIX qw(_exit);
use Scalar::Util qw(weaken);
use Test::Edge ();
use Time::HiRes qw(time);


# time, random bits of the worker start, sequence, events, crc32

our $NAME = qr/^(\d{8}T\d{6}\.\d{3}Z)-([0-9a-f]{16})-(\d{10})-(\d+)
               -([0-9a-f]{8})\.ndjson$/x;

our $LINE = qr/^\{"v":1,"id":"([0-9a-f]{32})",
                "received":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)",
                "event":"((?:[^"\\]|\\.)*)",
                "timestamp":"((?:[^"\\]|\\.)*)",
                "companyId":(?:"((?:[^"\\]|\\.)*)"|null),
                (?:"host":"[^"]*",)?
                "headers":(\{.*?\}),
                (?:"raw":"([A-Za-z0-9+\/=]*)",)?
                "payload":/x;


# files ----------------------------------------------------------------------


sub parse_name {
    my ($name) = @_;

    return undef unless $name =~ $NAME;

    return { name => $name, time => $1, start => $2, seq => $3,
             events => $4, crc => $5 };
}


sub read_file {
    my ($path) = @_;

    open my $fh, '<:raw', $path or return undef;
    local $/;

    my $content = <$fh>;
    return defined $content ? $content : '';
}


# the envelope's members, the exact body last; undef if it is no envelope

sub split_line {
    my ($line) = @_;

    return undef unless $line =~ $LINE;

    my ($id, $received, $event, $timestamp, $company, $headers, $raw)
        = ($1, $2, $3, $4, $5, $6, $7);

    my $payload = substr($line, $+[0]);

    return undef unless $payload =~ s/\}\z//;

    my $body = defined $raw ? decode_base64($raw) : $payload;

    return { id => $id, received => $received, event => $event,
             timestamp => $timestamp, companyId => $company,
             headers => $headers, raw => $raw, payload => $payload,
             body => $body };
}


# what is wrong with a file, as text; its lines go to the second result

sub check_file {
    my ($path) = @_;

    my ($name) = $path =~ m{([^/]+)\z};
    my $part = parse_name($name);
    my $content = read_file($path);

    return ("$name: unreadable: $!", []) unless defined $content;

    my @lines = split /(?<=\n)/, $content;
    my @wrong;

    push @wrong, 'name' unless $part;
    push @wrong, 'empty' unless length $content;
    push @wrong, 'no newline at its end' if @lines && $lines[-1] !~ /\n\z/;

    if ($part) {
        my $crc = sprintf '%08x', Compress::Zlib::crc32($content);

        push @wrong, "crc is $crc" if $crc ne $part->{crc};
        push @wrong, @lines . ' lines' if @lines != $part->{events};
    }

    chomp @lines;

    return (@wrong ? "$name: " . join(', ', @wrong) : undef, \@lines);
}


sub list {
    my ($dir) = @_;

    opendir my $dh, $dir or return;
    my @names = sort grep { !/^\.\.?$/ } readdir $dh;

    return @names;
}


# all of new/: the files, each with its lines and what is wrong with it

sub read_spool {
    my ($spool) = @_;
    my @files;

    for my $name (list("$spool/new")) {
        my ($wrong, $lines) = check_file("$spool/new/$name");

        push @files, { %{ parse_name($name) || { name => $name } },
                       path => "$spool/new/$name", wrong => $wrong,
                       lines => $lines };
    }

    return @files;
}


# events ---------------------------------------------------------------------


# The body of the event with this id. Sizes and shapes vary with the number
# at the id's end: most are small, some have CR and LF between tokens (the
# envelope's raw form), some fill many buffers.

sub event_body {
    my ($id) = @_;

    my ($n) = $id =~ /(\d+)$/;
    my $pad = $n % 53 == 7 ? 40000 + $n % 4096 : $n % 17 == 3 ? 4000 + $n % 512
            : $n % 64;
    my $nl = $n % 11 == 5 ? "\r\n" : '';

    return '{"event":"resume.bulk_upload_parse.started",' . $nl
         . '"timestamp":"2024-01-20T14:45:00Z","companyId":"company-uuid",'
         . '"data":{"id":"' . $id . '",' . $nl . '"batchId":"batch-uuid",'
         . '"pad":"' . ('x' x $pad) . '"}}' . $nl;
}


sub new {
    my ($class, %arg) = @_;

    my $self = bless {
        pid => $$,
        dir => File::Temp->newdir('taptalent-load-XXXXXX', TMPDIR => 1),
        loads => [], offset => {}, sent => 0, acked => {}, refused => 0,
        failed => [], retried => 0, seen => {}, altered => 0, wrong => [],
        status => {}, files => 0, took => {},
    }, $class;

    return $self;
}


# load -----------------------------------------------------------------------


# Forks the senders. Each keeps its connections busy until stop().
#
#   senders  processes              conns  connections of each
#   close    1: one request for each connection
#   retry    1: an event whose kept-alive connection was closed before the
#            first byte of an answer is sent again on a new one, as clients do
#   pause    seconds between two rounds of a sender
#   tls      1: over TLS

sub load {
    my ($self, %arg) = @_;

    my $load = bless { oracle => $self, pids => [] }, 'Test::Spool::Load';
    weaken($load->{oracle});

    my $run = sprintf 'r%d', scalar @{ $self->{loads} };

    push @{ $self->{loads} }, $load;

    for my $k (1 .. $arg{senders} || 8) {
        my $log = "$self->{dir}/$run-$k.log";
        my $pid = fork();

        die "fork() failed: $!" unless defined $pid;

        if ($pid == 0) {
            eval { Test::Spool::Load::sender(\%arg, "$run-$k", $log) };
            warn $@ if $@;
            _exit($@ ? 1 : 0);
        }

        push @{ $load->{pids} }, $pid;
        $self->{offset}{$log} = 0;
    }

    return $load;
}


# reads what the senders have written since the last time

sub poll {
    my ($self) = @_;

    for my $log (keys %{ $self->{offset} }) {
        open my $fh, '<', $log or next;
        seek $fh, $self->{offset}{$log}, 0;

        while (my $line = <$fh>) {
            last unless $line =~ /\n\z/;

            $self->{offset}{$log} += length $line;
            chomp $line;

            my ($what, $id, $text) = split / /, $line, 3;

            if ($what eq 'S') {
                $self->{sent}++;

            } elsif ($what eq 'A') {
                $self->{acked}{$id} = 1;
                $self->{took}{ (split / /, $text)[1] }++;

            } elsif ($what eq 'N') {
                $self->{refused}++;
                $self->{status}{$text}++;

            } elsif ($what eq 'R') {
                $self->{retried}++;

            } else {
                push @{ $self->{failed} }, "$id $text";
            }
        }
    }

    return $self;
}


sub acked { return scalar keys %{ $_[0]->poll()->{acked} } }
sub sent { return $_[0]->poll()->{sent} }
sub refused { return $_[0]->poll()->{refused} }
sub retried { return $_[0]->poll()->{retried} }
sub failed { return @{ $_[0]->poll()->{failed} } }
sub statuses { return $_[0]->poll()->{status} }


# an event sent by other means than load()

sub note_sent { my ($self, $id) = @_; $self->{sent}++ }
sub note_acked { my ($self, $id) = @_; $self->{acked}{$id} = 1 }
sub note_refused { my ($self, $id) = @_; $self->{refused}++ }


# until n more events than now have been acknowledged; false if it takes too long

sub wait_acked {
    my ($self, $n, $seconds) = @_;

    my $until = time() + ($seconds || 30) * $Test::Edge::PATIENCE;
    my $goal = $self->acked() + $n;

    while ($self->acked() < $goal) {
        return 0 if time() > $until;
        select undef, undef, undef, 0.005;
    }

    return 1;
}


# The events of new/ enter the oracle. With take => 1 each file is removed
# when read, as an operator's own consumer would, at any time.

sub collect {
    my ($self, $spool, %arg) = @_;

    for my $file (read_spool($spool)) {
        $self->{files}++;

        if (defined $file->{wrong}) {
            $self->wrong($file->{wrong});
        }

        $self->collect_line($_, $file->{name}) for @{ $file->{lines} };

        unlink $file->{path} if $arg{take};
    }

    return $self;
}


sub collect_line {
    my ($self, $line, $name) = @_;

    my $part = split_line($line);

    return $self->wrong("$name: not an envelope: " . substr($line, 0, 300))
        unless $part;

    my ($id) = $part->{body} =~ /"data":\{"id":"([^"]+)"/;

    return $self->wrong("$name: no id: " . substr($line, 0, 300))
        unless defined $id;

    $self->{seen}{$id}++;

    my $body = event_body($id);
    my $flat = $body;
    $flat =~ tr/\r\n/  /;

    return $self->wrong("$name: bytes of $id") if $part->{body} ne $body;
    return $self->wrong("$name: payload of $id") if $part->{payload} ne $flat;

    return $self->wrong("$name: raw of $id")
        if ($body ne $flat) != defined $part->{raw};

    return $self->wrong("$name: event id of $id")
        if $part->{id} ne substr(sha256_hex($body), 0, 32);

    return $self;
}


sub wrong {
    my ($self, $text) = @_;

    $self->{altered}++;
    push @{ $self->{wrong} }, $text;

    return $self;
}


sub lost_ids {
    my ($self) = @_;
    my $seen = $self->poll()->{seen};

    return sort grep { !$seen->{$_} } keys %{ $self->{acked} };
}


sub lost { return scalar(my @l = $_[0]->lost_ids()) }
sub altered { return $_[0]->{altered} }
sub files { return $_[0]->{files} }
sub spooled { my $n = 0; $n += $_ for values %{ $_[0]->{seen} }; return $n }



# none by this oracle, see Test::Load

sub delivered { return 0 }
sub dead { return 0 }


# of the times until a 2xx, in milliseconds

sub p99 {
    my ($self) = @_;

    my $took = $self->poll()->{took};
    my $left = 0.99 * $self->acked();

    for my $ms (sort { $a <=> $b } keys %$took) {
        return $ms if ($left -= $took->{$ms}) <= 0;
    }

    return 0;
}


sub duplicated {
    my ($self) = @_;

    return scalar grep { $_ > 1 } values %{ $self->{seen} };
}


# The line of figures that every fault test prints, and some of what is lost or
# altered, if that is not what should be.

sub report {
    my ($self, $title, $trials, %arg) = @_;

    Test::More::diag(sprintf '%s: trials %d, sent %d, acked %d, delivered %d, '
                     . 'dead %d, spooled %d, lost %d, duplicated %d, '
                     . 'altered %d, refused %d, failed %d, p99 %d ms', $title,
                     $trials, map { $_ // 0 } $self->sent(), $self->acked(),
                     $self->delivered(), $self->dead(), $self->spooled(),
                     $self->lost(), $self->duplicated(), $self->altered(),
                     $self->refused(), scalar($self->failed()), $self->p99());

    return $self if $arg{expected};

    my @lost = $self->lost_ids();
    my @wrong = @{ $self->{wrong} };

    Test::More::diag("lost: $_") for splice @lost, 0, 5;
    Test::More::diag("altered: $_") for splice @wrong, 0, 5;

    return $self;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{pid} != $$;
    $_ && $_->stop() for @{ $self->{loads} };
}


package Test::Spool::Load;

use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);


# the senders finish the answers they wait for, then leave

sub stop {
    my ($self) = @_;

    my @pids = splice @{ $self->{pids} };

    local $?;

    kill 'TERM', @pids;
    waitpid $_, 0 for @pids;

    $self->{oracle}->poll() if $self->{oracle};

    return $self;
}


sub sender {
    my ($arg, $name, $path) = @_;

    my ($stop, $n, @conns) = (0, 0);
    my $parent = getppid();

    $SIG{TERM} = sub { $stop = 1 };
    $SIG{INT} = sub { $stop = 1 };
    $SIG{PIPE} = 'IGNORE';

    open my $log, '>>', $path or die "open() \"$path\" failed: $!";

    my $say = sub { syswrite $log, join(' ', @_) . "\n" };
    my $slots = $arg->{conns} || 1;

    until ($stop || getppid() != $parent) {
        my @flight;

        # everything is sent before the first answer is awaited

        for my $i (0 .. $slots - 1) {
            my $reused = defined $conns[$i] ? 1 : 0;

            $conns[$i] ||= dial($arg) or next;

            my $id = "$name-" . $n++;

            $say->('S', $id);
            $flight[$i] = { id => $id, reused => $reused,
                            at => time(), ok => put($conns[$i], $arg, $id) };
        }

        for my $i (0 .. $slots - 1) {
            my $f = $flight[$i] or next;
            my ($status, $keep, $bytes)
                = $f->{ok} ? answer($conns[$i], $arg) : ('closed', 0, 0);

            if ($status !~ /^\d/ && !$bytes && $f->{reused} && $arg->{retry}) {
                $say->('R', $f->{id});
                $conns[$i] = dial($arg);
                $status = 'connect';

                if ($conns[$i]) {
                    put($conns[$i], $arg, $f->{id});
                    ($status, $keep, $bytes) = answer($conns[$i], $arg);
                }
            }

            $conns[$i] = undef unless $keep;

            $say->($status =~ /^2/ ? 'A' : $status =~ /^\d/ ? 'N' : 'F',
                   $f->{id}, $status, $status =~ /^2/
                                      ? int(1000 * (time() - $f->{at})) : ());
        }

        select undef, undef, undef, $arg->{pause} || 0.01
            if $arg->{pause} || !@flight;
    }
}


sub dial {
    my ($arg) = @_;

    my %to = (PeerAddr => '127.0.0.1', PeerPort => $arg->{port},
              Proto => 'tcp', Timeout => 10);

    my $s;

    if ($arg->{tls}) {
        require IO::Socket::SSL;
        $s = IO::Socket::SSL->new(%to, SSL_verify_mode => 0);

    } else {
        $s = IO::Socket::INET->new(%to);
    }

    return undef unless $s;

    setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;

    return $s;
}


sub put {
    my ($s, $arg, $id) = @_;

    my $body = Test::Spool::event_body($id);
    my $req = "POST " . ($arg->{uri} || '/hook') . " HTTP/1.1\r\n"
            . "Host: localhost\r\n"
            . ($arg->{close} ? "Connection: close\r\n" : '')
            . "Content-Type: application/json\r\n"
            . "X-Webhook-Event: resume.bulk_upload_parse.started\r\n"
            . "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n"
            . "Content-Length: " . length($body) . "\r\n\r\n" . $body;

    my $sent = 0;

    while ($sent < length $req) {
        my $n = syswrite $s, $req, length($req) - $sent, $sent;

        next if !defined $n && $!{EINTR};
        return 0 unless $n;
        $sent += $n;
    }

    return 1;
}


# (status or what went wrong, may the connection be used again, bytes read)

sub answer {
    my ($s, $arg) = @_;

    my $until = time() + ($arg->{timeout} || 80);
    my ($buf, $length) = ('');

    for ( ;; ) {
        if ($buf =~ /\r\n\r\n/) {
            my ($head, $rest) = (substr($buf, 0, $+[0]), substr($buf, $+[0]));

            if ($head =~ /\r\nContent-Length: (\d+)/i && length $rest >= $1) {
                my ($status) = $head =~ m{^HTTP/1\.1 (\d{3})};

                return (defined $status ? $status : 'garbage',
                        $head !~ /\r\nConnection: close/i, length $buf);
            }
        }

        my $left = $until - time();
        return ('timeout', 0, length $buf) if $left <= 0;

        unless (ref $s eq 'IO::Socket::SSL' && $s->pending()) {
            vec(my $in = '', fileno $s, 1) = 1;
            next unless select($in, undef, undef, $left) > 0;
        }

        my $n = sysread $s, $buf, 65536, length $buf;

        next if !defined $n && $!{EINTR};
        return (length $buf ? 'half' : 'closed', 0, length $buf) unless $n;
    }
}


1;
