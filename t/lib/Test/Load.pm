package Test::Load;

# An application that fails in every way, and whether each event has reached it
# once, with all its bytes.
#
#   my $o = Test::Load->new();                  an oracle, as Test::Spool is
#   my $app = $o->app($t->port(2));             the application, a process
#   $app->mode('hang');                         from now on, see below
#   my $load = $o->load(port => 8080);          senders
#   $o->wait_answered(10);                      while something breaks
#   $load->stop();
#   $o->wait_empty($t);                         new/ has no files
#   $o->collect($spool);                        after nginx has ended
#   $o->report('hang', $trials);                the line of figures
#   $o->lost, $o->altered, $o->duplicated, $o->dead, $o->delivered
#
# lost = acked - (delivered or dead or spooled). Delivered is what the
# application has completely answered with 2xx. Spooled is what waits in new/.

use warnings;
use strict;

use base 'Test::Spool';

use Compress::Zlib ();
use Digest::SHA qw(sha256_hex);
use MIME::Base64 ();
use Test::Spool ();
use Time::HiRes qw(time);


sub new {
    my ($class, %arg) = @_;

    my $self = $class->SUPER::new(%arg);

    $self->{apps} = [];
    $self->{answers} = {};      # outcome => how often
    $self->{took_to_deliver} = [];
    $self->{delivered} = {};    # id => [times of 2xx]
    $self->{handled} = {};      # the same, and those whose answer went nowhere
    $self->{refused_for_good} = {};
    $self->{dead} = {};
    $self->{waiting} = {};

    return $self;
}


# A file of new/ as the half that accepts would have written it, with the events
# of these ids; its name. It belongs to whom new/ belongs.
#
#   time      seconds since 1970, with a fraction
#   headers   more of them, a reference to pairs in one string of JSON
#   sequence  of the name

my $start = unpack 'H*', pack 'NN', $$, int(time() * 1000) & 0xffffffff;
my $sequence = 0;

sub make_file {
    my ($spool, $ids, %arg) = @_;

    my $time = $arg{time} || time();
    my $content = '';

    for my $id (@$ids) {
        my $body = ref $id ? $id->{body} : Test::Spool::event_body($id);
        my $more = ref $id && $id->{headers} ? ",$id->{headers}" : '';
        my $raw = '';

        if ($body =~ tr/\r\n//) {
            $raw = '"raw":"' . MIME::Base64::encode_base64($body, '') . '",';
            $body =~ tr/\r\n/  /;
        }

        $content .= '{"v":1,"id":"'
            . substr(sha256_hex(ref $id ? $id->{body}
                                        : Test::Spool::event_body($id)), 0, 32)
            . '","received":"' . Test::Edge::received_at($time) . '",'
            . '"event":"resume.bulk_upload_parse.started",'
            . '"timestamp":"2024-01-20T14:45:00Z","companyId":"company-uuid",'
            . '"headers":{"content-type":"application/json",'
            . '"x-webhook-event":"resume.bulk_upload_parse.started",'
            . '"x-webhook-timestamp":"2024-01-20T14:45:00Z"' . "$more},$raw"
            . '"payload":' . "$body}\n";
    }

    my $name = sprintf '%s-%s-%010d-%d-%08x.ndjson',
                       Test::Edge::named_at($time), $start,
                       defined $arg{sequence} ? $arg{sequence} : $sequence++,
                       scalar @$ids, Compress::Zlib::crc32($content);

    my @owner = (stat "$spool/new")[4, 5];

    open my $fh, '>:raw', "$spool/new/$name" or die "open() failed: $!";
    print $fh $content;
    chown @owner, $fh;
    chmod 0600, $fh;
    close $fh or die "close() failed: $!";

    return $name;
}


# what is wrong with an event for an application in the mode "bad": an event of
# twelve or so is answered so again and again, the others are good

my %bad = (0 => '500', 10 => 'half', 20 => '429', 30 => 'drip');

sub bad {
    my ($id) = @_;

    my ($n) = $id =~ /(\d+)$/;
    my $bad = $bad{$n % 40};

    # those that take long are few, or they have all places

    return $bad && $bad eq 'drip' && $n % 200 != 30 ? undef : $bad;
}

