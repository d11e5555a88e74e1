/* route: weighted rendezvous hashing and the reasons to pass a member over.
 * In: a pool, a key, who was tried. Out: a member, or why there is none. Owns nothing; writes only the pool's turn.
 * Does no I/O, takes no slot (dispatch does), knows no request.
 *
 * A member's draw for a key is u = mix(key, endpoint) in (0,1]; its cost is -log2(u) / weight and the least cost wins: each member
 * wins in proportion to its weight, and one that comes or goes moves only its own keys (Thaler and Ravishankar; weighted as by
 * Schindelhauer and Schomaker). Costs are compared crosswise, as integers: no division, no libm. */
#include "route.h"

#include <assert.h>
#include <xxhash.h>

#include "clock.h"

#define WEIGHT_ONE 1024 /* a weight of 1, in the units of slow_start */

/* clang-format off */
/* log2(1 + i/256) * 2^32 */
static const uint64_t log2_table[257] = {
    0x000000000ULL, 0x001709c47ULL, 0x002dfca17ULL, 0x0044d8c46ULL, 0x005b9e5a1ULL, 0x00724d8efULL, 0x0088e68ebULL, 0x009f6984aULL,
    0x00b5d69bbULL, 0x00cc2dfe2ULL, 0x00e26fd5dULL, 0x00f89c4c2ULL, 0x010eb38a0ULL, 0x0124b5b7eULL, 0x013aa2fddULL, 0x01507b836ULL,
    0x01663f6fbULL, 0x017beee97ULL, 0x01918a16eULL, 0x01a7111dfULL, 0x01bc84241ULL, 0x01d1e34e3ULL, 0x01e72ec11ULL, 0x01fc66a0fULL,
    0x02118b11aULL, 0x02269c369ULL, 0x023b9a32fULL, 0x025085296ULL, 0x02655d3c5ULL, 0x027a228dbULL, 0x028ed53f3ULL, 0x02a375721ULL,
    0x02b803474ULL, 0x02cc7edf6ULL, 0x02e0e85aaULL, 0x02f53fd90ULL, 0x0309857a0ULL, 0x031db95d0ULL, 0x0331dba0fULL, 0x0345ec646ULL,
    0x0359ebc5bULL, 0x036dd9e2fULL, 0x0381b6d9cULL, 0x039582c79ULL, 0x03a93dc98ULL, 0x03bce7fc7ULL, 0x03d0817cfULL, 0x03e40a672ULL,
    0x03f782d72ULL, 0x040aeae89ULL, 0x041e42b6fULL, 0x04318a5d5ULL, 0x0444c1f6bULL, 0x0457e99dbULL, 0x046b016caULL, 0x047e097dbULL,
    0x049101eacULL, 0x04a3eacd7ULL, 0x04b6c43f1ULL, 0x04c98e58eULL, 0x04dc4933bULL, 0x04eef4e83ULL, 0x0501918ecULL, 0x05141f3fbULL,
    0x05269e12fULL, 0x05390e204ULL, 0x054b6f7f1ULL, 0x055dc246dULL, 0x0570068e8ULL, 0x05823c6d1ULL, 0x059463f92ULL, 0x05a67d492ULL,
    0x05b888736ULL, 0x05ca858dfULL, 0x05dc74aeaULL, 0x05ee55eb1ULL, 0x06002958cULL, 0x0611ef0cfULL, 0x0623a71ccULL, 0x0635519cfULL,
    0x0646eea24ULL, 0x06587e415ULL, 0x066a008e4ULL, 0x067b759d6ULL, 0x068cdd82aULL, 0x069e3851cULL, 0x06af861e6ULL, 0x06c0c6fc0ULL,
    0x06d1fafddULL, 0x06e322370ULL, 0x06f43cba8ULL, 0x07054a9b1ULL, 0x07164beb5ULL, 0x072740bdbULL, 0x073829249ULL, 0x074905320ULL,
    0x0759d4f81ULL, 0x076a98888ULL, 0x077b4ff51ULL, 0x078bfb4f4ULL, 0x079c9aa88ULL, 0x07ad2e11fULL, 0x07bdb59cdULL, 0x07ce3159fULL,
    0x07dea15a3ULL, 0x07ef05ae4ULL, 0x07ff5e66aULL, 0x080fab93cULL, 0x081fed45dULL, 0x0830238d0ULL, 0x08404e794ULL, 0x08506e1a8ULL,
    0x086082807ULL, 0x08708bbaaULL, 0x088089d8bULL, 0x08907ce9dULL, 0x08a064fd5ULL, 0x08b042225ULL, 0x08c01467cULL, 0x08cfdbdc8ULL,
    0x08df988f5ULL, 0x08ef4a8edULL, 0x08fef1e98ULL, 0x090e8eadeULL, 0x091e20ea1ULL, 0x092da8ac6ULL, 0x093d2602cULL, 0x094c98fb4ULL,
    0x095c01a3aULL, 0x096b6009bULL, 0x097ab43afULL, 0x0989fe451ULL, 0x09993e356ULL, 0x09a874193ULL, 0x09b79ffdbULL, 0x09c6c1f01ULL,
    0x09d5d9fd5ULL, 0x09e4e8325ULL, 0x09f3ec9bdULL, 0x0a02e746aULL, 0x0a11d83f5ULL, 0x0a20bf926ULL, 0x0a2f9d4c5ULL, 0x0a3e71797ULL,
    0x0a4d3c25eULL, 0x0a5bfd5dfULL, 0x0a6ab52daULL, 0x0a7963a0dULL, 0x0a8808c38ULL, 0x0a96a4a17ULL, 0x0aa537465ULL, 0x0ab3c0bdcULL,
    0x0ac241135ULL, 0x0ad0b8526ULL, 0x0adf26866ULL, 0x0aed8bba8ULL, 0x0afbe7fa1ULL, 0x0b0a3b502ULL, 0x0b1885c7bULL, 0x0b26c76bcULL,
    0x0b3500472ULL, 0x0b433064bULL, 0x0b5157cf3ULL, 0x0b5f76913ULL, 0x0b6d8cb54ULL, 0x0b7b9a45eULL, 0x0b899f4d9ULL, 0x0b979bd69ULL,
    0x0ba58feb2ULL, 0x0bb37b959ULL, 0x0bc15edffULL, 0x0bcf39d45ULL, 0x0bdd0c7caULL, 0x0bead6e2dULL, 0x0bf89910cULL, 0x0c0653103ULL,
    0x0c1404eaeULL, 0x0c21aeaa6ULL, 0x0c2f50586ULL, 0x0c3ce9fe4ULL, 0x0c4a7ba58ULL, 0x0c5805579ULL, 0x0c65871daULL, 0x0c7301011ULL,
    0x0c80730b0ULL, 0x0c8ddd449ULL, 0x0c9b3fb6dULL, 0x0ca89a6acULL, 0x0cb5ed695ULL, 0x0cc338bb7ULL, 0x0cd07c69eULL, 0x0cddb87d6ULL,
    0x0ceaecfebULL, 0x0cf819f66ULL, 0x0d053f6d2ULL, 0x0d125d6b7ULL, 0x0d1f73f9cULL, 0x0d2c83209ULL, 0x0d398ae81ULL, 0x0d468b58cULL,
    0x0d53847acULL, 0x0d6076565ULL, 0x0d6d60f39ULL, 0x0d7a445a9ULL, 0x0d8720936ULL, 0x0d93f5a60ULL, 0x0da0c39a5ULL, 0x0dad8a784ULL,
    0x0dba4a47bULL, 0x0dc703104ULL, 0x0dd3b4d9dULL, 0x0de05fac0ULL, 0x0ded038e6ULL, 0x0df9a088aULL, 0x0e0636a24ULL, 0x0e12c5e2bULL,
    0x0e1f4e517ULL, 0x0e2bcff5eULL, 0x0e384ad75ULL, 0x0e44befd0ULL, 0x0e512c6e5ULL, 0x0e5d93326ULL, 0x0e69f3506ULL, 0x0e764ccf7ULL,
    0x0e829fb69ULL, 0x0e8eec0ceULL, 0x0e9b31d94ULL, 0x0ea77122bULL, 0x0eb3a9f02ULL, 0x0ebfdc485ULL, 0x0ecc08322ULL, 0x0ed82db45ULL,
    0x0ee44cd5aULL, 0x0ef0659ccULL, 0x0efc78104ULL, 0x0f088436dULL, 0x0f148a170ULL, 0x0f2089b75ULL, 0x0f2c831e4ULL, 0x0f3876524ULL,
    0x0f446359bULL, 0x0f504a3afULL, 0x0f5c2afc6ULL, 0x0f6805a44ULL, 0x0f73da38eULL, 0x0f7fa8c05ULL, 0x0f8b7140fULL, 0x0f9733c0cULL,
    0x0fa2f045eULL, 0x0faea6d67ULL, 0x0fba57787ULL, 0x0fc60231eULL, 0x0fd1a708cULL, 0x0fdd4602eULL, 0x0fe8df264ULL, 0x0ff47278bULL,
    0x100000000ULL,
};
/* clang-format on */

