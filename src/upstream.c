/* upstream: the endpoint's side of an exchange.
 * In: an endpoint, a request in pieces. Out: a response's head and body bytes, or how it failed. Owns the connection, its parser,
 * its one timer; idle ones are the endpoint's list's. Never writes in-flight, never retries, knows no client.
 *
 *   NAMING --known--> CONNECTING --connected--> EXCHANGE --whole, sound--> IDLE --reused--> EXCHANGE
 *      `--failed, late--'`--no address left--.     |  request half: sending > all sent
 *                                            v     v  response half: head > body > whole
 *                                          failed <'        (an answer may come before all is sent; a send that fails is
 *                                                            judged only after what lies readable has been read)            */
#include "upstream.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "slab.h"

#define READ_SHIFT_LEAST  14 /* 16 KiB */
#define READ_SHIFT_MOST   18 /* CONN_SCRATCH */
#define HEAD_MAX          ((size_t)64 << 10)
#define SEND_BYTES        CONN_SCRATCH /* of a request in one turn */
#define INFORMATIONAL_MAX 16
#define BULK_SHIFT        16                   /* from reads of 64 KiB on, which only a client that keeps up gets ... */
#define SPLICE_SHIFT      BULK_SHIFT           /* ... the kernel may move the bytes */
#define SPLICE_LEAST      ((uint64_t)32 << 10) /* below it copying is cheaper than the pipe's two system calls */
#define LOOK_MS           10000                /* between two looks whether the endpoint's host still acknowledges */
#define UNIX_AGAIN_MS     10                   /* until a unix socket whose backlog is full is tried again, then a quarter of ... */
#define UNIX_AGAIN_MOST   100                  /* ... the time it took so far, at most */
#define ADDRESS_LEAST_MS  200                  /* of the connect timeout, for one of several addresses */

static struct slab slab = {.size = sizeof(struct upstream), .clear = sizeof(struct upstream)};
static struct slab heads = {.size = sizeof(struct http_head)};
static struct http_head shared_head;
static struct iovec shared_spans[HTTP_SPANS_MAX];
static unsigned count, idle_count;

static void step(struct upstream *u);
static void try_address(struct upstream *u, const char *last);

static void on_ready(struct loop_fd *io) {
    step(list_entry(io, struct upstream, conn.io));
}

/* The only writer of state. */
static void upstream_set(struct upstream *u, enum upstream_state state) {
    static const char *const names[] = {"naming", "connecting", "exchange", "idle", "closed"};
    log_debug("upstream", "%s fd %d: %s -> %s", u->endpoint->url.text, u->conn.io.fd, names[u->state], names[state]);
    assert(u->state != UPSTREAM_CLOSED);
    if (u->state == UPSTREAM_IDLE) u->endpoint->nidle--, idle_count--;
    if (state == UPSTREAM_IDLE) u->endpoint->nidle++, idle_count++;
    list_remove(&u->link);
    u->state = (uint8_t)state;
}

static void release(void *ptr) {
    slab_put(&slab, ptr);
}

static void drop_own_head(struct upstream *u) {
    if (u->own_head) slab_put(&heads, u->own_head);
    u->own_head = NULL;
}

static void destroy(struct upstream *u) {
    bool counted = u->state != UPSTREAM_IDLE; /* an idle one holds no reference: it lives on the endpoint's own list */
    struct endpoint *e = u->endpoint;
    upstream_set(u, UPSTREAM_CLOSED);
    timer_drop(&u->timer);
    conn_close(&u->conn);
    drop_own_head(u);
    u->user = NULL;
    count--;
    loop_bury(u, release);
    if (counted) endpoint_unref(e);
}

static void fail(struct upstream *u, enum upstream_failure failure, const char *reason) {
    const struct upstream_user *api = u->api;
    void *user = u->user;
    if (u->state == UPSTREAM_CLOSED) return;
    log_debug("upstream", "%s: failed: %s", u->endpoint->url.text, reason);
    struct endpoint *e = u->endpoint;
    endpoint_ref(e); /* the user will speak of it */
    destroy(u);
    api->failed(user, failure, reason);
    endpoint_unref(e);
}

/* ---- idle or close ---- */

