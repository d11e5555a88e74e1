/* conf: a configuration's text -> struct conf, or all that is wrong with it.
 * In: a file or its text. Out: an immutable configuration that is sound in itself, and findings. Owns the tree while it reads.
 * Reads on after an error, so that one run tells all of them; what was read by then is thrown away. What a single key may hold
 * is conf_keys' and conf_read's business; here are pools, and the rules between keys. */
#include "conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)16 << 20)

/* A name that some pool accepts, where it stands. */
struct claim {
    struct str name;
    const char *key; /* models or aliases */
    const struct node *at;
    uint32_t pool, order;
    bool glob;
};

/* What is known of a pool besides its struct: where its parts stand. */
struct draft {
    const struct node *map, *name, *fallback, *identity, *conversation;
    bool is_fallback;
};

struct builder {
    struct conf_findings *f;
    struct conf *conf;
    const struct node *root, *defaults;
    struct conf_policy policy;     /* of `defaults` */
    struct conf_endpoint endpoint; /* one that says nothing but a URL */
    struct draft *drafts;          /* one a pool */
    struct claim *claims;
    size_t nclaims, claims_room;
};

/* ---- one pool ---- */

static void add_claim(struct builder *b, const char *name, const char *key, const struct node *at) {
    if (b->nclaims == b->claims_room) {
        b->claims_room = 2 * b->claims_room + 64;
        b->claims = must_realloc(b->claims, b->claims_room * sizeof *b->claims);
    }
    struct claim *c = &b->claims[b->nclaims];
    *c = (struct claim){str_of(name), key, at, (uint32_t)b->conf->npools, (uint32_t)b->nclaims, value_is_glob(str_of(name))};
    b->nclaims++;
}

/* The list under that key, which every pool must have and which must not be empty; NULL and a finding otherwise. */
static const struct node *need_list(struct builder *b, const struct node *map, const char *key, const char *what) {
    const struct node *n = conf_read_member(map, key);
    if (!n) {
        findings_error(b->f, map, key, "this pool has none: give it at least one %s", what);
    } else if (conf_read_list(b->f, key, n)) {
        if (n->count) return n;
        findings_error(b->f, n, key, "must name at least one %s", what);
    }
    return NULL;
}

static void read_models(struct builder *b, struct conf_pool *p, const struct node *map) {
    const struct node *n = need_list(b, map, "models", "model (\"*\" takes every model that no other pool names)");
    if (!n) return;
    p->models = must_alloc(n->count * sizeof *p->models);
    for (size_t i = 0; i < n->count; i++) {
        char *name;
        if (!conf_read_model(b->f, "models", n->items[i], &name)) continue;
        add_claim(b, name, "models", n->items[i]);
        p->models[p->nmodels++] = name;
    }
}

static void read_aliases(struct builder *b, struct conf_pool *p, const struct node *map) {
    static const char key[] = "aliases";
    const struct node *n = conf_read_member(map, key);
    if (!n || node_is_null(n) || !conf_read_map(b->f, key, n)) return;
    p->aliases = must_alloc(n->count * sizeof *p->aliases);
    for (size_t i = 0; i < n->count; i++) {
        struct str name = {n->keys[i]->text, n->keys[i]->len};
        const char *wrong = n->keys[i]->unreadable ? NULL : conf_read_model_wrong(name);
        char *target = NULL;
        if (!wrong && value_is_glob(name)) wrong = "an accepted name is exact: * and ? belong in models";
        if (wrong) findings_error(b->f, n->keys[i], key, "%s", wrong);
        if (conf_read_model(b->f, key, n->items[i], &target) && value_is_glob(str_of(target)))
            findings_error(b->f, n->items[i], key, "the name sent to the endpoint is exact: no * or ? in it");
        if (!target || wrong || n->keys[i]->unreadable) {
            free(target);
            continue;
        }
        struct conf_alias *a = &p->aliases[p->naliases++];
        *a = (struct conf_alias){str_dup(name), target};
        add_claim(b, a->name, key, n->keys[i]);
    }
}

