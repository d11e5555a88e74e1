/* head: heads as text: a request for an endpoint, a response for a client, our own replies and errors.
 * In: heads as http read them, and what is to be said. Out: bytes at the end of a buf; buf.failed tells of no memory. Owns nothing.
 * Heads are rebuilt field by field, in one pass, into room that is reserved once: this runs twice a request. Which fields pass is
 * decided in request_field_passes and response_field_passes and nowhere else. The clock is asked only for the date of the turn.
 * Must never send on a field that a peer must not set: framing, hop-by-hop fields, X-Router-*, X-Request-Id, a stranger's
 * X-Forwarded-*; nor a key that is not the endpoint's. */
#include "head.h"

#include <assert.h>
#include <string.h>

#include "clock.h"

#define NAMED_MAX   16   /* fields that Connection may name and are told apart; nobody honest names more than two or three */
#define REASON_MAX  64   /* longest reason phrase that is passed on */
#define FIXED_ROOM  512  /* more than all the names and short values added here to one head */
#define MESSAGE_MAX 1024 /* bytes of an error's message, before escaping */

/* ---- writing into room that was reserved ---- */

#define PUT(to, literal) (memcpy((to), "" literal, sizeof(literal) - 1), (to) + sizeof(literal) - 1)

static char *put(char *to, struct str s) {
    if (s.len) memcpy(to, s.ptr, s.len);
    return to + s.len;
}

static char *put_number(char *to, uint64_t n) {
    char digits[20];
    size_t i = sizeof digits;
    do
        digits[--i] = (char)('0' + n % 10);
    while (n /= 10);
    return put(to, (struct str){digits + i, sizeof digits - i});
}

static char *put_field(char *to, struct str name, struct str value) {
    to = put(to, name);
    to = PUT(to, ": ");
    to = put(to, value);
    return PUT(to, "\r\n");
}

