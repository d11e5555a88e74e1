/* dispatch: picks, slots and queues.
 * In: requests that know their pool and key. Out: granted or refused. Owns the queues (in the pools' live parts) and every
 * endpoint's in_flight. Opens no connection; never calls a request that left.
 *
 *   start --pick--> granted --release--> (slot free: marked) ... end of the turn: first in each queue is granted
 *            | full: queue --timeout, queue full--> refused WHY_FULL
 *            | none up: fallback pool, its fallback, ... --> refused WHY_NO_ENDPOINT                                  */
#include "dispatch.h"

#include <assert.h>

#include "clock.h"
#include "loop.h"
#include "slab.h"
#include "timer.h"

#define VISITED_MAX CONF_CHAIN_MAX /* pools in one chain of fallbacks; conf refuses circles */

struct tried {
    struct endpoint *endpoints[ROUTE_TRIED_MAX]; /* references */
    size_t count;
};

/* A place in a queue. Few requests wait, and none for as long as its answer runs. */
struct waiting {
    struct list link;   /* in its pool's queue */
    struct timer timer; /* of the queue */
    struct dispatch *dispatch;
    int64_t since; /* clock_ms */
};

static struct slab slab = {.size = sizeof(struct tried), .clear = sizeof(struct tried)};
static struct slab places = {.size = sizeof(struct waiting)};
static unsigned queued;
static void wake_queues(struct loop_task *t);
static struct loop_task wake_task;
static struct timer look; /* an endpoint without probes may be worth a request now: nothing else tells */
#define LOOK_MS 1000

static void queue_expired(struct timer *t);

static void look_again(struct timer *t) {
    (void)t;
    dispatch_wake();
}

unsigned dispatch_queued(void) {
    return queued;
}

void dispatch_wake(void) {
    if (!queued) return;
    if (!wake_task.run) loop_task_init(&wake_task, wake_queues);
    loop_defer(&wake_task);
}

static void leave_queue(struct dispatch *d) {
    struct waiting *w = d->waiting;
    if (!w) return;
    list_remove(&w->link);
    timer_drop(&w->timer);
    d->pool->live->queued--;
    queued--;
    d->queue_ms += (uint32_t)(clock_ms() - w->since);
    histogram_add(&d->pool->live->stats.queue_wait, clock_ms() - w->since);
    slab_put(&places, w);
    d->waiting = NULL;
}

int64_t dispatch_waited(const struct dispatch *d) {
    return d->queue_ms + (d->waiting ? clock_ms() - d->waiting->since : 0);
}

void dispatch_answered(struct dispatch *d) {
    if (!d->member) return;
    assert(d->endpoint->in_flight && d->stats->in_flight);
    d->endpoint->in_flight--;
    d->stats->in_flight--;
    d->member = NULL;
    dispatch_wake();
}

static void give_back_slot(struct dispatch *d) {
    struct endpoint *e = d->endpoint;
    dispatch_answered(d);
    d->endpoint = NULL;
    if (e) endpoint_unref(e);
}

static void take_slot(struct dispatch *d, struct route_pick pick) {
    leave_queue(d);
    d->member = pick.member;
    d->endpoint = pick.member->endpoint;
    d->affinity = (uint8_t)pick.affinity;
    d->tries++;
    endpoint_ref(d->endpoint);
    d->endpoint->in_flight++;
    d->endpoint->requests++;
    d->stats = pick.member->stats;
    d->stats->in_flight++;
    if (d->tries > 1) d->stats->retries++;
    if (d->endpoint->state != ENDPOINT_UP) endpoint_offered(d->endpoint);
}

static void wait_since(struct dispatch *d, int64_t since) {
    int64_t timeout = d->pool->conf->policy.queue_timeout;
    struct waiting *w = d->waiting = slab_get(&places);
    w->dispatch = d;
    w->since = since;
    timer_init(&w->timer, queue_expired);
    list_push_back(&d->pool->live->queue, &w->link);
    d->pool->live->queued++;
    queued++;
    if (timeout) timer_set(&w->timer, since + timeout);
}

static void join_queue(struct dispatch *d) {
    if (d->pool->live->queued >= d->pool->conf->policy.queue_size) {
        d->api->refused(d, WHY_FULL);
        return;
    }
    wait_since(d, clock_ms());
}

static struct route_pick pick(const struct dispatch *d) {
    return d->tried ? route_pick(d->pool, d->key, d->tried->endpoints, d->tried->count) : route_pick(d->pool, d->key, NULL, 0);
}

/* Joins the queue of its pool; of the pool that the current configuration has for it, if that is another. */
static void wait_for_slot(struct dispatch *d) {
    const struct pool *full = d->pool;
    d->api->refresh(d);
    if (!d->pool)
        d->api->refused(d, WHY_NO_ENDPOINT);
    else if (d->pool == full || pick(d).result == ROUTE_FULL)
        join_queue(d);
    else
        wait_since(d, clock_ms()); /* the pool it was moved to may have room: nobody asks for any in its queue */
    dispatch_wake();
}

void dispatch_move(struct dispatch *d, const struct pool *p) {
    int64_t since = d->waiting ? d->waiting->since : 0;
    d->stats = NULL; /* of a member of the world that goes */
    for (const struct pool *q = p; q; q = q->fallback)
        if (q->live == d->pool->live) p = q; /* it waits in a fallback, and goes on to */
    bool stays = p && p->live == d->pool->live;
    uint32_t waited = d->queue_ms;
    if (!stays) leave_queue(d);
    d->pool = p;
    if (!p) return;
    d->key = d->api->enter(d, p);
    if (stays || !since) return;
    d->queue_ms = waited;
    wait_since(d, since); /* whoever waited already is not asked whether there is room */
}