/* False: it has no URL that could be used. */
static bool read_endpoint(struct builder *b, const struct conf_policy *policy, const struct node *n, struct conf_endpoint *e) {
    *e = b->endpoint;
    e->line = n->line;
    e->column = n->column;
    e->max_inflight = policy->max_inflight;
    if (n->kind != NODE_MAP) return conf_read_url(b->f, "endpoints", n, &e->url);
    conf_keys_fill(b->f, CONF_ENDPOINT, false, n, e);
    const struct node *url = conf_read_member(n, "url");
    if (!url) findings_error(b->f, n, "url", "this endpoint has none: http://host:port or unix:/path");
    if (!url || !conf_read_url(b->f, "url", url, &e->url)) return false;
    if (e->expand && e->url.is_unix) findings_error(b->f, url, "expand", "a unix socket has no name with addresses");
    return true;
}

static void read_endpoints(struct builder *b, struct conf_pool *p, const struct node *map) {
    const struct node *n = need_list(b, map, "endpoints", "URL");
    if (!n) return;
    p->endpoints = must_alloc(n->count * sizeof *p->endpoints);
    for (size_t i = 0; i < n->count; i++) {
        struct conf_endpoint *e = &p->endpoints[p->nendpoints];
        if (read_endpoint(b, &p->policy, n->items[i], e))
            p->nendpoints++;
        else
            free(e->api_key);
    }
}

/* The place of a per-pool key: the pool's own, or that in defaults; NULL if it is in neither. */
static const struct node *place_of(const struct builder *b, const struct node *map, const char *key) {
    const struct node *n = conf_read_member(map, key);
    return n || !b->defaults ? n : conf_read_member(b->defaults, key);
}

static void read_pool(struct builder *b, const struct node *map) {
    struct conf_pool *p = &b->conf->pools[b->conf->npools];
    struct draft *d = &b->drafts[b->conf->npools];
    if (!conf_read_map(b->f, "pools", map)) return;
    *d = (struct draft){.map = map, .name = conf_read_member(map, "name"), .fallback = conf_read_member(map, "fallback")};
    d->identity = place_of(b, map, "identity");
    d->conversation = place_of(b, map, "conversation");
    if (!d->name)
        findings_error(b->f, map, "name", "this pool has none");
    else
        conf_read_pool_name(b->f, "name", d->name, &p->name);
    conf_keys_copy_policy(&p->policy, &b->policy);
    conf_keys_fill(b->f, CONF_POOL, false, map, &p->policy);
    read_models(b, p, map);
    read_aliases(b, p, map);
    read_endpoints(b, p, map);
    if (d->fallback && d->fallback->len && node_is_null(d->fallback)) d->fallback = NULL; /* written out: none */
    if (d->fallback) conf_read_text(b->f, "fallback", d->fallback, &p->fallback);
    b->conf->npools++;
}

/* `defaults` over the defaults of the table. */
static void read_defaults(struct builder *b) {
    const struct node *n = conf_read_member(b->root, "defaults");
    conf_keys_preset(CONF_POOL, &b->policy);
    conf_keys_preset(CONF_ENDPOINT, &b->endpoint);
    if (!n || node_is_null(n) || !conf_read_map(b->f, "defaults", n)) return;
    b->defaults = n;
    conf_keys_fill(b->f, CONF_POOL, true, n, &b->policy);
}

static void read_pools(struct builder *b) {
    const struct node *n = conf_read_member(b->root, "pools");
    if (!n) {
        findings_error(b->f, b->root, "pools", "there are none: a configuration names at least one pool");
        return;
    }
    if (!conf_read_list(b->f, "pools", n)) return;
    if (!n->count) findings_error(b->f, n, "pools", "must name at least one pool");
    b->conf->pools = must_alloc(n->count * sizeof *b->conf->pools);
    b->drafts = must_alloc(n->count * sizeof *b->drafts);
    for (size_t i = 0; i < n->count; i++)
        read_pool(b, n->items[i]);
}

/* ---- names of pools, fallbacks ---- */

struct named {
    const char *name;
    size_t pool;
};

static int by_name(const void *a, const void *b) {
    const struct named *x = a, *y = b;
    int d = strcmp(x->name, y->name);
    return d ? d : (x->pool > y->pool) - (x->pool < y->pool);
}

