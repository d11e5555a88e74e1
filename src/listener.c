/* listener: from a listening socket to clients.
 * In: addresses. Out: clients, up to a limit. Owns the listening sockets. Reads no byte.
 * Accepts in batches, one batch a turn, so that a flood of connections does not keep the others waiting. Out of descriptors it
 * pauses rather than spins: the backlog holds them, and a timer looks again. */
#include "listener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "front.h"
#include "log.h"
#include "loop.h"
#include "room.h"
#include "timer.h"
#include "upstream.h"
#include "world.h"

#define BATCH        64
#define PAUSE_MS     100
#define BACKLOG      4096 /* the kernel cuts it to somaxconn */
#define NO_ROOM_MOST 100  /* connections above the limit that are told so; those beyond are just closed */

struct listener {
    struct list link;
    struct loop_fd io;
    struct timer pause;
    struct sock_addr addr; /* as configured */
    const struct client_user *api;
    bool admin;
    bool inherited; /* from a supervisor, who keeps it */
    bool fresh;     /* opened by the listener_add that runs */
    bool claimed;   /* by one of the wanted addresses: two of port 0 are two listeners */
};

static struct list listeners = {&listeners, &listeners};
static unsigned limit = 10000;
static bool told_shortage;

void listener_set_limit(unsigned max_connections) {
    limit = max_connections;
}

static void accepted(struct listener *l, int fd, const struct sock_addr *peer) {
    if (!world_current()) { /* a start that fails takes its listeners back */
        close(fd);
        return;
    }
    bool room = l->admin || !limit || client_count() < limit || room_from_clients();
    if (!room && client_count() >= limit + NO_ROOM_MOST) {
        close(fd);
        return;
    }
    struct client *c = client_new(fd, peer, l->admin, l->api);
    if (c && !room) front_no_room(c);
}

/* True if there may be more. */
static bool accept_batch(struct listener *l) {
    struct sock_addr peer;
    for (int i = 0; i < BATCH; i++) {
        int fd = sock_accept(l->io.fd, &peer);
        if (fd >= 0) {
            told_shortage = false; /* the next one is told again */
            accepted(l, fd, &peer);
            continue;
        }
        if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
        if (errno == EAGAIN) {
            l->io.bits &= (uint8_t)~LOOP_READABLE;
            return false;
        }
        /* EMFILE, ENFILE, ENOBUFS, ENOMEM: an idle client's descriptor may be had; else wait. */
        if (!told_shortage) log_warn("listener", "cannot accept: %s; waiting", strerror(errno));
        told_shortage = true;
        if (upstream_close_oldest_idle() || room_from_clients()) continue;
        timer_set(&l->pause, clock_ms() + PAUSE_MS);
        return false;
    }
    return true;
}

static void on_ready(struct loop_fd *io) {
    struct listener *l = list_entry(io, struct listener, io);
    if (!(io->bits & LOOP_READABLE) || l->pause.when != TIMER_NEVER) return;
    if (accept_batch(l)) loop_ready(io);
}

static void pause_over(struct timer *t) {
    struct listener *l = list_entry(t, struct listener, pause);
    l->io.bits |= LOOP_READABLE;
    loop_ready(&l->io);
}

static bool same_addr(const struct sock_addr *a, const struct sock_addr *b) {
    return a->len == b->len && memcmp(&a->u, &b->u, a->len) == 0;
}

/* The listener of that wish, if there is one that no wish before it claimed. */
static struct listener *claim(const struct listener_want *w) {
    list_each(it, &listeners) {
        struct listener *l = list_entry(it, struct listener, link);
        if (l->claimed || l->inherited || l->admin != w->admin || !same_addr(&l->addr, &w->addr)) continue;
        l->claimed = true;
        return l;
    }
    return NULL;
}

static void claim_none(void) {
    list_each(it, &listeners) {
        struct listener *l = list_entry(it, struct listener, link);
        l->claimed = l->fresh = false;
    }
}

