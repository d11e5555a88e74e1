/* txn: one request and its response, between a client that does not know endpoints and an upstream that does not know clients.
 * In: a head, a body, an endpoint's answer, ends and deadlines. Out: an answer, one access line.
 * Owns the stored request, its place and slot (dispatch), its upstream. Reads and writes no socket itself.
 *
 *   READ --whole--> DISPATCH --granted--> EXCHANGE --whole--> FLUSH --drained--> finish
 *     | refused        ^ | none, full        | failed before a byte: next endpoint, or 502 / 504
 *     `--> error -> FLUSH `--> error          `-- after a byte: in-band error, cut
 *   any: client gone | hard end --> finish(why): the only exit; gives back slot, body, upstream, and writes the access line */
#include "txn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "slab.h"

static struct slab slab = {.size = sizeof(struct txn), .clear = offsetof(struct txn, notes.inl)};
static struct list all = {&all, &all};
static unsigned count;

static void txn_finish(struct txn *t, enum why why);

/* The only writer of state. */
static void txn_set(struct txn *t, enum txn_state state) {
    static const char *const names[] = {"read", "dispatch", "exchange", "flush", "dead"};
    log_debug("txn", STR_FMT ": %s -> %s", STR_ARG(notes_id(&t->notes)), names[t->state], names[state]);
    assert(t->state != TXN_DEAD);
    t->state = (uint8_t)state;
}

unsigned txn_count(void) {
    return count;
}

struct txn *txn_new(struct client *c) {
    struct txn *t = slab_get(&slab);
    t->client = c;
    t->started = clock_ms();
    t->started_wall = clock_wall_ms();
    t->first_byte_ms = t->first_token_ms = -1;
    t->usage.counts = (struct usage_counts){-1, -1, -1};
    notes_begin(&t->notes, &c->peer);
    list_push_back(&all, &t->link);
    count++;
    return t;
}

/* What the configuration lets that origin know: "*", its own text, or nothing. */
static const char *cors_for(const struct conf *conf, struct str origin) {
    for (size_t i = 0; origin.len && i < conf->ncors_origins; i++) {
        const char *allowed = conf->cors_origins[i];
        if (str_eq(str_of(allowed), STR("*")) || str_eq(str_of(allowed), origin)) return allowed;
    }
    return NULL;
}

static struct head_cors cors_of(const struct txn *t) {
    struct str origin = str_of(t->cors);
    return (struct head_cors){origin, origin.len && !str_eq(origin, STR("*"))};
}

void txn_head(struct txn *t, const struct http_head *h) {
    const struct conf *conf = world_current()->conf;
    notes_head(&t->notes, h, notes_peer_trusted(conf, &t->client->peer) ? notes_told_ip(conf, h) : STR_NONE);
    t->dialect = (uint8_t)head_dialect(str_at(h->base, h->path));
    t->client_10 = h->minor == 0;
    t->client_keep = h->keep_alive;
    t->head_only = h->method == METHOD_HEAD;
    if (!t->client->admin) t->cors = cors_for(world_current()->conf, http_get(h, FIELD_ORIGIN));
}

static void drop_request(struct txn *t) {
    if (t->intake) intake_free(t->intake);
    t->intake = NULL;
    if (t->forward) t->received = t->forward->body.len;
    forward_free(t->forward);
    t->forward = NULL;
}

static void drop_held(struct txn *t) {
    if (t->held) held_free(t->held);
    t->held = NULL;
}

/* ---- the end ---- */

static void write_access(const struct txn *t, enum why_end end) {
    const struct dispatch *d = &t->dispatch;
    const struct endpoint *last = dispatch_last(d);
    struct access_record r = {
        .time_ms = t->started_wall,
        .request_id = notes_id(&t->notes),
        .client = notes_str(&t->notes, t->notes.told_ip.len ? t->notes.told_ip : t->notes.client_ip),
        .method = notes_str(&t->notes, t->notes.method),
        .path = notes_str(&t->notes, t->notes.path),
        .model = notes_name(&t->notes),
        .pool = d->pool ? str_of(d->pool->conf->name) : STR_NONE,
        .endpoint = last ? str_of(last->url.text) : STR_NONE,
        .affinity = d->tries ? route_affinity_name((enum route_affinity)d->affinity) : NULL,
        .tries = d->tries,
        .status = t->status,
        .received_bytes = t->forward ? t->forward->body.len : t->received,
        .sent_bytes = t->relay.body_sent,
        .queue_ms = d->pool ? dispatch_waited(d) : -1,
        .first_byte_ms = t->first_byte_ms,
        .first_token_ms = t->first_token_ms,
        .duration_ms = clock_ms() - t->started,
        .prompt_tokens = t->usage.counts.prompt,
        .cached_tokens = t->usage.counts.cached,
        .completion_tokens = t->usage.counts.completion,
        .end = end,
    };
    access_write(&r);
}

