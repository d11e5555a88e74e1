#include "unit.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include "value.h"

#define YEAR ((int64_t)365 * 24 * 3600000)

static struct str s(const char *z) {
    return str_of(z);
}

static int64_t ms(const char *text) {
    int64_t n = -1;
    const char *wrong = value_duration(s(text), &n);
    if (wrong) fail_msg("%s: %s", text, wrong);
    return n;
}

static void durations(void **state) {
    static const char *const bad[] = {"",     "10",   "1",   "ms",    "s",     "-1s", "+1s",  "1.5s", "10 s",
                                      " 10s", "10s ", "10S", "10sec", "1m30s", "1d",  "0x1s", "10\0s"};
    int64_t n;
    (void)state;
    assert_int_equal(ms("0"), 0);
    assert_int_equal(ms("000"), 0);
    assert_int_equal(ms("0s"), 0);
    assert_int_equal(ms("250ms"), 250);
    assert_int_equal(ms("10s"), 10000);
    assert_int_equal(ms("5m"), 300000);
    assert_int_equal(ms("2h"), 7200000);
    assert_true(ms("8760h") == YEAR);
    assert_true(ms("31536000000ms") == YEAR);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_non_null(value_duration(s(bad[i]), &n));
    assert_string_equal(value_duration(s("8761h"), &n), "is longer than a year");
    assert_string_equal(value_duration(s("31536000001ms"), &n), "is longer than a year");
    assert_string_equal(value_duration(s("99999999999999999999999s"), &n), "is longer than a year");
    assert_non_null(strstr(value_duration(s("10"), &n), "needs a unit"));
}

static uint64_t bytes(const char *text) {
    uint64_t n = 0;
    const char *wrong = value_size(s(text), &n);
    if (wrong) fail_msg("%s: %s", text, wrong);
    return n;
}

static void sizes(void **state) {
    static const char *const bad[] = {"", "k", "-1", "+1", "1.5m", "10kb", "10 k", " 1", "1t", "1\x0b", "0x10", "1kk"};
    uint64_t n;
    (void)state;
    assert_int_equal(bytes("0"), 0);
    assert_int_equal(bytes("512"), 512);
    assert_int_equal(bytes("64k"), 64 << 10);
    assert_int_equal(bytes("64K"), 64 << 10);
    assert_int_equal(bytes("100m"), 100 << 20);
    assert_int_equal(bytes("1G"), 1 << 30);
    assert_true(bytes("1125899906842624") == (uint64_t)1 << 50);
    assert_true(bytes("1048576g") == (uint64_t)1 << 50);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_non_null(value_size(s(bad[i]), &n));
    assert_string_equal(value_size(s("1125899906842625"), &n), "is too large");
    assert_string_equal(value_size(s("1048577g"), &n), "is too large");
    assert_string_equal(value_size(s("99999999999999999999999"), &n), "is too large");
}

static void bools(void **state) {
    static const char *const yes[] = {"true", "yes", "on", "TRUE", "On"}, *const no[] = {"false", "no", "off", "False", "OFF"};
    static const char *const bad[] = {"", "1", "0", "y", "n", "truee", "perhaps"};
    bool b = false;
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        assert_null(value_bool(s(yes[i]), &b));
        assert_true(b);
        assert_null(value_bool(s(no[i]), &b));
        assert_false(b);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_non_null(value_bool(s(bad[i]), &b));
}

/* ---- URLs ---- */

static void url(const char *text, const char *host, unsigned port, const char *base, const char *normal) {
    struct value_url u;
    const char *wrong = value_url(s(text), &u);
    if (wrong) fail_msg("%s: %s", text, wrong);
    assert_false(u.is_unix);
    assert_string_equal(u.host, host);
    assert_int_equal(u.port, port);
    assert_string_equal(u.base, base);
    assert_string_equal(u.text, normal);
}

static void no_url(const char *text, const char *word) {
    struct value_url u;
    const char *wrong = value_url(s(text), &u);
    if (!wrong || !strstr(wrong, word)) fail_msg("%s: '%s' does not say '%s'", text, wrong ? wrong : "(good)", word);
}