unsigned listener_inherited(bool admin) {
    unsigned n = 0;
    list_each(it, &listeners) {
        const struct listener *l = list_entry(it, struct listener, link);
        n += l->inherited && l->admin == admin;
    }
    return n;
}

/* Takes the descriptor over if it succeeds. */
static struct listener *listen_with(int fd, const struct sock_addr *addr, bool admin, const struct client_user *api,
                                    char err[256]) {
    char text[SOCK_TEXT];
    struct sock_addr bound;
    struct listener *l = must_alloc(sizeof *l);
    l->addr = *addr;
    l->api = api;
    l->admin = admin;
    timer_init(&l->pause, pause_over);
    if (!loop_add(&l->io, fd, on_ready, "listener")) {
        snprintf(err, 256, "cannot watch %s: %s", sock_text(addr, text), strerror(errno));
        free(l);
        return NULL;
    }
    list_push_back(&listeners, &l->link);
    if (!sock_local(fd, &bound)) bound = *addr;
    log_info("listener", "%slistening on %s", admin ? "admin " : "", sock_text(&bound, text));
    return l;
}

static bool open_one(const struct listener_want *w, bool reuse_port, const struct client_user *api, char err[256]) {
    char text[SOCK_TEXT];
    int fd = sock_listen(&w->addr, reuse_port, BACKLOG);
    if (fd < 0) {
        snprintf(err, 256, "cannot listen on %s: %s%s", sock_text(&w->addr, text), strerror(errno),
                 errno == EADDRINUSE ? " (another program has it; choose another address with -listen)" : "");
        return false;
    }
    struct listener *l = listen_with(fd, &w->addr, w->admin, api, err);
    if (l) return l->fresh = l->claimed = true;
    close(fd);
    return false;
}

bool listener_adopt(int fd, bool admin, const struct client_user *api, char err[256]) {
    struct sock_addr addr;
    int listens = 0;
    socklen_t len = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens || !sock_local(fd, &addr)) {
        snprintf(err, 256, "descriptor %d, which was handed over, is no listening socket", fd);
        return false;
    }
    sock_set_nonblocking(fd);
    struct listener *l = listen_with(fd, &addr, admin, api, err);
    if (l) l->inherited = true;
    return l != NULL;
}

static void close_one(struct listener *l) {
    if (l->addr.u.sa.sa_family == AF_UNIX && !l->inherited) unlink(l->addr.u.un.sun_path);
    /* Closing resets what waits: take it first. An inherited socket's backlog is for whoever comes next. */
    for (int i = 0; i <= BACKLOG / BATCH && !l->inherited && l->pause.when == TIMER_NEVER && accept_batch(l); i++) {
    }
    int fd = l->io.fd;
    timer_drop(&l->pause);
    loop_remove(&l->io);
    close(fd);
    list_remove(&l->link);
    free(l);
}

bool listener_add(const struct listener_want *wants, size_t n, bool reuse_port, const struct client_user *api, char err[256]) {
    bool ok = true;
    claim_none();
    for (size_t i = 0; i < n && ok; i++)
        if (!claim(&wants[i])) ok = open_one(&wants[i], reuse_port, api, err);
    list_each_safe(it, &listeners) {
        struct listener *l = list_entry(it, struct listener, link);
        if (!ok && l->fresh) close_one(l);
    }
    return ok;
}

void listener_keep_only(const struct listener_want *wants, size_t n) {
    claim_none();
    for (size_t i = 0; i < n; i++)
        claim(&wants[i]);
    list_each_safe(it, &listeners) {
        struct listener *l = list_entry(it, struct listener, link);
        if (!l->claimed && !l->inherited) close_one(l);
    }
}

void listener_close_all(bool admin) {
    list_each_safe(it, &listeners) {
        struct listener *l = list_entry(it, struct listener, link);
        if (l->admin == admin) close_one(l);
    }
}
