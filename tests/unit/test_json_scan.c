#include "unit.h"

#include <sys/mman.h>
#include <unistd.h>

#include "json_scan.h"

/* What every variant must say, as plainly as it can be put. */
static size_t expect_text(const char *s, size_t n, unsigned *seen) {
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == '"') return i;
        if (s[i] != '\\') continue;
        *seen |= JSON_SCAN_ESCAPED;
        if (++i == n) {
            *seen |= JSON_SCAN_OPEN;
            return n;
        }
        if ((unsigned char)s[i] < 0x20) return i;
    }
    return n;
}

static void check_text(const char *s, size_t n) {
    const struct json_scan *scan;
    unsigned want_seen = 0;
    size_t want = expect_text(s, n, &want_seen);
    for (size_t v = 0; (scan = json_scan_variant(v)); v++) {
        unsigned seen = 0, seen_short = 0;
        size_t got = (size_t)(scan->text(s, s + n, &seen) - s),
               got_short = (size_t)(json_scan_text(scan, s, s + n, &seen_short) - s);
        if (got != want || seen != want_seen || got_short != want || seen_short != want_seen)
            fail_msg("%s: %zu bytes: stops at %zu (%zu), not %zu; seen %u (%u), not %u", scan->name, n, got, got_short, want, seen,
                     seen_short, want_seen);
    }
}

/* Memory with a page behind it, and one before it, that must not be touched. */
static char *guarded(size_t n, char **end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (n + page - 1) / page * page;
    char *m = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m != MAP_FAILED);
    assert_int_equal(mprotect(m + page, size, PROT_READ | PROT_WRITE), 0);
    *end = m + page + size;
    return m + page;
}

static const char interesting[] = {'"', '\\', 0,   1,    0x1f,       '\n',       ' ',        '!',
                                   '#', '[',  ']', 0x7f, (char)0x80, (char)0xa2, (char)0xdc, (char)0xff};

static void one_byte_at_every_place(void **state) {
    char *end, *start = guarded(256, &end);
    (void)state;
    for (size_t n = 0; n <= 200; n++) { /* the end is a page's, so the beginning has every alignment */
        memset(start, 'x', (size_t)(end - start));
        check_text(end - n, n);
        for (size_t at = 0; at < n; at++) {
            for (size_t k = 0; k < sizeof interesting; k++) {
                end[(ptrdiff_t)at - (ptrdiff_t)n] = interesting[k];
                check_text(end - n, n);
            }
            end[(ptrdiff_t)at - (ptrdiff_t)n] = 'x';
        }
    }
    for (size_t n = 0; n <= 200; n++) { /* and at a page's beginning */
        memset(start, 'x', 256);
        check_text(start, n);
    }
}

/* Backslashes in a row, over every boundary, then what they take or do not take along. */
static void backslashes_over_every_boundary(void **state) {
    char *end, *start = guarded(512, &end);
    (void)state;
    (void)start;
    for (size_t n = 1; n <= 210; n += n < 60 ? 1 : 3) {
        char *s = end - n;
        for (size_t at = 0; at < n; at++) {
            for (size_t run = 1; run <= 5 && at + run <= n; run++) {
                static const char after[] = {'"', 'x', '\n'};
                for (size_t k = 0; k < sizeof after; k++) {
                    memset(s, 'x', n);
                    memset(s + at, '\\', run);
                    if (at + run < n) s[at + run] = after[k];
                    if (at + run + 1 < n) s[at + run + 1] = '"';
                    check_text(s, n);
                }
            }
        }
    }
    for (size_t run = 0; run <= 200; run++) {
        char *s = end - run - 1;
        memset(s, '\\', run);
        s[run] = '"';
        check_text(s, run + 1);
        check_text(s, run);
    }
}

/* What stands before and behind the span has no say. */
static void neighbours_do_not_count(void **state) {
    static char mem[512];
    (void)state;
    for (size_t k = 0; k < 3; k++)
        for (size_t off = 64; off < 128; off++)
            for (size_t n = 0; n <= 140; n++) {
                memset(mem, "\"\\\n"[k], sizeof mem);
                memset(mem + off, 'x', n);
                check_text(mem + off, n);
            }
}

static void random_texts(void **state) {
    static const char letters[] = "xxxxxxxxxxxx\\\\\\\\\"\"u0\n";
    char *end, *start = guarded(4096, &end);
    uint64_t r = 88172645463325252u;
    (void)state;
    (void)start;
    for (int i = 0; i < 60000; i++) {
        size_t rare = 1 + (size_t)(i % 40), n = (size_t)(r >> 40) % 200;
        char *s = end - n;
        for (size_t k = 0; k < n; k++) {
            r ^= r << 13, r ^= r >> 7, r ^= r << 17;
            s[k] = r % rare ? 'x' : letters[(r >> 32) % (sizeof letters - 1)];
        }
        check_text(s, n);
    }
}

