/* block: payload memory in a few sizes, kept on free lists so that a busy router touches no allocator and no fresh page. */
#ifndef BLOCK_H
#define BLOCK_H
#include <stddef.h>
#include <stdint.h>

#define BLOCK_MIN ((size_t)1 << 10) /* 1 KiB */
#define BLOCK_MAX ((size_t)1 << 18) /* 256 KiB; classes are 1, 4, 16, 64, 256 KiB */

/* A block of at least `size` bytes (its real size in *got), uninitialised; NULL when the machine has no memory left
 * or size is above BLOCK_MAX. */
void *block_get(size_t size, size_t *got);
void block_put(void *ptr, size_t got); /* `got` as block_get told it */
size_t block_free_bytes(void);         /* bytes on the free lists */
void block_trim(size_t keep);          /* gives back to the machine what is above keep bytes */
void block_test_fail_after(long n);    /* tests: the n-th block_get from now fails once, and all after it too; -1 = never */
#endif
