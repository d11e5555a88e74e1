/* resolve: host names to addresses, inside the loop.
 * In: watches of names, DNS answers, /etc/hosts. Out: each name's addresses in a steady order, and a call at the end of the turn in
 * which they became others. Owns the names, the c-ares channel, and c-ares' sockets as far as the loop is concerned.
 * Connects to nothing, picks nothing. Never blocks, never calls a watch from within c-ares or resolve_watch.
 *
 *   ASKING --answer----> KNOWN  (asked again as the TTL ends; what the answer still has keeps its place)
 *      |                 |   ^  (a dead, slow or troubled DNS server: the addresses stay, asked again after 1, 2, 4 ... 30 s)
 *      |     no such name|   |answer
 *      |       or address|   |
 *      `--any failure--> FAILED (asked again after 1, 2, 4 ... 30 s)                                                    */
#include "resolve.h"

#include <ares.h>
#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "log.h"
#include "loop.h"
#include "timer.h"

#define RESOLV_CONF "/etc/resolv.conf"
#define TRY_MS                                                                                                                     \
    1500 /* the first try at a server; c-ares doubles it for the second: a dead one costs 4.5 s. Less than the
                              default connect_timeout, so that one lost packet costs no request */
#define TRIES         2
#define ASKS_PER_TURN 16  /* with hundreds of names others have their turn, and answers are read before they overflow the socket */
#define ANSWER_MAX    256 /* addresses looked at in one answer */

enum verdict {
    VERDICT_NONE,
    VERDICT_FOUND,
    VERDICT_GONE,    /* there is no such name, or it has no address */
    VERDICT_TROUBLE, /* nobody could say */
};

/* What c-ares said, until the end of the turn. */
struct answer {
    enum verdict verdict;
    int status;  /* ARES_… */
    int64_t ttl; /* s, -1 = none */
    bool another;
    unsigned naddrs;
    struct sock_addr addrs[RESOLVE_ADDRS_MAX];
    uint8_t moved[RESOLVE_ADDRS_MAX];
};

struct name {
    struct resolve_name shown;
    struct list link; /* registry */
    struct list watches;
    unsigned nwatches; /* 0 while a question runs: c-ares cannot drop a single one, so its end is waited for */
    struct timer timer;
    struct loop_task task; /* takes the answer over and tells the watches */
    struct answer answer;
    int64_t asked; /* clock_ms of the last question */
    int64_t delay; /* after the next failure, ms */
    bool asking;   /* c-ares has it */
    bool inside;   /* ares_getaddrinfo has not returned: what is answered now is from /etc/hosts */
    bool doubt;    /* "no address" is being confirmed */
    bool troubled; /* trouble was logged */
    bool telling;
    char host[RESOLVE_HOST_MAX + 1];
};

/* A socket of c-ares'. */
struct channel_fd {
    struct list link;
    struct loop_fd io;
    short events; /* what c-ares wants of it, for poll(2) */
};

/* Enough of a stat to see that a file is another. */
struct stamp {
    struct timespec mtime;
    ino_t ino;
    off_t size;
};

static struct list names = {&names, &names};
static struct list fds = {&fds, &fds};
static ares_channel channel;
static struct timer channel_timer;
static bool destroying;  /* what c-ares says now is no answer */
static char servers[64]; /* ROUTER_DNS; "" = as resolv.conf has it */
static const char *conf_path = RESOLV_CONF;
static struct stamp conf_stamp;

void resolve_test_conf(const char *path) {
    conf_path = path ? path : RESOLV_CONF;
}

/* ---- pure ---- */

static bool same(const struct sock_addr *a, const struct sock_addr *b) {
    if (a->u.sa.sa_family != b->u.sa.sa_family) return false;
    if (a->u.sa.sa_family == AF_INET) return a->u.in4.sin_addr.s_addr == b->u.in4.sin_addr.s_addr;
    return memcmp(&a->u.in6.sin6_addr, &b->u.in6.sin6_addr, sizeof a->u.in6.sin6_addr) == 0 &&
           a->u.in6.sin6_scope_id == b->u.in6.sin6_scope_id;
}