static void blanks(void **state) {
    const struct json_scan *scan;
    char *end, *start = guarded(256, &end);
    (void)state;
    for (int c = 0; c < 256; c++)
        assert_int_equal(json_scan_blank((char)c), c == ' ' || c == '\t' || c == '\n' || c == '\r');
    for (size_t v = 0; (scan = json_scan_variant(v)); v++)
        for (size_t n = 0; n <= 140; n++) {
            char *s = end - n;
            memset(start, '}', (size_t)(end - start));
            for (size_t i = 0; i < n; i++)
                s[i] = " \t\n\r"[(i + n) % 4];
            assert_ptr_equal(scan->blanks(s, end), end);
            if (n) assert_ptr_equal(json_scan_blanks(scan, s, end), end); /* it begins at a blank */
            for (size_t at = 0; at < n; at++) {
                char blank = s[at];
                static const char others[] = {'{', 0, 11, 12, 31, 33, (char)0x85, (char)0xa0, 'x'};
                for (size_t k = 0; k < sizeof others; k++) {
                    s[at] = others[k];
                    assert_ptr_equal(scan->blanks(s, end), s + at);
                    if (at) assert_ptr_equal(json_scan_blanks(scan, s, end), s + at);
                }
                s[at] = blank;
            }
        }
}

static void variants(void **state) {
    const struct json_scan *last = NULL, *s;
    size_t n = 0;
    (void)state;
    assert_string_equal(json_scan_variant(0)->name, "plain");
    for (; (s = json_scan_variant(n)); n++)
        last = s;
    assert_ptr_equal(json_scan_best(), last);
    assert_null(json_scan_variant(n + 1));
#if defined(__SSE2__) && defined(__x86_64__)
    assert_int_equal(n, 2 + (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")));
    assert_string_equal(json_scan_variant(1)->name, "sse2");
#endif
}

/* clang-format off */
static const struct {
    const char *text;
    size_t took; /* 0: no escape */
    uint32_t code;
} rows[] = {
    {"\\\"", 2, '"'}, {"\\\\", 2, '\\'}, {"\\/", 2, '/'}, {"\\b", 2, 8}, {"\\f", 2, 12}, {"\\n", 2, 10}, {"\\r", 2, 13},
    {"\\t", 2, 9}, {"\\nx", 2, 10}, {"\\u0041", 6, 'A'}, {"\\u00e9", 6, 0xe9}, {"\\uABCD", 6, 0xabcd}, {"\\uabcd", 6, 0xabcd},
    {"\\u0000", 6, 0}, {"\\uffff", 6, 0xffff}, {"\\ud7ff", 6, 0xd7ff}, {"\\ue000", 6, 0xe000}, {"\\ud83d\\ude00", 12, 0x1f600},
    {"\\uD800\\uDC00", 12, 0x10000}, {"\\udbff\\udfffx", 12, 0x10ffff}, {"\\", 0, 0}, {"\\x", 0, 0}, {"\\U0041", 0, 0},
    {"\\'", 0, 0}, {"\\a", 0, 0}, {"\\v", 0, 0}, {"\\0", 0, 0}, {"\\N", 0, 0}, {"\\\n", 0, 0}, {"\\u", 0, 0}, {"\\u1", 0, 0},
    {"\\u12", 0, 0}, {"\\u123", 0, 0}, {"\\u 041", 0, 0}, {"\\u+041", 0, 0}, {"\\u-041", 0, 0}, {"\\u0x41", 0, 0},
    {"\\u1_23", 0, 0}, {"\\u00g0", 0, 0}, {"\\u004@", 0, 0}, {"\\u004`", 0, 0}, {"\\u004/", 0, 0}, {"\\u004:", 0, 0},
    {"\\ud800", 0, 0}, {"\\udbff", 0, 0}, {"\\udc00", 0, 0}, {"\\udfff", 0, 0}, {"\\ude00\\ud83d", 0, 0}, {"\\udc00\\udc00", 0, 0},
    {"\\ud83d\\u0041", 0, 0}, {"\\ud83d\\ud83d", 0, 0}, {"\\ud83dxude00", 0, 0}, {"\\ud83d\\nde00", 0, 0},
    {"\\ud83d\\ude0", 0, 0}, {"\\ud83d\\ude0g", 0, 0}, {"\\ud83d\\ue000", 0, 0},
};
/* clang-format on */

static void escapes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].text);
        char *exact = malloc(n); /* for the sanitizer to see a read behind it */
        uint32_t code = 0;
        assert_non_null(exact);
        memcpy(exact, rows[i].text, n);
        size_t took = json_scan_escape(exact, exact + n, &code);
        if (took != rows[i].took) fail_msg("%s: %zu bytes, not %zu", rows[i].text, took, rows[i].took);
        if (took) assert_int_equal(code, rows[i].code);
        free(exact);
    }
    for (unsigned c = 0; c < 256; c++) { /* every byte behind a backslash, and NUL is no letter of the table */
        uint32_t code;
        char pair[2] = {'\\', (char)c};
        assert_int_equal(json_scan_escape(pair, pair + 2, &code), c && strchr("\"\\/bfnrt", (int)c) ? 2 : 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_byte_at_every_place),
        cmocka_unit_test(backslashes_over_every_boundary),
        cmocka_unit_test(neighbours_do_not_count),
        cmocka_unit_test(random_texts),
        cmocka_unit_test(blanks),
        cmocka_unit_test(variants),
        cmocka_unit_test(escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
