package Test::Bench;

# Rates, latencies and costs in interleaved rounds, and their table.
#
#     my $bench = Test::Bench->new(rounds => 3, seconds => 2, rows => qr/./);
#
#     $bench->part('plain, 64 connections');
#     $bench->row('return 200', sub { $bench->wrk($server, '/return',
#                                                 connections => 64) });
#     $bench->row('durable', sub { ... }, floor => 'return 200');
#     $bench->aim('durable to return 200', 'least', 0.55, 0.70,
#                 sub { $bench->ratio('plain, 64 connections', 'durable',
#                                     'return 200') });
#     $bench->run();
#     print $bench->table();
#
# A part is what is measured together: in each round its rows follow one
# another, and what a row is compared with, its floor, is one of them. So the
# ratio of a row is taken within seconds, and the table has the median of the
# rounds' ratios, not the ratio of medians.
#
# The sub of a row returns { value, unit, ... } or { spoiled => 'why' }. A row
# that is spoiled in one round has no figures; spoiled() tells of them, but for
# those that begin with "not measured": they could not be installed. Options:
#     floor => 'name'       a row of the same part
#     once => 1             in the first round only: it does not depend on what
#                           else the machine does, or takes too long
#     missing => 'why'      it cannot be measured here
#
# A server is anything with pids(), whose processor time is counted, and
# port(tls); see Test::Bench::Server below.

use strict;
use warnings;

use List::Util qw(max min sum0);
use POSIX ();
use Test::Edge;
use Time::HiRes qw(sleep time);

my $TICKS = POSIX::sysconf(POSIX::_SC_CLK_TCK());
my $LUA = Test::Edge->top() . '/t/bench/event.lua';


sub new {
    my ($class, %arg) = @_;

    return bless { rounds => 3, seconds => 2, rows => qr/./, parts => [],
                   aims => [], %arg }, $class;
}

sub seconds { return $_[0]{seconds} }


# ->part(name), ->row(name, sub, %opts): in the order of the table. A part that
# is there already gets more rows.

sub part {
    my ($self, $name) = @_;

    my ($part) = grep { $_->{name} eq $name } @{ $self->{parts} };

    push @{ $self->{parts} }, $part = { name => $name, rows => [] } if !$part;
    $self->{last} = $part;

    return $self;
}

sub row {
    my ($self, $name, $sub, %opts) = @_;

    my $part = $self->{last};

    push @{ $part->{rows} }, { name => $name, sub => $sub, results => [],
                               part => $part, %opts };

    return $self;
}


# Those asked for, and the floors of these. A row is asked for by its name with
# its part's before: "plain, 64 connections: durable".

sub choose {
    my ($self) = @_;

    for my $part (@{ $self->{parts} }) {
        my @rows = @{ $part->{rows} };
        my %wanted = map { $_->{name} => 1 }
                     grep { "$part->{name}: $_->{name}" =~ $self->{rows} }
                     @rows;

        for my $row (reverse @rows) {
            $wanted{ $row->{floor} } = 1
                if $wanted{ $row->{name} } && defined $row->{floor};
        }

        $part->{rows} = [grep { $wanted{ $_->{name} } } @rows];
    }

    $self->{parts} = [grep { @{ $_->{rows} } } @{ $self->{parts} }];

    return sum0 map { scalar @{ $_->{rows} } } @{ $self->{parts} };
}


sub run {
    my ($self) = @_;

    $self->choose() or die "no row has such a name\n";

    for my $round (1 .. $self->{rounds}) {
        for my $part (@{ $self->{parts} }) {
            my @rows = @{ $part->{rows} };

            # each is before its floor every other time

            for my $row ($round % 2 ? @rows : reverse @rows) {
                next if $row->{missing} || $row->{once} && $round > 1;

                my $result = eval { $row->{sub}->() }
                             // { spoiled => $@ =~ s/\s+\z//r };

                push @{ $row->{results} }, $result;
                progress("$round/$self->{rounds}", "$part->{name}: "
                         . "$row->{name}", $result);
            }
        }
    }

    return $self;
}

sub progress {
    my ($round, $name, $r) = @_;

    printf STDERR "%s  %-60s %s\n", $round, $name, defined $r->{spoiled}
           ? "SPOILED: $r->{spoiled}" : figure($r->{value}) . " $r->{unit}"
           . (defined $r->{cpu} ? sprintf(', %.1f ms', $r->{cpu}) : '')
           . (defined $r->{busy} ? sprintf(', busy %.2f', $r->{busy}) : '');
}


# ->find(part, row); ->ratio(part, row, other row, what = 'value'): the median
# of the rounds' ratios, undef if one of them was not measured.

sub find {
    my ($self, $part, $name) = @_;

    my ($row) = map { grep { $_->{name} eq $name } @{ $_->{rows} } }
                grep { $_->{name} eq $part } @{ $self->{parts} };

    return $row;
}