static bool has(const struct sock_addr *addrs, unsigned n, const struct sock_addr *a) {
    for (unsigned i = 0; i < n; i++)
        if (same(&addrs[i], a)) return true;
    return false;
}

bool resolve_merge(struct sock_addr addrs[RESOLVE_ADDRS_MAX], unsigned *naddrs, const struct sock_addr *answer, unsigned nanswer,
                   uint8_t moved[RESOLVE_ADDRS_MAX]) {
    unsigned n = 0;
    bool another = false;
    memset(moved, RESOLVE_ADDRS_MAX, RESOLVE_ADDRS_MAX);
    for (unsigned i = 0; i < *naddrs; i++) {
        if (has(answer, nanswer, &addrs[i])) {
            moved[i] = (uint8_t)n;
            addrs[n++] = addrs[i];
        } else {
            another = true;
        }
    }
    for (unsigned i = 0; i < nanswer && n < RESOLVE_ADDRS_MAX; i++) {
        if (has(addrs, n, &answer[i])) continue;
        addrs[n++] = answer[i];
        another = true;
    }
    *naddrs = n;
    return another;
}

unsigned resolve_place(const struct resolve_name *n, unsigned was) {
    return was < RESOLVE_ADDRS_MAX && n->moved[was] < RESOLVE_ADDRS_MAX ? n->moved[was] : 0;
}

int64_t resolve_ttl_ms(int64_t ttl) {
    if (ttl < 0) return RESOLVE_TTL_NONE;
    if (ttl >= RESOLVE_TTL_MOST / 1000) return RESOLVE_TTL_MOST;
    return ttl * 1000 < RESOLVE_TTL_LEAST ? RESOLVE_TTL_LEAST : ttl * 1000;
}

/* An IP address as text. */
static bool literal(const char *host, struct sock_addr *out) {
    *out = (struct sock_addr){.len = sizeof out->u.in4, .u.in4.sin_family = AF_INET};
    if (inet_pton(AF_INET, host, &out->u.in4.sin_addr) == 1) return true;
    *out = (struct sock_addr){.len = sizeof out->u.in6, .u.in6.sin6_family = AF_INET6};
    return inet_pton(AF_INET6, host, &out->u.in6.sin6_addr) == 1;
}

/* IP:PORT or [v6]:PORT. c-ares' own reading of it is lenient: it takes a bad port for none. */
static bool server_ok(const char *text) {
    char ip[sizeof servers];
    struct sock_addr a;
    uint64_t port;
    const char *colon = strrchr(text, ':');
    if (!colon || strlen(text) >= sizeof servers) return false;
    bool v6 = text[0] == '[';
    struct str host = {text, (size_t)(colon - text)};
    if (v6 && (host.len < 2 || host.ptr[host.len - 1] != ']')) return false;
    if (v6) host = (struct str){host.ptr + 1, host.len - 2};
    str_copy(ip, sizeof ip, host);
    if (!literal(ip, &a) || (a.u.sa.sa_family == AF_INET6) != v6) return false;
    return str_uint(str_of(colon + 1), 65535, &port) && port;
}

/* For people; cut where it is long. */
static const char *text_of(const struct resolve_name *n, char dst[256]) {
    char one[SOCK_TEXT];
    size_t len = 0;
    dst[0] = 0;
    for (unsigned i = 0; i < n->naddrs; i++) {
        if (i) len += str_copy(dst + len, 256 - len, STR(", "));
        len += str_copy(dst + len, 256 - len, str_of(sock_ip(&n->addrs[i], one)));
    }
    return dst;
}

/* ---- what a name becomes ---- */

