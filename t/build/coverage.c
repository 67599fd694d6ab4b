
/*
 * Linked into the nginx that counts what the tests execute.  A process adds its
 * counts to a file for each source when it exits; master and workers are of
 * different users, and have to write to the same files.
 */


#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/stat.h>


/* before gcov's own destructor, which has a lower priority */

__attribute__((destructor)) static void
coverage_exit(void)
{
    umask(0);
    setenv("GCOV_PREFIX", COVERAGE_DATA, 1);
}
