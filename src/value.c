/* value: a configuration's small values, read strictly.
 * In: text. Out: numbers, addresses, URLs; or what is wrong, in words that say what would be right.
 * Owns nothing, allocates nothing, asks no resolver: a name is only looked at for its form. */
#include "value.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* Digits at the front of s; what follows goes to *unit. False without digits; a number of any length above 2^62 is 2^62. */
static bool leading_number(struct str s, uint64_t *n, struct str *unit) {
    size_t i = 0;
    while (i < s.len && s.ptr[i] >= '0' && s.ptr[i] <= '9')
        i++;
    *unit = i ? (struct str){s.ptr + i, s.len - i} : s;
    if (i && !str_uint((struct str){s.ptr, i}, (uint64_t)1 << 62, n)) *n = (uint64_t)1 << 62;
    return i != 0;
}

const char *value_duration(struct str s, int64_t *ms) {
    static const struct {
        struct str unit;
        uint64_t ms;
    } units[] = {{{"ms", 2}, 1}, {{"s", 1}, 1000}, {{"m", 1}, 60000}, {{"h", 1}, 3600000}};
    uint64_t n, most = (uint64_t)365 * 24 * 3600000;
    struct str unit;
    if (!leading_number(s, &n, &unit)) return "must be a duration like 250ms, 10s, 5m or 0";
    if (n == 0 && unit.len == 0) return *ms = 0, (const char *)NULL;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (!str_eq(unit, units[i].unit)) continue;
        if (n > most / units[i].ms) return "is longer than a year";
        *ms = (int64_t)(n * units[i].ms);
        return NULL;
    }
    return unit.len ? "must be a duration like 250ms, 10s, 5m or 0" : "needs a unit: ms, s, m or h (only 0 has none)";
}

const char *value_size(struct str s, uint64_t *bytes) {
    uint64_t n;
    struct str unit;
    unsigned shift = 0;
    if (!leading_number(s, &n, &unit) || unit.len > 1) return "must be a size like 512, 64k, 100m or 1g";
    if (unit.len == 1) {
        switch (unit.ptr[0] | 0x20) {
        case 'k': shift = 10; break;
        case 'm': shift = 20; break;
        case 'g': shift = 30; break;
        default: return "must be a size like 512, 64k, 100m or 1g";
        }
    }
    if (n > ((uint64_t)1 << 50) >> shift) return "is too large";
    *bytes = n << shift;
    return NULL;
}

const char *value_bool(struct str s, bool *out) {
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (size_t i = 0; i < 3; i++) {
        if (str_ieq(s, str_of(yes[i]))) return *out = true, (const char *)NULL;
        if (str_ieq(s, str_of(no[i]))) return *out = false, (const char *)NULL;
    }
    return "must be true or false";
}

/* ---- URLs ---- */

static bool host_ok(struct str h) {
    if (!h.len || h.len > 253) return false;
    for (size_t i = 0; i < h.len; i++) {
        char c = h.ptr[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
        if (!ok) return false;
    }
    return h.ptr[0] != '.' && h.ptr[0] != '-';
}

/* Text to be shown, logged and sent in a header: a socket's path may not break a line. */
static bool has_control(struct str s) {
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7f) return true;
    return false;
}

/* Digits and dots only: meant as an IPv4 address, and a name for nobody. */
static bool looks_like_v4(struct str h) {
    for (size_t i = 0; i < h.len; i++)
        if (h.ptr[i] != '.' && (h.ptr[i] < '0' || h.ptr[i] > '9')) return false;
    return true;
}

static void lower(char *dst, size_t cap, struct str s) {
    size_t n = str_copy(dst, cap, s);
    for (size_t i = 0; i < n; i++)
        if (dst[i] >= 'A' && dst[i] <= 'Z') dst[i] = (char)(dst[i] | 0x20);
}

/* [v6], then maybe :port. */
static const char *read_v6(struct str a, struct value_url *out, struct str *port, bool *has_port) {
    static const char bad[] = "has a bad IPv6 address: write [::1]:8080";
    struct in6_addr v6;
    struct str host, rest = str_cut((struct str){a.ptr + 1, a.len - 1}, ']', &host);
    char text[INET6_ADDRSTRLEN];
    if (host.len + 2 > a.len || host.len >= sizeof text) return bad;
    str_copy(text, sizeof text, host);
    if (inet_pton(AF_INET6, text, &v6) != 1) return bad;
    inet_ntop(AF_INET6, &v6, out->host, sizeof out->host);
    *has_port = rest.len != 0;
    if (!*has_port) return NULL;
    if (rest.ptr[0] != ':') return "has something odd behind its IPv6 address";
    *port = (struct str){rest.ptr + 1, rest.len - 1};
    return NULL;
}

