package Test::Mutant;

# A copy of the sources that gets a fault, one at a time, is built for the
# installed nginx, and given to a test.
#
#     my $copy = Test::Mutant->new('mutants');      below build/
#     $copy->change($path, $content);               from the top of the tree
#     my $module = $copy->build() // die $copy->said();
#     my ($status, $seconds, $said) = $copy->run($module, 'torture/kill',
#                                                env => { TEST_KILLS => 6 });

use warnings;
use strict;

use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use Test::Edge;
use Test::Spool qw(read_file);
use Time::HiRes qw(time);

my $MODULE = 'ngx_http_taptalent_webhook_module.so';


# What has not changed since the last time is not compiled again.

sub new {
    my ($class, $name) = @_;

    my $top = Test::Edge->top();
    my $tree = "$top/build/$name";

    system("mkdir -p $tree && rm -rf $tree/src && cd $top"
           . " && tar cf - config *.c src t/build | (cd $tree && tar xmf -)")
        == 0 or die "the sources cannot be copied to $tree\n";

    return bless { top => $top, tree => $tree, said => '' }, $class;
}


# ->change(path, content): what stands there from now on.
# ->restore(path): what stands there in the tree of sources.

sub change {
    my ($self, $path, $content) = @_;

    my $file = "$self->{tree}/$path";
    my $is = read_file($file);

    return if defined $is && $is eq $content;

    open my $fh, '>:raw', $file or die "open() \"$file\" failed: $!";
    print $fh $content;
    close $fh or die "close() \"$file\" failed: $!";
}

sub restore {
    my ($self, $path) = @_;
    $self->change($path, read_file("$self->{top}/$path"));
}


# ->build: the module's path; undef if it does not compile, and then ->said()
# says why. ->tolerate: from now on a warning is no error.

sub build {
    my ($self) = @_;

    $self->{said} = `$self->{tree}/t/build/debian.sh 2>&1`;

    return $? == 0 ? "$self->{tree}/build/debian/$MODULE" : undef;
}

sub tolerate {
    my ($self) = @_;

    my $path = 'build/debian/nginx/objs/Makefile';
    my $text = read_file("$self->{tree}/$path") // die "not built yet\n";

    $self->change($path, $text =~ s/ -Werror(?:=\S+)?//gr);
}

sub said { return $_[0]{said} }


# ->code(path): the object code of a source, without what a debugger wants.

sub code {
    my ($self, $path) = @_;

    my ($name) = $path =~ m{([^/]+)\.c$} or die "no source: $path\n";
    my ($object) = glob "$self->{tree}/build/debian/nginx/objs/addon/*/$name.o";
    my $stripped = "$self->{tree}/build/stripped.o";

    system('objcopy', '--strip-debug', $object // "$name.o", $stripped) == 0
        or die "objcopy of $name.o failed\n";

    return read_file($stripped);
}


# ->run(module, test, env => {...}, seconds => 300): (status, seconds, what it
# said). The test is a path below t/ without its .t. What it has started ends
# with it.

sub run {
    my ($self, $module, $test, %opts) = @_;

    my $began = time();
    my $directory = tempdir('mutant-XXXXXXXX', TMPDIR => 1);

    chmod 0755, $directory;

    my $pid = open(my $out, '-|') // die "fork() failed: $!";

    if ($pid == 0) {
        setpgrp;
        open STDERR, '>&', \*STDOUT;
        local @ENV{keys %{ $opts{env} }} = values %{ $opts{env} };
        $ENV{TMPDIR} = $directory;
        $ENV{TEST_PATIENCE} = 2;
        $ENV{TEST_NGINX_MODULE} = $module;
        delete @ENV{qw(TEST_SCALE TEST_EVERY)};
        chdir $self->{top} or die "chdir() failed: $!";
        exec 'timeout', '--kill-after=20', $opts{seconds} // 300, $^X,
             "$self->{top}/t/$test.t"
            or die "exec() failed: $!";
    }

    # a worker that goes round for ever keeps the pipe open

    my $text = '';

    while (1) {
        my $ready = '';

        vec($ready, fileno $out, 1) = 1;

        if (select($ready, undef, undef, 1)) {
            sysread($out, $text, 65536, length $text) or last;

        } elsif (time() - $began > ($opts{seconds} // 300) + 30) {
            last;
        }
    }

    kill 'KILL', -$pid;
    close $out;

    my $status = $? >> 8 || $? & 127;

    remove_tree($directory, { error => \my $ignored });

    return ($status, time() - $began, $text);
}

1;
