#!/usr/bin/perl

# The page of the status location, in a browser: it moves with the events, says
# what is wrong, shows what senders have sent as text, and asks nobody but the
# nginx it is from.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use List::Util qw(max min sum0);
use Test::Browser;
use Test::Edge;
use Test::Load;
use Test::More;
use Time::HiRes qw(time);

plan(skip_all => 'once is enough, the page is the same')
    if $ENV{TEST_NGINX_BINARY};
plan(skip_all => Test::Browser->missing()) if Test::Browser->missing();

my $t = Test::Edge->new(workers => 2);

$t->conf(<<'EOF');
%%GLOBALS%%

events { }

http {
    taptalent_webhook_https off;
    taptalent_webhook_retry initial=200ms max=800ms;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /hook {
            taptalent_webhook on;
            taptalent_webhook_company_id company-uuid;
            taptalent_webhook_spool %%SPOOL%%;
            taptalent_webhook_forward /application;
        }

        location = /application {
            internal;
            proxy_pass http://127.0.0.1:%%PORT_2%%/app/deliver;
        }

        location = /status { taptalent_webhook_status; }
    }
}
