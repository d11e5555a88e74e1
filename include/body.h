/* body: a request's body as a chain of pooled blocks, counted against one budget for all bodies of the process. */
#ifndef BODY_H
#define BODY_H
#include <sys/uio.h>

#include "str.h"

struct body_block;
struct body { /* all zero is an empty body that holds nothing */
    struct body_block *first, *last;
    uint64_t len;
};

/* Free room at the end, to be written and then committed: at least 1 byte, *room tells how much. `expect` is how much is
 * still to come as far as known (0 = unknown): it chooses the block's size. NULL: the machine has no memory. */
char *body_room(struct body *b, uint64_t expect, size_t *room);
/* n bytes were written there. False if that is above the budget: the bytes are kept all the same, the caller refuses. */
bool body_commit(struct body *b, size_t n);
/* Copies; false without memory or above the budget. These n bytes are part of what is expected. */
bool body_append(struct body *b, const void *ptr, size_t n, uint64_t expect);
/* The pieces of bytes [from, to), at most max of them; returns how many. */
int body_pieces(const struct body *b, uint64_t from, uint64_t to, struct iovec *iov, int max);
void body_copy(const struct body *b, uint64_t from, size_t n, char *dst); /* within the body */
void body_free(struct body *b);

void body_set_budget(uint64_t bytes); /* 0 = no limit */
uint64_t body_held(void);             /* bytes of all bodies now held */
#endif