static void count_tokens(const struct txn *t) {
    const struct usage_counts *n = &t->usage.counts;
    if (!t->entry || (n->prompt < 0 && n->cached < 0 && n->completion < 0 && t->first_token_ms < 0)) return;
    struct stats_model *m = stats_model(t->dispatch.pool->conf->name, t->entry);
    histogram_add(&m->first_token, t->first_token_ms);
    int64_t after = clock_ms() - t->started - t->first_token_ms, others = n->completion - 1;
    if (t->first_token_ms >= 0 && others > 0) histogram_add(&m->per_token, (after + others / 2) / others);
    if (n->prompt > 0) m->tokens[TOKENS_PROMPT] += (uint64_t)n->prompt;
    if (n->cached > 0) m->tokens[TOKENS_CACHED] += (uint64_t)n->cached;
    if (n->completion > 0) m->tokens[TOKENS_COMPLETION] += (uint64_t)n->completion;
}

static void count_end(const struct txn *t, enum why why) {
    const struct dispatch *d = &t->dispatch;
    if (why_row(why)->label[0]) stats.refused[why]++;
    if (!d->pool) return;
    struct stats_pool *p = &d->pool->live->stats;
    if (why_row(why)->end == END_CLIENT_GONE) p->client_gone++;
    histogram_add(&p->duration, clock_ms() - t->started);
    if (!d->stats) return;
    histogram_add(&p->first_byte, t->first_byte_ms);
    histogram_add(&d->stats->first_byte, t->first_byte_ms);
    p->affinity[d->affinity]++;
    d->stats->code[t->status < 600 ? t->status / 100 : 0]++;
    count_tokens(t);
}

static void release(void *ptr) {
    slab_put(&slab, ptr);
}

/* The only exit. `why` tells the client connection's fate. */
static void txn_finish(struct txn *t, enum why why) {
    struct client *c = t->client;
    const struct why_row *row = why_row(why);
    if (t->state == TXN_DEAD) return;
    usage_end(&t->usage);
    count_end(t, why);
    write_access(t, row->end);
    txn_set(t, TXN_DEAD);
    if (t->upstream) upstream_abandon(t->upstream);
    t->upstream = NULL;
    drop_request(t);
    drop_held(t);
    bool reset = relay_ends_by_close(&t->relay);
    relay_free(&t->relay);
    dispatch_release(&t->dispatch);
    if (t->world) world_unref(t->world);
    notes_free(&t->notes);
    t->client = NULL;
    list_remove(&t->link);
    count--;
    loop_bury(t, release);
    if (!c || row->end == END_CLIENT_GONE) return;
    bool cut = why == WHY_UPSTREAM_CUT || why == WHY_UPSTREAM_STALL || why == WHY_SHUTDOWN;
    if (cut)
        client_cut(c, reset);
    else
        client_done(c, reset || (row->flags & WHY_CLOSE));
}

/* The response is whole as far as we are concerned. */
static void complete(struct txn *t, enum why why) {
    t->why = (uint8_t)why;
    if (t->client && client_owes(t->client)) {
        drop_request(t);
        dispatch_answered(&t->dispatch);
        txn_set(t, TXN_FLUSH);
        return;
    }
    txn_finish(t, why);
}

static void send_reply(struct txn *t, struct buf *out, enum why why) {
    if (out->failed) {
        buf_free(out);
        if (t->client) client_cut(t->client, true);
        t->client = NULL;
        t->status = 0; /* nothing was told */
        t->relay.body_sent = 0;
        txn_finish(t, WHY_CLIENT_GONE);
        return;
    }
    struct iovec v = {out->mem + out->head, buf_len(out)};
    client_write(t->client, &v, 1);
    buf_free(out);
    complete(t, why);
}