/* The first pool of that name, or NULL. */
static const struct named *find_named(const struct named *rows, size_t n, const char *name) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(rows[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && strcmp(rows[lo].name, name) == 0 ? &rows[lo] : NULL;
}

static void no_such_pool(struct builder *b, const struct named *rows, size_t n, size_t pool) {
    const char *wanted = b->conf->pools[pool].fallback, *best = NULL;
    unsigned least = (unsigned)strlen(wanted) / 2 + 1;
    for (size_t i = 0; i < n && !findings_full(b->f); i++) {
        unsigned d = value_distance(str_of(wanted), str_of(rows[i].name), least);
        if (d < least && rows[i].pool != pool) least = d, best = rows[i].name;
    }
    if (best)
        findings_error(b->f, b->drafts[pool].fallback, "fallback", "there is no pool '%s', did you mean '%s'?", wanted, best);
    else
        findings_error(b->f, b->drafts[pool].fallback, "fallback", "there is no pool '%s'", wanted);
}

static void link_fallbacks(struct builder *b) {
    struct conf *c = b->conf;
    struct named *rows = must_alloc(c->npools * sizeof *rows);
    size_t n = 0;
    for (size_t i = 0; i < c->npools; i++)
        if (c->pools[i].name) rows[n++] = (struct named){c->pools[i].name, i};
    if (n) qsort(rows, n, sizeof *rows, by_name);
    for (size_t i = 1, first = 0; i < n; i++) {
        if (strcmp(rows[i].name, rows[first].name) != 0)
            first = i;
        else
            findings_error(b->f, b->drafts[rows[i].pool].name, "name", "there is another pool '%s' (line %d)", rows[i].name,
                           b->drafts[rows[first].pool].name->line);
    }
    for (size_t i = 0; i < c->npools; i++) {
        if (!c->pools[i].fallback) continue;
        const struct named *to = find_named(rows, n, c->pools[i].fallback);
        if (!to) {
            no_such_pool(b, rows, n, i);
            free(c->pools[i].fallback);
            c->pools[i].fallback = NULL;
            continue;
        }
        c->pools[i].fallback_index = to->pool;
        b->drafts[to->pool].is_fallback = true;
    }
    free(rows);
}

static void report_circle(struct builder *b, size_t start) {
    char way[256];
    size_t len = 0, i = start;
    do {
        const struct conf_pool *p = &b->conf->pools[i]; /* named: another pool's fallback found it */
        len += (size_t)snprintf(way + len, sizeof way - len, "%.*s > ", CONF_NAME_MAX, p->name);
        i = p->fallback_index;
    } while (i != start && len < sizeof way - CONF_NAME_MAX - 4);
    findings_error(b->f, b->drafts[start].fallback, "fallback", "leads round in a circle: %s%s", way,
                   i == start ? b->conf->pools[start].name : "...");
}

/* Every pool has at most one fallback, so a walk that meets itself has found the only circle there is on its way. */
static void check_circles(struct builder *b) {
    const struct conf *c = b->conf;
    size_t *walk = must_alloc(c->npools * sizeof *walk); /* 1 + the walk that came by */
    bool circles = false;
    for (size_t i = 0; i < c->npools; i++) {
        size_t at = i;
        while (!walk[at] && c->pools[at].fallback) {
            walk[at] = i + 1;
            at = c->pools[at].fallback_index;
        }
        if (walk[at] != i + 1) continue;
        circles = true;
        if (c->pools[at].fallback_index == at)
            findings_error(b->f, b->drafts[at].fallback, "fallback", "a pool cannot be its own fallback");
        else
            report_circle(b, at);
    }
    for (size_t i = 0; i < c->npools && !circles; i++) {
        size_t n = 1;
        for (size_t at = i; c->pools[at].fallback && n <= CONF_CHAIN_MAX; n++)
            at = c->pools[at].fallback_index;
        if (n > CONF_CHAIN_MAX && !b->drafts[i].is_fallback)
            findings_error(b->f, b->drafts[i].fallback, "fallback", "more than %d pools in a row", CONF_CHAIN_MAX);
    }
    free(walk);
}

/* ---- claims ---- */

static int by_claim(const void *a, const void *b) {
    const struct claim *x = a, *y = b;
    int d = str_cmp(x->name, y->name);
    return d ? d : (x->order > y->order) - (x->order < y->order);
}

/* True if requests of pool `from` may come to pool `to` by way of fallbacks. */
static bool leads_to(const struct conf *c, size_t from, size_t to) {
    for (size_t n = 0; n <= CONF_CHAIN_MAX && c->pools[from].fallback; n++) {
        from = c->pools[from].fallback_index;
        if (from == to) return true;
    }
    return false;
}

/* The same name a second time: an error where it is exact, but along a chain of fallbacks, where the later pool says how it calls
 * that model; requests for it begin at the first pool of the chain. A glob may stand in several pools (the first in file order has it),
 * which makes sense where the later one is somebody's fallback and looks like a slip everywhere else. */
static void claimed_again(struct builder *b, const struct claim *first, const struct claim *again) {
    const char *owner = b->conf->pools[first->pool].name;
    const char *name = first->name.ptr;
    if (!owner) owner = "?";
    bool chain =
        first->pool != again->pool && (leads_to(b->conf, first->pool, again->pool) || leads_to(b->conf, again->pool, first->pool));
    if (!first->glob && chain) return;
    if (!first->glob)
        findings_error(b->f, again->at, again->key, "'%s' is claimed twice: pool '%s' has it already (line %d)", name, owner,
                       first->at->line);
    else if (first->pool == again->pool)
        findings_warning(b->f, again->at, "models", "'%s' stands in this pool twice", name);
    else if (!b->drafts[again->pool].is_fallback)
        findings_warning(b->f, again->at, "models", "'%s' is also in pool '%s', which comes first: here it is never used", name,
                         owner);
}

static void check_claims(struct builder *b) {
    if (b->nclaims) qsort(b->claims, b->nclaims, sizeof *b->claims, by_claim);
    for (size_t i = 1, first = 0; i < b->nclaims; i++) {
        if (str_eq(b->claims[i].name, b->claims[first].name))
            claimed_again(b, &b->claims[first], &b->claims[i]);
        else
            first = i;
    }
}

/* ---- endpoints in several places ---- */

struct spot {
    struct conf_endpoint *e;
    const struct conf_pool *pool;
};

static int by_url(const void *a, const void *b) {
    const struct spot *x = a, *y = b;
    int d = strcmp(x->e->url.text, y->e->url.text);
    if (d) return d;
    if (x->pool != y->pool) return x->pool > y->pool ? 1 : -1;
    return (x->e > y->e) - (x->e < y->e);
}

static bool same_key(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_health(const struct conf_policy *a, const struct conf_policy *b) {
    return strcmp(a->health.path, b->health.path) == 0 && a->health.interval == b->health.interval &&
           a->health.timeout == b->health.timeout && a->health.rise == b->health.rise && a->health.fall == b->health.fall;
}

static void endpoint_again(struct builder *b, const struct spot *first, const struct spot *before, const struct spot *again) {
    struct node at = {.line = again->e->line, .column = again->e->column};
    const char *url = again->e->url.text;
    if (!same_key(first->e->api_key, again->e->api_key))
        findings_error(b->f, &at, "api_key", "%s has another one on line %d: an endpoint has one key, whatever pools it stands in",
                       url, first->e->line);
    if (first->pool != again->pool && before->pool != again->pool && !same_health(&first->pool->policy, &again->pool->policy))
        findings_error(b->f, &at, "health",
                       "%s is in pool '%s' too (line %d), with other health settings: an endpoint is probed in one way", url,
                       first->pool->name ? first->pool->name : "?", first->e->line);
    if (before->pool != again->pool) return;
    findings_warning(b->f, &at, "endpoints", "%s stands in this pool twice: it counts once", url);
    again->e->weight = 0; /* marked: no sound one has that */
}

/* The marked ones go; the order of the others stays. */
static void drop_marked(struct conf_pool *p) {
    size_t kept = 0;
    for (size_t i = 0; i < p->nendpoints; i++) {
        if (!p->endpoints[i].weight)
            free(p->endpoints[i].api_key);
        else if (kept++ != i)
            p->endpoints[kept - 1] = p->endpoints[i];
    }
    p->nendpoints = kept;
}

static void check_endpoints(struct builder *b) {
    size_t n = 0, first = 0;
    for (size_t i = 0; i < b->conf->npools; i++)
        n += b->conf->pools[i].nendpoints;
    struct spot *spots = must_alloc(n * sizeof *spots);
    n = 0;
    for (size_t i = 0; i < b->conf->npools; i++) {
        struct conf_pool *p = &b->conf->pools[i];
        for (size_t k = 0; k < p->nendpoints; k++)
            spots[n++] = (struct spot){&p->endpoints[k], p};
    }
    if (n) qsort(spots, n, sizeof *spots, by_url);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(spots[i].e->url.text, spots[first].e->url.text) == 0)
            endpoint_again(b, &spots[first], &spots[i - 1], &spots[i]);
        else
            first = i;
    }
    free(spots);
    for (size_t i = 0; i < b->conf->npools; i++)
        drop_marked(&b->conf->pools[i]);
}

