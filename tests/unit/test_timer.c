#include "unit.h"

#include "clock.h"
#include "timer.h"

static int fired[1000];
static struct timer timers[1000];

static void count(struct timer *t) {
    fired[t - timers]++;
}

static void reset(void) {
    memset(fired, 0, sizeof fired);
    for (int i = 0; i < 1000; i++)
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fires_in_time), cmocka_unit_test(moves_lazily),
                                       cmocka_unit_test(obeys_changes_within_a_run)};
    return cmocka_run_group_tests_name("timer", tests, NULL, NULL);
}
