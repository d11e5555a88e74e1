/* world: conf -> pools of members, with tables to find them by.
 * In: one sound configuration. Out: an immutable snapshot. Owns its tables and the conf; shares endpoints (by URL) and the pools'
 * live parts (by name) with the worlds before and after it. Building touches nothing that is in force; world_activate does. */
#include "world.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static struct list lives = {&lives, &lives};
static struct world *current;
static uint64_t generations;

/* ---- names ---- */

struct name_row {
    struct str name;
    uint32_t pool;
    const char *target; /* alias */
    uint32_t next;      /* 1 + next row of the same bucket */
};

struct name_table {
    struct name_row *rows; /* exact names and aliases */
    size_t nrows;
    uint32_t *buckets; /* 1 + row; a power of two */
    size_t nbuckets;
    struct name_row *globs; /* longest literal prefix first, then file order */
    size_t nglobs;
    int star; /* the "*" pool, -1 = none */
};

static size_t bucket_of(const struct name_table *t, struct str name) {
    return XXH3_64bits(name.ptr, name.len) & (t->nbuckets - 1);
}

static struct name_row *find_name(const struct name_table *t, struct str name) {
    for (uint32_t i = t->buckets[bucket_of(t, name)]; i; i = t->rows[i - 1].next)
        if (str_eq(t->rows[i - 1].name, name)) return &t->rows[i - 1];
    return NULL;
}

/* Of a name that two pools of one chain of fallbacks have, the one that leads to the other gets the requests. */
static bool leads_to(const struct conf *c, size_t from, size_t to) {
    for (size_t n = 0; n <= CONF_CHAIN_MAX && c->pools[from].fallback; n++) {
        from = c->pools[from].fallback_index;
        if (from == to) return true;
    }
    return false;
}

static void add_name(const struct conf *c, struct name_table *t, struct name_row row) {
    size_t b = bucket_of(t, row.name);
    struct name_row *known = find_name(t, row.name);
    if (known) {
        if (!leads_to(c, row.pool, known->pool)) return;
        row.next = known->next;
        *known = row;
        return;
    }
    row.next = t->buckets[b];
    t->rows[t->nrows++] = row;
    t->buckets[b] = (uint32_t)t->nrows;
}

static int by_prefix(const void *a, const void *b) {
    const struct name_row *x = a, *y = b;
    size_t px = value_glob_prefix(x->name), py = value_glob_prefix(y->name);
    if (px != py) return px > py ? -1 : 1;
    return (x->next > y->next) - (x->next < y->next); /* next holds the file order here */
}

static struct name_table *names_build(const struct conf *c) {
    struct name_table *t = must_alloc(sizeof *t);
    size_t exact = 0, globs = 0;
    for (size_t i = 0; i < c->npools; i++) {
        exact += c->pools[i].naliases + c->pools[i].nmodels;
        globs += c->pools[i].nmodels;
    }
    for (t->nbuckets = 16; t->nbuckets < 2 * exact;)
        t->nbuckets *= 2;
    t->rows = must_alloc(exact * sizeof *t->rows);
    t->buckets = must_alloc(t->nbuckets * sizeof *t->buckets);
    t->globs = must_alloc(globs * sizeof *t->globs);
    t->star = -1;
    for (uint32_t i = 0; i < c->npools; i++) {
        const struct conf_pool *p = &c->pools[i];
        for (size_t k = 0; k < p->nmodels; k++) {
            struct name_row row = {str_of(p->models[k]), i, NULL, 0};
            if (str_eq(row.name, STR("*"))) {
                if (t->star < 0) t->star = (int)i;
            } else if (value_is_glob(row.name)) {
                row.next = (uint32_t)t->nglobs;
                t->globs[t->nglobs++] = row;
            } else {
                add_name(c, t, row);
            }
        }
        for (size_t k = 0; k < p->naliases; k++)
            add_name(c, t, (struct name_row){str_of(p->aliases[k].name), i, p->aliases[k].target, 0});
    }
    if (t->nglobs) qsort(t->globs, t->nglobs, sizeof *t->globs, by_prefix);
    return t;
}

static void names_free(struct name_table *t) {
    free(t->rows);
    free(t->buckets);
    free(t->globs);
    free(t);
}

