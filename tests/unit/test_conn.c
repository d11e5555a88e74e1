#include "unit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "conn.h"
#include "loop.h"
#include "timer.h"

static int pair[2];
static struct conn conn;
static int calls, deferred, buried;
static char order[64];

static void pipe_up(void (*ready)(struct loop_fd *)) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(conn_open(&conn, pair[0], CONN_CLIENT, ready));
    calls = 0;
}

static void tear_down(void) {
    conn_close(&conn);
    close(pair[1]);
    loop_turn(0);
}

static void just_count(struct loop_fd *io) {
    (void)io;
    calls++;
}

static void bits_stay_until_eagain(void **state) {
    (void)state;
    pipe_up(just_count);
    assert_int_equal(write(pair[1], "hello", 5), 5);
    loop_turn(1000);
    assert_int_equal(calls, 1);
    assert_true(conn_readable(&conn));
    loop_turn(0); /* nothing new: edge-triggered, so no call; but the bit stays */
    assert_int_equal(calls, 1);
    assert_true(conn_readable(&conn));
    loop_ready(&conn.io); /* an owner that stopped early puts itself on the list */
    loop_turn(-1);
    assert_int_equal(calls, 2);
    assert_int_equal(conn_fill(&conn, 5), IO_OK); /* exactly what was there: it may be more */
    assert_true(conn_readable(&conn));
    assert_int_equal(conn_fill(&conn, 5), IO_AGAIN);
    assert_false(conn_readable(&conn));
    assert_true(str_eq(conn_in(&conn), STR("hello")));
    tear_down();
}

static void short_read_saves_a_call(void **state) {
    (void)state;
    pipe_up(just_count);
    assert_int_equal(write(pair[1], "abc", 3), 3);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_false(conn_readable(&conn));
    conn_consume(&conn, 3);
    assert_int_equal(write(pair[1], "de", 2), 2);
    close(pair[1]);
    pair[1] = -1;
    loop_turn(1000);
    assert_true(conn.io.bits & LOOP_HUP);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_true(conn_readable(&conn)); /* after a HUP reads go on to the end: no edge may come any more */
    assert_int_equal(conn_fill(&conn, 100), IO_END);
    assert_false(conn_readable(&conn));
    assert_true(str_eq(conn_in(&conn), STR("de")));
    conn_close(&conn);
    loop_turn(0);
}

static void scratch_is_settled(void **state) {
    struct conn other;
    int two[2];
    (void)state;
    pipe_up(just_count);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two), 0);
    assert_true(conn_open(&other, two[0], CONN_ENDPOINT, just_count));
    assert_int_equal(write(pair[1], "first half", 10), 10);
    assert_int_equal(write(two[1], "other", 5), 5);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_null(conn.in.mem); /* in the scratch: it holds no memory */
    conn_consume(&conn, 6);
    assert_int_equal(conn_fill(&other, 100), IO_OK); /* takes the scratch over; what was unread moves */
    assert_true(str_eq(conn_in(&conn), STR("half")));
    assert_true(str_eq(conn_in(&other), STR("other")));
    assert_int_equal(write(pair[1], "!", 1), 1);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_true(str_eq(conn_in(&conn), STR("half!")));
    conn_consume(&conn, 5);
    assert_null(conn.in.mem);
    assert_true(conn_settle(&other));
    assert_true(str_eq(conn_in(&other), STR("other")));
    conn_close(&other);
    close(two[1]);
    tear_down();
}

static void owes_what_the_kernel_does_not_take(void **state) {
    static char big[4 << 20];
    struct iovec v[2] = {{(char[]){"<"}, 1}, {big, sizeof big}};
    size_t got = 0;
    char sink[65536];
    (void)state;
    memset(big, 'z', sizeof big);
    pipe_up(just_count);
    assert_int_equal(conn_write(&conn, v, 2), IO_AGAIN);
    assert_true(buf_len(&conn.out) > 0);
    assert_false(conn_writable(&conn));
    assert_int_equal(conn_write(&conn, v, 1), IO_AGAIN); /* goes behind what is owed */
    while (got < sizeof big + 2) {
        ssize_t n = read(pair[1], sink, sizeof sink);
        if (n > 0) {
            for (ssize_t i = 0; i < n; i++, got++)
                assert_int_equal(sink[i], got == 0 || got == sizeof big + 1 ? '<' : 'z');
            continue;
        }
        loop_turn(1000);
        if (conn_writable(&conn)) conn_flush(&conn);
    }
    assert_int_equal(buf_len(&conn.out), 0);
    assert_null(conn.out.mem);
    tear_down();
}

