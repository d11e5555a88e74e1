/* json_scan: runs over the text of a JSON string and over blanks as fast as the machine can. Three variants of one answer: byte by
 * byte, SSE2, AVX2. Also reads one escape. No state, no allocation; reads no byte outside [p, end). */
#ifndef JSON_SCAN_H
#define JSON_SCAN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define JSON_SCAN_ESCAPED 1u /* there was a backslash */
#define JSON_SCAN_OPEN    2u /* the last byte is a backslash, and the byte it takes along is not here yet */

struct json_scan {
    const char *name; /* "plain", "sse2", "avx2" */
    /* p is inside a string and no backslash is open. Where it stops (RFC 8259 7): at a quote that no backslash takes along, at a
     * control byte < 0x20 (taken along or not), else at end. Adds JSON_SCAN_* to *seen for what stands before. */
    const char *(*text)(const char *p, const char *end, unsigned *seen);
    const char *(*blanks)(const char *p, const char *end); /* the first byte that is no SP, HT, LF, CR; else end */
};

const struct json_scan *json_scan_best(void);        /* for this machine; asks the processor, cheap */
const struct json_scan *json_scan_variant(size_t i); /* those that run on this machine, slowest first; NULL behind the last */

/* The escape whose backslash is at p, p < end: its length as written (2, 6, of a surrogate pair 12) and the code point; 0 if it is none,
 * is cut off by end, or is a lone surrogate. */
size_t json_scan_escape(const char *p, const char *end, uint32_t *code);

static inline bool json_scan_blank(char c) {
    return (unsigned char)c <= ' ' && (UINT64_C(0x100002600) >> (unsigned char)c & 1);
}

#ifdef __SSE2__
/* A bit for each of the 16 bytes at p: a quote, a backslash or a control byte. */
static inline unsigned json_scan_special(const char *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i quote = _mm_cmpeq_epi8(v, _mm_set1_epi8('"')), slash = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
    return (unsigned)_mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, slash)));
}
#endif

/* s->text, but most keys and many values end within 16 bytes, and those are not worth a call. */
static inline const char *json_scan_text(const struct json_scan *s, const char *p, const char *end, unsigned *seen) {
#ifdef __SSE2__
    if (end - p >= 16) {
        unsigned special = json_scan_special(p);
        if (!special) return s->text(p + 16, end, seen);
        p += __builtin_ctz(special);
        if (*p != '\\') return p;
    }
#endif
    return s->text(p, end, seen);
}

/* s->blanks, but most runs are one blank long. *p is a blank. */
static inline const char *json_scan_blanks(const struct json_scan *s, const char *p, const char *end) {
    return ++p == end || !json_scan_blank(*p) ? p : s->blanks(p, end);
}
#endif
