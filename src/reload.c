/* reload: new world in, old one out.
 * In: a configuration, the command line's overrides. Out: everything that follows the configuration, changed together; or the reason
 * why nothing was. Owns nothing: the world is the current one, the listeners are listener's.
 * What can fail comes first and can be undone (listeners), or keeps the old one when it fails (the log); then the swap, which cannot.
 * No connection, stream, counter, health state or idle connection of an endpoint that stays is touched: they hang on the endpoints
 * and the pools' live parts, which both worlds share. Running requests go on in the world they were picked from. */
#include "reload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "access.h"
#include "body.h"
#include "clock.h"
#include "dispatch.h"
#include "front.h"
#include "health.h"
#include "listener.h"
#include "sd.h"
#include "stats.h"
#include "world.h"

#define OTHER_FDS 64 /* listeners, logs, names, probes */

static struct listener_want want(const struct value_listen *l, bool admin) {
    struct listener_want w = {.addr.len = l->len, .admin = admin};
    memcpy(&w.addr.u, &l->addr, l->len < sizeof w.addr.u ? l->len : sizeof w.addr.u);
    return w;
}

/* Sockets handed over take the place of the configured ones of their kind. */
static struct listener_want *wanted(const struct conf *c, const struct server_options *o, size_t *n) {
    const struct value_listen *l = o->nlisten ? o->listen : c->listen;
    size_t count = listener_inherited(false) ? 0 : o->nlisten ? o->nlisten : c->nlisten;
    struct listener_want *w = must_alloc((count + 1) * sizeof *w);
    for (size_t i = 0; i < count; i++)
        w[i] = want(&l[i], false);
    if (c->admin && !listener_inherited(true)) w[count++] = want(c->admin, true);
    *n = count;
    return w;
}

/* The soft limit of open files goes up to the hard one; where that is too low the number of clients comes down. */
static void fit_descriptors(const struct conf *c) {
    struct rlimit r;
    unsigned max = c->max_connections;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        bool low = r.rlim_cur < r.rlim_max;
        r.rlim_cur = r.rlim_max;
        if (low && setrlimit(RLIMIT_NOFILE, &r) != 0)
            log_warn("server", "cannot raise the limit of open files: %s", strerror(errno));
        rlim_t most = r.rlim_cur > OTHER_FDS + 2 ? (r.rlim_cur - OTHER_FDS) / 2 : 1; /* a stream needs two */
        if (r.rlim_cur != RLIM_INFINITY && (!max || most < max)) {
            log_warn("server", "max_connections: %u%s need more open files than the limit of %llu: lowered to %llu", max,
                     max ? "" : " (no limit)", (unsigned long long)r.rlim_cur, (unsigned long long)most);
            max = (unsigned)most;
        }
    }
    listener_set_limit(max);
}

static bool still_named(const struct stats_model *m, const void *ctx) {
    const struct world *w = ctx;
    bool pool = false, entry = false;
    for (size_t i = 0; i < w->npools && !(pool && entry); i++) {
        const struct conf_pool *p = w->pools[i].conf;
        pool |= strcmp(p->name, m->pool) == 0;
        for (size_t k = 0; k < p->nmodels; k++)
            entry |= strcmp(p->models[k], m->entry) == 0;
        for (size_t k = 0; k < p->naliases; k++)
            entry |= strcmp(p->aliases[k].name, m->entry) == 0;
    }
    return pool && entry;
}

/* The old world is held until health has let go of the endpoints that the new one lacks. */
static void swap(struct world *w) {
    struct world *old = world_current() ? world_ref(world_current()) : NULL;
    world_activate(w);
    health_sync(w);
    if (old) world_unref(old);
    dispatch_wake();
}

/* Endpoints behind a name came or went: the same configuration, with other members. Who stays keeps everything. */
static void addresses_changed(void) {
    const struct world *w = world_current();
    size_t before = 0, after = 0;
    if (!w) return;
    for (size_t i = 0; i < w->npools; i++)
        before += w->pools[i].nmembers;
    swap(world_rebuild(w));
    w = world_current();
    for (size_t i = 0; i < w->npools; i++)
        after += w->pools[i].nmembers;
    log_info("reload", "a name has other addresses now: %zu endpoints, were %zu", after, before);
}

const char *reload_apply(struct conf *conf, const struct server_options *o) {
    static char problem[512];
    const char *wrong;
    size_t n;
    struct listener_want *wants = wanted(conf, o, &n);
    bool ok = listener_add(wants, n, conf->reuse_port, &front_api, problem);
    if (ok && (wrong = access_open(conf->access, conf->log_file))) {
        const struct world *w = world_current();
        size_t before = 0;
        struct listener_want *old = w ? wanted(w->conf, o, &before) : NULL;
        listener_keep_only(old, before);
        free(old);
        snprintf(problem, sizeof problem, "log.file: %s", wrong);
        ok = false;
    }
    if (!ok) {
        free(wants);
        conf_free(conf);
        return problem;
    }
    log_set_level(conf->log_level);
    expand_on_change(addresses_changed);
    front_set_admin(conf->admin || listener_inherited(true));
    body_set_budget(conf->body_memory);
    fit_descriptors(conf);
    swap(world_build(conf));
    stats.loaded_ms = clock_wall_ms();
    stats_models_keep(still_named, world_current());
    listener_keep_only(wants, n);
    free(wants);
    return NULL;
}

static void refuse(const char *text) {
    stats.reloads_failed++;
    str_copy(stats.reload_error, sizeof stats.reload_error, str_of(text));
    log_error("reload", "refused: %s; the configuration of before goes on", text);
}

bool reload_again(const struct server_options *o) {
    struct conf_findings f = {0};
    struct conf *conf = conf_load(o->config, &f);
    char first[512] = "";
    for (size_t i = 0; i < f.count; i++) {
        const struct conf_finding *x = &f.items[i];
        char place[64] = "";
        if (x->line) snprintf(place, sizeof place, ":%d:%d", x->line, x->column);
        if (!x->warning && !first[0]) snprintf(first, sizeof first, "%.200s%s: %.200s", o->config, place, x->text);
        log_line(x->warning ? LOG_WARN : LOG_ERROR, "reload", "%s%s: %s: %s", o->config, place, x->warning ? "warning" : "error",
                 x->text);
    }
    conf_findings_free(&f);
    const char *wrong = conf ? reload_apply(conf, o) : first;
    if (wrong) {
        refuse(wrong);
        return false;
    }
    stats.reloads_ok++;
    stats.reload_error[0] = 0;
    log_info("reload", "%s is in force: generation %llu, %zu pools", o->config, (unsigned long long)world_current()->generation,
             world_current()->npools);
    return true;
}
