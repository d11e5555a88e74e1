/* notes: the few texts of a request that outlive its bytes.
 * In: a peer, a head, a model. Out: spans that stay good until notes_free. Owns their memory: 112 bytes in place, more only where a
 * path or an id is long, each bounded (path 512, id 128, model 512), so that a stream costs well under 1 KB.
 * Judges nothing; writes no log. */
#include "notes.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "head.h"

static struct note keep(char *text, size_t *at, struct str s) {
    if (s.len) memcpy(text + *at, s.ptr, s.len);
    struct note kept = {(uint16_t)*at, (uint16_t)s.len};
    *at += s.len;
    return kept;
}

static void new_uuid(char dst[36]) {
    static uint8_t pool[1024]; /* one system call for 64 ids */
    static size_t left;
    if (left < 16) {
        if (getrandom(pool, sizeof pool, 0) != (ssize_t)sizeof pool) abort();
        left = sizeof pool;
    }
    uint8_t *b = pool + sizeof pool - left;
    left -= 16;
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 9562 5.4 */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    char *p = dst;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *p++ = '-';
        *p++ = "0123456789abcdef"[b[i] >> 4];
        *p++ = "0123456789abcdef"[b[i] & 15];
    }
}

void notes_begin(struct notes *n, const struct in6_addr *peer) {
    char uuid[36], ip[SOCK_TEXT] = "";
    size_t at = 0;
    n->text = n->inl;
    if (!IN6_IS_ADDR_UNSPECIFIED(peer)) sock_host_text(peer, ip);
    n->client_ip = keep(n->text, &at, str_of(ip));
    new_uuid(uuid);
    n->request_id = keep(n->text, &at, (struct str){uuid, sizeof uuid});
}

static bool trusted(const struct conf *conf, const struct in6_addr *host) {
    for (size_t i = 0; i < conf->ntrusted_proxies; i++)
        if (value_cidr_has(&conf->trusted_proxies[i], host)) return true;
    return false;
}

/* True: an address that is no trusted proxy, so that who stands before it in the list may be anybody's invention. */
static bool is_client(const struct conf *conf, struct str ip, bool *valid) {
    struct in6_addr host = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
    char text[INET6_ADDRSTRLEN];
    *valid = false;
    if (!ip.len || ip.len >= sizeof text) return false;
    str_copy(text, sizeof text, ip);
    bool v6 = memchr(ip.ptr, ':', ip.len);
    *valid = inet_pton(v6 ? AF_INET6 : AF_INET, text, v6 ? host.s6_addr : &host.s6_addr[12]) == 1;
    return *valid && !trusted(conf, &host);
}

/* The client's address as X-Forwarded-For of a trusted peer tells it: from its end, the first that is no trusted proxy. */
struct str notes_told_ip(const struct conf *conf, const struct http_head *h) {
    struct str best = STR_NONE;
    for (unsigned i = h->nfields; h->first[FIELD_X_FORWARDED_FOR] && i; i--) {
        struct str rest = http_value(h, &h->fields[i - 1]);
        while (h->fields[i - 1].id == FIELD_X_FORWARDED_FOR && rest.len) {
            const char *comma = memrchr(rest.ptr, ',', rest.len);
            size_t at = comma ? (size_t)(comma - rest.ptr) + 1 : 0;
            struct str ip = str_trim((struct str){rest.ptr + at, rest.len - at});
            bool valid, client = is_client(conf, ip, &valid);
            if (!valid) return best;
            best = ip;
            if (client) return best;
            rest.len = comma ? at - 1 : 0;
        }
    }
    return best;
}

bool notes_peer_trusted(const struct conf *conf, const struct in6_addr *peer) {
    return !IN6_IS_ADDR_UNSPECIFIED(peer) && trusted(conf, peer);
}

void notes_head(struct notes *n, const struct http_head *h, struct str told_ip) {
    struct str id = http_get(h, FIELD_X_REQUEST_ID), method = str_at(h->base, h->method_text), path = str_at(h->base, h->path);
    char old[NOTES_INLINE];
    size_t at = 0;
    memcpy(old, n->inl, sizeof old); /* the old values lie where the new ones go */
    struct str ip = {old + n->client_ip.off, n->client_ip.len};
    if (!head_request_id_ok(id)) id = (struct str){old + n->request_id.off, n->request_id.len};
    if (path.len > NOTES_PATH_MAX) path.len = NOTES_PATH_MAX;
    if (method.len > NOTES_METHOD_MAX) method.len = NOTES_METHOD_MAX;
    size_t need = ip.len + told_ip.len + id.len + method.len + path.len;
    n->text = need > NOTES_INLINE ? must_alloc(need) : n->inl;
    n->client_ip = keep(n->text, &at, ip);
    n->told_ip = keep(n->text, &at, told_ip);
    n->request_id = keep(n->text, &at, id);
    n->method = keep(n->text, &at, method);
    n->path = keep(n->text, &at, path);
    n->used = (uint8_t)(n->text == n->inl ? need : 0);
}

void notes_model(struct notes *n, struct str model) {
    if (model.len > (size_t)(NOTES_INLINE - n->used)) n->model_text = must_alloc(model.len);
    n->model_len = (uint16_t)model.len;
    if (model.len) memcpy(n->model_text ? n->model_text : n->inl + n->used, model.ptr, model.len);
}

void notes_free(struct notes *n) {
    if (n->text != n->inl) free(n->text);
    free(n->model_text);
    n->text = n->model_text = NULL;
}
