#include "unit.h"

#include "clock.h"
#include "timer.h"

#define MANY 5000

static int fired[MANY];
static struct timer timers[MANY];

static void count(struct timer *t) {
    fired[t - timers]++;
}

static void reset(void) {
    memset(fired, 0, sizeof fired);
    for (int i = 0; i < MANY; i++)
        timer_init(&timers[i], count);
}

static void fires_in_time(void **state) {
    (void)state;
    reset();
    for (int i = 0; i < 1000; i++)
        timer_set(&timers[i], (i * 7919) % 1000);
    for (int now = 0; now < 1000; now++) {
        timer_run(now);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(fired[i], (i * 7919) % 1000 <= now);
    }
    assert_true(timer_next() == TIMER_NEVER);
}

static void moves_lazily(void **state) {
    (void)state;
    reset();
    timer_set(&timers[0], 10);
    timer_set(&timers[0], 50); /* later: the heap still looks at 10 */
    assert_int_equal(timer_next(), 10);
    timer_run(20);
    assert_int_equal(fired[0], 0);
    assert_int_equal(timer_next(), 50);
    timer_set(&timers[0], 30); /* earlier */
    assert_int_equal(timer_next(), 30);
    timer_run(30);
    assert_int_equal(fired[0], 1);
    timer_set(&timers[0], 60);
    timer_set(&timers[0], TIMER_NEVER);
    timer_run(100);
    assert_int_equal(fired[0], 1);
    assert_true(timer_next() == TIMER_NEVER);
}

static struct timer killer, victim, again;
static int killed, repeats;

static void kill_victim(struct timer *t) {
    (void)t;
    timer_drop(&victim);
}

static void victim_fires(struct timer *t) {
    (void)t;
    killed++;
}

static void repeat(struct timer *t) {
    repeats++;
    timer_set(t, 0);
}

static void obeys_changes_within_a_run(void **state) {
    (void)state;
    timer_init(&killer, kill_victim);
    timer_init(&victim, victim_fires);
    timer_init(&again, repeat);
    timer_set(&killer, 1);
    timer_set(&victim, 2);
    timer_set(&again, 3);
    timer_run(10);
    assert_int_equal(killed, 0);
    assert_int_equal(repeats, 1); /* set to "now" within the run: the next run's */
    timer_run(10);
    assert_int_equal(repeats, 2);
    timer_drop(&again);
    timer_drop(&again);
    assert_true(timer_next() == TIMER_NEVER);
}

/* Those that want nothing any more leave when the heap is full: what stays fires at its time, what left can come again. */
static void lets_go_of_those_that_want_nothing(void **state) {
    int in_heap = 0;
    (void)state;
    reset();
    for (int i = 0; i < MANY; i++) {
        timer_set(&timers[i], 100 + (i * 7919) % 1000);
        if (i % 4) timer_set(&timers[i], TIMER_NEVER);
    }
    for (int i = 0; i < MANY; i++)
        in_heap += timers[i].slot != 0;
    assert_in_range(in_heap, MANY / 4, MANY / 2);
    for (int i = 1; i < MANY; i += 4)
        timer_set(&timers[i], 50 + i % 1000); /* some that left, some that did not */
    for (int now = 0; now < 1200; now++) {
        timer_run(now);
        for (int i = 0; i < MANY; i++)
            assert_int_equal(fired[i], i % 4 == 0 ? 100 + (i * 7919) % 1000 <= now : i % 4 == 1 && 50 + i % 1000 <= now);
    }
    assert_true(timer_next() == TIMER_NEVER);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fires_in_time), cmocka_unit_test(moves_lazily),
                                       cmocka_unit_test(obeys_changes_within_a_run),
                                       cmocka_unit_test(lets_go_of_those_that_want_nothing)};
    return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
