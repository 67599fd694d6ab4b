
/*
 * Linked into the nginx that counts what the tests execute.  A process adds its
 * counts to a file for each source when it exits, or at a signal that a test
 * sends before SIGKILL.  Master and workers are of different users, and have to
 * write to the same files.
 */


#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>


#define COVERAGE_SIGNAL  (SIGRTMIN + 5)


extern void __gcov_dump(void);


/* before gcov's own destructor, which has a lower priority */

__attribute__((destructor)) static void
coverage_exit(void)
{
    umask(0);
    setenv("GCOV_PREFIX", COVERAGE_DATA, 1);
}


static void
coverage_dump(int signo)
{
    (void) signo;

    coverage_exit();
    __gcov_dump();
}


__attribute__((constructor)) static void
coverage_init(void)
{
    signal(COVERAGE_SIGNAL, coverage_dump);
}
