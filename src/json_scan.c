/* json_scan: where the text of a JSON string ends, where a run of blanks ends.
 * In: a span of bytes, in the middle of a body. Out: a place in it, and whether backslashes were met. Owns nothing.
 * It must never read outside the span: bytes before it may be another's, the page behind it may not be there. What is left over
 * when no whole block fits is looked at byte by byte. Which variant runs is asked of the processor, not of the compiler.
 *
 *   64 bytes:   a \ \ " x \ " " ...     specials? none: next 64
 *   slash       0 1 1 0 0 1 0 0         each backslash that is not itself taken along takes the next byte
 *   taken       0 0 1 0 0 0 1 0         (bit 63 takes bit 0 of the next block)
 *   stop        0 0 0 1 0 0 0 1         quotes not taken, and every control byte: the lowest is the answer */
#include "json_scan.h"

#include <string.h>

#if defined(__SSE2__) && defined(__x86_64__)
#include <immintrin.h>
#define HAVE_AVX2 1
#endif

/* ---- plain ---- */

#define BYTES(b) (0x0101010101010101u * (uint64_t)(b))

static uint64_t zero_bytes(uint64_t w) {
    return (w - BYTES(1)) & ~w & BYTES(0x80);
}

static bool special8(const char *p) {
    uint64_t w;
    memcpy(&w, p, 8);
    return (zero_bytes(w ^ BYTES('"')) | zero_bytes(w ^ BYTES('\\')) | ((w - BYTES(0x20)) & ~w & BYTES(0x80))) != 0;
}

static const char *text_plain(const char *p, const char *end, unsigned *seen) {
    while (p < end) {
        if (end - p >= 8 && !special8(p)) {
            p += 8;
            continue;
        }
        for (const char *stop = end - p >= 8 ? p + 8 : end; p < stop; p++) {
            if ((unsigned char)*p < 0x20 || *p == '"') return p;
            if (*p != '\\') continue;
            *seen |= JSON_SCAN_ESCAPED;
            if (++p == end) {
                *seen |= JSON_SCAN_OPEN;
                return p;
            }
            if ((unsigned char)*p < 0x20) return p;
        }
    }
    return end;
}

static const char *blanks_plain(const char *p, const char *end) {
    while (p < end && json_scan_blank(*p))
        p++;
    return p;
}

/* ---- blocks of 64 ---- */
#ifdef __SSE2__

struct block {
    uint64_t quote, slash, control; /* a bit a byte */
};

/* Which bytes of the block stop the text. *taken: the block's first byte is taken along by the block before it; then the same for the
 * next block. */
static inline uint64_t stops(struct block b, uint64_t *taken, unsigned *seen) {
    uint64_t takes = *taken, slash = b.slash & ~takes;
    if (slash & slash << 1) {
        *taken = 0;
        while (slash) {
            uint64_t bit = slash & -slash;
            takes |= bit << 1;
            slash &= ~(bit | bit << 1);
            *taken = bit >> 63;
        }
    } else { /* mostly none takes another one along */
        takes |= slash << 1;
        *taken = slash >> 63;
    }
    uint64_t stop = (b.quote & ~takes) | b.control;
    if (b.slash & (stop ^ (stop - 1))) *seen |= JSON_SCAN_ESCAPED; /* those below the lowest stop, all if there is none */
    return stop;
}

/* The rest: whole sixteens, and at the first special one of them, or at their end, byte by byte. */
static inline const char *text_tail(const char *p, const char *end, uint64_t taken, unsigned *seen) {
    if (taken) {
        if (p == end) {
            *seen |= JSON_SCAN_OPEN;
            return p;
        }
        if ((unsigned char)*p < 0x20) return p;
        p++;
    }
    while (end - p >= 16 && !json_scan_special(p))
        p += 16;
    return text_plain(p, end, seen);
}

static inline uint64_t equal64(const __m128i v[4], char c) {
    uint64_t m = 0;
    for (int i = 0; i < 4; i++)
        m |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v[i], _mm_set1_epi8(c))) << (16 * i);
    return m;
}

static inline uint64_t control64(const __m128i v[4]) {
    uint64_t m = 0;
    for (int i = 0; i < 4; i++)
        m |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(v[i], _mm_set1_epi8(0x1f)), v[i])) << (16 * i);
    return m;
}

static inline bool special64(const __m128i v[4]) {
    __m128i any = _mm_setzero_si128();
    for (int i = 0; i < 4; i++) {
        any = _mm_or_si128(any, _mm_cmpeq_epi8(v[i], _mm_set1_epi8('"')));
        any = _mm_or_si128(any, _mm_cmpeq_epi8(v[i], _mm_set1_epi8('\\')));
        any = _mm_or_si128(any, _mm_cmpeq_epi8(_mm_min_epu8(v[i], _mm_set1_epi8(0x1f)), v[i]));
    }
    return _mm_movemask_epi8(any);
}

