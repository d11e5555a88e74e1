#include "unit.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block.h"
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
    assert_null(conn.held); /* in the scratch: it holds no memory */
    conn_consume(&conn, 6);
    assert_int_equal(conn_fill(&other, 100), IO_OK); /* takes the scratch over; what was unread moves */
    assert_true(str_eq(conn_in(&conn), STR("half")));
    assert_true(str_eq(conn_in(&other), STR("other")));
    assert_int_equal(write(pair[1], "!", 1), 1);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_true(str_eq(conn_in(&conn), STR("half!")));
    conn_consume(&conn, 5);
    assert_null(conn.held);
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
    assert_true(conn_owes(&conn) > 0);
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
    assert_int_equal(conn_owes(&conn), 0);
    assert_null(conn.held);
    tear_down();
}

/* What is unread and what is owed come and go by themselves; memory is held while there is either. */
static void holds_both_ways(void **state) {
    static char big[4 << 20], sink[65536];
    struct iovec v = {big, sizeof big};
    (void)state;
    pipe_up(just_count);
    assert_int_equal(write(pair[1], "half", 4), 4);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_true(conn_settle(&conn));
    assert_non_null(conn.held);
    assert_int_equal(conn_write(&conn, &v, 1), IO_AGAIN);
    conn_consume(&conn, 4); /* what is owed stays */
    assert_int_equal(conn_in(&conn).len, 0);
    assert_true(conn_owes(&conn) > 0);
    assert_int_equal(write(pair[1], "more", 4), 4);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    assert_true(conn_settle(&conn));
    while (conn_owes(&conn)) {
        while (read(pair[1], sink, sizeof sink) > 0) {
        }
        loop_turn(1000);
        if (conn_writable(&conn)) conn_flush(&conn);
    }
    assert_non_null(conn.held); /* what is unread stays */
    assert_true(str_eq(conn_in(&conn), STR("more")));
    conn_consume(&conn, 0);
    conn_consume(&conn, 4);
    assert_null(conn.held);
    assert_int_equal(conn_write(&conn, &v, 1), IO_AGAIN);
    tear_down(); /* with all it owes */
    assert_null(conn.held);
}

static void without_memory_it_is_broken(void **state) {
    static char big[4 << 20];
    struct iovec v = {big, sizeof big};
    (void)state;
    pipe_up(just_count);
    assert_int_equal(write(pair[1], "half", 4), 4);
    loop_turn(1000);
    assert_int_equal(conn_fill(&conn, 100), IO_OK);
    block_test_fail_after(1);
    assert_false(conn_settle(&conn));
    block_test_fail_after(-1);
    assert_true(conn.broken);
    assert_int_equal(conn_in(&conn).len, 0);
    assert_int_equal(conn_fill(&conn, 100), IO_FAIL);
    assert_int_equal(conn_write(&conn, &v, 1), IO_FAIL);
    tear_down();
    assert_null(conn.held);
}

static void reads_and_writes_in_bits(void **state) {
    struct iovec v[3] = {{(char[]){"ab"}, 2}, {(char[]){""}, 0}, {(char[]){"cde"}, 3}};
    char sink[16];
    (void)state;
    pipe_up(just_count);
    conn_test_limit(1);
    assert_int_equal(conn_write(&conn, v, 3), IO_AGAIN);
    while (conn_owes(&conn))
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

/* ---- splice ---- */

static int far[2];
static struct conn to;

/* far[1] ==> far[0], which `conn` has, --splice--> pair[0], which `to` has, ==> pair[1]. TCP, as between the router's peers. */
static void tcp_pair(int ends[2]) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
    ends[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(ends[1], (struct sockaddr *)&a, n), 0);
    ends[0] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(ends[0] >= 0);
    assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    close(l);
}

static void splice_up(void) {
    tcp_pair(far);
    tcp_pair(pair);
    assert_true(conn_open(&conn, far[0], CONN_ENDPOINT, just_count));
    assert_true(conn_open(&to, pair[0], CONN_CLIENT, just_count));
    assert_true(conn_can_splice());
}

static void splice_down(void) {
    conn_close(&conn);
    conn_close(&to);
    close(far[1]);
    close(pair[1]);
    loop_turn(0);
}

static char pattern(size_t i) {
    return (char)(i * 7 + i / 251);
}

/* As much of the pattern as the kernel takes, from *at up to n. */
static void offer(size_t *at, size_t n) {
    char piece[4096];
    while (*at < n) {
        size_t len = n - *at < sizeof piece ? n - *at : sizeof piece;
        for (size_t i = 0; i < len; i++)
            piece[i] = pattern(*at + i);
        ssize_t put = write(far[1], piece, len);
        if (put <= 0) return;
        *at += (size_t)put;
    }
}

/* What the far end of `to` has got; at most n bytes of it. */
static void collect(size_t *got, size_t n) {
    char piece[4096];
    ssize_t k;
    while (n && (k = read(pair[1], piece, n < sizeof piece ? n : sizeof piece)) > 0) {
        for (ssize_t i = 0; i < k; i++)
            if (piece[i] != pattern(*got + (size_t)i)) fail_msg("byte %zu is another", *got + (size_t)i);
        *got += (size_t)k;
        n -= (size_t)k;
    }
}

