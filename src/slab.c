/* slab: the structs that come and go with every request, without an allocator's work each time.
 * In: a size. Out: a struct, its first part zeroed. Owns the spare ones: all of the small kinds, so that what a burst took serves the
 * next one; of the large kinds, of which a request has one for a moment, a bounded number of bytes.
 * Small structs stand side by side in chunks, which are never given back: an allocator's header and rounding would be 32 bytes of
 * an idle stream. A chunk's pages are touched only as they are taken, so a kind that is hardly used costs hardly anything.
 * Under AddressSanitizer each comes from malloc and none is kept, so that a late reader of a dead struct is caught. */
#include "slab.h"

#include <assert.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "str.h"

#if defined(__SANITIZE_ADDRESS__)
#define ASAN true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN true
#endif
#endif
#ifndef ASAN
#define ASAN false
#endif

#define ALIGN alignof(uint64_t)

static bool is_small(const struct slab *s) {
    return !ASAN && s->size <= SLAB_SMALL;
}

static void *make(struct slab *s) {
    if (!is_small(s)) return must_realloc(NULL, s->size);
    size_t size = (s->size + ALIGN - 1) / ALIGN * ALIGN;
    if ((size_t)(s->end - s->fresh) < size) {
        s->fresh = must_realloc(NULL, SLAB_CHUNK);
        s->end = s->fresh + SLAB_CHUNK;
    }
    void *p = s->fresh;
    s->fresh += size;
    return p;
}

void *slab_get(struct slab *s) {
    assert(s->size >= sizeof(void *) && s->clear <= s->size);
    s->in_use++;
    void *p = s->free;
    if (p) {
        memcpy(&s->free, p, sizeof s->free);
        s->spare--;
    } else {
        p = make(s);
    }
    memset(p, 0, s->clear);
    return p;
}

void slab_put(struct slab *s, void *ptr) {
    assert(s->in_use);
    s->in_use--;
    if (!is_small(s) && (ASAN || (s->spare + 1) * s->size > SLAB_SPARE_BYTES)) {
        free(ptr);
        return;
    }
    memcpy(ptr, &s->free, sizeof s->free);
    s->free = ptr;
    s->spare++;
}
