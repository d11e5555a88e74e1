/* json: a resumable checker of one JSON object, and where the values lie that routing needs.
 * In: a body's bytes as they come, names to look out for. Out: extents, the number of `model`s, or what is wrong and where.
 * Owns nothing outside struct json, allocates nothing while it scans, and remembers no text but a short key cut by a feed's end.
 * It must never let pass what another parser may read differently at the top level: there a second `model` would hide.
 *
 *   TOP                      { > KEY_OR_CLOSE
 *   KEY, KEY_OR_CLOSE        " > STRING " > COLON : > VALUE       STRING \ > ESCAPE any > STRING
 *   VALUE, VALUE_OR_CLOSE    " > STRING " > NEXT                  { > KEY_OR_CLOSE        [ > VALUE_OR_CLOSE
 *                            t, f, n > WORD > NEXT                -, 0-9 > MINUS ... EXPONENT > NEXT
 *   NEXT, .._OR_CLOSE        } or ] > NEXT, the last > END
 *   NEXT                     , > KEY in an object, VALUE in an array */
#include "json.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_scan.h"

/* Up to END between two tokens, where blanks are skipped. ESCAPE: a string whose last byte so far is a backslash that takes the next
 * one along. MINUS to EXPONENT: a number, by what came last. */
/* clang-format off */
enum state { TOP, KEY, KEY_OR_CLOSE, COLON, VALUE, VALUE_OR_CLOSE, NEXT, END, STRING, ESCAPE, WORD,
             MINUS, ZERO, INTEGER, POINT, FRACTION, E, SIGN, EXPONENT, BAD };
/* clang-format on */

/* What a value is wanted for: a bit for each want, and these. */
#define HIT_WANTS        ((UINT32_C(1) << JSON_WANTS_MAX) - 1)
#define HIT_MODEL        (UINT32_C(1) << 24)
#define HIT_SYSTEM       (UINT32_C(1) << 25)
#define HIT_INSTRUCTIONS (UINT32_C(1) << 26)
#define HIT_INPUT        (UINT32_C(1) << 27)
#define HIT_LIST         (UINT32_C(1) << 28) /* messages, input */
#define HIT_ROLE         (UINT32_C(1) << 29)
#define HIT_CONTENT      (UINT32_C(1) << 30)
_Static_assert(JSON_WANTS_MAX <= 24, "a bit each below HIT_MODEL");

enum { WATCH_TOP = 1, WATCH_MEMBER = 2, WATCH_MESSAGE = 3 }; /* levels */
enum { ROLE_SYSTEM, ROLE_USER, ROLE_OTHER };

#define INVALID "The body is not valid JSON: "

static const char *bad(struct json *j, const char *p, const char *error) {
    j->error = error;
    j->state = BAD;
    return p;
}

static size_t offset(const struct json *j, const char *p) {
    return j->at + (size_t)(p - j->chunk);
}

/* ---- UTF-8 ---- */

static size_t utf8_put(char out[4], uint32_t c) {
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(n == 1 ? c : (0xf00u >> n & 0xff) | c);
    return n;
}

/* Does a UTF-8 sequence begin at s (RFC 3629)? */
static bool utf8_begins(const char *s, size_t left) {
    const unsigned char *u = (const unsigned char *)s;
    unsigned c = u[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (!n || n > left) return false;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80) return false;
    return !((c == 0xe0 && u[1] < 0xa0) || (c == 0xed && u[1] > 0x9f) || (c == 0xf0 && u[1] < 0x90) || (c == 0xf4 && u[1] > 0x8f));
}

/* ---- names ---- */

/* A key or role, decoded as far as it goes. */
struct name {
    struct str text;
    bool broken; /* what follows text is an escape that has no one meaning */
    bool longer; /* it goes on behind text: no name that is looked for is that long */
};

