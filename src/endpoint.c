/* endpoint: identity and state of one LLM server.
 * In: configuration rows, signs of life and death, what its name resolves to. Out: a state, with the reason and the moment of its
 * last change. Owns the registry of endpoints by URL; its idle connections are upstream's, its probes health's.
 * Touches no socket and picks nothing.
 *
 *            SIGN_LOADING                 fall x SIGN_FAILED, or SIGN_NO_NAME
 *   LOADING <------------ UP <----------> DOWN        (up again after rise x SIGN_ALIVE)
 *      `---- rise x SIGN_ALIVE ->'          `-- SIGN_LOADING --> LOADING                                           */
#include "endpoint.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "clock.h"

#define OFFER_FIRST 1000 /* ms after which a down endpoint without probes is offered a request; doubles */
#define OFFER_MOST  30000

static struct list registry = {&registry, &registry};
static const struct endpoint_hooks *hooks;
static void (*on_change)(struct endpoint *e);

void endpoint_set_hooks(const struct endpoint_hooks *h) {
    hooks = h;
}

void endpoint_on_change(void (*changed)(struct endpoint *e)) {
    on_change = changed;
}

struct list *endpoint_all(void) {
    return &registry;
}

static void name_changed(struct resolve_watch *w) {
    struct endpoint *e = list_entry(w, struct endpoint, watch);
    if (w->name->state == RESOLVE_FAILED)
        endpoint_sign(e, SIGN_NO_NAME, "its name does not resolve");
    else if (w->name->state == RESOLVE_KNOWN && e->state == ENDPOINT_DOWN)
        e->offer_at = clock_ms(), e->offer_delay = OFFER_FIRST; /* the name is back: worth a request at once */
    e->good = resolve_place(w->name, e->good);                  /* answers in another order move nobody */
    if (hooks && hooks->name) hooks->name(e);
}

static struct endpoint *endpoint_new(const struct value_url *url) {
    struct endpoint *e = must_alloc(sizeof *e);
    e->url = *url;
    e->hash = XXH3_64bits(url->text, strlen(url->text));
    e->since = clock_wall_ms();
    e->offer_delay = OFFER_FIRST;
    list_init(&e->waiting);
    list_init(&e->idle);
    if (url->is_unix) {
        str_copy(e->host, sizeof e->host, STR("localhost"));
    } else {
        bool v6 = strchr(url->host, ':') != NULL;
        snprintf(e->host, sizeof e->host, "%s%s%s:%u", v6 ? "[" : "", url->host, v6 ? "]" : "", url->port);
        e->named = true; /* asked for when a configuration puts it into service, not by a mere look at one */
    }
    list_push_back(&registry, &e->link);
    return e;
}

struct endpoint *endpoint_get(const struct value_url *url) {
    list_each(it, &registry) {
        struct endpoint *e = list_entry(it, struct endpoint, link);
        if (strcmp(e->url.text, url->text) != 0) continue;
        e->refs++;
        return e;
    }
    struct endpoint *e = endpoint_new(url);
    e->refs = 1;
    return e;
}

void endpoint_ref(struct endpoint *e) {
    e->refs++;
}

void endpoint_unref(struct endpoint *e) {
    assert(e->refs);
    if (--e->refs) return;
    e->refs = 1; /* the hook may take and give references while it closes idle connections */
    if (hooks && hooks->gone) hooks->gone(e);
    e->refs = 0;
    assert(list_empty(&e->idle) && list_empty(&e->waiting) && e->in_flight == 0);
    list_remove(&e->link);
    if (e->watch.name) resolve_unwatch(&e->watch);
    models_free(&e->models);
    free(e->api_key);
    free(e->health_path);
    free(e->models_path);
    free(e);
}

static void replace(char **dst, const char *src) {
    free(*dst);
    *dst = src ? str_dup(str_of(src)) : NULL;
}

void endpoint_configure(struct endpoint *e, const struct conf_endpoint *c, const struct conf_policy *p, bool first) {
    if (e->named && !e->watch.name) resolve_watch(&e->watch, str_of(e->url.host), name_changed);
    if (!first) {
        if (c->max_inflight && (!e->max_inflight || c->max_inflight < e->max_inflight)) e->max_inflight = c->max_inflight;
        return;
    }
    replace(&e->api_key, c->api_key);
    e->max_inflight = c->max_inflight;
    e->keepalive_max_idle = p->keepalive_max_idle;
    e->keepalive_timeout = p->keepalive_timeout;
    replace(&e->health_path, p->health.path);
    e->health_interval = p->health.interval;
    e->health_timeout = p->health.timeout;
    e->connect_timeout = p->connect_timeout;
    e->rise = p->health.rise;
    e->fall = p->health.fall;
    replace(&e->models_path, p->model_list.path);
    e->models_interval = p->model_list.interval;
}

