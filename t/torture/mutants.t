#!/usr/bin/perl

# Do the tests of this directory find what they are for? The sources get a
# fault, one at a time, each of a kind that has lost somebody's data, and the
# test must report it. A mutant that survives is a failing test.
#
#   TEST_MUTANTS   only those whose name matches this

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Test::Edge;
use Test::Fault;
use Test::Mutant;
use Test::Spool qw(read_file);


# The name; the file in src/; what stands there once, and what instead; the test
# and its environment; the figure of its report that must not be 0; and the
# check that must fail.

my $LOST = 'no acknowledged event is lost';

my @mutants = (

    { name => 'a file is not synced', file => 'spool_write',
      from => 'spool->sync && fdatasync(fd) == -1', to => '0',
      test => 'power_cut', env => { TEST_CUTS => 1 } },

    { name => 'the directory is not synced', file => 'spool_write',
      from => 'return ngx_http_taptalent_spool_sync(spool, '
              . 'NGX_HTTP_TAPTALENT_NEW, error);',
      to => 'return NGX_OK;',
      test => 'power_cut', env => { TEST_CUTS => 3 } },

    { name => 'a 2xx before the rename', file => 'spool_write',
      from => 'ngx_memcpy(to, from, sizeof(from));',
      to => 'static u_char late[NGX_HTTP_TAPTALENT_NAME_LEN];
             ngx_memcpy(to, from, sizeof(from));
             ngx_memcpy(from, late, sizeof(late));
             ngx_memcpy(late, to, sizeof(late));
             if (from[0] == 0) { return NGX_OK; }
             ngx_memcpy(to, from, sizeof(from));',
      test => 'kill', env => { TEST_KILLS => 6 } },

    { name => 'a failed fdatasync() is tried again', file => 'spool_write',
      from => 'fdatasync(fd) == -1',
      to => 'fdatasync(fd) == -1 && fdatasync(fd) == -1',
      test => 'writeback', env => { TEST_WRITEBACKS => 6 } },

    { name => 'a rename that replaces', file => 'spool',
      from => '(char *) to, RENAME_NOREPLACE)', to => '(char *) to, 0)',
      test => 'commit_errors', env => {} },

    { name => 'a 2xx before the commit', file => 'commit',
      from => 'if (ngx_thread_task_post(c->thread_pool, c->task) == NGX_OK) {',
      to => 'if (ngx_thread_task_post(c->thread_pool, c->task) == NGX_OK) {
             ngx_queue_add(&waiters, &c->committing->waiters);
             ngx_queue_init(&c->committing->waiters);
             ngx_http_taptalent_commit_wake(&waiters, NGX_OK);',
      test => 'kill', env => { TEST_KILLS => 6 } },

    { name => 'a 2xx for an error', file => 'commit',
      from => 'ngx_http_taptalent_commit_wake(&waiters, rc);',
      to => 'ngx_http_taptalent_commit_wake(&waiters, rc ? NGX_OK : rc);',
      test => 'writeback', env => { TEST_WRITEBACKS => 1 } },

    { name => 'another line is noted', file => 'queue_task',
      from => 'NGX_HTTP_TAPTALENT_DONE_FORMAT, item->line)',
      to => 'NGX_HTTP_TAPTALENT_DONE_FORMAT, item->line + 1)',
      test => 'forward_faults', env => { TEST_ONLY => 'sidecar' } },

    { name => 'a line is not noted', file => 'queue_task',
      from => 'if (text) {', to => 'if (text && item->line > 1) {',
      test => '../forward_handover', env => {}, figure => undef,
      fails => 'each once' },

    { name => 'a note counts for its neighbours', file => 'spool_done',
      from => 'r->done[line / 8] |= 1 << (line % 8);',
      to => 'r->done[line / 8] = 0xff;',
      test => 'forward_faults', env => { TEST_ONLY => 'sidecar' } },

    { name => 'a dead letter without its commit', file => 'queue_task',
      from => 'item->rc = NGX_OK; if (item->dead.len) {',
      to => 'item->rc = NGX_OK; if (0) {',
      test => 'delivery_calls', env => { TEST_ONLY => 'kill' } },

    { name => 'no checksum', file => 'spool_read',
      from => 'return (crc == content->crc) ? NGX_OK : NGX_ERROR;',
      to => 'return NGX_OK;',
      test => 'delivery_calls', env => { TEST_ONLY => 'kill' },
      figure => 'altered', fails => 'none is altered' },

    { name => 'a sidecar that cannot be read is none', file => 'spool_done',
      from => 'if (rc == NGX_OK || rc == NGX_DECLINED) {',
      to => 'if (rc != NGX_ERROR) { error->err = 0;',
      test => 'delivery_calls', env => { TEST_ONLY => 'errors' },
      figure => undef, fails => 'with a reload where that is so' },

    { name => 'half an answer is one', file => 'deliver_answer',
      from => 'dctx->ended = (rc == NGX_OK',
      to => 'dctx->ended = (rc != NGX_DONE',
      test => 'forward_faults', env => { TEST_ONLY => 'application' } },

    { name => 'the close of FastCGI is its end', file => 'deliver_answer',
      from => 'return p->upstream_done && (', to => 'return 1 || (',
      test => '../forward_complete', env => {}, figure => undef,
      fails => 'fastcgi, no end: not delivered' },

    { name => 'the end of FastCGI is not asked for, unbuffered',
      file => 'deliver_answer',
      from => 'return u->length == 0;', to => 'return 1;',
      test => '../forward_complete', env => {}, figure => undef,
      fails => 'fastcgi-off, no end: not delivered' },

    { name => 'a 500 is a receipt', file => 'attempt',
      from => 'd->status >= 200 && d->status < 300',
      to => '((d->status >= 200 && d->status < 300) || d->status == 500)',
      test => 'forward_faults', env => { TEST_ONLY => 'application' } },

    { name => 'a receipt confirms nothing', file => 'attempt',
      from => 'd->status < 300 && !d->unconfirmed', to => 'd->status < 300',
      test => '../forward_confirm', env => {}, figure => undef,
      fails => 'buffered: twice no' },

    { name => 'an event counts each time that it fails', file => 'dest',
      from => 'if (d->connected && item->run == 0) {',
      to => 'if (d->connected) {', test => '../forward_health',
      env => { TEST_ONLY => 'one' },
      figure => undef, fails => 'the destination is not down' },

    { name => 'a probe takes what has failed', file => 'dest',
      from => 'if (!ngx_queue_empty(&dest->fresh)) {',
      to => 'if (!ngx_queue_empty(&dest->fresh)
                 && ngx_queue_empty(&dest->failed)) {',
      test => '../forward_health', env => { TEST_ONLY => 'probe' },
      figure => undef, fails => 'with another event each time' },

    { name => 'no delivery gives way', file => 'queue',
      from => 'ngx_http_taptalent_commit_waiting(q->commit) < 2',
      to => '1', test => '../forward_backlog', env => { TEST_BACKLOG => 200 },
      figure => undef, fails => 'a share at a time' },

    { name => 'nginx -t gives a spool away', file => 'spool_prepare',
      from => 'user, log); if (ngx_test_config) { return NGX_OK; }',
      to => 'user, log);', test => '../conf_live', env => {},
      figure => undef, fails => 'nothing has changed' },

    { name => 'nginx -t makes a directory', file => 'spool_conf',
      from => 'k < NGX_HTTP_TAPTALENT_DIRS && !ngx_test_config;',
      to => 'k < NGX_HTTP_TAPTALENT_DIRS;',
      test => '../conf_live', env => {}, figure => undef,
      fails => 'nginx -t does not make it' },

    { name => 'a reload that fails gives a spool away', file => 'spool_conf',
      from => '&fi) == -1 && ngx_errno == NGX_ENOENT && ngx_add_path(',
      to => '&fi) != -2 && ngx_add_path(',
      test => '../conf_live', env => {}, figure => undef,
      fails => "the spool is still the workers'" },

    { name => 'two forward one spool', file => 'spool_read',
      from => 'if (flock(fd, LOCK_EX|LOCK_NB) == 0) {', to => 'if (1) {',
      test => 'forward_faults', env => { TEST_ONLY => 'reload',
                                         TEST_RELOAD_SECONDS => 3 },
      figure => 'duplicated', fails => 'none is delivered twice' },
);


