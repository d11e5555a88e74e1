/* field: from a header field's name to its id.
 * In: a name. Out: an id. Owns a table of names, made from the rows in field.h. One look at the length and a letter or two leaves one
 * candidate; one comparison decides. A name added to the table gets its line in candidate(); test_field holds both together. */
#include "field.h"

#include <string.h>

#include "syntax.h"

static const struct str names[FIELD_COUNT] = {
#define X(id, name) {name, sizeof(name) - 1},
    FIELD_TABLE(X)
#undef X
};

static uint64_t lower8(const char *p) {
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w | UINT64_C(0x2020202020202020);
}

/* The same but for the case of letters: names are tokens, of letters, digits and '-', and in such bytes the bit for 0x20 tells the case
 * of a letter and nothing else, for what a digit or '-' would be without it is no token. */
static bool is_name(const char *p, enum http_id id) {
    const char *name = names[id].ptr;
    size_t len = names[id].len, i = 0;
    for (; i + 8 <= len; i += 8)
        if (lower8(p + i) != lower8(name + i)) return false;
    if (len >= 8) return lower8(p + len - 8) == lower8(name + len - 8);
    while (i < len && (p[i] | 0x20) == name[i])
        i++;
    return i == len;
}

/* The one field a name of that length with these bytes can be. */
static enum http_id candidate(const char *p, size_t len) {
    char c = 0, d;
    if (len) c = (char)(p[0] | 0x20);
    switch (len) {
    case 2: return FIELD_TE;
    case 4: return c == 'h' ? FIELD_HOST : c == 'd' ? FIELD_DATE : FIELD_VARY;
    case 6:
        return c == 'a' ? FIELD_ACCEPT : c == 'c' ? FIELD_COOKIE : c == 'e' ? FIELD_EXPECT : c == 'o' ? FIELD_ORIGIN : FIELD_SERVER;
    case 7: return c == 't' ? FIELD_TRAILER : FIELD_UPGRADE;
    case 9: return c == 'f' ? FIELD_FORWARDED : FIELD_X_API_KEY;
    case 10: return c == 'c' ? FIELD_CONNECTION : FIELD_KEEP_ALIVE;
    case 11: return FIELD_RETRY_AFTER;
    case 12: return c == 'c' ? FIELD_CONTENT_TYPE : FIELD_X_REQUEST_ID;
    case 13: return c == 'a' ? FIELD_AUTHORIZATION : FIELD_X_ROUTER_POOL;
    case 14: return c == 'c' ? FIELD_CONTENT_LENGTH : FIELD_HTTP2_SETTINGS;
    case 15: return FIELD_X_FORWARDED_FOR;
    case 16: return c == 'c' ? FIELD_CONTENT_ENCODING : c == 'p' ? FIELD_PROXY_CONNECTION : FIELD_X_FORWARDED_HOST;
    case 17:
        d = (char)syntax_lower(p[9]);
        if (c == 't') return FIELD_TRANSFER_ENCODING;
        if (syntax_lower(p[2]) == 'a') return FIELD_X_ACCEL_BUFFERING;
        return syntax_lower(p[2]) == 'f' ? FIELD_X_FORWARDED_PROTO : d == 'e' ? FIELD_X_ROUTER_ENDPOINT : FIELD_X_ROUTER_AFFINITY;
    case 18: return FIELD_PROXY_AUTHENTICATE;
    case 19: return FIELD_PROXY_AUTHORIZATION;
    case 22: return FIELD_AC_MAX_AGE;
    case 27: return FIELD_AC_ALLOW_ORIGIN;
    case 28: return syntax_lower(p[21]) == 'h' ? FIELD_AC_ALLOW_HEADERS : FIELD_AC_ALLOW_METHODS;
    case 29: return syntax_lower(p[15]) == 'e' ? FIELD_AC_EXPOSE_HEADERS : FIELD_AC_REQUEST_METHOD;
    case 30: return FIELD_AC_REQUEST_HEADERS;
    case 32: return FIELD_AC_ALLOW_CREDENTIALS;
    default: return FIELD_OTHER;
    }
}

enum http_id field_id(struct str name) {
    enum http_id id = candidate(name.ptr, name.len);
    return id != FIELD_OTHER && is_name(name.ptr, id) ? id : FIELD_OTHER;
}
