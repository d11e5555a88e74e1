/* conf_keys: THE table of keys, and what fills a struct by it.
 * In: mappings. Out: fields of struct conf, conf_policy and conf_endpoint; findings. Owns nothing: what it stores belongs to the
 * struct, and a value that replaces another frees it. Knows no rule between two keys: those are conf's.
 * Defaults are read by the same readers as a file's values, so a row says its default once, as a person would write it. */
#include "conf_keys.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "syntax.h"

#define TOP(field)       .scope = CONF_TOP, .offset = offsetof(struct conf, field)
#define TOP_LIST(list)   TOP(list), .offset_count = offsetof(struct conf, n##list)
#define LOG_KEY(field)   .scope = CONF_LOG, .offset = offsetof(struct conf, field)
#define POOL(field)      .scope = CONF_POOL, .flags = CONF_DEFAULTS, .offset = offsetof(struct conf_policy, field)
#define IN(block, field) .scope = block, .offset = offsetof(struct conf_policy, field)
#define ENDPOINT(field)  .scope = CONF_ENDPOINT, .offset = offsetof(struct conf_endpoint, field)

#define MANY      1000000
#define MOST_TIME 2592000000ull /* ms: 30 days, which fit in 32 bits */
#define K         1024ull
#define M         (K * K)
#define G         (K * M)

#define IDENTITY "[body.user, body.safety_identifier, header.X-OpenWebUI-User-Id, body.metadata.user_id]"
#define CONVERSATION                                                                                                               \
    "[header.X-OpenWebUI-Chat-Id, header.X-Session-Id, header.X-Claude-Code-Session-Id, header.session_id, "                       \
    "body.prompt_cache_key, body.conversation]"

_Static_assert(CONF_SOURCES_MAX == JSON_WANTS_MAX, "the checker of bodies has room for them");

