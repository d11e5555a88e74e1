/* health: probes and model lists.
 * In: endpoints of the current world. Out: signs of life (endpoint), their model lists (catalog). Owns two errands an endpoint, each
 * with one timer, which is the pause before it and the deadline of it. Never judges a request, never touches a slot.
 *
 *   WAITING --timer--> RUNNING --whole answer, failure, deadline--> WAITING
 *
 * A busy endpoint is not a dead one: while bytes of responses flow no probe is needed, and one that connected but got no answer while
 * requests are in flight there says nothing (llama.cpp answers /health only when one of its threads is free). */
#include "health.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "catalog.h"
#include "clock.h"
#include "dispatch.h"
#include "head.h"
#include "upstream.h"

#define MODELS_TIMEOUT 10000 /* ms for a whole model list */
#define MODELS_SOON    2000  /* ms until it is asked for again, if the endpoint took no connection */

enum errand_kind { ERRAND_PROBE, ERRAND_MODELS };

struct errand {
    struct timer timer;
    struct endpoint *endpoint;
    struct upstream *upstream; /* NULL while waiting */
    struct buf request, body;
    uint16_t status;
    uint8_t kind;
    bool fresh; /* a stale idle connection was replaced already */
    bool too_big;
    bool late; /* its answer lay there when its time was over: read first, once */
};

struct health {
    struct errand probe, models;
};

static void start(struct errand *r);

static int64_t interval(const struct errand *r) {
    return r->kind == ERRAND_PROBE ? r->endpoint->health_interval : r->endpoint->models_interval;
}

/* Up to a tenth earlier or later, so that many routers and endpoints do not march in step. */
static int64_t jittered(const struct errand *r) {
    int64_t n = interval(r), seed[2] = {clock_ms(), (int64_t)(uintptr_t)r};
    return n - n / 10 + (int64_t)(XXH3_64bits(seed, sizeof seed) % (uint64_t)(n / 5 + 1));
}

static void wait_again(struct errand *r) {
    r->upstream = NULL;
    buf_free(&r->body);
    buf_free(&r->request);
    timer_set(&r->timer, interval(r) ? clock_ms() + jittered(r) : TIMER_NEVER);
}

static void tell_probe(struct errand *r, enum endpoint_sign sign, const char *reason) {
    struct endpoint *e = r->endpoint;
    e->probed = true;
    endpoint_sign(e, sign, reason);
    wait_again(r);
}

static void probe_done(struct errand *r) {
    char reason[64];
    snprintf(reason, sizeof reason, "its health check answers %u", r->status);
    tell_probe(r, r->status == 503 ? SIGN_LOADING : r->status < 500 ? SIGN_ALIVE : SIGN_FAILED, reason);
}

static void models_done(struct errand *r) {
    struct endpoint *e = r->endpoint;
    struct models told = {0};
    const char *wrong = r->status != 200 ? "its status is not 200"
                        : r->too_big     ? "it is too large"
                                         : models_parse(buf_str(&r->body), &told);
    if (wrong) {
        log_debug("health", "%s: no model list: %s", e->url.text, wrong);
    } else {
        models_free(&e->models);
        e->models = told;
        e->models_known = true;
        catalog_touch();
    }
    wait_again(r);
}

/* ---- the exchange ---- */

static int pieces(void *user, uint64_t from, struct iovec *iov, int max) {
    const struct errand *r = user;
    (void)max;
    if (from >= buf_len(&r->request)) return 0;
    iov[0] = (struct iovec){r->request.mem + r->request.head + from, buf_len(&r->request) - (size_t)from};
    return 1;
}

static void got_head(void *user, const struct http_head *h) {
    struct errand *r = user;
    r->status = h->status;
}

static void got_body(void *user, const struct iovec *spans, int n, bool ended) {
    struct errand *r = user;
    for (int i = 0; i < n && r->kind == ERRAND_MODELS && !r->too_big; i++) {
        r->too_big = buf_len(&r->body) + spans[i].iov_len > MODELS_BODY_MAX;
        if (!r->too_big) buf_put(&r->body, spans[i].iov_base, spans[i].iov_len);
    }
    if (!ended) return;
    r->upstream = NULL;
    if (r->body.failed) r->too_big = true;
    if (r->kind == ERRAND_PROBE)
        probe_done(r);
    else
        models_done(r);
}

static void flush(void *user) {
    (void)user;
}

static bool wants(void *user) {
    (void)user;
    return true;
}

static void gave_up(struct errand *r, bool sent, bool timed_out, const char *reason) {
    if (r->kind == ERRAND_MODELS) {
        wait_again(r);
        /* It is just starting, perhaps: before its list was ever told, a whole interval is long. */
        if (!sent && !r->endpoint->models_known && r->endpoint->state != ENDPOINT_DOWN && interval(r) > MODELS_SOON)
            timer_set(&r->timer, clock_ms() + MODELS_SOON);
        return;
    }
    if (sent && timed_out && r->endpoint->in_flight) { /* busy, not dead */
        r->endpoint->probed = true;
        wait_again(r);
        return;
    }
    tell_probe(r, SIGN_FAILED, reason);
}