/* Its endpoint's name has the addresses still that it had when the connect began. */
static bool is_current(const struct upstream *u) {
    return !u->endpoint->named || u->name_changes == u->endpoint->watch.name->changes;
}

static void become_idle(struct upstream *u) {
    struct endpoint *e = u->endpoint;
    int64_t keep = e->keepalive_timeout;
    if (u->keep_alive_s && (int64_t)u->keep_alive_s * 1000 - 1000 < keep) keep = (int64_t)u->keep_alive_s * 1000 - 1000;
    bool sound = !u->no_reuse && !u->failed_send && u->sent_all && !u->conn.ended && !(u->conn.io.bits & LOOP_HUP) &&
                 !conn_in(&u->conn).len && u->left != 0 && is_current(u);
    if (!sound || keep <= 0 || e->nidle >= e->keepalive_max_idle || e->refs == 1) { /* refs 1: no pool has it any more */
        destroy(u);
        return;
    }
    upstream_set(u, UPSTREAM_IDLE);
    drop_own_head(u);
    u->user = NULL;
    u->due = clock_ms() + keep;
    timer_set(&u->timer, u->due);
    list_push_front(&e->idle, &u->link);
    endpoint_unref(e);
}

/* The bit alone does not tell: a read that got all it asked for leaves it set, and so does a splice. */
static bool says_nothing(struct upstream *u) {
    return !conn_readable(&u->conn) || conn_fill(&u->conn, 1) == IO_AGAIN;
}

static struct upstream *take_idle(struct endpoint *e) {
    while (!list_empty(&e->idle)) {
        struct upstream *u = list_entry(e->idle.next, struct upstream, link);
        if (clock_ms() < u->due && is_current(u) && says_nothing(u)) {
            endpoint_ref(e);
            upstream_set(u, UPSTREAM_EXCHANGE);
            return u;
        }
        destroy(u); /* too old, or it said something: an end, or bytes nobody asked for */
    }
    return NULL;
}

void upstream_close_idle(struct endpoint *e) {
    while (!list_empty(&e->idle))
        destroy(list_entry(e->idle.next, struct upstream, link));
}

bool upstream_close_oldest_idle(void) {
    struct upstream *oldest = NULL;
    if (!idle_count) return false;
    list_each(it, endpoint_all()) { /* the least recently used of an endpoint stands last in its list */
        struct endpoint *e = list_entry(it, struct endpoint, link);
        if (list_empty(&e->idle)) continue;
        struct upstream *u = list_entry(e->idle.prev, struct upstream, link);
        if (!oldest || u->due < oldest->due) oldest = u;
    }
    if (oldest) destroy(oldest);
    return oldest;
}

unsigned upstream_idle_count(void) {
    return idle_count;
}

unsigned upstream_count(void) {
    return count;
}

/* ---- request ---- */

/* Cuts the pieces where a turn's share of a long body ends. The bytes that are left of them. */
static size_t turns_share(struct iovec *iov, int *n) {
    size_t want = 0;
    for (int i = 0; i < *n; i++) {
        if (want + iov[i].iov_len >= SEND_BYTES) {
            iov[i].iov_len = SEND_BYTES - want;
            *n = i + 1;
            return SEND_BYTES;
        }
        want += iov[i].iov_len;
    }
    return want;
}

static void send_more(struct upstream *u) {
    bool began = false;
    while (!u->sent_all && !u->failed_send && conn_writable(&u->conn)) {
        struct iovec iov[CONN_IOV_MAX];
        size_t sent = 0;
        if (u->sent >= SEND_BYTES && loop_late()) { /* others have a turn */
            (began ? loop_ready : loop_yield)(&u->conn.io);
            return;
        }
        began = true;
        int n = u->api->pieces(u->user, u->sent, iov, CONN_IOV_MAX), all = n;
        if (n == 0) {
            u->sent_all = true;
            break;
        }
        size_t want = turns_share(iov, &n);
        enum io r = conn_send(&u->conn, iov, n, &sent);
        u->sent += sent;
        if (r == IO_FAIL) {
            u->failed_send = true;
            u->conn.io.bits |= LOOP_READABLE | LOOP_HUP; /* what it said before it hung up is read first */
        }
        if (r != IO_OK) return;
        if (want < SEND_BYTES && all < CONN_IOV_MAX) u->sent_all = true;
        if (!u->sent_all && want == SEND_BYTES) {
            loop_ready(&u->conn.io);
            return;
        }
    }
}

