/* slab: the small structs that come and go with every request, without an allocator's work each time.
 * In: a size. Out: a zeroed struct. Owns the spare ones, at most SPARE_MAX of a kind; keeps none under AddressSanitizer, so that
 * a late reader of a dead struct is caught. */
#include "slab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "str.h"

#if defined(__SANITIZE_ADDRESS__)
#define SPARE_MAX 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SPARE_MAX 0
#endif
#endif
#ifndef SPARE_MAX
#define SPARE_MAX 4096
#endif

void *slab_get(struct slab *s) {
    assert(s->size >= sizeof(void *));
    s->in_use++;
    void *p = s->free;
    if (!p) return must_alloc(s->size);
    memcpy(&s->free, p, sizeof s->free);
    s->spare--;
    memset(p, 0, s->clear);
    return p;
}

void slab_put(struct slab *s, void *ptr) {
    assert(s->in_use);
    s->in_use--;
    if (s->spare + 1 > SPARE_MAX) {
        free(ptr);
        return;
    }
    memcpy(ptr, &s->free, sizeof s->free);
    s->free = ptr;
    s->spare++;
}

void slab_trim(struct slab *s) {
    while (s->free) {
        void *p = s->free;
        memcpy(&s->free, p, sizeof s->free);
        s->spare--;
        free(p);
    }
}
