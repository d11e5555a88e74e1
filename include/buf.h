/* buf: contiguous bytes with a front and an end, held only while there are any. Offsets stay good when it moves; pointers do not. */
#ifndef BUF_H
#define BUF_H
#include "str.h"

/* All zero is an empty buffer that holds no memory. Up to BLOCK_MAX it lives in a pooled block, above in malloc. */
struct buf {
    char *mem;
    uint32_t cap;
    uint32_t head, tail; /* bytes are mem[head, tail) */
    bool failed;         /* a put found no memory, and none after it did anything. Checked once, at the end, by whoever builds. */
};

#define BUF_LIMIT ((uint32_t)1 << 30)

static inline const char *buf_ptr(const struct buf *b) {
    return b->mem ? b->mem + b->head : "";
}
static inline size_t buf_len(const struct buf *b) {
    return b->tail - b->head;
}
static inline struct str buf_str(const struct buf *b) {
    return (struct str){buf_ptr(b), buf_len(b)};
}
/* Room for n more bytes at the end; NULL (and failed set) if there is no memory. Then write and buf_commit. */
char *buf_reserve(struct buf *b, size_t n);
static inline void buf_commit(struct buf *b, size_t n) {
    b->tail += (uint32_t)n;
}
void buf_put(struct buf *b, const void *ptr, size_t n);
static inline void buf_puts(struct buf *b, struct str s) {
    buf_put(b, s.ptr, s.len);
}
void buf_putc(struct buf *b, char c);
void buf_putu(struct buf *b, uint64_t n); /* decimal */
void buf_putx(struct buf *b, uint64_t n); /* lower-case hexadecimal, no leading zeros */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The text as the inside of a JSON string: quotes, backslashes, control bytes, <, >, & and bytes that are not UTF-8
 * escaped (those as U+FFFD), so that it can stand in a log line or a web page. At most max bytes of s are taken. */
void buf_put_json(struct buf *b, struct str s, size_t max);
void buf_cut(struct buf *b, size_t len);   /* keeps the first len bytes, and forgets that a put failed */
void buf_consume(struct buf *b, size_t n); /* from the front; gives the memory back when nothing is left */
void buf_free(struct buf *b);              /* gives the memory back; the buffer is empty and usable again */
#define BUF_LIT(b, literal) buf_put((b), "" literal, sizeof(literal) - 1)
#endif