/* One with escapes in it, which is rare. */
static struct name name_decoded(struct str raw, char buffer[JSON_KEY_MAX]) {
    const char *p = raw.ptr, *end = raw.ptr + raw.len;
    struct name n = {{buffer, 0}, false, false};
    while (p < end) {
        char out[4] = {*p};
        uint32_t code;
        size_t wrote = 1, took = 1;
        if (*p == '\\') {
            took = json_scan_escape(p, end, &code);
            if (!(n.broken = !took)) wrote = utf8_put(out, code);
        }
        n.longer = n.text.len + wrote > JSON_KEY_MAX;
        if (n.broken || n.longer) break;
        memcpy(buffer + n.text.len, out, wrote);
        n.text.len += wrote;
        p += took;
    }
    return n;
}

/* Lengths differ nearly always: no call for that. */
static inline bool name_is(const struct name *n, struct str s) {
    return n->text.len == s.len && !n->broken && !n->longer && str_eq(n->text, s);
}

/* Could any reader take this key for `model`? Go's ignore case. C's end at a NUL. Of an escape that is none, or of bytes that are no
 * UTF-8, lenient readers make what they like (gjson stops, others drop it): if what stands before is how `model` begins, it counts. */
static bool name_is_model(const struct name *n) {
    static const char model[] = "model";
    const struct str t = n->text;
    size_t i = 0;
    while (i < t.len && i < 5 && (t.ptr[i] | 0x20) == model[i])
        i++;
    if (i == t.len) return i == 5 || n->broken;
    if (i == 5 && !t.ptr[i]) return true;
    return !utf8_begins(t.ptr + i, t.len - i);
}

/* ---- what is found ---- */

static void note_want(struct json *j, unsigned i, struct json_value v) {
    struct json_value *f = &j->found[i];
    if (j->depth == WATCH_TOP) {
        if (!j->wants[i].sub.len && f->type == JSON_ABSENT) *f = v; /* not if the object's id is there already */
    } else if (j->wants[i].sub.len || v.type == JSON_STRING) {
        *f = v;
    }
}

/* A whole value, at the level that is open. */
static void note(struct json *j, uint32_t hits, struct json_value v) {
    bool text = v.type == JSON_STRING || v.type == JSON_ARRAY;
    if (hits & HIT_MODEL && j->model.type == JSON_ABSENT) j->model = v;
    if (hits & HIT_SYSTEM && text) j->system = v;
    if (hits & HIT_INSTRUCTIONS && text) j->instructions = v;
    if (hits & HIT_INPUT && text) j->input = v;
    if (hits & HIT_CONTENT && v.type != JSON_OTHER) j->content = v;
    for (hits &= HIT_WANTS; hits; hits &= hits - 1)
        note_want(j, (unsigned)__builtin_ctz(hits), v);
}

static void forget(struct json_value *v) {
    *v = (struct json_value){.type = JSON_ABSENT};
}

static void message_end(struct json *j) {
    if (j->role == ROLE_OTHER || j->content.type == JSON_ABSENT) return;
    struct json_value *first = &j->first[j->list][j->role];
    if (first->type == JSON_ABSENT) *first = j->content;
}

/* Of messages and input, should a body have both, what stands first. */
static struct json_value earlier(struct json_value a, struct json_value b) {
    if (a.type == JSON_ABSENT || b.type == JSON_ABSENT) return a.type == JSON_ABSENT ? b : a;
    return a.off < b.off ? a : b;
}

/* ---- keys ---- */

/* The wants of that top-level key. The last of two members counts: what an earlier one had is forgotten. */
static uint32_t wanted(struct json *j, const struct name *n) {
    uint32_t hits = 0;
    for (size_t i = 0; i < j->nwants; i++) {
        if (!name_is(n, j->wants[i].key)) continue;
        hits |= UINT32_C(1) << i;
        forget(&j->found[i]);
    }
    return hits;
}