/* ---- sources ---- */

/* The world looks for all pools' sources in every request, and has room for so many. */
struct seen {
    const struct conf_source *body[CONF_SOURCES_MAX], *header[CONF_SOURCES_MAX];
    size_t nbody, nheader;
    bool told;
};

static bool same_source(const struct conf_source *a, const struct conf_source *b) {
    return strcmp(a->name, b->name) == 0 && (a->sub && b->sub ? strcmp(a->sub, b->sub) == 0 : a->sub == b->sub);
}

static void see(struct builder *b, struct seen *s, const struct conf_sources *list, const struct node *at, const char *key) {
    for (size_t i = 0; i < list->count && !s->told; i++) {
        const struct conf_source *x = &list->items[i], **known = x->header ? s->header : s->body;
        size_t *n = x->header ? &s->nheader : &s->nbody, k = 0;
        while (k < *n && !same_source(known[k], x))
            k++;
        if (k < *n) continue;
        if (*n < CONF_SOURCES_MAX) {
            known[(*n)++] = x;
            continue;
        }
        findings_error(b->f, at, key, "too many: all pools together may use %d different %s sources", CONF_SOURCES_MAX,
                       x->header ? "header" : "body");
        s->told = true;
    }
}

static void check_sources(struct builder *b) {
    struct seen seen = {0};
    for (size_t i = 0; i < b->conf->npools; i++) {
        const struct conf_policy *p = &b->conf->pools[i].policy;
        const struct draft *d = &b->drafts[i];
        bool conversation = p->affinity == AFFINITY_CONVERSATION;
        if (conversation) see(b, &seen, &p->conversation, d->conversation ? d->conversation : d->map, "conversation");
        if (conversation || p->affinity == AFFINITY_USER)
            see(b, &seen, &p->identity, d->identity ? d->identity : d->map, "identity");
    }
}

