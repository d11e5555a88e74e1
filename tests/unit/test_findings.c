#include "unit.h"

#include "findings.h"

static const struct node *at(int line, int column) {
    static struct node n;
    n.line = line, n.column = column;
    return &n;
}

static void are_sorted_by_place(void **state) {
    static const char *const order[] = {"f: no place", "a: first", "b: second", "c: third", "d: fourth", "e: fifth"};
    struct conf_findings f = {0};
    (void)state;
    findings_error(&f, at(2, 9), "d", "fourth");
    findings_error(&f, at(1, 2), "a", "first");
    findings_warning(&f, at(2, 3), "b", "%s", "second");
    findings_error(&f, at(2, 3), "c", "third"); /* of one place: as they were found */
    findings_error(&f, at(10, 1), "e", "fifth");
    findings_error(&f, NULL, "f", "no place");
    findings_sort(&f);
    assert_int_equal(f.count, 6);
    assert_int_equal(f.errors, 5);
    assert_int_equal(f.warnings, 1);
    for (size_t i = 0; i < f.count; i++)
        assert_string_equal(f.items[i].text, order[i]);
    assert_int_equal(f.items[0].line, 0);
    assert_int_equal(f.items[2].line, 2);
    assert_int_equal(f.items[2].column, 3);
    assert_true(f.items[2].warning);
    assert_false(f.items[3].warning);
    findings_free(&f);
    assert_int_equal(f.count + f.errors + f.warnings, 0);
}

static void are_one_line_each(void **state) {
    struct conf_findings f = {0};
    char long_text[2000];
    (void)state;
    findings_error(&f, at(1, 1), "a\nb\x1b[1m", "c\td\x7f%s", "\r");
    assert_string_equal(f.items[0].text, "a?b?[1m: c?d??");
    findings_error(&f, at(1, 1), "", "x");
    assert_string_equal(f.items[1].text, "'': x");
    memset(long_text, 'k', sizeof long_text), long_text[sizeof long_text - 1] = 0;
    findings_error(&f, at(1, 1), long_text, "%s", long_text);
    assert_int_equal(strlen(f.items[2].text), 511);
    assert_memory_equal(f.items[2].text + 64, ": k", 3); /* a long key leaves room for what is wrong with it */
    findings_free(&f);
}

static void are_bounded(void **state) {
    struct conf_findings f = {0};
    (void)state;
    for (int i = 1; i <= FINDINGS_MAX; i++) {
        assert_false(findings_full(&f));
        findings_error(&f, at(i, 1), "k", "%d", i);
    }
    assert_true(findings_full(&f));
    assert_int_equal(f.count, FINDINGS_MAX);
    for (int i = 1; i <= FINDINGS_MAX + 5; i++)
        findings_warning(&f, at(i, 2), "w", "x"); /* errors do not crowd out warnings */
    for (int i = 0; i < 5; i++)
        findings_error(&f, at(FINDINGS_MAX + 1, 1), "k", "x");
    assert_int_equal(f.errors, FINDINGS_MAX + 5);
    assert_int_equal(f.warnings, FINDINGS_MAX + 5);
    assert_int_equal(f.count, 2 * FINDINGS_MAX + 2);
    assert_string_equal(f.items[2 * FINDINGS_MAX].text, "file: too many warnings: not all are shown");
    assert_string_equal(f.items[2 * FINDINGS_MAX + 1].text, "file: too many errors: not all are shown");
    findings_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(are_sorted_by_place),
        cmocka_unit_test(are_one_line_each),
        cmocka_unit_test(are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