/* ---- response ---- */

static void note_keep_alive(struct upstream *u, const struct http_head *h) {
    struct str rest = http_get(h, FIELD_KEEP_ALIVE), item, name;
    uint64_t n;
    if (u->left != UINT16_MAX && u->left) u->left--;
    while (str_next(&rest, &item)) {
        struct str value = str_trim(str_cut(item, '=', &name));
        name = str_trim(name);
        if (!str_uint(value, 60000, &n)) continue;
        if (str_ieq(name, STR("timeout"))) u->keep_alive_s = n ? (uint16_t)n : 1;
        /* Apache counts down, cpp-httplib says the same number each time: the smaller of what it says and what we counted. */
        if (str_ieq(name, STR("max")) && n <= u->left) u->left = u->left == UINT16_MAX && n ? (uint16_t)(n - 1) : (uint16_t)n;
    }
}

/* True: go on with this connection's bytes. */
static bool got_head(struct upstream *u, size_t used) {
    const struct http_head *h = u->http.head;
    if (h->status < 200) {
        conn_consume(&u->conn, used);
        if (++u->informational > INFORMATIONAL_MAX) return fail(u, UPSTREAM_BAD, "too many 1xx responses"), false;
        bool head_answer = u->http.head_answer;
        drop_own_head(u);
        http_init(&u->http, MESSAGE_RESPONSE, &shared_head, shared_spans);
        u->http.head_answer = head_answer;
        return true;
    }
    if (!h->keep_alive || h->status >= 400 || !u->sent_all) u->no_reuse = true;
    note_keep_alive(u, h);
    u->got_head = true;
    u->api->head(u->user, h);
    if (u->state == UPSTREAM_CLOSED) return false;
    conn_consume(&u->conn, used);
    drop_own_head(u);
    u->http.head = NULL;
    return true;
}

static void whole(struct upstream *u, const struct iovec *spans, int n, size_t used) {
    u->api->body(u->user, spans, n, true);
    if (u->state == UPSTREAM_CLOSED) return;
    conn_consume(&u->conn, used); /* only now: the spans lay in there */
    become_idle(u);
}

/* Looks at what is unread. True while the response is not over and more bytes are wanted. */
static bool take_in(struct upstream *u) {
    for (;;) {
        struct str in = conn_in(&u->conn);
        if (!in.len || (!u->got_head && in.len <= u->http.seen)) return true;
        size_t used = 0;
        enum http_event ev = http_feed(&u->http, in.ptr, in.len, &used);
        if (ev == GOT_BAD) return fail(u, u->got_head ? UPSTREAM_CUT : UPSTREAM_BAD, u->http.text), false;
        if (ev == GOT_MORE) {
            if (u->got_head) {
                conn_consume(&u->conn, used);
                return true;
            }
            if (in.len >= HEAD_MAX) return fail(u, UPSTREAM_BAD, "the response's headers do not end"), false;
            if (!u->own_head) {
                u->own_head = slab_get(&heads);
                memcpy(u->own_head, &shared_head, sizeof shared_head);
                u->http.head = u->own_head;
            }
            return true;
        }
        if (ev == GOT_HEAD) {
            bool final = u->http.head->status >= 200, ended = u->http.ended;
            if (!got_head(u, used)) return false;
            if (final && ended) return whole(u, NULL, 0, 0), false;
            continue;
        }
        if (ev == GOT_END || u->http.ended) return whole(u, u->http.spans, ev == GOT_END ? 0 : u->http.nspans, used), false;
        u->api->body(u->user, u->http.spans, u->http.nspans, false);
        if (u->state == UPSTREAM_CLOSED) return false;
        conn_consume(&u->conn, used);
        if (!u->api->wants(u->user)) return true;
    }
}

