/* buf: bytes that grow at the end and shrink at the front.
 * In: bytes, numbers, text. Out: one contiguous run. Owns its memory only while it holds bytes, so an idle connection holds none.
 * Small sizes come from block's pools, larger ones from malloc; growth at least doubles. A put that finds no memory sets
 * `failed`, and none after it puts anything, though there be memory again: no text has a hole. Builders check once, at the end. */
#include "buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

static void mem_put(char *mem, size_t cap) {
    if (!mem) return;
    if (cap > BLOCK_MAX)
        free(mem);
    else
        block_put(mem, cap);
}

static char *mem_get(size_t want, size_t *cap) {
    if (want <= BLOCK_MAX) return block_get(want, cap);
    *cap = want;
    return malloc(want);
}

char *buf_reserve(struct buf *b, size_t n) {
    size_t len = buf_len(b);
    if (b->failed) return NULL;
    if (b->mem && b->cap - b->tail >= n) return b->mem + b->tail;
    if (b->mem && b->head && b->cap - len >= n && b->head >= len) { /* sliding is cheap: no overlap, at most half */
        memcpy(b->mem, b->mem + b->head, len);
        b->head = 0, b->tail = (uint32_t)len;
        return b->mem + b->tail;
    }
    if (len + n > BUF_LIMIT) return b->failed = true, (char *)NULL;
    size_t want = len + n, cap = 0;
    if (b->mem && want < 2 * (size_t)b->cap) want = 2 * (size_t)b->cap;
    char *mem = mem_get(want, &cap);
    if (!mem) return b->failed = true, (char *)NULL;
    if (b->mem && len) memcpy(mem, b->mem + b->head, len);
    mem_put(b->mem, b->cap);
    b->mem = mem, b->cap = (uint32_t)cap, b->head = 0, b->tail = (uint32_t)len;
    return mem + len;
}

void buf_put(struct buf *b, const void *ptr, size_t n) {
    if (!n) return;
    char *to = buf_reserve(b, n);
    if (!to) return;
    memcpy(to, ptr, n);
    b->tail += (uint32_t)n;
}

void buf_putc(struct buf *b, char c) {
    buf_put(b, &c, 1);
}

void buf_putu(struct buf *b, uint64_t n) {
    char digits[20];
    size_t i = sizeof digits;
    do
        digits[--i] = (char)('0' + n % 10);
    while (n /= 10);
    buf_put(b, digits + i, sizeof digits - i);
}

void buf_putx(struct buf *b, uint64_t n) {
    char digits[16];
    size_t i = sizeof digits;
    do
        digits[--i] = "0123456789abcdef"[n & 15];
    while (n >>= 4);
    buf_put(b, digits + i, sizeof digits - i);
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_reserve(b, (size_t)n + 1);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->tail += (uint32_t)n;
    }
    va_end(again);
}

/* Length of the UTF-8 sequence at s (RFC 3629), 0 if it is none. */
static size_t utf8_len(const unsigned char *s, size_t left) {
    unsigned c = s[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (!n || n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) || (c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static bool json_plain(unsigned char c) {
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&';
}

void buf_put_json(struct buf *b, struct str s, size_t max) {
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t len = s.len < max ? s.len : max;
    for (size_t i = 0; i < len;) {
        size_t run = 0;
        while (i + run < len && json_plain(p[i + run]))
            run++;
        buf_put(b, p + i, run);
        i += run;
        if (i == len) break;
        size_t n = utf8_len(p + i, s.len - i);
        if (n > 1 && !(n == 3 && p[i] == 0xe2 && p[i + 1] == 0x80 && (p[i + 2] == 0xa8 || p[i + 2] == 0xa9))) {
            buf_put(b, p + i, n); /* all but U+2028 and U+2029, which end a line in JavaScript and in some log readers */
        } else if (n == 0) {
            BUF_LIT(b, "\\ufffd");
            n = 1;
        } else if (n == 3) {
            buf_printf(b, "\\u20%02x", p[i + 2] - 0x80u);
        } else if (p[i] == '"' || p[i] == '\\') {
            buf_putc(b, '\\');
            buf_putc(b, (char)p[i]);
        } else {
            buf_printf(b, "\\u%04x", p[i]);
        }
        i += n;
    }
}

void buf_cut(struct buf *b, size_t len) {
    assert(len <= buf_len(b));
    b->tail = b->head + (uint32_t)len;
    if (!len) buf_free(b);
    b->failed = false;
}

void buf_consume(struct buf *b, size_t n) {
    assert(n <= buf_len(b));
    b->head += (uint32_t)n;
    if (b->head == b->tail) buf_free(b);
}

void buf_free(struct buf *b) {
    mem_put(b->mem, b->cap);
    b->mem = NULL;
    b->cap = b->head = b->tail = 0;
    b->failed = false;
}