sub good {
    my ($row) = @_;

    return $row && @{ $row->{results} }
           && !grep { defined $_->{spoiled} } @{ $row->{results} };
}

sub ratios {
    my ($row, $other, $what) = @_;

    return () if !good($row) || !good($other);

    my ($a, $b) = ($row->{results}, $other->{results});
    my @rounds = grep { defined $a->[$_]{$what} && $b->[$_]{$what} }
                 0 .. min($#$a, $#$b);

    return map { $a->[$_]{$what} / $b->[$_]{$what} } @rounds;
}

sub ratio {
    my ($self, $part, $name, $other, $what) = @_;

    return median(ratios($self->find($part, $name), $self->find($part, $other),
                         $what // 'value'));
}

sub value {
    my ($self, $part, $name, $what) = @_;

    my $row = $self->find($part, $name);

    return good($row) ? median(map { $_->{ $what // 'value' } }
                               @{ $row->{results} }) : undef;
}

sub median {
    my @sorted = sort { $a <=> $b } grep { defined } @_;

    return undef if !@sorted;
    return ($sorted[$#sorted / 2] + $sorted[@sorted / 2]) / 2;
}


# ->spoiled: [name, why] of each row that is.

sub spoiled {
    my ($self) = @_;
    my @spoiled;

    for my $row (map { @{ $_->{rows} } } @{ $self->{parts} }) {
        my ($why) = grep { defined } map { $_->{spoiled} } @{ $row->{results} };

        push @spoiled, ["$row->{part}{name}: $row->{name}", $why]
            if defined $why && $why !~ /^not measured/;
    }

    return @spoiled;
}


# ->table: in Markdown.

sub table {
    my ($self) = @_;

    my @lines = (['what', 'median', 'to its floor', 'lowest, highest',
                  'CPU, ms', 'to its floor', 'a commit'],
                 ['---', ('--:') x 6]);

    for my $part (@{ $self->{parts} }) {
        push @lines, ["**$part->{name}**", ('') x 6];
        push @lines, map { $self->line($_) } @{ $part->{rows} };
    }

    return join '', map { '| ' . join(' | ', @$_) . " |\n" } @lines;
}

sub line {
    my ($self, $row) = @_;

    my ($spoiled) = grep { defined } map { $_->{spoiled} } @{ $row->{results} };

    return [$row->{name}, "not measured: $row->{missing}", ('') x 5]
        if $row->{missing};
    return [$row->{name}, $spoiled =~ /^not measured/ ? $spoiled
                          : "spoiled: $spoiled", ('') x 5] if defined $spoiled;

    my %all;

    for my $result (@{ $row->{results} }) {
        push @{ $all{$_} }, $result->{$_} for qw(value cpu commit);
    }

    my ($value, $cpu, $commit) = map { median(@{ $all{$_} }) }
                                     qw(value cpu commit);

    my $unit = $row->{results}[0]{unit};
    my $floor = defined $row->{floor}
                ? $self->find($row->{part}{name}, $row->{floor}) : undef;
    my @ratios = sort { $a <=> $b } ratios($row, $floor, 'value');

    return [$row->{name}, figure($value) . ($unit ne '' ? " $unit" : ''),
            ratio_text(median(@ratios)),
            @ratios > 1 ? join(', ', map { ratio_text($_) } @ratios[0, -1])
                        : '',
            defined $cpu ? sprintf('%.1f', $cpu) : '',
            ratio_text(median(ratios($row, $floor, 'cpu'))),
            defined $commit ? sprintf('%.1f', $commit) : ''];
}

sub ratio_text {
    my ($ratio) = @_;

    return '' if !defined $ratio;
    return sprintf $ratio < 0.1 ? '%.2g' : '%.2f', $ratio;
}

sub figure {
    my ($value) = @_;

    return sprintf '%.2f', $value if $value < 10;
    return sprintf '%.1f', $value if $value < 100;

    my $text = sprintf '%.0f', $value;

    1 while $text =~ s/^(\d+)(\d{3})/$1,$2/;

    return $text;
}


# ->aim(what, 'least' | 'most', least, reach, sub): what is wanted of a ratio,
# and the sub that finds it. ->aims: the table of those that could be found.

sub aim {
    my ($self, @aim) = @_;

    push @{ $self->{aims} }, \@aim;

    return $self;
}

sub aims {
    my ($self) = @_;
    my @lines;

    for my $aim (@{ $self->{aims} }) {
        my ($what, $way, $least, $reach, $sub) = @$aim;
        my $value = $sub->() // next;
        my ($a, $b) = map { $_ eq '' ? undef : $way eq 'least'
                            ? $value >= $_ : $value <= $_ } $least, $reach;

        push @lines, [$what, figure($value), "at $way $least", $reach,
                      !$a ? 'missed' : !defined $b || $b ? 'reached'
                      : 'between'];
    }

    return '' if !@lines;

    unshift @lines, ['aim', 'found', 'wanted', 'reach for', ''],
                    ['---', '--:', '--:', '--:', '---'];

    return join '', map { '| ' . join(' | ', @$_) . " |\n" } @lines;
}


# ->wrk(server, path, %opts): POSTs as fast as they are answered.
#     connections => 64, tls => 1
#     size => 200              bytes of each body
#     unit => '/s'             '/s', or 'MB/s'
#     spool => dir             events are counted there and moved away
#     counter => sub           what it says at the beginning and at the end
# Returned are value, unit, cpu (ms of all the server's processes for a thousand
# requests), busy (cores), commit (events in a file), counted (a second).

my $runs = 0;

sub wrk {
    my ($self, @arg) = @_;
    my $result;

    # A machine that does other things as well may take longer to connect.

    for my $more (0, 1, 3) {
        $result = $self->wrk_once($more, @arg);

        return $result if ($result->{spoiled} // '') !~ /being made$/;
    }

    return $result;
}

sub wrk_once {
    my ($self, $more, $server, $path, %opts) = @_;

    # wrk takes a redirect for an answer like any other

    my $status = Test::Edge->post($path, Test::Edge::event(),
                                  port => $server->port($opts{tls} ? 1 : 0),
                                  tls => $opts{tls})->{status};

    return { spoiled => "the first answer was $status" }
        if $status < 200 || $status >= 300 && $status < 400;

    my $connections = $opts{connections} // 64;
    my $size = $opts{size} // 200;
    my $warm = 0.4 + $more + $connections * ($opts{tls} ? 0.0015 : 0.0003);
    my $seconds = $self->{seconds};
    my $from = time() + $warm;
    my $to = $from + $seconds;
    my $port = $server->port($opts{tls} ? 1 : 0);

    my @command = ('wrk', '-t1', "-c$connections", '-d' . int($warm + $seconds
                   + 5) . 's', '--timeout', '10s', '-s', $LUA,
                   ($opts{tls} ? 'https' : 'http') . "://127.0.0.1:$port$path",
                   '--', sprintf('%x-%x-%d', $$, $from, ++$runs), $size,
                   map { sprintf '%.6f', $_ } $from, $to);

    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my @cpu;

    for my $time ($from, $to) {
        sleep max(0, $time - time());
        push @cpu, [time(), $server->cpu(),
                    $opts{counter} ? $opts{counter}->() : 0];
    }

    # wrk takes this for the end of its time
    kill 'INT', $pid;

    my $output = do { local $/; <$out> } // '';
    close $out;

    my %r = $output =~ /^bench (.*)$/m ? map { split /=/ } split / /, $1 : ();

    return { spoiled => "wrk: $output" =~ s/\s+/ /gr } if $? || !%r;
    return { spoiled => "$r{refused} answers were not 2xx" } if $r{refused};
    return { spoiled => "$r{broken} connections broke, $r{timeouts} answers "
                        . 'took longer than 10 s' }
        if $r{broken} || $r{timeouts};
    return { spoiled => 'connections were still being made' }
        if $r{before} < $connections;
    return { spoiled => 'nothing was answered' } if !$r{rate} || !$r{answers};

    my ($took, $busy, $counted) = map { $cpu[1][$_] - $cpu[0][$_] } 0 .. 2;

    $_ /= $took for $busy, $counted;

    my $result = { value => $r{rate}, unit => '/s', busy => $busy,
                   cpu => $busy / $r{rate} * 1e6, counted => $counted };

    $result = { %$result, value => $r{rate} * $size / 1e6, unit => 'MB/s' }
        if ($opts{unit} // '') eq 'MB/s';

    return $opts{spool} ? stored($result, $opts{spool}, $r{answers}) : $result;
}


# What is acknowledged is there. Moved away, not removed: ext4 is slower for a
# while after that.

sub stored {
    my ($result, $spool, $answers) = @_;

    my ($events, $files) = taken($spool);

    return { spoiled => "$answers events were acknowledged, $events are there" }
        if $events < $answers;

    return { %$result, commit => $events / $files };
}

sub taken {
    my ($spool) = @_;
    my ($events, $files) = (0, 0);

    mkdir "$spool/moved";

    for my $path (glob "$spool/new/*") {
        my ($name) = $path =~ m{([^/]+)$};

        $events += $name =~ /-(\d+)-[0-9a-f]{8}\.ndjson$/ ? $1 : 0;
        $files++;
        rename $path, "$spool/moved/$name" or die "rename $path: $!\n";
    }

    return ($events, $files);
}


# ->h2load(server, path, connections => 16, streams => 16, spool => dir): the
# same over HTTP/2. h2load has one body for all requests of a run.

sub h2load {
    my ($self, $server, $path, %opts) = @_;

    my $body = $server->{edge}->write_file('h2load.json', Test::Edge::event(
        data => { batchId => sprintf('%x-%d', $$, ++$runs), fileCount => 25 }));
    my $seconds = int($self->{seconds} + 0.999);
    my $port = $server->port(1);

    my @command = ('h2load', '-t1', "-c$opts{connections}", "-m$opts{streams}",
                   "--duration=$seconds", '--warm-up-time=1', '-d', $body,
                   map({ ('-H', $_) } 'content-type: application/json',
                       'x-webhook-event: resume.bulk_upload_parse.started',
                       'x-webhook-timestamp: 2024-01-20T14:45:00Z'),
                   "https://127.0.0.1:$port$path");

    my $from = time() + 1;
    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my @cpu;

    for my $time ($from, $from + $seconds) {
        sleep max(0, $time - time());
        push @cpu, [time(), $server->cpu()];
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    my ($rate) = $output =~ m{^finished in .*?, ([\d.]+) req/s}m;
    my ($status) = $output =~ /^status codes: (.*)/m;
    my @status = ($status // '') =~ /(\d+) [2-5]xx/g;
    my ($failed) = $output =~ /(\d+) failed,/;

    return { spoiled => "h2load: $output" =~ s/\s+/ /gr }
        if $? || !$rate || !@status;
    return { spoiled => "not 2xx: @status[1 .. 3], failed: $failed" }
        if $failed || sum0(@status[1 .. 3]);

    my $busy = ($cpu[1][1] - $cpu[0][1]) / ($cpu[1][0] - $cpu[0][0]);
    my $result = { value => $rate, unit => '/s', busy => $busy,
                   cpu => $busy / $rate * 1e6 };

    return $opts{spool} ? stored($result, $opts{spool}, $status[0]) : $result;
}


# ->compiled(name, '-lNAME'...): t/bench/NAME.c, as a program below build/.

sub compiled {
    my ($self, $name, @libraries) = @_;

    my $top = Test::Edge->top();
    my ($source, $program) = ("$top/t/bench/$name.c", "$top/build/bench-$name");

    mkdir "$top/build";

    if (!-e $program
        || grep { -M $_ < -M $program } $source, glob "$top/t/bench/*.h")
    {
        system('gcc', '-O2', '-Wall', '-Wextra', '-Werror', '-o', $program,
               $source, @libraries) == 0 or die "gcc failed\n";
    }

    return $program;
}


package Test::Bench::Server;

# Whose processor time counts.
#
#     Test::Bench::Server->nginx($edge)
#     Test::Bench::Server->process(port, @command)    ends with the object

use strict;
use warnings;

use POSIX ();
use Test::Edge;


sub nginx {
    my ($class, $edge) = @_;

    return bless { edge => $edge, owner => $$ }, $class;
}

sub process {
    my ($class, $port, $log, @command) = @_;

    my $pid = fork() // die "fork: $!";
    if ($pid == 0) {
        setpgrp;
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $log;
        open STDERR, '>&', \*STDOUT;
        exec @command or POSIX::_exit(127);
    }

    my $self = bless { pid => $pid, port => $port, owner => $$ }, $class;

    Test::Edge->wait_for(sub {
        waitpid($pid, POSIX::WNOHANG()) == 0
            or die "$command[0]: " . Test::Edge::slurp($log);
        return IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                     PeerPort => $port);
    }, 20, "$command[0] to listen") or die "$command[0] does not listen\n";

    return $self;
}

sub port {
    my ($self, $n) = @_;

    return $self->{edge} ? $self->{edge}->port($n) : $self->{port};
}

sub pids {
    my ($self) = @_;

    return $self->{edge} ? ($self->{edge}{master}, $self->{edge}->workers())
                         : $self->{pid};
}


# seconds, with those of children that have ended

sub cpu {
    my ($self) = @_;
    my $ticks = 0;

    for my $pid ($self->pids()) {
        my @stat = split ' ', Test::Edge::slurp("/proc/$pid/stat")
                              =~ s/^.*\) //sr;

        $ticks += $_ for @stat[11 .. 14];
    }

    return $ticks / $TICKS;
}


# kilobytes that all the processes have, or at most have had

sub memory {
    my ($self, $what) = @_;
    my $kb = 0;

    for my $pid ($self->pids()) {
        $kb += $1 if Test::Edge::slurp("/proc/$pid/status")
                     =~ /^\Q$what\E:\s+(\d+)/m;
    }

    return $kb;
}

sub DESTROY {
    my ($self) = @_;

    return if !$self->{pid} || $self->{owner} != $$;

    local $?;

    kill 'KILL', -$self->{pid};
    waitpid $self->{pid}, 0;
}


1;
