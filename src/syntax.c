/* syntax: what HTTP/1.x text may look like.
 * In: the bytes of a head or of trailers, in whatever pieces they come; a start line, a target, a Host. Out: how far they are
 * sound, the pieces of a line, or in words what is wrong. Owns only constant tables; the caller keeps the one byte of state.
 * It must never let a byte pass that two parsers could take for different things: lines end in CRLF, names are tokens, values hold
 * no control bytes. What the fields mean is http's business. */
#include "syntax.h"

#include <arpa/inet.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* clang-format off */
static const unsigned char lower[256] = {
    ['!'] = '!', ['#'] = '#', ['$'] = '$', ['%'] = '%', ['&'] = '&', ['\''] = '\'', ['*'] = '*', ['+'] = '+', ['-'] = '-',
    ['.'] = '.', ['^'] = '^', ['_'] = '_', ['`'] = '`', ['|'] = '|', ['~'] = '~',
    ['0'] = '0', ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4', ['5'] = '5', ['6'] = '6', ['7'] = '7', ['8'] = '8', ['9'] = '9',
    ['A'] = 'a', ['B'] = 'b', ['C'] = 'c', ['D'] = 'd', ['E'] = 'e', ['F'] = 'f', ['G'] = 'g', ['H'] = 'h', ['I'] = 'i', ['J'] = 'j',
    ['K'] = 'k', ['L'] = 'l', ['M'] = 'm', ['N'] = 'n', ['O'] = 'o', ['P'] = 'p', ['Q'] = 'q', ['R'] = 'r', ['S'] = 's', ['T'] = 't',
    ['U'] = 'u', ['V'] = 'v', ['W'] = 'w', ['X'] = 'x', ['Y'] = 'y', ['Z'] = 'z',
    ['a'] = 'a', ['b'] = 'b', ['c'] = 'c', ['d'] = 'd', ['e'] = 'e', ['f'] = 'f', ['g'] = 'g', ['h'] = 'h', ['i'] = 'i', ['j'] = 'j',
    ['k'] = 'k', ['l'] = 'l', ['m'] = 'm', ['n'] = 'n', ['o'] = 'o', ['p'] = 'p', ['q'] = 'q', ['r'] = 'r', ['s'] = 's', ['t'] = 't',
    ['u'] = 'u', ['v'] = 'v', ['w'] = 'w', ['x'] = 'x', ['y'] = 'y', ['z'] = 'z',
};
/* clang-format on */

unsigned char syntax_lower(char c) {
    return lower[(unsigned char)c];
}

bool syntax_token(struct str s) {
    for (size_t i = 0; i < s.len; i++)
        if (!lower[(unsigned char)s.ptr[i]]) return false;
    return s.len > 0;
}

/* RFC 3986 without what no URL holds unencoded. "[", "]" are let pass: queries hold them everywhere. */
static bool is_url_byte(unsigned char c) {
    static const uint64_t low = ~(UINT64_C(0x1ffffffff) | 1ull << '"' | 1ull << '#' | 1ull << '<' | 1ull << '>'), /* up to '?' */
        high = ~(1ull << ('\\' - 64) | 1ull << ('^' - 64) | 1ull << ('`' - 64) | 1ull << ('{' - 64) | 1ull << ('|' - 64) |
                 1ull << ('}' - 64) | 1ull << (0x7f - 64));
    return c < 0x80 && ((c < 64 ? low : high) >> (c & 63) & 1);
}

/* ---- lines ---- */

#ifdef __SSE2__
static __m128i within(__m128i v, char first, char last) {
    __m128i from_first = _mm_sub_epi8(v, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(from_first, _mm_set1_epi8((char)(last - first))), from_first);
}

/* Over what names and targets are mostly made of: letters, and the bytes from `first` to '9', and `other`. */
static size_t skip_plain(const char *data, size_t i, size_t len, char first, char other) {
    for (; len - i >= 16; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(data + i));
        __m128i letter = within(_mm_or_si128(v, _mm_set1_epi8(0x20)), 'a', 'z');
        __m128i plain = _mm_or_si128(_mm_or_si128(letter, within(v, first, '9')), _mm_cmpeq_epi8(v, _mm_set1_epi8(other)));
        unsigned stop = (unsigned)_mm_movemask_epi8(plain) ^ 0xffffu;
        if (stop) return i + (unsigned)__builtin_ctz(stop);
    }
    return i;
}
#else
static size_t skip_plain(const char *data, size_t i, size_t len, char first, char other) {
    return (void)data, (void)len, (void)first, (void)other, i;
}
#endif