/* ---- the top level ---- */

static void read_top(struct builder *b) {
    struct conf *c = b->conf;
    const struct node *n = conf_read_member(b->root, "api_keys_file");
    conf_keys_preset(CONF_TOP, c);
    conf_keys_fill(b->f, CONF_TOP, false, b->root, c);
    if (n && !(n->len && node_is_null(n)))
        conf_read_secrets_file(b->f, "api_keys_file", n, &c->api_keys_file, &c->api_keys, &c->napi_keys);
}

static void check_top(struct builder *b) {
    const struct conf *c = b->conf;
    const struct node *n;
    for (size_t i = 0; c->admin && i < c->nlisten; i++)
        if (strcmp(c->listen[i].text, c->admin->text) == 0 && !str_ends(str_of(c->admin->text), STR(":0")))
            findings_error(b->f, conf_read_member(b->root, "admin_listen"), "admin_listen",
                           "%s is in listen too: it needs an address of its own", c->admin->text);
    if (c->admin && !c->admin->loopback && !c->nadmin_keys)
        findings_warning(b->f, conf_read_member(b->root, "admin_listen"), "admin_listen",
                         "others than this machine reach it and there are no admin_keys: anybody may drain endpoints");
    if (!c->admin && c->nadmin_keys)
        findings_warning(b->f, conf_read_member(b->root, "admin_keys"), "admin_keys", "they have no effect without admin_listen");
    if (c->body_memory && c->body_memory < c->max_body && c->max_body < CONF_SIZE_MAX) {
        n = conf_read_member(b->root, "body_memory");
        findings_warning(b->f, n ? n : conf_read_member(b->root, "max_body"), "body_memory",
                         "is less than max_body: a body as large as that is never taken");
    }
}