void txn_reply(struct txn *t, int status, struct str type, struct str extra, struct str body) {
    struct buf out = {0};
    struct head_reply r = {
        .status = status,
        .content_type = type,
        .extra = extra,
        .body = body,
        .request_id = notes_id(&t->notes),
        .cors = cors_of(t),
        .head_only = t->head_only,
        .close = client_closes(t->client),
        .keep_alive_10 = t->client_10 && t->client_keep,
    };
    head_reply(&out, &r);
    if (out.failed) {
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE); /* takes less */
        return;
    }
    t->status = (uint16_t)status;
    t->relay.body_sent = t->head_only ? 0 : body.len;
    send_reply(t, &out, WHY_DONE);
}

void txn_error(struct txn *t, enum why why, struct str message, struct str extra) {
    struct buf out = {0};
    if (t->upstream) upstream_abandon(t->upstream);
    t->upstream = NULL;
    if (!t->client) {
        txn_finish(t, WHY_CLIENT_GONE);
        return;
    }
    struct head_error e = {
        .why = why,
        .dialect = (enum head_dialect)t->dialect,
        .message = message,
        .extra = extra,
        .request_id = notes_id(&t->notes),
        .cors = cors_of(t),
        .retry_after = why == WHY_NO_ENDPOINT ? 5 : 1, /* it comes back at the pace of its probes; a slot or memory sooner */
        .head_only = t->head_only,
        .close = client_closes(t->client),
        .keep_alive_10 = t->client_10 && t->client_keep,
    };
    head_error(&out, &e);
    const char *body = out.failed ? NULL : memmem(buf_ptr(&out), buf_len(&out), "\r\n\r\n", 4);
    if (body) t->relay.body_sent = buf_len(&out) - (size_t)(body + 4 - buf_ptr(&out));
    t->status = (uint16_t)why_row(why)->status;
    send_reply(t, &out, why);
}

void txn_drained(struct txn *t) {
    if (t->state == TXN_FLUSH)
        txn_finish(t, (enum why)t->why);
    else if (t->upstream)
        upstream_resume(t->upstream);
}

void txn_gone(struct txn *t, enum why why) {
    bool finish = t->state == TXN_EXCHANGE && t->dispatch.pool && t->dispatch.pool->conf->policy.finish_on_disconnect;
    t->client = NULL;
    if (!finish) {
        if (!t->relay.first_sent) t->status = 0; /* nothing was told */
        txn_finish(t, why);
        return;
    }
    relay_free(&t->relay);
    if (t->upstream) upstream_resume(t->upstream); /* it may have waited for a client that was slow */
}

/* ---- request ---- */

static const struct dispatch_user dispatch_api;

void txn_route(struct txn *t, const struct http_head *h, const char *boundary) {
    t->world = world_ref(world_current());
    t->dispatch.api = &dispatch_api;
    t->intake = intake_new(t->world, boundary ? INTAKE_FORM : INTAKE_JSON, boundary);
    intake_headers(t->intake, h);
    struct head_forward f = {
        .client_ip = notes_str(&t->notes, t->notes.client_ip),
        .request_id = notes_id(&t->notes),
        .peer_trusted = notes_peer_trusted(t->world->conf, &t->client->peer),
        .drop_credentials = t->world->drop_credentials,
    };
    t->forward = forward_new(h, &f);
    client_accept(t->client, &t->forward->body, t->world->conf->max_body);
}

enum why txn_body(struct txn *t, const char *data, size_t len) {
    return intake_feed(t->intake, data, len);
}

void txn_refused(struct txn *t, enum why why, const char *text) {
    struct str said = str_of(text);
    if (!said.len && (why == WHY_BAD_JSON || why == WHY_BAD_FORM)) said = str_of(t->intake ? t->intake->error : NULL);
    struct buf sentence = {0};
    if (said.len && (why == WHY_BAD_HTTP || why == WHY_BIG_HEAD)) {
        buf_puts(&sentence, why == WHY_BAD_HTTP ? STR("The request is not valid HTTP/1.1: it has ") : STR("The request has "));
        buf_puts(&sentence, said);
        BUF_LIT(&sentence, ".");
        said = sentence.failed ? STR_NONE : buf_str(&sentence);
    }
    txn_error(t, why, said, STR_NONE);
    buf_free(&sentence);
}