static void retry(struct name *n) {
    timer_set(&n->timer, clock_ms() + n->delay);
    n->delay = 2 * n->delay > RESOLVE_RETRY_MOST ? RESOLVE_RETRY_MOST : 2 * n->delay;
}

/* True if it has become another. */
static bool found(struct name *n, const struct answer *a) {
    char text[256];
    enum resolve_state before = n->shown.state;
    n->delay = RESOLVE_RETRY_FIRST;
    timer_set(&n->timer, clock_ms() + resolve_ttl_ms(a->ttl));
    if (n->troubled) log_info("resolve", "%s: DNS answers again", n->host);
    n->troubled = false;
    if (!a->another) return false; /* FAILED has no addresses: any are others */
    n->shown.state = RESOLVE_KNOWN;
    n->shown.changes++;
    n->shown.naddrs = a->naddrs;
    memcpy(n->shown.addrs, a->addrs, sizeof n->shown.addrs);
    memcpy(n->shown.moved, a->moved, sizeof n->shown.moved);
    log_line(before == RESOLVE_ASKING ? LOG_DEBUG : LOG_INFO, "resolve", "%s is %s (asked again in %lld s)", n->host,
             text_of(&n->shown, text), (long long)resolve_ttl_ms(a->ttl) / 1000);
    return true;
}

static bool failed(struct name *n, const struct answer *a) {
    const char *reason = ares_strerror(a->status);
    bool keep = a->verdict == VERDICT_TROUBLE && n->shown.state == RESOLVE_KNOWN;
    if (keep && !n->troubled) log_warn("resolve", "%s: DNS does not answer (%s): its addresses stay in use", n->host, reason);
    n->troubled |= keep;
    retry(n);
    if (keep || n->shown.state == RESOLVE_FAILED) return false;
    log_warn("resolve", "%s does not resolve: %s", n->host, reason);
    n->troubled = false;
    n->shown.state = RESOLVE_FAILED;
    n->shown.changes++;
    n->shown.naddrs = 0;
    memset(n->shown.moved, RESOLVE_ADDRS_MAX, sizeof n->shown.moved);
    return true;
}

static void forget(struct name *n) {
    if (n->nwatches || n->asking || n->telling) return;
    timer_drop(&n->timer);
    loop_undefer(&n->task);
    list_remove(&n->link);
    free(n);
}

static void settle(struct loop_task *t) {
    struct name *n = list_entry(t, struct name, task);
    bool news = false;
    if (n->nwatches && n->answer.verdict) news = n->answer.verdict == VERDICT_FOUND ? found(n, &n->answer) : failed(n, &n->answer);
    n->answer.verdict = VERDICT_NONE;
    if (!news)
        for (unsigned i = 0; i < RESOLVE_ADDRS_MAX; i++)
            n->shown.moved[i] = (uint8_t)i;
    struct list now;
    list_init(&now);
    list_splice(&now, &n->watches); /* a call may watch and unwatch, this name too */
    n->telling = true;
    while (!list_empty(&now)) {
        struct resolve_watch *w = list_entry(now.next, struct resolve_watch, link);
        list_remove(&w->link);
        list_push_back(&n->watches, &w->link);
        if (n->shown.state == RESOLVE_ASKING || (w->told && !news)) continue;
        w->told = true;
        w->changed(w);
    }
    n->telling = false;
    forget(n);
}

/* ---- what c-ares says ---- */

static enum verdict judge(int status) {
    switch (status) {
    case ARES_SUCCESS: return VERDICT_FOUND;
    case ARES_ENOTFOUND:
    case ARES_ENODATA:
    case ARES_EBADNAME: return VERDICT_GONE;
    default: return VERDICT_TROUBLE;
    }
}