static uint32_t top_key(struct json *j, const struct name *n) {
    uint32_t hits = wanted(j, n);
    if (name_is_model(n)) j->models++;
    if (name_is(n, STR("model"))) return hits | HIT_MODEL;
    if (name_is(n, STR("system"))) return forget(&j->system), hits | HIT_SYSTEM;
    if (name_is(n, STR("instructions"))) return forget(&j->instructions), hits | HIT_INSTRUCTIONS;
    bool input = name_is(n, STR("input"));
    if (!input && !name_is(n, STR("messages"))) return hits;
    j->list = input;
    forget(&j->first[input][ROLE_SYSTEM]);
    forget(&j->first[input][ROLE_USER]);
    if (!input) return hits | HIT_LIST;
    forget(&j->input);
    return hits | HIT_LIST | HIT_INPUT;
}

static uint32_t member_key(struct json *j, const struct name *n) {
    uint32_t hits = 0;
    for (uint32_t m = j->members; m; m &= m - 1) {
        unsigned i = (unsigned)__builtin_ctz(m);
        struct str sub = j->wants[i].sub;
        if (!name_is(n, sub.len ? sub : STR("id"))) continue;
        hits |= UINT32_C(1) << i;
        forget(&j->found[i]);
    }
    return hits;
}

static uint32_t message_key(struct json *j, const struct name *n) {
    if (name_is(n, STR("role"))) return j->role = ROLE_OTHER, HIT_ROLE;
    if (name_is(n, STR("content"))) return forget(&j->content), HIT_CONTENT;
    return 0;
}

/* A string whose text is looked at has ended: a key of the watched level, or a message's role. */
static void name_done(struct json *j, const struct name *n) {
    if (!j->in_key)
        j->role = name_is(n, STR("user"))                                     ? ROLE_USER
                  : name_is(n, STR("system")) || name_is(n, STR("developer")) ? ROLE_SYSTEM
                                                                              : ROLE_OTHER;
    else if (j->watch == WATCH_TOP)
        j->hits = top_key(j, n);
    else
        j->hits = j->watch == WATCH_MEMBER ? member_key(j, n) : message_key(j, n);
}

/* Not inlined, so that only the few escaped names pay for the buffer. */
static __attribute__((noinline)) void escaped_text_done(struct json *j, struct str raw) {
    char buffer[JSON_KEY_MAX];
    struct name n = name_decoded(raw, buffer);
    name_done(j, &n);
}

static __attribute__((noinline)) void text_done(struct json *j, struct str raw) {
    struct name n = {raw, false, raw.len > JSON_KEY_MAX};
    if (j->seen & JSON_SCAN_ESCAPED)
        escaped_text_done(j, raw);
    else
        name_done(j, &n);
}

/* ---- tokens: each takes what there is of it and says where it stopped ---- */

/* What is rare stands in functions of its own, or each string would pay for their frames. */

/* A text to be looked at comes in pieces: its beginning is gone when the next one comes. */
static __attribute__((noinline)) struct str keep_piece(struct json *j, struct str text) {
    size_t room = sizeof j->raw - j->kept, n = text.len < room ? text.len : room;
    memcpy(j->raw + j->kept, text.ptr, n);
    j->kept = (uint16_t)(j->kept + n);
    return (struct str){j->raw, j->kept};
}

/* A string value that something is wanted of ends before p. */
static __attribute__((noinline)) void note_string(struct json *j, const char *p) {
    bool escaped = j->seen & JSON_SCAN_ESCAPED;
    note(j, j->hits, (struct json_value){j->off, offset(j, p) - j->off, JSON_STRING, escaped});
    j->hits = 0;
}

static const char *string(struct json *j, const char *p, const char *end) {
    const char *from = p;
    if (j->state == ESCAPE) {
        if ((unsigned char)*p >= 0x20) p++;
        j->seen &= ~JSON_SCAN_OPEN;
        j->state = STRING;
    }
    p = json_scan_text(j->scan, p, end, &j->seen);
    if (j->keep) {
        struct str text = {from, (size_t)(p - from)};
        if (p == end || j->kept) text = keep_piece(j, text);
        if (p < end && *p == '"') text_done(j, text);
    }
    if (p == end) {
        if (j->seen & JSON_SCAN_OPEN) j->state = ESCAPE;
        return p;
    }
    if (*p != '"') return bad(j, p, INVALID "a control byte in a string must be written as an escape, such as \\n or \\u001f.");
    p++;
    if (j->in_key) {
        j->state = p < end && *p == ':' ? VALUE : COLON; /* mostly it follows at once */
        return p + (j->state == VALUE);
    }
    j->state = NEXT;
    if (j->hits) note_string(j, p - 1);
    return p;
}