/* The first byte from i on that is a control byte other than HT, or DEL; len if there is none. */
static size_t skip_text(const char *data, size_t i, size_t len) {
#ifdef __SSE2__
    for (; len - i >= 16; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(data + i));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
        __m128i stop =
            _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\t')), control), _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
        unsigned bits = (unsigned)_mm_movemask_epi8(stop);
        if (bits) return i + (unsigned)__builtin_ctz(bits);
    }
#endif
    for (; i < len; i++) {
        unsigned char c = (unsigned char)data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) break;
    }
    return i;
}

static const char *bad_text(char c) {
    switch (c) {
    case 0: return "a NUL byte";
    case '\n': return "a line that ends in LF without CR";
    default: return "a control byte";
    }
}

static const char *bad_in_request_line(char c) {
    return (unsigned char)c >= 0x20 ? "a byte in the request line that a URL must encode" : bad_text(c);
}

static const char *bad_in_name(char c) {
    switch (c) {
    case ' ':
    case '\t': return "a blank before the colon of a header field";
    case '\r':
    case '\n': return "a header line without a colon";
    case 0: return "a NUL byte";
    default: return "a byte that no header name may hold";
    }
}

static const char *bad_at_line_start(char c) {
    switch (c) {
    case ' ':
    case '\t': return "a folded header line";
    case ':': return "a header field without a name";
    case '\n': return "a line that ends in LF without CR";
    default: return bad_in_name(c);
    }
}

/* The states that look at one byte and know what comes next. Returns what is wrong, or NULL with the next state set. */
static const char *one_byte(uint8_t *state, char c) {
    switch ((enum syntax_state) * state) {
    case SYNTAX_EMPTY_LF:
        if (c != '\n') return "a CR without LF";
        *state = SYNTAX_NO_EMPTY;
        return NULL;
    case SYNTAX_VALUE_LF:
        if (c != '\n') return "a CR without LF";
        *state = SYNTAX_FIELDS;
        return NULL;
    case SYNTAX_FIELDS:
        if (c == '\r')
            *state = SYNTAX_END_LF;
        else if (lower[(unsigned char)c])
            *state = SYNTAX_NAME;
        else
            return bad_at_line_start(c);
        return NULL;
    default: /* LINE_LF, END_LF: the caller moves on */ return c == '\n' ? NULL : "a CR without LF";
    }
}

/* What may stand before the start line. */
static const char *before_line(uint8_t *state, char c, bool *taken) {
    *taken = c == '\r';
    if (*state == SYNTAX_REQUEST && c == 0x16) return "a TLS handshake: plain HTTP is spoken here";
    if (c != '\r')
        *state = *state == SYNTAX_RESPONSE ? SYNTAX_STATUS_LINE : SYNTAX_REQUEST_LINE;
    else if (*state == SYNTAX_REQUEST)
        *state = SYNTAX_EMPTY_LF;
    else
        return *state == SYNTAX_RESPONSE ? "an empty line before the status line"
                                         : "more than one empty line before the request line";
    return NULL;
}

/* The states that run over many bytes up to the one that ends them. */
static size_t skip(uint8_t state, const char *data, size_t i, size_t len) {
    if (state == SYNTAX_NAME) {
        i = skip_plain(data, i, len, '0', '-');
        while (i < len && lower[(unsigned char)data[i]])
            i++;
        return i;
    }
    if (state != SYNTAX_REQUEST_LINE) return skip_text(data, i, len);
    i = skip_plain(data, i, len, '-', ' '); /* '-', '.', '/', digits */
    while (i < len && (data[i] == ' ' || is_url_byte((unsigned char)data[i])))
        i++;
    return i;
}

/* What ends such a run. */
static const char *run_end(uint8_t *state, char c, enum syntax_got *got) {
    switch ((enum syntax_state) * state) {
    case SYNTAX_NAME:
        if (c != ':') return bad_in_name(c);
        *state = SYNTAX_VALUE;
        *got = SYNTAX_GOT_NAME;
        return NULL;
    case SYNTAX_VALUE:
        if (c != '\r') return bad_text(c);
        *state = SYNTAX_VALUE_LF;
        *got = SYNTAX_GOT_VALUE;
        return NULL;
    default: /* a start line */
        if (c != '\r') return *state == SYNTAX_REQUEST_LINE ? bad_in_request_line(c) : bad_text(c);
        *state = SYNTAX_LINE_LF;
        return NULL;
    }
}

