/* scarce: a machine whose memory runs out when a test says so.
 * In: LD_PRELOAD, and a page of numbers in the file that SCARCE names, shared with the test. Out: malloc, calloc and realloc that
 * return NULL for the allocations the test chose; all others, and free, are the next library's (libc's, or the sanitizer's).
 * Owns the page's mapping. Never decides by time or chance: the same walk refuses the same allocations. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* As harness/preload.py packs it. */
struct page {
    int64_t armed;   /* nothing is counted and nothing refused while 0; the test writes it last */
    int64_t least;   /* smaller allocations are neither counted nor refused */
    int64_t most;    /* nor are larger ones */
    int64_t first;   /* number of the first one refused, from 1 */
    int64_t last;    /* and of the last */
    int64_t seen;    /* counted since armed */
    int64_t refused; /* of these */
    int64_t size;    /* of the one refused last */
    int64_t caller;  /* who asked for it: an address in the program */
};

static struct page nothing;
static volatile struct page *page = &nothing;
static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

/* What dlsym itself asks for, before we know whom to ask. */
static _Alignas(16) char early[8192];
static size_t early_used;

static void *from_early(size_t n) {
    size_t room = (n + 15) & ~(size_t)15;
    if (early_used + room > sizeof early) return NULL;
    void *p = early + early_used;
    early_used += room;
    return p;
}

static int is_early(const void *p) {
    return (const char *)p >= early && (const char *)p < early + sizeof early;
}

static void find(void) {
    static int busy;
    if (next_free || busy) return;
    busy = 1;
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    busy = 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *shell = strstr(program_invocation_short_name, "sh"), *path = getenv("SCARCE");
    if (shell && !shell[2]) return; /* sh, bash, dash: only on the way to the router */
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd >= 0 ? mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (at != MAP_FAILED) page = at;
}

static int refused(size_t n, const void *caller) {
    if (!page->armed || n < (size_t)page->least || n > (size_t)page->most) return 0;
    int64_t number = ++page->seen;
    if (number < page->first || number > page->last) return 0;
    page->refused++;
    page->size = (int64_t)n;
    page->caller = (int64_t)(intptr_t)caller;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) {
    find();
    if (!next_free) return from_early(n);
    return refused(n, __builtin_return_address(0)) ? NULL : next_malloc(n);
}

void *calloc(size_t n, size_t each) {
    find();
    if (!next_free) return from_early(n * each);
    return refused(n * each, __builtin_return_address(0)) ? NULL : next_calloc(n, each);
}

void *realloc(void *p, size_t n) {
    find();
    if (is_early(p)) {
        void *to = malloc(n);
        size_t most = (size_t)(early + sizeof early - (char *)p);
        return to ? memcpy(to, p, n < most ? n : most) : NULL;
    }
    return refused(n, __builtin_return_address(0)) ? NULL : next_realloc(p, n);
}

void free(void *p) {
    find();
    if (!is_early(p) && next_free) next_free(p);
}