/* A name or an IPv4 address, then maybe :port. */
static const char *read_name(struct str a, struct value_url *out, struct str *port, bool *has_port) {
    struct in_addr v4;
    struct str host;
    *port = str_cut(a, ':', &host);
    *has_port = host.len != a.len;
    if (*has_port && memchr(port->ptr, ':', port->len)) return "has an IPv6 address without brackets: write [::1]:8080";
    if (!host_ok(host)) return "has no valid host name";
    lower(out->host, sizeof out->host, host);
    return looks_like_v4(host) && inet_pton(AF_INET, out->host, &v4) != 1 ? "has a bad IPv4 address" : NULL;
}

static const char *read_authority(struct str a, struct value_url *out) {
    struct str port = STR_NONE;
    bool has_port = false;
    uint64_t n;
    const char *wrong = a.len && a.ptr[0] == '[' ? read_v6(a, out, &port, &has_port) : read_name(a, out, &port, &has_port);
    if (wrong) return wrong;
    out->port = 80;
    if (!has_port) return NULL;
    if (!str_uint(port, 65535, &n) || n == 0) return "has a bad port: 1 to 65535";
    out->port = (uint16_t)n;
    return NULL;
}

static const char *read_base(struct str path, struct value_url *out) {
    for (size_t i = 0; i < path.len; i++) {
        unsigned char c = (unsigned char)path.ptr[i];
        if (c == '?') return "must not have a query";
        if (c == '#') return "must not have a fragment";
        if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}", c)) return "has a byte in its path that must be percent-encoded";
    }
    while (path.len && path.ptr[path.len - 1] == '/')
        path.len--;
    if (str_ends(path, STR("/v1"))) path.len -= 3; /* every request path brings its own */
    while (path.len && path.ptr[path.len - 1] == '/')
        path.len--;
    if (path.len >= sizeof out->base) return "has too long a path";
    str_copy(out->base, sizeof out->base, path);
    return NULL;
}

static const char *read_unix(struct str path, struct value_url *out) {
    if (!path.len || path.ptr[0] != '/') return "must name the socket by its whole path: unix:/run/llama.sock";
    if (path.len >= sizeof out->path) return "has too long a path for a unix socket (107 bytes)";
    if (has_control(path)) return "has a control byte in its path";
    out->is_unix = true;
    str_copy(out->path, sizeof out->path, path);
    snprintf(out->text, sizeof out->text, "unix:%s", out->path);
    return NULL;
}

const char *value_url(struct str s, struct value_url *out) {
    struct str authority, path;
    const char *wrong;
    memset(out, 0, sizeof *out);
    if (str_starts(s, STR("unix:"))) return read_unix((struct str){s.ptr + 5, s.len - 5}, out);
    if (s.len >= 8 && str_ieq((struct str){s.ptr, 8}, STR("https://")))
        return "TLS to endpoints (https://) is not there yet: use http://, or a local TLS proxy";
    if (s.len < 7 || !str_ieq((struct str){s.ptr, 7}, STR("http://"))) return "must begin with http:// or unix:";
    s = (struct str){s.ptr + 7, s.len - 7};
    size_t n = 0;
    while (n < s.len && s.ptr[n] != '/' && s.ptr[n] != '?' && s.ptr[n] != '#')
        n++;
    authority = (struct str){s.ptr, n};
    path = (struct str){s.ptr + n, s.len - n};
    if (n && memchr(authority.ptr, '@', n)) return "must not hold user:password: give an endpoint's key as api_key";
    if ((wrong = read_authority(authority, out)) || (wrong = read_base(path, out))) return wrong;
    bool v6 = strchr(out->host, ':') != NULL;
    snprintf(out->text, sizeof out->text, "http://%s%s%s:%u%s", v6 ? "[" : "", out->host, v6 ? "]" : "", out->port, out->base);
    return NULL;
}

/* ---- addresses ---- */

static const char *listen_unix(struct str path, struct value_listen *out) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (!path.len || path.ptr[0] != '/') return "must name the socket by its whole path: unix:/run/router.sock";
    if (path.len >= sizeof un.sun_path) return "has too long a path for a unix socket (107 bytes)";
    if (has_control(path)) return "has a control byte in its path";
    str_copy(un.sun_path, sizeof un.sun_path, path);
    memcpy(&out->addr, &un, sizeof un);
    out->len = sizeof un;
    out->is_unix = out->loopback = true;
    snprintf(out->text, sizeof out->text, "unix:%s", un.sun_path);
    return NULL;
}

static const char *listen_tcp(const char *host, uint16_t port, struct value_listen *out) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (!*host) host = "0.0.0.0";
    if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(&out->addr, &v4, sizeof v4);
        out->len = sizeof v4;
        out->loopback = ntohl(v4.sin_addr.s_addr) >> 24 == 127;
        snprintf(out->text, sizeof out->text, "%s:%u", host, port);
        return NULL;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) return "must be an IP address or localhost with a port, as 0.0.0.0:9090";
    memcpy(&out->addr, &v6, sizeof v6);
    out->len = sizeof v6;
    out->loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
    char text[INET6_ADDRSTRLEN];
    snprintf(out->text, sizeof out->text, "[%s]:%u", inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text), port);
    return NULL;
}

