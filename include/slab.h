/* slab: structs of one size on a free list. A taken one is zeroed in its first `clear` bytes; of the rest nothing is known. */
#ifndef SLAB_H
#define SLAB_H
#include <stddef.h>

#define SLAB_CHUNK       ((size_t)64 << 10)  /* structs of up to SLAB_SMALL bytes are cut out of chunks of this size */
#define SLAB_SMALL       ((size_t)1 << 10)   /* larger ones come from malloc each, */
#define SLAB_SPARE_BYTES ((size_t)256 << 10) /* and no more of a kind is kept for the next time */

struct slab { /* a static one: {.size = sizeof(struct x), .clear = …} */
    size_t size, clear;
    void *free;
    char *fresh, *end;    /* private: of the last chunk, what was never taken */
    size_t in_use, spare; /* structs; spare ones are those on the free list */
};
void *slab_get(struct slab *s); /* aligned for pointers and numbers; aborts without memory: small structs only */
void slab_put(struct slab *s, void *ptr);
#endif
