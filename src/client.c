/* client: the caller's side of a connection.
 * In: a descriptor and a const table of callbacks. Out: heads, body bytes, whole requests; in turn it takes response bytes.
 * Owns the connection, its parser and its one timer. Touches no endpoint, judges no path; the user answers every refusal, so that
 * each has its access line.
 *
 *   IDLE --byte--> HEAD --accept--> BODY --whole--> BUSY --done--> IDLE          any: END, FAIL, deadline -> closed
 *                    `--answered at once-----------^  |`--done, body unread--> DISCARD --whole--> IDLE
 *                                                     `--done, close--> LINGER --FIN, 2 s quiet--> closed             */
#include "client.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "slab.h"
#include "world.h"

#define HEAD_READ      ((size_t)16 << 10)  /* one read while a head is expected: most requests come whole in it */
#define AHEAD_MAX      ((size_t)16 << 10)  /* pipelined bytes held while a request is answered */
#define TURN_BYTES     ((size_t)256 << 10) /* read from one client in one turn */
#define BULK_BYTES     ((size_t)64 << 10)  /* a body with more to come is bulk: it waits when the turn has been long */
#define TURN_REQUESTS  16                  /* answered to one client in one turn */
#define LINGER_MS      2000                /* quiet time after which a lingering client is closed */
#define LINGER_STEP    ((uint32_t)1 << 20) /* bytes that count as not quiet */
#define LINGER_MOST_MS 30000
#define TAKEN_LEAST    4096 /* bytes: who takes less in a timeout takes none; a window that opens by a crack is no reader */

/* A request as it arrives. A stream that runs for minutes does without it. */
struct client_reading {
    struct http http;
    struct http_head *own_head; /* while a head is half read */
    struct body *store;         /* where the body goes, from client_accept on */
    int64_t body_start;         /* clock_ms, for body_min_rate */
    uint64_t body_seen;         /* body bytes received */
    uint64_t body_max;
    bool expects; /* it waits for 100 Continue before it sends its body */
};

static struct list idle_list = {&idle_list, &idle_list};
static struct list busy_list = {&busy_list, &busy_list};
static unsigned count;
static bool draining;
static struct slab slab = {.size = sizeof(struct client), .clear = sizeof(struct client)};
static struct slab readings = {.size = sizeof(struct client_reading)};
static struct slab heads = {.size = sizeof(struct http_head)};
static struct http_head shared_head; /* a head is parsed here; only a half-read one gets its own */
static struct iovec shared_spans[HTTP_SPANS_MAX];

static void step(struct client *c);

static void on_ready(struct loop_fd *io) {
    step(list_entry(io, struct client, conn.io));
}

static const struct conf *conf(void) {
    return world_current()->conf;
}

static int64_t deadline(int64_t timeout) {
    return timeout ? clock_ms() + timeout : TIMER_NEVER;
}

/* When a body is too slow if nothing more comes: body_timeout from now, or sooner, as its average falls below body_min_rate. */
static int64_t body_deadline(const struct client_reading *r) {
    int64_t grace = conf()->body_timeout, rate = (int64_t)conf()->body_min_rate, silent = deadline(grace);
    if (!grace || !rate) return silent;
    int64_t earned = (int64_t)(r->body_seen * 1000 / (uint64_t)rate);
    int64_t poor = r->body_start + (earned > grace ? earned : grace) + 1;
    return poor < silent ? poor : silent;
}

/* The kernel says "writable" only when a third of its buffer is free: what it holds tells whether the client takes anything. */
static void await_taking(struct client *c) {
    c->unsent = (uint32_t)sock_unsent(c->conn.io.fd);
    timer_set(&c->timer, deadline(conf()->send_timeout));
}

