#include "unit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_read.h"

static struct node *parse(const char *text) {
    struct node_error err;
    struct node *n = node_parse(text, strlen(text), &err);
    if (!n) fail_msg("%s: %s", text, err.text);
    return n;
}

/* The text that the YAML value becomes, or what is wrong with it. To be freed. */
static char *text_of(const char *yaml) {
    struct conf_findings f = {0};
    struct node *n = parse(yaml);
    char *text = NULL;
    bool ok = conf_read_text(&f, "k", n, &text);
    assert_int_equal(ok, text != NULL);
    assert_true(!ok || !f.errors);
    if (!ok && !f.count) text = strdup("(silent)");
    if (f.count) text = strdup(f.items[0].text);
    assert_true(f.count <= 1);
    findings_free(&f);
    node_free(n);
    return text;
}

static void is(const char *yaml, const char *wanted) {
    char *got = text_of(yaml);
    if (strcmp(got, wanted) != 0) fail_msg("%s is '%s', not '%s'", yaml, got, wanted);
    free(got);
}

/* ---- the environment ---- */

static void variables_expand(void **state) {
    (void)state;
    setenv("RT_A", "one", 1);
    setenv("RT_EMPTY", "", 1);
    setenv("RT_NEST", "${RT_A}$${", 1);
    unsetenv("RT_NONE");
    is("${RT_A}", "one");
    is("\"${RT_A}\"", "one");
    is("'${RT_A}'", "one");
    is("a${RT_A}b${RT_A}", "aonebone");
    is("${RT_NONE:-two}", "two");
    is("${RT_EMPTY:-two}", "two"); /* as a shell has it */
    is("${RT_A:-two}", "one");
    is("x${RT_NONE:-}", "x");
    is("${RT_NONE:-a:-b c}", "a:-b c");
    is("x${RT_EMPTY}", "x");
    is("${RT_NEST}", "${RT_A}$${"); /* once */
    is("${RT_NONE:-$RT_A}", "$RT_A");
    is("$${RT_A}", "${RT_A}");
    is("$$${RT_A}", "$${RT_A}");
    is("$$${RT_NONE", "$${RT_NONE");
    is("$RT_A $ $$ $1 a$", "$RT_A $ $$ $1 a$");
    is("${RT_NONE}", "k: the environment variable RT_NONE is not set (${RT_NONE:-default} gives it a default)");
    is("a ${RT_A} ${RT_NONE} ${RT_NONE}",
       "k: the environment variable RT_NONE is not set (${RT_NONE:-default} gives it a default)");
    is("${RT_EMPTY}", "k: must not be empty");
    is("${RT_NONE:-}", "k: must not be empty");
    is("${RT_A", "k: has a ${ without its }: write $${ for a literal ${");
    is("${RT_A:-", "k: has a ${ without its }: write $${ for a literal ${");
}

static void bad_variables(void **state) {
    static const char *const bad[] = {"${}",   "${1A}",  "${A-B}",  "${A B}",      "${ A}",  "${A:b}",
                                      "${A:}", "${:-x}", "${A:=x}", "${\xc3\xa4}", "${${A}}"};
    char long_name[320];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char yaml[64];
        snprintf(yaml, sizeof yaml, "'%s'", bad[i]);
        is(yaml, "k: has a bad variable: write ${NAME} or ${NAME:-default}, or $${ for a literal ${");
    }
    snprintf(long_name, sizeof long_name, "${A%0255d}", 0);
    is(long_name, "k: has a bad variable: write ${NAME} or ${NAME:-default}, or $${ for a literal ${");
    snprintf(long_name, sizeof long_name, "${A%0254d:-x}", 0);
    is(long_name, "x");
}

static void no_value_grows_without_bound(void **state) {
    size_t most = CONF_TEXT_MAX;
    char *text = malloc(most + 64), *got;
    (void)state;
    memset(text, 'a', most), text[most] = 0;
    is(text, text);
    text[most] = 'a', text[most + 1] = 0;
    is(text, "k: is longer than 64k");
    text[1000] = 0;
    setenv("RT_LONG", text, 1);
    text[0] = 0;
    for (int i = 0; i < 66; i++)
        strcat(text, "${RT_LONG}");
    is(text, "k: is longer than 64k");
    text[65 * 10] = 0;
    got = text_of(text);
    assert_int_equal(strlen(got), 65000);
    free(got);
    free(text);
    unsetenv("RT_LONG");
}

