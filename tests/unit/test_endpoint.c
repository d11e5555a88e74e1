#include "unit.h"

#include <arpa/inet.h>

#include "endpoint.h"
#include "loop.h"

static struct endpoint *made(const char *url) {
    struct value_url u;
    struct conf_endpoint c = {0};
    struct conf_policy p = {0};
    assert_null(value_url(str_of(url), &u));
    struct endpoint *e = endpoint_get(&u);
    endpoint_configure(e, &c, &p, true);
    return e;
}

/* The whole way of a connect, as text. */
static const char *way(const struct endpoint *e, unsigned first) {
    static char text[1000];
    struct sock_addr a;
    text[0] = 0;
    for (unsigned i = 0; endpoint_address(e, first, i, &a); i++) {
        char one[SOCK_TEXT];
        size_t n = strlen(text);
        assert_in_range(i, 0, RESOLVE_ADDRS_MAX);
        snprintf(text + n, sizeof text - n, "%s%s", n ? " " : "", sock_text(&a, one));
    }
    return text;
}

static void an_address_is_its_own_way(void **state) {
    (void)state;
    struct endpoint *v4 = made("http://192.0.2.1"), *v6 = made("http://[2001:db8::1]:8080/base");
    assert_string_equal(way(v4, 0), "192.0.2.1:80");
    assert_string_equal(way(v6, 0), "[2001:db8::1]:8080");
    endpoint_unref(v4);
    endpoint_unref(v6);
}

static void a_unix_socket_has_one(void **state) {
    struct sock_addr a;
    (void)state;
    struct endpoint *e = made("unix:/run/llama.sock");
    assert_true(endpoint_address(e, 0, 0, &a));
    assert_int_equal(a.u.un.sun_family, AF_UNIX);
    assert_string_equal(a.u.un.sun_path, "/run/llama.sock");
    assert_false(endpoint_address(e, 0, 1, &a));
    assert_string_equal(way(e, 7), "unix:/run/llama.sock"); /* wherever it began */
    endpoint_unref(e);
}

static void a_name_is_gone_through_once_from_where_it_began(void **state) {
    static struct resolve_name name = {.state = RESOLVE_KNOWN, .naddrs = 3};
    (void)state;
    struct endpoint *e = made("http://192.0.2.1:8080");
    struct resolve_name *own = e->watch.name;
    for (unsigned i = 0; i < 2; i++) {
        name.addrs[i] = (struct sock_addr){.len = sizeof(struct sockaddr_in), .u.in4.sin_family = AF_INET};
        name.addrs[i].u.in4.sin_addr.s_addr = htonl(0xc0000201 + i);
    }
    name.addrs[2] = (struct sock_addr){.len = sizeof(struct sockaddr_in6), .u.in6.sin6_family = AF_INET6};
    assert_int_equal(inet_pton(AF_INET6, "2001:db8::3", &name.addrs[2].u.in6.sin6_addr), 1);
    e->watch.name = &name;
    assert_string_equal(way(e, 0), "192.0.2.1:8080 192.0.2.2:8080 [2001:db8::3]:8080");
    assert_string_equal(way(e, 2), "[2001:db8::3]:8080 192.0.2.1:8080 192.0.2.2:8080");
    assert_string_equal(way(e, 4), "192.0.2.2:8080 [2001:db8::3]:8080 192.0.2.1:8080"); /* an answer since had fewer */
    e->good = 1;
    assert_string_equal(way(e, 0), "192.0.2.1:8080 192.0.2.2:8080 [2001:db8::3]:8080"); /* others' luck does not change it */
    assert_int_equal(name.addrs[0].u.in4.sin_port, 0);
    name.naddrs = 0;
    assert_string_equal(way(e, 0), "");
    e->watch.name = own;
    endpoint_unref(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_is_its_own_way),
        cmocka_unit_test(a_unix_socket_has_one),
        cmocka_unit_test(a_name_is_gone_through_once_from_where_it_began),
    };
    if (loop_open() || resolve_open()) return 1;
    int r = cmocka_run_group_tests_name("endpoint", tests, NULL, NULL);
    resolve_close();
    loop_close();
    return r;
}