static void no_such_model(struct txn *t) {
    const char *nearest = world_nearest(t->world, notes_name(&t->notes));
    struct buf text = {0};
    if (!t->intake->has_model) {
        txn_error(t, WHY_BAD_MODEL, STR("The request names no 'model'. GET /v1/models lists those that are served."), STR_NONE);
        return;
    }
    BUF_LIT(&text, "The model '");
    buf_put(&text, t->notes.model_len ? notes_name(&t->notes).ptr : "", t->notes.model_len < 128 ? t->notes.model_len : 128);
    BUF_LIT(&text, "' is not served here.");
    if (nearest) buf_printf(&text, " Did you mean '%s'?", nearest);
    BUF_LIT(&text, " GET /v1/models lists those that are.");
    txn_error(t, WHY_NO_MODEL, text.failed ? STR_NONE : buf_str(&text), STR_NONE);
    buf_free(&text);
}

void txn_request(struct txn *t) {
    enum why why = intake_end(t->intake, &t->forward->body);
    if (why != WHY_NONE) {
        txn_error(t, why, str_of(t->intake->error), STR_NONE);
        return;
    }
    notes_model(&t->notes, (struct str){t->intake->model, t->intake->model_len});
    struct match m = world_match(t->world, notes_name(&t->notes));
    if (m.how == MATCH_NONE) {
        no_such_model(t);
        return;
    }
    t->entry = m.entry;
    txn_set(t, TXN_DISPATCH);
    dispatch_start(&t->dispatch, m.pool);
}

/* ---- dispatch's side ---- */

static struct txn *txn_of(struct dispatch *d) {
    return list_entry(d, struct txn, dispatch);
}

/* In each pool the accepted name may have an alias of that pool's own; else the name chosen before stays. */
static uint64_t enter_pool(struct dispatch *d, const struct pool *p) {
    struct txn *t = txn_of(d);
    const struct intake *in = t->intake;
    const char *alias = pool_alias(p, notes_name(&t->notes));
    if (alias) t->sent_as = alias;
    struct str sent = t->sent_as ? str_of(t->sent_as) : notes_name(&t->notes);
    if (t->sent_as && in->has_model && !forward_swap(t->forward, in->model_off, in->model_raw, sent, in->kind == INTAKE_JSON))
        t->forward->fields.failed = true;
    if (!in->world) return d->key; /* what was collected for another world's lists fits no other */
    return intake_key(in, &t->forward->body, p, sent);
}

static void exchange(struct txn *t, bool fresh);
static void pass_held(struct txn *t);
static void broke_off(struct txn *t, enum why why);

static void granted(struct dispatch *d) {
    txn_of(d)->fresh_retry = false; /* of the endpoint before */
    exchange(txn_of(d), false);
}

static void refused(struct dispatch *d, enum why why) {
    struct txn *t = txn_of(d);
    if (t->held)
        pass_held(t);
    else
        txn_error(t, why, STR_NONE, STR_NONE);
}

/* It waited while the configuration changed: it goes on in the new one. */
static void refresh(struct dispatch *d) {
    struct txn *t = txn_of(d);
    if (t->world == world_current()) return;
    struct world *old = t->world;
    t->world = world_ref(world_current());
    struct match m = world_match(t->world, notes_name(&t->notes));
    t->entry = m.entry;
    t->sent_as = NULL;
    t->cors = cors_for(t->world->conf, str_of(t->cors));
    forward_no_swap(t->forward);
    t->intake->world = NULL;
    dispatch_move(d, m.pool); /* enters that pool: an alias of its own, a key of its own */
    world_unref(old);
}

static const struct dispatch_user dispatch_api = {enter_pool, granted, refused, refresh};

/* ---- the endpoint's side ---- */

static int pieces(void *user, uint64_t from, struct iovec *iov, int max) {
    const struct txn *t = user;
    return forward_pieces(t->forward, from, iov, max);
}

static bool wants(void *user) {
    const struct txn *t = user;
    return !t->client || !client_owes(t->client);
}