static const char *text_sse2(const char *p, const char *end, unsigned *seen) {
    uint64_t taken = 0;
    for (; end - p >= 64; p += 64) {
        __m128i v[4];
        for (size_t i = 0; i < 4; i++)
            v[i] = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
        if (!special64(v)) {
            taken = 0;
            continue;
        }
        uint64_t stop = stops((struct block){equal64(v, '"'), equal64(v, '\\'), control64(v)}, &taken, seen);
        if (stop) return p + __builtin_ctzll(stop);
    }
    return text_tail(p, end, taken, seen);
}

static const char *blanks_sse2(const char *p, const char *end) {
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i a = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8(' ')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\n')));
        __m128i b = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\r')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\t')));
        unsigned other = (unsigned)_mm_movemask_epi8(_mm_or_si128(a, b)) ^ 0xffffu;
        if (other) return p + __builtin_ctz(other);
    }
    return blanks_plain(p, end);
}
#endif

#ifdef HAVE_AVX2
#define AVX2 __attribute__((target("avx2,bmi")))

AVX2 static inline uint64_t both(__m256i low, __m256i high) {
    return (uint64_t)(uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32;
}

AVX2 static const char *text_avx2(const char *p, const char *end, unsigned *seen) {
    const __m256i quote = _mm256_set1_epi8('"'), slash = _mm256_set1_epi8('\\'), last = _mm256_set1_epi8(0x1f);
    uint64_t taken = 0;
    for (; end - p >= 64; p += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));
        __m256i aq = _mm256_cmpeq_epi8(a, quote), as = _mm256_cmpeq_epi8(a, slash),
                ac = _mm256_cmpeq_epi8(_mm256_min_epu8(a, last), a);
        __m256i bq = _mm256_cmpeq_epi8(b, quote), bs = _mm256_cmpeq_epi8(b, slash),
                bc = _mm256_cmpeq_epi8(_mm256_min_epu8(b, last), b);
        __m256i any = _mm256_or_si256(_mm256_or_si256(_mm256_or_si256(aq, as), _mm256_or_si256(bq, bs)), _mm256_or_si256(ac, bc));
        if (_mm256_testz_si256(any, any)) {
            taken = 0;
            continue;
        }
        uint64_t stop = stops((struct block){both(aq, bq), both(as, bs), both(ac, bc)}, &taken, seen);
        if (stop) return p + __builtin_ctzll(stop);
    }
    return text_tail(p, end, taken, seen);
}
#endif

/* ---- escapes ---- */

static bool hex4(const char *p, const char *end, uint32_t *unit) {
    if (end - p < 4) return false;
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)p[i], low = c | 0x20;
        if (c >= '0' && c <= '9')
            *unit = *unit << 4 | (c - (uint32_t)'0');
        else if (low >= 'a' && low <= 'f')
            *unit = *unit << 4 | (low - (uint32_t)'a' + 10);
        else
            return false;
    }
    return true;
}

size_t json_scan_escape(const char *p, const char *end, uint32_t *code) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    uint32_t low;
    if (end - p < 2) return 0;
    if (p[1] != 'u') {
        const char *at = memchr(from, p[1], sizeof from - 1);
        if (!at) return 0;
        *code = (unsigned char)to[at - from];
        return 2;
    }
    if (!hex4(p + 2, end, code)) return 0;
    if (*code < 0xd800 || *code > 0xdfff) return 6;
    if (*code > 0xdbff || end - p < 12 || p[6] != '\\' || p[7] != 'u' || !hex4(p + 8, end, &low)) return 0;
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return 12;
}

/* ---- which ---- */

static const struct json_scan plain = {"plain", text_plain, blanks_plain};
#ifdef __SSE2__
static const struct json_scan sse2 = {"sse2", text_sse2, blanks_sse2};
#endif
#ifdef HAVE_AVX2
static const struct json_scan avx2 = {"avx2", text_avx2, blanks_sse2}; /* runs of blanks are short: wider blocks only cost */
#endif

const struct json_scan *json_scan_variant(size_t i) {
    if (i == 0) return &plain;
#ifdef __SSE2__
    if (i == 1) return &sse2;
#endif
#ifdef HAVE_AVX2
    if (i == 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")) return &avx2;
#endif
    return NULL;
}

const struct json_scan *json_scan_best(void) {
    const struct json_scan *best = &plain, *s;
    for (size_t i = 1; (s = json_scan_variant(i)); i++)
        best = s;
    return best;
}
