/* held: a 503 from an endpoint that is not passed on before its body told whether it only means "the model is still loading". */
#ifndef HELD_H
#define HELD_H
#include "loading.h"
#include "relay.h"

struct held {
    struct buf body, head, retry_head; /* the head as it would be relayed, and the same with a Retry-After */
    bool loading;                      /* held_whole's answer */
    bool closes;                       /* the heads say already that the connection ends, or need not */
};

/* From a head for which loading_maybe said yes. Its body is at most LOADING_BODY_MAX long. */
struct held *held_new(const struct http_head *h, const struct head_relay *how, bool client_10);
void held_add(struct held *h, const struct iovec *spans, int n);
bool held_whole(struct held *h);        /* the body is complete: is the model loading? */
bool held_failed(const struct held *h); /* there was no memory for all of it: it cannot be passed on */
/* The answer as the client gets it after all; returns how many pieces (1 to 3), good until held_free. close: the connection ends
 * after it, as it may not have been known when the head came. */
int held_pieces(const struct held *h, bool close, struct iovec iov[3]);
void held_free(struct held *h);
#endif