/* A value from the configuration, where a name may be any text: what would end the line is shown as '?'. */
static char *put_config_field(char *to, struct str name, struct str value) {
    if (!value.len) return to;
    char *end = put_field(to, name, value), *p = end - 2 - value.len;
    for (; p < end - 2; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    return end;
}

/* What is between the room's start and `to` was written. */
static void commit(struct buf *out, const char *to) {
    buf_commit(out, (size_t)(to - (out->mem + out->tail)));
}

/* ---- which fields pass ---- */

/* What Connection names besides what everybody knows to be hop-by-hop. */
struct named {
    struct str item[NAMED_MAX];
    unsigned count;
    bool too_many; /* then every field without a meaning here is taken for named: nobody's head may cost fields times names */
};

static void find_named(const struct http_head *in, struct named *named) {
    named->count = 0;
    named->too_many = false;
    for (unsigned i = in->first[FIELD_CONNECTION]; i && i <= in->nfields; i++) {
        if (in->fields[i - 1].id != FIELD_CONNECTION) continue;
        struct str rest = http_value(in, &in->fields[i - 1]), item;
        while (str_next(&rest, &item)) {
            if (str_ieq(item, STR("keep-alive")) || str_ieq(item, STR("close")) || field_id(item) != FIELD_OTHER) continue;
            if (named->count == NAMED_MAX) {
                named->too_many = true;
                return;
            }
            named->item[named->count++] = item;
        }
    }
}

static bool is_named(const struct named *named, struct str name) {
    for (unsigned i = 0; i < named->count; i++)
        if (str_ieq(named->item[i], name)) return true;
    return named->too_many;
}

static bool begins(struct str name, struct str prefix) {
    return name.len >= prefix.len && (name.ptr[0] | 0x20) == prefix.ptr[0] && str_ieq((struct str){name.ptr, prefix.len}, prefix);
}

/* Fields that concern one connection (RFC 9110 7.6.1), and framing, which is ours. */
static bool is_hop_by_hop(enum http_id id) {
    switch (id) {
    case FIELD_CONNECTION:
    case FIELD_CONTENT_LENGTH:
    case FIELD_HTTP2_SETTINGS:
    case FIELD_KEEP_ALIVE:
    case FIELD_PROXY_AUTHENTICATE:
    case FIELD_PROXY_AUTHORIZATION:
    case FIELD_PROXY_CONNECTION:
    case FIELD_TE:
    case FIELD_TRAILER:
    case FIELD_TRANSFER_ENCODING:
    case FIELD_UPGRADE: return true;
    default: return false;
    }
}

static bool request_field_passes(enum http_id id, struct str name, const struct named *named, const struct head_forward *f) {
    switch (id) {
    case FIELD_OTHER:
        if (is_named(named, name) || begins(name, STR("proxy-"))) return false;
        return f->peer_trusted || !begins(name, STR("x-forwarded-"));
    case FIELD_HOST:
    case FIELD_EXPECT:
    case FIELD_X_REQUEST_ID:
    case FIELD_X_FORWARDED_FOR: return false; /* the endpoint gets ours */
    case FIELD_FORWARDED:
    case FIELD_X_FORWARDED_HOST:
    case FIELD_X_FORWARDED_PROTO: return f->peer_trusted;
    case FIELD_AUTHORIZATION:
    case FIELD_COOKIE:
    case FIELD_X_API_KEY: return !f->drop_credentials;
    default: return !is_hop_by_hop(id);
    }
}

static bool response_field_passes(enum http_id id, struct str name, const struct named *named, bool cors, bool event_stream) {
    switch (id) {
    case FIELD_OTHER:
        if (is_named(named, name) || begins(name, STR("proxy-")) || begins(name, STR("x-router-"))) return false;
        return !cors || !begins(name, STR("access-control-"));
    case FIELD_X_REQUEST_ID:
    case FIELD_X_ROUTER_POOL:
    case FIELD_X_ROUTER_ENDPOINT:
    case FIELD_X_ROUTER_AFFINITY: return false;
    case FIELD_X_ACCEL_BUFFERING: return !event_stream;
    case FIELD_AC_ALLOW_ORIGIN:
    case FIELD_AC_ALLOW_HEADERS:
    case FIELD_AC_ALLOW_METHODS:
    case FIELD_AC_ALLOW_CREDENTIALS:
    case FIELD_AC_EXPOSE_HEADERS:
    case FIELD_AC_MAX_AGE: return !cors;
    default: return !is_hop_by_hop(id);
    }
}

/* ---- requests ---- */

/* X-Forwarded-For is one list: what a trusted peer said, however many fields it took, then the peer itself. */
static char *put_forwarded_for(char *to, const struct http_head *in, const struct head_forward *f) {
    char *start = to;
    to = PUT(to, "X-Forwarded-For: ");
    char *list = to;
    for (unsigned i = in->first[FIELD_X_FORWARDED_FOR]; f->peer_trusted && i && i <= in->nfields; i++) {
        const struct http_field *field = &in->fields[i - 1];
        if (field->id != FIELD_X_FORWARDED_FOR || !field->value_len) continue;
        if (to != list) to = PUT(to, ", ");
        to = put(to, http_value(in, field));
    }
    if (f->client_ip.len) {
        if (to != list) to = PUT(to, ", ");
        to = put(to, f->client_ip);
    }
    return to == list ? start : PUT(to, "\r\n");
}

static char *put_forwarded(char *to, const struct http_head *in, const struct head_forward *f) {
    struct str host = http_get(in, FIELD_HOST);
    to = put_forwarded_for(to, in, f);
    if (!f->peer_trusted || !in->first[FIELD_X_FORWARDED_PROTO]) to = PUT(to, "X-Forwarded-Proto: http\r\n");
    if (host.len && (!f->peer_trusted || !in->first[FIELD_X_FORWARDED_HOST])) to = put_field(to, STR("X-Forwarded-Host"), host);
    return to;
}

void head_request_fields(struct buf *out, const struct http_head *in, const struct head_forward *f) {
    struct named named;
    find_named(in, &named);
    /* A field takes one byte more than it did at most: the blank behind its colon. Host may stand as X-Forwarded-Host instead. */
    char *to = buf_reserve(out, in->size + in->nfields + f->client_ip.len + f->request_id.len + FIXED_ROOM);
    if (!to) return;
    for (unsigned i = 0; i < in->nfields; i++) {
        const struct http_field *field = &in->fields[i];
        struct str name = http_name(in, field);
        if (request_field_passes((enum http_id)field->id, name, &named, f)) to = put_field(to, name, http_value(in, field));
    }
    to = put_forwarded(to, in, f);
    if (f->request_id.len) to = put_field(to, STR("X-Request-Id"), f->request_id);
    if (f->has_body) {
        to = PUT(to, "Content-Length: ");
        to = put_number(to, f->body_length);
        to = PUT(to, "\r\n");
    }
    to = PUT(to, "\r\n");
    commit(out, to);
}

void head_request_line(struct buf *out, struct str method, struct str base, struct str target, struct str host,
                       struct str api_key) {
    char *to = buf_reserve(out, method.len + base.len + target.len + host.len + api_key.len + FIXED_ROOM);
    if (!to) return;
    to = put(to, method);
    to = PUT(to, " ");
    to = put(to, base);
    /* An absolute-form target may have had no path, but a query. */
    if (!target.len || target.ptr[0] == '?') to = PUT(to, "/");
    to = put(to, target);
    to = PUT(to, " HTTP/1.1\r\n");
    to = put_field(to, STR("Host"), host);
    if (api_key.len) {
        to = PUT(to, "Authorization: Bearer ");
        to = put(to, api_key);
        to = PUT(to, "\r\n");
    }
    commit(out, to);
}

/* ---- responses ---- */

static char *put_status_line(char *to, int status, struct str reason) {
    to = PUT(to, "HTTP/1.1 ");
    *to++ = (char)('0' + status / 100 % 10);
    *to++ = (char)('0' + status / 10 % 10);
    *to++ = (char)('0' + status % 10);
    to = PUT(to, " ");
    to = put(to, reason);
    return PUT(to, "\r\n");
}

/* The endpoint's words if they are plain ones. */
static struct str reason_of(const struct http_head *in) {
    struct str reason = str_at(in->base, in->reason);
    bool plain = reason.len && reason.len <= REASON_MAX;
    for (size_t i = 0; plain && i < reason.len; i++)
        plain = (unsigned char)reason.ptr[i] >= 0x20 && (unsigned char)reason.ptr[i] < 0x7f;
    return plain ? reason : str_of(head_status_text(in->status));
}

static bool is_event_stream(const struct http_head *in) {
    struct str type;
    str_cut(http_get(in, FIELD_CONTENT_TYPE), ';', &type);
    return str_ieq(str_trim(type), STR("text/event-stream"));
}

/* Pages may read what we let them ask for, and every field of it: none of them is a secret (Fetch standard, CORS protocol). */
static char *put_cors(char *to, const struct head_cors *cors, bool varies) {
    if (!cors->allow_origin.len) return to;
    to = put_field(to, STR("Access-Control-Allow-Origin"), cors->allow_origin);
    to = PUT(to, "Access-Control-Expose-Headers: *\r\n");
    return cors->vary_origin && !varies ? PUT(to, "Vary: Origin\r\n") : to;
}

static char *put_connection(char *to, bool close, bool keep_alive_10) {
    if (close) return PUT(to, "Connection: close\r\n");
    return keep_alive_10 ? PUT(to, "Connection: keep-alive\r\n") : to;
}

static char *put_length(char *to, uint64_t length) {
    to = PUT(to, "Content-Length: ");
    to = put_number(to, length);
    return PUT(to, "\r\n");
}

static char *put_framing(char *to, const struct http_head *in, const struct head_relay *r) {
    switch (r->framing) {
    case FRAMING_LENGTH: return put_length(to, r->length);
    case FRAMING_CHUNKED: return PUT(to, "Transfer-Encoding: chunked\r\n");
    case FRAMING_NONE: /* of HEAD and 304 it tells what a GET would bring; 1xx and 204 may not have one (RFC 9110 8.6) */
        return in->has_length && in->status >= 200 && in->status != 204 ? put_length(to, in->length) : to;
    case FRAMING_CLOSE: break;
    }
    return to;
}

void head_response(struct buf *out, const struct http_head *in, const struct head_relay *r) {
    struct named named;
    bool cors = r->cors.allow_origin.len > 0, event_stream = is_event_stream(in);
    struct str reason = reason_of(in);
    find_named(in, &named);
    char *to = buf_reserve(out, in->size + in->nfields + r->request_id.len + r->cors.allow_origin.len + r->route.pool.len +
                                    r->route.endpoint.len + r->route.affinity.len + FIXED_ROOM);
    if (!to) return;
    to = put_status_line(to, in->status, reason);
    for (unsigned i = 0; i < in->nfields; i++) {
        const struct http_field *field = &in->fields[i];
        struct str name = http_name(in, field);
        if (response_field_passes((enum http_id)field->id, name, &named, cors, event_stream))
            to = put_field(to, name, http_value(in, field));
    }
    if (!in->first[FIELD_DATE]) to = put_field(to, STR("Date"), clock_http_date());
    if (r->request_id.len) to = put_field(to, STR("X-Request-Id"), r->request_id);
    if (cors)
        to = put_cors(to, &r->cors, http_has_token(in, FIELD_VARY, STR("origin")) || http_has_token(in, FIELD_VARY, STR("*")));
    to = put_config_field(to, STR("X-Router-Pool"), r->route.pool);
    to = put_config_field(to, STR("X-Router-Endpoint"), r->route.endpoint);
    to = put_config_field(to, STR("X-Router-Affinity"), r->route.affinity);
    if (r->retry_after_5 && !in->first[FIELD_RETRY_AFTER]) to = PUT(to, "Retry-After: 5\r\n");
    if (event_stream) to = PUT(to, "X-Accel-Buffering: no\r\n");
    to = put_framing(to, in, r);
    to = put_connection(to, r->close || r->framing == FRAMING_CLOSE, r->keep_alive_10);
    to = PUT(to, "\r\n");
    commit(out, to);
}

/* ---- our own ---- */

void head_reply(struct buf *out, const struct head_reply *r) {
    struct str body = r->head_only ? STR_NONE : r->body;
    char *to =
        buf_reserve(out, r->content_type.len + r->extra.len + r->request_id.len + r->cors.allow_origin.len + body.len + FIXED_ROOM);
    if (!to) return;
    to = put_status_line(to, r->status, str_of(head_status_text(r->status)));
    to = put_field(to, STR("Date"), clock_http_date());
    if (r->content_type.len) to = put_field(to, STR("Content-Type"), r->content_type);
    if (r->status != 204 && r->status != 304) to = put_length(to, r->body.len);
    to = put(to, r->extra);
    if (r->request_id.len) to = put_field(to, STR("X-Request-Id"), r->request_id);
    to = put_cors(to, &r->cors, false);
    to = put_connection(to, r->close, r->keep_alive_10);
    to = PUT(to, "\r\n");
    to = put(to, body);
    commit(out, to);
}

enum head_dialect head_dialect(struct str path) {
    if (str_starts(path, STR("/v1/messages"))) return DIALECT_ANTHROPIC;
    return str_starts(path, STR("/api/")) ? DIALECT_OLLAMA : DIALECT_OPENAI;
}

static const char *anthropic_type(int status) {
    switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status < 500 ? "invalid_request_error" : "api_error";
    }
}

