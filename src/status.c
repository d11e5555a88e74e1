/* status: what is, as JSON.
 * In: the current world, its endpoints and pools, counters, the last requests. Out: one document. Owns nothing, changes nothing.
 * Every text goes through buf_put_json, which also keeps <, > and & from being read as markup. Holds no key. */
#include "status.h"

#include "access.h"
#include "body.h"
#include "client.h"
#include "clock.h"
#include "stats.h"
#include "upstream.h"
#include "version.h"
#include "world.h"

static void put_text(struct buf *b, const char *key, const char *value) {
    buf_puts(b, str_of(key));
    if (!value) {
        BUF_LIT(b, "null");
        return;
    }
    buf_putc(b, '"');
    buf_put_json(b, str_of(value), SIZE_MAX);
    buf_putc(b, '"');
}

static void put_time(struct buf *b, const char *key, int64_t wall_ms) {
    char when[25];
    clock_rfc3339(wall_ms, when);
    put_text(b, key, when);
}

static void put_ms(struct buf *b, const char *key, int64_t n) {
    buf_puts(b, str_of(key));
    if (n < 0)
        BUF_LIT(b, "null");
    else
        buf_putu(b, (uint64_t)n);
}

static void put_head(struct buf *b, bool draining) {
    const struct world *w = world_current();
    buf_printf(b, "{\"version\":\"" ROUTER_VERSION "\",\"uptime_seconds\":%lld,\"draining\":%s,\"config\":{",
               (long long)((clock_wall_ms() - stats.started_ms) / 1000), draining ? "true" : "false");
    put_text(b, "\"path\":", w->conf->path);
    put_time(b, ",\"loaded_at\":", stats.loaded_ms);
    buf_printf(b, ",\"generation\":%llu", (unsigned long long)w->generation);
    put_text(b, ",\"reload_error\":", stats.reload_error[0] ? stats.reload_error : NULL);
    buf_printf(b, "},\"connections\":{\"client\":%u,\"endpoint_idle\":%u},\"body_memory_bytes\":%llu,\"pools\":[", client_count(),
               upstream_idle_count(), (unsigned long long)body_held());
}

static void put_endpoint(struct buf *b, const struct member *m) {
    const struct endpoint *e = m->endpoint;
    put_text(b, "{\"url\":", e->url.text);
    put_text(b, ",\"state\":", endpoint_state_name(endpoint_state(e)));
    put_text(b, ",\"reason\":", e->drained ? "an operator drained it" : e->reason[0] ? e->reason : NULL);
    put_time(b, ",\"since\":", e->since);
    buf_printf(b, ",\"weight\":%u,\"in_flight\":%u,\"max_inflight\":%u,\"requests\":%llu,\"failures\":%llu,\"first_byte_ms\":{",
               m->weight, e->in_flight, e->max_inflight, (unsigned long long)e->requests, (unsigned long long)e->failures);
    put_ms(b, "\"p50\":", histogram_quantile(&m->stats->first_byte, 50));
    put_ms(b, ",\"p99\":", histogram_quantile(&m->stats->first_byte, 99));
    BUF_LIT(b, "},\"models\":[");
    for (size_t i = 0; i < e->models.count; i++)
        put_text(b, i ? "," : "", e->models.entries[i].id);
    BUF_LIT(b, "]}");
}

static void put_tokens(struct buf *b, const char *pool) {
    uint64_t sum[TOKENS_KINDS] = {0};
    list_each(it, stats_models()) {
        const struct stats_model *m = list_entry(it, struct stats_model, link);
        for (unsigned k = 0; k < TOKENS_KINDS && str_eq(str_of(m->pool), str_of(pool)); k++)
            sum[k] += m->tokens[k];
    }
    buf_printf(b, ",\"tokens\":{\"prompt\":%llu,\"cached\":%llu,\"completion\":%llu}", (unsigned long long)sum[TOKENS_PROMPT],
               (unsigned long long)sum[TOKENS_CACHED], (unsigned long long)sum[TOKENS_COMPLETION]);
}

static void put_pool(struct buf *b, const struct pool *p) {
    const struct conf_pool *c = p->conf;
    put_text(b, "{\"name\":", c->name);
    BUF_LIT(b, ",\"models\":[");
    for (size_t i = 0; i < c->nmodels; i++)
        put_text(b, i ? "," : "", c->models[i]);
    BUF_LIT(b, "],\"aliases\":{");
    for (size_t i = 0; i < c->naliases; i++) {
        put_text(b, i ? "," : "", c->aliases[i].name);
        put_text(b, ":", c->aliases[i].target);
    }
    put_text(b, "},\"fallback\":", c->fallback);
    buf_printf(b, ",\"queued\":%u", p->live->queued);
    put_tokens(b, c->name);
    BUF_LIT(b, ",\"endpoints\":[");
    for (size_t i = 0; i < p->nmembers; i++) {
        if (i) buf_putc(b, ',');
        put_endpoint(b, &p->members[i]);
    }
    BUF_LIT(b, "]}");
}

void status_render(struct buf *out, bool draining) {
    const struct world *w = world_current();
    put_head(out, draining);
    for (size_t i = 0; i < w->npools; i++) {
        if (i) buf_putc(out, ',');
        put_pool(out, &w->pools[i]);
    }
    BUF_LIT(out, "],\"recent\":[");
    access_recent(out);
    BUF_LIT(out, "]}");
}
