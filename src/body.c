/* body: request bodies, stored as they arrive, read as pieces for writev.
 * In: bytes, or reads straight into its blocks. Out: iovecs. Owns its blocks until body_free; owns the count of all bytes held.
 * Never copies what was read in place, never moves a byte once stored. */
#include "body.h"

#include <assert.h>
#include <string.h>

#include "block.h"

struct body_block {
    struct body_block *next;
    uint32_t cap, len; /* of data */
    size_t got;        /* as block_get told */
    char data[];
};

static uint64_t held, budget;

void body_set_budget(uint64_t bytes) {
    budget = bytes;
}

uint64_t body_held(void) {
    return held;
}

char *body_room(struct body *b, uint64_t expect, size_t *room) {
    struct body_block *k = b->last;
    if (!k || k->len == k->cap) {
        size_t got, want = BLOCK_MAX;
        /* Of unknown length: each block four times the one before, so that a small body costs a small block. */
        if (expect && expect < BLOCK_MAX - sizeof *k)
            want = (size_t)expect + sizeof *k;
        else if (!expect)
            want = k ? (k->got < BLOCK_MAX / 4 ? k->got * 4 : BLOCK_MAX) : 4 * BLOCK_MIN;
        k = block_get(want, &got);
        if (!k) return NULL;
        k->next = NULL;
        k->got = got;
        k->len = 0;
        k->cap = (uint32_t)(got - sizeof *k);
        if (b->last)
            b->last->next = k;
        else
            b->first = k;
        b->last = k;
    }
    *room = k->cap - k->len;
    return k->data + k->len;
}

bool body_commit(struct body *b, size_t n) {
    assert(n <= b->last->cap - b->last->len);
    b->last->len += (uint32_t)n;
    b->len += n;
    held += n;
    return !budget || held <= budget;
}

bool body_append(struct body *b, const void *ptr, size_t n, uint64_t expect) {
    const char *p = ptr;
    while (n) {
        size_t room;
        char *to = body_room(b, expect, &room);
        if (!to) return false;
        if (room > n) room = n;
        memcpy(to, p, room);
        if (!body_commit(b, room)) return false;
        p += room, n -= room;
        expect = expect > room ? expect - room : 0;
    }
    return true;
}

int body_pieces(const struct body *b, uint64_t from, uint64_t to, struct iovec *iov, int max) {
    int n = 0;
    uint64_t at = 0;
    assert(to <= b->len);
    for (struct body_block *k = b->first; k && at < to && n < max; at += k->len, k = k->next) {
        if (at + k->len <= from) continue;
        uint64_t skip = from > at ? from - at : 0, end = to - at < k->len ? to - at : k->len;
        if (end > skip) iov[n++] = (struct iovec){k->data + skip, (size_t)(end - skip)};
    }
    return n;
}

void body_copy(const struct body *b, uint64_t from, size_t n, char *dst) {
    struct iovec iov[16];
    while (n) {
        int k = body_pieces(b, from, from + n, iov, 16);
        for (int i = 0; i < k; i++) {
            memcpy(dst, iov[i].iov_base, iov[i].iov_len);
            dst += iov[i].iov_len, from += iov[i].iov_len, n -= iov[i].iov_len;
        }
    }
}

void body_free(struct body *b) {
    while (b->first) {
        struct body_block *k = b->first;
        b->first = k->next;
        block_put(k, k->got);
    }
    held -= b->len;
    *b = (struct body){0};
}