/* -log2(u) in 1/2^26, for u = (h + 1) / 2^64. Linear between table rows: within 0.2 % of itself, also near u = 1. */
static uint64_t cost_of(uint64_t h) {
    if (h == UINT64_MAX) return 0;
    h++;
    int zeros = __builtin_clzll(h);
    uint64_t f = (h << zeros) << 1; /* the fraction after the leading 1, 64 bits */
    unsigned row = (unsigned)(f >> 56);
    uint64_t lo = log2_table[row], step = log2_table[row + 1] - lo;
    uint64_t frac = lo + ((step * ((f >> 32) & 0xffffff)) >> 24);
    return (((uint64_t)(zeros + 1) << 32) - frac) >> 6;
}

static uint64_t mix(uint64_t key, uint64_t endpoint) {
    uint64_t h = key ^ endpoint; /* both are hashes already; the finaliser of MurmurHash3 makes their difference spread */
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ULL;
    return h ^ h >> 33;
}

uint64_t route_hash(struct str bytes) {
    return XXH3_64bits(bytes.ptr ? bytes.ptr : "", bytes.len);
}

uint64_t route_key_hashed(uint64_t identity, bool has_identity, struct str model) {
    uint64_t h = route_hash(model);
    return has_identity ? mix(h * 3, identity) : h;
}