static void urls(void **state) {
    (void)state;
    url("http://gpu1:8080", "gpu1", 8080, "", "http://gpu1:8080");
    url("HTTP://GPU1.Example", "gpu1.example", 80, "", "http://gpu1.example:80");
    url("http://h:1/", "h", 1, "", "http://h:1");
    url("http://h/llama/", "h", 80, "/llama", "http://h:80/llama");
    url("http://h/v1", "h", 80, "", "http://h:80");
    url("http://h/llama/v1//", "h", 80, "/llama", "http://h:80/llama");
    url("http://h/xv1", "h", 80, "/xv1", "http://h:80/xv1");
    url("http://h/v1/v1", "h", 80, "/v1", "http://h:80/v1"); /* one of them is a base, whoever wants it so */
    url("http://10.0.0.1:65535", "10.0.0.1", 65535, "", "http://10.0.0.1:65535");
    url("http://[::1]", "::1", 80, "", "http://[::1]:80");
    url("http://[0:0:0:0::1]:8080/b", "::1", 8080, "/b", "http://[::1]:8080/b");
    url("http://a_b.c-d:1", "a_b.c-d", 1, "", "http://a_b.c-d:1");
}

static void bad_urls(void **state) {
    char text[900];
    (void)state;
    no_url("https://h", "not there yet");
    no_url("HTTPS://h:443/x", "not there yet");
    no_url("ftp://h", "must begin with http://");
    no_url("h:8080", "must begin with http://");
    no_url("http:/h", "must begin with http://");
    no_url("", "must begin with http://");
    no_url("http://", "no valid host");
    no_url("http://:80", "no valid host");
    no_url("http://a b", "no valid host");
    no_url("http://-a", "no valid host");
    no_url("http://.a", "no valid host");
    no_url("http://user:pw@h", "user:password");
    no_url("http://user@h/x", "user:password");
    no_url("http://h:", "bad port");
    no_url("http://h:0", "bad port");
    no_url("http://h:65536", "bad port");
    no_url("http://h:80x", "bad port");
    no_url("http://[::1]:0", "bad port");
    no_url("http://::1:80", "without brackets");
    no_url("http://fe80::1", "without brackets");
    no_url("http://[::1", "bad IPv6");
    no_url("http://[]", "bad IPv6");
    no_url("http://[fe80::1%25eth0]", "bad IPv6");
    no_url("http://[::1]80", "something odd");
    no_url("http://1.2.3", "bad IPv4"); /* a resolver might read it as 1.2.0.3 */
    no_url("http://256.1.1.1:80", "bad IPv4");
    no_url("http://1.2.3.4.:80", "bad IPv4");
    no_url("http://2130706433", "bad IPv4");
    no_url("http://h/?q=1", "query");
    no_url("http://h?q=1", "query");
    no_url("http://h/#f", "fragment");
    no_url("http://h/a b", "percent-encoded");
    no_url("http://h/\x80", "percent-encoded");
    no_url("http://h/{a}", "percent-encoded");
    snprintf(text, sizeof text, "http://h/%0511d", 1);
    no_url(text, "too long");
    snprintf(text, sizeof text, "http://%0254da", 1);
    no_url(text, "no valid host");
}

static void the_longest_url_is_whole(void **state) {
    struct value_url u;
    char text[900];
    (void)state;
    snprintf(text, sizeof text, "http://a%0252d:65535/%0510d", 1, 1);
    assert_null(value_url(s(text), &u));
    assert_string_equal(u.text, text);
    assert_int_equal(strlen(u.host), 253);
    assert_int_equal(strlen(u.base), 511);
}

static void unix_urls(void **state) {
    struct value_url u;
    char text[200];
    (void)state;
    assert_null(value_url(s("unix:/run/llama.sock"), &u));
    assert_true(u.is_unix);
    assert_string_equal(u.path, "/run/llama.sock");
    assert_string_equal(u.text, "unix:/run/llama.sock");
    assert_string_equal(u.base, "");
    no_url("unix:", "whole path");
    no_url("unix:llama.sock", "whole path");
    no_url("unix:/a\nb", "control byte");
    no_url("unix:/a\x7f", "control byte");
    assert_non_null(value_url((struct str){"unix:/a\0b", 9}, &u));
    snprintf(text, sizeof text, "unix:/%0106d", 1);
    assert_null(value_url(s(text), &u));
    assert_string_equal(u.text, text);
    snprintf(text, sizeof text, "unix:/%0107d", 1);
    no_url(text, "too long");
}

