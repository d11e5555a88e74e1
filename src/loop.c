/* loop: the turn, the ready list, deferred calls and the graveyard.
 * In: descriptors and their owners' callbacks. Out: calls, one a descriptor a turn. Owns the epoll descriptor and its lists;
 * knows no HTTP and no connection.
 *
 *   wait -> bits set, fds onto the ready list -> timers -> ready list (as it stood) -> deferred -> graveyard -> wait
 *
 * Edges are told once; a bit stays set until the owner has read or written to the end, and an owner that stops early puts itself
 * on the ready list again: while that is not empty the next wait does not wait. Memory is released only after everything that a
 * stale event or list could lead to has run. */
#include "loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "timer.h"

#define EVENTS      64   /* told by one wait: more would only make turns longer, and those who wait for the next one later */
#define ASK_MOST    200  /* further waits in a turn, of no time */
#define SLOW_US     5000 /* of a turn, or of one step in it: worth a line at debug */
#define MODULES_MAX 8

struct grave {
    void *ptr;
    void (*release)(void *);
};

static int epfd = -1;
static bool stopping;
static struct list ready = {&ready, &ready};
static struct list yielded = {&yielded, &yielded};
static struct list tasks = {&tasks, &tasks};
static struct grave *graves;
static size_t ngraves, grave_room;
static struct loop_stats stats;
static int64_t woke_us; /* of the turn that runs */
static struct {
    void (*ready)(struct loop_fd *);
    const char *name;
} modules[MODULES_MAX]; /* as loop_add was told */

const char *loop_open(void) {
    assert(epfd < 0);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    stopping = false;
    return epfd < 0 ? "epoll_create1 failed" : NULL;
}

static const char *module_of(void (*cb)(struct loop_fd *), const char *told) {
    for (size_t i = 0; i < MODULES_MAX; i++) {
        if (!modules[i].ready && told) modules[i].ready = cb, modules[i].name = told;
        if (modules[i].ready == cb) return modules[i].name;
    }
    return "one of many";
}

bool loop_add(struct loop_fd *io, int fd, void (*cb)(struct loop_fd *), const char *module) {
    module_of(cb, module);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = io};
    *io = (struct loop_fd){.ready = cb, .fd = fd, .bits = LOOP_WRITABLE};
    list_init(&io->link);
    return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

void loop_remove(struct loop_fd *io) {
    if (io->fd < 0) return;
    list_remove(&io->link);
    epoll_ctl(epfd, EPOLL_CTL_DEL, io->fd, NULL); /* needed: a dup in a child or a passed fd would keep telling of dead memory */
    io->fd = -1;
}

void loop_ready(struct loop_fd *io) {
    if (!list_linked(&io->link)) list_push_back(&ready, &io->link);
}

void loop_yield(struct loop_fd *io) {
    list_remove(&io->link);
    list_push_back(&yielded, &io->link);
}

void loop_task_init(struct loop_task *t, void (*run)(struct loop_task *)) {
    list_init(&t->link);
    t->run = run;
}

void loop_defer(struct loop_task *t) {
    if (!list_linked(&t->link)) list_push_back(&tasks, &t->link);
}

void loop_undefer(struct loop_task *t) {
    list_remove(&t->link);
}

void loop_bury(void *ptr, void (*release)(void *)) {
    if (ngraves == grave_room) {
        grave_room = grave_room ? 2 * grave_room : 64;
        graves = must_realloc(graves, grave_room * sizeof *graves);
    }
    graves[ngraves++] = (struct grave){ptr, release};
}

static void release_graves(void) {
    for (size_t i = 0; i < ngraves; i++)
        graves[i].release(graves[i].ptr);
    ngraves = 0;
}

/* At debug every step is timed, so that a turn that was too long can be blamed on somebody. */
static int64_t step_begins(void) {
    return log_enabled(LOG_DEBUG) ? clock_now_us() : 0;
}

static void step_ends(int64_t began, const char *module) {
    int64_t us = began ? clock_now_us() - began : 0;
    if (us > SLOW_US) log_debug("loop", "a step of %s took %lld us", module, (long long)us);
}

static void run_tasks(void) {
    while (!list_empty(&tasks)) {
        struct loop_task *t = list_entry(tasks.next, struct loop_task, link);
        list_remove(&t->link);
        t->run(t);
    }
}

static void run_ready(void) {
    struct list now;
    list_init(&now);
    list_splice(&now, &yielded);
    list_splice(&now, &ready); /* who gets ready from here on has its turn in the next one */
    while (!list_empty(&now)) {
        struct loop_fd *io = list_entry(now.next, struct loop_fd, link);
        list_remove(&io->link);
        void (*cb)(struct loop_fd *) = io->ready;
        int64_t began = step_begins();
        cb(io);
        if (began) step_ends(began, module_of(cb, NULL));
    }
}

static void note(const struct epoll_event *ev) {
    struct loop_fd *io = ev->data.ptr;
    if (io->fd < 0) return;
    if (ev->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) io->bits |= LOOP_READABLE;
    if (ev->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) io->bits |= LOOP_WRITABLE;
    if (ev->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) io->bits |= LOOP_HUP;
    loop_ready(io);
}

static int wait_ms(int max) {
    if (!list_empty(&ready) || !list_empty(&yielded) || !list_empty(&tasks)) return 0;
    int64_t next = timer_next();
    if (next == TIMER_NEVER) return max;
    int64_t left = next - clock_ms();
    if (left < 0) left = 0;
    if (max >= 0 && left > max) left = max;
    return left > 60000 ? 60000 : (int)left;
}

static void count_turn(int64_t us) {
    unsigned bucket = us > 0 ? 64 - (unsigned)__builtin_clzll((uint64_t)us) : 0; /* us < 2^bucket */
    if (bucket > LOOP_BUSY_BUCKETS - 1) bucket = LOOP_BUSY_BUCKETS - 1;
    stats.turns++;
    stats.busy_us += (uint64_t)us;
    stats.busy[bucket]++;
    if ((uint64_t)us > stats.longest_us) stats.longest_us = (uint64_t)us;
    if (us > SLOW_US) log_debug("loop", "a turn took %lld us", (long long)us);
}

/* All it has to say, if a timer is due: who was in time is seen before his deadline is judged, however late we are. (A process that
 * was stopped and continued is told EINTR first.) */
static void ask_kernel(int wait) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(epfd, events, EVENTS, wait);
    woke_us = clock_now_us();
    clock_update();
    for (int more = ASK_MOST;; more--) {
        assert(n >= 0 || errno == EINTR);
        for (int i = 0; i < n; i++)
            note(&events[i]);
        if ((n >= 0 && n < EVENTS) || !more || timer_next() > clock_ms()) return;
        n = epoll_wait(epfd, events, EVENTS, 0);
    }
}

void loop_turn(int max_wait_ms) {
    ask_kernel(wait_ms(max_wait_ms));
    int64_t began = step_begins();
    timer_run(clock_ms());
    step_ends(began, "timers");
    run_ready();
    began = step_begins();
    run_tasks();
    step_ends(began, "deferred tasks");
    release_graves();
    count_turn(clock_now_us() - woke_us);
}

bool loop_late(void) {
    return clock_now_us() - woke_us > LOOP_LATE_US;
}

void loop_run(void) {
    while (!stopping)
        loop_turn(-1);
}

void loop_stop(void) {
    stopping = true;
}

void loop_close(void) {
    run_tasks();
    release_graves();
    free(graves);
    graves = NULL;
    grave_room = 0;
    if (epfd >= 0) close(epfd);
    epfd = -1;
}

const struct loop_stats *loop_stats(void) {
    return &stats;
}