/* The only writer of state: moves between the lists, arms the state's timer. */
static void client_set(struct client *c, enum client_state state) {
    static const char *const names[] = {"idle", "head", "body", "busy", "discard", "linger", "closed"};
    log_debug("client", "fd %d: %s -> %s", c->conn.io.fd, names[c->state], names[state]);
    assert(c->state != CLIENT_CLOSED);
    c->state = (uint8_t)state;
    list_remove(&c->link);
    if (state != CLIENT_CLOSED) list_push_back(state == CLIENT_IDLE ? &idle_list : &busy_list, &c->link);
    switch (state) {
    case CLIENT_IDLE:
        c->unsent = 0;
        timer_set(&c->timer, deadline(conf()->idle_timeout));
        break;
    case CLIENT_HEAD:
        c->fresh = false;
        timer_set(&c->timer, deadline(conf()->header_timeout));
        break;
    case CLIENT_BODY:
    case CLIENT_DISCARD:
        c->reading->body_start = clock_ms();
        timer_set(&c->timer, body_deadline(c->reading));
        break;
    case CLIENT_BUSY:
        timer_set(&c->timer, TIMER_NEVER);
        if (client_owes(c)) await_taking(c);
        break;
    case CLIENT_LINGER:
        c->linger_start = clock_ms(), c->lingered = 0;
        timer_set(&c->timer, deadline(LINGER_MS));
        break;
    case CLIENT_CLOSED: timer_drop(&c->timer); break;
    }
}

static void drop_own_head(struct client_reading *r) {
    if (r->own_head) slab_put(&heads, r->own_head);
    r->own_head = NULL;
}

static void drop_reading(struct client *c) {
    if (!c->reading) return;
    drop_own_head(c->reading);
    slab_put(&readings, c->reading);
    c->reading = NULL;
}

static void release(void *ptr) {
    slab_put(&slab, ptr);
}

void client_close(struct client *c) {
    if (c->state == CLIENT_CLOSED) return;
    client_set(c, CLIENT_CLOSED);
    conn_close(&c->conn);
    drop_reading(c);
    if (!c->admin) count--;
    loop_bury(c, release);
}

static void lost(struct client *c, enum why why) {
    if (c->state == CLIENT_CLOSED) return;
    if (c->user) {
        c->api->gone(c, why);
        c->user = NULL;
    }
    client_close(c);
}

/* ---- reading ---- */

static void message_begins(struct client *c) {
    struct client_reading *r = c->reading = slab_get(&readings);
    http_init(&r->http, MESSAGE_REQUEST, &shared_head, shared_spans);
    r->own_head = NULL;
    r->store = NULL;
    r->body_seen = 0;
    r->body_max = conf()->max_body;
    r->expects = false;
}

/* Nothing of the request is still to come. */
static bool is_whole(const struct client *c) {
    return !c->reading || c->reading->http.ended;
}

static void refuse(struct client *c, enum why why, const char *text) {
    if (why_row(why)->flags & WHY_CLOSE) c->close_after = true;
    client_set(c, CLIENT_BUSY);
    c->api->refused(c, why, text);
}

/* There is no memory for what was read and not understood yet. */
static void no_memory(struct client *c) {
    if (c->state != CLIENT_HEAD && c->state != CLIENT_BODY) {
        lost(c, WHY_CLIENT_GONE);
        return;
    }
    c->conn.broken = false; /* the way out is sound; what it sends from now on is thrown away */
    c->close_after = true;
    refuse(c, WHY_NO_MEMORY, NULL);
}

void client_refuse(struct client *c, enum why why) {
    c->user = c->api->begin(c);
    refuse(c, why, NULL);
}

/* What is unread of a half-arrived head stays; the parser's view of it moves out of the shared place. */
static void keep_half_head(struct client_reading *r) {
    assert(r);
    if (r->own_head) return;
    r->own_head = slab_get(&heads);
    memcpy(r->own_head, &shared_head, sizeof shared_head);
    r->http.head = r->own_head;
}

/* The head's bytes are needed while the user looks at it, and no longer than to its answer. */
static void head_over(struct client *c) {
    if (!c->head_used) return;
    conn_consume(&c->conn, c->head_used);
    c->head_used = 0;
    if (!c->reading) return;
    drop_own_head(c->reading);
    c->reading->http.head = NULL;
}

