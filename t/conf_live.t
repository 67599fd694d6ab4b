#!/usr/bin/perl

# nginx -t beside an nginx that runs: whatever the configuration and whoever
# tests it, nothing of a spool is made, given away or opened, and no event is
# refused. A start and a reload with another user say whose a spool was.

use strict;
use warnings;

use File::Find qw(find);
use Time::HiRes ();

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;
use Test::Edge;
use Test::Spool qw(read_spool);

my $t = Test::Edge->new(workers => 2);
my $worker = $t->worker_user();
my $spool = $t->spool();
my $kept = $t->prefix() . '/kept';
my $o = Test::Spool->new();

plan(skip_all => 'root is needed') if !defined $worker;

my $conf = <<'CONF';
%%GLOBALS%%

events { }

http {
    %%HTTP%%

    # what nginx does with its own temporary paths is nginx's
    client_body_buffer_size 64k;

    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    taptalent_webhook_spool %%SPOOL%%;
    taptalent_webhook_quarantine %%PREFIX%%/kept;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
        }

        location = /key {
            taptalent_webhook on;
            taptalent_webhook_forward /application;
            taptalent_webhook_key s3cr3t;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%;
        }
    }
}
CONF

# The same in another file, of another nginx: its pid, its log, its temporary
# paths. "user" is the line, or nothing; the rest is added to the level http.

my $prefix = $t->prefix();

mkdir "$prefix/other";
mkdir "$prefix/other/$_" for qw(client_body proxy fastcgi uwsgi scgi);

sub other {
    my ($user, $more) = @_;
    my $text = $conf;

    $more //= '';
    $t->conf($text =~ s/(?=taptalent_webhook_https)/$more\n/r, 'other.conf');

    $text = $t->read_file('other.conf');
    $text =~ s/^user .*$/$user/m or die 'no user';
    $text =~ s{\Q$prefix\E/(?=(?:client_body|proxy|fastcgi|uwsgi|scgi);)}
              {$prefix/other/}g;
    $text =~ s{(?=nginx\.pid|error\.log|access\.log)}{other/}g;
    $t->write_file('other.conf', $text);

    return;
}

# (status, output) of nginx with these arguments

sub nginx {
    my ($as, @arguments) = @_;

    my @command = ((map { ('setpriv', "--reuid=$_", '--clear-groups') }
                        grep { defined } $as),
                   $t->binary(), '-e', 'stderr', '-p', "$prefix/",
                   '-c', "$prefix/other.conf", @arguments);

    my $pid = open(my $out, '-|') // die "fork() failed: $!";

    if ($pid == 0) {
        $t->child_environment();
        open STDERR, '>&', \*STDOUT;
        exec @command or die "exec() failed: $!";
    }

    my $output = do { local $/; <$out> } // '';
    close $out;

    return ($? >> 8, $output);
}

# everything of the spool and of the quarantine: inode, mode, owner, times

sub state_of {
    my @lines;

    find({ no_chdir => 1, wanted => sub {
        push @lines, join ' ', $_, (Time::HiRes::lstat($_))[1 .. 5, 7, 9, 10];
    } }, $spool, $kept);

    return join "\n", sort @lines;
}

sub kept {
    return scalar map { @{ $_->{lines} } } read_spool($kept);
}

sub unfinished {
    return scalar(my @found = map { glob "$_/tmp/*.ndjson" } $spool, $kept);
}

sub owners {
    return join ' ', map { (stat "$_")[4] } map { glob "$_/*" } $spool, $kept;
}

my $uid = getpwnam $worker;
my $nobody = $worker eq 'nobody' ? getpwnam 'daemon' : getpwnam 'nobody';
my $other = getpwuid $nobody;
my $group = getgrgid((getpwuid $nobody)[3]);
my $mine = join ' ', ($uid) x 8;
my $theirs = join ' ', ($nobody) x 8;