static void build(struct builder *b, struct node *root) {
    conf_read_tidy(b->f, root);
    if (node_is_null(root)) root->kind = NODE_MAP; /* "---" and nothing after it is as empty as nothing at all */
    if (!conf_read_map(b->f, "file", root)) return;
    b->root = root;
    read_top(b);
    read_defaults(b);
    read_pools(b);
    link_fallbacks(b);
    check_circles(b);
    check_claims(b);
    check_endpoints(b);
    check_sources(b);
    check_top(b);
    conf_keys_free_policy(&b->policy);
    free(b->drafts);
    free(b->claims);
}

struct conf *conf_parse(const char *path, const char *text, size_t len, struct conf_findings *f) {
    struct builder b = {.f = f};
    struct node_error err;
    size_t errors = f->errors;
    struct node *root = len <= FILE_MAX ? node_parse(text, len, &err) : NULL;
    if (root) {
        b.conf = must_alloc(sizeof *b.conf);
        b.conf->refs = 1;
        b.conf->path = str_dup(str_of(path));
        build(&b, root);
        node_free(root);
    } else if (len > FILE_MAX) {
        findings_error(f, NULL, "file", "is larger than 16 MB");
    } else {
        struct node at = {.line = err.line, .column = err.column};
        findings_error(f, &at, "yaml", "%s", err.text);
    }
    findings_sort(f);
    if (f->errors == errors) return b.conf;
    conf_free(b.conf);
    return NULL;
}

struct conf *conf_load(const char *path, struct conf_findings *f) {
    FILE *file = fopen(path, "re");
    size_t len = 0, n = 1;
    struct conf *c = NULL;
    if (!file) {
        findings_error(f, NULL, "file", "cannot be read: %s", strerror(errno));
        return NULL;
    }
    /* No more memory than the file needs: a reload must not leave a large hole behind. */
    size_t room = 16384;
    char *text = malloc(room);
    while (text && len <= FILE_MAX && (n = fread(text + len, 1, room - len, file)) > 0) {
        len += n;
        if (len < room) continue;
        char *more = realloc(text, room *= 2);
        if (!more) free(text);
        text = more;
    }
    if (!text)
        findings_error(f, NULL, "file", "cannot be read: out of memory");
    else if (ferror(file))
        findings_error(f, NULL, "file", "cannot be read: %s", strerror(errno));
    else
        c = conf_parse(path, text, len, f);
    free(text);
    (void)fclose(file);
    return c;
}

/* ---- the end ---- */

static void free_pool(struct conf_pool *p) {
    for (size_t i = 0; i < p->naliases; i++) {
        free(p->aliases[i].name);
        free(p->aliases[i].target);
    }
    for (size_t i = 0; i < p->nendpoints; i++)
        free(p->endpoints[i].api_key);
    free(p->aliases);
    free(p->endpoints);
    conf_keys_free_texts(p->models, p->nmodels);
    conf_keys_free_policy(&p->policy);
    free(p->name);
    free(p->fallback);
}

struct conf *conf_ref(struct conf *c) {
    c->refs++;
    return c;
}

void conf_free(struct conf *c) {
    if (!c || --c->refs) return;
    for (size_t i = 0; i < c->npools; i++)
        free_pool(&c->pools[i]);
    free(c->pools);
    free(c->listen);
    free(c->admin);
    free(c->trusted_proxies);
    conf_keys_free_texts(c->admin_keys, c->nadmin_keys);
    conf_keys_free_texts(c->api_keys, c->napi_keys);
    conf_keys_free_texts(c->cors_origins, c->ncors_origins);
    conf_keys_free_texts(c->paths, c->npaths);
    free(c->api_keys_file);
    free(c->log_file);
    free(c->path);
    free(c);
}

void conf_findings_free(struct conf_findings *f) {
    findings_free(f);
}
