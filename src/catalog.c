/* catalog: one list of models out of many.
 * In: the current world, and the lists its endpoints told. Out: JSON from memory. Owns the rendered texts.
 * Exact names and aliases of the file are always listed, globs never; what only endpoints told is listed while one of them is up
 * or loading, and only if routing would really send it there. Asks no endpoint (health does). */
#include "catalog.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "clock.h"

struct entry {
    struct str id;
    uint64_t hash;
    uint32_t off, len; /* its JSON, in `list` */
    uint32_t next;     /* 1 + next of the same bucket */
};

static struct buf list, tags;
static struct entry *entries;
static size_t nentries, room;
static uint32_t buckets[1024];
static bool fresh;
static int64_t created; /* seconds, wall: the list must not change from one question to the next */

static struct entry *find(struct str id, uint64_t hash) {
    for (uint32_t i = buckets[hash % 1024]; i; i = entries[i - 1].next)
        if (entries[i - 1].hash == hash && str_eq(entries[i - 1].id, id)) return &entries[i - 1];
    return NULL;
}

static void add(struct str id, const char *json, const char *owner) {
    uint64_t hash = XXH3_64bits(id.ptr, id.len);
    if (find(id, hash)) return;
    if (nentries == room) {
        room = room ? 2 * room : 64;
        entries = must_realloc(entries, room * sizeof *entries);
    }
    assert(entries);
    if (nentries) buf_putc(&list, ',');
    struct entry *e = &entries[nentries++];
    *e = (struct entry){{str_dup(id), id.len}, hash, (uint32_t)buf_len(&list), 0, buckets[hash % 1024]};
    buckets[hash % 1024] = (uint32_t)nentries;
    if (json) {
        buf_puts(&list, str_of(json));
    } else {
        BUF_LIT(&list, "{\"id\":\"");
        buf_put_json(&list, id, SIZE_MAX);
        buf_printf(&list, "\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"", (long long)created);
        buf_put_json(&list, str_of(owner), 128);
        BUF_LIT(&list, "\"}");
    }
    e->len = (uint32_t)buf_len(&list) - e->off;
}

static bool alive(const struct endpoint *e) {
    return e->state == ENDPOINT_UP || e->state == ENDPOINT_LOADING;
}

/* What some living endpoint of the pool says of that id. */
static const char *told(const struct pool *p, struct str id) {
    for (size_t i = 0; i < p->nmembers; i++) {
        const struct endpoint *e = p->members[i].endpoint;
        for (size_t k = 0; k < e->models.count && alive(e); k++)
            if (str_eq(str_of(e->models.entries[k].id), id)) return e->models.entries[k].json;
    }
    return NULL;
}

static void add_own(const struct pool *p) {
    for (size_t i = 0; i < p->conf->nmodels; i++) {
        struct str name = str_of(p->conf->models[i]);
        if (!value_is_glob(name)) add(name, told(p, name), p->conf->name);
    }
    for (size_t i = 0; i < p->conf->naliases; i++)
        add(str_of(p->conf->aliases[i].name), NULL, p->conf->name);
}

static void add_told(const struct world *w, const struct pool *p) {
    for (size_t i = 0; i < p->nmembers; i++) {
        const struct endpoint *e = p->members[i].endpoint;
        for (size_t k = 0; k < e->models.count && alive(e); k++) {
            struct str id = str_of(e->models.entries[k].id);
            if (!value_is_glob(id) && world_match(w, id).pool == p) add(id, e->models.entries[k].json, p->conf->name);
        }
    }
}

static void forget(void) {
    for (size_t i = 0; i < nentries; i++)
        free((void *)(uintptr_t)entries[i].id.ptr);
    nentries = 0;
    memset(buckets, 0, sizeof buckets);
    buf_free(&list);
    buf_free(&tags);
}

static void render_tags(void) {
    char when[25];
    clock_rfc3339(created * 1000, when);
    BUF_LIT(&tags, "{\"models\":[");
    for (size_t i = 0; i < nentries; i++) {
        if (i) buf_putc(&tags, ',');
        BUF_LIT(&tags, "{\"name\":\"");
        buf_put_json(&tags, entries[i].id, SIZE_MAX);
        BUF_LIT(&tags, "\",\"model\":\"");
        buf_put_json(&tags, entries[i].id, SIZE_MAX);
        buf_printf(&tags, "\",\"modified_at\":\"%s\",\"size\":0,\"digest\":\"\",\"details\":{}}", when);
    }
    BUF_LIT(&tags, "]}");
}

static void render(void) {
    const struct world *w = world_current();
    if (fresh) return;
    forget();
    if (!created) created = clock_wall_ms() / 1000;
    BUF_LIT(&list, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; w && i < w->npools; i++)
        add_own(&w->pools[i]);
    for (size_t i = 0; w && i < w->npools; i++)
        add_told(w, &w->pools[i]);
    BUF_LIT(&list, "]}");
    render_tags();
    fresh = !list.failed && !tags.failed;
}

void catalog_touch(void) {
    fresh = false;
}

struct str catalog_list(void) {
    render();
    return fresh ? buf_str(&list) : STR_NONE;
}

struct str catalog_tags(void) {
    render();
    return fresh ? buf_str(&tags) : STR_NONE;
}

bool catalog_find(struct str id, struct str *json) {
    render();
    *json = STR_NONE;
    if (!fresh) return true;
    const struct entry *e = find(id, XXH3_64bits(id.ptr, id.len));
    if (!e) return false;
    *json = (struct str){buf_ptr(&list) + e->off, e->len};
    return true;
}

void catalog_close(void) {
    forget();
    free(entries);
    entries = NULL;
    room = 0;
    fresh = false;
}
