/* route: which member of a pool a key belongs to. No I/O, no state but the turn of `affinity: none`.
 * Weighted rendezvous hashing: the key is hashed once and mixed with a hash stored for each endpoint; integers only, so every
 * machine computes the same bits. */
#ifndef ROUTE_H
#define ROUTE_H
#include "world.h"

#define ROUTE_TRIED_MAX (CONF_RETRIES_MAX + 1) /* endpoints one request may have failed at: retries is at most this - 1 */

enum route_result {
    ROUTE_OK,
    ROUTE_FULL, /* some are up, all of them full */
    ROUTE_NONE, /* none is up, or all that are were tried */
};
enum route_affinity { ROUTED_NONE, ROUTED_HIT, ROUTED_SPILL, ROUTED_FAILOVER };

struct route_pick {
    enum route_result result;
    enum route_affinity affinity;
    const struct member *member;
};

uint64_t route_key(struct str identity, struct str model); /* identity may be empty: the model alone */
uint64_t route_key_hashed(uint64_t identity_hash, bool has_identity, struct str model);
uint64_t route_hash(struct str bytes); /* of one identity value */

/* The best usable member for the key, passing over tried[0..ntried). */
struct route_pick route_pick(const struct pool *p, uint64_t key, struct endpoint *const *tried, size_t ntried);
/* All members in the order of the key, as if all were up and idle; order has room for p->nmembers. */
void route_order(const struct pool *p, uint64_t key, const struct member **order);
const char *route_affinity_name(enum route_affinity a); /* "none" "hit" "spill" "failover" */
#endif