static void reads_and_writes_in_bits(void **state) {
    struct iovec v[3] = {{(char[]){"ab"}, 2}, {(char[]){""}, 0}, {(char[]){"cde"}, 3}};
    char sink[16];
    (void)state;
    pipe_up(just_count);
    conn_test_limit(1);
    assert_int_equal(conn_write(&conn, v, 3), IO_AGAIN);
    while (buf_len(&conn.out))
        conn_flush(&conn);
    assert_int_equal(read(pair[1], sink, sizeof sink), 5);
    assert_memory_equal(sink, "abcde", 5);
    assert_int_equal(write(pair[1], "xyz", 3), 3);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(conn_fill(&conn, 100), IO_OK);
        assert_int_equal(conn_in(&conn).len, i);
    }
    assert_int_equal(conn_fill(&conn, 100), IO_AGAIN);
    conn_test_limit(0);
    tear_down();
}

static void reads_before_it_judges_a_failed_send(void **state) {
    struct iovec v = {(char[]){"more"}, 4};
    size_t sent;
    (void)state;
    pipe_up(just_count);
    assert_int_equal(write(pair[1], "413", 3), 3);
    close(pair[1]);
    pair[1] = -1;
    loop_turn(1000);
    assert_int_equal(conn_send(&conn, &v, 1, &sent), IO_FAIL);
    assert_int_equal(conn_fill(&conn, 100), IO_OK); /* what it said before it hung up is still there */
    assert_true(str_eq(conn_in(&conn), STR("413")));
    conn_close(&conn);
    loop_turn(0);
}

/* ---- the turn ---- */

static struct loop_task late, later;

static void note(char c) {
    size_t n = strlen(order);
    order[n] = c;
    order[n + 1] = 0;
}

static void run_later(struct loop_task *t) {
    (void)t;
    note('e');
    deferred++;
}

static void run_late(struct loop_task *t) {
    (void)t;
    note('d');
    loop_defer(&later); /* deferred from within: still this turn */
}

static void bury(void *p) {
    note('g');
    buried++;
    free(p);
}

static void on_timer(struct timer *t) {
    (void)t;
    note('t');
}

static void on_fd(struct loop_fd *io) {
    (void)io;
    note('f');
    loop_defer(&late);
    loop_defer(&late); /* twice is once */
    loop_bury(malloc(10), bury);
}

static void turn_has_its_order(void **state) {
    struct timer timer;
    (void)state;
    order[0] = 0;
    timer_init(&timer, on_timer);
    loop_task_init(&late, run_late);
    loop_task_init(&later, run_later);
    pipe_up(on_fd);
    loop_turn(0);
    order[0] = 0;
    assert_int_equal(write(pair[1], "x", 1), 1);
    clock_update();
    timer_set(&timer, clock_ms());
    loop_turn(1000);
    assert_string_equal(order, "tfdeg");
    timer_drop(&timer);
    tear_down();
}

static struct conn victims[2];

static void close_the_other(struct loop_fd *io) {
    struct conn *me = list_entry(io, struct conn, io);
    calls++;
    conn_close(me == &victims[0] ? &victims[1] : &victims[0]);
}

static void a_closed_fd_is_not_called(void **state) {
    int a[2], b[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
    conn_open(&victims[0], a[0], CONN_CLIENT, close_the_other);
    conn_open(&victims[1], b[0], CONN_CLIENT, close_the_other);
    assert_int_equal(write(a[1], "x", 1), 1);
    assert_int_equal(write(b[1], "x", 1), 1);
    calls = 0;
    loop_turn(1000); /* both are told by one wait; the first closes the second */
    assert_int_equal(calls, 1);
    conn_close(&victims[0]);
    conn_close(&victims[1]);
    close(a[1]);
    close(b[1]);
    loop_turn(0);
}

static int open_loop(void **state) {
    (void)state;
    const char *problem = loop_open();
    return problem != NULL;
}

static int shut(void **state) {
    (void)state;
    loop_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_stay_until_eagain),   cmocka_unit_test(short_read_saves_a_call),
        cmocka_unit_test(scratch_is_settled),       cmocka_unit_test(owes_what_the_kernel_does_not_take),
        cmocka_unit_test(reads_and_writes_in_bits), cmocka_unit_test(reads_before_it_judges_a_failed_send),
        cmocka_unit_test(turn_has_its_order),       cmocka_unit_test(a_closed_fd_is_not_called),
    };
    return cmocka_run_group_tests_name("conn", tests, open_loop, shut);
}
