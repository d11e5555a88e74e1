/* local: the router's own URLs: health, readiness, model lists, metrics, status, the page for people, the operator's verbs.
 * In: a request's path and query. Out: a reply, through the txn. Owns nothing but the draining mark.
 * Never asks an endpoint, never waits: what it tells is in memory. Who may ask, and where, front has decided. */
#include "local.h"

#include <string.h>

#include "catalog.h"
#include "metrics.h"
#include "status.h"
#include "ui.h"
#include "version.h"

#define MODEL_ID_MAX 1024

static bool draining;

void local_set_draining(void) {
    draining = true;
}

enum local_page local_page(struct str path) {
    static const struct {
        struct str path;
        enum local_page page;
    } pages[] = {
        {{"/health", 7}, LOCAL_HEALTH},
        {{"/ready", 6}, LOCAL_READY},
        {{"/v1/models", 10}, LOCAL_MODELS},
        {{"/models", 7}, LOCAL_MODELS},
        {{"/api/tags", 9}, LOCAL_TAGS},
        {{"/api/version", 12}, LOCAL_VERSION},
        {{"/metrics", 8}, LOCAL_METRICS},
        {{"/status", 7}, LOCAL_STATUS},
        {{"/ui", 3}, LOCAL_UI},
        {{"/admin/drain", 12}, LOCAL_DRAIN},
        {{"/admin/undrain", 14}, LOCAL_UNDRAIN},
    };
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        if (str_eq(path, pages[i].path)) return pages[i].page;
    if (path.len > 11 && str_starts(path, STR("/v1/models/"))) return LOCAL_MODEL;
    return LOCAL_NONE;
}

/* No body at all: there was no memory for one. */
static void json(struct txn *t, int status, struct str body) {
    if (body.len)
        txn_reply(t, status, STR("application/json"), STR_NONE, body);
    else
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
}