enum endpoint_state endpoint_state(const struct endpoint *e) {
    return e->drained ? ENDPOINT_DRAINING : (enum endpoint_state)e->state;
}

const char *endpoint_state_name(enum endpoint_state s) {
    static const char *const names[ENDPOINT_STATES] = {"up", "loading", "down", "draining"};
    assert((unsigned)s < ENDPOINT_STATES);
    return names[s];
}

bool endpoint_usable(const struct endpoint *e) {
    if (e->drained) return false;
    if (e->state == ENDPOINT_UP) return true;
    if (e->health_interval || (e->named && e->watch.name->state == RESOLVE_FAILED)) return false;
    return clock_ms() >= e->offer_at;
}

bool endpoint_full(const struct endpoint *e) {
    return e->max_inflight && e->in_flight >= e->max_inflight;
}

static void set_state(struct endpoint *e, enum endpoint_state state, const char *reason) {
    if (state == (enum endpoint_state)e->state) return;
    log_line(state == ENDPOINT_UP ? LOG_INFO : LOG_WARN, "endpoint", "%s is %s (was %s): %s", e->url.text,
             endpoint_state_name(state), endpoint_state_name(e->state), reason);
    e->state = (uint8_t)state;
    e->since = clock_wall_ms();
    snprintf(e->reason, sizeof e->reason, "%s", reason);
    if (state == ENDPOINT_UP) e->up_since = clock_ms();
    if (on_change) on_change(e);
}

/* Without probes only requests can tell that it is back: one is offered after 1, 2, 4 ... 30 s. */
void endpoint_offered(struct endpoint *e) {
    e->offer_at = clock_ms() + e->offer_delay;
    e->offer_delay = e->offer_delay * 2 > OFFER_MOST ? OFFER_MOST : e->offer_delay * 2;
}

static void put_off(struct endpoint *e) {
    if (clock_ms() >= e->offer_at) endpoint_offered(e); /* else: one of those that failed together, or the one that was offered */
}

static void failed(struct endpoint *e, const char *reason) {
    e->passes = 0;
    e->failures++;
    if (++e->fails >= e->fall) set_state(e, ENDPOINT_DOWN, reason);
    if (e->state != ENDPOINT_UP) put_off(e);
}

void endpoint_sign(struct endpoint *e, enum endpoint_sign sign, const char *reason) {
    /* What still runs on a connection made before tells nothing of a name that is gone. */
    if ((sign == SIGN_ALIVE || sign == SIGN_LOADING) && e->watch.name && e->watch.name->state == RESOLVE_FAILED) return;
    switch (sign) {
    case SIGN_ALIVE:
        e->fails = 0;
        if (e->passes < e->rise) e->passes++;
        if (e->state != ENDPOINT_UP && (e->passes >= e->rise || !e->health_interval)) set_state(e, ENDPOINT_UP, reason);
        if (e->state == ENDPOINT_UP) e->offer_delay = OFFER_FIRST, e->offer_at = 0; /* its next death begins anew */
        break;
    case SIGN_LOADING:
        e->passes = e->fails = 0;
        e->last_byte = 0; /* what said so is no sign that it is up */
        set_state(e, ENDPOINT_LOADING, reason);
        put_off(e);
        break;
    case SIGN_FAILED: failed(e, reason); break;
    case SIGN_NO_NAME:
        e->passes = 0;
        set_state(e, ENDPOINT_DOWN, reason);
        break;
    }
}

void endpoint_drain(struct endpoint *e, bool on) {
    if (e->drained == on) return;
    e->drained = on;
    e->since = clock_wall_ms();
    log_info("endpoint", "%s is %s", e->url.text, on ? "draining, as an operator asked" : "no longer draining");
    if (on_change) on_change(e);
}

bool endpoint_address(const struct endpoint *e, unsigned first, unsigned i, struct sock_addr *out) {
    memset(out, 0, sizeof *out);
    if (e->url.is_unix) {
        if (i) return false;
        out->u.un.sun_family = AF_UNIX;
        str_copy(out->u.un.sun_path, sizeof out->u.un.sun_path, str_of(e->url.path));
        out->len = sizeof out->u.un;
        return true;
    }
    const struct resolve_name *n = e->watch.name;
    if (i >= n->naddrs) return false;
    *out = n->addrs[(first + i) % n->naddrs];
    if (out->u.sa.sa_family == AF_INET)
        out->u.in4.sin_port = htons(e->url.port);
    else
        out->u.in6.sin6_port = htons(e->url.port);
    return true;
}
