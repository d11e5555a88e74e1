#include "unit.h"

#include <cjson/cJSON.h>

#include "buf.h"
#include "models.h"

static struct models m;

static const char *parse(const char *body) {
    models_free(&m);
    return models_parse(str_of(body), &m);
}

static void assert_entry(size_t i, const char *id, const char *json) {
    assert_in_range(i, 0, m.count - 1);
    assert_string_equal(m.entries[i].id, id);
    if (json)
        assert_string_equal(m.entries[i].json, json);
    else
        assert_null(m.entries[i].json);
}

static void reads_openai(void **state) {
    (void)state;
    assert_null(parse(
        " {\"object\":\"list\",\"data\":[\n {\"id\":\"qwen\",\"object\":\"model\",\"created\":1686935002,\"owned_by\":\"me\"} ,"
        "{\"id\":\"a/b:c\"}, {\"owned_by\":\"x\",\"id\":\"z\"}]}\n"));
    assert_int_equal(m.count, 3);
    assert_entry(0, "qwen", "{\"id\":\"qwen\",\"object\":\"model\",\"created\":1686935002,\"owned_by\":\"me\"}");
    assert_entry(1, "a/b:c", NULL);
    assert_entry(2, "z", "{\"id\":\"z\",\"object\":\"model\",\"owned_by\":\"x\"}");
    assert_false(m.truncated);
}

static void reads_ollama(void **state) {
    (void)state;
    assert_null(parse("{\"models\":[{\"name\":\"llama3:latest\",\"model\":\"llama3:latest\",\"size\":4661224676,\"details\":{"
                      "\"families\":[\"llama\"]}},"
                      "{\"name\":\"only\"},{\"model\":\"m\"},{\"name\":\"\",\"model\":\"n\"},{\"name\":\"x\",\"model\":\"y\"},{"
                      "\"size\":1},\"bare\"]}"));
    assert_int_equal(m.count, 6);
    assert_entry(
        0, "llama3:latest",
        "{\"id\":\"llama3:latest\",\"object\":\"model\",\"name\":\"llama3:latest\",\"model\":\"llama3:latest\",\"size\":4661224676,"
        "\"details\":{\"families\":[\"llama\"]}}");
    assert_entry(1, "only", NULL);
    assert_entry(2, "m", NULL);
    assert_entry(3, "n", NULL);
    assert_entry(4, "x", NULL);
    assert_entry(5, "bare", NULL);
}

static void data_counts_where_both_are_told(void **state) {
    (void)state;
    assert_null(parse("{\"models\":[{\"name\":\"no\"}],\"object\":\"list\",\"data\":[{\"id\":\"yes\"}]}"));
    assert_int_equal(m.count, 1);
    assert_entry(0, "yes", NULL);
    assert_null(parse("{\"models\":[{\"name\":\"no\"}],\"data\":[]}"));
    assert_int_equal(m.count, 0);
    assert_null(parse("{\"models\":[{\"name\":\"yes\"}],\"data\":null}"));
    assert_int_equal(m.count, 1);
    assert_null(parse("{\"data\":[{\"id\":\"no\"}],\"d\\u0061ta\":[{\"id\":\"last\"}]}"));
    assert_entry(0, "last", NULL);
}

/* What cJSON could not print again. */
static void values_stay_as_they_stood(void **state) {
    (void)state;
    assert_null(parse("{\"data\":[{ \"n\" : 12345678901234567890 , \"e\":1e400,\"m\":-0.10,\"s\":\"\\u00e9\\/\xc3\xa9\\\"}]\", "
                      "\"o\":{ \"a\" : [ 1 , {} ] },"
                      "\"t\":true,\"id\":\"x\",\"z\":null }]}"));
    assert_entry(
        0, "x",
        "{\"id\":\"x\",\"object\":\"model\",\"n\":12345678901234567890,\"e\":1e400,\"m\":-0.10,\"s\":\"\\u00e9\\/\xc3\xa9\\\"}]\","
        "\"o\":{ \"a\" : [ 1 , {} ] },\"t\":true,\"z\":null}");
}

static void an_entry_has_one_id_and_one_object(void **state) {
    (void)state;
    assert_null(
        parse("{\"data\":[{\"id\":\"first\",\"object\":5,\"i\\u0064\":\"l\\u0061st\",\"object\":\"thing\",\"id\":7,\"x\":1}]}"));
    assert_int_equal(m.count, 1);
    assert_entry(0, "last", "{\"id\":\"l\\u0061st\",\"object\":\"thing\",\"x\":1}");
    assert_null(parse("{\"data\":[{\"id\":\"x\",\"object\":5},{\"id\":\"gone\",\"id\":\"\"}]}"));
    assert_int_equal(m.count, 1);
    assert_entry(0, "x", "{\"id\":\"x\",\"object\":\"model\"}");
}