static void peer_ended(struct upstream *u, enum io how) {
    if (u->got_head && how == IO_END && http_eof(&u->http)) {
        u->no_reuse = true;
        whole(u, NULL, 0, 0);
    } else if (u->got_head) {
        fail(u, UPSTREAM_CUT, how == IO_END ? "it closed the connection in mid-response" : strerror(errno));
    } else if (u->reused && !u->got_byte && clock_ms() - u->started <= UPSTREAM_STALE_MS) {
        fail(u, UPSTREAM_STALE, "a reused connection was closed");
    } else {
        fail(u, UPSTREAM_BROKE, how == IO_END ? "it closed the connection before it answered" : strerror(errno));
    }
}

/* Inline: every event of every stream moves its deadline. */
static inline void arm(struct upstream *u, bool wants) {
    uint32_t ms = !u->got_byte ? u->first_byte : wants ? u->stream_idle : 0;
    int64_t look = clock_ms() + LOOK_MS;
    u->due = ms ? clock_ms() + ms : TIMER_NEVER;
    timer_set(&u->timer, u->due < look ? u->due : look);
}

/* Where the body's length is known and nobody has to see its bytes, the kernel moves them. True: it did, or the exchange is over;
 * *more: come again in this turn. */
static bool pass_on(struct upstream *u, bool *more) {
    uint64_t most = 0;
    size_t moved = 0;
    enum io wrote;
    if (u->read_shift < SPLICE_SHIFT || !u->got_head || u->no_splice || u->http.left < SPLICE_LEAST || !u->api->straight ||
        conn_in(&u->conn).len || !conn_can_splice())
        return false;
    struct conn *to = u->api->straight(u->user, u->http.left, &most);
    if (!to || most < SPLICE_LEAST) return false;
    enum io r = conn_splice(&u->conn, to, most < CONN_SCRATCH ? (size_t)most : CONN_SCRATCH, &moved, &wrote);
    *more = false;
    if (r == IO_FAIL && errno == EINVAL) return u->no_splice = true, false;
    if (r == IO_AGAIN && wrote == IO_OK) return true;
    if (r == IO_END || r == IO_FAIL) return peer_ended(u, r), true;
    http_skip(&u->http, moved);
    u->api->passed(u->user, moved, wrote);
    if (u->state == UPSTREAM_CLOSED) return true;
    if (u->http.ended) return whole(u, NULL, 0, 0), true;
    if (wrote != IO_OK)
        u->read_shift = READ_SHIFT_LEAST;
    else if (moved >= CONN_SCRATCH / 2)
        loop_ready(&u->conn.io); /* others have a turn */
    else
        *more = true;
    return true;
}

static void read_more(struct upstream *u) {
    bool more = true, began = false;
    while (more && (conn_readable(&u->conn) || (u->got_head && conn_in(&u->conn).len))) {
        if (u->got_head && !u->api->wants(u->user)) break;
        if (u->read_shift >= BULK_SHIFT && loop_late()) { /* others have a turn */
            (began ? loop_ready : loop_yield)(&u->conn.io);
            break;
        }
        began = true;
        if (pass_on(u, &more)) {
            if (u->state != UPSTREAM_EXCHANGE) return;
            continue;
        }
        size_t want = (size_t)1 << u->read_shift;
        size_t before = conn_in(&u->conn).len;
        if (!before || !u->got_head) {
            enum io r = conn_fill(&u->conn, want);
            if (r == IO_AGAIN) break;
            if (r != IO_OK) {
                peer_ended(u, r);
                return;
            }
            u->got_byte = true;
        }
        size_t had = conn_in(&u->conn).len;
        if (!take_in(u)) return;
        if (had - before >= want && u->read_shift < READ_SHIFT_MOST) u->read_shift++;
        u->api->flush(u->user);
        if (u->state == UPSTREAM_CLOSED) return;
        if (!u->api->wants(u->user)) {
            u->read_shift = READ_SHIFT_LEAST; /* a slow client: what it does not take must be held */
            break;
        }
        if (had >= CONN_SCRATCH / 2) { /* others have a turn */
            loop_ready(&u->conn.io);
            break;
        }
    }
    if (!conn_settle(&u->conn)) {
        fail(u, u->got_head ? UPSTREAM_CUT : UPSTREAM_BROKE, "no memory for its response");
        return;
    }
    arm(u, !u->got_head || u->api->wants(u->user));
}