static void failed(void *user, enum upstream_failure failure, const char *reason) {
    struct errand *r = user;
    r->upstream = NULL;
    if (failure == UPSTREAM_STALE && !r->fresh) {
        r->fresh = true;
        start(r);
        return;
    }
    if (failure == UPSTREAM_NO_ROOM) { /* says nothing of the endpoint */
        r->endpoint->probed = true;
        wait_again(r);
        return;
    }
    gave_up(r, failure != UPSTREAM_NO_CONNECT, failure == UPSTREAM_SLOW || failure == UPSTREAM_STALL, reason);
}

static const struct upstream_user api = {pieces, got_head, got_body, flush, wants, NULL, NULL, failed};

static void start(struct errand *r) {
    struct endpoint *e = r->endpoint;
    int64_t timeout = r->kind == ERRAND_PROBE && e->health_timeout ? e->health_timeout : MODELS_TIMEOUT;
    struct upstream_limits limits = {e->connect_timeout < timeout ? e->connect_timeout : timeout, 0, 0};
    buf_free(&r->request);
    buf_free(&r->body);
    r->too_big = r->late = false;
    head_request_line(&r->request, STR("GET"), str_of(e->url.base),
                      str_of(r->kind == ERRAND_PROBE ? e->health_path : e->models_path), str_of(e->host), str_of(e->api_key));
    BUF_LIT(&r->request, "Accept: application/json\r\nUser-Agent: llama-model-router\r\n\r\n");
    if (r->request.failed) { /* no memory: says nothing of the endpoint */
        e->probed = true;
        wait_again(r);
        return;
    }
    timer_set(&r->timer, clock_ms() + timeout);
    r->upstream = upstream_start(e, &api, r, &limits, false, r->fresh);
    upstream_go(r->upstream);
}

static void expired(struct timer *t) {
    struct errand *r = list_entry(t, struct errand, timer);
    struct endpoint *e = r->endpoint;
    if (r->upstream) {
        bool sent = r->upstream->state == UPSTREAM_EXCHANGE;
        if (sent && !r->late && conn_readable(&r->upstream->conn)) {
            r->late = true;
            timer_set(t, clock_ms()); /* in the next turn; the answer is read in this one */
            return;
        }
        upstream_abandon(r->upstream);
        r->upstream = NULL;
        gave_up(r, sent, true, sent ? "its health check got no answer in time" : "it took no connection in time");
        return;
    }
    if (r->kind == ERRAND_PROBE && e->last_byte && clock_ms() - e->last_byte <= e->health_interval) {
        tell_probe(r, SIGN_ALIVE, "it answers requests");
        return;
    }
    r->fresh = false;
    start(r);
}

/* ---- who is asked ---- */

static void errand_init(struct errand *r, struct endpoint *e, enum errand_kind kind) {
    r->endpoint = e;
    r->kind = (uint8_t)kind;
    timer_init(&r->timer, expired);
}

static void errand_stop(struct errand *r) {
    timer_drop(&r->timer);
    if (r->upstream) upstream_abandon(r->upstream);
    r->upstream = NULL;
    buf_free(&r->request);
    buf_free(&r->body);
}

static void stop(struct endpoint *e) {
    if (!e->health) return;
    errand_stop(&e->health->probe);
    errand_stop(&e->health->models);
    free(e->health);
    e->health = NULL;
}

/* Waiting errands follow a changed interval; a new one runs at once. */
static void follow(struct errand *r, bool is_new) {
    if (r->upstream) return;
    if (!interval(r))
        timer_set(&r->timer, TIMER_NEVER);
    else if (is_new || r->timer.when == TIMER_NEVER || r->timer.when > clock_ms() + interval(r))
        timer_set(&r->timer, is_new ? clock_ms() : clock_ms() + jittered(r));
}

static void ask(struct endpoint *e) {
    bool is_new = !e->health;
    if (is_new) {
        e->health = must_alloc(sizeof *e->health);
        errand_init(&e->health->probe, e, ERRAND_PROBE);
        errand_init(&e->health->models, e, ERRAND_MODELS);
    }
    follow(&e->health->probe, is_new);
    follow(&e->health->models, is_new);
}

/* Its model list is worth asking for as soon as it is up; and whoever waits may have a place now. */
static void state_changed(struct endpoint *e) {
    catalog_touch();
    dispatch_wake();
    if (e->health && e->state == ENDPOINT_UP && !e->health->models.upstream && e->models_interval)
        timer_set(&e->health->models.timer, clock_ms());
}

static bool has(const struct world *w, const struct endpoint *e) {
    for (size_t i = 0; w && i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++)
            if (w->pools[i].members[k].endpoint == e) return true;
    return false;
}

void health_sync(const struct world *w) {
    endpoint_on_change(state_changed);
    list_each_safe(it, endpoint_all()) {
        struct endpoint *e = list_entry(it, struct endpoint, link);
        endpoint_ref(e); /* stopping an errand may give the last reference back */
        if (has(w, e))
            ask(e);
        else
            stop(e);
        endpoint_unref(e);
    }
    catalog_touch();
}
