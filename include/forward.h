/* forward: a request as it goes to an endpoint: line, fields, body, in pieces; held so that every try can send it again. */
#ifndef FORWARD_H
#define FORWARD_H
#include "body.h"
#include "buf.h"
#include "endpoint.h"
#include "head.h"

struct forward {
    struct body body;            /* as it came */
    struct buf fields;           /* the request target, then the header fields that are the same for every try */
    struct buf line;             /* request line, Host and key of this try */
    struct buf swap;             /* what stands in the body in the model's place (alias); empty = the body as it came */
    uint64_t swap_off, swap_raw; /* the place: offset and length in the body */
    uint32_t target_len;
    bool bare; /* the client's credentials are not in it */
};

/* From the client's head, while its spans are good. target may lack (see http.h). */
struct forward *forward_new(const struct http_head *head, const struct head_forward *how);
/* The model's name to be sent in the place [off, off+raw) of the body; json: written as the inside of a JSON string. False if it does not fit. */
bool forward_swap(struct forward *f, uint64_t off, uint64_t raw, struct str name, bool json);
void forward_no_swap(struct forward *f);
void forward_drop_credentials(struct forward *f); /* a reload made them the router's business */
/* The body is whole and the endpoint chosen: builds the line. False without memory. */
bool forward_line(struct forward *f, const struct endpoint *e);
/* The pieces from that offset on, as upstream_user.pieces wants them. */
int forward_pieces(const struct forward *f, uint64_t from, struct iovec *iov, int max);
void forward_free(struct forward *f); /* NULL is let pass */
#endif
