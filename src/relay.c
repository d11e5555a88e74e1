/* relay: the response half of an exchange, as the client gets it.
 * In: an endpoint's head, then spans of its body, which lie in a connection's input and are not kept. Out: one writev a step: head,
 * chunk size, spans, chunk end. Owns the head's text until it goes, which is in the same step. Decides no retry, ends no connection, never holds a byte back:
 * what the kernel does not take is the client connection's to owe, and the txn stops reading until it is gone. */
#include "relay.h"

#include <assert.h>

#include "usage.h"

static struct buf head; /* the response's, until it goes with the first bytes of the body: one place serves all */
static const struct relay *head_of;

static void drop_head(void) {
    buf_free(&head);
    head_of = NULL;
}

static enum head_framing framing_for(const struct http_head *in, bool client_10, bool client_head) {
    if (in->bodyless || client_head) return FRAMING_NONE;
    if (in->has_length) return FRAMING_LENGTH;
    return client_10 ? FRAMING_CLOSE : FRAMING_CHUNKED;
}

void relay_head(struct buf *out, const struct http_head *in, struct head_relay *how, bool client_10, bool client_head) {
    how->framing = framing_for(in, client_10, client_head);
    how->length = in->length;
    if (how->framing == FRAMING_CLOSE) how->close = true;
    head_response(out, in, how);
}

bool relay_begin(struct relay *r, const struct http_head *in, struct head_relay *how, bool client_10, bool client_head) {
    assert(!r->begun && !head_of);
    relay_head(&head, in, how, client_10, client_head);
    if (head.failed) return buf_free(&head), false;
    head_of = r;
    r->begun = true;
    r->framing = (uint8_t)how->framing;
    enum usage_kind kind = usage_kind(http_get(in, FIELD_CONTENT_TYPE));
    if (head_encoded(in)) kind = USAGE_OFF; /* what we might add would be no part of it */
    r->stream = kind == USAGE_SSE ? STREAM_SSE : kind == USAGE_NDJSON ? STREAM_NDJSON : STREAM_NONE;
    r->newlines = 2;
    return true;
}

/* An empty line ends an event; CR does not count, so that CRLF and LF look alike. */
static void note_end(struct relay *r, const struct iovec *spans, int n) {
    for (int i = 0; i < n; i++) {
        const char *p = spans[i].iov_base, *end = p + spans[i].iov_len;
        /* Only the last few bytes matter: three are enough for CRLFCRLF's last two line ends and what stands before. */
        if (end - p > 4) p = end - 4, r->newlines = 0;
        for (; p < end; p++) {
            if (*p == '\n')
                r->newlines = r->newlines < 2 ? r->newlines + 1u : 2;
            else if (*p != '\r')
                r->newlines = 0;
        }
    }
}

static size_t chunk_head(char dst[20], size_t n) {
    char digits[16];
    size_t i = sizeof digits, len = 0;
    do
        digits[--i] = "0123456789abcdef"[n & 15];
    while (n >>= 4);
    while (i < sizeof digits)
        dst[len++] = digits[i++];
    dst[len++] = '\r';
    dst[len++] = '\n';
    return len;
}

enum io relay_body(struct relay *r, struct client *c, const struct iovec *spans, int n, bool ended) {
    static char crlf[] = "\r\n", last[] = "0\r\n\r\n", crlf_last[] = "\r\n0\r\n\r\n";
    struct iovec iov[HTTP_SPANS_MAX + 3];
    char size[20];
    int k = 0;
    size_t total = 0;
    assert(r->begun && n <= HTTP_SPANS_MAX);
    if (r->framing == FRAMING_NONE) n = 0;
    for (int i = 0; i < n; i++)
        total += spans[i].iov_len;
    if (head_of == r) iov[k++] = (struct iovec){head.mem + head.head, buf_len(&head)};
    if (total && r->framing == FRAMING_CHUNKED) iov[k++] = (struct iovec){size, chunk_head(size, total)};
    for (int i = 0; i < n; i++)
        iov[k++] = spans[i];
    if (r->framing == FRAMING_CHUNKED && (total || ended)) {
        if (total && ended)
            iov[k++] = (struct iovec){crlf_last, sizeof crlf_last - 1};
        else
            iov[k++] = total ? (struct iovec){crlf, 2} : (struct iovec){last, 5};
    }
    if (!k) return IO_OK;
    enum io io = client_write(c, iov, k);
    if (head_of == r) drop_head();
    r->first_sent = true;
    r->body_sent += total;
    if (r->stream != STREAM_NONE) note_end(r, spans, n);
    return io;
}

enum io relay_flush(struct relay *r, struct client *c) {
    return head_of == r ? relay_body(r, c, NULL, 0, false) : IO_OK;
}

bool relay_straight(const struct relay *r, const struct client *c) {
    return r->framing == FRAMING_LENGTH && r->stream == STREAM_NONE && head_of != r && !client_owes(c);
}

void relay_passed(struct relay *r, struct client *c, size_t n, enum io wrote) {
    r->body_sent += n;
    client_passed(c, wrote);
}

bool relay_ends_by_close(const struct relay *r) {
    return r->framing == FRAMING_CLOSE;
}

void relay_break(struct relay *r, struct client *c, enum why why, enum head_dialect dialect) {
    if (r->stream == STREAM_NONE || r->framing == FRAMING_NONE || r->framing == FRAMING_LENGTH) return;
    struct buf text = {0};
    bool ndjson = r->stream == STREAM_NDJSON;
    head_stream_error(&text, why, dialect, ndjson, r->newlines < (ndjson ? 1 : 2));
    if (!text.failed) {
        struct iovec v = {text.mem + text.head, buf_len(&text)};
        relay_body(r, c, &v, 1, false);
    }
    buf_free(&text);
}

void relay_free(const struct relay *r) {
    if (head_of == r) drop_head();
}