uint64_t route_key(struct str identity, struct str model) {
    return route_key_hashed(identity.len ? route_hash(identity) : 0, identity.len != 0, model);
}

/* The weight in 1/WEIGHT_ONE: grown from a tenth to full over slow_start since it came up. */
static uint64_t weight_of(const struct pool *p, const struct member *m) {
    uint64_t full = (uint64_t)m->weight * WEIGHT_ONE;
    int64_t ramp = p->conf->policy.slow_start;
    if (!ramp || !m->endpoint->up_since) return full;
    int64_t age = clock_ms() - m->endpoint->up_since;
    if (age >= ramp) return full;
    uint64_t grown = full * (uint64_t)(age < 0 ? 0 : age) / (uint64_t)ramp;
    return grown < full / 10 ? full / 10 : grown;
}

struct draw {
    uint64_t cost, weight, lot;
    const struct member *member;
};

static struct draw draw_of(uint64_t lot, uint64_t weight, const struct member *m) {
    return (struct draw){cost_of(lot), weight, lot, m};
}

/* a comes before b: cost / weight is less; a tie (2^-26) goes by the lot, then the endpoint's hash, the same on every machine. */
static bool before(const struct draw *a, const struct draw *b) {
    uint64_t x = a->cost * b->weight, y = b->cost * a->weight; /* 32 bits by 20: no overflow */
    if (x != y) return x < y;
    return a->lot != b->lot ? a->lot > b->lot : a->member->hash < b->member->hash;
}

static bool was_tried(const struct endpoint *e, struct endpoint *const *tried, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (tried[i] == e) return true;
    return false;
}

static unsigned least_in_flight(const struct pool *p) {
    unsigned least = UINT32_MAX;
    for (size_t i = 0; i < p->nmembers; i++) {
        const struct endpoint *e = p->members[i].endpoint;
        if (e->in_flight < least && endpoint_usable(e)) least = e->in_flight;
    }
    return least;
}

