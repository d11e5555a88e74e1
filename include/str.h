/* str: spans of bytes that belong to somebody else. Nothing here allocates. */
#ifndef STR_H
#define STR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes [ptr, ptr+len), not NUL-terminated, borrowed. ptr may be NULL when len is 0. */
struct str {
    const char *ptr;
    size_t len;
};

/* The same as an offset, for buffers that move: relative to a base that the holder knows. */
struct span {
    uint32_t off, len;
};

#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})
#define STR_NONE     ((struct str){NULL, 0})
#define STR_FMT      "%.*s"
#define STR_ARG(s)   (int)(s).len, (s).ptr ? (s).ptr : ""

/* Of a NUL-terminated string; NULL gives STR_NONE. */
static inline struct str str_of(const char *z) {
    return z ? (struct str){z, strlen(z)} : STR_NONE;
}
/* The span's bytes in the buffer that starts at base. */
static inline struct str str_at(const char *base, struct span s) {
    return (struct str){base + s.off, s.len};
}
static inline bool str_eq(struct str a, struct str b) {
    /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a span that has a length has its bytes */
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}
bool str_ieq(struct str a, struct str b); /* ASCII letters compared without case */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
/* Without SP and HT at both ends. */
static inline struct str str_trim(struct str s) {
    while (s.len && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
        s.ptr++, s.len--;
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}
int str_cmp(struct str a, struct str b); /* byte order, as memcmp; a prefix comes first */

/* Only digits, no sign, no blank; false if empty, not digits, or above max. */
bool str_uint(struct str s, uint64_t max, uint64_t *out);

/* Takes the next element of a comma-separated list (RFC 9110 5.6.1), trimmed, empty ones skipped; false at the end. */
bool str_next(struct str *rest, struct str *item);

/* Splits at the first sep: *head gets what stands before it and the rest is returned; without sep *head gets all. */
struct str str_cut(struct str s, char sep, struct str *head);

/* Copies at most cap-1 bytes and ends them with NUL; returns the length copied. */
size_t str_copy(char *dst, size_t cap, struct str s);

/* A malloc'ed NUL-terminated copy; aborts when out of memory. */
char *str_dup(struct str s) __attribute__((returns_nonnull));

/* malloc, calloc that abort with a message: for small structs only, never for payload. */
void *must_have(void *ptr) __attribute__((returns_nonnull));    /* ptr; NULL means that memory is out */
void *must_alloc(size_t size) __attribute__((returns_nonnull)); /* zeroed */
void *must_realloc(void *ptr, size_t size) __attribute__((returns_nonnull));
#endif
