/* replay: runs a fuzz target on every file of the folder given: the corpus as a regression test, without libFuzzer.
 * Files are read in order of their names, each into a block of its own size. Prints "N passed, 0 failed" as its last line. A target
 * that finds something ends the process: the last name printed is the culprit's. No file at all is a failure. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const char *path) {
    fprintf(stderr, "%s\n", path); /* the last of these lines names the culprit */
    FILE *f = fopen(path, "rb");
    long size = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    uint8_t *data = size >= 0 ? malloc(size ? (size_t)size : 1) : NULL;
    if (!f || !data || fseek(f, 0, SEEK_SET) != 0 || fread(data, 1, (size_t)size, f) != (size_t)size) {
        perror(path);
        exit(1);
    }
    (void)fclose(f);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
}

static int is_file(const struct dirent *d) {
    return d->d_name[0] != '.' && d->d_type != DT_DIR;
}

int main(int argc, char **argv) {
    struct dirent **names = NULL;
    int n = argc == 2 ? scandir(argv[1], &names, is_file, alphasort) : -1;
    if (n <= 0) {
        fprintf(stderr, argc == 2 ? "%s: no files\n" : "usage: %s FOLDER\n", argv[argc == 2]);
        printf("0 passed, 1 failed\n");
        return 1;
    }
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], names[i]->d_name);
        run(path);
        free(names[i]);
    }
    free(names);
    printf("%d passed, 0 failed\n", n);
    return 0;
}