/* clang-format off */
static const struct conf_key keys[] = {
    {"listen", "0.0.0.0:9090", .type = CONF_LISTEN, TOP_LIST(listen), .help = "where clients connect: HOST:PORT, [v6]:PORT, :PORT or unix:/path, or a list of them"},
    {"admin_listen", NULL, .type = CONF_ADDRESS, TOP(admin), .help = "address for /metrics, /status, /ui and the admin verbs, which then live only there"},
    {"admin_keys", "[]", .type = CONF_SECRETS, TOP_LIST(admin_keys), .help = "keys for admin_listen"},
    {"api_keys", "[]", .type = CONF_SECRETS, TOP_LIST(api_keys), .help = "clients must present one of them; empty = anybody may ask"},
    {"api_keys_file", NULL, .type = CONF_OWN, TOP(api_keys_file), .help = "the same from a file, one a line; blank lines and # lines are skipped"},
    {"max_connections", "10000", .type = CONF_NUMBER, TOP(max_connections), .max = MANY, .help = "client connections at one time; 0 = no limit"},
    {"max_header", "32k", .type = CONF_SIZE, TOP(max_header), .min = K, .max = 256 * M, .flags = CONF_ZERO_IS_MOST, .help = "request line and headers; 0 = no limit but 256m"},
    {"max_body", "100m", .type = CONF_SIZE, TOP(max_body), .max = CONF_SIZE_MAX, .flags = CONF_ZERO_IS_MOST, .help = "one request body; 0 = no limit"},
    {"body_memory", "1g", .type = CONF_SIZE, TOP(body_memory), .max = CONF_SIZE_MAX, .help = "all request bodies held at one time; 0 = no limit"},
    {"header_timeout", "10s", .type = CONF_DURATION, TOP(header_timeout), .max = MOST_TIME, .help = "for the whole head, from its first byte"},
    {"body_timeout", "30s", .type = CONF_DURATION, TOP(body_timeout), .max = MOST_TIME, .help = "between two reads of a body"},
    {"body_min_rate", "1k", .type = CONF_SIZE, TOP(body_min_rate), .max = G, .help = "bytes a second, on average, once body_timeout has passed"},
    {"send_timeout", "60s", .type = CONF_DURATION, TOP(send_timeout), .max = MOST_TIME, .help = "the client takes no byte of its response"},
    {"idle_timeout", "75s", .type = CONF_DURATION, TOP(idle_timeout), .max = MOST_TIME, .help = "a client between requests, or before its first byte"},
    {"drain_delay", "0", .type = CONF_DURATION, TOP(drain_delay), .max = MOST_TIME, .help = "on SIGTERM, go on accepting this long while /ready says 503"},
    {"drain_timeout", "30s", .type = CONF_DURATION, TOP(drain_timeout), .max = MOST_TIME, .help = "then finish what runs, then cut; 0 = no limit"},
    {"trusted_proxies", "[]", .type = CONF_CIDRS, TOP_LIST(trusted_proxies), .help = "whose X-Forwarded-For is believed: addresses or address/bits"},
    {"cors_origins", "[]", .type = CONF_ORIGINS, TOP_LIST(cors_origins), .help = "[\"*\"] or a list of origins; empty = no CORS"},
    {"route_headers", "false", .type = CONF_BOOL, TOP(route_headers), .help = "X-Router-Pool, -Endpoint and -Affinity on responses"},
    {"read_usage", "true", .type = CONF_BOOL, TOP(read_usage), .help = "tokens and time to first token, read from responses in passing"},
    {"reuse_port", "false", .type = CONF_BOOL, TOP(reuse_port), .help = "SO_REUSEPORT on listen addresses, so that two processes can overlap"},
    {"paths", "[]", .type = CONF_PATHS, TOP_LIST(paths), .help = "further request paths to route by the model in a JSON body"},
    {"log", NULL, .type = CONF_BLOCK, .scope = CONF_TOP, .block = CONF_LOG, .help = "access lines and the operator's log"},
    {"access", "json", .choices = "json|text|off", .type = CONF_CHOICE, LOG_KEY(access), .help = "one line a finished request"},
    {"level", "info", .choices = "error|warn|info|debug", .type = CONF_CHOICE, LOG_KEY(log_level), .help = "of the lines on stderr"},
    {"file", "\"-\"", .type = CONF_FILE, LOG_KEY(log_file), .help = "where access lines go; - = stdout"},
    {"defaults", NULL, .type = CONF_OWN, .scope = CONF_TOP, .help = "keys of every pool that does not set them itself"},
    {"pools", NULL, .type = CONF_OWN, .scope = CONF_TOP, .help = "the list of pools"},

    {"name", NULL, .type = CONF_OWN, .scope = CONF_POOL, .help = "of the pool; once"},
    {"models", NULL, .type = CONF_OWN, .scope = CONF_POOL, .help = "what it serves: exact names, globs (* and ?), or \"*\""},
    {"aliases", NULL, .type = CONF_OWN, .scope = CONF_POOL, .help = "accepted name: name sent to the endpoint"},
    {"fallback", NULL, .type = CONF_OWN, .scope = CONF_POOL, .help = "pool to use when no endpoint here is usable"},
    {"endpoints", NULL, .type = CONF_OWN, .scope = CONF_POOL, .help = "list of URLs, or of mappings with url"},
    {"affinity", "user", .choices = "user|conversation|model|none", .type = CONF_CHOICE, POOL(affinity), .help = "what keeps a request at its endpoint"},
    {"identity", IDENTITY, .type = CONF_SOURCES, POOL(identity), .help = "who asks: the first of these that is there"},
    {"conversation", CONVERSATION, .type = CONF_SOURCES, POOL(conversation), .help = "which conversation: the first of these that is there"},
    {"max_inflight", "0", .type = CONF_NUMBER, POOL(max_inflight), .max = MANY, .help = "requests at one time, for each endpoint; 0 = no limit"},
    {"max_imbalance", "0", .type = CONF_NUMBER, POOL(max_imbalance), .max = MANY, .help = "keep the pin only while its in-flight <= least + N; 0 = always"},
    {"queue", NULL, .type = CONF_BLOCK, .scope = CONF_POOL, .flags = CONF_DEFAULTS, .block = CONF_QUEUE, .help = "waiting requests, once every endpoint is at max_inflight"},
    {"size", "0", .type = CONF_NUMBER, IN(CONF_QUEUE, queue_size), .max = MANY, .help = "how many may wait; 0 = none"},
    {"timeout", "30s", .type = CONF_DURATION, IN(CONF_QUEUE, queue_timeout), .max = MOST_TIME, .help = "how long one waits; 0 = no limit"},
    {"health", NULL, .type = CONF_BLOCK, .scope = CONF_POOL, .flags = CONF_DEFAULTS, .block = CONF_HEALTH, .help = "probes of each endpoint"},
    {"path", "/health", .type = CONF_URL_PATH, IN(CONF_HEALTH, health.path), .help = "asked with GET"},
    {"interval", "5s", .type = CONF_DURATION, IN(CONF_HEALTH, health.interval), .max = MOST_TIME, .help = "between two probes; 0 = no probes"},
    {"timeout", "2s", .type = CONF_DURATION, IN(CONF_HEALTH, health.timeout), .max = MOST_TIME, .help = "for the whole answer; 0 = 10s"},
    {"rise", "1", .type = CONF_NUMBER, IN(CONF_HEALTH, health.rise), .min = 1, .max = 100, .help = "successes in a row that make it up"},
    {"fall", "3", .type = CONF_NUMBER, IN(CONF_HEALTH, health.fall), .min = 1, .max = 100, .help = "failures in a row that make it down"},
    {"connect_timeout", "2s", .type = CONF_DURATION, POOL(connect_timeout), .min = 1, .max = MOST_TIME, .help = "for the name and the connection"},
    {"first_byte_timeout", "0", .type = CONF_DURATION, POOL(first_byte_timeout), .max = MOST_TIME, .help = "from the request sent to the first byte of a response"},
    {"stream_idle_timeout", "10m", .type = CONF_DURATION, POOL(stream_idle_timeout), .max = MOST_TIME, .help = "between two bytes of a response, while the client takes them"},
    {"model_list", NULL, .type = CONF_BLOCK, .scope = CONF_POOL, .flags = CONF_DEFAULTS, .block = CONF_MODEL_LIST, .help = "what each endpoint says it serves"},
    {"path", "/v1/models", .type = CONF_URL_PATH, IN(CONF_MODEL_LIST, model_list.path), .help = "asked with GET"},
    {"interval", "30s", .type = CONF_DURATION, IN(CONF_MODEL_LIST, model_list.interval), .max = MOST_TIME, .help = "0 = only the names in this file"},
    {"keepalive", NULL, .type = CONF_BLOCK, .scope = CONF_POOL, .flags = CONF_DEFAULTS, .block = CONF_KEEPALIVE, .help = "idle connections to one endpoint"},
    {"max_idle", "64", .type = CONF_NUMBER, IN(CONF_KEEPALIVE, keepalive_max_idle), .max = MANY, .help = "how many are kept; 0 = none"},
    {"timeout", "4s", .type = CONF_DURATION, IN(CONF_KEEPALIVE, keepalive_timeout), .max = MOST_TIME, .help = "how long one is reused; 0 = no reuse"},
    {"retries", "2", .type = CONF_NUMBER, POOL(retries), .max = CONF_RETRIES_MAX, .help = "further endpoints tried before the first response byte"},
    {"on_disconnect", "abort", .choices = "abort|finish", .type = CONF_EITHER, POOL(finish_on_disconnect), .help = "what becomes of a request whose client is gone"},
    {"slow_start", "0", .type = CONF_DURATION, POOL(slow_start), .max = MOST_TIME, .help = "time over which a recovered endpoint's weight grows to full"},

    {"url", NULL, .type = CONF_OWN, ENDPOINT(url), .help = "http://host:port/base or unix:/path"},
    {"weight", "1", .type = CONF_NUMBER, ENDPOINT(weight), .min = 1, .max = 1000, .help = "its share of the pool's keys"},
    {"max_inflight", NULL, .type = CONF_NUMBER, ENDPOINT(max_inflight), .max = MANY, .help = "instead of the pool's"},
    {"expand", "none", .choices = "none|dns", .type = CONF_EITHER, ENDPOINT(expand), .help = "dns: each address of its name is an endpoint of its own, followed as they come and go"},
    {"api_key", NULL, .type = CONF_SECRET, ENDPOINT(api_key), .help = "sent as Authorization: Bearer, on probes too"},
};
/* clang-format on */
#define KEYS (sizeof keys / sizeof *keys)

