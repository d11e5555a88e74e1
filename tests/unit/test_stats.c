#include "unit.h"

#include "stats.h"

static void durations_fall_into_their_buckets(void **s) {
    struct histogram h = {0};
    (void)s;
    histogram_add(&h, -1); /* unknown: not counted */
    assert_int_equal(histogram_count(&h), 0);
    for (unsigned i = 0; i < STATS_BUCKETS - 1; i++) {
        histogram_add(&h, stats_bounds[i]);     /* a bound belongs to its bucket */
        histogram_add(&h, stats_bounds[i] + 1); /* one above to the next */
    }
    assert_int_equal(h.count[0], 1);
    for (unsigned i = 1; i < STATS_BUCKETS - 1; i++)
        assert_int_equal(h.count[i], 2);
    assert_int_equal(h.count[STATS_BUCKETS - 1], 1);
    assert_int_equal(histogram_count(&h), 2 * (STATS_BUCKETS - 1));
}

static void quantiles_are_interpolated(void **s) {
    struct histogram h = {0};
    (void)s;
    assert_int_equal(histogram_quantile(&h, 50), -1);
    for (int i = 0; i < 99; i++)
        histogram_add(&h, 80);
    histogram_add(&h, 9000);
    assert_in_range(histogram_quantile(&h, 50), 51, 100);
    assert_in_range(histogram_quantile(&h, 99), 51, 100);
    assert_in_range(histogram_quantile(&h, 100), 5001, 10000);
    histogram_add(&h, INT64_C(10000000));
    assert_int_equal(histogram_quantile(&h, 100), 600000); /* above all bounds: the last one is all that is known */
    assert_int_equal(h.sum_ms, 99 * 80 + 9000 + 10000000);
}

static void a_route_is_shared_while_somebody_has_it(void **s) {
    struct stats_route *a = stats_route_get("p", "http://h:1"), *b = stats_route_get("p", "http://h:1");
    struct stats_route *c = stats_route_get("q", "http://h:1");
    (void)s;
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    a->retries = 7;
    stats_route_put(b);
    assert_int_equal(stats_route_get("p", "http://h:1")->retries, 7);
    stats_route_put(a);
    stats_route_put(a);
    a = stats_route_get("p", "http://h:1"); /* the last one let go: it begins anew */
    assert_int_equal(a->retries, 0);
    stats_route_put(a);
    stats_route_put(c);
    assert_true(list_empty(stats_routes()));
}

static bool is_of_pool_p(const struct stats_model *m, const void *ctx) {
    return strcmp(m->pool, ctx) == 0;
}

static void models_are_found_again_and_dropped(void **s) {
    char name[16];
    unsigned n = 0;
    (void)s;
    for (int i = 0; i < 3000; i++) { /* several to a bucket */
        snprintf(name, sizeof name, "m%d", i);
        stats_model(i % 2 ? "p" : "q", name)->tokens[TOKENS_PROMPT] = (uint64_t)i;
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "m%d", i);
        assert_int_equal(stats_model(i % 2 ? "p" : "q", name)->tokens[TOKENS_PROMPT], i);
    }
    stats_models_keep(is_of_pool_p, "p");
    list_each(it, stats_models()) {
        assert_string_equal(list_entry(it, struct stats_model, link)->pool, "p");
        n++;
    }
    assert_int_equal(n, 1500);
    assert_int_equal(stats_model("p", "m1")->tokens[TOKENS_PROMPT], 1);
    assert_int_equal(stats_model("q", "m0")->tokens[TOKENS_PROMPT], 0);
    stats_close();
    assert_true(list_empty(stats_models()));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_fall_into_their_buckets),
        cmocka_unit_test(quantiles_are_interpolated),
        cmocka_unit_test(a_route_is_shared_while_somebody_has_it),
        cmocka_unit_test(models_are_found_again_and_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