static void queue_expired(struct timer *t) {
    struct dispatch *d = list_entry(t, struct waiting, timer)->dispatch;
    leave_queue(d);
    d->api->refused(d, WHY_FULL);
}

/* Goes down the chain of fallbacks until a pool has an endpoint, or at least a full one. False: no pool has. */
static bool choose(struct dispatch *d, const struct pool *p, struct route_pick *out) {
    for (; p && d->visited < VISITED_MAX; p = p->fallback) {
        d->pool = p;
        d->key = d->api->enter(d, p);
        d->visited++;
        *out = pick(d);
        if (out->result != ROUTE_NONE) return true;
    }
    return false;
}

/* True if one waits there who could take what a newcomer is offered; who failed somewhere may wait for another endpoint. */
static bool somebody_first(const struct pool_live *live) {
    list_each(it, &live->queue) {
        const struct dispatch *w = list_entry(it, struct waiting, link)->dispatch;
        if (!w->tried || pick(w).result == ROUTE_OK) return true;
    }
    return false;
}

void dispatch_start(struct dispatch *d, const struct pool *p) {
    struct route_pick got;
    if (!choose(d, p, &got)) {
        d->api->refused(d, WHY_NO_ENDPOINT);
    } else if (got.result == ROUTE_FULL || somebody_first(d->pool->live)) {
        wait_for_slot(d); /* also behind those who wait already: first come, first served */
    } else {
        take_slot(d, got);
        d->api->granted(d);
    }
}

static void note_tried(struct dispatch *d) {
    if (!d->tried) d->tried = slab_get(&slab);
    assert(d->tried->count < ROUTE_TRIED_MAX);
    endpoint_ref(d->endpoint);
    d->tried->endpoints[d->tried->count++] = d->endpoint;
}

bool dispatch_next(struct dispatch *d) {
    struct route_pick got;
    assert(d->member);
    unsigned retries = d->pool->conf->policy.retries;
    note_tried(d);
    give_back_slot(d);
    if (d->tries > retries || d->tries >= ROUTE_TRIED_MAX) return false;
    got = pick(d);
    if (got.result == ROUTE_NONE && !choose(d, d->pool->fallback, &got)) return false;
    if (got.result == ROUTE_FULL) {
        wait_for_slot(d);
        return true;
    }
    take_slot(d, got);
    d->api->granted(d);
    return true;
}

const struct endpoint *dispatch_last(const struct dispatch *d) {
    if (d->endpoint) return d->endpoint;
    return d->tried && d->tried->count ? d->tried->endpoints[d->tried->count - 1] : NULL;
}

void dispatch_release(struct dispatch *d) {
    leave_queue(d);
    give_back_slot(d);
    if (!d->tried) return;
    for (size_t i = 0; i < d->tried->count; i++)
        endpoint_unref(d->tried->endpoints[i]);
    slab_put(&slab, d->tried);
    d->tried = NULL;
}

/* One waiting request of a pool: true if it waits there no more. */
static bool serve(struct dispatch *d, struct pool_live *live) {
    d->api->refresh(d);
    if (!d->pool) {
        d->api->refused(d, WHY_NO_ENDPOINT);
        return true;
    }
    if (d->pool->live != live) return true; /* another pool serves its model now, or it was refused there */
    struct route_pick got = pick(d);
    if (got.result == ROUTE_FULL) return false;
    if (got.result == ROUTE_NONE) { /* its endpoints went down while it waited */
        const struct pool *next = d->pool->fallback;
        leave_queue(d);
        if (!choose(d, next, &got)) {
            d->api->refused(d, WHY_NO_ENDPOINT);
            return true;
        }
        if (got.result == ROUTE_FULL) {
            join_queue(d);
            return true;
        }
    }
    take_slot(d, got);
    d->api->granted(d);
    return true;
}

/* The oldest waiting request of this pool that an endpoint has room for. One that failed somewhere already may wait for fewer
 * endpoints than those behind it: it holds nobody up. True if one was served. */
static bool serve_first(struct pool_live *live) {
    list_each(it, &live->queue) {
        struct dispatch *d = list_entry(it, struct waiting, link)->dispatch;
        bool choosy = d->tried != NULL;
        if (serve(d, live)) return true;
        if (!choosy) return false;
    }
    return false;
}

/* The pool whose first has waited longest, of those that are not stuck; NULL if there is none. */
static struct pool_live *longest_waiting(void) {
    struct pool_live *best = NULL;
    int64_t oldest = INT64_MAX;
    list_each(it, world_lives()) {
        struct pool_live *l = list_entry(it, struct pool_live, link);
        if (l->stuck || list_empty(&l->queue)) continue;
        const struct waiting *first = list_entry(l->queue.next, struct waiting, link);
        if (first->since < oldest) oldest = first->since, best = l;
    }
    return best;
}

/* A slot that several pools wait for goes to whoever has waited longest. Pools that the configuration lost are looked at too: their
 * waiting requests go on elsewhere. */
static void wake_queues(struct loop_task *t) {
    struct world *w = world_current();
    (void)t;
    if (!w) return;
    world_ref(w);
    list_each(it, world_lives()) list_entry(it, struct pool_live, link)->stuck = false;
    for (struct pool_live *l; (l = longest_waiting());)
        if (!serve_first(l)) l->stuck = true;
    if (!look.fire) timer_init(&look, look_again);
    timer_set(&look, queued ? clock_ms() + LOOK_MS : TIMER_NEVER);
    world_unref(w);
}