plan(skip_all => 'once, with the installed nginx') if $ENV{TEST_NGINX_BINARY};

Test::Fault->need('root', 'loop', 'strace', 'xfs');

my $top = Test::Edge->top();

plan(skip_all => 'needs nginx-dev') unless -f '/usr/share/nginx/src/conf_flags';


my $copy = Test::Mutant->new('mutants');

sub build {
    my $module = $copy->build();

    diag($copy->said()) if !defined $module;

    return $module;
}

# (seconds, what it printed)

sub run {
    my ($module, $mutant) = @_;
    my (undef, $seconds, $text) = $copy->run($module, "torture/$mutant->{test}",
                                             env => $mutant->{env});

    return ($seconds, $text);
}

# as they are, or what follows says nothing

{
    my $module = build();

    ok($module, 'as it is: it compiles')
        or die "the sources do not compile\n";

    my ($seconds, $text) = run($module, { test => 'kill',
                                          env => { TEST_KILLS => 6 } });

    unlike($text, qr/^not ok/m, 'as it is: nothing is reported');
    like($text, qr/: trials 6,.* lost 0,/, 'as it is: nothing is lost');
}

for my $mutant (@mutants) {
    my $name = $mutant->{name};

    next if $ENV{TEST_MUTANTS} && $name !~ /$ENV{TEST_MUTANTS}/;

    my $figure = exists $mutant->{figure} ? $mutant->{figure} : 'lost';
    my $fails = $mutant->{fails} || $LOST;
    my $path = Test::Edge->sources("$mutant->{file}.c") =~ s{^\Q$top\E/}{}r;
    my $source = read_file("$top/$path");
    my $from = join '\s+', map { quotemeta } split ' ', $mutant->{from};
    my $places = () = $source =~ /$from/g;

    is($places, 1, "$name: there is one place for it") or next;

    $copy->change($path, $source =~ s/$from/$mutant->{to}/r);

    my $module = build();

    $copy->restore($path);
    ok($module, "$name: it compiles") or next;

    my ($seconds, $text) = run($module, $mutant);
    my ($check) = $text =~ /^not ok \d+ - (.*\Q$fails\E.*)$/m;
    my $most = 0;

    # what is without sync is to lose

    if (defined $figure) {
        for ($text =~ /^(?!.*sync=off).*: trials .*?\b$figure (\d+)/mg) {
            $most = $_ if $_ > $most;
        }
    }

    ok(defined $check && ($most || !defined $figure), "$name: it is found")
        or diag($text);

    diag(sprintf '  mutant: %s: %s.t, %s, "%s", %d s', $name, $mutant->{test},
         defined $figure ? "$figure $most" : 'fails',
         defined $check ? $check : 'SURVIVED', $seconds);
}

done_testing();
