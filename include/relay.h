/* relay: response bytes on their way from an endpoint to a client: our framing, and backpressure. */
#ifndef RELAY_H
#define RELAY_H
#include "client.h"
#include "head.h"

/* Where in an event or a line the stream stands: what an in-band error needs to know. */
enum relay_stream { STREAM_NONE, STREAM_SSE, STREAM_NDJSON };

struct relay {          /* all zero is one that has not begun */
    uint64_t body_sent; /* body bytes given to the client, without framing */
    uint8_t framing;    /* enum head_framing */
    uint8_t stream;     /* enum relay_stream */
    uint8_t newlines;   /* line ends in a row at the end of what was sent; an event is open below 2, a line below 1 */
    bool begun;         /* the head was put together: from here on an error can only cut */
    bool first_sent;    /* a byte of the response went to the client */
};

/* Writes our head to the endpoint's; framing is chosen by what the client understands. */
void relay_head(struct buf *out, const struct http_head *in, struct head_relay *how, bool client_10, bool client_head);
/* Takes the endpoint's head. Ours then waits for the first bytes of the body: relay_body, relay_flush or relay_free comes before any
 * other relay begins. False without memory: it has not begun. */
bool relay_begin(struct relay *r, const struct http_head *in, struct head_relay *how, bool client_10, bool client_head);
/* Body bytes, in one chunk; `ended` completes the response. Returns what client_write said. */
enum io relay_body(struct relay *r, struct client *c, const struct iovec *spans, int n, bool ended);
enum io relay_flush(struct relay *r, struct client *c); /* a head that still waits for its first body bytes goes now */
/* May body bytes go past it, unseen, to the client's connection? Then relay_passed tells how many did. */
bool relay_straight(const struct relay *r, const struct client *c);
void relay_passed(struct relay *r, struct client *c, size_t n, enum io wrote);
/* True where the end of the connection is the end of the body, so that a cut must be a reset to be seen. */
bool relay_ends_by_close(const struct relay *r);
/* The in-band error of a broken stream; nothing where the body is no stream. */
void relay_break(struct relay *r, struct client *c, enum why why, enum head_dialect dialect);
void relay_free(const struct relay *r);
#endif
