/* world: the immutable routing snapshot made from one configuration: pools, their members, and who serves which model.
 * Refcounted: the server's current one, and every txn that picked from it. */
#ifndef WORLD_H
#define WORLD_H
#include "endpoint.h"
#include "expand.h"
#include "json.h"
#include "stats.h"

/* The part of a pool that lives on over reloads, by name. */
struct pool_live {
    struct list link; /* registry */
    unsigned refs;
    char *name;
    struct list queue; /* waiting requests, oldest first (dispatch's) */
    unsigned queued;
    bool stuck;    /* its first cannot be served now (dispatch's, while it wakes) */
    unsigned turn; /* affinity none: whose turn it is among equals */
    struct stats_pool stats;
};

struct member {
    struct endpoint *endpoint;
    unsigned weight;
    const struct conf_endpoint *conf;
    struct stats_route *stats; /* a reference */
    uint64_t hash;             /* the endpoint's: a pick among hundreds reads no more than this array */
};

/* One source of a pool's identity or conversation list, resolved to where this world collects it. */
struct source_ref {
    bool header;
    uint8_t index; /* into world.wants (body) or world.headers */
};
struct source_list {
    struct source_ref *items;
    size_t count;
};

struct pool {
    const struct conf_pool *conf;
    struct pool_live *live;
    struct pool *fallback; /* NULL if none */
    struct member *members;
    size_t nmembers;               /* may be 0 where names that are expanded have no address now */
    struct expansion **expansions; /* references */
    size_t nexpansions;
    struct source_list identity, conversation;
};

#define WORLD_HEADERS_MAX CONF_SOURCES_MAX

struct world {
    unsigned refs;
    uint64_t generation;
    struct conf *conf;
    struct pool *pools;
    size_t npools;
    struct json_want wants[JSON_WANTS_MAX]; /* what the body checker looks out for, all pools together */
    size_t nwants;
    struct str headers[WORLD_HEADERS_MAX]; /* header names that some pool's list asks for, lower case */
    size_t nheaders;
    bool conversation;        /* some pool wants the conversation's beginning */
    bool drop_credentials;    /* clients' keys are the router's business, or endpoints have their own */
    struct name_table *names; /* private: exact names and globs */
};

/* Builds the whole of it; takes the configuration over. Endpoints and live parts that exist are shared. Cannot fail: conf is sound. */
struct world *world_build(struct conf *conf);
/* From the same configuration, with the addresses that expanded names have now. */
struct world *world_rebuild(const struct world *w);
void world_activate(struct world *w); /* makes it the current one: endpoints take its settings; the old one loses a reference */
struct world *world_current(void);    /* borrowed; NULL before the first */
struct world *world_ref(struct world *w);
void world_unref(struct world *w);
void world_deactivate(void); /* at the end: there is no current one any more */

enum match_how { MATCH_NONE, MATCH_EXACT, MATCH_ALIAS, MATCH_GLOB, MATCH_STAR };
struct match {
    const struct pool *pool;
    const char *entry;  /* of `models:` or `aliases:` that matched, for metric labels; the world's memory */
    const char *target; /* alias: the name sent to the endpoint; else NULL: the name as it came */
    enum match_how how;
};
/* Who serves that model. An empty name asks for the "*" pool. */
struct match world_match(const struct world *w, struct str model);
/* The alias of that very pool for the name, or NULL: what a fallback pool sends instead. */
const char *pool_alias(const struct pool *p, struct str model);
struct list *world_lives(void); /* of struct pool_live.link: also those of pools that only an older world has */
/* The name that is served and nearest to this one (for "did you mean"), or NULL. */
const char *world_nearest(const struct world *w, struct str model);
#endif
