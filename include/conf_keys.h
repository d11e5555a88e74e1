/* conf_keys: what can be configured: the struct that holds it, and the table that fills it, one row a key. */
#ifndef CONF_KEYS_H
#define CONF_KEYS_H
#include "conf_read.h"
#include "log.h"

/* ---- the values ---- */

enum conf_affinity { AFFINITY_USER, AFFINITY_CONVERSATION, AFFINITY_MODEL, AFFINITY_NONE };
enum conf_access { ACCESS_JSON, ACCESS_TEXT, ACCESS_OFF };

/* Where a key's part comes from: body.NAME, body.NAME.SUB or header.NAME. */
struct conf_source {
    bool header;
    char *name, *sub; /* sub NULL if none; header names lower case */
};
struct conf_sources {
    struct conf_source *items;
    size_t count;
};

struct conf_policy { /* the per-pool keys, defaults merged in. Times in ms, 0 = none, at most 30 days */
    enum conf_affinity affinity;
    struct conf_sources identity, conversation;
    unsigned max_inflight;  /* per endpoint, 0 = unlimited */
    unsigned max_imbalance; /* 0 = always keep the pin */
    unsigned queue_size;
    int64_t queue_timeout;
    struct {
        char *path;
        int64_t interval, timeout;
        unsigned rise, fall;
    } health;
    int64_t connect_timeout, first_byte_timeout, stream_idle_timeout;
    struct {
        char *path;
        int64_t interval;
    } model_list;
    unsigned keepalive_max_idle;
    int64_t keepalive_timeout;
    unsigned retries;
    bool finish_on_disconnect;
    int64_t slow_start;
};

struct conf_endpoint {
    struct value_url url;
    int line, column;
    unsigned weight;       /* 1..1000, default 1 */
    unsigned max_inflight; /* 0 = unlimited: the endpoint's own, else the pool's */
    char *api_key;         /* NULL if none */
    bool expand;           /* each address of its name is an endpoint of its own */
};
struct conf_alias {
    char *name, *target;
};
struct conf_pool {
    char *name;
    char **models; /* exact, globs, "*" */
    size_t nmodels;
    struct conf_alias *aliases;
    size_t naliases;
    char *fallback;                  /* NULL if none */
    size_t fallback_index;           /* of that pool */
    struct conf_endpoint *endpoints; /* each URL once */
    size_t nendpoints;
    struct conf_policy policy;
};

struct conf {
    unsigned refs; /* conf_free gives one back */
    char *path;
    struct value_listen *listen;
    size_t nlisten;
    struct value_listen *admin; /* NULL if none */
    char **admin_keys, **api_keys;
    size_t nadmin_keys, napi_keys;
    char *api_keys_file; /* NULL if none; its keys are already in api_keys */
    unsigned max_connections;
    uint64_t max_header, max_body; /* never 0: no limit is CONF_SIZE_MAX, of a head 256 MB */
    uint64_t body_memory, body_min_rate;
    int64_t header_timeout, body_timeout, send_timeout, idle_timeout, drain_delay, drain_timeout; /* ms */
    struct value_cidr *trusted_proxies;
    size_t ntrusted_proxies;
    char **cors_origins;
    size_t ncors_origins;
    bool route_headers, read_usage, reuse_port;
    char **paths;
    size_t npaths;
    enum conf_access access;
    enum log_level log_level;
    char *log_file; /* "-" = stdout */
    struct conf_pool *pools;
    size_t npools;
};

/* ---- the keys ---- */

/* Bounds that the readers of these values rely on. */
#define CONF_SIZE_MAX    ((uint64_t)1 << 50) /* as a limit: none */
#define CONF_LISTEN_MAX  64                  /* addresses to listen on */
#define CONF_SOURCES_MAX 24 /* distinct body.* sources of all pools, and as many header.* (JSON_WANTS_MAX, WORLD_HEADERS_MAX) */
#define CONF_RETRIES_MAX 15 /* ROUTE_TRIED_MAX - 1 */
#define CONF_CHAIN_MAX   32 /* a pool, its fallback, that one's fallback ...: dispatch visits no more */

/* The mapping a key stands in, and what `offset` counts from. */
enum conf_scope {
    CONF_TOP,  /* struct conf */
    CONF_LOG,  /* log: struct conf */
    CONF_POOL, /* an entry of pools, and defaults: struct conf_policy */
    CONF_QUEUE,
    CONF_HEALTH,
    CONF_MODEL_LIST,
    CONF_KEEPALIVE, /* blocks of a pool: struct conf_policy */
    CONF_ENDPOINT,  /* a mapping in endpoints: struct conf_endpoint */
    CONF_SCOPES
};

enum conf_type {
    CONF_OWN,      /* read by conf.c itself: names, models, endpoints, ... */
    CONF_BLOCK,    /* a mapping of keys: `block` */
    CONF_BOOL,     /* bool */
    CONF_NUMBER,   /* unsigned, min..max */
    CONF_SIZE,     /* uint64_t bytes, min..max */
    CONF_DURATION, /* int64_t ms, min..max */
    CONF_CHOICE,   /* an enum: the index in `choices` */
    CONF_EITHER,   /* bool: is it the second of two `choices`? */
    CONF_FILE,     /* char *: a path of the file system */
    CONF_URL_PATH, /* char *: path of a URL */
    CONF_SECRET,   /* char *: a key */
    CONF_ADDRESS,  /* struct value_listen *: one address */
    CONF_LISTEN,   /* struct value_listen *, size_t: one, or a list */
    CONF_SECRETS,  /* char **, size_t */
    CONF_CIDRS,    /* struct value_cidr *, size_t */
    CONF_ORIGINS,  /* char **, size_t */
    CONF_PATHS,    /* char **, size_t: request paths */
    CONF_SOURCES   /* struct conf_sources */
};

enum conf_flag {
    CONF_DEFAULTS = 1,     /* of a pool: may stand in `defaults` too */
    CONF_ZERO_IS_MOST = 2, /* 0 = no limit, stored as max */
    CONF_INERT = 4,        /* nothing reads it yet: a warning says so, unless it is given its default */
};

struct conf_key {
    const char *name;
    const char *preset;  /* the default, as it would be written (YAML); NULL: none, the key may be absent or `null` */
    const char *choices; /* CONF_CHOICE: "a|b|c" */
    const char *help;
    uint64_t min, max;
    uint16_t offset, offset_count; /* of the value; of a list's count */
    uint8_t scope, type;           /* enum conf_scope, enum conf_type */
    uint8_t block;                 /* CONF_BLOCK: enum conf_scope of what stands in it */
    uint8_t flags;                 /* enum conf_flag */
};

const struct conf_key *conf_keys(size_t *n);             /* the table, in the order of the reference */
const char *conf_keys_scope_name(enum conf_scope scope); /* "health"; "" for the top level */

/* Every row's default of that scope and its blocks into the struct at base, which is all zero. */
void conf_keys_preset(enum conf_scope scope, void *base);
/* What the mapping says over what stands at base. CONF_OWN rows are only looked at for their place; unknown keys are errors.
 * With defaults, only rows of `defaults` are known. */
void conf_keys_fill(struct conf_findings *f, enum conf_scope scope, bool defaults, const struct node *map, void *base);

void conf_keys_copy_policy(struct conf_policy *to, const struct conf_policy *from); /* a deep copy */
void conf_keys_free_policy(struct conf_policy *p);
void conf_keys_free_texts(char **texts, size_t n);
#endif
