
/*
 * What the disk itself takes for what a commit does, one after another:
 * create in tmp/, write, fdatasync(), close(), rename to new/, fsync(new/).
 *
 *     disk DIRECTORY SIZE SECONDS [PORT PATH]
 *
 * prints "N MEDIAN P99", both in microseconds.  The files stay in new/.  With
 * a port and a path every other turn is an event, sent there over a connection
 * that is kept, until its receipt is here, and "N MEDIAN P99" of these follow:
 * the disk is quick or slow for both.
 */


#define _GNU_SOURCE

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include "disk.h"


#define RECEIPT  "{\"received\":true}"


static times_t  files, receipts;


static void
commit(int tmp, int new, const char *content, size_t size, size_t n)
{
    int   fd;
    char  name[64];

    (void) snprintf(name, sizeof(name), "%ld-%08zu-1-00000000.ndjson",
                    (long) getpid(), n);

    fd = openat(tmp, name, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

    if (fd == -1) {
        failed("openat()");
    }

    if (write(fd, content, size) != (ssize_t) size) {
        failed("write()");
    }

    if (fdatasync(fd) == -1) {
        failed("fdatasync()");
    }

    if (close(fd) == -1) {
        failed("close()");
    }

    if (renameat2(tmp, name, new, name, RENAME_NOREPLACE) == -1) {
        failed("renameat2()");
    }

    if (fsync(new) == -1) {
        failed("fsync()");
    }
}


static int
connection(int port)
{
    int                 s, on;
    struct timeval      timeout;
    struct sockaddr_in  sin;

    on = 1;

    timeout.tv_sec = 10;
    timeout.tv_usec = 0;

    memset(&sin, 0, sizeof(struct sockaddr_in));
    sin.sin_family = AF_INET;
    sin.sin_port = htons(port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    s = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);

    if (s == -1
        || setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(int)) == -1
        || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &timeout,
                      sizeof(struct timeval)) == -1
        || connect(s, (struct sockaddr *) &sin, sizeof(struct sockaddr_in))
           == -1)
    {
        failed("connect()");
    }

    return s;
}


/* sends an event with a body of its own, and reads its receipt */

static void
acknowledge(int s, const char *path, size_t n)
{
    int      len;
    char     body[256], text[1024];
    size_t   got;
    ssize_t  rc;

    (void) snprintf(body, sizeof(body),
                    "{\"event\":\"resume.bulk_upload_parse.started\","
                    "\"timestamp\":\"2024-01-20T14:45:00Z\","
                    "\"companyId\":\"company-uuid\",\"data\":{\"batchId\":"
                    "\"%ld-%08zu\",\"fileCount\":25}}", (long) getpid(), n);

    len = snprintf(text, sizeof(text),
                   "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                   "Content-Type: application/json\r\n"
                   "X-Webhook-Event: resume.bulk_upload_parse.started\r\n"
                   "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n"
                   "Content-Length: %zu\r\n\r\n%s", path, strlen(body), body);

    if (write(s, text, len) != len) {
        failed("write() to nginx");
    }

    got = 0;

    do {
        rc = read(s, text + got, sizeof(text) - got - 1);

        if (rc <= 0) {
            failed("read() from nginx");
        }

        got += rc;
        text[got] = '\0';

    } while (strstr(text, RECEIPT) == NULL && got < sizeof(text) - 1);

    if (strncmp(text, "HTTP/1.1 200 ", 13) != 0
        || strstr(text, RECEIPT) == NULL)
    {
        fprintf(stderr, "disk: not acknowledged: %s\n", text);
        exit(1);
    }
}


static void
print(times_t *times)
{
    printf("%zu %.1f %.1f\n", times->n, quantile(times, 0.5),
           quantile(times, 0.99));
}


int
main(int argc, char **argv)
{
    int      tmp, new, s;
    char    *content;
    size_t   size;
    double   began, end;

    if ((argc != 4 && argc != 6) || chdir(argv[1]) == -1) {
        fprintf(stderr,
                "usage: disk DIRECTORY SIZE SECONDS [PORT PATH]\n");
        return 2;
    }

    tmp = directory("tmp");
    new = directory("new");
    s = argc == 6 ? connection(atoi(argv[4])) : -1;

    size = strtoul(argv[2], NULL, 10);
    content = filled(size);
    end = now() + atof(argv[3]) * 1e6;

    do {
        began = now();
        commit(tmp, new, content, size, files.n);
        files.us[files.n++] = now() - began;

        if (s != -1) {
            began = now();
            acknowledge(s, argv[5], receipts.n);
            receipts.us[receipts.n++] = now() - began;
        }

    } while (now() < end && files.n < MAX);

    print(&files);

    if (s != -1) {
        print(&receipts);
    }

    return 0;
}