/* affinity: none. The least busy; among equals by turns. */
static struct route_pick pick_least(const struct pool *p, struct endpoint *const *tried, size_t ntried) {
    struct route_pick pick = {ROUTE_NONE, ROUTED_NONE, NULL};
    size_t start = p->live->turn % p->nmembers;
    for (size_t n = 0; n < p->nmembers; n++) {
        const struct member *m = &p->members[(start + n) % p->nmembers];
        if (!endpoint_usable(m->endpoint) || was_tried(m->endpoint, tried, ntried)) continue;
        if (endpoint_full(m->endpoint)) {
            if (pick.result == ROUTE_NONE) pick.result = ROUTE_FULL;
            continue;
        }
        /* Per unit of weight: one of weight 2 may run twice as many. */
        if (!pick.member ||
            (uint64_t)m->endpoint->in_flight * pick.member->weight < (uint64_t)pick.member->endpoint->in_flight * m->weight)
            pick.member = m;
        pick.result = ROUTE_OK;
    }
    if (pick.member) p->live->turn = (unsigned)(pick.member - p->members) + 1;
    return pick;
}

enum fit { FIT, FIT_DOWN, FIT_FULL, FIT_OVER };

static enum fit fit_of(const struct pool *p, const struct endpoint *e, unsigned least, struct endpoint *const *tried,
                       size_t ntried) {
    unsigned n = p->conf->policy.max_imbalance;
    if (!endpoint_usable(e) || was_tried(e, tried, ntried)) return FIT_DOWN;
    if (endpoint_full(e)) return FIT_FULL;
    if (n && e->in_flight > (uint64_t)least + n) return FIT_OVER;
    return FIT;
}

struct route_pick route_pick(const struct pool *p, uint64_t key, struct endpoint *const *tried, size_t ntried) {
    if (!p->nmembers) return (struct route_pick){ROUTE_NONE, ROUTED_NONE, NULL};
    if (p->conf->policy.affinity == AFFINITY_NONE) return pick_least(p, tried, ntried);
    unsigned least = p->conf->policy.max_imbalance ? least_in_flight(p) : 0;
    struct draw first = {0}, best = {0}, over = {0}; /* of all; of those that fit; of those only max_imbalance holds back */
    enum fit first_fit = FIT;
    bool full = false;
    for (size_t i = 0; i < p->nmembers; i++) {
        const struct member *m = &p->members[i];
        uint64_t lot = mix(key, m->hash), weight = weight_of(p, m);
        if (best.member && lot < best.lot && weight <= best.weight)
            continue; /* the greater lot costs less: most are out at once ... */
        struct draw d = draw_of(lot, weight, m);
        if (best.member && !before(&d, &best)) continue; /* ... and who is not before the best is not before the first */
        enum fit fit = fit_of(p, m->endpoint, least, tried, ntried);
        full |= fit == FIT_FULL;
        if (!first.member || before(&d, &first)) first = d, first_fit = fit;
        if (fit == FIT) best = d;
        if (fit == FIT_OVER && (!over.member || before(&d, &over))) over = d;
    }
    /* The least busy one may be full or tried already: then the balance gives way before the request does. */
    if (!best.member) best = over;
    if (!best.member) return (struct route_pick){full ? ROUTE_FULL : ROUTE_NONE, ROUTED_NONE, NULL};
    enum route_affinity how = best.member == first.member ? ROUTED_HIT : first_fit == FIT_DOWN ? ROUTED_FAILOVER : ROUTED_SPILL;
    return (struct route_pick){ROUTE_OK, how, best.member};
}

void route_order(const struct pool *p, uint64_t key, const struct member **order) {
    for (size_t i = 0; i < p->nmembers; i++) {
        const struct member *m = &p->members[i];
        struct draw d = draw_of(mix(key, m->hash), (uint64_t)m->weight * WEIGHT_ONE, m);
        size_t at = i;
        for (; at; at--) { /* insertion sort: a list for people, of at most a few hundred */
            const struct member *o = order[at - 1];
            struct draw q = draw_of(mix(key, o->hash), (uint64_t)o->weight * WEIGHT_ONE, o);
            if (!before(&d, &q)) break;
            order[at] = o;
        }
        order[at] = m;
    }
}

const char *route_affinity_name(enum route_affinity a) {
    static const char *const names[] = {"none", "hit", "spill", "failover"};
    assert((unsigned)a < sizeof names / sizeof *names);
    return names[a];
}
