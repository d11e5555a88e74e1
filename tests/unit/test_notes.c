#include "unit.h"

#include <arpa/inet.h>

#include "buf.h"
#include "notes.h"

static struct conf *conf_of(const char *proxies) {
    struct buf text = {0};
    struct conf_findings f = {0};
    buf_printf(&text, "trusted_proxies: [%s]\npools:\n  - {name: p, models: [m], endpoints: [\"http://10.0.0.1\"]}\n", proxies);
    struct conf *c = conf_parse("test", buf_ptr(&text), buf_len(&text), &f);
    for (size_t i = 0; i < f.count; i++)
        print_error("%s\n", f.items[i].text);
    assert_non_null(c);
    conf_findings_free(&f);
    buf_free(&text);
    return c;
}

static struct in6_addr host(const char *text) {
    struct in6_addr h = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
    if (!*text) return (struct in6_addr)IN6ADDR_ANY_INIT; /* a unix socket's */
    if (inet_pton(AF_INET, text, &h.s6_addr[12]) != 1) assert_int_equal(inet_pton(AF_INET6, text, &h), 1);
    return h;
}

static const struct http_head *head(const char *text) {
    static struct http_head h;
    static struct iovec spans[HTTP_SPANS_MAX];
    static struct http http;
    size_t used;
    http_init(&http, MESSAGE_REQUEST, &h, spans);
    assert_int_equal(http_feed(&http, text, strlen(text), &used), GOT_HEAD);
    return &h;
}

static void says(const struct notes *n, struct note s, const char *text) {
    assert_true(str_eq(notes_str(n, s), str_of(text)));
}

static void keeps_what_a_head_says(void **state) {
    static const struct {
        const char *peer, *ip;
    } rows[] = {{"1.2.3.4", "1.2.3.4"}, {"::ffff:1.2.3.4", "1.2.3.4"}, {"2001:db8::1", "2001:db8::1"}, {"", ""}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct notes n = {0};
        struct in6_addr peer = host(rows[i].peer);
        notes_begin(&n, &peer);
        says(&n, n.client_ip, rows[i].ip);
        assert_int_equal(notes_id(&n).len, 36);
        notes_head(&n, head("GET /v1/models?x HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\n\r\n"), STR("5.6.7.8"));
        notes_model(&n, STR("some-model"));
        says(&n, n.client_ip, rows[i].ip);
        says(&n, n.told_ip, "5.6.7.8");
        says(&n, n.method, "GET");
        says(&n, n.path, "/v1/models");
        says(&n, n.request_id, "mine");
        assert_true(str_eq(notes_name(&n), STR("some-model")));
        assert_ptr_equal(n.text, n.inl);
        notes_free(&n);
    }
}

static void long_texts_have_memory_of_their_own(void **state) {
    struct notes n = {0};
    struct in6_addr peer = host("1.2.3.4");
    char text[1024], model[INET6_ADDRSTRLEN + NOTES_INLINE];
    (void)state;
    memset(model, 'm', sizeof model);
    notes_begin(&n, &peer);
    snprintf(text, sizeof text, "GET /%0600d HTTP/1.1\r\nHost: h\r\n\r\n", 1);
    notes_head(&n, head(text), STR_NONE);
    notes_model(&n, (struct str){model, sizeof model});
    assert_int_equal(n.path.len, NOTES_PATH_MAX);
    assert_int_equal(notes_id(&n).len, 36);
    says(&n, n.client_ip, "1.2.3.4");
    assert_true(str_eq(notes_name(&n), (struct str){model, sizeof model}));
    notes_free(&n);
}

static void trusts_whom_it_is_told_to(void **state) {
    struct conf *some = conf_of("10.0.0.0/8, \"fd00::/8\""), *all = conf_of("0.0.0.0/0, \"::/0\""), *none = conf_of("");
    struct in6_addr v4 = host("10.1.2.3"), other = host("11.1.2.3"), v6 = host("fd00::1"), un = host("");
    (void)state;
    assert_true(notes_peer_trusted(some, &v4));
    assert_true(notes_peer_trusted(some, &v6));
    assert_false(notes_peer_trusted(some, &other));
    assert_true(notes_peer_trusted(all, &other));
    assert_false(notes_peer_trusted(none, &v4));
    assert_false(notes_peer_trusted(all, &un)); /* it has no address that could be listed */
    conf_free(some);
    conf_free(all);
    conf_free(none);
}

static void finds_the_client_behind_proxies(void **state) {
    static const struct {
        const char *fields, *ip;
    } rows[] = {
        {"", ""},
        {"X-Forwarded-For: 9.9.9.9\r\n", "9.9.9.9"},
        {"X-Forwarded-For: 8.8.8.8, 9.9.9.9, 10.0.0.1\r\n", "9.9.9.9"},
        {"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", "9.9.9.9"},
        {"X-Forwarded-For: ::ffff:10.0.0.1, 2001:db8::1, fd00::1\r\n", "2001:db8::1"},
        {"X-Forwarded-For: 9.9.9.9, ::ffff:10.0.0.1\r\n", "9.9.9.9"},
        {"X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", "10.0.0.1"},
        {"X-Forwarded-For: 9.9.9.9, nonsense, 10.0.0.2\r\n", "10.0.0.2"},
        {"X-Forwarded-For: 9.9.9.9, 10.0.0.256\r\n", ""},
    };
    struct conf *conf = conf_of("10.0.0.0/8, \"fd00::/8\"");
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[512];
        snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", rows[i].fields);
        struct str ip = notes_told_ip(conf, head(text));
        if (!str_eq(ip, str_of(rows[i].ip))) fail_msg("%s -> " STR_FMT, rows[i].fields, STR_ARG(ip));
    }
    conf_free(conf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_a_head_says),
        cmocka_unit_test(long_texts_have_memory_of_their_own),
        cmocka_unit_test(trusts_whom_it_is_told_to),
        cmocka_unit_test(finds_the_client_behind_proxies),
    };
    return cmocka_run_group_tests_name("notes", tests, NULL, NULL);
}