/* Moves n bytes of the pattern; the far end takes `appetite` of them a round, and none in the first `fasting` rounds. */
static void move_all(size_t n, size_t most, size_t appetite, int fasting) {
    size_t offered = 0, moved_all = 0, got = 0;
    bool owed = false;
    for (int round = 0; got < n; round++) {
        enum io wrote = IO_OK;
        size_t moved = 0;
        offer(&offered, n);
        loop_turn(moved_all < n ? 0 : 1);
        if (conn_owes(&to)) {
            owed = true;
            if (conn_writable(&to)) conn_flush(&to);
        }
        if (!conn_owes(&to) && conn_readable(&conn) && moved_all < n) {
            enum io r = conn_splice(&conn, &to, most < n - moved_all ? most : n - moved_all, &moved, &wrote);
            assert_true(r == IO_OK || (r == IO_AGAIN && !moved));
            assert_true(moved <= most && wrote != IO_FAIL);
            assert_int_equal(wrote == IO_AGAIN, conn_owes(&to) != 0);
            moved_all += moved;
        }
        if (round >= fasting) collect(&got, appetite);
        assert_true(round < 1000000);
    }
    assert_int_equal(moved_all, n);
    assert_int_equal(conn_owes(&to), 0);
    assert_int_equal(owed, fasting > 0);
}

static void splices_every_byte(void **state) {
    (void)state;
    splice_up();
    uint64_t in = conn_totals()->received[CONN_ENDPOINT], out = conn_totals()->sent[CONN_CLIENT];
    move_all(3 << 20, CONN_SCRATCH, SIZE_MAX, 0);
    assert_int_equal(conn_totals()->received[CONN_ENDPOINT] - in, 3 << 20);
    assert_int_equal(conn_totals()->sent[CONN_CLIENT] - out, 3 << 20);
    splice_down();
}

static void splice_owes_what_is_not_taken(void **state) {
    (void)state;
    splice_up();
    move_all(24 << 20, CONN_SCRATCH, 100000, 400); /* until neither kernel takes more, then in small sips */
    splice_down();
}

/* One byte in, one byte out, EAGAIN after each: every byte is owed or spliced alone. */
static void splice_in_bits(void **state) {
    (void)state;
    for (size_t limit = 1; limit <= 1000; limit *= 10) {
        size_t offered = 0, got = 0, moved;
        enum io wrote;
        splice_up();
        offer(&offered, 5000);
        while (got < 5000) {
            conn_test_limit(limit);
            loop_turn(0);
            if (conn_owes(&to)) conn_flush(&to);
            if (!conn_owes(&to) && conn_readable(&conn)) {
                enum io r = conn_splice(&conn, &to, 5000, &moved, &wrote);
                assert_true(r == IO_AGAIN || (r == IO_OK && moved >= 1 && moved <= limit));
            }
            conn_test_limit(0);
            collect(&got, SIZE_MAX);
        }
        splice_down();
    }
}

static void splice_sees_the_ends(void **state) {
    size_t moved, at = 0, got = 0;
    enum io wrote;
    (void)state;
    splice_up();
    assert_int_equal(conn_splice(&conn, &to, 100, &moved, &wrote), IO_AGAIN); /* nothing there */
    assert_int_equal(wrote, IO_OK);
    assert_false(conn_readable(&conn));
    offer(&at, 1000);
    shutdown(far[1], SHUT_WR);
    loop_turn(1000);
    assert_int_equal(conn_splice(&conn, &to, 5000, &moved, &wrote), IO_OK);
    assert_int_equal(moved, 1000);
    assert_true(conn_readable(&conn)); /* a short one says nothing: the end is still to be read */
    assert_int_equal(conn_splice(&conn, &to, 5000, &moved, &wrote), IO_END);
    assert_int_equal(moved, 0);
    assert_true(conn.ended);
    assert_int_equal(conn_splice(&conn, &to, 5000, &moved, &wrote), IO_END);
    collect(&got, SIZE_MAX);
    assert_int_equal(got, 1000);
    splice_down();
}

/* The taker is gone in the middle: what was in the pipe is nobody's, and must not come out on the next connection. */
static void splice_to_one_who_left(void **state) {
    size_t moved, at = 0;
    enum io wrote = IO_OK;
    (void)state;
    splice_up();
    struct linger l = {1, 0};
    setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(pair[1]);
    offer(&at, 3000);
    loop_turn(1000);
    for (int i = 0; i < 1000 && wrote != IO_FAIL; i++) { /* the reset may take a moment to be seen */
        loop_turn(1);
        if (!conn_readable(&conn)) break;
        conn_splice(&conn, &to, 10, &moved, &wrote);
    }
    assert_int_equal(wrote, IO_FAIL);
    conn_close(&conn);
    conn_close(&to);
    close(far[1]);
    loop_turn(0);
    splice_up();
    move_all(100000, CONN_SCRATCH, SIZE_MAX, 0); /* its first byte is its own */
    splice_down();
    splice_up(); /* nor is anything moved to one that is broken already */
    to.broken = true;
    assert_int_equal(conn_splice(&conn, &to, 10, &moved, &wrote), IO_AGAIN);
    assert_int_equal(wrote, IO_FAIL);
    splice_down();
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
        cmocka_unit_test(bits_stay_until_eagain),
        cmocka_unit_test(short_read_saves_a_call),
        cmocka_unit_test(scratch_is_settled),
        cmocka_unit_test(owes_what_the_kernel_does_not_take),
        cmocka_unit_test(reads_and_writes_in_bits),
        cmocka_unit_test(reads_before_it_judges_a_failed_send),
        cmocka_unit_test(turn_has_its_order),
        cmocka_unit_test(a_closed_fd_is_not_called),
        cmocka_unit_test(splices_every_byte),
        cmocka_unit_test(splice_owes_what_is_not_taken),
        cmocka_unit_test(splice_in_bits),
        cmocka_unit_test(splice_sees_the_ends),
        cmocka_unit_test(splice_to_one_who_left),
        cmocka_unit_test(holds_both_ways),
        cmocka_unit_test(without_memory_it_is_broken),
    };
    return cmocka_run_group_tests_name("conn", tests, open_loop, shut);
}