static void put_message(struct buf *out, const struct why_row *row, struct str message) {
    buf_put_json(out, message.len ? message : str_of(row->text), MESSAGE_MAX);
}

static void anthropic_body(struct buf *out, const struct why_row *row, struct str message) {
    BUF_LIT(out, "{\"type\":\"error\",\"error\":{\"type\":\"");
    buf_puts(out, str_of(anthropic_type(row->status)));
    BUF_LIT(out, "\",\"message\":\"");
    put_message(out, row, message);
    BUF_LIT(out, "\"}}");
}

static void ollama_body(struct buf *out, const struct why_row *row, struct str message) {
    BUF_LIT(out, "{\"error\":\"");
    put_message(out, row, message);
    BUF_LIT(out, "\"}");
}

static void openai_body(struct buf *out, const struct why_row *row, struct str message) {
    BUF_LIT(out, "{\"error\":{\"message\":\"");
    put_message(out, row, message);
    BUF_LIT(out, "\",\"type\":\"");
    buf_puts(out, str_of(row->type));
    buf_puts(out, row->flags & WHY_PARAM_MODEL ? STR("\",\"param\":\"model\",\"code\":") : STR("\",\"param\":null,\"code\":"));
    if (*row->code) {
        buf_putc(out, '"');
        buf_puts(out, str_of(row->code));
        BUF_LIT(out, "\"}}");
    } else {
        BUF_LIT(out, "null}}");
    }
}

