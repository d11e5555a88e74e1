/* slab: structs of one size on a free list. A taken one is zeroed in its first `clear` bytes. */
#ifndef SLAB_H
#define SLAB_H
#include <stddef.h>

struct slab { /* a static one: {.size = sizeof(struct x), .clear = …} */
    size_t size, clear;
    void *free;
    size_t in_use, spare;
};
void *slab_get(struct slab *s); /* aborts without memory: small structs only */
void slab_put(struct slab *s, void *ptr);
void slab_trim(struct slab *s); /* gives back all spare ones */
#endif