sub good { return !defined bad($_[0]) }


sub app {
    my ($self, $port, $mode) = @_;

    my $log = sprintf '%s/app-%d.log', $self->{dir}, scalar @{ $self->{apps} };
    my $app = Test::Load::App->start($port, $log, $mode || 'ok');

    push @{ $self->{apps} }, $app;

    return $app;
}


# what the applications have done since the last time

sub poll_app {
    my ($self) = @_;

    for my $app (@{ $self->{apps} }) {

        # what it has answered before this it has logged

        eval { $app->mode('sync') } if $app->{pid} && $app->{owner} == $$;

        open my $fh, '<', $app->{log} or next;
        seek $fh, $app->{offset}, 0;

        while (my $line = <$fh>) {
            last unless $line =~ /\n\z/;

            $app->{offset} += length $line;
            chomp $line;

            my ($time, $id, $attempt, $outcome, $took, $wrong)
                = split / /, $line, 6;

            $self->{answers}{$outcome}++;
            $self->{answered}++;

            # how long a good event took that was sent once

            push @{ $self->{took_to_deliver} }, $took
                if $attempt == 1 && $outcome =~ /^2/ && good($id);

            push @{ $self->{delivered}{$id} }, $time if $outcome =~ /^2/;
            push @{ $self->{handled}{$id} }, $time if $outcome =~ /^(?:2|gone)/;
            $self->{refused_for_good}{$id} = 1 if $outcome eq '422';
            $self->wrong("delivery of $id: $wrong") if defined $wrong;
        }
    }

    return $self;
}


# the time, in seconds, in which 99 of 100 of the good events of until now have
# come to the application; forgets them

