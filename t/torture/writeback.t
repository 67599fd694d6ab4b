#!/usr/bin/perl

# A disk that takes less than it has said: the image of the spool's filesystem
# is sparse and lies on another one that becomes full. write() still succeeds,
# the pages get lost when they are written back, and fdatasync() says so once:
# a second one would return 0.
#
#   TEST_WRITEBACKS   how often, 3 unless set

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Spool qw(list);


Test::Fault->need('root', 'loop');

my $trials = $ENV{TEST_WRITEBACKS} || Test::Fault->scale(3);

my $t = Test::Edge->new(workers => 2);
my $p = $t->prefix();

# What the journal needs is there from the start, the data's blocks are not.
# They are allocated page by page when the loop device writes. It says that all
# was written if a part was: then there would be no error at all.

my $outer = Test::Fault->filesystem($t, 'ext4', '64m', dir => 'outer',
                                    mkfs => '-b 4096 -m 0',
                                    options => 'nodelalloc');
my $inner = Test::Fault->filesystem($t, 'ext4', '128m', dir => 'inner',
                                    image => "$p/outer/inner.img", page => 1,
                                    mkfs => '-b 4096 -m 0 -J size=4 '
                                    . '-E lazy_itable_init=0,'
                                    . 'lazy_journal_init=0');
my $spool = $inner->dir() . '/spool';

$t->conf(<<"EOF");
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_company_id any;
    access_log off;

    keepalive_requests 100000;
    client_body_buffer_size 64k;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        error_log $p/error.log notice;

        location /hook {
            taptalent_webhook on;
            taptalent_webhook_spool $spool min_free=0;
        }
    }
}

EOF

my $o = Test::Spool->new();
my $stuck = 0;

for (1 .. $trials) {
    $t->run();

    my $load = $o->load(port => $t->port(0), senders => 4);

    $o->wait_acked(200) or $stuck++;
    $outer->fill();

    my ($acked, $refused) = ($o->acked(), $o->refused());

    # or it takes more than the disk could have

    $t->wait_for(sub {
        return $o->refused() > $refused + 50 || $o->acked() > $acked + 5000;
    }, 30, '503') or $stuck++;
    $load->stop();

    # space comes too late for what is lost, and is needed for the journal

    $outer->drain();

    Test::Fault->kill_all($t);
    $inner->umount()->mount();
    $o->collect($spool, take => 1);
}

$o->report('writeback error', $trials);

is($stuck, 0, 'events are taken, and refused when the disk has lied');
is($o->lost(), 0, 'no acknowledged event is lost');
is($o->altered(), 0, 'none is altered');
is($o->duplicated(), 0, 'none is there twice');

# most often it is fdatasync(); where the journal is the first to find no room,
# it is whatever is called next

cmp_ok(scalar(my @failed = $t->grep_log(qr/crit.*failed, events are refused/)),
       '>=', $trials, 'a commit has failed each time');
ok(scalar $t->grep_log(qr/crit.*fdatasync\(\).*failed/),
   'fdatasync() among them');

$t->no_alerts();

$_->umount() for $inner, $outer;

done_testing();
