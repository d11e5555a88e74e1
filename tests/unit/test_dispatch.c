#include "unit.h"

#include "buf.h"
#include "clock.h"
#include "dispatch.h"
#include "loop.h"

struct request {
    struct dispatch d;
    int granted, refused, refreshed;
    enum why why;
};

static struct request r[8];
static struct world *world;

static struct request *of(struct dispatch *d) {
    return list_entry(d, struct request, d);
}

static uint64_t enter(struct dispatch *d, const struct pool *p) {
    (void)d, (void)p;
    return 1;
}

static void granted(struct dispatch *d) {
    of(d)->granted++;
}

static void refused(struct dispatch *d, enum why why) {
    of(d)->refused++;
    of(d)->why = why;
    dispatch_release(d); /* as a request does that ends */
}

static void refresh(struct dispatch *d) {
    of(d)->refreshed++;
}

static const struct dispatch_user user = {enter, granted, refused, refresh};

/* One pool of n endpoints, each with room for one request. */
static void begin(unsigned n, const char *queue) {
    struct buf text = {0};
    struct conf_findings f = {0};
    buf_printf(&text, "pools:\n  - name: p\n    models: [m]\n    max_inflight: 1\n    queue: %s\n    endpoints:\n", queue);
    for (unsigned i = 1; i <= n; i++)
        buf_printf(&text, "      - http://10.0.0.%u\n", i);
    struct conf *c = conf_parse("test", buf_ptr(&text), buf_len(&text), &f);
    for (size_t i = 0; i < f.count; i++)
        print_error("%s\n", f.items[i].text);
    assert_non_null(c);
    conf_findings_free(&f);
    buf_free(&text);
    world = world_build(c);
    world_activate(world);
    memset(r, 0, sizeof r);
    for (size_t i = 0; i < sizeof r / sizeof *r; i++)
        r[i].d.api = &user;
    clock_update();
}

static void start(int i) {
    dispatch_start(&r[i].d, world->pools);
}

static void end(void) {
    for (size_t i = 0; i < sizeof r / sizeof *r; i++)
        dispatch_release(&r[i].d);
    assert_int_equal(dispatch_queued(), 0);
    assert_int_equal(world->pools->live->queued, 0);
    for (size_t i = 0; i < world->pools->nmembers; i++)
        assert_int_equal(world->pools->members[i].endpoint->in_flight, 0);
    loop_turn(0);
    world_deactivate();
}

static void first_come_first_served(void **state) {
    (void)state;
    begin(1, "{size: 5, timeout: 60s}");
    for (int i = 0; i < 4; i++)
        start(i);
    assert_int_equal(r[0].granted, 1);
    assert_null(r[0].d.waiting);
    assert_int_equal(dispatch_queued(), 3);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(r[i].granted, 0);
        assert_non_null(r[i].d.waiting);
        dispatch_release(&r[i - 1].d);
        assert_int_equal(r[i].granted, 0); /* at the end of the turn, not before */
        loop_turn(0);
        assert_int_equal(r[i].granted, 1);
        assert_null(r[i].d.waiting);
        assert_int_equal(dispatch_queued(), 3 - i);
    }
    end();
}

static void who_leaves_holds_nobody_up(void **state) {
    (void)state;
    begin(1, "{size: 5, timeout: 60s}");
    for (int i = 0; i < 4; i++)
        start(i);
    dispatch_release(&r[1].d); /* the first in the queue, then one behind, both of them twice */
    dispatch_release(&r[1].d);
    dispatch_release(&r[3].d);
    dispatch_release(&r[3].d);
    assert_int_equal(dispatch_queued(), 1);
    dispatch_release(&r[0].d);
    loop_turn(0);
    assert_int_equal(r[2].granted, 1);
    assert_int_equal(r[1].granted + r[3].granted, 0);
    start(1); /* a place given back can be taken again */
    assert_non_null(r[1].d.waiting);
    dispatch_release(&r[2].d);
    loop_turn(0);
    assert_int_equal(r[1].granted, 1);
    end();
}