sub took_to_deliver {
    my ($self) = @_;

    my @took = sort { $a <=> $b } @{ $self->poll_app()->{took_to_deliver} };

    $self->{took_to_deliver} = [];

    return $took[0.99 * $#took];
}


sub answers { return $_[0]->poll_app()->{answers} }
sub answered { return $_[0]->poll_app()->{answered} || 0 }
sub delivered { return scalar keys %{ $_[0]->poll_app()->{delivered} } }
sub dead { return scalar keys %{ $_[0]->{dead} } }
sub spooled { return scalar keys %{ $_[0]->{waiting} } }


# until n more deliveries were tried, or succeeded; false if it takes too long

sub wait_good { return shift->wait_more('good_ones', @_) }
sub good_ones { return scalar @{ $_[0]->poll_app()->{took_to_deliver} } }
sub wait_answered { return shift->wait_more('answered', @_) }
sub wait_delivered { return shift->wait_more('delivered', @_) }

sub wait_more {
    my ($self, $what, $n, $seconds) = @_;

    my $goal = $self->$what() + $n;

    return $self->wait_until(sub { $self->$what() >= $goal }, $seconds || 30);
}

sub wait_until {
    my ($self, $sub, $seconds) = @_;

    my $until = time() + $seconds * $Test::Edge::PATIENCE;

    until ($sub->()) {
        return 0 if time() > $until;
        select undef, undef, undef, 0.005;
    }

    return 1;
}


# until there is no file in new/

sub wait_empty {
    my ($self, $spool, $seconds) = @_;

    return $self->wait_until(sub { !Test::Spool::list("$spool/new") },
                             $seconds || 60);
}


# What waits in new/ and what is in dead/; nginx has ended, or is at rest. May
# be called again, what is counted is what is there then.

sub collect {
    my ($self, $spool) = @_;

    $self->{waiting} = {};
    $self->{dead} = {};

    for my $name (Test::Spool::list("$spool/new")) {
        next if $name =~ /\.done$/;

        my ($wrong, $lines) = Test::Spool::check_file("$spool/new/$name");
        my $done = Test::Spool::read_file("$spool/new/$name.done");
        my %done = map { $_ + 0 => 1 } defined $done
                                       ? $done =~ /^\d{10}$/mg : ();

        $self->wrong($wrong) if defined $wrong;
        $self->{files}++;

        for my $i (0 .. $#$lines) {
            next if $done{$i + 1};
            $self->line('waiting', $lines->[$i], $name);
        }
    }

    for my $name (Test::Spool::list("$spool/dead")) {
        my ($wrong, $lines) = Test::Spool::check_file("$spool/dead/$name");
        my $content = Test::Spool::read_file("$spool/dead/$name");
        my $crc = sprintf '%08x', Compress::Zlib::crc32($content);

        # the source's time, start and sequence, and the line

        $self->wrong("$name: name")
            if $name !~ /^\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{16}-\d{10}\.\d+-1-$crc
                        \.ndjson$/x || @$lines != 1;

        for my $line (@$lines) {
            $line =~ s/^\{"dead":\{"reason":"(?:permanent|max_age)",
                       "status":\d+,"attempts":\d+,"at":"[^"]+"\},/{/x
                or $self->wrong("$name: no reason");
            $self->line('dead', $line, $name);
        }
    }

    $self->wrong("corrupt/$_") for Test::Spool::list("$spool/corrupt");

    return $self->poll_app();
}


sub line {
    my ($self, $where, $line, $name) = @_;

    my $part = Test::Spool::split_line($line)
        or return $self->wrong("$name: not an envelope");

    my ($id) = $part->{body} =~ /"data":\{"id":"([^"]+)"/;

    return $self->wrong("$name: bytes of " . ($id || '?'))
        if !defined $id || $part->{body} ne Test::Spool::event_body($id);

    $self->{$where}{$id}++;
}


sub lost_ids {
    my ($self) = @_;

    $self->poll();
    $self->poll_app();

    return sort grep { !$self->{delivered}{$_} && !$self->{dead}{$_}
                       && !$self->{waiting}{$_} } keys %{ $self->{acked} };
}


# deliveries and dead letters above one for each event

sub duplicated {
    my ($self) = @_;

    $self->poll_app();

    my $n = 0;

    for my $id (keys %{ $self->{delivered} }) {
        $n += @{ $self->{delivered}{$id} } - 1 + ($self->{dead}{$id} || 0);
    }

    $n += $_ - 1 for values %{ $self->{dead} };

    return $n;
}


# [id, time of the one, time of the next] of what the application has handled
# again, be it that nobody took its first answer; it logs at the end, with the
# time of the start, and the next may be done before the one

sub again {
    my ($self) = @_;
    my @again;

    $self->poll_app();

    for my $id (sort keys %{ $self->{handled} }) {
        my @times = sort { $a <=> $b } @{ $self->{handled}{$id} };

        push @again, map { [$id, @times[$_ - 1, $_]] } 1 .. $#times;
    }

    return @again;
}


# ids that the application has refused for good and that are not in dead/, once,
# or that are in dead/ and were not refused

sub not_buried {
    my ($self) = @_;

    my %wanted = %{ $self->poll_app()->{refused_for_good} };

    return sort((grep { ($self->{dead}{$_} || 0) != 1 } keys %wanted),
                (grep { !$wanted{$_} } keys %{ $self->{dead} }));
}


sub report {
    my ($self, $title, $trials) = @_;

    $self->SUPER::report($title, $trials);

    my $answers = $self->answers();

    Test::More::diag('  answers: '
                     . join ', ', map { "$_ $answers->{$_}" }
                                  sort keys %$answers);

    return $self;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{pid} != $$;

    $_ && $_->end() for @{ $self->{apps} };
    $self->SUPER::DESTROY();
}


package Test::Load::App;

# The application. One process, no threads: what it has logged it has done.
#
#   $app->mode(how)     returns when it is so; how is one of
#       ok              200, 201 or 204, in turn
#       jitter:N        that, after up to N milliseconds
#       slow:N          that, after N milliseconds
#       only:N          that for events whose id ends in N, 404 for others
#       poison:N        422 for events whose id ends in N, that for others
#       NNN             this status; 429 has Retry-After: 1
#       hang            no answer
#       reset           a reset instead of an answer
#       half            a part of an answer, of several kinds
#       refuse          connections are refused
#       mixed           for each request one of them, half of them ok; not
#                       refuse
#       bad             for some events 500, a half, 429 with a Retry-After of a
#                       day, or an answer that never ends, as often as they
#                       come; for all others ok
#   $app->end()
#
# Each line of the log is `<time> <event> <attempt> <outcome> <seconds>[ <wrong>]`
# with the time at which the request was read, and how long after the event had
# come; it is written at the end.
# An answer counts when the connection has taken all of it; "gone" is one that
# nobody waited for any more.

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

my @MIXED = ('ok') x 14;

push @MIXED, qw(500 503 404 302 422 reset half half jitter:50 slow:100 429);
push @MIXED, 'hang';


sub start {
    my ($class, $port, $log, $mode) = @_;

    socketpair my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC
        or die "socketpair() failed: $!";

    my $pid = fork();
    die "fork() failed: $!" unless defined $pid;

    if ($pid == 0) {
        close $ours;
        $SIG{$_} = 'DEFAULT' for qw(TERM INT HUP);
        $SIG{PIPE} = 'IGNORE';
        eval { serve($port, $log, $its, $mode) };
        warn $@ if $@;
        POSIX::_exit($@ ? 1 : 0);
    }

    close $its;

    my $self = bless { pid => $pid, owner => $$, control => $ours,
                       log => $log, offset => 0 }, $class;

    return $self->mode($mode);
}


sub mode {
    my ($self, $mode) = @_;

    syswrite $self->{control}, "$mode\n";
    sysread $self->{control}, my $answer, 16
        or die 'the application has died';

    return $self;
}


sub end {
    my ($self) = @_;

    return if !$self->{pid} || $self->{owner} != $$;

    local $?;

    close $self->{control};
    kill 'TERM', $self->{pid};
    waitpid $self->{pid}, 0;
    $self->{pid} = 0;
}


sub listener {
    my ($port) = @_;

    my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port,
                                  Proto => 'tcp', Listen => 511,
                                  ReuseAddr => 1)
        or die "the application cannot listen on $port: $!";

    $s->blocking(0);

    return $s;
}