static struct head_relay relay_how(const struct txn *t) {
    const struct dispatch *d = &t->dispatch;
    struct head_relay how = {
        .request_id = notes_id(&t->notes),
        .cors = cors_of(t),
        .close = client_closes(t->client),
        .keep_alive_10 = t->client_10 && t->client_keep,
    };
    if (t->world->conf->route_headers)
        how.route = (struct head_route){str_of(d->pool->conf->name), str_of(d->endpoint->url.text),
                                        str_of(route_affinity_name((enum route_affinity)d->affinity))};
    return how;
}

static void got_head(void *user, const struct http_head *h) {
    struct txn *t = user;
    struct endpoint *e = t->dispatch.endpoint;
    if (t->first_byte_ms < 0) t->first_byte_ms = (int32_t)(clock_ms() - t->started);
    t->status = h->status;
    e->last_byte = clock_ms();
    if (h->status < 500) endpoint_sign(e, SIGN_ALIVE, "it answers requests");
    if (!t->client) return; /* nobody left to relay to */
    drop_held(t);           /* of an earlier try */
    struct head_relay how = relay_how(t);
    if (loading_maybe(h)) {
        t->held = held_new(h, &how, t->client_10);
        return;
    }
    if (!relay_begin(&t->relay, h, &how, t->client_10, t->head_only)) {
        broke_off(t, WHY_NO_MEMORY);
        return;
    }
    if (t->world->conf->read_usage) usage_begin(&t->usage, usage_kind(http_get(h, FIELD_CONTENT_TYPE)));
    if (t->upstream->sent_all) drop_request(t);
}

static void read_usage(struct txn *t, const struct iovec *spans, int n, bool ended) {
    for (int i = 0; i < n; i++)
        (ended && i == n - 1 ? usage_last : usage_feed)(&t->usage, spans[i].iov_base, spans[i].iov_len);
    if (t->usage.first_token && t->first_token_ms < 0) t->first_token_ms = (int32_t)(clock_ms() - t->started);
}

/* What was held is the answer after all. */
static void pass_held(struct txn *t) {
    struct iovec v[3];
    if (held_failed(t->held)) {
        drop_held(t);
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
        return;
    }
    int n = held_pieces(t->held, client_closes(t->client), v);
    t->status = 503;
    t->relay.body_sent = buf_len(&t->held->body);
    client_write(t->client, v, n);
    drop_held(t);
    complete(t, WHY_DONE);
}

static void held_body(struct txn *t, const struct iovec *spans, int n, bool ended) {
    held_add(t->held, spans, n);
    if (!ended) return;
    t->upstream = NULL; /* goes on alone: idle or closed */
    if (held_whole(t->held)) {
        endpoint_sign(t->dispatch.endpoint, SIGN_LOADING, "it is loading the model");
        txn_set(t, TXN_DISPATCH);
        /* After a replaced connection it may be this very request that made it load again. */
        if (!t->fresh_retry && dispatch_next(&t->dispatch)) return;
    }
    pass_held(t);
}

static void got_body(void *user, const struct iovec *spans, int n, bool ended) {
    struct txn *t = user;
    t->dispatch.endpoint->last_byte = clock_ms();
    if (t->held && t->client) {
        held_body(t, spans, n, ended);
        return;
    }
    if (t->client) relay_body(&t->relay, t->client, spans, n, ended); /* a failed write is found by the client's own next step */
    if (t->usage.kind != USAGE_OFF) read_usage(t, spans, n, ended);   /* on_disconnect: finish: also when nobody is left */
    if (t->forward && t->upstream->sent_all) drop_request(t);
    if (!ended) return;
    t->upstream = NULL;
    complete(t, t->client ? WHY_DONE : WHY_CLIENT_GONE);
}

static void flush(void *user) {
    struct txn *t = user;
    if (t->client && t->relay.begun) relay_flush(&t->relay, t->client);
}

/* A try came to nothing and no byte of it was passed on. */
static void try_next(struct txn *t) {
    txn_set(t, TXN_DISPATCH);
    if (dispatch_next(&t->dispatch)) return;
    if (t->held)
        pass_held(t);
    else
        txn_error(t, WHY_UPSTREAM, STR("No endpoint for this model accepted the connection: the router's log says why."), STR_NONE);
}