const struct conf_key *conf_keys(size_t *n) {
    *n = KEYS;
    return keys;
}

const char *conf_keys_scope_name(enum conf_scope scope) {
    static const char *const names[CONF_SCOPES] = {"", "log", "", "queue", "health", "model_list", "keepalive", ""};
    return names[scope];
}

/* ---- unknown keys ---- */

static bool known_in(const struct conf_key *k, enum conf_scope scope, bool defaults) {
    return k->scope == scope && (!defaults || k->flags & CONF_DEFAULTS);
}

static const struct conf_key *find(enum conf_scope scope, bool defaults, const char *name) {
    for (size_t i = 0; i < KEYS; i++)
        if (known_in(&keys[i], scope, defaults) && strcmp(keys[i].name, name) == 0) return &keys[i];
    return NULL;
}

static const char *nearest(enum conf_scope scope, bool defaults, const char *name, unsigned *least) {
    const char *best = NULL;
    *least = 65; /* more than any key is long: there always is a nearest, but to a name longer than that */
    for (size_t i = 0; i < KEYS; i++) {
        if (!known_in(&keys[i], scope, defaults)) continue;
        unsigned d = value_distance(str_of(name), str_of(keys[i].name), *least);
        if (d < *least) *least = d, best = keys[i].name;
    }
    return best;
}

