/* server: puts the parts together, listens to signals, ends in order.
 * In: a sound configuration. Out: an exit status. Owns the signal descriptor and the timers of the process.
 *
 *   RUN --SIGTERM, SIGINT--> (drain_delay: still accepting, /ready 503) --> DRAIN --nothing runs--> exit 0
 *                                                                            `--drain_timeout, second signal--> cut --> exit 0 */
#include "server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "access.h"
#include "block.h"
#include "catalog.h"
#include "clock.h"
#include "front.h"
#include "health.h"
#include "listener.h"
#include "local.h"
#include "log.h"
#include "loop.h"
#include "resolve.h"
#include "sd.h"
#include "stats.h"
#include "timer.h"
#include "txn.h"
#include "upstream.h"
#include "version.h"
#include "world.h"

#define HOUSEKEEP_MS     1000
#define FREE_BLOCKS_KEPT ((size_t)4 << 20)

enum phase { RUN, DELAY, DRAIN, CUT };

static enum phase phase;
static const struct server_options *options;
static struct loop_fd signals;
static struct timer end_timer, housekeeping, watchdog;

static void tell_state(const char *state) {
    const struct world *w = world_current();
    size_t endpoints = 0;
    for (size_t i = 0; i < w->npools; i++)
        endpoints += w->pools[i].nmembers;
    sd_tell("%s\nSTATUS=%zu pools, %zu endpoints, configuration %llu\n", state, w->npools, endpoints,
            (unsigned long long)w->generation);
}

/* ---- the end ---- */

static void cut(void) {
    phase = CUT;
    txn_cut_all();
    client_close_all();
    loop_stop();
}

static void start_drain(void) {
    int64_t limit = world_current()->conf->drain_timeout;
    phase = DRAIN;
    listener_close_all(false);
    client_drain_all();
    log_info("server", "draining: %u requests still run", txn_count());
    sd_tell("STATUS=draining: %u requests still run\n", txn_count());
    timer_set(&end_timer, limit ? clock_ms() + limit : TIMER_NEVER);
}

static void end_due(struct timer *t) {
    (void)t;
    if (phase == DELAY) {
        start_drain();
        return;
    }
    log_warn("server", "drain_timeout is over: %u requests are cut", txn_count());
    cut();
}

static void asked_to_end(int signal) {
    if (phase != RUN) {
        log_warn("server", "a second signal: %u requests are cut", txn_count());
        cut();
        return;
    }
    int64_t delay = world_current()->conf->drain_delay;
    log_info("server", "%s: stopping", signal == SIGTERM ? "SIGTERM" : "SIGINT");
    sd_tell("STOPPING=1\n");
    local_set_draining();
    phase = DELAY;
    if (delay)
        timer_set(&end_timer, clock_ms() + delay);
    else
        start_drain();
}

static void reload(void) {
    if (phase != RUN) return; /* what is about to end needs no other configuration */
    sd_tell_reloading();
    reload_again(options);
    tell_state("READY=1");
}

static void on_signal(struct loop_fd *io) {
    struct signalfd_siginfo info;
    while (phase != CUT && read(io->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        switch (info.ssi_signo) {
        case SIGTERM:
        case SIGINT: asked_to_end((int)info.ssi_signo); break;
        case SIGUSR1: {
            const char *problem = access_reopen();
            if (problem) log_error("server", "%s", problem);
            break;
        }
        case SIGHUP: reload(); break;
        default: break;
        }
    }
}

static bool open_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd >= 0 && loop_add(&signals, fd, on_signal, "server");
}

/* A while after a burst: gives back what it left behind. */
static void housekeep(struct timer *t) {
    (void)t;
    block_trim(FREE_BLOCKS_KEPT);
}

static void feed_watchdog(struct timer *t) {
    sd_tell("WATCHDOG=1\n");
    timer_set(t, clock_ms() + sd_watchdog_ms());
}

static void run(void) {
    while (phase != CUT) {
        loop_turn(-1);
        if (phase == DRAIN && client_count() == 0 && txn_count() == 0) break;
        if (block_free_bytes() > FREE_BLOCKS_KEPT && housekeeping.when == TIMER_NEVER)
            timer_set(&housekeeping, clock_ms() + HOUSEKEEP_MS);
    }
}

static void close_all(void) {
    listener_close_all(false);
    listener_close_all(true);
    cut();
    loop_turn(0); /* the dead of this turn are buried */
    timer_drop(&end_timer);
    timer_drop(&housekeeping);
    timer_drop(&watchdog);
    health_sync(NULL);
    list_each(it, endpoint_all()) upstream_close_idle(list_entry(it, struct endpoint, link));
    world_deactivate();
    catalog_close();
    access_close();
    access_forget();
    stats_close();
    int fd = signals.fd;
    loop_remove(&signals);
    if (fd >= 0) close(fd);
    loop_turn(0);
    resolve_close();
    loop_close();
    sd_close();
    block_trim(0);
}

/* What a supervisor opened for us. */
static const char *adopt_sockets(void) {
    static char err[256];
    for (int i = 0; i < sd_sockets(); i++)
        if (!listener_adopt(3 + i, str_eq(sd_socket_name(i), STR("admin")), &front_api, err)) return err;
    return NULL;
}

static const char *start(struct conf *conf) {
    /* First of all: a signal that comes while we start is not lost, and does not kill. */
    const char *problem = open_signals() ? adopt_sockets() : "cannot watch for signals";
    if (!problem) return reload_apply(conf, options);
    conf_free(conf);
    return problem;
}

int server_run(struct conf *conf, const struct server_options *o) {
    const char *problem;
    options = o;
    log_set_level(conf->log_level);
    clock_update();
    stats.started_ms = clock_wall_ms();
    signals.fd = -1;
    sd_setup();
    if ((problem = loop_open()) || (problem = resolve_open())) {
        log_error("server", "%s", problem);
        conf_free(conf);
        return 1;
    }
    timer_init(&end_timer, end_due);
    timer_init(&housekeeping, housekeep);
    timer_init(&watchdog, feed_watchdog);
    upstream_setup();
    problem = start(conf);
    if (problem) {
        log_error("server", "%s", problem);
    } else {
        log_info("server", "router " ROUTER_VERSION " is running with %s: %zu pools", o->config, world_current()->npools);
        tell_state("READY=1");
        if (sd_watchdog_ms()) timer_set(&watchdog, clock_ms());
        run();
        log_info("server", "stopped");
    }
    close_all();
    return problem ? 1 : 0;
}
