#include "unit.h"

#include "buf.h"
#include "clock.h"
#include "loop.h"
#include "route.h"

#define KEYS 100000

/* A world of one pool "p" with n endpoints http://10.0.0.I:80 of these weights (NULL: all 1), and further lines of YAML for the pool. */
static struct world *world_of(unsigned n, const unsigned *weights, const char *more) {
    struct buf text = {0};
    struct conf_findings f = {0};
    buf_printf(&text, "pools:\n  - name: p\n    models: [m]\n%s    endpoints:\n", more);
    for (unsigned i = 0; i < n; i++)
        buf_printf(&text, "      - {url: \"http://10.0.%u.%u\", weight: %u}\n", i / 250, i % 250 + 1, weights ? weights[i] : 1);
    struct conf *c = conf_parse("test", buf_ptr(&text), buf_len(&text), &f);
    for (size_t i = 0; i < f.count; i++)
        print_error("%s\n", f.items[i].text);
    assert_non_null(c);
    conf_findings_free(&f);
    buf_free(&text);
    return world_build(c);
}

static uint64_t key_of(unsigned i) {
    char name[32];
    snprintf(name, sizeof name, "user-%u", i);
    return route_key(str_of(name), STR("m"));
}

static const struct endpoint *picked(const struct pool *p, uint64_t key) {
    struct route_pick r = route_pick(p, key, NULL, 0);
    assert_int_equal(r.result, ROUTE_OK);
    return r.member->endpoint;
}

static size_t index_of(const struct pool *p, const struct endpoint *e) {
    for (size_t i = 0; i < p->nmembers; i++)
        if (p->members[i].endpoint == e) return i;
    fail();
    return 0;
}

static void equal_weights_share_equally(void **s) {
    (void)s;
    for (unsigned n = 2; n <= 8; n += 3) {
        struct world *w = world_of(n, NULL, "");
        unsigned count[8] = {0};
        for (unsigned i = 0; i < KEYS; i++)
            count[index_of(w->pools, picked(w->pools, key_of(i)))]++;
        for (unsigned k = 0; k < n; k++)
            assert_in_range(count[k], KEYS / n * 95 / 100, KEYS / n * 105 / 100);
        world_unref(w);
    }
}

static void weights_hold_within_5_percent(void **s) {
    static const unsigned weights[] = {1, 2, 3, 5, 10};
    struct world *w = world_of(5, weights, "");
    unsigned count[5] = {0};
    (void)s;
    for (unsigned i = 0; i < KEYS; i++)
        count[index_of(w->pools, picked(w->pools, key_of(i)))]++;
    for (unsigned k = 0; k < 5; k++)
        assert_in_range(count[k], KEYS / 21 * weights[k] * 95 / 100, KEYS / 21 * weights[k] * 105 / 100);
    world_unref(w);
}

static void extreme_weights_hold(void **s) {
    static const unsigned weights[] = {1, 1000};
    struct world *w = world_of(2, weights, "");
    unsigned light = 0;
    (void)s;
    for (unsigned i = 0; i < KEYS; i++)
        light += index_of(w->pools, picked(w->pools, key_of(i))) == 0;
    assert_in_range(light, 60, 145); /* 100 expected, sigma 10 */
    world_unref(w);
}

/* Taking one of n away moves only its own keys; each of them to where route_order says next. */
static void losing_one_moves_only_its_keys(void **s) {
    struct world *w = world_of(7, NULL, "");
    struct pool *p = w->pools;
    unsigned moved = 0;
    (void)s;
    for (unsigned i = 0; i < KEYS; i++) {
        const struct member *order[7];
        struct endpoint *lost = p->members[3].endpoint;
        const struct endpoint *before = picked(p, key_of(i));
        lost->drained = true;
        const struct endpoint *after = picked(p, key_of(i));
        lost->drained = false;
        route_order(p, key_of(i), order);
        assert_ptr_equal(order[0]->endpoint, before);
        if (before != lost) {
            assert_ptr_equal(after, before);
        } else {
            assert_ptr_equal(after, order[1]->endpoint);
            moved++;
        }
        assert_ptr_equal(picked(p, key_of(i)), before); /* and comes home */
    }
    assert_in_range(moved, KEYS / 7 * 95 / 100, KEYS / 7 * 105 / 100);
    world_unref(w);
}

/* The same when it was never there: what another file without it would answer. */
static void adding_one_takes_only_its_share(void **s) {
    struct world *six = world_of(6, NULL, ""), *seven = world_of(7, NULL, "");
    const struct endpoint *added = seven->pools->members[6].endpoint;
    unsigned moved = 0;
    (void)s;
    for (unsigned i = 0; i < KEYS; i++) {
        const struct endpoint *a = picked(six->pools, key_of(i)), *b = picked(seven->pools, key_of(i));
        if (b == added)
            moved++;
        else
            assert_ptr_equal(a, b);
    }
    assert_in_range(moved, KEYS / 7 * 95 / 100, KEYS / 7 * 105 / 100);
    world_unref(six);
    world_unref(seven);
}

/* The bits are part of the promise: replicas of other versions and machines must agree. */
static void the_bits_never_change(void **s) {
    struct world *w = world_of(5, NULL, "");
    static const unsigned wanted[] = {4, 4, 4, 3, 4, 4, 3, 1, 0, 3, 0, 1, 3, 3, 1, 3};
    (void)s;
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        size_t got = index_of(w->pools, picked(w->pools, key_of(i)));
        if (got != wanted[i]) print_error("user-%u: %zu\n", i, got);
        assert_int_equal(got, wanted[i]);
    }
    world_unref(w);
}