static void a_queue_has_an_end(void **state) {
    (void)state;
    begin(1, "{size: 2, timeout: 60s}");
    for (int i = 0; i < 4; i++)
        start(i);
    assert_int_equal(dispatch_queued(), 2);
    assert_int_equal(r[3].refused, 1);
    assert_int_equal(r[3].why, WHY_FULL);
    assert_int_equal(r[0].refused + r[1].refused + r[2].refused, 0);
    end();
}

static void waiting_has_an_end(void **state) {
    (void)state;
    begin(1, "{size: 5, timeout: 30ms}");
    for (int i = 0; i < 3; i++)
        start(i);
    int64_t began = clock_ms();
    while (!r[2].refused)
        loop_turn(-1);
    assert_true(clock_ms() - began >= 30);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(r[i].refused, 1);
        assert_int_equal(r[i].why, WHY_FULL);
        assert_in_range(dispatch_waited(&r[i].d), 30, clock_ms() - began);
    }
    assert_int_equal(dispatch_waited(&r[0].d), 0);
    assert_int_equal(dispatch_queued(), 0);
    end();
}

/* The time in a queue is told while it runs, and stays told. */
static void waiting_is_counted(void **state) {
    (void)state;
    begin(1, "{size: 5, timeout: 60s}");
    start(0);
    start(1);
    int64_t began = clock_ms();
    while (clock_ms() - began < 20)
        loop_turn(1);
    assert_int_equal(dispatch_waited(&r[1].d), clock_ms() - began);
    dispatch_release(&r[0].d);
    loop_turn(0);
    assert_int_equal(r[1].granted, 1);
    int64_t waited = dispatch_waited(&r[1].d);
    assert_in_range(waited, 20, clock_ms() - began);
    int64_t later = clock_ms();
    while (clock_ms() - later < 5)
        loop_turn(1);
    assert_int_equal(dispatch_waited(&r[1].d), waited);
    end();
}

static void the_next_is_another(void **state) {
    (void)state;
    begin(2, "{size: 5, timeout: 60s}");
    assert_null(dispatch_last(&r[0].d));
    start(0);
    const struct endpoint *first = dispatch_last(&r[0].d);
    assert_true(dispatch_next(&r[0].d));
    const struct endpoint *second = dispatch_last(&r[0].d);
    assert_int_equal(r[0].granted, 2);
    assert_int_equal(r[0].d.tries, 2);
    assert_ptr_not_equal(first, second);
    assert_int_equal(first->in_flight, 0);
    assert_int_equal(second->in_flight, 1);
    assert_false(dispatch_next(&r[0].d)); /* both were tried */
    assert_ptr_equal(dispatch_last(&r[0].d), second);
    assert_int_equal(second->in_flight, 0);
    end();
}

/* One that failed somewhere waits for what is left to it. */
static void the_next_may_have_to_wait(void **state) {
    (void)state;
    begin(2, "{size: 5, timeout: 60s}");
    start(0);
    start(1);
    assert_int_equal(r[1].granted, 1);
    assert_true(dispatch_next(&r[0].d));
    assert_int_equal(r[0].granted, 1);
    assert_non_null(r[0].d.waiting);
    loop_turn(0); /* the slot it gave back is free, but it failed there */
    assert_int_equal(r[0].granted, 1);
    dispatch_release(&r[1].d);
    loop_turn(0);
    assert_int_equal(r[0].granted, 2);
    end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_come_first_served),   cmocka_unit_test(who_leaves_holds_nobody_up),
        cmocka_unit_test(a_queue_has_an_end),        cmocka_unit_test(waiting_has_an_end),
        cmocka_unit_test(waiting_is_counted),        cmocka_unit_test(the_next_is_another),
        cmocka_unit_test(the_next_may_have_to_wait),
    };
    if (loop_open()) return 1;
    return cmocka_run_group_tests_name("dispatch", tests, NULL, NULL);
}
