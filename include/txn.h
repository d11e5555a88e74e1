/* txn: the story of one request, from the first byte of its head to its access line. The only file that knows both sides. */
#ifndef TXN_H
#define TXN_H
#include "access.h"
#include "client.h"
#include "dispatch.h"
#include "forward.h"
#include "head.h"
#include "held.h"
#include "intake.h"
#include "notes.h"
#include "relay.h"
#include "upstream.h"
#include "usage.h"

enum txn_state {
    TXN_READ,     /* the request is arriving */
    TXN_DISPATCH, /* it waits for an endpoint */
    TXN_EXCHANGE, /* an upstream has it */
    TXN_FLUSH,    /* the response is whole, the slot given back; the client has still to take the rest of it */
    TXN_DEAD,
};

struct txn {
    struct list link;      /* all of them */
    struct client *client; /* NULL: gone, and the endpoint runs out (on_disconnect: finish) */
    struct world *world;   /* a reference, once routed */
    struct dispatch dispatch;
    struct upstream *upstream;
    struct relay relay;
    struct usage usage;
    struct intake *intake; /* these two are held until the endpoint has the request and answers */
    struct forward *forward;
    struct held *held; /* a 503 that may mean "still loading"; NULL = none */

    const char *sent_as;           /* the model's name for the endpoint, if not the accepted one; the world's memory */
    const char *entry;             /* of the configuration, that matched the model; the world's memory */
    const char *cors;              /* the Access-Control-Allow-Origin it gets: "*" or the origin; NULL = none; the world's memory */
    uint64_t received;             /* body bytes, once the body is dropped */
    int64_t started, started_wall; /* clock_ms, clock_wall_ms */
    int32_t first_byte_ms, first_token_ms; /* -1 = none */
    uint16_t status;                       /* told to the client, or of the endpoint */
    uint8_t state;
    uint8_t dialect;         /* enum head_dialect */
    uint8_t why;             /* enum why: how it ends; recorded first, acted on once */
    uint8_t client_10 : 1;   /* an HTTP/1.0 client */
    uint8_t client_keep : 1; /* and it asked to keep the connection */
    uint8_t head_only : 1;   /* the request is a HEAD */
    uint8_t fresh_retry : 1; /* a stale connection was replaced already */
    struct notes notes;      /* the last member: its text is not cleared */
};

struct txn *txn_new(struct client *c); /* at the first byte of a head */
/* The head is whole: notes what the log needs, and the request id. Before any of the following. */
void txn_head(struct txn *t, const struct http_head *head);
/* It goes to an endpoint chosen by its body: prepares all that needs the head, and accepts the body. boundary: of a form, else NULL. */
void txn_route(struct txn *t, const struct http_head *head, const char *boundary);
enum why txn_body(struct txn *t, const char *data, size_t len);
/* Refused before it was whole: not HTTP, too large, too slow, or by txn_body. text may be NULL. */
void txn_refused(struct txn *t, enum why why, const char *text);
void txn_request(struct txn *t); /* the body is whole: match, dispatch */
/* An answer of our own; extra and type as in struct head_reply. The txn may be gone on return. */
void txn_reply(struct txn *t, int status, struct str type, struct str extra, struct str body);
/* A refusal. message empty: the row's own text; extra: ready field lines. The txn may be gone on return. */
void txn_error(struct txn *t, enum why why, struct str message, struct str extra);
void txn_drained(struct txn *t);
void txn_gone(struct txn *t, enum why why); /* the client is lost */
void txn_cut_all(void);                     /* hard end: every one still running ends with WHY_SHUTDOWN */
unsigned txn_count(void);
#endif