struct match world_match(const struct world *w, struct str model) {
    const struct name_table *t = w->names;
    if (model.len) {
        const struct name_row *r = find_name(t, model);
        if (r) return (struct match){&w->pools[r->pool], r->name.ptr, r->target, r->target ? MATCH_ALIAS : MATCH_EXACT};
        for (size_t i = 0; i < t->nglobs; i++)
            if (value_glob(t->globs[i].name, model))
                return (struct match){&w->pools[t->globs[i].pool], t->globs[i].name.ptr, NULL, MATCH_GLOB};
    }
    if (t->star >= 0) return (struct match){&w->pools[t->star], "*", NULL, MATCH_STAR};
    return (struct match){.how = MATCH_NONE};
}

const char *pool_alias(const struct pool *p, struct str model) {
    for (size_t i = 0; i < p->conf->naliases; i++)
        if (str_eq(str_of(p->conf->aliases[i].name), model)) return p->conf->aliases[i].target;
    return NULL;
}

const char *world_nearest(const struct world *w, struct str model) {
    const char *best = NULL;
    unsigned least = model.len < 6 ? 3 : (unsigned)model.len / 2 + 1;
    for (size_t i = 0; i < w->names->nrows && i < 1000; i++) {
        unsigned d = value_distance(model, w->names->rows[i].name, least);
        if (d < least) least = d, best = w->names->rows[i].name.ptr;
    }
    for (size_t i = 0; !best && model.len > 3 && i < w->names->nrows && i < 1000; i++) /* a name cut short */
        if (str_starts(w->names->rows[i].name, model)) best = w->names->rows[i].name.ptr;
    return best;
}

/* ---- live parts ---- */

struct list *world_lives(void) {
    return &lives;
}

static struct pool_live *live_get(const char *name) {
    list_each(it, &lives) {
        struct pool_live *l = list_entry(it, struct pool_live, link);
        if (strcmp(l->name, name) == 0) return l->refs++, l;
    }
    struct pool_live *l = must_alloc(sizeof *l);
    l->refs = 1;
    l->name = str_dup(str_of(name));
    list_init(&l->queue);
    list_push_back(&lives, &l->link);
    return l;
}

static void live_unref(struct pool_live *l) {
    if (--l->refs) return;
    assert(list_empty(&l->queue));
    list_remove(&l->link);
    free(l->name);
    free(l);
}

/* ---- sources ---- */

static uint8_t want_index(struct world *w, const struct conf_source *s) {
    struct json_want want = {str_of(s->name), str_of(s->sub)};
    for (size_t i = 0; i < w->nwants; i++)
        if (str_eq(w->wants[i].key, want.key) && str_eq(w->wants[i].sub, want.sub)) return (uint8_t)i;
    assert(w->nwants < JSON_WANTS_MAX);
    w->wants[w->nwants] = want;
    return (uint8_t)w->nwants++;
}

static uint8_t header_index(struct world *w, const struct conf_source *s) {
    struct str name = str_of(s->name);
    for (size_t i = 0; i < w->nheaders; i++)
        if (str_eq(w->headers[i], name)) return (uint8_t)i;
    assert(w->nheaders < WORLD_HEADERS_MAX);
    w->headers[w->nheaders] = name;
    return (uint8_t)w->nheaders++;
}

static void sources_build(struct world *w, struct source_list *to, const struct conf_sources *from) {
    to->items = must_alloc(from->count * sizeof *to->items);
    to->count = from->count;
    for (size_t i = 0; i < from->count; i++) {
        const struct conf_source *s = &from->items[i];
        to->items[i] = (struct source_ref){s->header, s->header ? header_index(w, s) : want_index(w, s)};
    }
}

/* ---- the whole ---- */

static void add_member(struct pool *p, const struct conf_endpoint *c, const struct value_url *url) {
    struct endpoint *e = endpoint_get(url);
    for (size_t i = 0; i < p->nmembers; i++) {
        if (p->members[i].endpoint != e) continue;
        endpoint_unref(e); /* an address that is in the file too, or behind two names */
        return;
    }
    p->members[p->nmembers++] = (struct member){e, c->weight, c, stats_route_get(p->conf->name, url->text), e->hash};
}

/* The endpoint at one address of an expanded name: as if the address stood in the file. */
static void add_address(struct pool *p, const struct conf_endpoint *c, const struct sock_addr *addr) {
    struct value_url url;
    char text[SOCK_TEXT + sizeof url.base + 16], ip[SOCK_TEXT];
    bool v6 = addr->u.sa.sa_family == AF_INET6;
    snprintf(text, sizeof text, "http://%s%s%s:%u%s", v6 ? "[" : "", sock_ip(addr, ip), v6 ? "]" : "", c->url.port, c->url.base);
    if (!value_url(str_of(text), &url)) add_member(p, c, &url);
}

