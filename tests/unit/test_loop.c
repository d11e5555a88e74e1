#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "loop.h"
#include "timer.h"

enum { A, B, C, D, COUNT };

static struct loop_fd fds[COUNT];
static int far[COUNT];
static char order[64];                 /* who was called, in order; a '|' ends a turn */
static int served[COUNT], late[COUNT]; /* how often each does its work and is ready again; how often it only yields */

static void note(char c) {
    size_t n = strlen(order);
    assert_in_range(n, 0, sizeof order - 2);
    order[n] = c;
    order[n + 1] = 0;
}

static void ready(struct loop_fd *io) {
    int i = (int)(io - fds);
    note((char)('a' + i));
    if (late[i]) {
        late[i]--;
        loop_yield(io);
    } else if (served[i]) {
        served[i]--;
        loop_ready(io);
    }
}

static void turn(void) {
    loop_turn(-1);
    note('|');
}

static int set_up(void **state) {
    (void)state;
    assert_null(loop_open());
    memset(served, 0, sizeof served);
    memset(late, 0, sizeof late);
    for (int i = 0; i < COUNT; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
        assert_true(loop_add(&fds[i], pair[0], ready, "test"));
        far[i] = pair[1];
    }
    loop_turn(1000); /* that they are writable is told */
    order[0] = 0;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        int fd = fds[i].fd;
        loop_remove(&fds[i]);
        if (fd >= 0) close(fd);
        close(far[i]);
    }
    loop_close();
    return 0;
}

static void everybody_once_a_turn_in_order(void **state) {
    (void)state;
    served[B] = 2;
    for (int i = 0; i < COUNT; i++)
        loop_ready(&fds[i]);
    loop_ready(&fds[A]); /* twice is once */
    turn();
    turn();
    turn();
    assert_string_equal(order, "abcd|b|b|");
}

/* A and B were served before the turn grew late for C and D: those two go first in the next, and only then are they behind. */
static void who_did_nothing_goes_first_in_the_next_turn(void **state) {
    (void)state;
    served[A] = served[B] = served[C] = served[D] = 2;
    late[C] = late[D] = 1;
    for (int i = 0; i < COUNT; i++)
        loop_ready(&fds[i]);
    turn();
    turn();
    turn();
    assert_string_equal(order, "abcd|cdab|cdab|");
}

static int budget; /* calls that a turn has time for */

static void serve_or_yield(struct loop_fd *io) {
    if (!budget) {
        loop_yield(io);
        return;
    }
    budget--;
    ready(io);
    loop_ready(io);
}

/* Four who always want more, and turns that have time for one: nobody starves. */
static void everybody_is_served_in_turn(void **state) {
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        fds[i].ready = serve_or_yield;
        loop_ready(&fds[i]);
    }
    for (int n = 0; n < 8; n++) {
        budget = 1;
        loop_turn(-1);
    }
    assert_string_equal(order, "abcdabcd");
}

static void the_next_wait_does_not_wait_for_who_yielded(void **state) {
    (void)state;
    late[A] = 1;
    loop_ready(&fds[A]);
    turn();
    turn(); /* would hang: nothing else is due */
    assert_string_equal(order, "a|a|");
}

static void yields_though_it_is_ready_already(void **state) {
    (void)state;
    loop_ready(&fds[A]);
    loop_ready(&fds[B]);
    loop_yield(&fds[B]);
    loop_ready(&fds[B]); /* it stays where it is */
    turn();
    assert_string_equal(order, "ba|");
}

static void the_kernels_word_does_not_move_it_back(void **state) {
    (void)state;
    loop_ready(&fds[A]);
    loop_yield(&fds[B]);
    assert_int_equal(write(far[B], "x", 1), 1);
    turn();
    assert_string_equal(order, "ba|");
    assert_true(fds[B].bits & LOOP_READABLE);
}

static void removed_it_is_not_called(void **state) {
    (void)state;
    loop_yield(&fds[A]);
    loop_yield(&fds[B]);
    int fd = fds[A].fd;
    loop_remove(&fds[A]);
    loop_remove(&fds[A]);
    close(fd);
    turn();
    assert_string_equal(order, "b|");
}

/* ---- what came in time is noted before a timer is judged ---- */

#define MANY 600 /* more than one wait tells of */

static struct loop_fd many[MANY];
static struct timer deadline;
static int seen;

static void nothing(struct loop_fd *io) {
    (void)io;
}