static void a_full_one_spills_to_the_next(void **s) {
    struct world *w = world_of(4, NULL, "    max_inflight: 1\n");
    struct pool *p = w->pools;
    const struct member *order[4];
    uint64_t key = key_of(1);
    (void)s;
    world_activate(world_ref(w));
    route_order(p, key, order);
    order[0]->endpoint->in_flight = 1;
    struct route_pick r = route_pick(p, key, NULL, 0);
    assert_ptr_equal(r.member, order[1]);
    assert_int_equal(r.affinity, ROUTED_SPILL);
    order[1]->endpoint->drained = true;
    r = route_pick(p, key, NULL, 0);
    assert_ptr_equal(r.member, order[2]);
    assert_int_equal(r.affinity, ROUTED_SPILL);
    order[2]->endpoint->in_flight = order[3]->endpoint->in_flight = 1;
    assert_int_equal(route_pick(p, key, NULL, 0).result, ROUTE_FULL);
    for (int i = 0; i < 4; i++)
        order[i]->endpoint->drained = true;
    assert_int_equal(route_pick(p, key, NULL, 0).result, ROUTE_NONE);
    for (int i = 0; i < 4; i++)
        order[i]->endpoint->drained = false, order[i]->endpoint->in_flight = 0;
    world_deactivate();
    world_unref(w);
}

static void a_down_or_tried_one_fails_over(void **s) {
    struct world *w = world_of(3, NULL, "");
    struct pool *p = w->pools;
    const struct member *order[3];
    (void)s;
    route_order(p, key_of(2), order);
    struct endpoint *tried[] = {order[0]->endpoint};
    struct route_pick r = route_pick(p, key_of(2), tried, 1);
    assert_ptr_equal(r.member, order[1]);
    assert_int_equal(r.affinity, ROUTED_FAILOVER);
    world_unref(w);
}

static void imbalance_is_bounded(void **s) {
    struct world *w = world_of(3, NULL, "    max_imbalance: 2\n");
    struct pool *p = w->pools;
    const struct member *order[3];
    (void)s;
    route_order(p, key_of(3), order);
    order[0]->endpoint->in_flight = 2;
    assert_ptr_equal(route_pick(p, key_of(3), NULL, 0).member, order[0]); /* 2 <= 0 + 2 */
    order[0]->endpoint->in_flight = 3;
    struct route_pick r = route_pick(p, key_of(3), NULL, 0);
    assert_ptr_equal(r.member, order[1]);
    assert_int_equal(r.affinity, ROUTED_SPILL);
    order[0]->endpoint->in_flight = 0;
    world_unref(w);
}

static void affinity_none_takes_the_least_busy_by_turns(void **s) {
    struct world *w = world_of(3, NULL, "    affinity: none\n");
    struct pool *p = w->pools;
    unsigned count[3] = {0};
    (void)s;
    for (int i = 0; i < 30; i++)
        count[index_of(p, picked(p, 0))]++;
    for (int k = 0; k < 3; k++)
        assert_int_equal(count[k], 10);
    p->members[0].endpoint->in_flight = p->members[2].endpoint->in_flight = 1;
    for (int i = 0; i < 5; i++)
        assert_int_equal(index_of(p, picked(p, 0)), 1);
    p->members[0].endpoint->in_flight = p->members[2].endpoint->in_flight = 0;
    world_unref(w);
}

static void slow_start_grows_the_weight(void **s) {
    struct world *w = world_of(2, NULL, "    slow_start: 100s\n");
    struct pool *p = w->pools;
    unsigned got[3] = {0};
    static const int64_t ages[] = {0, 50000, 100000};
    (void)s;
    for (int step = 0; step < 3; step++) {
        p->members[0].endpoint->up_since = clock_ms() - ages[step];
        for (unsigned i = 0; i < KEYS; i++)
            got[step] += index_of(p, picked(p, key_of(i))) == 0;
    }
    assert_in_range(got[0], KEYS / 11 * 95 / 100, KEYS / 11 * 105 / 100); /* a tenth against one */
    assert_in_range(got[1], KEYS / 3 * 95 / 100, KEYS / 3 * 105 / 100);   /* a half against one */
    assert_in_range(got[2], KEYS / 2 * 95 / 100, KEYS / 2 * 105 / 100);
    world_unref(w);
}

static void keys_differ_by_identity_and_model(void **s) {
    (void)s;
    assert_int_equal(route_key(STR("a"), STR("m")), route_key(STR("a"), STR("m")));
    assert_int_not_equal(route_key(STR("a"), STR("m")), route_key(STR("b"), STR("m")));
    assert_int_not_equal(route_key(STR("a"), STR("m")), route_key(STR("a"), STR("n")));
    assert_int_not_equal(route_key(STR("m"), STR("a")), route_key(STR("a"), STR("m")));
    assert_int_not_equal(route_key(STR_NONE, STR("m")), route_key(STR("m"), STR("m")));
    assert_int_equal(route_key(STR("a"), STR("m")), route_key_hashed(route_hash(STR("a")), true, STR("m")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_weights_share_equally),
        cmocka_unit_test(weights_hold_within_5_percent),
        cmocka_unit_test(extreme_weights_hold),
        cmocka_unit_test(losing_one_moves_only_its_keys),
        cmocka_unit_test(adding_one_takes_only_its_share),
        cmocka_unit_test(the_bits_never_change),
        cmocka_unit_test(a_full_one_spills_to_the_next),
        cmocka_unit_test(a_down_or_tried_one_fails_over),
        cmocka_unit_test(imbalance_is_bounded),
        cmocka_unit_test(affinity_none_takes_the_least_busy_by_turns),
        cmocka_unit_test(slow_start_grows_the_weight),
        cmocka_unit_test(keys_differ_by_identity_and_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
