#include "unit.h"

#include "field.h"

#define X(id, name) {FIELD_##id, {name, sizeof(name) - 1}},
static const struct {
    enum http_id id;
    struct str name;
} rows[] = {FIELD_TABLE(X)};
#undef X
#define ROWS (sizeof rows / sizeof *rows)

/* In exactly as many bytes as it has, so that a read beyond them is caught. */
static enum http_id id_of(const char *p, size_t len) {
    char *copy = malloc(len ? len : 1);
    memcpy(copy, p, len);
    enum http_id id = field_id((struct str){copy, len});
    free(copy);
    return id;
}

static void every_name_is_found_in_any_case(void **s) {
    (void)s;
    for (size_t i = 1; i < ROWS; i++) {
        char text[64];
        for (int upper = 0; upper < 3; upper++) {
            for (size_t k = 0; k < rows[i].name.len; k++) {
                char c = rows[i].name.ptr[k];
                bool up = c >= 'a' && c <= 'z' && (upper == 1 || (upper == 2 && k % 2));
                text[k] = (char)(up ? c - 32 : c);
            }
            assert_int_equal(id_of(text, rows[i].name.len), rows[i].id);
        }
    }
}

static void one_byte_less_more_or_other_is_another_name(void **s) {
    (void)s;
    for (size_t i = 1; i < ROWS; i++) {
        char text[64];
        size_t n = rows[i].name.len;
        memcpy(text, rows[i].name.ptr, n);
        text[n] = 'x';
        assert_int_not_equal(id_of(text, n + 1), rows[i].id);
        assert_int_not_equal(id_of(text, n - 1), rows[i].id);
        for (size_t k = 0; k < n; k++) {
            char was = text[k];
            text[k] = was == 'q' ? 'z' : 'q';
            assert_int_equal(id_of(text, n), FIELD_OTHER);
            text[k] = '_';
            assert_int_equal(id_of(text, n), FIELD_OTHER);
            text[k] = was;
        }
    }
    assert_int_equal(field_id(STR_NONE), FIELD_OTHER);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_is_found_in_any_case),
        cmocka_unit_test(one_byte_less_more_or_other_is_another_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
