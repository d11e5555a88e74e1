/* clockwork: time as the test says, and how often the router woke.
 * In: LD_PRELOAD, and a page of numbers in the file that CLOCKWORK names, shared with the test. Out: clock_gettime moved by what the
 * page says, standing still if it says so; epoll_wait that waits by this clock. Owns the page's mapping. CPU clocks are let alone.
 *
 * A wait with a deadline looks at the page every few milliseconds, for the test may move the clock while the router sleeps; but it
 * returns to the router only when an event came or its time is over, and that is what is counted. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 5
#define CLOCKS  8

/* As harness/preload.py packs it. */
struct page {
    int64_t stopped; /* the clock stands at what it said when it was stopped, and `shift` */
    int64_t shift;   /* ns */
    int64_t waits;   /* calls of epoll_wait */
    int64_t wakes;   /* returns of it */
    int64_t expired; /* of these, without an event */
};

static struct page nothing;
static volatile struct page *page = &nothing;
static int64_t stood[CLOCKS];

__attribute__((constructor)) static void begin(void) {
    const char *shell = strstr(program_invocation_short_name, "sh"), *path = getenv("CLOCKWORK");
    if (shell && !shell[2]) return; /* sh, bash, dash: only on the way to the router */
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = fd >= 0 ? mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (at != MAP_FAILED) page = at;
}

static int moves(clockid_t id) {
    return id == CLOCK_REALTIME || id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_RAW || id == CLOCK_REALTIME_COARSE ||
           id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME;
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(id, ts);
    if (result != 0 || !moves(id)) return result;
    int64_t ns = (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
    if (!page->stopped)
        stood[id] = 0;
    else if (!stood[id])
        stood[id] = ns;
    ns = (stood[id] ? stood[id] : ns) + page->shift;
    ts->tv_sec = ns / 1000000000;
    ts->tv_nsec = ns % 1000000000;
    return 0;
}

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_until(int fd, struct epoll_event *events, int most, int timeout) {
    static int (*next)(int, struct epoll_event *, int, int);
    static int64_t shift;
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "epoll_wait");
    int64_t before = shift, end;
    shift = page->shift;
    if (timeout <= 0) return next(fd, events, most, timeout);
    end = now_ms() + timeout;
    if (before != page->shift) end = 0; /* it moved while the router was at work: the timeout is of before */
    for (;;) {
        int64_t left = end - now_ms();
        if (left <= 0) return next(fd, events, most, 0);
        int n = next(fd, events, most, left < LOOK_MS ? (int)left : LOOK_MS);
        if (n != 0) return n;
        shift = page->shift;
    }
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout) {
    page->waits++;
    int n = wait_until(fd, events, most, timeout);
    page->wakes++;
    if (n == 0) page->expired++;
    return n;
}