/* The least TTL of what the answer rests on; one of 2^31 and more counts as long (RFC 8767 4), as newer c-ares has it already. */
static int64_t least_ttl(const struct ares_addrinfo *ai) {
    int64_t least = INT32_MAX;
    for (const struct ares_addrinfo_node *i = ai->nodes; i; i = i->ai_next)
        if (i->ai_ttl >= 0 && i->ai_ttl < least) least = i->ai_ttl;
    for (const struct ares_addrinfo_cname *i = ai->cnames; i; i = i->next)
        if (i->ttl >= 0 && i->ttl < least) least = i->ttl;
    return least;
}

static unsigned addresses(const struct ares_addrinfo *ai, struct sock_addr out[ANSWER_MAX]) {
    unsigned n = 0;
    for (const struct ares_addrinfo_node *i = ai->nodes; i && n < ANSWER_MAX; i = i->ai_next) {
        struct sock_addr a = {.len = i->ai_family == AF_INET ? sizeof a.u.in4 : sizeof a.u.in6};
        if ((i->ai_family != AF_INET && i->ai_family != AF_INET6) || i->ai_addrlen < a.len) continue;
        memcpy(&a.u, i->ai_addr, a.len);
        a.u.in4.sin_port = 0; /* where in6 has its port, too */
        out[n++] = a;
    }
    return n;
}

static void answered(void *arg, int status, int timeouts, struct ares_addrinfo *ai) {
    static struct sock_addr all[ANSWER_MAX];
    struct name *n = arg;
    struct answer *a = &n->answer;
    (void)timeouts;
    n->asking = false;
    loop_defer(&n->task);
    if (destroying || status == ARES_EDESTRUCTION || status == ARES_ECANCELLED) {
        if (n->nwatches && channel) timer_set(&n->timer, clock_ms()); /* the new channel is asked */
        ares_freeaddrinfo(ai);
        return;
    }
    bool confirmed = n->doubt;
    n->doubt = false;
    a->status = status;
    a->verdict = judge(status);
    a->naddrs = n->shown.naddrs;
    memcpy(a->addrs, n->shown.addrs, sizeof a->addrs);
    if (ai) {
        a->ttl = n->inside ? -1 : least_ttl(ai);
        a->another = resolve_merge(a->addrs, &a->naddrs, all, addresses(ai, all), a->moved);
        if (!a->naddrs) a->verdict = VERDICT_GONE, a->status = ARES_ENODATA;
        ares_freeaddrinfo(ai);
    }
    if (confirmed && a->verdict == VERDICT_FOUND) a->verdict = VERDICT_TROUBLE; /* of one kind only: both are asked again */
    if (confirmed || a->verdict != VERDICT_GONE || status == ARES_ENOTFOUND || n->shown.state != RESOLVE_KNOWN) return;
    /* Of the two questions, A and AAAA, c-ares tells the last one's outcome: "no AAAA" hides that nobody could say about A. So
     * the kind that was in use is asked for alone before the name is given up. */
    n->doubt = true;
    a->verdict = VERDICT_NONE;
    timer_set(&n->timer, clock_ms());
}

/* ---- c-ares in the loop ---- */

static void rearm(void) {
    struct timeval tv, *next = ares_timeout(channel, NULL, &tv);
    /* Its own clock is read now, so ours must be too; and rounded up, or it would be called for nothing. */
    timer_set(&channel_timer, next ? clock_now_us() / 1000 + next->tv_sec * 1000 + next->tv_usec / 1000 + 1 : TIMER_NEVER);
}

