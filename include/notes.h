/* notes: what is kept of a request's own text, for the log and for the answer, once the bytes it came in are gone. */
#ifndef NOTES_H
#define NOTES_H
#include "conf.h"
#include "http.h"
#include "sock.h"

#define NOTES_INLINE   160 /* bytes of text that need no memory of their own: most requests fit */
#define NOTES_PATH_MAX 512 /* bytes of a path that are kept */

/* All zero but `inl` holds nothing. The spans lie in inl or in malloc'ed memory of the notes' own. Must not move. */
struct notes {
    struct str method, path, model, request_id;
    struct str client_ip;    /* the peer */
    struct str told_ip;      /* who trusted proxies say it is; none: the peer */
    char *text, *model_text; /* = inl, or malloc'ed; model_text NULL while the model stands in inl */
    uint8_t used;            /* of inl */
    char inl[NOTES_INLINE];
};

/* At the first byte of a head: the peer's address and a request id of our own (a UUID, RFC 9562 5.4), so that a head which will
 * never be whole has an id too. peer NULL: a unix socket. */
void notes_begin(struct notes *n, const struct sock_addr *peer);
/* The head is whole: method, path, the address that trusted proxies told, and the client's own request id if it is one we keep.
 * Once. */
void notes_head(struct notes *n, const struct http_head *head, struct str told_ip);
bool notes_peer_trusted(const struct conf *conf, const struct sock_addr *peer); /* peer NULL: no */
/* The client as a trusted peer's X-Forwarded-For tells it: from its end, the first address that is no trusted proxy. Into the head. */
struct str notes_told_ip(const struct conf *conf, const struct http_head *head);
void notes_model(struct notes *n, struct str model); /* after notes_head; once */
void notes_free(struct notes *n);
#endif
