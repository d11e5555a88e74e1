#include "unit.h"

#include <arpa/inet.h>

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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts), cmocka_unit_test(a_unix_socket_has_no_host),
                                       cmocka_unit_test(one_caller_has_one_host)};
    return cmocka_run_group_tests_name("sock", tests, NULL, NULL);
}