static void json_buf(struct txn *t, int status, const struct buf *body) {
    json(t, status, body->failed ? STR_NONE : buf_str(body));
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Percent-decoding, once (RFC 3986 2.1); only to be compared with names we know. */
static struct str decode(struct str s, char dst[MODEL_ID_MAX]) {
    size_t n = 0;
    for (size_t i = 0; i < s.len && n < MODEL_ID_MAX; i++) {
        if (s.ptr[i] == '%' && i + 2 < s.len && hex(s.ptr[i + 1]) >= 0 && hex(s.ptr[i + 2]) >= 0) {
            dst[n++] = (char)(hex(s.ptr[i + 1]) * 16 + hex(s.ptr[i + 2]));
            i += 2;
        } else {
            dst[n++] = s.ptr[i];
        }
    }
    return (struct str){dst, n};
}

/* The value of that name in the query, decoded. */
static struct str query_value(const struct http_head *h, struct str name, char dst[MODEL_ID_MAX]) {
    struct str target = str_at(h->base, h->target), rest, pair, key;
    rest = str_cut(target, '?', &key);
    while (rest.len) {
        rest = str_cut(rest, '&', &pair);
        struct str value = str_cut(pair, '=', &key);
        if (str_eq(key, name)) return decode(value, dst);
    }
    return STR_NONE;
}

static bool pool_ready(const struct pool *p) {
    for (size_t i = 0; i < p->nmembers; i++)
        if (endpoint_usable(p->members[i].endpoint)) return true;
    return false;
}

/* Until the first probe of every endpoint has ended nobody knows. Once known it stays so: an endpoint that a reload brings is
 * no reason to take the router out of service. */
static bool all_probed(const struct world *w) {
    static bool known;
    if (known) return true;
    for (size_t i = 0; i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nexpansions; k++)
            if (expand_name(w->pools[i].expansions[k])->state == RESOLVE_ASKING) return false;
    for (size_t i = 0; i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++) {
            const struct endpoint *e = w->pools[i].members[k].endpoint;
            if (e->health_interval && !e->probed) return false;
        }
    return known = true;
}

static void answer_ready(struct txn *t, const struct http_head *h) {
    const struct world *w = world_current();
    char text[MODEL_ID_MAX];
    struct str only = query_value(h, STR("pool"), text);
    struct buf out = {0}, pools = {0};
    bool known = !draining && all_probed(w), any = false, found = false;
    for (size_t i = 0; i < w->npools; i++) {
        struct str name = str_of(w->pools[i].conf->name);
        bool ready = known && pool_ready(&w->pools[i]);
        if (only.len && !str_eq(only, name)) continue;
        if (found) buf_putc(&pools, ',');
        found = true;
        any |= ready;
        buf_putc(&pools, '"');
        buf_put_json(&pools, name, 256);
        buf_puts(&pools, ready ? STR("\":true") : STR("\":false"));
    }
    buf_puts(&out, any ? STR("{\"ready\":true,\"pools\":{") : STR("{\"ready\":false,\"pools\":{"));
    buf_puts(&out, buf_str(&pools));
    BUF_LIT(&out, "}}");
    out.failed |= pools.failed;
    if (only.len && !found)
        txn_error(t, WHY_NO_URL, STR("There is no pool of that name."), STR_NONE);
    else
        json_buf(t, any ? 200 : 503, &out);
    buf_free(&out);
    buf_free(&pools);
}

static void answer_model(struct txn *t, const struct http_head *h) {
    char text[MODEL_ID_MAX];
    struct str path = str_at(h->base, h->path), found;
    struct str id = decode((struct str){path.ptr + 11, path.len - 11}, text);
    if (catalog_find(id, &found))
        json(t, 200, found);
    else
        txn_error(t, WHY_NO_MODEL, STR("That model is not served here. GET /v1/models lists those that are."), STR_NONE);
}

static void answer_metrics(struct txn *t) {
    struct buf out = {0};
    metrics_render(&out);
    if (out.failed)
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
    else
        txn_reply(t, 200, STR("text/plain; version=0.0.4; charset=utf-8"), STR_NONE, buf_str(&out));
    buf_free(&out);
}

static void answer_status(struct txn *t) {
    struct buf out = {0};
    status_render(&out, draining);
    if (out.failed)
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
    else
        txn_reply(t, 200, STR("application/json"), STR("Cache-Control: no-store\r\n"), buf_str(&out));
    buf_free(&out);
}

static void answer_ui(struct txn *t) {
    struct buf page = {0}, policy = {0};
    ui_render(&page, &policy, t->client->admin);
    if (page.failed || policy.failed)
        txn_error(t, WHY_NO_MEMORY, STR_NONE, STR_NONE);
    else
        txn_reply(t, 200, STR("text/html; charset=utf-8"), buf_str(&policy), buf_str(&page));
    buf_free(&page);
    buf_free(&policy);
}

/* The endpoint of the configuration in force that has this URL, in whatever spelling. */
static struct endpoint *endpoint_named(struct str url) {
    struct value_url wanted;
    const struct world *w = world_current();
    if (value_url(url, &wanted)) return NULL;
    for (size_t i = 0; i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++)
            if (strcmp(w->pools[i].members[k].endpoint->url.text, wanted.text) == 0) return w->pools[i].members[k].endpoint;
    return NULL;
}

/* A web page can send a cross-site POST, but not with this type unless we allowed its origin, which this listener never does. */
static bool is_json(const struct http_head *h) {
    struct str type;
    str_cut(http_get(h, FIELD_CONTENT_TYPE), ';', &type);
    return str_ieq(str_trim(type), STR("application/json"));
}

static void answer_verb(struct txn *t, const struct http_head *h, bool drain) {
    char text[MODEL_ID_MAX];
    if (!is_json(h)) {
        txn_error(t, WHY_FORBIDDEN, STR("Send this with 'Content-Type: application/json'."), STR_NONE);
        return;
    }
    struct endpoint *e = endpoint_named(query_value(h, STR("endpoint"), text));
    if (!e) {
        txn_error(t, WHY_NO_URL, STR("Name an endpoint of the configuration: ?endpoint=URL, as /status writes it."), STR_NONE);
        return;
    }
    struct buf out = {0};
    endpoint_drain(e, drain);
    BUF_LIT(&out, "{\"endpoint\":\"");
    buf_put_json(&out, str_of(e->url.text), SIZE_MAX);
    buf_printf(&out, "\",\"state\":\"%s\",\"in_flight\":%u}", endpoint_state_name(endpoint_state(e)), e->in_flight);
    json_buf(t, 200, &out);
    buf_free(&out);
}

void local_answer(struct txn *t, enum local_page page, const struct http_head *h) {
    switch (page) {
    case LOCAL_HEALTH: txn_reply(t, 200, STR("text/plain"), STR_NONE, STR("ok")); break;
    case LOCAL_READY: answer_ready(t, h); break;
    case LOCAL_MODELS: json(t, 200, catalog_list()); break;
    case LOCAL_MODEL: answer_model(t, h); break;
    case LOCAL_TAGS: json(t, 200, catalog_tags()); break;
    case LOCAL_VERSION: json(t, 200, STR("{\"version\":\"" ROUTER_VERSION "\"}")); break;
    case LOCAL_METRICS: answer_metrics(t); break;
    case LOCAL_STATUS: answer_status(t); break;
    case LOCAL_UI: answer_ui(t); break;
    case LOCAL_DRAIN:
    case LOCAL_UNDRAIN: answer_verb(t, h, page == LOCAL_DRAIN); break;
    case LOCAL_NONE: txn_error(t, WHY_NO_URL, STR_NONE, STR_NONE); break;
    }
}