static void channel_due(struct timer *t) {
    (void)t;
    ares_process_fd(channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    rearm();
}

/* c-ares may stop before the socket is dry (TCP: one read a call), or want to write when the edge has passed. So poll is asked
 * what is true now, again each turn until nothing is; only then the next edge is waited for. The bits are not used. */
static void channel_ready(struct loop_fd *io) {
    struct channel_fd *c = list_entry(io, struct channel_fd, io);
    struct pollfd p = {.fd = io->fd, .events = c->events};
    if (poll(&p, 1, 0) != 1) return;
    bool broken = p.revents & (POLLERR | POLLHUP | POLLNVAL);
    bool in = broken || (p.revents & POLLIN), out = (p.revents & POLLOUT) || (broken && (c->events & POLLOUT));
    loop_ready(io); /* before: the call may close it */
    ares_process_fd(channel, in ? p.fd : ARES_SOCKET_BAD, out ? p.fd : ARES_SOCKET_BAD);
    rearm();
}

static struct channel_fd *find_fd(int fd) {
    list_each(it, &fds) {
        struct channel_fd *c = list_entry(it, struct channel_fd, link);
        if (c->io.fd == fd) return c;
    }
    return NULL;
}

/* c-ares opened a socket, wants other things of one, or is about to close it (neither). */
static void fd_changed(void *arg, ares_socket_t fd, int in, int out) {
    struct channel_fd *c = find_fd(fd);
    (void)arg;
    if (!in && !out) {
        if (!c) return;
        list_remove(&c->link);
        loop_remove(&c->io);
        loop_bury(c, free);
        return;
    }
    if (!c) {
        c = must_alloc(sizeof *c);
        list_push_back(&fds, &c->link);
        if (!loop_add(&c->io, fd, channel_ready, "resolve"))
            log_warn("resolve", "no room in the loop for a question: it will time out");
    }
    c->events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0));
    loop_ready(&c->io);
}

static struct stamp stamp_of(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) return (struct stamp){0};
    return (struct stamp){st.st_mtim, st.st_ino, st.st_size};
}

/* What c-ares holds is small, and no version of it is whole after an allocation that failed: questions are lost, 1.34 may crash. */
static void *ares_alloc(size_t size) {
    return must_have(malloc(size + !size));
}

static const char *open_channel(ares_channel *out) {
    static char lookups[] = "fb"; /* /etc/hosts first, whatever nsswitch.conf says: so an answer from there is known as such */
    struct ares_options o = {.timeout = TRY_MS, .tries = TRIES, .lookups = lookups, .sock_state_cb = fd_changed};
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB | ARES_OPT_RESOLVCONF;
    char *path = str_dup(str_of(conf_path));
    o.resolvconf_path = path;
#ifdef ARES_OPT_QUERY_CACHE
    mask |= ARES_OPT_QUERY_CACHE; /* with qcache_max_ttl 0: who asks us again wants to know what is true now */
#endif
    int status = ares_init_options(out, &o, mask);
    free(path);
    if (status != ARES_SUCCESS) return ares_strerror(status);
    if (servers[0]) status = ares_set_servers_ports_csv(*out, servers);
    if (status == ARES_SUCCESS) return NULL;
    ares_destroy(*out);
    return ares_strerror(status);
}

/* A laptop or a container gets other DNS servers while we run. What was being asked is asked again. */
static void follow_conf(void) {
    struct stamp s = stamp_of(conf_path);
    ares_channel old = channel, fresh;
    if (s.mtime.tv_sec == conf_stamp.mtime.tv_sec && s.mtime.tv_nsec == conf_stamp.mtime.tv_nsec && s.ino == conf_stamp.ino &&
        s.size == conf_stamp.size)
        return;
    const char *problem = open_channel(&fresh);
    if (problem) {
        log_warn("resolve", "%s has changed and cannot be read (%s): the old DNS servers stay in use", conf_path, problem);
        return; /* tried again with the next question */
    }
    log_info("resolve", "%s has changed", conf_path);
    conf_stamp = s;
    channel = fresh;
    destroying = true;
    ares_destroy(old);
    destroying = false;
}

static void ask(struct name *n) {
    struct ares_addrinfo_hints hints = {.ai_family = n->doubt ? n->shown.addrs[0].u.sa.sa_family : AF_UNSPEC,
                                        .ai_socktype = SOCK_STREAM};
    follow_conf();
    n->asked = clock_ms();
    n->asking = n->inside = true;
    ares_getaddrinfo(channel, n->host, NULL, &hints, answered, n);
    n->inside = false;
    rearm();
}

