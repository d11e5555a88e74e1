/* held: one small answer, kept whole until it is understood.
 * In: an endpoint's 503, head then body. Out: whether its model is loading; or the answer, ready to be sent on.
 * Owns its bytes, at most LOADING_BODY_MAX and a head. Sends nothing, tries nobody else: the txn does. */
#include "held.h"

#include "slab.h"

static struct slab slab = {.size = sizeof(struct held), .clear = sizeof(struct held)};

struct held *held_new(const struct http_head *h, const struct head_relay *how, bool client_10) {
    struct held *held = slab_get(&slab);
    struct head_relay plain = *how, later = *how;
    later.retry_after_5 = true;
    relay_head(&held->head, h, &plain, client_10, false);
    relay_head(&held->retry_head, h, &later, client_10, false);
    held->closes = plain.close || client_10;
    return held;
}

void held_add(struct held *h, const struct iovec *spans, int n) {
    for (int i = 0; i < n; i++)
        buf_put(&h->body, spans[i].iov_base, spans[i].iov_len);
}

bool held_whole(struct held *h) {
    return h->loading = loading_is(buf_str(&h->body));
}

bool held_failed(const struct held *h) {
    return h->body.failed || h->head.failed || h->retry_head.failed;
}

int held_pieces(const struct held *h, bool close, struct iovec iov[3]) {
    static char says[] = "Connection: close\r\n\r\n";
    const struct buf *head = h->loading ? &h->retry_head : &h->head;
    bool say = close && !h->closes;
    int n = 0;
    iov[n++] = (struct iovec){head->mem + head->head, buf_len(head) - (say ? 2 : 0)}; /* without its empty line */
    if (say) iov[n++] = (struct iovec){says, sizeof says - 1};
    if (buf_len(&h->body)) iov[n++] = (struct iovec){h->body.mem + h->body.head, buf_len(&h->body)};
    return n;
}

void held_free(struct held *h) {
    buf_free(&h->body);
    buf_free(&h->head);
    buf_free(&h->retry_head);
    slab_put(&slab, h);
}
