/* explain: the route of a model and a user, told in words.
 * In: a configuration, a model, a user. Out: text on stdout, an exit status. Owns a world of its own, never put in force.
 * Opens no socket and asks no endpoint: it assumes all of them up and idle, and says so. */
#include "explain.h"

#include <stdio.h>
#include <stdlib.h>

#include "route.h"
#include "world.h"

static const char *affinity_text(enum conf_affinity a, bool has_user) {
    switch (a) {
    case AFFINITY_NONE: return "affinity none: the endpoint with the fewest requests in flight, ties by turns";
    case AFFINITY_MODEL: return "affinity model: every request for this model goes to the first";
    case AFFINITY_CONVERSATION:
        return has_user ? "affinity conversation: shown for a request that tells no conversation, by this user"
                        : "affinity conversation: shown for a request that tells neither conversation nor user";
    case AFFINITY_USER: break;
    }
    return has_user ? "affinity user: this user's requests for this model go to the first"
                    : "affinity user: no user given, so by the model alone";
}

static void print_match(const struct match *m, struct str model) {
    static const char *const how[] = {"nothing", "exact name", "alias", "glob", "\"*\""};
    printf("model:    " STR_FMT "\n", STR_ARG(model));
    printf("pool:     %s (%s %s)\n", m->pool->conf->name, how[m->how], m->how == MATCH_STAR ? "" : m->entry);
    if (m->target) printf("sent as:  %s\n", m->target);
}

/* Who stands behind these is for DNS to say, not for the file. */
static void print_expanded(const struct pool *p) {
    for (size_t i = 0; i < p->conf->nendpoints; i++)
        if (p->conf->endpoints[i].expand)
            printf("  and the addresses of %s, each an endpoint of its own\n", p->conf->endpoints[i].url.text);
}

static void print_order(const struct pool *p, uint64_t key) {
    const struct member **order = must_alloc(p->nmembers * sizeof(struct member *));
    route_order(p, key, order);
    for (size_t i = 0; i < p->nmembers; i++)
        printf("  %zu. %s (weight %u)\n", i + 1, order[i]->endpoint->url.text, order[i]->weight);
    free(order);
}

int explain_route(struct conf *conf, const char *model, const char *user) {
    struct world *w = world_build(conf);
    struct str name = str_of(model), who = str_of(user);
    struct match m = world_match(w, name);
    int status = 0;
    if (m.how == MATCH_NONE) {
        const char *nearest = world_nearest(w, name);
        printf("model:    %s\npool:     none: no pool serves this model%s%s%s\n", model, nearest ? "; did you mean '" : "",
               nearest ? nearest : "", nearest ? "'?" : "");
        status = 1;
    } else {
        enum conf_affinity affinity = m.pool->conf->policy.affinity;
        bool by_user = who.len && (affinity == AFFINITY_USER || affinity == AFFINITY_CONVERSATION);
        print_match(&m, name);
        printf("why:      %s\nendpoints, all assumed up and idle, in order:\n", affinity_text(affinity, who.len != 0));
        print_order(m.pool, route_key(by_user ? who : STR_NONE, m.target ? str_of(m.target) : name));
        print_expanded(m.pool);
        if (m.pool->fallback) printf("fallback: %s, when none of these is up\n", m.pool->fallback->conf->name);
    }
    world_unref(w);
    return status;
}