sub serve {
    my ($port, $path, $control, $mode) = @_;

    open my $log, '>>', $path or die "open() \"$path\" failed: $!";

    my %app = (log => $log, conns => {}, later => [], n => 0);
    my $s = $mode eq 'refuse' ? undef : listener($port);
    my $conns = $app{conns};

    for ( ;; ) {
        my $in = '';

        vec($in, fileno $control, 1) = 1;
        vec($in, fileno $s, 1) = 1 if $s;
        vec($in, $_, 1) = 1 for keys %$conns;

        my $later = $app{later};
        my $wait = @$later ? $later->[0]{at} - time() : undef;

        $wait = 0 if defined $wait && $wait < 0;

        select $in, undef, undef, $wait;

        while (@$later && $later->[0]{at} <= time()) {
            my $job = shift @$later;

            $job->{run}->(($conns->{ $job->{fd} } || 0) == $job->{conn});
        }

        if (vec $in, fileno $control, 1) {
            sysread $control, my $line, 64 or return;
            chomp $line;
            $app{mode} = $line if $line ne 'sync';

            if ($app{mode} eq 'refuse') {
                undef $s;
                %$conns = ();

            } else {
                $s ||= listener($port);
            }

            syswrite $control, "ok\n";
            next;
        }

        for my $fd (grep { vec $in, $_, 1 } keys %$conns) {
            my $c = $conns->{$fd} or next;

            sysread $c->{socket}, $c->{in}, 262144, length $c->{in}
                or delete $conns->{$fd}, next;

            request(\%app, $fd, $c);
        }

        if ($s && vec $in, fileno $s, 1) {
            while (my $c = $s->accept()) {
                $conns->{fileno $c} = { socket => $c, in => '' };
            }
        }
    }
}


# a byte now and then, until nobody takes it

sub drip {
    my ($app, $fd, $c) = @_;

    return if !syswrite $c->{socket}, '.';

    push @{ $app->{later} },
        { at => time() + 0.2, fd => $fd, conn => $c,
          run => sub { drip($app, $fd, $c) if $_[0] } };
    @{ $app->{later} } = sort { $a->{at} <=> $b->{at} } @{ $app->{later} };
}