/* The whole request is here and stored. */
static void request_whole(struct client *c) {
    drop_reading(c);
    c->api->request(c);
}

static void got_head(struct client *c, size_t used) {
    assert(c->reading);
    const struct http_head *h = c->reading->http.head;
    c->head_used = (uint32_t)used;
    if (!h->keep_alive || draining) c->close_after = true;
    c->reading->expects = h->expect_continue && !c->reading->http.ended;
    client_set(c, CLIENT_BUSY); /* unless the user accepts a body to come */
    c->api->head(c, h);
    if (c->state == CLIENT_CLOSED) return;
    head_over(c);
    struct client_reading *r = c->reading;
    if (!r || !r->store) return;
    if (r->http.ended) {
        request_whole(c);
        return;
    }
    client_set(c, CLIENT_BODY);
    bool ask = r->expects && !conn_in(&c->conn).len;
    r->expects = false;
    if (ask) {
        static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
        conn_write(&c->conn, &(struct iovec){(void *)(uintptr_t)go, sizeof go - 1}, 1);
    }
}

/* True: go on in this turn. */
static bool read_head(struct client *c) {
    size_t used = 0, limit = conf()->max_header;
    struct str in = conn_in(&c->conn);
    if (!in.len || (c->reading && in.len <= c->reading->http.seen)) {
        enum io r = conn_fill(&c->conn, HEAD_READ);
        if (r == IO_AGAIN) return false;
        if (r != IO_OK) return lost(c, WHY_CLIENT_GONE), false;
        in = conn_in(&c->conn);
    }
    if (c->state == CLIENT_IDLE) {
        message_begins(c);
        c->user = c->api->begin(c);
        client_set(c, CLIENT_HEAD);
    }
    assert(c->reading);
    struct http *http = &c->reading->http;
    enum http_event ev = http_feed(http, in.ptr, in.len < limit ? in.len : limit, &used);
    switch (ev) {
    case GOT_HEAD: got_head(c, used); return true;
    case GOT_MORE:
        if (in.len >= limit) return refuse(c, WHY_BIG_HEAD, NULL), true;
        keep_half_head(c->reading);
        if (!conn_settle(&c->conn)) return no_memory(c), true;
        return conn_readable(&c->conn);
    default: refuse(c, (enum why)http->error, http->text); return true;
    }
}

static enum why take_spans(struct client *c, bool in_place) {
    struct client_reading *r = c->reading;
    for (int i = 0; i < r->http.nspans; i++) {
        const struct iovec *v = &r->http.spans[i];
        r->body_seen += v->iov_len;
        if (r->body_seen > r->body_max) return WHY_BIG_BODY;
        if (c->state == CLIENT_DISCARD) continue;
        uint64_t expect = r->http.left || r->http.ended ? v->iov_len + r->http.left : 0;
        bool kept = in_place ? body_commit(r->store, v->iov_len) : body_append(r->store, v->iov_base, v->iov_len, expect);
        if (!kept) return WHY_NO_MEMORY;
        enum why why = c->api->body(c, v->iov_base, v->iov_len);
        if (why != WHY_NONE) return why;
    }
    return WHY_NONE;
}

static void body_went_wrong(struct client *c, enum why why) {
    if (c->state == CLIENT_DISCARD) { /* answered already: more than any body may have is not worth reading */
        conn_shut(&c->conn);
        client_set(c, CLIENT_LINGER);
        return;
    }
    refuse(c, why, NULL);
}

static void body_ended(struct client *c) {
    if (c->state == CLIENT_DISCARD) {
        drop_reading(c);
        client_set(c, CLIENT_IDLE);
        return;
    }
    client_set(c, CLIENT_BUSY);
    request_whole(c);
}

