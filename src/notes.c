/* notes: the few texts of a request that outlive its bytes.
 * In: a peer, a head, a model. Out: spans that stay good until notes_free. Owns their memory: 160 bytes in place, more only where a
 * path or an id is long, each bounded (path 512, id 128, model 512), so that a stream costs well under 1 KB.
 * Judges nothing; writes no log. */
#include "notes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "head.h"

static struct str keep(char **at, struct str s) {
    if (s.len) memcpy(*at, s.ptr, s.len);
    struct str kept = {*at, s.len};
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

void notes_begin(struct notes *n, const struct sock_addr *peer) {
    char uuid[36], ip[SOCK_TEXT] = "";
    char *at = n->text = n->inl;
    if (peer) sock_ip(peer, ip);
    n->client_ip = keep(&at, str_of(ip));
    new_uuid(uuid);
    n->request_id = keep(&at, (struct str){uuid, sizeof uuid});
}

void notes_head(struct notes *n, const struct http_head *h) {
    struct str id = http_get(h, FIELD_X_REQUEST_ID), method = str_at(h->base, h->method_text), path = str_at(h->base, h->path);
    struct str ip = n->client_ip;
    char old[NOTES_INLINE], *at;
    memcpy(old, n->inl, sizeof old); /* the old values lie where the new ones go */
    if (!head_request_id_ok(id)) id = (struct str){old + (n->request_id.ptr - n->inl), n->request_id.len};
    if (ip.len) ip.ptr = old + (ip.ptr - n->inl);
    if (path.len > NOTES_PATH_MAX) path.len = NOTES_PATH_MAX;
    size_t need = ip.len + id.len + method.len + path.len;
    at = n->text = need > NOTES_INLINE ? must_alloc(need) : n->inl;
    n->client_ip = keep(&at, ip);
    n->request_id = keep(&at, id);
    n->method = keep(&at, method);
    n->path = keep(&at, path);
    n->used = (uint8_t)(n->text == n->inl ? need : 0);
}

void notes_model(struct notes *n, struct str model) {
    char *at = n->inl + n->used;
    if (model.len > (size_t)(NOTES_INLINE - n->used)) at = n->model_text = must_alloc(model.len);
    n->model = keep(&at, model);
}

void notes_free(struct notes *n) {
    if (n->text != n->inl) free(n->text);
    free(n->model_text);
    n->text = n->model_text = NULL;
}