static void count_readable(struct timer *t) {
    (void)t;
    for (int i = 0; i < MANY; i++)
        seen += many[i].fd >= 0 && (many[i].bits & LOOP_READABLE);
}

static void all_that_many_said_is_noted_before_a_timer(void **state) {
    static int ends[MANY];
    (void)state;
    for (int i = 0; i < MANY; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
        assert_true(loop_add(&many[i], pair[0], nothing, "test"));
        assert_int_equal(write(ends[i] = pair[1], "x", 1), 1);
    }
    seen = 0;
    timer_init(&deadline, count_readable);
    timer_set(&deadline, clock_ms());
    loop_turn(0);
    assert_int_equal(seen, MANY);
    for (int i = 0; i < MANY; i++) {
        int fd = many[i].fd;
        loop_remove(&many[i]);
        close(fd);
        close(ends[i]);
    }
}

static void say_something_late(int signal) {
    struct timespec beyond = {0, 100000000};
    (void)signal;
    if (write(far[A], "x", 1) != 1) abort();
    nanosleep(&beyond, NULL);
}

static void ask_a(struct timer *t) {
    (void)t;
    seen = (fds[A].bits & LOOP_READABLE) != 0;
}

/* As SIGSTOP and SIGCONT do, which leave an EINTR behind. */
static void interrupted_it_asks_again_before_a_timer(void **state) {
    struct sigaction act = {.sa_handler = say_something_late}, before;
    struct itimerval soon = {.it_value.tv_usec = 20000};
    (void)state;
    assert_int_equal(sigaction(SIGALRM, &act, &before), 0);
    seen = -1;
    clock_update();
    timer_init(&deadline, ask_a);
    timer_set(&deadline, clock_ms() + 60);
    assert_int_equal(setitimer(ITIMER_REAL, &soon, NULL), 0);
    while (seen < 0)
        loop_turn(1000);
    assert_int_equal(seen, 1);
    sigaction(SIGALRM, &before, NULL);
}

static void work_for_6_ms(void) {
    for (int64_t end = clock_now_us() + 6000; clock_now_us() < end;) {
    }
}

static void slow_step(struct loop_fd *io) {
    (void)io;
    work_for_6_ms();
}

static void slow_timer(struct timer *t) {
    (void)t;
    work_for_6_ms();
}

static void at_debug_slow_steps_are_told_with_their_module(void **state) {
    int told[2], err = dup(STDERR_FILENO), fd = fds[A].fd;
    char text[2048] = "";
    (void)state;
    assert_int_equal(pipe2(told, O_CLOEXEC | O_NONBLOCK), 0);
    assert_true(err >= 0 && dup2(told[1], STDERR_FILENO) >= 0);
    loop_remove(&fds[A]);
    assert_true(loop_add(&fds[A], fd, slow_step, "slowpoke"));
    loop_ready(&fds[A]);
    loop_turn(0); /* at info: nothing is timed, nothing told */
    log_set_level(LOG_DEBUG);
    loop_ready(&fds[B]);
    loop_turn(0);
    bool blamed = read(told[0], text, sizeof text - 1) > 0 &&
                  strstr(text, "slowpoke"); /* of the rest nothing can be said on a busy machine */
    memset(text, 0, sizeof text);
    loop_ready(&fds[A]);
    clock_update();
    timer_init(&deadline, slow_timer);
    timer_set(&deadline, clock_ms());
    loop_turn(0);
    log_set_level(LOG_INFO);
    ssize_t n = read(told[0], text, sizeof text - 1);
    dup2(err, STDERR_FILENO);
    close(err), close(told[0]), close(told[1]);
    assert_false(blamed);
    assert_true(n > 0);
    assert_non_null(strstr(text, "debug loop: a step of timers took "));
    assert_non_null(strstr(text, "debug loop: a step of slowpoke took "));
    assert_non_null(strstr(text, "debug loop: a turn took "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everybody_once_a_turn_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_did_nothing_goes_first_in_the_next_turn, set_up, tear_down),
        cmocka_unit_test_setup_teardown(everybody_is_served_in_turn, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_next_wait_does_not_wait_for_who_yielded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(yields_though_it_is_ready_already, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_kernels_word_does_not_move_it_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(removed_it_is_not_called, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_that_many_said_is_noted_before_a_timer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(interrupted_it_asks_again_before_a_timer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(at_debug_slow_steps_are_told_with_their_module, set_up, tear_down),
    };
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && (files.rlim_cur = files.rlim_max)) (void)setrlimit(RLIMIT_NOFILE, &files);
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