/* Where a key of that name would be right, for those who put it on a wrong level. */
static const char *right_place(const char *name) {
    static const char *const places[CONF_SCOPES] = {"at the top level", "in log",        "in a pool",    "in queue",
                                                    "in health",        "in model_list", "in keepalive", "in endpoints"};
    for (size_t i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0)
            return keys[i].flags & CONF_DEFAULTS ? "in defaults or in a pool" : places[keys[i].scope];
    return NULL;
}

static void unknown_key(struct conf_findings *f, enum conf_scope scope, bool defaults, const struct node *key, const char *label) {
    unsigned distance;
    if (key->unreadable) return;
    if (findings_full(f)) {
        findings_error(f, key, label, "unknown key");
        return;
    }
    const char *near = nearest(scope, defaults, key->text, &distance), *place = right_place(key->text);
    unsigned close = key->len < 6 ? 2 : (unsigned)key->len / 2;
    if (near && distance <= (place ? 1 : close))
        findings_error(f, key, label, "unknown key '%s', did you mean '%s'?", key->text, near);
    else if (place)
        findings_error(f, key, label, "unknown key here: '%s' belongs %s", key->text, place);
    else if (near)
        findings_error(f, key, label, "unknown key '%s': the nearest known one is '%s'", key->text, near);
    else
        findings_error(f, key, label, "unknown key");
}

/* ---- lists ---- */

