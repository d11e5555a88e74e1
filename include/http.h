/* http: HTTP/1.x messages, bytes in, events out (RFC 9112). llhttp reads; what it lets pass and we must not is refused here,
 * with the same verdict on llhttp 8.1 and 9.x. No I/O, no clock, no allocation. */
#ifndef HTTP_H
#define HTTP_H
#include <llhttp.h>
#include <sys/uio.h>

#include "field.h"
#include "why.h"

#define HTTP_FIELDS_MAX  100  /* header fields in one head; one more is WHY_BIG_HEAD */
#define HTTP_SPANS_MAX   32   /* body spans one http_feed can return */
#define HTTP_TRAILER_MAX 8192 /* bytes of trailer fields and chunk extensions in one message; more is malformed */

enum http_method {
    METHOD_OTHER,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_POST,
    METHOD_PUT,
    METHOD_DELETE,
    METHOD_OPTIONS,
    METHOD_PATCH,
    METHOD_CONNECT,
    METHOD_TRACE
};

struct http_field {
    uint32_t name_off, value_off, value_len; /* offsets from the head's first byte; value without blanks at its ends */
    uint16_t name_len;
    uint8_t id; /* enum http_id */
};

/* A whole head. Spans are relative to `base`, which whoever moves the bytes must set anew. */
struct http_head {
    const char *base;
    uint32_t size;           /* bytes up to and with the blank line (leading empty lines included) */
    struct span method_text; /* request: as it stood */
    struct span target;      /* request: origin form: path and query; of an absolute-form target the part after the authority
                                 ("/" is meant where that is empty: then len is 0) */
    struct span path;        /* request: target up to '?' */
    struct span reason;      /* response: reason phrase */
    uint64_t length;         /* Content-Length, where has_length */
    uint16_t status;         /* response */
    uint16_t nfields;
    uint8_t minor;              /* HTTP/1.minor: 0 or 1 */
    uint8_t method;             /* request: enum http_method */
    bool has_length, chunked;   /* framing as it stood: at most one of them */
    bool until_close;           /* response: body ends when the connection does */
    bool bodyless;              /* response to HEAD, 1xx, 204, 304: no body whatever the fields say */
    bool keep_alive;            /* the peer would use the connection again */
    bool expect_continue;       /* request, 1.1: Expect: 100-continue */
    bool expect_other;          /* request: an Expect we do not know */
    uint8_t first[FIELD_COUNT]; /* 1 + index of the first field of that id; 0 = none */
    struct http_field fields[HTTP_FIELDS_MAX];
};

static inline struct str http_name(const struct http_head *h, const struct http_field *f) {
    return (struct str){h->base + f->name_off, f->name_len};
}
static inline struct str http_value(const struct http_head *h, const struct http_field *f) {
    return (struct str){h->base + f->value_off, f->value_len};
}
/* The first field of that id, or NULL. */
static inline const struct http_field *http_find(const struct http_head *h, enum http_id id) {
    return h->first[id] ? &h->fields[h->first[id] - 1] : NULL;
}
struct str http_get(const struct http_head *h, enum http_id id);      /* its value; STR_NONE if absent */
struct str http_get_name(const struct http_head *h, struct str name); /* the same for any name, case ignored */
/* True if the comma list in any field of that id holds the token, case ignored (RFC 9110 5.6.1). */
bool http_has_token(const struct http_head *h, enum http_id id, struct str token);

enum http_kind { MESSAGE_REQUEST, MESSAGE_RESPONSE };
enum http_event {
    GOT_MORE, /* everything looked at, nothing complete: come again with more */
    GOT_HEAD, /* h->head is complete; *used = its size */
    GOT_BODY, /* h->spans[0..nspans) lie in the bytes given; *used of them are eaten; `ended` tells if that was all */
    GOT_END,  /* the message ended without further body bytes; *used may be > 0 (chunk framing, trailers) */
    GOT_BAD,  /* h->error says why, h->text in words; the connection is good for one error reply and nothing more */
};

struct http {
    llhttp_t parser;
    struct http_head *head; /* where the head goes; the caller's, may be shared among parsers while no head is half read */
    struct iovec *spans;    /* HTTP_SPANS_MAX entries, the caller's, may be shared among all parsers */
    uint64_t left;          /* body bytes still to come, where the length is known; else 0 */
    const char *text;       /* GOT_BAD: what was wrong, for a person ("two Content-Length fields"); static */
    const char *feed_base;  /* during http_feed only */
    uint32_t seen;          /* bytes of the current head already parsed; then bytes of chunk framing since the last data */
    uint32_t extra;         /* bytes of trailers, chunk extensions and padding in this message, bounded */
    uint16_t nspans;
    uint8_t kind, phase, line_state, told;       /* private; told: fields of the head llhttp has told of */
    uint8_t trailer_at, trailer_is, ext, valued; /* private: see trailer_name and ext_value */
    uint8_t error;                               /* enum why: WHY_BAD_HTTP or WHY_BIG_HEAD */
    bool ended;                                  /* the message is complete */
    bool head_answer;                            /* response: the request was HEAD; set by the caller before the head is read */
};

/* Ready for the first or the next message. head and spans stay the caller's and must outlive the message's parsing; *head is not
 * touched before the first http_feed with bytes. */
void http_init(struct http *h, enum http_kind kind, struct http_head *head, struct iovec *spans);

/* One step. While the head is read, data must begin at the head's first byte in every call and hold all that has come
 * of it (the parser remembers how far it was); *used stays 0 until GOT_HEAD. After GOT_HEAD, data begins at the first
 * byte not yet used. After a message has ended (GOT_END, or GOT_BODY with `ended`): http_init for the next one.
 * A message without a body gives GOT_HEAD with `ended` set. For a response that runs until close (head.until_close)
 * every byte is body. 1xx responses are given as GOT_HEAD with `ended` set like any other.
 * The strict rules (all GOT_BAD / WHY_BAD_HTTP unless said): see the table in src/http.c. */
enum http_event http_feed(struct http *h, const char *data, size_t len, size_t *used);

/* n body bytes of known length went another way (n <= h->left): as if they had been fed. */
void http_skip(struct http *h, uint64_t n);

/* The peer closed its side. True if that completes the message (until_close), false if it cuts it. */
bool http_eof(struct http *h);
#endif