/* Where the length is known and nothing lies unread, the kernel copies straight into the body's block. */
static enum io read_in_place(struct client *c, struct str *data) {
    size_t room, got;
    uint64_t left = c->reading->http.left;
    char *to = body_room(c->reading->store, left, &room);
    if (!to) return IO_FAIL;
    enum io r = conn_read_into(&c->conn, to, room < left ? room : (size_t)left, &got);
    *data = (struct str){to, got};
    return r;
}

/* True: go on in this turn. */
static bool read_body(struct client *c, size_t *turn) {
    struct http *http = &c->reading->http;
    struct str in = conn_in(&c->conn);
    if ((http->left > BULK_BYTES || *turn >= BULK_BYTES) && loop_late()) {
        if (!*turn) loop_yield(&c->conn.io); /* and then it goes first */
        *turn = TURN_BYTES;                  /* others have a turn */
        return true;
    }
    bool in_place = !in.len && http->left && c->state == CLIENT_BODY;
    if (!in.len) {
        enum io r = in_place ? read_in_place(c, &in) : conn_fill(&c->conn, CONN_SCRATCH / 4);
        if (r == IO_AGAIN) return false;
        if (r == IO_FAIL && in_place && !c->conn.broken) return body_went_wrong(c, WHY_NO_MEMORY), true;
        if (r != IO_OK) return lost(c, WHY_CLIENT_GONE), false;
        if (!in_place) in = conn_in(&c->conn);
    }
    size_t used = 0;
    enum http_event ev = http_feed(http, in.ptr, in.len, &used);
    *turn += used;
    enum why why = ev == GOT_BODY ? take_spans(c, in_place) : WHY_NONE;
    bool ended = ev == GOT_END || (ev == GOT_BODY && http->ended);
    if (!in_place) conn_consume(&c->conn, ev == GOT_BAD ? 0 : used);
    if (ev == GOT_BAD && c->state == CLIENT_DISCARD) return lost(c, WHY_CLIENT_GONE), false;
    if (ev == GOT_BAD) return refuse(c, (enum why)http->error, http->text), true;
    if (!ended) timer_set(&c->timer, body_deadline(c->reading));
    if (why == WHY_NONE && !ended && c->timer.when <= clock_ms()) why = WHY_SLOW_BODY; /* bytes keep coming, but so few */
    if (why != WHY_NONE)
        body_went_wrong(c, why);
    else if (ended)
        body_ended(c);
    return true;
}

/* The user has the request: all that can come is pipelined bytes, or the end. */
static void watch_peer(struct client *c) {
    while (conn_readable(&c->conn) && conn_in(&c->conn).len < AHEAD_MAX) {
        enum io r = conn_fill(&c->conn, AHEAD_MAX);
        if (r == IO_AGAIN) break;
        if (r != IO_OK || !conn_settle(&c->conn)) {
            lost(c, WHY_CLIENT_GONE);
            return;
        }
    }
    /* No room to read up to its end, but the kernel says there is one. */
    if ((c->conn.io.bits & LOOP_HUP) && conn_in(&c->conn).len >= AHEAD_MAX) lost(c, WHY_CLIENT_GONE);
}

static bool linger(struct client *c, size_t *turn) {
    enum io r = conn_fill(&c->conn, CONN_SCRATCH);
    if (r == IO_AGAIN) return false;
    if (r != IO_OK) return client_close(c), false;
    size_t n = conn_in(&c->conn).len;
    conn_consume(&c->conn, n);
    *turn += n;
    c->lingered += (uint32_t)n;
    if (c->lingered >= LINGER_STEP && clock_ms() - c->linger_start < LINGER_MOST_MS) { /* still sending in earnest */
        c->lingered = 0;
        timer_set(&c->timer, deadline(LINGER_MS));
    }
    return true;
}