enum syntax_got syntax_scan(uint8_t *state, const char *data, size_t len, size_t *at, const char **text) {
    size_t i = *at;
    enum syntax_got got = SYNTAX_GOT_MORE;
    const char *bad = NULL;
    while (i < len && got == SYNTAX_GOT_MORE) {
        bool taken = true;
        switch ((enum syntax_state) * state) {
        case SYNTAX_REQUEST:
        case SYNTAX_RESPONSE:
        case SYNTAX_NO_EMPTY: bad = before_line(state, data[i], &taken); break;
        case SYNTAX_NAME:
        case SYNTAX_VALUE:
        case SYNTAX_REQUEST_LINE:
        case SYNTAX_STATUS_LINE:
            i = skip(*state, data, i, len);
            if (i < len) bad = run_end(state, data[i], &got);
            taken = i < len;
            break;
        case SYNTAX_LINE_LF:
        case SYNTAX_END_LF:
            bad = one_byte(state, data[i]);
            if (bad) break;
            got = *state == SYNTAX_LINE_LF ? SYNTAX_GOT_LINE : SYNTAX_GOT_END;
            *state = SYNTAX_FIELDS;
            break;
        case SYNTAX_FIELDS:
        case SYNTAX_EMPTY_LF:
        case SYNTAX_VALUE_LF: bad = one_byte(state, data[i]); break;
        }
        if (bad) {
            *text = bad;
            got = SYNTAX_GOT_BAD;
        } else if (taken) {
            i++;
        }
    }
    *at = i;
    return got;
}

/* ---- start lines ---- */

/* "HTTP/1.0" and "HTTP/1.1", nothing else. */
static const char *version(struct str s, uint8_t *minor) {
    if (s.len == 8 && memcmp(s.ptr, "HTTP/1.", 7) == 0 && (s.ptr[7] == '0' || s.ptr[7] == '1')) {
        *minor = (uint8_t)(s.ptr[7] - '0');
        return NULL;
    }
    return "a version other than HTTP/1.1 and HTTP/1.0";
}

const char *syntax_request_line(struct str line, struct syntax_request *out) {
    struct str rest = str_cut(line, ' ', &out->method);
    struct str last = str_cut(rest, ' ', &out->target);
    if (!syntax_token(out->method) || !out->target.len || !last.len) return "a request line that is not 'METHOD target HTTP/1.1'";
    return version(last, &out->minor);
}

const char *syntax_status_line(struct str line, struct syntax_status *out) {
    static const char shape[] = "a status line that is not 'HTTP/1.1 status reason'";
    struct str first, number;
    struct str rest = str_cut(line, ' ', &first);
    uint64_t n;
    const char *bad = version(first, &out->minor);
    if (bad) return bad;
    out->reason = str_cut(rest, ' ', &number);
    if (number.len != 3 || !str_uint(number, 999, &n)) return shape;
    if (n < 100 || n > 599) return "a status that is not 100 to 599";
    out->status = (uint16_t)n;
    return NULL;
}

static bool is_v6(struct str s) {
    char text[INET6_ADDRSTRLEN];
    unsigned char addr[16];
    if (s.len >= sizeof text) return false;
    str_copy(text, sizeof text, s);
    return inet_pton(AF_INET6, text, addr) == 1;
}

static bool is_port(struct str s) {
    uint64_t n;
    return s.len <= 5 && str_uint(s, 65535, &n);
}

bool syntax_host(struct str s) {
    struct str name, port;
    if (s.len && s.ptr[0] == '[') {
        port = str_cut(s, ']', &name);
        name.ptr++, name.len--;
        if (name.len + 2 > s.len || !is_v6(name)) return false; /* no closing bracket, or no address in it */
        return !port.len || (port.ptr[0] == ':' && is_port((struct str){port.ptr + 1, port.len - 1}));
    }
    port = str_cut(s, ':', &name);
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = lower[(unsigned char)name.ptr[i]];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~')) return false;
    }
    return name.len > 0 && (name.len == s.len || is_port(port));
}

/* "http://authority/path?query" */
static const char *absolute(struct str target, struct str *origin) {
    struct str rest = {target.ptr + 7, target.len - 7};
    const char *slash = rest.len ? memchr(rest.ptr, '/', rest.len) : NULL;
    struct str authority = {rest.ptr, slash ? (size_t)(slash - rest.ptr) : rest.len};
    if (!syntax_host(authority)) return "a target whose authority is not host or host:port";
    *origin = (struct str){rest.ptr + authority.len, rest.len - authority.len};
    return NULL;
}

const char *syntax_target(struct str method, struct str target, struct str *origin) {
    *origin = target;
    if (str_eq(method, STR("CONNECT"))) {
        const char *colon = target.len ? memrchr(target.ptr, ':', target.len) : NULL;
        bool port = colon && target.ptr[target.len - 1] != ']';
        return port && syntax_host(target) ? NULL : "a CONNECT target that is not host:port";
    }
    if (target.len && target.ptr[0] == '/') return NULL;
    if (str_eq(target, STR("*"))) return str_eq(method, STR("OPTIONS")) ? NULL : "the target '*' with a method other than OPTIONS";
    if (target.len >= 7 && str_ieq((struct str){target.ptr, 7}, STR("http://"))) return absolute(target, origin);
    return "a target that does not begin with '/'";
}
