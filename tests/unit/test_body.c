#include "unit.h"

#include "block.h"
#include "body.h"

static void stores_in_pieces(void **state) {
    struct body b = {0};
    char *text = malloc(1000003);
    struct iovec iov[64];
    (void)state;
    for (size_t i = 0; i < 1000003; i++)
        text[i] = (char)(i * 31 + i / 997);
    for (size_t at = 0; at < 1000003; at += 777) {
        size_t n = 1000003 - at < 777 ? 1000003 - at : 777;
        assert_true(body_append(&b, text + at, n, 0));
    }
    assert_int_equal(b.len, 1000003);
    assert_int_equal(body_held(), 1000003);
    for (uint64_t from = 0; from < b.len; from += 99991) {
        uint64_t at = from, to = from + 50000 < b.len ? from + 50000 : b.len;
        while (at < to) {
            int n = body_pieces(&b, at, to, iov, 1);
            assert_int_equal(n, 1);
            assert_memory_equal(iov[0].iov_base, text + at, iov[0].iov_len);
            at += iov[0].iov_len;
        }
        assert_int_equal(at, to);
    }
    char got[5000];
    body_copy(&b, 3000, sizeof got, got);
    assert_memory_equal(got, text + 3000, sizeof got);
    assert_int_equal(body_pieces(&b, 5, 5, iov, 64), 0);
    body_free(&b);
    assert_int_equal(body_held(), 0);
    free(text);
}

static void counts_against_the_budget(void **state) {
    struct body a = {0}, b = {0};
    char kb[1024] = {0};
    (void)state;
    body_set_budget(3000);
    assert_true(body_append(&a, kb, 1024, 0));
    assert_true(body_append(&b, kb, 1024, 0));
    assert_false(body_append(&a, kb, 1024, 0));
    body_free(&a);
    assert_true(body_append(&b, kb, 1024, 0));
    body_free(&b);
    body_set_budget(0);
}

static void fits_the_block_to_what_comes(void **state) {
    struct body b = {0};
    size_t room;
    (void)state;
    assert_non_null(body_room(&b, 500, &room));
    assert_true(room >= 500 && room < 1024);
    body_commit(&b, 0);
    body_free(&b);
    assert_non_null(body_room(&b, 8 << 20, &room));
    assert_true(room > 200000);
    body_free(&b);
    block_test_fail_after(1);
    assert_null(body_room(&b, 100, &room));
    block_test_fail_after(-1);
    body_free(&b);
}

static int give_back(void **state) {
    (void)state;
    block_trim(0);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(stores_in_pieces), cmocka_unit_test(counts_against_the_budget),
                                       cmocka_unit_test(fits_the_block_to_what_comes)};
    return cmocka_run_group_tests_name("body", tests, NULL, give_back);
}