static void connected(struct upstream *u) {
    upstream_set(u, UPSTREAM_EXCHANGE);
    if (u->endpoint->named && is_current(u))
        u->endpoint->good = (u->first_address + u->tried_addresses - 1u) % u->endpoint->watch.name->naddrs;
    arm(u, true);
}

static void step(struct upstream *u) {
    if (u->in_step) return;
    if (u->state == UPSTREAM_IDLE) {
        /* An end, or bytes nobody asked for: either way nothing more may be sent on it. */
        if (!says_nothing(u)) destroy(u);
        return;
    }
    u->in_step = true;
    if (u->state == UPSTREAM_CONNECTING && (u->conn.io.bits & (LOOP_WRITABLE | LOOP_HUP))) {
        int e = sock_error(u->conn.io.fd);
        if (e)
            try_address(u, strerror(e));
        else
            connected(u);
    }
    if (u->state == UPSTREAM_EXCHANGE) {
        send_more(u);
        read_more(u);
    }
    u->in_step = false;
}

/* ---- connecting ---- */

/* Each address left gets its share of the time left. */
static int64_t address_deadline(const struct upstream *u) {
    int64_t now = clock_ms(), left = u->due - now;
    int64_t n = u->endpoint->url.is_unix ? 1 : (int64_t)u->endpoint->watch.name->naddrs - u->tried_addresses + 1;
    int64_t share = n > 1 ? left / n : left;
    if (share < ADDRESS_LEAST_MS) share = left < ADDRESS_LEAST_MS ? left : ADDRESS_LEAST_MS;
    return now + (share < 1 ? 1 : share);
}

static bool out_of_room(int e) {
    return e == EMFILE || e == ENFILE || e == ENOBUFS || e == ENOMEM;
}

/* A unix socket's backlog is full: TCP would wait in silence, too. False: there is no time left for it. */
static bool try_again(struct upstream *u) {
    int64_t now = clock_ms(), wait = (now - u->started) / 4;
    wait = wait < UNIX_AGAIN_MS ? UNIX_AGAIN_MS : wait > UNIX_AGAIN_MOST ? UNIX_AGAIN_MOST : wait;
    if (now >= u->due) return false;
    u->tried_addresses--;
    u->conn.io.bits = 0;
    timer_set(&u->timer, now + wait < u->due ? now + wait : u->due);
    return true;
}

/* The next address; `last` says why the one before did not do. */
static void try_address(struct upstream *u, const char *last) {
    struct sock_addr a;
    while (endpoint_address(u->endpoint, u->first_address, u->tried_addresses, &a)) {
        bool done;
        u->tried_addresses++;
        conn_close(&u->conn);
        int fd = sock_connect(&a, &done);
        while (fd < 0 && out_of_room(errno) && upstream_close_oldest_idle())
            fd = sock_connect(&a, &done);
        if (fd < 0 && out_of_room(errno)) {
            fail(u, UPSTREAM_NO_ROOM, strerror(errno));
            return;
        }
        if (fd < 0 && errno == EAGAIN && u->endpoint->url.is_unix && try_again(u)) return;
        if (fd < 0) {
            last = strerror(errno);
            continue;
        }
        if (!conn_open(&u->conn, fd, CONN_ENDPOINT, on_ready)) {
            last = "no room in the loop";
            close(fd);
            continue;
        }
        if (done) {
            connected(u);
        } else {
            u->conn.io.bits = 0;
            timer_set(&u->timer, address_deadline(u));
        }
        return;
    }
    if (u->endpoint->named) resolve_again(&u->endpoint->watch);
    fail(u, UPSTREAM_NO_CONNECT, last);
}

static void begin_connect(struct upstream *u) {
    upstream_set(u, UPSTREAM_CONNECTING);
    u->tried_addresses = 0;
    u->first_address = (uint8_t)u->endpoint->good;
    if (u->endpoint->named) u->name_changes = u->endpoint->watch.name->changes;
    try_address(u, "its name has no address");
}