static void what_is_no_text(void **state) {
    (void)state;
    is("~", "k: needs a value (a text that reads ~ goes in quotes)");
    is("null", "k: needs a value (a text that reads null goes in quotes)");
    is("'null'", "null");
    is("---", "k: needs a value: none stands here");
    is("''", "k: must not be empty");
    is("[a]", "k: must be one value, not a list");
    is("{a: b}", "k: must be one value, not a block of keys");
    is("*x", "(silent)"); /* told once, for the whole tree */
    is("\"a\\0b\"", "(silent)");
}

/* ---- single values ---- */

/* What each reader says of a YAML value, "" if nothing. */
static const char *said(const char *yaml, bool (*read)(struct conf_findings *, const struct node *)) {
    static char text[600];
    struct conf_findings f = {0};
    struct node *n = parse(yaml);
    bool ok = read(&f, n);
    assert_int_equal(ok, f.errors == 0);
    snprintf(text, sizeof text, "%s", f.count ? f.items[0].text : "");
    findings_free(&f);
    node_free(n);
    return text;
}

static uint64_t number;
static int64_t ms;
static bool yes;
static unsigned choice;

static bool read_number(struct conf_findings *f, const struct node *n) {
    return conf_read_number(f, "k", n, 2, 15, &number);
}
static bool read_size(struct conf_findings *f, const struct node *n) {
    return conf_read_size(f, "k", n, 1024, 1 << 20, true, &number);
}
static bool read_size_from_0(struct conf_findings *f, const struct node *n) {
    return conf_read_size(f, "k", n, 0, (uint64_t)3 << 30, true, &number);
}
static bool read_duration(struct conf_findings *f, const struct node *n) {
    return conf_read_duration(f, "k", n, 1, 90000, &ms);
}
static bool read_bool(struct conf_findings *f, const struct node *n) {
    return conf_read_bool(f, "k", n, &yes);
}
static bool read_choice(struct conf_findings *f, const struct node *n) {
    return conf_read_choice(f, "k", n, "user|model|none", &choice);
}