my $dirs = 'tmp/, new/, dead/, corrupt/';
my $spools = qr/\[warn\] .*\Q$dirs\E of the spool "\Q$spool\E" in \S+:\d+/;
my $would = qr/$spools would go from the user "$worker" to "(\w+)": workers of /
            . qr/"$worker" refuse all events from then on, write that one as /
            . qr/"user", or, when they are gone, run "chown -R \d+ /
            . qr/\Q$spool\E\/\*"/;


# nginx -t before there is a spool makes none ----------------------------------


other("user $worker;");

my ($status, $output) = nginx(undef, '-t');

is($status, 0, 'no spool yet') or diag($output);
like($output, qr/a start would make the spool "\Q$_\E" in \S+:\d+/,
     'no spool yet: that a start makes it') for $spool, $kept;
unlike($t->on_a_disk($output), qr/\[warn\]/,
       'no spool yet: nothing to warn of');
ok(!-e $spool && !-e $kept, 'no spool yet: none is made');


# beside an nginx that rests, and has something to lose ------------------------


$t->conf($conf);
$t->run();

is(owners(), $mine, 'a start gives the directories to the workers');
is(scalar $t->grep_log(qr/would go|go from/), 0, 'and says nothing of it');

is($t->post('/hook', event(n => $_))->{status}, 200, 'an event') for 1 .. 3;
is($t->post('/key', event(n => $_))->{status}, 401, 'a refused one') for 1 .. 3;
ok($t->wait_for(sub { kept() == 3 && !unfinished() }, 10, 'the quarantine'),
   'they are kept');
ok($t->wait_log(qr/this worker forwards/), 'a worker forwards');
ok($t->wait_log(qr/destination "\/application" is down/), 'and has tried');

my @users = (['the same user', "user $worker;"],
             ['another user', "user $other $group;"],
             ['no user', ''], ['root', 'user root;']);

sub beside {
    my ($when, $check) = @_;

    for my $case (@users) {
        my ($name, $user) = @$case;

        other($user);

        for my $how (['-t'], ['-T'], ['-t', '-g', 'worker_priority 0;']) {
            my ($status, $output) = nginx(undef, @$how);
            my ($to) = $output =~ $would;
            my $what = "$when, $name, @$how";

            $check->($what);
            is($status, 0, "$what: it is right") or diag($output);

            if ($name eq 'no user') {
                ok($to && $to ne $worker, "$what: it says to whom");
                next;
            }

            is($to, { 'another user' => $other, root => 'root' }->{$name},
               "$what: it says to whom") or diag($output);
        }

        nginx(undef, '-s', 'reload');
        $check->("$when, $name, a signal");

        # all that a test can change changes before the end

        for my $more ('taptalent_webhook_spool_access group:rw;',
                      'access_log %%PREFIX%%/no/such/log;',
                      'taptalent_webhook_no_such on;')
        {
            other($user, $more);
            nginx(undef, '-t');
            $check->("$when, $name, $more");
        }
    }
}

my $before = state_of();