/* p is behind the quote. */
static const char *string_begin(struct json *j, const char *p, const char *end, bool in_key) {
    j->in_key = in_key;
    j->keep = in_key ? j->depth == j->watch : (j->hits & HIT_ROLE) != 0;
    j->kept = 0;
    j->seen = 0;
    j->off = offset(j, p);
    j->state = STRING;
    return p < end ? string(j, p, end) : p;
}

/* A number, true, false or null ended before p. */
static const char *other_done(struct json *j, const char *p) {
    j->state = NEXT;
    if (j->hits) note(j, j->hits, (struct json_value){j->off, offset(j, p) - j->off, JSON_OTHER, false});
    j->hits = 0;
    return p;
}

static const char *word(struct json *j, const char *p, const char *end) {
    while (p < end && *j->word)
        if (*p++ != *j->word++) return bad(j, p - 1, INVALID "a value is an object, array, string, number, true, false or null.");
    return *j->word ? p : other_done(j, p);
}

static const char *word_begin(struct json *j, const char *p, const char *end, const char *text) {
    j->off = offset(j, p);
    j->state = WORD;
    j->word = text;
    return word(j, p, end);
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static const char *digits(const char *p, const char *end) {
    while (p < end && digit(*p))
        p++;
    return p;
}

static const char *number(struct json *j, const char *p, const char *end) {
    enum state s = (enum state)j->state;
    for (;; p++) {
        if (s == INTEGER || s == FRACTION || s == EXPONENT) p = digits(p, end);
        if (p == end) break;
        bool point = *p == '.', e = *p == 'e' || *p == 'E';
        switch (s) {
        case ZERO:
            if (digit(*p)) return bad(j, p, INVALID "a number must not begin with 0.");
            __attribute__((fallthrough));
        case INTEGER:
            if (!point && !e) return other_done(j, p);
            s = point ? POINT : E;
            continue;
        case FRACTION:
            if (!e) return other_done(j, p);
            s = E;
            continue;
        case EXPONENT: return other_done(j, p);
        case E:
            if (*p != '+' && *p != '-') break;
            s = SIGN;
            continue;
        default: break;
        }
        if (!digit(*p)) return bad(j, p, INVALID "a digit is missing in a number.");
        s = s == POINT ? FRACTION : s != MINUS ? EXPONENT : *p == '0' ? ZERO : INTEGER;
    }
    j->state = (uint8_t)s;
    return p;
}

static const char *number_begin(struct json *j, const char *p, const char *end) {
    j->off = offset(j, p);
    j->state = *p == '-' ? MINUS : *p == '0' ? ZERO : INTEGER;
    return number(j, p + 1, end);
}

/* ---- levels ---- */

static bool in_object(const struct json *j) {
    unsigned level = j->depth - 1u;
    return j->stack[level / 64] >> (level % 64) & 1;
}

/* An object or array that is wanted, or a message. */
static void open_watched(struct json *j, const char *p, bool object) {
    if (j->depth == WATCH_TOP) {
        j->outer_hits = j->hits;
        j->outer_off = offset(j, p);
        j->members = j->hits & HIT_WANTS;
        if (object && j->members) j->watch = WATCH_MEMBER;
        if (!object && j->hits & HIT_LIST) j->watch = WATCH_MESSAGE;
    } else if (j->depth == j->watch) {
        j->inner_hits = j->hits;
        j->inner_off = offset(j, p);
    } else { /* in the list of messages */
        j->role = ROLE_OTHER;
        forget(&j->content);
    }
    j->hits = 0;
}

static const char *level_open(struct json *j, const char *p, bool object) {
    if (j->depth == JSON_DEPTH_MAX) return bad(j, p, "The body is nested deeper than 512 levels.");
    if (j->hits || j->depth + 1 == j->watch) open_watched(j, p, object);
    uint64_t bit = UINT64_C(1) << (j->depth % 64);
    uint64_t *bits = &j->stack[j->depth / 64];
    *bits = object ? *bits | bit : *bits & ~bit;
    j->depth++;
    j->state = object ? KEY_OR_CLOSE : VALUE_OR_CLOSE;
    return p + 1;
}

static void close_watched(struct json *j, const char *p, bool object) {
    uint32_t hits = 0;
    size_t off = 0;
    if (j->depth + 1 == WATCH_MESSAGE && j->watch == WATCH_MESSAGE) message_end(j);
    if (j->depth == WATCH_TOP) {
        hits = j->outer_hits;
        off = j->outer_off;
        j->outer_hits = 0;
        j->watch = WATCH_TOP;
    } else if (j->depth == j->watch) {
        hits = j->inner_hits;
        off = j->inner_off;
        j->inner_hits = 0;
    }
    if (hits) note(j, hits, (struct json_value){off, offset(j, p) + 1 - off, object ? JSON_OBJECT : JSON_ARRAY, false});
}

static const char *level_close(struct json *j, const char *p) {
    bool object = in_object(j);
    j->state = NEXT;
    j->depth--;
    if (j->depth <= j->watch) close_watched(j, p, object);
    if (!j->depth) {
        j->first_system = earlier(j->first[0][ROLE_SYSTEM], j->first[1][ROLE_SYSTEM]);
        j->first_user = earlier(j->first[0][ROLE_USER], j->first[1][ROLE_USER]);
        j->state = END;
    }
    return p + 1;
}

/* ---- the machine ---- */

static const char *top(struct json *j, const char *p) {
    if (*p == '{') return level_open(j, p, true);
    if ((unsigned char)*p == 0xef) return bad(j, p, "The body must be one JSON object in UTF-8 without a byte order mark.");
    return bad(j, p, "The body must be one JSON object: it does not begin with '{'.");
}

static const char *value(struct json *j, const char *p, const char *end) {
    switch (*p) {
    case '"': return string_begin(j, p + 1, end, false);
    case '{': return level_open(j, p, true);
    case '[': return level_open(j, p, false);
    case 't': return word_begin(j, p, end, "true");
    case 'f': return word_begin(j, p, end, "false");
    case 'n': return word_begin(j, p, end, "null");
    default:
        if (*p == '-' || digit(*p)) return number_begin(j, p, end);
        return bad(j, p, INVALID "a value is missing, or is no object, array, string, number, true, false or null.");
    }
}

static const char *next(struct json *j, const char *p) {
    bool object = in_object(j);
    if (*p == ',') {
        j->state = object ? KEY : VALUE;
        return p + 1;
    }
    if (*p == (object ? '}' : ']')) return level_close(j, p);
    return bad(j, p, object ? INVALID "a ',' or '}' is missing in an object." : INVALID "a ',' or ']' is missing in an array.");
}

static const char *tokens(struct json *j, const char *p, const char *end) {
    while (p < end) {
        enum state s = (enum state)j->state;
        if ((unsigned char)*p <= ' ' && s <= END && json_scan_blank(*p)) {
            p = json_scan_blanks(j->scan, p, end);
            continue;
        }
        switch (s) {
        case TOP: p = top(j, p); break;
        case KEY_OR_CLOSE:
            if (*p == '}') {
                p = level_close(j, p);
                break;
            }
            __attribute__((fallthrough));
        case KEY:
            if (*p == '"')
                p = string_begin(j, p + 1, end, true);
            else
                bad(j, p, INVALID "a member's name must be a string in double quotes.");
            break;
        case COLON:
            if (*p != ':') return bad(j, p, INVALID "a ':' is missing after a member's name.");
            j->state = VALUE;
            p++;
            break;
        case VALUE_OR_CLOSE: p = *p == ']' ? level_close(j, p) : value(j, p, end); break;
        case VALUE: p = value(j, p, end); break;
        case NEXT: p = next(j, p); break;
        case END: return bad(j, p, "The body must be one JSON object: something stands behind it.");
        case STRING:
        case ESCAPE: p = string(j, p, end); break;
        case WORD: p = word(j, p, end); break;
        case BAD: return p;
        default: p = number(j, p, end); break;
        }
    }
    return p;
}

void json_begin(struct json *j, const struct json_want *wants, size_t nwants) {
    assert(nwants <= JSON_WANTS_MAX);
    memset(j, 0, offsetof(struct json, raw)); /* JSON_ABSENT, TOP, no level */
    j->wants = wants;
    j->nwants = nwants;
    j->scan = json_scan_best();
    j->watch = WATCH_TOP;
}

enum json_status json_feed(struct json *j, const char *data, size_t len, size_t *used) {
    if (len > JSON_STEP_MAX) len = JSON_STEP_MAX;
    *used = 0;
    j->steps++;
    if (len && !j->error) {
        j->chunk = data;
        *used = (size_t)(tokens(j, data, data + len) - data);
        j->at += *used;
        if (*used > j->longest_step) j->longest_step = *used;
    }
    return j->error ? JSON_BAD : j->state == END ? JSON_DONE : JSON_MORE;
}

enum json_status json_end(struct json *j) {
    if (!j->error && j->state == TOP) j->error = "The body must be one JSON object: it is empty.";
    if (!j->error && j->state != END) j->error = INVALID "it ends before its object is closed.";
    return j->error ? JSON_BAD : JSON_DONE;
}

/* ---- values ---- */

/* The decoded length, or 0 and what is wrong: cJSON takes raw control bytes, and a NUL ends its string. */
static size_t decoded_length(struct str raw, const char **wrong) {
    size_t len = 0;
    *wrong = NULL;
    for (size_t i = 0, took; i < raw.len; i += took) {
        const char *p = raw.ptr + i;
        char out[4];
        uint32_t code = (unsigned char)*p;
        took = *p == '\\' ? json_scan_escape(p, raw.ptr + raw.len, &code) : 1;
        if (!took)
            *wrong = "a bad escape or a lone surrogate in a string";
        else if (!code)
            *wrong = "a NUL in a string";
        else if (*p == '"' || (unsigned char)*p < 0x20)
            *wrong = "a quote or control byte in a string that is not escaped";
        if (*wrong) return 0;
        len += *p == '\\' ? utf8_put(out, code) : 1;
    }
    return len;
}

const char *json_decode(struct str raw, char *dst, size_t cap, size_t *len) {
    const char *wrong;
    size_t n = decoded_length(raw, &wrong);
    if (wrong) return wrong;
    if (n >= cap) return "a string that is too long";
    char *quoted = malloc(raw.len + 2);
    if (!quoted) return "out of memory";
    quoted[0] = quoted[raw.len + 1] = '"';
    if (raw.len) memcpy(quoted + 1, raw.ptr, raw.len);
    cJSON *item = cJSON_ParseWithLength(quoted, raw.len + 2);
    const char *text = cJSON_GetStringValue(item);
    if (text && strlen(text) == n)
        *len = str_copy(dst, cap, (struct str){text, n});
    else
        wrong = item ? "a string that cannot be decoded" : "out of memory";
    cJSON_Delete(item);
    free(quoted);
    return wrong;
}

size_t json_encode(struct str text, char *dst, size_t cap) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    size_t len = 0;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        const char *at = c ? strchr(from, c) : NULL;
        char out[8] = {(char)c};
        if (at)
            snprintf(out, sizeof out, "\\%c", to[at - from]);
        else if (c < 0x20)
            snprintf(out, sizeof out, "\\u%04x", c);
        size_t n = strlen(out);
        if (n > cap - len) return 0;
        memcpy(dst + len, out, n);
        len += n;
    }
    return len;
}
