/* str: small operations on borrowed bytes.
 * In: spans of somebody else's memory. Out: spans of the same memory, numbers, comparisons.
 * Owns nothing; only str_dup and must_* allocate, and they abort rather than fail: they are for small structs,
 * never for what a peer can make large. */
#include "str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool str_ieq(struct str a, struct str b) {
    if (a.len != b.len) return false;
    if (str_eq(a, b)) return true; /* mostly it is written as everybody does */
    for (size_t i = 0; i < a.len; i++) {
        unsigned char x = (unsigned char)a.ptr[i], y = (unsigned char)b.ptr[i];
        if (x >= 'A' && x <= 'Z') x |= 0x20; /* not tolower(): no locale may change what a header name is */
        if (y >= 'A' && y <= 'Z') y |= 0x20;
        if (x != y) return false;
    }
    return true;
}

bool str_starts(struct str s, struct str prefix) {
    return s.len >= prefix.len && (prefix.len == 0 || memcmp(s.ptr, prefix.ptr, prefix.len) == 0);
}

bool str_ends(struct str s, struct str suffix) {
    return s.len >= suffix.len && (suffix.len == 0 || memcmp(s.ptr + s.len - suffix.len, suffix.ptr, suffix.len) == 0);
}

int str_cmp(struct str a, struct str b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int d = n ? memcmp(a.ptr, b.ptr, n) : 0;
    return d ? d : (a.len > b.len) - (a.len < b.len);
}

bool str_uint(struct str s, uint64_t max, uint64_t *out) {
    uint64_t n = 0;
    if (!s.len) return false;
    for (size_t i = 0; i < s.len; i++) {
        unsigned d = (unsigned char)s.ptr[i] - (unsigned)'0';
        if (d > 9 || n > (max - d) / 10 || d > max) return false;
        n = n * 10 + d;
    }
    *out = n;
    return true;
}

struct str str_cut(struct str s, char sep, struct str *head) {
    const char *p = s.len ? memchr(s.ptr, sep, s.len) : NULL;
    *head = s;
    if (!p) return (struct str){s.len ? s.ptr + s.len : s.ptr, 0};
    head->len = (size_t)(p - s.ptr);
    return (struct str){p + 1, s.len - head->len - 1};
}

bool str_next(struct str *rest, struct str *item) {
    while (rest->len) {
        *rest = str_cut(*rest, ',', item);
        *item = str_trim(*item);
        if (item->len) return true;
    }
    *item = STR_NONE;
    return false;
}

size_t str_copy(char *dst, size_t cap, struct str s) {
    size_t n = s.len < cap - 1 ? s.len : cap - 1;
    if (n) memcpy(dst, s.ptr, n);
    dst[n] = 0;
    return n;
}

void *must_have(void *p) {
    if (p) return p;
    fputs("router: out of memory\n", stderr);
    abort();
}

char *str_dup(struct str s) {
    char *z = must_have(malloc(s.len + 1));
    str_copy(z, s.len + 1, s);
    return z;
}

void *must_alloc(size_t size) {
    return must_have(calloc(1, size ? size : 1));
}

void *must_realloc(void *ptr, size_t size) {
    return must_have(realloc(ptr, size ? size : 1));
}
