/* keys: checks a request's key.
 * In: the configured keys, a head. Out: allowed, missing, or wrong. Owns nothing, keeps nothing.
 * Every key is compared, each over its whole length: the time taken tells nothing but the number of keys. */
#include "keys.h"

#include <arpa/inet.h>
#include <string.h>

#define BASIC_MAX 1024

static bool same(struct str a, const char *key) {
    size_t len = strlen(key);
    unsigned char diff = a.len != len;
    for (size_t i = 0; i < len; i++)
        diff |= (unsigned char)key[i] ^ (unsigned char)(i < a.len ? a.ptr[i] : 0);
    return diff == 0;
}

static bool is_one_of(struct str given, char *const *keys, size_t count) {
    bool found = false;
    for (size_t i = 0; i < count; i++)
        found |= same(given, keys[i]);
    return found;
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The password of Basic credentials (RFC 7617 2): what follows the first colon. */
static struct str password(struct str text, char dst[BASIC_MAX]) {
    unsigned bits = 0, have = 0;
    size_t n = 0;
    struct str user;
    for (size_t i = 0; i < text.len && n < BASIC_MAX; i++) {
        int d = base64_digit(text.ptr[i]);
        if (d < 0) break;
        bits = bits << 6 | (unsigned)d;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        dst[n++] = (char)(bits >> have & 0xff);
    }
    return str_cut((struct str){dst, n}, ':', &user);
}

enum why keys_check(char *const *keys, size_t count, const struct http_head *head, bool basic) {
    char text[BASIC_MAX];
    if (!count) return WHY_NONE;
    struct str given = http_get(head, FIELD_AUTHORIZATION), scheme, key = http_get(head, FIELD_X_API_KEY);
    struct str rest = str_trim(str_cut(given, ' ', &scheme));
    if (str_ieq(scheme, STR("bearer")) && rest.len) {
        if (is_one_of(rest, keys, count)) return WHY_NONE;
        key = key.len ? key : rest;
    }
    if (basic && str_ieq(scheme, STR("basic")) && rest.len) {
        rest = password(rest, text);
        if (rest.len && is_one_of(rest, keys, count)) return WHY_NONE;
        key = key.len ? key : rest;
    }
    if (!key.len) return WHY_NO_KEY;
    return is_one_of(key, keys, count) ? WHY_NONE : WHY_BAD_KEY;
}

bool keys_host_is_local(struct str host) {
    char text[64];
    struct in6_addr addr;
    struct str name;
    if (!host.len) return true;
    if (host.ptr[0] == '[') {
        str_cut((struct str){host.ptr + 1, host.len - 1}, ']', &name);
        if (name.len >= sizeof text) return false;
        str_copy(text, sizeof text, name);
        return inet_pton(AF_INET6, text, &addr) == 1;
    }
    str_cut(host, ':', &name);
    if (str_ieq(name, STR("localhost"))) return true;
    if (name.len >= sizeof text) return false;
    str_copy(text, sizeof text, name);
    return inet_pton(AF_INET, text, &addr) == 1;
}