static void ids_that_are_none_are_passed_over(void **state) {
    (void)state;
    assert_null(parse("{\"data\":[{\"id\":\"\"},{\"id\":5},{\"id\":null},{\"id\":[\"a\"]},{},[],7,null,\"\",{\"id\":\"a\\u0000b\"},"
                      "{\"id\":\"\\ud800\"},"
                      "{\"id\":\"\\q\"},{\"ID\":\"upper\"},{\"id\":\"good\"}]}"));
    assert_int_equal(m.count, 1);
    assert_entry(0, "good", NULL);
}

static void an_id_counts_once(void **state) {
    (void)state;
    assert_null(parse("{\"data\":[{\"id\":\"b\",\"n\":1},{\"id\":\"a\"},{\"id\":\"\\u0062\",\"n\":2},\"a\",{\"id\":\"c\"}]}"));
    assert_int_equal(m.count, 3);
    assert_entry(0, "b", "{\"id\":\"b\",\"object\":\"model\",\"n\":1}");
    assert_entry(1, "a", NULL);
    assert_entry(2, "c", NULL);
    assert_false(m.truncated);
}

/* One endpoint's bytes must not spoil the list of all: what is no UTF-8, or no escape, is left out, the id stays. */
static void unsound_entries_are_only_names(void **state) {
    static const char *const values[] = {"\"\xff\"",     "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
                                         "\"\xe2\x82\"", "\"\\x41\"",    "\"\\u12g4\"",      "\"\\u\""};
    static const char *const sound[] = {"\"\xe2\x82\xac\"", "\"\xf0\x9f\x98\x80\"", "\"\xee\x80\x80\"", "\"\\u12F4\\n\\\\\""};
    char body[200];
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        snprintf(body, sizeof body, "{\"data\":[{\"id\":\"x\",\"v\":%s}]}", values[i]);
        assert_null(parse(body));
        assert_entry(0, "x", NULL);
    }
    for (size_t i = 0; i < sizeof sound / sizeof *sound; i++) {
        snprintf(body, sizeof body, "{\"data\":[{\"id\":\"x\",\"v\":%s}]}", sound[i]);
        assert_null(parse(body));
        snprintf(body, sizeof body, "{\"id\":\"x\",\"object\":\"model\",\"v\":%s}", sound[i]);
        assert_entry(0, "x", body);
    }
}

static void says_what_is_wrong(void **state) {
    static const char *const rows[] = {"",
                                       "[]",
                                       "null",
                                       "{",
                                       "{\"data\":[}",
                                       "{\"data\":[]} x",
                                       "{}",
                                       "{\"data\":{}}",
                                       "{\"models\":1}",
                                       "{\"data\":[01]}",
                                       "<html>",
                                       "{\"data\":[{\"id\":\"a\"}",
                                       "{\"list\":[]}"};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_non_null(parse(rows[i]));
        assert_null(m.entries);
        assert_int_equal(m.count, 0);
    }
    assert_string_equal(parse("{\"a\":[]}"), "there is no list of models in it");
}

static void is_bounded(void **state) {
    (void)state;
    for (int extra = 0; extra <= 1; extra++) {
        struct buf b = {0};
        BUF_LIT(&b, "{\"data\":[");
        for (int i = 0; i < MODELS_MAX + extra; i++)
            buf_printf(&b, "%s{\"id\":\"model-%d\",\"n\":%d}", i ? "," : "", i, i);
        BUF_LIT(&b, ",{\"id\":\"model-0\"}]}"); /* one that is known already is none too many */
        models_free(&m);
        assert_null(models_parse(buf_str(&b), &m));
        assert_int_equal(m.count, MODELS_MAX);
        assert_int_equal(m.truncated, extra);
        assert_entry(MODELS_MAX - 1, "model-4095", "{\"id\":\"model-4095\",\"object\":\"model\",\"n\":4095}");
        buf_free(&b);
    }
}

static void long_ids_stay_whole(void **state) {
    static char id[100001];
    struct buf b = {0};
    (void)state;
    memset(id, 'i', sizeof id - 1);
    buf_printf(&b, "{\"data\":[{\"id\":\"%s\",\"x\":1}]}", id);
    models_free(&m);
    assert_null(models_parse(buf_str(&b), &m));
    assert_int_equal(m.count, 1);
    assert_string_equal(m.entries[0].id, id);
    cJSON *root = cJSON_Parse(m.entries[0].json);
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "id")), id);
    cJSON_Delete(root);
    buf_free(&b);
}

static void free_leaves_it_empty(void **state) {
    (void)state;
    assert_null(parse("{\"data\":[{\"id\":\"a\",\"b\":1}]}"));
    models_free(&m);
    assert_null(m.entries);
    assert_int_equal(m.count, 0);
    models_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_openai),
        cmocka_unit_test(reads_ollama),
        cmocka_unit_test(data_counts_where_both_are_told),
        cmocka_unit_test(values_stay_as_they_stood),
        cmocka_unit_test(an_entry_has_one_id_and_one_object),
        cmocka_unit_test(ids_that_are_none_are_passed_over),
        cmocka_unit_test(an_id_counts_once),
        cmocka_unit_test(unsound_entries_are_only_names),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(is_bounded),
        cmocka_unit_test(long_ids_stay_whole),
        cmocka_unit_test(free_leaves_it_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