static void members_build(struct pool *p) {
    const struct conf_pool *c = p->conf;
    size_t room = 0;
    p->expansions = must_alloc((c->nendpoints + 1) * sizeof(struct expansion *));
    for (size_t i = 0; i < c->nendpoints; i++) {
        if (c->endpoints[i].expand) p->expansions[p->nexpansions++] = expand_get(c->endpoints[i].url.host);
        room += c->endpoints[i].expand ? RESOLVE_ADDRS_MAX : 1;
    }
    p->members = must_alloc(room * sizeof *p->members);
    for (size_t i = 0, x = 0; i < c->nendpoints; i++) {
        if (!c->endpoints[i].expand) {
            add_member(p, &c->endpoints[i], &c->endpoints[i].url);
            continue;
        }
        const struct resolve_name *n = expand_name(p->expansions[x++]);
        for (unsigned k = 0; k < n->naddrs; k++)
            add_address(p, &c->endpoints[i], &n->addrs[k]);
    }
}

static void pool_build(struct world *w, struct pool *p, const struct conf_pool *c) {
    p->conf = c;
    p->live = live_get(c->name);
    p->fallback = c->fallback ? &w->pools[c->fallback_index] : NULL;
    for (size_t i = 0; i < c->nendpoints; i++)
        w->drop_credentials |= c->endpoints[i].api_key != NULL;
    members_build(p);
    if (c->policy.affinity == AFFINITY_USER || c->policy.affinity == AFFINITY_CONVERSATION)
        sources_build(w, &p->identity, &c->policy.identity);
    if (c->policy.affinity == AFFINITY_CONVERSATION) {
        sources_build(w, &p->conversation, &c->policy.conversation);
        w->conversation = true;
    }
}

static struct world *build(struct conf *conf, uint64_t generation) {
    struct world *w = must_alloc(sizeof *w);
    w->refs = 1;
    w->generation = generation;
    w->conf = conf;
    w->npools = conf->npools;
    w->drop_credentials = conf->napi_keys != 0;
    w->pools = must_alloc(w->npools * sizeof *w->pools);
    for (size_t i = 0; i < w->npools; i++)
        pool_build(w, &w->pools[i], &conf->pools[i]);
    w->names = names_build(conf);
    return w;
}

struct world *world_build(struct conf *conf) {
    return build(conf, ++generations);
}

struct world *world_rebuild(const struct world *w) {
    return build(conf_ref(w->conf), w->generation);
}

struct world *world_ref(struct world *w) {
    w->refs++;
    return w;
}

void world_unref(struct world *w) {
    assert(w->refs);
    if (--w->refs) return;
    for (size_t i = 0; i < w->npools; i++) {
        struct pool *p = &w->pools[i];
        for (size_t k = 0; k < p->nmembers; k++) {
            stats_route_put(p->members[k].stats);
            endpoint_unref(p->members[k].endpoint);
        }
        for (size_t k = 0; k < p->nexpansions; k++)
            expand_put(p->expansions[k]);
        live_unref(p->live);
        free(p->expansions);
        free(p->members);
        free(p->identity.items);
        free(p->conversation.items);
    }
    names_free(w->names);
    free(w->pools);
    conf_free(w->conf);
    free(w);
}

/* An endpoint that stands in two pools is configured by the first in file order; later ones only narrow it. */
static bool seen_before(const struct world *w, size_t pool, size_t member) {
    const struct endpoint *e = w->pools[pool].members[member].endpoint;
    for (size_t i = 0; i < pool; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++)
            if (w->pools[i].members[k].endpoint == e) return true;
    return false;
}

void world_activate(struct world *w) {
    struct world *old = current;
    for (size_t i = 0; i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++)
            endpoint_configure(w->pools[i].members[k].endpoint, w->pools[i].members[k].conf, &w->conf->pools[i].policy,
                               !seen_before(w, i, k));
    current = w;
    if (old) world_unref(old);
}

struct world *world_current(void) {
    return current;
}

void world_deactivate(void) {
    struct world *old = current;
    current = NULL;
    if (old) world_unref(old);
}