void conf_keys_free_texts(char **texts, size_t n) {
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

static void free_sources(struct conf_sources *s) {
    for (size_t i = 0; i < s->count; i++) {
        free(s->items[i].name);
        free(s->items[i].sub);
    }
    free(s->items);
    *s = (struct conf_sources){0};
}

/* body.NAME, body.NAME.SUB or header.NAME; NULL, or what is wrong with it. */
static const char *parse_source(struct str s, struct conf_source *out) {
    struct str from, name, sub, rest;
    s = str_cut(s, '.', &from);
    *out = (struct conf_source){.header = str_eq(from, STR("header"))};
    if (out->header) {
        if (!syntax_token(s) || s.len > CONF_NAME_MAX) return "has no header name: write header.X-Session-Id";
        out->name = str_dup(s);
        for (char *c = out->name; *c; c++)
            *c = (char)syntax_lower(*c);
        return NULL;
    }
    if (!str_eq(from, STR("body"))) return "must be body.NAME, body.NAME.SUB or header.NAME";
    rest = str_cut(s, '.', &name);
    bool has_sub = name.len != s.len;
    rest = str_cut(rest, '.', &sub);
    if (!name.len || (has_sub && !sub.len) || rest.len || str_ends(s, STR(".")))
        return "must be body.NAME, body.NAME.SUB or header.NAME: at most one level below a member";
    if (name.len > JSON_KEY_MAX || sub.len > JSON_KEY_MAX) return "names a member of more than 64 bytes";
    out->name = str_dup(name);
    if (has_sub) out->sub = str_dup(sub);
    return NULL;
}

static bool read_source(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    char *text;
    if (!conf_read_text(f, label, n, &text)) return false;
    const char *wrong = parse_source(str_of(text), to);
    free(text);
    if (wrong) findings_error(f, n, label, "%s", wrong);
    return !wrong;
}

static bool read_secret(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    return conf_read_secret(f, label, n, to);
}

static bool read_origin(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    return conf_read_origin(f, label, n, to);
}

static bool read_cidr(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    return conf_read_cidr(f, label, n, to);
}

static bool read_listen(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    return conf_read_listen(f, label, n, to);
}

/* A path that the router answers itself is nobody's to route. */
static bool read_path(struct conf_findings *f, const char *label, const struct node *n, void *to) {
    static const char *const own[] = {"/health", "/ready",     "/metrics", "/status",   "/ui",
                                      "/admin",  "/v1/models", "/models",  "/api/tags", "/api/version"};
    char **path = to;
    if (!conf_read_url_path(f, label, n, false, path)) return false;
    struct str s = str_of(*path);
    bool taken = str_starts(s, STR("/admin/")) || str_starts(s, STR("/v1/models/"));
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        taken |= str_eq(s, str_of(own[i]));
    if (!taken) return true;
    findings_error(f, n, label, "%s is a URL of the router's own", *path);
    free(*path);
    return false;
}

typedef bool (*read_item)(struct conf_findings *f, const char *label, const struct node *n, void *to);

/* All sound items of a list, in a new array. A single value where `alone` allows it. */
static void *read_items(struct conf_findings *f, const char *label, const struct node *n, bool alone, size_t size, read_item one,
                        size_t *count) {
    *count = 0;
    if (alone && n->kind == NODE_SCALAR) {
        char *item = must_alloc(size);
        *count = one(f, label, n, item);
        return item;
    }
    if (!conf_read_list(f, label, n)) return NULL;
    char *items = must_alloc(n->count * size);
    for (size_t i = 0; i < n->count; i++)
        *count += one(f, label, n->items[i], items + *count * size);
    return items;
}

static void fill_texts(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    char ***to = (char ***)(void *)(base + k->offset);
    size_t *count = (size_t *)(void *)(base + k->offset_count);
    read_item one = k->type == CONF_SECRETS ? read_secret : k->type == CONF_ORIGINS ? read_origin : read_path;
    conf_keys_free_texts(*to, *count);
    *to = read_items(f, label, n, false, sizeof **to, one, count);
}

static void fill_listen(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    struct value_listen **to = (struct value_listen **)(void *)(base + k->offset);
    size_t *count = (size_t *)(void *)(base + k->offset_count);
    if (n->kind == NODE_LIST && (n->count == 0 || n->count > CONF_LISTEN_MAX)) {
        findings_error(f, n, label, "must name 1 to %d addresses", CONF_LISTEN_MAX);
        return;
    }
    free(*to);
    *to = read_items(f, label, n, true, sizeof **to, read_listen, count);
    for (size_t i = 1; i < *count; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp((*to)[i].text, (*to)[j].text) == 0 && !str_ends(str_of((*to)[i].text), STR(":0")))
                findings_error(f, n, label, "%s stands here twice", (*to)[i].text);
}

static void fill_cidrs(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    struct value_cidr **to = (struct value_cidr **)(void *)(base + k->offset);
    free(*to);
    *to = read_items(f, label, n, false, sizeof **to, read_cidr, (size_t *)(void *)(base + k->offset_count));
}

static void fill_sources(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    struct conf_sources *to = (struct conf_sources *)(void *)(base + k->offset);
    free_sources(to);
    to->items = read_items(f, label, n, false, sizeof *to->items, read_source, &to->count);
}

/* ---- single values ---- */

static void fill_text(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    char *text, **to = (char **)(void *)(base + k->offset);
    bool ok = k->type == CONF_FILE     ? conf_read_text(f, label, n, &text)
              : k->type == CONF_SECRET ? conf_read_secret(f, label, n, &text)
                                       : conf_read_url_path(f, label, n, true, &text);
    if (!ok) return;
    free(*to);
    *to = text;
}

static void fill_address(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    struct value_listen read, **to = (struct value_listen **)(void *)(base + k->offset);
    if (!conf_read_listen(f, label, n, &read)) return;
    if (!*to) *to = must_alloc(sizeof read);
    **to = read;
}

static void fill_number(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    bool zero_is_most = k->flags & CONF_ZERO_IS_MOST;
    uint64_t size;
    unsigned number;
    int64_t ms;
    bool yes;
    if (k->type == CONF_BOOL && conf_read_bool(f, label, n, &yes)) memcpy(base + k->offset, &yes, sizeof yes);
    if (k->type == CONF_DURATION && conf_read_duration(f, label, n, k->min, k->max, &ms)) memcpy(base + k->offset, &ms, sizeof ms);
    if (k->type == CONF_NUMBER && conf_read_number(f, label, n, k->min, k->max, &size)) {
        number = (unsigned)size;
        memcpy(base + k->offset, &number, sizeof number);
    }
    if (k->type == CONF_SIZE && conf_read_size(f, label, n, k->min, k->max, zero_is_most, &size)) {
        if (zero_is_most && !size) size = k->max;
        memcpy(base + k->offset, &size, sizeof size);
    }
    if (k->type == CONF_CHOICE && conf_read_choice(f, label, n, k->choices, &number))
        memcpy(base + k->offset, &number, sizeof number);
    if (k->type == CONF_EITHER && conf_read_choice(f, label, n, k->choices, &number)) {
        yes = number == 1;
        memcpy(base + k->offset, &yes, sizeof yes);
    }
}

static void fill_value(struct conf_findings *f, const struct conf_key *k, const char *label, const struct node *n, char *base) {
    switch ((enum conf_type)k->type) {
    case CONF_OWN:
    case CONF_BLOCK: break;
    case CONF_BOOL:
    case CONF_NUMBER:
    case CONF_SIZE:
    case CONF_DURATION:
    case CONF_CHOICE:
    case CONF_EITHER: fill_number(f, k, label, n, base); break;
    case CONF_FILE:
    case CONF_URL_PATH:
    case CONF_SECRET: fill_text(f, k, label, n, base); break;
    case CONF_ADDRESS: fill_address(f, k, label, n, base); break;
    case CONF_LISTEN: fill_listen(f, k, label, n, base); break;
    case CONF_SECRETS:
    case CONF_ORIGINS:
    case CONF_PATHS: fill_texts(f, k, label, n, base); break;
    case CONF_CIDRS: fill_cidrs(f, k, label, n, base); break;
    case CONF_SOURCES: fill_sources(f, k, label, n, base); break;
    }
}

/* ---- mappings ---- */

static bool is_preset(const struct conf_key *k, const struct node *n) {
    if (!k->preset) return false;
    if (n->kind == NODE_LIST) return n->count == 0 && strcmp(k->preset, "[]") == 0;
    return n->kind == NODE_SCALAR && strcmp(k->preset, n->text) == 0;
}

/* "health.interval"; a key that is in no block by its name alone. */
static const char *label_of(enum conf_scope scope, const char *name, char *text, size_t cap) {
    const char *block = conf_keys_scope_name(scope);
    snprintf(text, cap, "%s%s%s", block, *block ? "." : "", name);
    return text;
}

static bool written_null(const struct conf_key *k, const struct node *n) {
    return !k->preset && n->len && node_is_null(n); /* `null` in words: none. With nothing written, somebody forgot something */
}

void conf_keys_fill(struct conf_findings *f, enum conf_scope scope, bool defaults, const struct node *map, void *base) {
    char text[128];
    for (size_t i = 0; i < map->count; i++) {
        const struct node *n = map->items[i];
        const struct conf_key *k = find(scope, defaults, map->keys[i]->text);
        const char *label = label_of(scope, map->keys[i]->text, text, sizeof text);
        if (!k) {
            unknown_key(f, scope, defaults, map->keys[i], label);
        } else if (k->type == CONF_BLOCK) {
            if (!node_is_null(n) && conf_read_map(f, label, n)) conf_keys_fill(f, (enum conf_scope)k->block, false, n, base);
        } else if (!written_null(k, n)) {
            fill_value(f, k, label, n, base);
            if (k->flags & CONF_INERT && !is_preset(k, n)) findings_warning(f, map->keys[i], label, "has no effect yet");
        }
    }
}

void conf_keys_preset(enum conf_scope scope, void *base) {
    struct conf_findings none = {0};
    struct node_error err;
    for (size_t i = 0; i < KEYS; i++) {
        const struct conf_key *k = &keys[i];
        if (k->scope != scope) continue;
        if (k->type == CONF_BLOCK) conf_keys_preset((enum conf_scope)k->block, base);
        if (!k->preset) continue;
        struct node *n = must_have(node_parse(k->preset, strlen(k->preset), &err)); /* our own text: nothing else can be wrong */
        fill_value(&none, k, k->name, n, base);
        assert(!none.count);
        node_free(n);
    }
}

/* ---- policies ---- */

static void copy_sources(struct conf_sources *to, const struct conf_sources *from) {
    *to = (struct conf_sources){must_alloc(from->count * sizeof *from->items), from->count};
    for (size_t i = 0; i < from->count; i++) {
        const struct conf_source *s = &from->items[i];
        to->items[i] = (struct conf_source){s->header, str_dup(str_of(s->name)), s->sub ? str_dup(str_of(s->sub)) : NULL};
    }
}

void conf_keys_copy_policy(struct conf_policy *to, const struct conf_policy *from) {
    *to = *from;
    to->health.path = str_dup(str_of(from->health.path));
    to->model_list.path = str_dup(str_of(from->model_list.path));
    copy_sources(&to->identity, &from->identity);
    copy_sources(&to->conversation, &from->conversation);
}

void conf_keys_free_policy(struct conf_policy *p) {
    free(p->health.path);
    free(p->model_list.path);
    free_sources(&p->identity);
    free_sources(&p->conversation);
}
