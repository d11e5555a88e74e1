#include "unit.h"

#include "txn.h"

/* What a running stream holds, between two events, are these three and two places in the timers' heap; most wait for a token most of
 * the time, so it is these bytes that decide how many of them a machine bears. Who needs a field for a part of a request's life only
 * gives it a struct of its own, from a slab (client_reading, waiting, tried, conn_held), or a place that another part of that life
 * leaves free (upstream.due). */
static void an_idle_stream_stays_small(void **state) {
    (void)state;
    assert_in_range(sizeof(struct client), 1, 152);
    assert_in_range(sizeof(struct upstream), 1, 328);
    assert_in_range(sizeof(struct txn), 1, 400);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_idle_stream_stays_small)};
    return cmocka_run_group_tests_name("txn", tests, NULL, NULL);
}