static void numbers(void **state) {
    static const char *const bad[] = {"1", "16", "-2", "+2", "2.0", "0x2", "two", "99999999999999999999999", "'2 '"};
    (void)state;
    setenv("RT_SEVEN", "7", 1);
    assert_string_equal(said("2", read_number), "");
    assert_int_equal(number, 2);
    assert_string_equal(said("'15'", read_number), ""); /* quoted or from a variable, a number is a number */
    assert_int_equal(number, 15);
    assert_string_equal(said("\"${RT_SEVEN}\"", read_number), "");
    assert_int_equal(number, 7);
    assert_string_equal(said("2 # comment", read_number), "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_string_equal(said(bad[i], read_number), "k: must be a whole number from 2 to 15");
    assert_string_equal(said("[2]", read_number), "k: must be one value, not a list");
}

static void sizes_and_durations(void **state) {
    (void)state;
    assert_string_equal(said("1k", read_size), "");
    assert_int_equal(number, 1024);
    assert_string_equal(said("0", read_size), "");
    assert_string_equal(said("1m", read_size), "");
    assert_string_equal(said("1023", read_size), "k: must be 0 or from 1k to 1m");
    assert_string_equal(said("1025k", read_size), "k: must be 0 or from 1k to 1m");
    assert_string_equal(said("4g", read_size_from_0), "k: must be from 0 to 3g");
    assert_string_equal(said("1q", read_size), "k: must be a size like 512, 64k, 100m or 1g");
    assert_string_equal(said("1ms", read_duration), "");
    assert_int_equal(ms, 1);
    assert_string_equal(said("90s", read_duration), "");
    assert_string_equal(said("0", read_duration), "k: must be at least 1ms: 0 is not possible here");
    assert_string_equal(said("90001ms", read_duration), "k: must be at most 90s");
    assert_string_equal(said("5", read_duration), "k: needs a unit: ms, s, m or h (only 0 has none)");
}

static void units(void **state) {
    char text[24];
    (void)state;
    assert_string_equal(conf_read_size_text(0, text), "0");
    assert_string_equal(conf_read_size_text(1023, text), "1023");
    assert_string_equal(conf_read_size_text(64 << 10, text), "64k");
    assert_string_equal(conf_read_size_text(1536 << 10, text), "1536k");
    assert_string_equal(conf_read_size_text(UINT64_MAX, text), "18446744073709551615");
    assert_string_equal(conf_read_duration_text(0, text), "0");
    assert_string_equal(conf_read_duration_text(1500, text), "1500ms");
    assert_string_equal(conf_read_duration_text(90000, text), "90s");
    assert_string_equal(conf_read_duration_text(2592000000u, text), "720h");
}

static void bools_and_choices(void **state) {
    (void)state;
    assert_string_equal(said("on", read_bool), "");
    assert_true(yes);
    assert_string_equal(said("'false'", read_bool), "");
    assert_false(yes);
    assert_string_equal(said("1", read_bool), "k: must be true or false");
    assert_string_equal(said("none", read_choice), "");
    assert_int_equal(choice, 2);
    assert_string_equal(said("user", read_choice), "");
    assert_int_equal(choice, 0);
    assert_string_equal(said("User", read_choice), "k: must be user, model or none");
    assert_string_equal(said("user|model", read_choice), "k: must be user, model or none");
}

/* ---- texts of some form ---- */

static char *kept;

static bool read_pool_name(struct conf_findings *f, const struct node *n) {
    free(kept);
    return conf_read_pool_name(f, "k", n, &kept);
}
static bool read_origin(struct conf_findings *f, const struct node *n) {
    free(kept);
    return conf_read_origin(f, "k", n, &kept);
}
static bool read_secret(struct conf_findings *f, const struct node *n) {
    free(kept);
    return conf_read_secret(f, "k", n, &kept);
}
static bool read_query_path(struct conf_findings *f, const struct node *n) {
    free(kept);
    return conf_read_url_path(f, "k", n, true, &kept);
}

static void pool_names(void **state) {
    char text[80];
    (void)state;
    assert_string_equal(said("Site-a/chat.v1_2:x+y@z", read_pool_name), "");
    assert_string_equal(kept, "Site-a/chat.v1_2:x+y@z");
    assert_string_equal(said("a b", read_pool_name), "k: may hold letters, digits and . _ - : / + @ only");
    assert_string_equal(said("'a\"'", read_pool_name), "k: may hold letters, digits and . _ - : / + @ only");
    assert_string_equal(said("\xc3\xa4", read_pool_name), "k: may hold letters, digits and . _ - : / + @ only");
    snprintf(text, sizeof text, "a%063d", 0);
    assert_string_equal(said(text, read_pool_name), "");
    snprintf(text, sizeof text, "a%064d", 0);
    assert_string_equal(said(text, read_pool_name), "k: is too long: at most 64 bytes");
    assert_null(kept);
}

static void origins(void **state) {
    static const char *const good[] = {"'*'", "https://chat.example.com", "http://localhost:3000", "app://obsidian.md",
                                       "'http://[::1]:80'"};
    static const char *const bad[] = {"null://", "example.com", "://x", "https:/x", "https://", "'https:'", "'null '"};
    static const char *const more[] = {"https://a/",  "https://a/b",   "https://a b",   "'https://a,https://b'", "https://*.a",
                                       "https://u@a", "'https://a?q'", "'https://a#f'", "https://\xc3\xa4"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_string_equal(said(good[i], read_origin), "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_string_equal(said(bad[i], read_origin),
                            "k: must be an origin as a browser sends it, https://chat.example.com, or *");
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        assert_string_equal(said(more[i], read_origin),
                            "k: must be an origin and nothing more: scheme://host or scheme://host:port, without a path");
    assert_string_equal(said("HTTPS://Chat.Example:8080", read_origin), "");
    assert_string_equal(kept, "https://chat.example:8080"); /* as a browser writes it */
}

static void secrets(void **state) {
    static const char *const bad[] = {"'a b'", "\"a\\tb\"", "\"a\\nb\"", "\"a\\r\"", "\xc3\xa4", "\"\\x7f\"", "' a'"};
    char *text = malloc(CONF_SECRET_MAX + 2);
    (void)state;
    assert_string_equal(said("\"sk-!~#\\\"'\"", read_secret), "");
    assert_string_equal(kept, "sk-!~#\"'");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_string_equal(
            said(bad[i], read_secret),
            "k: is no key: it goes into a header, so it may hold visible ASCII characters only, no blank and no line end");
    setenv("RT_KEY", "from\n", 1); /* as `$(cat file; echo)` may leave it */
    assert_non_null(strstr(said("${RT_KEY}", read_secret), "is no key"));
    memset(text, 'k', CONF_SECRET_MAX), text[CONF_SECRET_MAX] = 0;
    assert_string_equal(said(text, read_secret), "");
    text[CONF_SECRET_MAX] = 'k', text[CONF_SECRET_MAX + 1] = 0;
    assert_string_equal(said(text, read_secret), "k: is too long for a key: at most 4096 bytes");
    free(text);
}

static void url_paths(void **state) {
    char *text = malloc(CONF_PATH_MAX + 2);
    (void)state;
    assert_string_equal(said("/health?full=1&x", read_query_path), "");
    assert_string_equal(said("health", read_query_path), "k: must begin with /");
    assert_string_equal(said("'/a#b'", read_query_path), "k: must not have a fragment (#)");
    assert_string_equal(said("'/a b'", read_query_path), "k: has a byte that must be percent-encoded in a URL");
    assert_string_equal(said("\"/a\\r\\nHost: b\"", read_query_path), "k: has a byte that must be percent-encoded in a URL");
    memset(text, '/', CONF_PATH_MAX), text[CONF_PATH_MAX] = 0;
    assert_string_equal(said(text, read_query_path), "");
    text[CONF_PATH_MAX] = '/', text[CONF_PATH_MAX + 1] = 0;
    assert_string_equal(said(text, read_query_path), "k: is too long: at most 1024 bytes");
    free(text);
    free(kept);
    kept = NULL;
}

/* ---- the file of keys ---- */

struct keys_file {
    char path[64], **keys;
    size_t count;
    struct conf_findings f;
    bool ok;
};

static void read_keys(struct keys_file *k) {
    struct node *n = parse(k->path);
    char *path = NULL;
    k->ok = conf_read_secrets_file(&k->f, "k", n, &path, &k->keys, &k->count);
    assert_string_equal(path, k->path);
    free(path);
    node_free(n);
}

static void read_keys_of(struct keys_file *k, const char *text, size_t len) {
    *k = (struct keys_file){.path = "/tmp/router-test-keys-XXXXXX"};
    int fd = mkstemp(k->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
    read_keys(k);
    unlink(k->path);
}

static void keys_free(struct keys_file *k) {
    for (size_t i = 0; i < k->count; i++)
        free(k->keys[i]);
    free(k->keys);
    findings_free(&k->f);
}

static void a_file_of_keys(void **state) {
    static const char text[] = "# ours\nalice\n\n  bob \t\r\n\t# not this one\n#nor-this\ncarol#1";
    struct keys_file k;
    (void)state;
    read_keys_of(&k, text, sizeof text - 1);
    assert_true(k.ok);
    assert_int_equal(k.count, 3);
    assert_string_equal(k.keys[0], "alice");
    assert_string_equal(k.keys[1], "bob");
    assert_string_equal(k.keys[2], "carol#1");
    keys_free(&k);
}

static void a_bad_file_of_keys(void **state) {
    static const char text[] = "good\nSECRET two\nSECRET\x01\n\nlast\n";
    struct keys_file k;
    char *big = calloc(1, (1 << 20) + 1);
    (void)state;
    read_keys_of(&k, text, sizeof text - 1);
    assert_false(k.ok);
    assert_int_equal(k.f.errors, 2);
    assert_non_null(strstr(k.f.items[0].text, "k: line 2 of that file is no key"));
    assert_non_null(strstr(k.f.items[1].text, "k: line 3 of that file is no key"));
    for (size_t i = 0; i < 2; i++)
        assert_null(strstr(k.f.items[i].text, "SECRET"));
    assert_int_equal(k.f.items[0].line, 1);
    keys_free(&k);
    read_keys_of(&k, "# nobody\n\n", 10);
    assert_false(k.ok);
    assert_string_equal(k.f.items[0].text, "k: that file holds no key: nobody could be let in");
    keys_free(&k);
    read_keys_of(&k, "", 0);
    assert_string_equal(k.f.items[0].text, "k: that file holds no key: nobody could be let in");
    keys_free(&k);
    memset(big, '\n', (1 << 20) + 1), big[0] = 'k';
    read_keys_of(&k, big, 1 << 20);
    assert_true(k.ok);
    keys_free(&k);
    read_keys_of(&k, big, (1 << 20) + 1);
    assert_string_equal(k.f.items[0].text, "k: cannot read that file: it is larger than 1 MB");
    keys_free(&k);
    free(big);
}

static void no_file_of_keys(void **state) {
    static const char *const paths[] = {"/nonexistent/keys", "/tmp", "/dev/null"};
    static const char *const wanted[] = {"No such file or directory", "Is a directory", "it is not a regular file"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct keys_file k = {.path = ""};
        char text[128];
        snprintf(k.path, sizeof k.path, "%s", paths[i]);
        read_keys(&k);
        assert_false(k.ok);
        snprintf(text, sizeof text, "k: cannot read that file: %s", wanted[i]);
        assert_string_equal(k.f.items[0].text, text);
        keys_free(&k);
    }
    struct keys_file k = {.path = "/tmp/router-test-fifo-XXXXXX"}; /* must not wait for a writer */
    close(mkstemp(k.path));
    unlink(k.path);
    assert_int_equal(mkfifo(k.path, 0600), 0);
    read_keys(&k);
    assert_string_equal(k.f.items[0].text, "k: cannot read that file: it is not a regular file");
    unlink(k.path);
    keys_free(&k);
}

/* ---- the tree ---- */

static void tidy(void **state) {
    struct conf_findings f = {0};
    (void)state;
    struct node *n = parse("a: 1\nb: &x {c: 1, d: 2, c: 3}\na: 2\ne: [{f: 1, f: [1, 2]}, *x]\na: 3\n");
    conf_read_tidy(&f, n);
    findings_sort(&f);
    assert_int_equal(f.count, 6);
    assert_non_null(strstr(f.items[0].text, "b: YAML anchors"));
    assert_string_equal(f.items[1].text, "c: stands here twice (first on line 2)");
    assert_string_equal(f.items[2].text, "a: stands here twice (first on line 1)");
    assert_string_equal(f.items[3].text, "f: stands here twice (first on line 4)");
    assert_non_null(strstr(f.items[4].text, "e: YAML aliases"));
    assert_string_equal(f.items[5].text, "a: stands here twice (first on line 1)");
    assert_int_equal(n->count, 3); /* the first of each is left, in order */
    assert_string_equal(n->keys[1]->text, "b");
    assert_string_equal(conf_read_member(n, "a")->text, "1");
    assert_int_equal(conf_read_member(n, "b")->count, 2);
    assert_string_equal(conf_read_member(conf_read_member(n, "b"), "c")->text, "1");
    assert_null(conf_read_member(n, "z"));
    findings_free(&f);
    node_free(n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variables_expand),
        cmocka_unit_test(bad_variables),
        cmocka_unit_test(no_value_grows_without_bound),
        cmocka_unit_test(what_is_no_text),
        cmocka_unit_test(numbers),
        cmocka_unit_test(sizes_and_durations),
        cmocka_unit_test(units),
        cmocka_unit_test(bools_and_choices),
        cmocka_unit_test(pool_names),
        cmocka_unit_test(origins),
        cmocka_unit_test(secrets),
        cmocka_unit_test(url_paths),
        cmocka_unit_test(a_file_of_keys),
        cmocka_unit_test(a_bad_file_of_keys),
        cmocka_unit_test(no_file_of_keys),
        cmocka_unit_test(tidy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