void head_error_body(struct buf *out, enum why why, enum head_dialect dialect, struct str message) {
    const struct why_row *row = why_row(why);
    switch (dialect) {
    case DIALECT_OPENAI: openai_body(out, row, message); break;
    case DIALECT_ANTHROPIC: anthropic_body(out, row, message); break;
    case DIALECT_OLLAMA: ollama_body(out, row, message); break;
    }
}

void head_error(struct buf *out, const struct head_error *e) {
    const struct why_row *row = why_row(e->why);
    struct buf body = {0}, extra = {0};
    assert(row->status); /* a row without one has nothing to say to a client */
    head_error_body(&body, e->why, e->dialect, e->message);
    buf_puts(&extra, e->extra);
    if (row->flags & WHY_RETRY_AFTER) {
        BUF_LIT(&extra, "Retry-After: ");
        buf_putu(&extra, e->retry_after > 0 ? (uint64_t)e->retry_after : 1);
        BUF_LIT(&extra, "\r\n");
    }
    if (row->flags & WHY_NO_RETRY) BUF_LIT(&extra, "x-should-retry: false\r\n");
    struct head_reply r = {
        .status = row->status,
        .content_type = STR("application/json"),
        .extra = buf_str(&extra),
        .body = buf_str(&body),
        .request_id = e->request_id,
        .cors = e->cors,
        .head_only = e->head_only,
        .close = e->close || row->flags & WHY_CLOSE,
        .keep_alive_10 = e->keep_alive_10,
    };
    head_reply(out, &r);
    out->failed |= body.failed || extra.failed;
    buf_free(&body);
    buf_free(&extra);
}