const char *value_listen(struct str s, struct value_listen *out) {
    char host[64] = "";
    struct str h, p;
    uint64_t port;
    memset(out, 0, sizeof *out);
    if (str_starts(s, STR("unix:"))) return listen_unix((struct str){s.ptr + 5, s.len - 5}, out);
    if (s.len && s.ptr[0] == '[') {
        p = str_cut((struct str){s.ptr + 1, s.len - 1}, ']', &h);
        if (!p.len || p.ptr[0] != ':' || !memchr(h.len ? h.ptr : "", ':', h.len)) return "must be [v6 address]:port";
        p = (struct str){p.ptr + 1, p.len - 1};
    } else {
        p = str_cut(s, ':', &h);
        if (memchr(p.len ? p.ptr : "", ':', p.len)) return "has an IPv6 address without brackets: write [::1]:9090";
        if (h.len == s.len) return "needs a port: HOST:PORT, [v6]:PORT, :PORT or unix:/path";
    }
    if (!str_uint(p, 65535, &port)) return "has a bad port: 0 to 65535";
    if (h.len >= sizeof host) return "must be an IP address or localhost with a port, as 0.0.0.0:9090";
    str_copy(host, sizeof host, h);
    return listen_tcp(host, (uint16_t)port, out);
}

const char *value_cidr(struct str s, struct value_cidr *out) {
    char text[64];
    struct str addr, bits = str_cut(s, '/', &addr);
    struct in_addr v4;
    uint64_t n, most;
    bool has_bits = addr.len != s.len;
    memset(out, 0, sizeof *out);
    if (addr.len >= sizeof text) return "must be an address or address/bits, as 10.0.0.0/8";
    str_copy(text, sizeof text, addr);
    if (inet_pton(AF_INET, text, &v4) == 1) {
        out->addr[10] = out->addr[11] = 0xff;
        memcpy(out->addr + 12, &v4, 4);
        most = 32;
    } else if (inet_pton(AF_INET6, text, out->addr) == 1) {
        most = 128;
    } else {
        return "must be an address or address/bits, as 10.0.0.0/8";
    }
    n = most;
    if (has_bits && !str_uint(bits, most, &n)) return "has too many bits: at most 32 for IPv4, 128 for IPv6";
    out->bits = (uint8_t)(n + (128 - most));
    for (unsigned i = out->bits; i < 128; i++)
        if (out->addr[i / 8] >> (7 - i % 8) & 1) return "has bits set beyond its prefix length";
    return NULL;
}

bool value_cidr_has(const struct value_cidr *c, const struct in6_addr *host) {
    const uint8_t *a = host->s6_addr;
    unsigned whole = c->bits / 8, rest = c->bits % 8;
    if (memcmp(a, c->addr, whole) != 0) return false;
    return !rest || (a[whole] ^ c->addr[whole]) >> (8 - rest) == 0;
}

/* ---- globs and names ---- */

bool value_is_glob(struct str p) {
    return value_glob_prefix(p) != p.len;
}

size_t value_glob_prefix(struct str p) {
    size_t n = 0;
    while (n < p.len && p.ptr[n] != '*' && p.ptr[n] != '?')
        n++;
    return n;
}

/* One star is remembered: the last. Going back further never helps. */
bool value_glob(struct str p, struct str t) {
    size_t i = 0, k = 0, star = SIZE_MAX, mark = 0;
    while (k < t.len) {
        if (i < p.len && p.ptr[i] == '*') {
            star = i++;
            mark = k;
        } else if (i < p.len && (p.ptr[i] == '?' || p.ptr[i] == t.ptr[k])) {
            i++, k++;
        } else if (star != SIZE_MAX) {
            i = star + 1;
            k = ++mark;
        } else {
            return false;
        }
    }
    while (i < p.len && p.ptr[i] == '*')
        i++;
    return i == p.len;
}

unsigned value_distance(struct str a, struct str b, unsigned cap) {
    unsigned row[65];
    size_t diff = a.len > b.len ? a.len - b.len : b.len - a.len;
    if (diff >= cap || b.len > 64 || a.len > 64) return cap;
    for (size_t k = 0; k <= b.len; k++)
        row[k] = (unsigned)k;
    for (size_t i = 1; i <= a.len; i++) {
        unsigned corner = row[0];
        row[0] = (unsigned)i;
        for (size_t k = 1; k <= b.len; k++) {
            unsigned change = corner + (a.ptr[i - 1] != b.ptr[k - 1]);
            corner = row[k];
            unsigned least = row[k] < row[k - 1] ? row[k] + 1 : row[k - 1] + 1;
            row[k] = change < least ? change : least;
        }
    }
    return row[b.len] < cap ? row[b.len] : cap;
}