static void flush(struct client *c) {
    if (!client_owes(c) || !conn_writable(&c->conn)) return;
    enum io r = conn_flush(&c->conn);
    if (r == IO_FAIL) {
        c->conn.broken = true;
        lost(c, WHY_CLIENT_GONE);
    } else if (c->state == CLIENT_BUSY) {
        timer_set(&c->timer, TIMER_NEVER);
        if (r == IO_AGAIN) await_taking(c);
        if (r == IO_OK && c->user) c->api->drained(c);
    } else if (r == IO_OK && c->state == CLIENT_LINGER) {
        conn_shut(&c->conn);
    }
}

/* Everything that can be done now for this client, within a turn's budget. */
static void step(struct client *c) {
    size_t bytes = 0;
    int requests = 0;
    bool more = true;
    if (c->in_step || c->state == CLIENT_CLOSED) return;
    c->in_step = true;
    flush(c);
    while (more && c->state != CLIENT_CLOSED && bytes < TURN_BYTES && requests < TURN_REQUESTS && !(requests && loop_late())) {
        uint8_t was = c->state;
        switch ((enum client_state)c->state) {
        case CLIENT_IDLE:
        case CLIENT_HEAD: more = read_head(c); break;
        case CLIENT_BODY:
        case CLIENT_DISCARD: more = read_body(c, &bytes); break;
        case CLIENT_LINGER: more = linger(c, &bytes); break;
        case CLIENT_BUSY:
            watch_peer(c);
            more = false; /* what lies ahead waits for the user */
            break;
        case CLIENT_CLOSED: break;
        }
        if (was != CLIENT_BUSY && c->state == CLIENT_IDLE) requests++;
    }
    c->in_step = false;
    if (c->state == CLIENT_CLOSED) return;
    if (!conn_settle(&c->conn)) {
        no_memory(c);
        return;
    }
    if (more && (c->state != CLIENT_BUSY || conn_readable(&c->conn))) loop_ready(&c->conn.io);
}

/* ---- the user's side ---- */

void client_accept(struct client *c, struct body *store, uint64_t max) {
    c->reading->store = store;
    c->reading->body_max = max;
}

void client_passed(struct client *c, enum io r) {
    if (r == IO_AGAIN && c->timer.when == TIMER_NEVER) await_taking(c);
    if (r == IO_FAIL) {
        c->conn.broken = true; /* found by the next step, after the user's own */
        c->conn.io.bits |= LOOP_READABLE;
        loop_ready(&c->conn.io);
    }
}

enum io client_write(struct client *c, const struct iovec *iov, int n) {
    assert(c->state == CLIENT_BUSY);
    enum io r = conn_write(&c->conn, iov, n);
    client_passed(c, r);
    return r;
}

void client_resume(struct client *c) {
    if (!c->in_step) loop_ready(&c->conn.io);
}

bool client_closes(const struct client *c) {
    return c->close_after || draining || (!is_whole(c) && c->reading->expects);
}

void client_done(struct client *c, bool close) {
    c->user = NULL;
    if (c->state == CLIENT_CLOSED) return;
    assert(c->state == CLIENT_BUSY && !client_owes(c));
    head_over(c);
    if (close || client_closes(c)) {
        drop_reading(c);
        conn_shut(&c->conn);
        client_set(c, CLIENT_LINGER);
    } else if (is_whole(c)) {
        drop_reading(c);
        client_set(c, CLIENT_IDLE);
    } else {
        c->reading->store = NULL;
        client_set(c, CLIENT_DISCARD);
    }
    if (conn_in(&c->conn).len || conn_readable(&c->conn)) client_resume(c);
}

void client_cut(struct client *c, bool reset) {
    c->user = NULL;
    if (c->state == CLIENT_CLOSED) return;
    if (reset || !client_owes(c)) {
        if (reset) conn_reset(&c->conn);
        client_close(c);
        return;
    }
    client_set(c, CLIENT_LINGER); /* flush half-closes once all has gone; the deadline closes in any case */
}