static void due(struct timer *t) {
    static uint64_t turn;
    static unsigned asked;
    struct name *n = list_entry(t, struct name, timer);
    if (!channel || n->asking) return;
    if (turn != loop_stats()->turns) turn = loop_stats()->turns, asked = 0;
    if (asked++ < ASKS_PER_TURN)
        ask(n);
    else
        timer_set(&n->timer, clock_ms());
}

/* ---- names ---- */

static struct name *name_get(struct str host) {
    list_each(it, &names) {
        struct name *n = list_entry(it, struct name, link);
        if (str_ieq(str_of(n->host), host)) return n;
    }
    struct name *n = must_alloc(sizeof *n);
    str_copy(n->host, sizeof n->host, host);
    n->delay = RESOLVE_RETRY_FIRST;
    list_init(&n->watches);
    timer_init(&n->timer, due);
    loop_task_init(&n->task, settle);
    list_push_back(&names, &n->link);
    if (literal(n->host, &n->shown.addrs[0])) {
        n->shown.state = RESOLVE_KNOWN;
        n->shown.naddrs = 1;
    } else {
        timer_set(&n->timer, clock_ms()); /* not now: it may be answered at once */
    }
    return n;
}

void resolve_watch(struct resolve_watch *w, struct str host, void (*changed)(struct resolve_watch *)) {
    assert(!w->name && host.len && host.len <= RESOLVE_HOST_MAX);
    struct name *n = name_get(host);
    *w = (struct resolve_watch){.name = &n->shown, .changed = changed};
    list_push_back(&n->watches, &w->link);
    n->nwatches++;
    loop_defer(&n->task);
}

void resolve_again(const struct resolve_watch *w) {
    if (!w->name) return;
    struct name *n = list_entry(w->name, struct name, shown);
    bool waits = n->timer.when != TIMER_NEVER; /* an address never does */
    if (channel && waits && n->shown.state == RESOLVE_KNOWN && clock_ms() - n->asked >= RESOLVE_TTL_LEAST)
        timer_set(&n->timer, clock_ms());
}

void resolve_unwatch(struct resolve_watch *w) {
    if (!w->name) return;
    struct name *n = list_entry(w->name, struct name, shown);
    list_remove(&w->link);
    *w = (struct resolve_watch){0};
    if (--n->nwatches) return;
    timer_set(&n->timer, TIMER_NEVER);
    forget(n);
}

/* ---- begin and end ---- */

const char *resolve_open(void) {
    const char *dns = getenv("ROUTER_DNS");
    assert(!channel);
    if (dns && *dns && !server_ok(dns)) return "ROUTER_DNS must be an IP address and a port, as 127.0.0.1:5353 or [::1]:5353";
    str_copy(servers, sizeof servers, str_of(dns));
    conf_stamp = stamp_of(conf_path);
    timer_init(&channel_timer, channel_due);
    int status = ares_library_init_mem(ARES_LIB_INIT_ALL, ares_alloc, free, must_realloc);
    if (status != ARES_SUCCESS) return ares_strerror(status);
    const char *problem = open_channel(&channel);
    if (problem) {
        channel = NULL;
        ares_library_cleanup();
        return problem;
    }
    list_each(it, &names) {
        struct name *n = list_entry(it, struct name, link);
        if (n->shown.state == RESOLVE_ASKING) timer_set(&n->timer, clock_ms());
    }
    return NULL;
}

void resolve_close(void) {
    ares_channel old = channel;
    if (!old) return;
    channel = NULL; /* nothing is asked again */
    destroying = true;
    ares_destroy(old);
    destroying = false;
    ares_library_cleanup();
    timer_drop(&channel_timer);
    list_each_safe(it, &names) {
        struct name *n = list_entry(it, struct name, link);
        timer_set(&n->timer, TIMER_NEVER);
        forget(n);
    }
}