static void broke_off(struct txn *t, enum why why) {
    if (t->client && t->relay.first_sent) {
        relay_break(&t->relay, t->client, why, (enum head_dialect)t->dialect);
        txn_finish(t, why);
        return;
    }
    drop_held(t);
    relay_free(&t->relay);
    t->relay = (struct relay){0};
    txn_error(t, why == WHY_UPSTREAM_CUT ? WHY_UPSTREAM : why == WHY_UPSTREAM_STALL ? WHY_UPSTREAM_SLOW : why, STR_NONE, STR_NONE);
}

static void failed(void *user, enum upstream_failure failure, const char *reason) {
    struct txn *t = user;
    struct endpoint *e = t->dispatch.endpoint;
    t->upstream = NULL;
    if (failure == UPSTREAM_NO_CONNECT) endpoint_sign(e, SIGN_FAILED, reason);
    if (!t->client) {
        txn_finish(t, WHY_CLIENT_GONE);
        return;
    }
    log_debug("txn", STR_FMT ": %s: %s", STR_ARG(notes_id(&t->notes)), e->url.text, reason);
    switch (failure) {
    case UPSTREAM_NO_CONNECT:
        if (t->fresh_retry)
            broke_off(t, WHY_UPSTREAM); /* the request may be what killed it: it must not visit the next */
        else
            try_next(t);
        break;
    case UPSTREAM_NO_ROOM: broke_off(t, WHY_NO_ROOM); break;
    case UPSTREAM_STALE:
        if (t->fresh_retry)
            broke_off(t, WHY_UPSTREAM);
        else
            exchange(t, true);
        break;
    case UPSTREAM_BROKE:
    case UPSTREAM_BAD: broke_off(t, WHY_UPSTREAM); break;
    case UPSTREAM_SLOW: broke_off(t, WHY_UPSTREAM_SLOW); break;
    case UPSTREAM_CUT: broke_off(t, WHY_UPSTREAM_CUT); break;
    case UPSTREAM_STALL: broke_off(t, WHY_UPSTREAM_STALL); break;
    }
}

/* A JSON body's end is read for the tokens it tells; all else of a body of known length may pass unseen. */
static struct conn *straight(void *user, uint64_t left, uint64_t *most) {
    const struct txn *t = user;
    uint64_t tail = t->usage.kind == USAGE_OFF ? 0 : USAGE_TAIL;
    if (!t->client || t->held || left <= tail || !relay_straight(&t->relay, t->client)) return NULL;
    *most = left - tail;
    return &t->client->conn;
}

static void passed(void *user, size_t n, enum io wrote) {
    struct txn *t = user;
    t->dispatch.endpoint->last_byte = clock_ms();
    relay_passed(&t->relay, t->client, n, wrote);
    if (t->forward && t->upstream->sent_all) drop_request(t);
}

static const struct upstream_user upstream_api = {pieces, got_head, got_body, flush, wants, straight, passed, failed};

/* One try at the endpoint whose slot is held; fresh: not over an idle connection. */
static void exchange(struct txn *t, bool fresh) {
    const struct conf_policy *p = &t->dispatch.pool->conf->policy;
    struct upstream_limits limits = {p->connect_timeout, p->first_byte_timeout, p->stream_idle_timeout};
    if (t->state != TXN_EXCHANGE) txn_set(t, TXN_EXCHANGE);
    if (fresh) t->fresh_retry = true;
    if (world_current()->drop_credentials) forward_drop_credentials(t->forward); /* the endpoint's key is the current one, too */
    if (!forward_line(t->forward, t->dispatch.endpoint)) {
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
        return;
    }
    t->upstream = upstream_start(t->dispatch.endpoint, &upstream_api, t, &limits, false, fresh);
    upstream_go(t->upstream);
}

void txn_cut_all(void) {
    while (!list_empty(&all)) {
        struct txn *t = list_entry(all.next, struct txn, link);
        if (t->client && t->relay.first_sent && t->state == TXN_EXCHANGE)
            relay_break(&t->relay, t->client, WHY_SHUTDOWN, (enum head_dialect)t->dialect);
        txn_finish(t, WHY_SHUTDOWN);
    }
}
