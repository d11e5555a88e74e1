/* dispatch: who gets which endpoint, and when: pick, slots, further tries, the pool's queue. The only writer of in-flight. */
#ifndef DISPATCH_H
#define DISPATCH_H
#include "route.h"
#include "why.h"

struct dispatch;
struct dispatch_user {
    /* The request is about to be tried in that pool: gives the affinity key there. */
    uint64_t (*enter)(struct dispatch *d, const struct pool *p);
    void (*granted)(struct dispatch *d);               /* d->member is set, its slot is the request's until dispatch_release */
    void (*refused)(struct dispatch *d, enum why why); /* WHY_FULL, WHY_NO_ENDPOINT */
    void (*refresh)(struct dispatch *d);               /* it waits, and another world is current: d->pool must be of that one,
                                                          or NULL if the model is served no more */
};

struct dispatch { /* embedded in a txn; all zero but api is one that has not begun */
    const struct dispatch_user *api;
    const struct pool *pool;
    const struct member *member; /* whose slot is held; NULL = none */
    struct endpoint *endpoint;   /* of member: outlives the world it was picked from */
    struct stats_route *stats;   /* of the last member granted; good while the txn holds the world it was picked from */
    struct tried *tried;         /* private; NULL while nothing failed */
    struct waiting *waiting;     /* private: its place in its pool's queue; NULL while it does not wait */
    uint64_t key;
    uint32_t queue_ms; /* time spent waiting, once it is over */
    uint8_t affinity;  /* enum route_affinity of the last pick */
    uint8_t visited;   /* pools entered */
    uint16_t tries;    /* slots granted */
};

void dispatch_start(struct dispatch *d, const struct pool *p); /* calls granted or refused, now or later */
/* The endpoint whose slot is held did not do: gives the slot back and goes on to the next, within the pool's `retries`.
 * False if there is none left to try: the slot is given back, nothing is called. */
bool dispatch_next(struct dispatch *d);
int64_t dispatch_waited(const struct dispatch *d);              /* ms in queues, of one that still waits as well */
const struct endpoint *dispatch_last(const struct dispatch *d); /* the one it has, or that failed last; NULL if none was tried */
void dispatch_answered(struct dispatch *d); /* the endpoint has done: its slot is free, though the client still takes the rest */
void dispatch_release(struct dispatch *d);  /* slot, place in the queue, memory: all given back. Harmless twice */
/* Of a waiting request, from refresh: it waits in that pool now (NULL: in none). */
void dispatch_move(struct dispatch *d, const struct pool *p);
void dispatch_wake(void); /* something changed (an endpoint came up, a new world): look at the queues at the end of the turn */
unsigned dispatch_queued(void);
#endif
