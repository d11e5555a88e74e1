/* head: heads as text: the request for an endpoint, the response for a client, our own replies and errors.
 * Heads are rebuilt field by field, never copied raw. Everything appends to a buf; buf.failed tells of no memory. */
#ifndef HEAD_H
#define HEAD_H
#include "buf.h"
#include "http.h"

/* How error bodies look: by the path of the request. */
enum head_dialect { DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_OLLAMA };
enum head_dialect head_dialect(struct str path); /* "/v1/messages…" Anthropic, "/api/…" Ollama, else OpenAI */

struct head_forward {
    struct str client_ip; /* text of the client's address; empty for a unix socket: then X-Forwarded-For gets nothing added */
    struct str request_id;
    uint64_t body_length; /* of the body as it will be sent */
    bool has_body;        /* false: no Content-Length at all (a GET) */
    bool
        peer_trusted; /* keep the peer's own X-Forwarded-* (and Forwarded) and add to For; else they are replaced, Forwarded dropped */
    bool drop_credentials; /* Authorization, x-api-key and Cookie go no further */
};

/* The fields of a forwarded request that are the same for every endpoint, and the blank line after them: the client's end-to-end
 * fields as they stood (name and value bytes), without hop-by-hop ones (RFC 9110 7.6.1: Connection and what it names, Keep-Alive,
 * Proxy-*, TE, Trailer, Transfer-Encoding, Upgrade, HTTP2-Settings), Host, Expect, Content-Length; then X-Forwarded-For, -Proto
 * (http), -Host (the client's Host), X-Request-Id, Content-Length and CRLF CRLF. Fields that Connection must not remove
 * (Content-Type, Authorization, …) are a matter of http.c, which refuses such a head. */
void head_request_fields(struct buf *out, const struct http_head *in, const struct head_forward *f);

/* What goes before them, of one endpoint: "METHOD base+target HTTP/1.1", Host, and Authorization: Bearer api_key if there is one.
 * host is ready for the Host field (port included, [v6] in brackets). base has no slash at its end. An empty target is "/". */
void head_request_line(struct buf *out, struct str method, struct str base, struct str target, struct str host, struct str api_key);

struct head_cors {           /* what Access-Control-* a response gets */
    struct str allow_origin; /* empty: no CORS; the endpoint's own Access-Control-* are dropped whenever this is not empty */
    bool vary_origin;
};

enum head_framing { FRAMING_NONE, FRAMING_LENGTH, FRAMING_CHUNKED, FRAMING_CLOSE };

struct head_route { /* X-Router-* (route_headers: true); empty fields are not sent */
    struct str pool, endpoint, affinity;
};

struct head_relay {
    enum head_framing
        framing;           /* NONE: bodyless status, no framing field is sent, but for HEAD and 304 the endpoint's Content-Length */
    uint64_t length;       /* FRAMING_LENGTH */
    struct str request_id; /* replaces any of the endpoint's */
    struct head_cors cors;
    struct head_route route;
    bool close;         /* Connection: close */
    bool keep_alive_10; /* Connection: keep-alive, for a 1.0 client that asked */
    bool retry_after_5; /* add Retry-After: 5 if the endpoint set none */
};
/* The client's response head from the endpoint's: status line "HTTP/1.1 status reason" (our version, always), end-to-end fields, our own.
 * text/event-stream gets X-Accel-Buffering: no. */
void head_response(struct buf *out, const struct http_head *in, const struct head_relay *r);

/* Our own reply: status line, Date, Content-Type, Content-Length, extra fields, blank line; then the body unless head_only. */
struct head_reply {
    int status;
    struct str content_type; /* empty: none (204) */
    struct str extra;        /* ready field lines, each with CRLF: Allow, WWW-Authenticate, … */
    struct str body;
    struct str request_id;
    struct head_cors cors;
    bool head_only; /* the request was HEAD */
    bool close, keep_alive_10;
};
void head_reply(struct buf *out, const struct head_reply *r);

/* An error reply from a row of the why table. message empty: the row's own. `message` is escaped here, and may hold client text. */
struct head_error {
    enum why why;
    enum head_dialect dialect;
    struct str message;
    struct str extra, request_id;
    struct head_cors cors;
    int retry_after;                      /* seconds, for rows with WHY_RETRY_AFTER; 0 = 1 */
    bool head_only, close, keep_alive_10; /* close is also implied by the row's WHY_CLOSE */
};
void head_error(struct buf *out, const struct head_error *e);
/* The JSON text alone, without head. */
void head_error_body(struct buf *out, enum why why, enum head_dialect dialect, struct str message);
/* The in-band error of a stream that broke: an SSE event (`event: error` for Anthropic) or, ndjson, a line; begins with an
 * empty line if `open` (an event or line was not finished). */
void head_stream_error(struct buf *out, enum why why, enum head_dialect dialect, bool ndjson, bool open);

/* Its body is in some Content-Encoding but identity. */
bool head_encoded(const struct http_head *h);
/* A client's X-Request-Id we keep: 1 to 128 of A-Z a-z 0-9 . _ ~ : / + = @ - */
bool head_request_id_ok(struct str id);
const char *head_status_text(int status); /* "Not Found"; "" if unknown */
#endif