sub request {
    my ($app, $fd, $c) = @_;

    return if $c->{in} !~ /\r\n\r\n/;

    my ($head, $start) = (substr($c->{in}, 0, $-[0]), $+[0]);
    my ($length) = $head =~ /^Content-Length: (\d+)\r?$/mi;

    return if !defined $length || length $c->{in} < $start + $length;

    my $body = substr $c->{in}, $start, $length;

    $c->{in} = '';

    my ($id) = $body =~ /"data":\{"id":"([^"]+)"/;
    my ($attempt) = $head =~ /^X-Webhook-Attempt: (\d+)\r?$/mi;

    $id = '?' unless defined $id;

    my $wrong = $id eq '?' || $body ne Test::Spool::event_body($id) ? 'body'
              : $head !~ m{^POST /app/deliver HTTP/1\.1\r} ? 'request line'
              : $head !~ m{^Content-Type: application/json\r?$}mi ? 'type'
              : $head !~ /^X-Webhook-Event:[ ]resume\.bulk_upload_parse\.started
                          \r?$/mix ? 'event'
              : $head !~ /^X-Webhook-Received: \d{4}-/mi ? 'received'
              : !$attempt ? 'attempt'
              : ($head =~ /^X-Webhook-Id: (\w+)\r?$/mi)[0]
                ne substr(sha256_hex($body), 0, 32) ? 'id'
              : undef;

    my $mode = $app->{mode};
    my $now = time();

    $mode = $MIXED[rand @MIXED] if $mode eq 'mixed';

    my ($received) = $head =~ /^X-Webhook-Received: (\S+)/mi;
    my $took = $now - Test::Edge::time_of($received // '');

    my $say = sub {
        syswrite $app->{log}, sprintf("%.6f %s %d %s %.6f", $now, $id,
                                      $attempt || 0, $_[0], $took)
                              . (defined $wrong ? " $wrong" : '') . "\n";
    };

    my $answer = sub {
        my ($status) = @_;
        my $after = $app->{mode} eq 'bad' ? 86400 : 1;
        my $bytes = "HTTP/1.1 $status X\r\n"
                  . ($status eq '429' ? "Retry-After: $after\r\n" : '')
                  . ($status eq '302' ? "Location: /elsewhere\r\n" : '')
                  . ($status eq '204' ? "\r\n" : $status eq '201'
                     ? "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
                     : "Content-Length: 2\r\n\r\nok");

        my $n = syswrite $c->{socket}, $bytes;

        $say->(defined $n && $n == length $bytes ? $status : 'gone');
    };

    my $good = (200, 201, 204)[$app->{n}++ % 3];

    $mode = Test::Load::bad($id) // 'ok' if $mode eq 'bad';
    $mode = $id =~ /-$1$/ ? 'ok' : '404' if $mode =~ /^only:(\d+)$/;
    $mode = $id =~ /$1$/ ? '422' : 'ok' if $mode =~ /^poison:(\d+)$/;

    if ($mode eq 'ok') {
        $answer->($good);

    } elsif ($mode =~ /^(jitter|slow):(\d+)$/) {
        my $delay = $1 eq 'slow' ? $2 : rand $2;

        @{ $app->{later} } = sort { $a->{at} <=> $b->{at} } @{ $app->{later} },
            { at => time() + $delay / 1000, fd => $fd, conn => $c,
              run => sub { $_[0] ? $answer->($good) : $say->('gone') } };

    } elsif ($mode eq 'hang') {
        $say->('hang');

    } elsif ($mode eq 'drip') {
        syswrite $c->{socket}, "HTTP/1.1 200 OK\r\n\r\n";
        $say->('drip');
        drip($app, $fd, $c);

    } elsif ($mode eq 'reset') {
        setsockopt $c->{socket}, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0;
        delete $app->{conns}{$fd};
        $say->('reset');

    } elsif ($mode eq 'half') {
        my @halves = ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
                      "HTTP/1.1 200 OK\r\nContent-Le",
                      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                      . "5\r\nab", "HTTP/1.1 200 OK\r\n"
                      . "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");

        syswrite $c->{socket}, $halves[$app->{n} % @halves];
        delete $app->{conns}{$fd};
        $say->('half');

    } else {
        $answer->($mode);
    }
}


1;
