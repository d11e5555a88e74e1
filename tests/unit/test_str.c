#include "unit.h"

#include "str.h"

static void compares(void **state) {
    (void)state;
    assert_true(str_eq(STR("abc"), STR("abc")));
    assert_false(str_eq(STR("abc"), STR("abd")));
    assert_false(str_eq(STR("abc"), STR("ab")));
    assert_true(str_eq(STR_NONE, STR("")));
    assert_true(str_ieq(STR("Content-Length"), STR("content-LENGTH")));
    assert_false(str_ieq(STR("["), STR("{"))); /* 0x5b and 0x7b differ in the case bit alone */
    assert_false(str_ieq(STR("@"), STR("`")));
    assert_true(str_starts(STR("/v1/x"), STR("/v1")));
    assert_false(str_starts(STR("/v"), STR("/v1")));
    assert_true(str_ends(STR("base/v1"), STR("/v1")));
    assert_false(str_ends(STR("1"), STR("/v1")));
    assert_true(str_cmp(STR("a"), STR("ab")) < 0);
    assert_true(str_cmp(STR("b"), STR("ab")) > 0);
    assert_int_equal(str_cmp(STR("ab"), STR("ab")), 0);
}

static void numbers(void **state) {
    uint64_t n = 7;
    (void)state;
    assert_true(str_uint(STR("0"), 10, &n));
    assert_int_equal(n, 0);
    assert_true(str_uint(STR("18446744073709551615"), UINT64_MAX, &n));
    assert_true(n == UINT64_MAX);
    assert_false(str_uint(STR("18446744073709551616"), UINT64_MAX, &n));
    assert_true(str_uint(STR("10"), 10, &n));
    assert_false(str_uint(STR("11"), 10, &n));
    assert_false(str_uint(STR("7"), 5, &n));
    assert_false(str_uint(STR(""), 10, &n));
    assert_false(str_uint(STR("+1"), 10, &n));
    assert_false(str_uint(STR(" 1"), 10, &n));
    assert_false(str_uint(STR("1x"), 10, &n));
}

static void lists(void **state) {
    struct str rest = STR(" a ,, b\t,c c, "), item, head;
    (void)state;
    assert_true(str_next(&rest, &item) && str_eq(item, STR("a")));
    assert_true(str_next(&rest, &item) && str_eq(item, STR("b")));
    assert_true(str_next(&rest, &item) && str_eq(item, STR("c c")));
    assert_false(str_next(&rest, &item));
    rest = str_cut(STR("k=v=w"), '=', &head);
    assert_true(str_eq(head, STR("k")) && str_eq(rest, STR("v=w")));
    rest = str_cut(STR("k"), '=', &head);
    assert_true(str_eq(head, STR("k")) && rest.len == 0);
    assert_true(str_eq(str_trim(STR(" \t x y \t")), STR("x y")));
    assert_int_equal(str_trim(STR(" \t ")).len, 0);
}

static void copies(void **state) {
    char dst[4];
    (void)state;
    assert_int_equal(str_copy(dst, sizeof dst, STR("abcdef")), 3);
    assert_string_equal(dst, "abc");
    char *z = str_dup(STR("xy"));
    assert_string_equal(z, "xy");
    free(z);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(compares), cmocka_unit_test(numbers), cmocka_unit_test(lists),
                                       cmocka_unit_test(copies)};
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