/* ---- addresses ---- */

static struct value_listen listens(const char *text, const char *normal, bool loopback) {
    struct value_listen l;
    const char *wrong = value_listen(s(text), &l);
    if (wrong) fail_msg("%s: %s", text, wrong);
    assert_string_equal(l.text, normal);
    assert_int_equal(l.loopback, loopback);
    return l;
}

static void no_listen(const char *text, const char *word) {
    struct value_listen l;
    const char *wrong = value_listen(s(text), &l);
    if (!wrong || !strstr(wrong, word)) fail_msg("%s: '%s' does not say '%s'", text, wrong ? wrong : "(good)", word);
}

static void addresses_to_listen_on(void **state) {
    char text[200];
    (void)state;
    struct value_listen l = listens("0.0.0.0:9090", "0.0.0.0:9090", false);
    const struct sockaddr_in *v4 = (const void *)&l.addr;
    assert_int_equal(v4->sin_family, AF_INET);
    assert_int_equal(ntohs(v4->sin_port), 9090);
    assert_int_equal(l.len, sizeof *v4);
    listens(":0", "0.0.0.0:0", false);
    listens("127.9.9.9:1", "127.9.9.9:1", true);
    l = listens("localhost:65535", "127.0.0.1:65535", true);
    l = listens("[0:0::1]:80", "[::1]:80", true);
    const struct sockaddr_in6 *v6 = (const void *)&l.addr;
    assert_int_equal(v6->sin6_family, AF_INET6);
    assert_int_equal(ntohs(v6->sin6_port), 80);
    listens("[::]:80", "[::]:80", false);
    l = listens("unix:/run/r.sock", "unix:/run/r.sock", true);
    assert_true(l.is_unix);
    assert_string_equal(((const struct sockaddr_un *)(const void *)&l.addr)->sun_path, "/run/r.sock");
    no_listen("", "needs a port");
    no_listen("127.0.0.1", "needs a port");
    no_listen("127.0.0.1:", "bad port");
    no_listen("127.0.0.1:65536", "bad port");
    no_listen("127.0.0.1:-1", "bad port");
    no_listen("example.com:80", "must be an IP address");
    no_listen("127.0.0:80", "must be an IP address");
    no_listen("*:80", "must be an IP address");
    no_listen("::1:80", "without brackets");
    no_listen("[::1]", "[v6 address]:port");
    no_listen("[::1]80", "[v6 address]:port");
    no_listen("[1.2.3.4]:80", "[v6 address]:port");
    no_listen("[::1]:", "bad port");
    no_listen("unix:r.sock", "whole path");
    no_listen("unix:/a\tb", "control byte");
    snprintf(text, sizeof text, "unix:/%0106d", 1);
    listens(text, text, true);
    snprintf(text, sizeof text, "unix:/%0107d", 1);
    no_listen(text, "too long");
    snprintf(text, sizeof text, "%070d:80", 1);
    no_listen(text, "must be an IP address");
}

static bool has(const char *cidr, const char *address) {
    struct value_cidr c;
    struct in6_addr host = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
    const char *wrong = value_cidr(s(cidr), &c);
    if (wrong) fail_msg("%s: %s", cidr, wrong);
    if (inet_pton(AF_INET, address, &host.s6_addr[12]) != 1) assert_int_equal(inet_pton(AF_INET6, address, &host), 1);
    return value_cidr_has(&c, &host);
}

