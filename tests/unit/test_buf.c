#include "unit.h"

#include "block.h"
#include "buf.h"

static void grows_and_shrinks(void **state) {
    struct buf b = {0};
    (void)state;
    for (int i = 0; i < 300000; i++)
        buf_putc(&b, (char)('a' + i % 26));
    assert_int_equal(buf_len(&b), 300000);
    assert_true(b.cap > BLOCK_MAX); /* beyond the pooled sizes */
    buf_consume(&b, 299990);
    assert_int_equal(buf_ptr(&b)[0], 'a' + 299990 % 26);
    buf_consume(&b, 10);
    assert_null(b.mem); /* empty holds nothing */
    buf_putu(&b, 0);
    buf_putu(&b, UINT64_MAX);
    buf_putx(&b, 0xbeef);
    buf_printf(&b, "[%d]", -5);
    assert_true(str_eq(buf_str(&b), STR("018446744073709551615beef[-5]")));
    buf_free(&b);
}

static void slides_within_its_block(void **state) {
    struct buf b = {0};
    (void)state;
    buf_put(&b, "0123456789", 10);
    assert_int_equal(b.cap, BLOCK_MIN);
    for (int i = 0; i < 1000; i++) {
        buf_put(&b, "0123456789", 10);
        buf_consume(&b, 10);
    }
    assert_int_equal(b.cap, BLOCK_MIN); /* a queue that stays short stays small */
    assert_true(str_eq(buf_str(&b), STR("0123456789")));
    buf_free(&b);
}

static void says_when_memory_fails(void **state) {
    struct buf b = {0};
    (void)state;
    buf_put(&b, "x", 1);
    block_test_fail_after(1);
    for (int i = 0; i < 2000; i++)
        buf_putc(&b, 'y');
    block_test_fail_after(-1);
    assert_true(b.failed);
    assert_int_equal(buf_len(&b), 1024);
    buf_free(&b);
    assert_false(b.failed);
}

static void escapes_json(void **state) {
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain", "plain"},
        {"a\"b\\c", "a\\\"b\\\\c"},
        {"line\nfeed\r\t", "line\\u000afeed\\u000d\\u0009"},
        {"<b>&", "\\u003cb\\u003e\\u0026"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"bad\xff\xc3", "bad\\ufffd\\ufffd"},
        {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"}, /* a surrogate is no UTF-8 */
        {"\xc0\xaf", "\\ufffd\\ufffd"},            /* overlong */
        {"\xe2\x80\xa8\xe2\x80\xa9", "\\u2028\\u2029"},
        {"\x7f", "\\u007f"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = {0};
        buf_put_json(&b, str_of(rows[i].in), SIZE_MAX);
        buf_putc(&b, 0);
        assert_string_equal(buf_ptr(&b), rows[i].out);
        buf_free(&b);
    }
    struct buf b = {0};
    buf_put_json(&b, STR("abcdef"), 3);
    assert_true(str_eq(buf_str(&b), STR("abc")));
    buf_free(&b);
}

static int give_back(void **state) {
    (void)state;
    block_trim(0);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(grows_and_shrinks), cmocka_unit_test(slides_within_its_block),
                                       cmocka_unit_test(says_when_memory_fails), cmocka_unit_test(escapes_json)};
    return cmocka_run_group_tests_name("buf", tests, NULL, give_back);
}