/* An answer that is all in the kernel still goes to whoever takes it; of one who takes nothing the kernel is rid too. */
static void idle_over(struct client *c) {
    uint32_t unsent = (uint32_t)sock_unsent(c->conn.io.fd);
    if (unsent && (!c->unsent || unsent + TAKEN_LEAST <= c->unsent)) {
        c->unsent = unsent;
        timer_set(&c->timer, deadline(conf()->idle_timeout));
        return;
    }
    if (unsent) conn_reset(&c->conn);
    client_close(c);
}

static void expired(struct timer *t) {
    struct client *c = list_entry(t, struct client, timer);
    switch ((enum client_state)c->state) {
    case CLIENT_IDLE:
        step(c); /* one last read, as client_give_way does: what came in time is served, however late we are */
        if (c->state == CLIENT_IDLE && c->timer.when == TIMER_NEVER) idle_over(c);
        break;
    case CLIENT_LINGER: client_close(c); break;
    case CLIENT_HEAD:
        step(c); /* so is the rest of a head */
        if (c->state == CLIENT_HEAD && c->timer.when == TIMER_NEVER) refuse(c, WHY_SLOW_HEAD, NULL);
        break;
    case CLIENT_BODY:
    case CLIENT_DISCARD:
        if (conn_readable(&c->conn)) /* it is here: we are late, not the client */
            timer_set(&c->timer, deadline(conf()->body_timeout));
        else if (c->state == CLIENT_BODY)
            refuse(c, WHY_SLOW_BODY, NULL);
        else
            client_close(c);
        break;
    case CLIENT_BUSY:
        if (conn_writable(&c->conn) || sock_unsent(c->conn.io.fd) + TAKEN_LEAST <= c->unsent) { /* it took some */
            await_taking(c);
            break;
        }
        conn_reset(&c->conn); /* megabytes may wait in the kernel for one who reads nothing */
        lost(c, WHY_CLIENT_SLOW);
        break;
    case CLIENT_CLOSED: break;
    }
}

struct client *client_new(int fd, const struct sock_addr *peer, bool admin, const struct client_user *api) {
    struct client *c = slab_get(&slab);
    if (!conn_open(&c->conn, fd, CONN_CLIENT, on_ready)) {
        slab_put(&slab, c);
        close(fd);
        return NULL;
    }
    list_init(&c->link);
    c->api = api;
    c->admin = admin;
    c->fresh = true;
    c->peer = sock_host(peer);
    timer_init(&c->timer, expired);
    if (!admin) count++;
    client_set(c, CLIENT_IDLE);
    c->conn.io.bits |= LOOP_READABLE; /* the request is often here already: one read tells, and saves a wait */
    loop_ready(&c->conn.io);
    return c;
}

unsigned client_count(void) {
    return count;
}

unsigned client_idle_count(void) {
    unsigned n = 0;
    list_each(it, &idle_list) n += !list_entry(it, struct client, link)->admin;
    return n;
}

struct list *client_idle_list(void) {
    return &idle_list;
}

bool client_give_way(struct client *c) {
    step(c); /* one last read: a request may have come that was not looked at yet; then it is idle no more */
    if (c->state == CLIENT_IDLE) client_close(c);
    return c->state == CLIENT_CLOSED;
}

void client_drain_all(void) {
    draining = true;
    list_each_safe(it, &idle_list) {
        struct client *c = list_entry(it, struct client, link);
        c->close_after = true;
        step(c); /* one last read: what was sent before is served */
        if (c->state != CLIENT_IDLE) continue;
        if (c->fresh)
            timer_set(&c->timer, deadline(CLIENT_FRESH_MS));
        else
            client_close(c);
    }
    list_each_safe(it, &busy_list) {
        struct client *c = list_entry(it, struct client, link);
        c->close_after = true;
        if (c->state != CLIENT_DISCARD) continue;
        conn_shut(&c->conn); /* it has its answer: what still comes of the body is nobody's */
        client_set(c, CLIENT_LINGER);
    }
}

void client_close_all(void) {
    list_splice(&idle_list, &busy_list);
    while (!list_empty(&idle_list))
        client_close(list_entry(idle_list.next, struct client, link));
}
