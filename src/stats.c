/* stats: cells.
 * In: names out of the configuration, durations. Out: counters to bump. Owns every cell but those embedded in a pool's live part.
 * Computes nothing but quantiles; prints nothing (metrics and status do). Bumping is an addition: no lock, no time asked. */
#include "stats.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define X(ms) ms,
const uint32_t stats_bounds[STATS_BUCKETS - 1] = {STATS_BOUNDS(X)};
#undef X

#define MODEL_BUCKETS 1024 /* a request with tokens looks its model up */

struct stats stats;
static struct list routes = {&routes, &routes};
static struct list models = {&models, &models};
static struct stats_model **buckets; /* chained by `next`; NULL while there is no model */

void histogram_add(struct histogram *h, int64_t ms) {
    unsigned b = 0;
    if (ms < 0) return;
    while (b < STATS_BUCKETS - 1 && ms > (int64_t)stats_bounds[b])
        b++;
    h->count[b]++;
    h->sum_ms += (uint64_t)ms;
}

uint64_t histogram_count(const struct histogram *h) {
    uint64_t n = 0;
    for (unsigned b = 0; b < STATS_BUCKETS; b++)
        n += h->count[b];
    return n;
}

int64_t histogram_quantile(const struct histogram *h, unsigned percent) {
    uint64_t all = histogram_count(h), below = 0;
    if (!all) return -1;
    uint64_t rank = (all * percent + 99) / 100;
    for (unsigned b = 0; b < STATS_BUCKETS - 1; b++) {
        uint64_t low = b ? stats_bounds[b - 1] : 0, n = h->count[b];
        if (n && below + n >= rank) return (int64_t)(low + (stats_bounds[b] - low) * (rank - below) / n);
        below += n;
    }
    return stats_bounds[STATS_BUCKETS - 2];
}

struct stats_route *stats_route_get(const char *pool, const char *endpoint) {
    list_each(it, &routes) {
        struct stats_route *r = list_entry(it, struct stats_route, link);
        if (strcmp(r->pool, pool) != 0 || strcmp(r->endpoint, endpoint) != 0) continue;
        r->refs++;
        return r;
    }
    struct stats_route *r = must_alloc(sizeof *r);
    r->refs = 1;
    r->pool = str_dup(str_of(pool));
    r->endpoint = str_dup(str_of(endpoint));
    list_push_back(&routes, &r->link);
    return r;
}

void stats_route_put(struct stats_route *r) {
    assert(r->refs);
    if (--r->refs) return;
    assert(!r->in_flight);
    list_remove(&r->link);
    free(r->pool);
    free(r->endpoint);
    free(r);
}

struct list *stats_routes(void) {
    return &routes;
}

static struct stats_model **bucket_of(const char *pool, const char *entry) {
    if (!buckets) buckets = must_alloc(MODEL_BUCKETS * sizeof(struct stats_model *));
    return &buckets[XXH3_64bits_withSeed(entry, strlen(entry), XXH3_64bits(pool, strlen(pool))) % MODEL_BUCKETS];
}

struct stats_model *stats_model(const char *pool, const char *entry) {
    struct stats_model **bucket = bucket_of(pool, entry);
    for (struct stats_model *m = *bucket; m; m = m->next)
        if (strcmp(m->entry, entry) == 0 && strcmp(m->pool, pool) == 0) return m;
    struct stats_model *m = must_alloc(sizeof *m);
    m->pool = str_dup(str_of(pool));
    m->entry = str_dup(str_of(entry));
    m->next = *bucket;
    *bucket = m;
    list_push_back(&models, &m->link);
    return m;
}

struct list *stats_models(void) {
    return &models;
}

static bool none(const struct stats_model *m, const void *ctx) {
    (void)m, (void)ctx;
    return false;
}

void stats_models_keep(bool (*wanted)(const struct stats_model *m, const void *ctx), const void *ctx) {
    list_each_safe(it, &models) {
        struct stats_model *m = list_entry(it, struct stats_model, link), **at = bucket_of(m->pool, m->entry);
        if (wanted(m, ctx)) continue;
        while (*at != m)
            at = &(*at)->next;
        *at = m->next;
        list_remove(&m->link);
        free(m->pool);
        free(m->entry);
        free(m);
    }
}

void stats_close(void) {
    stats_models_keep(none, NULL);
    free(buckets);
    buckets = NULL;
}
