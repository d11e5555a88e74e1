/* notes: what is kept of a request's own text, for the log and for the answer, once the bytes it came in are gone. */
#ifndef NOTES_H
#define NOTES_H
#include "conf.h"
#include "http.h"
#include "sock.h"

#define NOTES_INLINE     112 /* bytes of text that need no memory of their own: most requests fit */
#define NOTES_PATH_MAX   512 /* bytes of a path that are kept */
#define NOTES_METHOD_MAX 64  /* the same of a method */

struct note { /* of the text */
    uint16_t off, len;
};

/* All zero but `inl` holds nothing. The text lies in inl or in malloc'ed memory of the notes' own. Must not move. */
struct notes {
    char *text, *model_text; /* = inl, or malloc'ed; model_text NULL while the model stands in inl */
    struct note method, path, request_id;
    struct note client_ip; /* the peer */
    struct note told_ip;   /* who trusted proxies say it is; none: the peer */
    uint16_t model_len;
    uint8_t used; /* of inl */
    char inl[NOTES_INLINE];
};

static inline struct str notes_str(const struct notes *n, struct note s) {
    return (struct str){n->text + s.off, s.len};
}
static inline struct str notes_id(const struct notes *n) {
    return notes_str(n, n->request_id);
}
static inline struct str notes_name(const struct notes *n) { /* the model's */
    return (struct str){n->model_text ? n->model_text : n->inl + n->used, n->model_len};
}

/* At the first byte of a head: the peer's address and a request id of our own (a UUID, RFC 9562 5.4), so that a head which will
 * never be whole has an id too. peer as sock_host gives it. */
void notes_begin(struct notes *n, const struct in6_addr *peer);
/* The head is whole: method, path, the address that trusted proxies told, and the client's own request id if it is one we keep.
 * Once. */
void notes_head(struct notes *n, const struct http_head *head, struct str told_ip);
bool notes_peer_trusted(const struct conf *conf, const struct in6_addr *peer); /* of a unix socket: no */
/* The client as a trusted peer's X-Forwarded-For tells it: from its end, the first address that is no trusted proxy. Into the head. */
struct str notes_told_ip(const struct conf *conf, const struct http_head *head);
void notes_model(struct notes *n, struct str model); /* after notes_head; once */
void notes_free(struct notes *n);
#endif