sub same {
    my $now = state_of();
    my %before = map { $_ => 1 } split /\n/, $before;

    is(join("\n", grep { !$before{$_} } split /\n/, $now), '',
       "$_[0]: nothing has changed");
    is($now =~ tr/\n//, $before =~ tr/\n//, "$_[0]: nor is gone");
    $before = $now;
}

beside('at rest', sub {
    same($_[0]);
});

# and who is not root

SKIP: {
    my $as = "setpriv --reuid=$other --clear-groups";

    skip 'nginx may not be read', 6
        if system("$as test -r " . ($t->module() || $t->binary())) != 0;

    system('chown', '-R', $other, "$prefix/other");
    other('');

    my ($status, $output) = nginx($other, '-t');

    is($status, 0, 'not root: it is right') or diag($output);
    my $say = qr{\[warn\] .*"\Q$spool\E/tmp" in \S+:\d+ is not for the user }
            . qr{"$other", whose workers refuse all events, start nginx }
            . qr{as root, or run "chown -R $nobody \Q$spool\E/\*"};

    like($output, qr/$say/, 'not root: it says what would be');
    same('not root');

    ($status, $output) = nginx($worker, '-t');
    same('the user of the workers');
}


# so many more answers

sub answers { return scalar(my @lines = $t->access_log()) }

sub events {
    my $n = $_[0] + answers();

    return $t->wait_for(sub { answers() >= $n }, 10, 'answers');
}


# under load -------------------------------------------------------------------


$t->forget_spool();

my $load = $o->load(port => $t->port(0), senders => 4);

ok(events(20), 'load');

beside('under load', sub { is(owners(), $mine, "$_[0]: nobody else's") });

# a reload with another user that fails when nearly all is done

$t->expect_emerg(qr{no/such/directory|still could not bind|bind\(\)});

sub reconf {
    my ($user, $more) = @_;

    $t->conf($conf =~ s/(?=taptalent_webhook_https)/$more\n/r);
    my $text = $t->read_file('nginx.conf');
    $t->write_file('nginx.conf', $text =~ s/^user .*$/user $user $group;/mr);
}

reconf($other, 'access_log %%PREFIX%%/no/such/directory/log;');
ok(!$t->reload(), 'a reload fails that has another user');
is(owners(), $mine, 'the spool is still the workers\'');

{
    my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1,
                                      LocalPort => $t->port(3))
        or die "listen() failed: $!";

    reconf($other, "server { listen 127.0.0.1:%%PORT_3%%; }");
    ok(!$t->reload(), 'a reload that finds its port taken fails');

    # it has tried for as long as it does
    ok($t->wait_log(qr/still could not bind/), 'in the end');
    is(owners(), $mine, 'the spool is still the workers\'');
}

ok(events(20), 'and it goes on');
$load->stop();

my @refused = grep { /\/hook/ && !/^200 accepted/ } $t->access_log();

is("@refused[0 .. ($#refused > 4 ? 4 : $#refused)]", '', 'none was refused');
cmp_ok(answers(), '>', 40, 'of all these');


# a reload with another user that works ----------------------------------------


my $go = qr/$spools go from the user "$worker" to "$other": workers of "/;

reconf($other, '');
$t->mark_log();
ok($t->reload(old_gone => 1), 'another user');
is(scalar $t->grep_log($go), 1, 'another user: it says whose the spool was');
is(owners(), $theirs, 'another user: whose it is now');
is($t->post('/hook', event(n => 0))->{status}, 200, 'another user: an event');

$t->mark_log();
ok($t->reload(old_gone => 1), 'once more');
is(scalar $t->grep_log(qr/go from/), 0, 'once more: nothing to say');

reconf($worker, '');
$t->mark_log();
ok($t->reload(old_gone => 1), 'the first user');
is(scalar $t->grep_log(qr/go from the user "$other" to "$worker"/), 2,
   'the first user: spool and quarantine');
is(owners(), $mine, 'the first user: all is as it was');
is($t->post('/hook', event(n => 0))->{status}, 200, 'the first user: an event');


# what is missing of a spool is made again, and belongs to the workers ---------


ok($t->stop(), 'stopped');
chmod 0500, "$spool/new";
rmdir "$spool/corrupt" or die "rmdir() failed: $!";

other("user $worker;");
nginx(undef, '-t');
ok(!-e "$spool/corrupt", 'nginx -t does not make it');
is(sprintf('%o', (stat "$spool/new")[2] & 07777), '500', 'nor changes a mode');

$t->run();
is(owners(), $mine, 'a start does');
is(sprintf('%o', (stat "$spool/new")[2] & 07777), '700', 'and the mode');
is($t->post('/hook', event(n => 0))->{status}, 200, 'and takes events');

$t->no_alerts();

done_testing();
