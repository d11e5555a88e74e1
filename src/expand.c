/* expand: who stands behind a name that means many.
 * In: host names from configurations. Out: their addresses, and a call when they change. Owns the watches, by host name.
 * Makes no endpoint (world does) and asks no DNS (resolve does). */
#include "expand.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct expansion {
    struct list link;
    struct resolve_watch watch;
    unsigned refs;
    char *host;
};

static struct list all = {&all, &all};
static void (*on_change)(void);

void expand_on_change(void (*changed)(void)) {
    on_change = changed;
}

static void name_changed(struct resolve_watch *w) {
    (void)w;
    if (on_change) on_change();
}

struct expansion *expand_get(const char *host) {
    list_each(it, &all) {
        struct expansion *x = list_entry(it, struct expansion, link);
        if (strcmp(x->host, host) != 0) continue;
        x->refs++;
        return x;
    }
    struct expansion *x = must_alloc(sizeof *x);
    x->refs = 1;
    x->host = str_dup(str_of(host));
    list_push_back(&all, &x->link);
    resolve_watch(&x->watch, str_of(host), name_changed);
    return x;
}

void expand_put(struct expansion *x) {
    assert(x->refs);
    if (--x->refs) return;
    list_remove(&x->link);
    resolve_unwatch(&x->watch);
    free(x->host);
    free(x);
}

const struct resolve_name *expand_name(const struct expansion *x) {
    return x->watch.name;
}