static void name_known(struct endpoint *e) {
    struct list now;
    list_init(&now);
    if (e->watch.name->state == RESOLVE_ASKING) return;
    list_each_safe(it, &e->idle) {
        struct upstream *u = list_entry(it, struct upstream, link);
        if (!is_current(u)) destroy(u);
    }
    list_splice(&now, &e->waiting);
    while (!list_empty(&now)) {
        struct upstream *u = list_entry(now.next, struct upstream, link);
        begin_connect(u); /* leaves the list by its change of state */
        if (u->state == UPSTREAM_EXCHANGE) step(u);
    }
}

static void expired(struct timer *t) {
    struct upstream *u = list_entry(t, struct upstream, timer);
    switch ((enum upstream_state)u->state) {
    case UPSTREAM_NAMING: fail(u, UPSTREAM_NO_CONNECT, "its name was not resolved in time"); break;
    case UPSTREAM_CONNECTING:
        if (u->conn.io.bits & (LOOP_WRITABLE | LOOP_HUP)) { /* it was in time; we are late, and step in this very turn */
            step(u);
            break;
        }
        try_address(u, "the connection was not accepted in time");
        if (u->state == UPSTREAM_EXCHANGE) step(u);
        break;
    case UPSTREAM_EXCHANGE:
        if (conn_readable(&u->conn)) { /* a byte of it came in this very turn: it is in time */
            step(u);
            break;
        }
        if (clock_ms() < u->due) {
            timer_set(t, u->due < clock_ms() + LOOK_MS ? u->due : clock_ms() + LOOK_MS);
            if (sock_peer_lost(u->conn.io.fd)) fail(u, u->got_head ? UPSTREAM_CUT : UPSTREAM_BROKE, "its host is gone");
            break;
        }
        if (u->got_byte)
            fail(u, u->got_head ? UPSTREAM_STALL : UPSTREAM_SLOW,
                 "no further byte of its response came in time (stream_idle_timeout)");
        else
            fail(u, UPSTREAM_SLOW, "no byte of a response came in time (first_byte_timeout)");
        break;
    case UPSTREAM_IDLE: destroy(u); break;
    case UPSTREAM_CLOSED: break;
    }
}

struct upstream *upstream_start(struct endpoint *e, const struct upstream_user *api, void *user,
                                const struct upstream_limits *limits, bool head_answer, bool fresh) {
    struct upstream *u = fresh ? NULL : take_idle(e);
    if (u) {
        u->reused = true;
    } else {
        u = slab_get(&slab);
        count++;
        list_init(&u->link);
        u->conn.io.fd = -1;
        list_init(&u->conn.io.link);
        u->endpoint = e;
        u->left = UINT16_MAX;
        timer_init(&u->timer, expired);
        endpoint_ref(e);
    }
    u->api = api;
    u->user = user;
    u->sent = 0;
    u->started = clock_ms();
    u->due = u->started + limits->connect;
    u->first_byte = (uint32_t)limits->first_byte;
    u->stream_idle = (uint32_t)limits->stream_idle;
    u->informational = u->tried_addresses = 0;
    u->got_byte = u->got_head = u->sent_all = u->no_reuse = u->failed_send = u->no_splice = false;
    u->read_shift = READ_SHIFT_LEAST;
    http_init(&u->http, MESSAGE_RESPONSE, &shared_head, shared_spans);
    u->http.head_answer = head_answer;
    return u;
}

void upstream_go(struct upstream *u) {
    const struct endpoint *e = u->endpoint;
    if (u->state == UPSTREAM_EXCHANGE) {
        arm(u, true);
        step(u);
        return;
    }
    if (e->named && e->watch.name->state == RESOLVE_ASKING) {
        list_push_back(&u->endpoint->waiting, &u->link);
        timer_set(&u->timer, u->due);
        return;
    }
    begin_connect(u);
    if (u->state == UPSTREAM_EXCHANGE) step(u);
}

void upstream_resume(struct upstream *u) {
    if (u->state != UPSTREAM_EXCHANGE) return;
    arm(u, true);
    if (conn_readable(&u->conn) || conn_in(&u->conn).len) loop_ready(&u->conn.io);
}

void upstream_abandon(struct upstream *u) {
    if (u->state != UPSTREAM_CLOSED) destroy(u);
}

static const struct endpoint_hooks hooks = {.name = name_known, .gone = upstream_close_idle};

void upstream_setup(void) {
    endpoint_set_hooks(&hooks);
}