static void networks(void **state) {
    static const char *const bad[] = {"",           "x",      "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8/8",
                                      "10.0.0.1/8", "::/129", "::1/127",     "10.0.0/8",  "1.2.3.4 "};
    struct value_cidr c;
    (void)state;
    assert_true(has("10.0.0.0/8", "10.255.0.1"));
    assert_false(has("10.0.0.0/8", "11.0.0.1"));
    assert_true(has("10.0.0.0/8", "::ffff:10.1.2.3")); /* as a socket for both families gives it */
    assert_true(has("192.168.128.0/17", "192.168.255.1"));
    assert_false(has("192.168.128.0/17", "192.168.127.1"));
    assert_true(has("127.0.0.1", "127.0.0.1"));
    assert_false(has("127.0.0.1", "127.0.0.2"));
    assert_true(has("0.0.0.0/0", "8.8.8.8"));
    assert_false(has("0.0.0.0/0", "::1"));
    assert_true(has("::/0", "::1"));
    assert_true(has("::/0", "8.8.8.8"));
    assert_true(has("fe80::/10", "febf::1"));
    assert_false(has("fe80::/10", "fec0::1"));
    assert_true(has("::1/128", "::1"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_non_null(value_cidr(s(bad[i]), &c));
}

/* ---- globs and names ---- */

static bool glob(const char *pattern, const char *text) {
    return value_glob(s(pattern), s(text));
}

static void globs(void **state) {
    (void)state;
    assert_true(glob("*", ""));
    assert_true(glob("*", "a/b:c"));
    assert_true(glob("qwen2.5-*", "qwen2.5-"));
    assert_true(glob("qwen2.5-*", "qwen2.5-7b"));
    assert_false(glob("qwen2.5-*", "qwen2x5-7b")); /* a dot is a dot */
    assert_false(glob("qwen*", "Qwen"));
    assert_true(glob("a?c", "abc"));
    assert_false(glob("a?c", "ac"));
    assert_true(glob("??", "\xc3\xa4")); /* bytes, not characters */
    assert_true(glob("*b*b", "abab"));
    assert_false(glob("*b*b", "aba"));
    assert_true(glob("a**c", "ac"));
    assert_true(glob("", ""));
    assert_false(glob("", "a"));
    assert_true(glob("a[b]\\", "a[b]\\"));
    assert_false(glob("[ab]", "a"));
    assert_int_equal(value_glob_prefix(s("qwen-*")), 5);
    assert_int_equal(value_glob_prefix(s("a?b*")), 1);
    assert_int_equal(value_glob_prefix(s("abc")), 3);
    assert_int_equal(value_glob_prefix(s("")), 0);
    assert_true(value_is_glob(s("*")));
    assert_true(value_is_glob(s("a?")));
    assert_false(value_is_glob(s("a")));
}

static void a_glob_of_many_stars_takes_no_time(void **state) {
    char text[2001], pattern[201];
    (void)state;
    memset(text, 'a', sizeof text - 1), text[sizeof text - 1] = 0;
    for (size_t i = 0; i < sizeof pattern - 1; i++)
        pattern[i] = "a*"[i % 2];
    pattern[sizeof pattern - 2] = 'b', pattern[sizeof pattern - 1] = 0;
    assert_false(glob(pattern, text)); /* by going back to every star it would not end */
}

static void distances(void **state) {
    char long_name[70];
    (void)state;
    assert_int_equal(value_distance(s("models"), s("models"), 5), 0);
    assert_int_equal(value_distance(s("modles"), s("models"), 5), 2);
    assert_int_equal(value_distance(s("max_bdy"), s("max_body"), 5), 1);
    assert_int_equal(value_distance(s("abc"), s("xyz"), 3), 3);
    assert_int_equal(value_distance(s("abc"), s("xyz"), 2), 2);
    assert_int_equal(value_distance(s("kitten"), s("sitting"), 9), 3);
    assert_int_equal(value_distance(s(""), s("abc"), 9), 3);
    assert_int_equal(value_distance(s("abc"), s(""), 9), 3);
    assert_int_equal(value_distance(s("a"), s("abcdef"), 3), 3);
    memset(long_name, 'a', 65), long_name[65] = 0;
    assert_int_equal(value_distance(s(long_name), s("a"), 99), 99);
    long_name[64] = 0;
    assert_int_equal(value_distance(s(long_name), s("a"), 99), 63);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
        cmocka_unit_test(bools),
        cmocka_unit_test(urls),
        cmocka_unit_test(bad_urls),
        cmocka_unit_test(the_longest_url_is_whole),
        cmocka_unit_test(unix_urls),
        cmocka_unit_test(addresses_to_listen_on),
        cmocka_unit_test(networks),
        cmocka_unit_test(globs),
        cmocka_unit_test(a_glob_of_many_stars_takes_no_time),
        cmocka_unit_test(distances),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