/* Two line ends close whatever event was open, in whatever line of it; one closes a line of NDJSON, where a second would be an
 * empty record that parsers choke on. */
void head_stream_error(struct buf *out, enum why why, enum head_dialect dialect, bool ndjson, bool open) {
    if (ndjson) {
        if (open) BUF_LIT(out, "\n");
        head_error_body(out, why, DIALECT_OLLAMA, STR_NONE);
        BUF_LIT(out, "\n");
        return;
    }
    if (open) BUF_LIT(out, "\n\n");
    if (dialect == DIALECT_ANTHROPIC) BUF_LIT(out, "event: error\n");
    BUF_LIT(out, "data: ");
    /* Ollama's own shape is of NDJSON; a stream of events is read by an OpenAI client, wherever it was asked for. */
    head_error_body(out, why, dialect == DIALECT_ANTHROPIC ? DIALECT_ANTHROPIC : DIALECT_OPENAI, STR_NONE);
    BUF_LIT(out, "\n\n");
}

bool head_request_id_ok(struct str id) {
    if (!id.len || id.len > 128) return false;
    for (size_t i = 0; i < id.len; i++) {
        char c = id.ptr[i], lower = (char)(c | 0x20);
        if ((lower < 'a' || lower > 'z') && (c < '0' || c > '9') && (!c || !strchr("._~:/+=@-", c))) return false;
    }
    return true;
}

const char *head_status_text(int status) {
    switch (status) {
    case 100: return "Continue";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 425: return "Too Early";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "";
    }
}

/* In any field of that name: an empty or harmless one before it hides nothing. */
bool head_encoded(const struct http_head *h) {
    for (unsigned i = h->first[FIELD_CONTENT_ENCODING] ? 0 : h->nfields; i < h->nfields; i++) {
        struct str value = http_value(h, &h->fields[i]);
        if (h->fields[i].id == FIELD_CONTENT_ENCODING && value.len && !str_ieq(value, STR("identity"))) return true;
    }
    return false;
}
