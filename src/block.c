/* block: five sizes of payload memory on free lists.
 * In: a wish for bytes. Out: a block of the smallest class that holds them, or NULL.
 * Owns the free blocks; a block in use is its taker's. Free lists are last-in first-out, so that warm pages are used first;
 * what a burst left behind is given back by block_trim, which the server calls when a turn was quiet.
 * Under AddressSanitizer free blocks are poisoned, so that a late reader is caught. */
#include "block.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN 1
#endif
#endif
#ifdef ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define CLASSES 5

struct block {
    struct block *next;
};

static struct block *free_list[CLASSES];
static size_t free_bytes;
static long fail_after = -1;

static size_t class_size(int c) {
    return BLOCK_MIN << (2 * c);
}

static int class_of(size_t size) {
    int c = 0;
    while (c < CLASSES && class_size(c) < size)
        c++;
    return c;
}

void *block_get(size_t size, size_t *got) {
    int c = class_of(size);
    if (c == CLASSES) return NULL;
    if (fail_after >= 0 && (fail_after == 0 || --fail_after == 0)) return NULL;
    *got = class_size(c);
    struct block *b = free_list[c];
    if (!b) return malloc(*got);
    ASAN_UNPOISON_MEMORY_REGION(b, *got);
    free_list[c] = b->next;
    free_bytes -= *got;
    return b;
}

void block_put(void *ptr, size_t got) {
    int c = class_of(got);
    assert(ptr && c < CLASSES && class_size(c) == got);
    struct block *b = ptr;
    b->next = free_list[c];
    free_list[c] = b;
    free_bytes += got;
    ASAN_POISON_MEMORY_REGION((char *)ptr + sizeof *b, got - sizeof *b);
}

size_t block_free_bytes(void) {
    return free_bytes;
}

void block_trim(size_t keep) {
    for (int c = CLASSES - 1; c >= 0; c--)
        while (free_bytes > keep && free_list[c]) {
            struct block *b = free_list[c];
            ASAN_UNPOISON_MEMORY_REGION(b, class_size(c));
            free_list[c] = b->next;
            free_bytes -= class_size(c);
            free(b);
        }
}

void block_test_fail_after(long n) {
    fail_after = n;
}
