/* stats: what is counted, by pool, by pool and endpoint, by pool and model. Names come from the configuration only, so there are
 * never more cells than it has rows. Bumped where things happen, read by `metrics` and `status`. */
#ifndef STATS_H
#define STATS_H
#include "list.h"
#include "str.h"
#include "why.h"

/* Upper bounds in ms: from a cached answer to the longest generation. The last bucket, above them all, has no bound. */
#define STATS_BOUNDS(X)                                                                                                            \
    X(5) X(10) X(25) X(50) X(100) X(250) X(500) X(1000) X(2500) X(5000) X(10000) X(30000) X(60000) X(120000) X(300000) X(600000)
#define STATS_BUCKETS 17
extern const uint32_t stats_bounds[STATS_BUCKETS - 1];

struct histogram {
    uint64_t count[STATS_BUCKETS]; /* each bucket by itself */
    uint64_t sum_ms;
};
void histogram_add(struct histogram *h, int64_t ms); /* negative: nothing is added */
uint64_t histogram_count(const struct histogram *h);
/* The bound below which that share (0..100) of all lies, interpolated, in ms; -1 if there is none. */
int64_t histogram_quantile(const struct histogram *h, unsigned percent);

enum stats_affinity { STATS_AFFINITIES = 4 }; /* as enum route_affinity */

/* A pool's. Embedded in its live part. */
struct stats_pool {
    struct histogram queue_wait, first_byte, duration;
    uint64_t affinity[STATS_AFFINITIES];
    uint64_t client_gone;
};

/* One pool's requests at one endpoint. Shared by the worlds that have both; the counts live as long as one of them does. */
struct stats_route {
    struct list link;
    unsigned refs;
    char *pool, *endpoint;
    uint64_t code[6]; /* finished, by class of status: [2] = 2xx; [0] = none was told */
    uint64_t retries; /* tries here after another one failed */
    unsigned in_flight;
    struct histogram first_byte;
};
struct stats_route *stats_route_get(const char *pool, const char *endpoint); /* a reference more; made if new */
void stats_route_put(struct stats_route *r);
struct list *stats_routes(void); /* of struct stats_route.link */

enum stats_token { TOKENS_PROMPT, TOKENS_CACHED, TOKENS_COMPLETION, TOKENS_KINDS };

/* One entry of `models:` or `aliases:`, in the pool that answered. */
struct stats_model {
    struct list link;
    struct stats_model *next; /* private: of the same bucket */
    char *pool, *entry;
    struct histogram first_token;
    struct histogram per_token; /* of streams: from the first token to the end, by token */
    uint64_t tokens[TOKENS_KINDS];
};
struct stats_model *stats_model(const char *pool, const char *entry); /* made if new; good until stats_models_keep */
struct list *stats_models(void);                                      /* of struct stats_model.link */
/* Drops those that the predicate does not want: after a reload, what the configuration no longer names. */
void stats_models_keep(bool (*wanted)(const struct stats_model *m, const void *ctx), const void *ctx);

/* The process's. */
struct stats {
    uint64_t refused[WHY_COUNT];
    uint64_t reloads_ok, reloads_failed;
    int64_t started_ms, loaded_ms; /* wall clock: of the process, of the configuration in force */
    char reload_error[512];        /* the first reason why the last reload was refused; empty if it was not */
};
extern struct stats stats;
void stats_close(void); /* at the end: frees the models' cells */
#endif
