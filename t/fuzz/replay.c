
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * replay FILE...: libFuzzer's main() in small, for compilers without it.  Runs
 * the target once for each file.
 */


static void replay_file(const char *name);


int
main(int argc, char **argv)
{
    int  i;

    for (i = 1; i < argc; i++) {
        replay_file(argv[i]);
    }

    printf("%d inputs\n", argc - 1);

    return 0;
}


static void
replay_file(const char *name)
{
    FILE     *file;
    long      size;
    uint8_t  *data;

    /* what comes last is the input that a report is about */

    fprintf(stderr, "%s\n", name);

    file = fopen(name, "rb");

    if (file == NULL || fseek(file, 0, SEEK_END) != 0
        || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
    {
        perror(name);
        exit(2);
    }

    data = malloc(size);

    if (data == NULL || fread(data, 1, size, file) != (size_t) size) {
        perror(name);
        exit(2);
    }

    fclose(file);

    LLVMFuzzerTestOneInput(data, size);

    free(data);
}
