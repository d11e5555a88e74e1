#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sock.h"

static struct sock_addr addr(const char *text) {
    struct sock_addr a = {.len = sizeof a.u.in4, .u.in4 = {.sin_family = AF_INET, .sin_port = htons(80)}};
    if (inet_pton(AF_INET, text, &a.u.in4.sin_addr) == 1) return a;
    a = (struct sock_addr){.len = sizeof a.u.in6, .u.in6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)}};
    assert_int_equal(inet_pton(AF_INET6, text, &a.u.in6.sin6_addr), 1);
    return a;
}

static void texts(void **state) {
    static const struct {
        const char *in, *ip, *text;
    } rows[] = {
        {"1.2.3.4", "1.2.3.4", "1.2.3.4:80"},
        {"0.0.0.0", "0.0.0.0", "0.0.0.0:80"},
        {"10.20.199.255", "10.20.199.255", "10.20.199.255:80"},
        {"::1", "::1", "[::1]:80"},
        {"::", "::", "[::]:80"},
        {"2001:db8::a", "2001:db8::a", "[2001:db8::a]:80"},
        {"::ffff:9.8.7.6", "9.8.7.6", "[9.8.7.6]:80"},
    };
    char out[SOCK_TEXT];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sock_addr a = addr(rows[i].in);
        struct in6_addr host = sock_host(&a);
        assert_string_equal(sock_ip(&a, out), rows[i].ip);
        assert_string_equal(sock_host_text(&host, out), rows[i].ip);
        assert_string_equal(sock_text(&a, out), rows[i].text);
    }
}

static void a_unix_socket_has_no_host(void **state) {
    struct sock_addr a = {.len = sizeof a.u.un, .u.un = {.sun_family = AF_UNIX, .sun_path = "/run/x"}};
    struct in6_addr host = sock_host(&a);
    char out[SOCK_TEXT];
    (void)state;
    assert_true(IN6_IS_ADDR_UNSPECIFIED(&host));
    assert_string_equal(sock_ip(&a, out), "");
    assert_string_equal(sock_text(&a, out), "unix:/run/x");
}

/* The same caller by a socket for IPv4 and by one for both. */
static void one_caller_has_one_host(void **state) {
    struct sock_addr v4 = addr("1.2.3.4"), v6 = addr("::ffff:1.2.3.4");
    struct in6_addr a = sock_host(&v4), b = sock_host(&v6);
    (void)state;
    assert_memory_equal(&a, &b, sizeof a);
}

/* What the kernel says of a connection, in place of its own word; NULL: that. */
static const struct tcp_info *told;

int getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
    int r = (int)syscall(SYS_getsockopt, fd, level, name, value, len);
    if (r == 0 && told && level == IPPROTO_TCP && name == TCP_INFO) memcpy(value, told, *len < sizeof *told ? *len : sizeof *told);
    return r;
}

static int option(int fd, int level, int name) {
    int n = -1;
    socklen_t len = sizeof n;
    assert_int_equal(getsockopt(fd, level, name, &n, &len), 0);
    return n;
}

static int listening(struct sock_addr *bound) {
    struct sock_addr a = {.len = sizeof a.u.in4, .u.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    int fd = sock_listen(&a, false, 10);
    assert_true(fd >= 0);
    assert_true(sock_local(fd, bound));
    return fd;
}

static void lost_is_what_was_tried_and_never_acknowledged(void **state) {
    static const struct {
        unsigned char retransmits, probes;
        unsigned silent;
        bool lost;
    } rows[] = {
        {3, 0, 50001, true},          {0, 3, 50001, true},       {3, 3, 50001, true},
        {255, 255, UINT32_MAX, true}, {3, 0, 50000, false},      {0, 3, 50000, false}, /* its time is not over */
        {2, 2, 50001, false},         {0, 0, UINT32_MAX, false}, /* it was not tried: nothing was sent, or nothing is owed */
        {3, 0, 100, false},           {0, 3, 100, false},        /* a full window: every probe is confirmed */
        {255, 255, 0, false},         {0, 1, 130001, true},      {0, 1, 130000, false}, /* probes two minutes apart */
    };
    struct sock_addr a;
    bool done;
    (void)state;
    int listener = listening(&a), fd = sock_connect(&a, &done);
    assert_true(fd >= 0);
    assert_false(sock_peer_lost(fd)); /* the kernel's own word */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tcp_info info = {
            .tcpi_retransmits = rows[i].retransmits, .tcpi_probes = rows[i].probes, .tcpi_last_ack_recv = rows[i].silent};
        told = &info;
        bool lost = sock_peer_lost(fd);
        told = NULL;
        if (lost != rows[i].lost) fail_msg("row %zu: %d", i, lost);
    }
    close(fd);
    close(listener);
}

static void a_unix_socket_or_no_socket_is_never_lost(void **state) {
    int pair[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_false(sock_peer_lost(pair[0]));
    close(pair[0]);
    close(pair[1]);
    assert_false(sock_peer_lost(-1));
}

/* An endpoint that lives and takes nothing for as long would be cut by TCP_USER_TIMEOUT, too. */
static void watches_by_keep_alive_alone(void **state) {
    struct sock_addr a;
    bool done;
    (void)state;
    int listener = listening(&a), fd = sock_connect(&a, &done);
    assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    assert_in_range(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) +
                        option(fd, IPPROTO_TCP, TCP_KEEPINTVL) * option(fd, IPPROTO_TCP, TCP_KEEPCNT),
                    1, 60);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    close(fd);
    close(listener);
}

static void a_socket_somebody_else_made_gets_what_ours_have(void **state) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sock_addr bound, peer;
    bool done;
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    sock_set_nonblocking(fd);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    assert_true(sock_local(fd, &bound));
    assert_int_equal(sock_accept(fd, &peer), -1);
    assert_int_equal(errno, EAGAIN);
    int client = sock_connect(&bound, &done), accepted = sock_accept(fd, &peer);
    assert_true(client >= 0 && accepted >= 0);
    assert_int_equal(option(accepted, IPPROTO_TCP, TCP_NODELAY), 1); /* inherited */
    close(accepted);
    close(client);
    close(fd);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    sock_set_nonblocking(pair[0]);
    assert_true(fcntl(pair[0], F_GETFL) & O_NONBLOCK);
    close(pair[0]);
    close(pair[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(a_unix_socket_has_no_host),
        cmocka_unit_test(one_caller_has_one_host),
        cmocka_unit_test(lost_is_what_was_tried_and_never_acknowledged),
        cmocka_unit_test(a_unix_socket_or_no_socket_is_never_lost),
        cmocka_unit_test(watches_by_keep_alive_alone),
        cmocka_unit_test(a_socket_somebody_else_made_gets_what_ours_have),
    };
    return cmocka_run_group_tests_name("sock", tests, NULL, NULL);
}
