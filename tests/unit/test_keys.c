#include "unit.h"

#include "keys.h"

static struct http_head head;
static struct iovec spans[HTTP_SPANS_MAX];
static char text[2048];

static enum why check(const char *fields, bool basic) {
    static char a[] = "sk-one", b[] = "sk-two";
    char *const keys[] = {a, b};
    struct http h;
    size_t used;
    snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    http_init(&h, MESSAGE_REQUEST, &head, spans);
    assert_int_equal(http_feed(&h, text, strlen(text), &used), GOT_HEAD);
    return keys_check(keys, 2, &head, basic);
}

static void a_key_comes_as_bearer_or_x_api_key(void **s) {
    (void)s;
    assert_int_equal(check("Authorization: Bearer sk-one\r\n", false), WHY_NONE);
    assert_int_equal(check("authorization: bearer   sk-two \r\n", false), WHY_NONE);
    assert_int_equal(check("X-Api-Key: sk-two\r\n", false), WHY_NONE);
    assert_int_equal(check("Authorization: Bearer nonsense\r\nx-api-key: sk-one\r\n", false), WHY_NONE);
    assert_int_equal(check("", false), WHY_NO_KEY);
    assert_int_equal(check("Authorization: Bearer\r\n", false), WHY_NO_KEY);
    assert_int_equal(check("Authorization: Bearer sk-on\r\n", false), WHY_BAD_KEY);
    assert_int_equal(check("Authorization: Bearer sk-onee\r\n", false), WHY_BAD_KEY);
    assert_int_equal(check("Authorization: Bearer SK-ONE\r\n", false), WHY_BAD_KEY);
    assert_int_equal(check("x-api-key: sk-three\r\n", false), WHY_BAD_KEY);
    assert_int_equal(check("Authorization: Basic c2stb25l\r\n", false), WHY_NO_KEY);
}

static void basic_counts_by_its_password(void **s) {
    (void)s;
    assert_int_equal(check("Authorization: Basic YWRtaW46c2stb25l\r\n", true), WHY_NONE); /* admin:sk-one */
    assert_int_equal(check("Authorization: basic OnNrLXR3bw==\r\n", true), WHY_NONE);     /* :sk-two */
    assert_int_equal(check("Authorization: Basic c2stb25lOng=\r\n", true), WHY_BAD_KEY);  /* sk-one:x */
    assert_int_equal(check("Authorization: Basic YWRtaW46\r\n", true), WHY_NO_KEY);       /* admin: */
    assert_int_equal(check("Authorization: Basic YWRtaW46c2stb25l\r\n", false), WHY_NO_KEY);
}

static void no_keys_means_everybody(void **s) {
    (void)s;
    check("", false);
    assert_int_equal(keys_check(NULL, 0, &head, false), WHY_NONE);
}

static void only_local_hosts_are_local(void **s) {
    static const char *const good[] = {"",      "localhost",  "LOCALHOST:9091", "127.0.0.1", "127.0.0.1:80", "10.1.2.3:9091",
                                       "[::1]", "[::1]:9091", "[fd00::1]:1"};
    static const char *const bad[] = {
        "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[zz]:1", "1.2.3", "x", "1.2.3.4.5",
        "0x7f.1",       "localhost@evil"};
    (void)s;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(keys_host_is_local(str_of(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(keys_host_is_local(str_of(bad[i])));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_comes_as_bearer_or_x_api_key),
        cmocka_unit_test(basic_counts_by_its_password),
        cmocka_unit_test(no_keys_means_everybody),
        cmocka_unit_test(only_local_hosts_are_local),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
