#include "unit.h"

#include "slab.h"

#if defined(__SANITIZE_ADDRESS__)
#define KEEPS_NONE 1
#elif defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer)
#define KEEPS_NONE 1
#endif
#endif
#ifndef KEEPS_NONE
#define KEEPS_NONE 0
#endif

#define MANY 5000

static void *got[MANY];

/* Every byte of each is its own: written in one, seen in no other. */
static void fill(struct slab *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        got[i] = slab_get(s);
        assert_int_equal((uintptr_t)got[i] % _Alignof(uint64_t), 0);
        memset(got[i], (int)(i % 251), s->size);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t at = 0; at < s->size; at++)
            assert_int_equal(((unsigned char *)got[i])[at], i % 251);
    assert_int_equal(s->in_use, n);
}

static void empty(struct slab *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        slab_put(s, got[i]);
    assert_int_equal(s->in_use, 0);
}

static void all_are_apart(void **state) {
    static struct slab slabs[] = {{.size = 8}, {.size = 9}, {.size = 136}, {.size = 400}, {.size = SLAB_SMALL}, {.size = 1025}};
    (void)state;
    for (size_t i = 0; i < sizeof slabs / sizeof *slabs; i++) {
        fill(&slabs[i], MANY);
        empty(&slabs[i], MANY);
    }
}

static void the_first_part_is_zeroed(void **state) {
    static struct slab s = {.size = 100, .clear = 60};
    (void)state;
    for (int again = 0; again < 3; again++) {
        unsigned char *p = slab_get(&s);
        for (size_t i = 0; i < 60; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, 100);
        slab_put(&s, p);
    }
}

#if !KEEPS_NONE /* there a dead struct's memory must not come again, and each has its redzones */
static void the_last_put_is_the_next_got(void **state) {
    static struct slab s = {.size = 64, .clear = 64};
    (void)state;
    void *a = slab_get(&s), *b = slab_get(&s);
    slab_put(&s, a);
    slab_put(&s, b);
    assert_int_equal(s.spare, 2);
    assert_ptr_equal(slab_get(&s), b);
    assert_ptr_equal(slab_get(&s), a);
    assert_int_equal(s.spare, 0);
    slab_put(&s, a);
    slab_put(&s, b);
}

/* Small ones stand side by side: no allocator's words between them. */
static void small_ones_cost_their_size(void **state) {
    static struct slab s = {.size = 100};
    static char *first; /* chunks are never given back: memcheck sees that this one is known */
    (void)state;
    first = slab_get(&s);
    for (size_t i = 1; i < SLAB_CHUNK / 104; i++)
        assert_ptr_equal(slab_get(&s), first + 104 * i);
    char *next = slab_get(&s); /* the next chunk */
    assert_true(next >= first + SLAB_CHUNK || next < first);
}
#endif

static void spare_ones(void **state) {
    static struct slab small = {.size = SLAB_SMALL}, large = {.size = SLAB_SMALL + 1};
    (void)state;
    fill(&small, MANY);
    empty(&small, MANY);
    assert_int_equal(small.spare, KEEPS_NONE ? 0 : MANY);
    fill(&large, MANY);
    empty(&large, MANY);
    assert_int_equal(large.spare, KEEPS_NONE ? 0 : SLAB_SPARE_BYTES / large.size);
    fill(&large, MANY);
    assert_int_equal(large.spare, 0);
    empty(&large, MANY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_are_apart),
        cmocka_unit_test(the_first_part_is_zeroed),
#if !KEEPS_NONE
        cmocka_unit_test(the_last_put_is_the_next_got),
        cmocka_unit_test(small_ones_cost_their_size),
#endif
        cmocka_unit_test(spare_ones),
    };
    return cmocka_run_group_tests_name("slab", tests, NULL, NULL);
}
