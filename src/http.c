/* http: HTTP/1.x messages. In: bytes as they come. Out: a head as spans, body spans, an end, or what is wrong, in words.
 * Heads we judge ourselves, then llhttp must come to the same; chunks llhttp reads, its callbacks only record; other bodies pass it
 * by. Owns nothing: head and spans are the caller's. It must never accept what two parsers could read differently; strict, on every llhttp, are:
 *   bytes    syntax.c: CRLF only, no control bytes, no folding, token names, no blank before the colon, one empty line before
 *   start    known methods, origin form ("*", absolute, authority where they belong), HTTP/1.0 and 1.1, status 100 to 599, no 101
 *   framing  one CL, only digits, below 2^63; one TE, exactly `chunked`, never in 1.0, never with CL; llhttp must agree with us
 *   fields   at most 100, tiling the head; one Host on 1.1, host[:port]; one Content-Type, one Authorization in a request;
 *            Connection: tokens, none of which is an end-to-end field (cuts_end_to_end)
 *   chunks   one valued extension a chunk, the last, token or plain quoted; padding and trailers at most HTTP_TRAILER_MAX;
 *            no Content-Length, Transfer-Encoding or Host in a trailer; one order of refusals, however the bytes are cut */
#include "http.h"

#include <assert.h>
#include <string.h>

#include "syntax.h"

#define CHUNK_LINE 20 /* CRLF, 16 digits, CRLF: what framing between two runs of data may need; more counts as padding */

enum phase { PHASE_HEAD, PHASE_LENGTH, PHASE_CLOSE, PHASE_CHUNKS, PHASE_DATA, PHASE_TRAILER, PHASE_DONE, PHASE_BAD };
enum { EXT_NONE, EXT_NAME, EXT_TOKEN, EXT_QUOTED, EXT_CLOSED }; /* where in a chunk extension we are: in its name, its value */

/* What a person is told where more than one place finds it. */
static const char two_lengths[] = "more than one Content-Length, or one with Transfer-Encoding";
static const char bad_length[] = "a Content-Length that is not a number that fits";
static const char bad_coding[] = "a Transfer-Encoding other than 'chunked'";
static const char bad_chunk[] = "chunked framing that is broken";
static const char bad_trailer[] = "a trailer that belongs into the head";
static const char much_padding[] = "too many bytes of chunk extensions and trailers";
static const char two_readings[] = "a head that can be read in two ways";

static struct http *of(llhttp_t *p) {
    return (struct http *)p; /* its first member */
}

/* For a callback: what is wrong is noted, llhttp stops. */
static int refuse(struct http *h, enum why why, const char *text) {
    h->error = (uint8_t)why;
    h->text = text;
    return -1;
}

static enum http_event bad(struct http *h, enum why why, const char *text) {
    refuse(h, why, text);
    h->phase = PHASE_BAD;
    h->ended = false;
    return GOT_BAD;
}

/* ---- what llhttp tells ---- */

/* A head is split by us, and judged, before llhttp sees it: it must come to the same fields. */
static int head_name(struct http *h, const char *at, size_t len) {
    const struct http_field *f = &h->head->fields[h->told];
    if (!len) return 0;
    if (h->told == h->head->nfields || at != h->head->base + f->name_off || len != f->name_len)
        return refuse(h, WHY_BAD_HTTP, two_readings);
    h->told++;
    return 0;
}

static const struct str not_in_trailers[] = {{"content-length", 14}, {"transfer-encoding", 17}, {"host", 4}};

/* Trailer names are matched as they come, for nobody keeps their bytes: trailer_at bytes so far, which can still become
 * not_in_trailers[trailer_is - 1], or nothing of interest if 0. */
static int trailer_name(struct http *h, const char *at, size_t len) {
    for (size_t i = 0; i < len; i++) {
        char c = (char)syntax_lower(at[i]);
        if (!h->trailer_at) h->trailer_is = c == 'c' ? 1 : c == 't' ? 2 : c == 'h' ? 3 : 0;
        const struct str *name = h->trailer_is ? &not_in_trailers[h->trailer_is - 1] : NULL;
        if (name && (h->trailer_at >= name->len || name->ptr[h->trailer_at] != c)) h->trailer_is = 0;
        if (h->trailer_at < UINT8_MAX) h->trailer_at++;
    }
    return 0;
}

static int on_header_field(llhttp_t *p, const char *at, size_t len) {
    return of(p)->phase == PHASE_HEAD ? head_name(of(p), at, len) : trailer_name(of(p), at, len);
}

static int on_header_field_complete(llhttp_t *p) {
    struct http *h = of(p);
    if (h->phase != PHASE_TRAILER) return 0;
    if (h->trailer_is && h->trailer_at == not_in_trailers[h->trailer_is - 1].len) return refuse(h, WHY_BAD_HTTP, bad_trailer);
    h->trailer_at = h->trailer_is = 0;
    return 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t len) {
    struct http *h = of(p);
    struct str v = str_trim((struct str){at, len});
    if (h->phase != PHASE_HEAD || !v.len) return 0;
    const struct http_field *f = &h->head->fields[h->told ? h->told - 1 : 0];
    return v.ptr == h->head->base + f->value_off && v.len == f->value_len ? 0 : refuse(h, WHY_BAD_HTTP, two_readings);
}

static int on_headers_complete(llhttp_t *p) {
    p->upgrade = 0; /* offers of another protocol are ignored (RFC 9110 7.8) */
    return HPE_PAUSED;
}

/* Nothing may follow an extension that has a value: to llhttp 8 that is broken. */
static int on_chunk_extension_name(llhttp_t *p, const char *at, size_t len) {
    struct http *h = of(p);
    if (!len) return 0;
    if (h->valued || !syntax_token((struct str){at, len})) return refuse(h, WHY_BAD_HTTP, bad_chunk);
    h->ext = EXT_NAME;
    return 0;
}

static int on_chunk_extension_name_complete(llhttp_t *p) {
    struct http *h = of(p);
    if (h->ext != EXT_NAME) return refuse(h, WHY_BAD_HTTP, bad_chunk); /* an empty one */
    h->ext = EXT_NONE;
    return 0;
}

/* A token, or text in quotes without escapes: no more is common to all versions of llhttp. */
static int on_chunk_extension_value(llhttp_t *p, const char *at, size_t len) {
    struct http *h = of(p);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)at[i];
        if (h->ext == EXT_NONE && c == '"')
            h->ext = EXT_QUOTED;
        else if (h->ext == EXT_NONE && syntax_lower(at[i]))
            h->ext = EXT_TOKEN;
        else if (h->ext == EXT_QUOTED && c == '"')
            h->ext = EXT_CLOSED;
        else if (!(h->ext == EXT_TOKEN && syntax_lower(at[i])) && !(h->ext == EXT_QUOTED && c != '\\' && c >= 0x20 && c != 0x7f))
            return refuse(h, WHY_BAD_HTTP, bad_chunk);
    }
    return 0;
}

static int on_chunk_extension_value_complete(llhttp_t *p) {
    struct http *h = of(p);
    if (h->valued++ || (h->ext != EXT_TOKEN && h->ext != EXT_CLOSED)) return refuse(h, WHY_BAD_HTTP, bad_chunk);
    h->ext = EXT_NONE;
    return 0;
}

static int on_chunk_header(llhttp_t *p) {
    struct http *h = of(p);
    h->valued = h->ext = 0;
    h->phase = p->content_length ? PHASE_DATA : PHASE_TRAILER;
    return p->content_length ? 0 : HPE_PAUSED;
}

/* How many bytes of framing may still come before it is more than any honest sender needs. */
static size_t framing_left(const struct http *h) {
    return CHUNK_LINE + HTTP_TRAILER_MAX - h->extra - h->seen;
}

/* Framing up to `to` has been looked at. */
static void count_framing(struct http *h, const char *to) {
    h->seen += (uint32_t)(to - h->feed_base);
    h->feed_base = to;
}

static int on_body(llhttp_t *p, const char *at, size_t len) {
    struct http *h = of(p);
    if (!len) return 0;
    count_framing(h, at);
    if (h->seen > CHUNK_LINE) h->extra += h->seen - CHUNK_LINE;
    h->seen = 0;
    h->feed_base = at + len;
    assert(h->nspans < HTTP_SPANS_MAX && h->extra <= HTTP_TRAILER_MAX);
    h->spans[h->nspans++] = (struct iovec){(void *)(uintptr_t)at, len};
    return 0;
}

static int on_chunk_complete(llhttp_t *p) {
    struct http *h = of(p);
    if (h->phase == PHASE_DATA) h->phase = PHASE_CHUNKS;
    return h->nspans == HTTP_SPANS_MAX ? HPE_PAUSED : 0;
}

static int on_message_complete(llhttp_t *p) {
    of(p)->ended = true;
    return HPE_PAUSED;
}

/* llhttp asks each callback there is, if only to be told that there is nothing to do: a head has few of them. */
static const llhttp_settings_t head_settings = {
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
};

static const llhttp_settings_t chunk_settings = {
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_chunk_extension_name = on_chunk_extension_name,
    .on_chunk_extension_name_complete = on_chunk_extension_name_complete,
    .on_chunk_extension_value = on_chunk_extension_value,
    .on_chunk_extension_value_complete = on_chunk_extension_value_complete,
    .on_chunk_header = on_chunk_header,
    .on_chunk_complete = on_chunk_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* What llhttp found wrong with what we found good, in words that are the same for all its versions. */
static enum http_event llhttp_says(struct http *h, llhttp_errno_t err) {
    if (h->text) return bad(h, (enum why)h->error, h->text); /* it was a callback of ours */
    if (h->phase != PHASE_HEAD) return bad(h, WHY_BAD_HTTP, h->phase == PHASE_TRAILER ? bad_trailer : bad_chunk);
    switch (err) {
    case HPE_INVALID_METHOD:
    case HPE_INVALID_CONSTANT: /* a method of RTSP's */
    case HPE_INVALID_VERSION: /* HTTP/2's own */ return bad(h, WHY_BAD_HTTP, "an unknown method");
    case HPE_INVALID_CONTENT_LENGTH: return bad(h, WHY_BAD_HTTP, bad_length);
    case HPE_INVALID_TRANSFER_ENCODING: return bad(h, WHY_BAD_HTTP, bad_coding);
    default: return bad(h, WHY_BAD_HTTP, two_readings);
    }
}

/* ---- the head ---- */

struct str http_get(const struct http_head *h, enum http_id id) {
    const struct http_field *f = http_find(h, id);
    return f ? http_value(h, f) : STR_NONE;
}

struct str http_get_name(const struct http_head *h, struct str name) {
    enum http_id id = field_id(name);
    if (id != FIELD_OTHER) return http_get(h, id);
    for (unsigned i = 0; i < h->nfields; i++)
        if (str_ieq(http_name(h, &h->fields[i]), name)) return http_value(h, &h->fields[i]);
    return STR_NONE;
}

bool http_has_token(const struct http_head *h, enum http_id id, struct str token) {
    for (unsigned i = h->first[id] ? h->first[id] - 1u : h->nfields; i < h->nfields; i++) {
        if (h->fields[i].id != id) continue;
        struct str rest = http_value(h, &h->fields[i]), item;
        while (str_next(&rest, &item))
            if (str_ieq(item, token)) return true;
    }
    return false;
}

static uint8_t method_of(struct str m) {
    static const struct {
        struct str text;
        uint8_t method;
    } known[] = {{{"POST", 4}, METHOD_POST},       {{"GET", 3}, METHOD_GET},         {{"HEAD", 4}, METHOD_HEAD},
                 {{"OPTIONS", 7}, METHOD_OPTIONS}, {{"PUT", 3}, METHOD_PUT},         {{"DELETE", 6}, METHOD_DELETE},
                 {{"PATCH", 5}, METHOD_PATCH},     {{"CONNECT", 7}, METHOD_CONNECT}, {{"TRACE", 5}, METHOD_TRACE}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_eq(m, known[i].text)) return known[i].method;
    return METHOD_OTHER;
}

static struct span span_of(const struct http_head *head, struct str s) {
    return (struct span){(uint32_t)(s.ptr - head->base), (uint32_t)s.len};
}

/* data[0, end) ends with the start line's CRLF. */
static const char *start_line(struct http *h, const char *data, size_t end) {
    struct http_head *head = h->head;
    size_t skip = data[0] == '\r' ? 2 : 0; /* the empty line before it */
    struct str line = {data + skip, end - 2 - skip};
    if (h->kind == MESSAGE_RESPONSE) {
        struct syntax_status s;
        const char *text = syntax_status_line(line, &s);
        if (text) return text;
        if (s.status == 101) return "a switch of protocols nobody asked for";
        head->status = s.status;
        head->minor = s.minor;
        head->reason = span_of(head, s.reason);
        return NULL;
    }
    struct syntax_request r;
    struct str origin, path;
    const char *text = syntax_request_line(line, &r);
    if (!text) text = syntax_target(r.method, r.target, &origin);
    if (text) return text;
    str_cut(origin, '?', &path);
    head->minor = r.minor;
    head->method = method_of(r.method);
    head->method_text = span_of(head, r.method);
    head->target = span_of(head, origin);
    head->path = span_of(head, path);
    return NULL;
}

/* The head's next field has a line at `at`. */
static void line_begins(struct http_head *head, size_t at) {
    if (head->nfields < HTTP_FIELDS_MAX) head->fields[head->nfields].name_off = (uint32_t)at;
}

/* Its colon is before `at`. What there is too much of is told when all of the head is sound. */
static void name_ends(struct http *h, size_t at) {
    struct http_head *head = h->head;
    if (head->nfields == HTTP_FIELDS_MAX) {
        if (!h->text) h->text = "more than 100 header fields";
        return;
    }
    struct http_field *f = &head->fields[head->nfields];
    size_t len = at - 1 - f->name_off;
    if (len > UINT16_MAX && !h->text) h->text = "a header name that is too long";
    f->name_len = (uint16_t)len;
    f->value_off = (uint32_t)at;
}

/* Its CR is before `at`. */
static void value_ends(struct http_head *head, size_t at) {
    if (head->nfields == HTTP_FIELDS_MAX) return;
    struct http_field *f = &head->fields[head->nfields++];
    struct str v = str_trim((struct str){head->base + f->value_off, at - 1 - f->value_off});
    f->value_off = (uint32_t)(v.ptr - head->base);
    f->value_len = (uint32_t)v.len;
    f->id = (uint8_t)field_id(http_name(head, f));
    if (f->id != FIELD_OTHER && !head->first[f->id]) head->first[f->id] = (uint8_t)head->nfields;
    line_begins(head, at + 1);
}

static bool repeated(const struct http_head *head, enum http_id id) {
    for (unsigned i = head->first[id]; i && i < head->nfields; i++)
        if (head->fields[i].id == id) return true;
    return false;
}

static const char *check_framing(struct http_head *head) {
    bool length = head->first[FIELD_CONTENT_LENGTH], coding = head->first[FIELD_TRANSFER_ENCODING];
    if ((length && coding) || repeated(head, FIELD_CONTENT_LENGTH)) return two_lengths;
    if (repeated(head, FIELD_TRANSFER_ENCODING)) return "more than one Transfer-Encoding";
    if (length && !str_uint(http_get(head, FIELD_CONTENT_LENGTH), INT64_MAX, &head->length)) return bad_length;
    if (coding && !str_ieq(http_get(head, FIELD_TRANSFER_ENCODING), STR("chunked"))) return bad_coding;
    if (coding && head->minor == 0) return "a Transfer-Encoding in HTTP/1.0";
    head->has_length = length;
    head->chunked = coding;
    return NULL;
}

/* Fields that travel to the other end, so that nobody in between may have them dropped (RFC 9110 7.6.1): all we know by name
 * but the hop-by-hop ones. */
static bool cuts_end_to_end(struct str name) {
    static const struct str prefix = {"x-forwarded-", 12};
    switch (field_id(name)) {
    case FIELD_CONNECTION:
    case FIELD_KEEP_ALIVE:
    case FIELD_PROXY_AUTHENTICATE:
    case FIELD_PROXY_AUTHORIZATION:
    case FIELD_PROXY_CONNECTION:
    case FIELD_TE:
    case FIELD_TRAILER:
    case FIELD_UPGRADE:
    case FIELD_HTTP2_SETTINGS: return false;
    case FIELD_OTHER: return name.len > prefix.len && str_ieq((struct str){name.ptr, prefix.len}, prefix);
    default: return true;
    }
}

static const char *check_connection(struct http_head *head) {
    bool close = false, keep = false;
    for (unsigned i = head->first[FIELD_CONNECTION]; i && i <= head->nfields; i++) {
        if (head->fields[i - 1].id != FIELD_CONNECTION) continue;
        struct str rest = http_value(head, &head->fields[i - 1]), item;
        while (str_next(&rest, &item)) {
            if (!syntax_token(item)) return "a Connection field that is not a list of tokens";
            if (str_ieq(item, STR("close")))
                close = true;
            else if (str_ieq(item, STR("keep-alive")))
                keep = true;
            else if (cuts_end_to_end(item))
                return "a Connection field that names a header meant for the other end";
        }
    }
    head->keep_alive = !close && (head->minor || keep);
    return NULL;
}

static const char *check_request(struct http_head *head) {
    if (!head->first[FIELD_HOST] && head->minor) return "no Host field";
    if (repeated(head, FIELD_HOST)) return "more than one Host field";
    if (head->first[FIELD_HOST] && !syntax_host(http_get(head, FIELD_HOST))) return "a Host that is not host or host:port";
    if (repeated(head, FIELD_CONTENT_TYPE)) return "more than one Content-Type field";
    if (repeated(head, FIELD_AUTHORIZATION)) return "more than one Authorization field";
    for (unsigned i = head->first[FIELD_EXPECT]; i && i <= head->nfields; i++) {
        if (head->fields[i - 1].id != FIELD_EXPECT) continue;
        struct str rest = http_value(head, &head->fields[i - 1]), item;
        while (str_next(&rest, &item)) {
            if (!str_ieq(item, STR("100-continue")))
                head->expect_other = true;
            else if (head->minor) /* in 1.0 it has no meaning (RFC 9110 10.1.1) */
                head->expect_continue = true;
        }
    }
    return NULL;
}

/* llhttp has read all of the head: it must have read the same. */
static bool same_reading(const struct http *h, const struct http_head *head) {
    const llhttp_t *p = &h->parser;
    if (llhttp_get_error_pos(p) != head->base + head->size || h->told != head->nfields) return false;
    if (p->http_major != 1 || p->http_minor != head->minor) return false;
    if (h->kind == MESSAGE_RESPONSE && p->status_code != head->status) return false;
    if (head->has_length != !!(p->flags & F_CONTENT_LENGTH) || head->chunked != !!(p->flags & F_CHUNKED)) return false;
    return !head->has_length || p->content_length == head->length;
}

static void choose_body(struct http *h, struct http_head *head) {
    h->seen = 0;
    if (h->kind == MESSAGE_RESPONSE) {
        head->bodyless = h->head_answer || head->status < 200 || head->status == 204 || head->status == 304;
        head->until_close = !head->bodyless && !head->has_length && !head->chunked;
        if (head->until_close) head->keep_alive = false;
    }
    if (head->until_close)
        h->phase = PHASE_CLOSE;
    else if (head->chunked && !head->bodyless)
        h->phase = PHASE_CHUNKS, h->parser.settings = (void *)(uintptr_t)&chunk_settings;
    else if (head->length && !head->bodyless)
        h->phase = PHASE_LENGTH, h->left = head->length;
    else
        h->phase = PHASE_DONE, h->ended = true;
}

/* The head ends where data[0, size) does. */
static enum http_event head_whole(struct http *h, size_t size, size_t *used) {
    struct http_head *head = h->head;
    head->size = (uint32_t)size;
    if (h->text) return bad(h, WHY_BIG_HEAD, h->text);
    const char *text = check_framing(head);
    if (!text) text = check_connection(head);
    if (!text && h->kind == MESSAGE_REQUEST) text = check_request(head);
    if (text) return bad(h, WHY_BAD_HTTP, text);
    llhttp_errno_t err = llhttp_execute(&h->parser, head->base, size);
    if (err != HPE_PAUSED) return llhttp_says(h, err);
    if (h->kind == MESSAGE_REQUEST && h->parser.method > HTTP_SOURCE)
        return bad(h, WHY_BAD_HTTP, "an unknown method"); /* one that only later versions of llhttp know */
    if (!same_reading(h, head)) return bad(h, WHY_BAD_HTTP, two_readings);
    llhttp_resume(&h->parser);
    choose_body(h, head);
    *used = size;
    return GOT_HEAD;
}

/* llhttp sees a head only when all of it is there and we found nothing wrong, so what is refused first never hangs on how the
 * bytes were cut, nor on llhttp's version. */
static enum http_event feed_head(struct http *h, const char *data, size_t len, size_t *used) {
    struct http_head *head = h->head;
    size_t at = h->seen;
    const char *text = NULL;
    if (at >= len) return GOT_MORE;
    if (!at) memset(head, 0, offsetof(struct http_head, fields));
    head->base = data;
    for (;;) {
        switch (syntax_scan(&h->line_state, data, len, &at, &text)) {
        case SYNTAX_GOT_MORE: h->seen = (uint32_t)at; return GOT_MORE;
        case SYNTAX_GOT_LINE:
            text = start_line(h, data, at);
            if (text) return bad(h, WHY_BAD_HTTP, text);
            line_begins(head, at);
            break;
        case SYNTAX_GOT_NAME: name_ends(h, at); break;
        case SYNTAX_GOT_VALUE: value_ends(head, at); break;
        case SYNTAX_GOT_END: return head_whole(h, at, used);
        case SYNTAX_GOT_BAD: return bad(h, WHY_BAD_HTTP, text);
        }
    }
}

/* ---- bodies ---- */

/* All of it is body: no parser need look at it. */
static enum http_event feed_plain(struct http *h, const char *data, size_t len, size_t *used) {
    if (!len) return GOT_MORE;
    if (h->phase == PHASE_LENGTH) {
        if (len > h->left) len = (size_t)h->left;
        h->left -= len;
        h->ended = !h->left;
    }
    if (h->ended) h->phase = PHASE_DONE;
    h->spans[h->nspans++] = (struct iovec){(void *)(uintptr_t)data, len};
    *used = len;
    return GOT_BODY;
}

/* One run of llhttp: over trailers as far as their bytes are sound, else over data and framing, and no further than one byte more
 * of framing than there may be. So what is refused first hangs on where it stands, not on how the bytes were cut. Moves *at. */
static enum http_event chunk_step(struct http *h, const char **at, const char *end) {
    enum syntax_got got = SYNTAX_GOT_MORE;
    const char *text = NULL;
    size_t n = (size_t)(end - *at), may = framing_left(h) + 1, sound = 0;
    uint64_t data = h->phase == PHASE_DATA ? h->parser.content_length : 0;
    if (n > may && n - may > data) n = (size_t)data + may;
    if (h->phase == PHASE_TRAILER) {
        do
            got = syntax_scan(&h->line_state, *at, n, &sound, &text);
        while (got == SYNTAX_GOT_NAME || got == SYNTAX_GOT_VALUE);
        n = sound;
    }
    llhttp_errno_t err = llhttp_execute(&h->parser, *at, n);
    if (err != HPE_OK && err != HPE_PAUSED) return llhttp_says(h, err);
    *at = err == HPE_OK ? *at + n : llhttp_get_error_pos(&h->parser);
    llhttp_resume(&h->parser);
    if (got == SYNTAX_GOT_BAD) return bad(h, WHY_BAD_HTTP, text);
    count_framing(h, *at);
    if (h->seen > CHUNK_LINE && h->seen - CHUNK_LINE > HTTP_TRAILER_MAX - h->extra) return bad(h, WHY_BAD_HTTP, much_padding);
    if (h->ended != (got == SYNTAX_GOT_END)) return bad(h, WHY_BAD_HTTP, bad_chunk);
    return GOT_MORE;
}

static enum http_event feed_chunks(struct http *h, const char *data, size_t len, size_t *used) {
    const char *at = data, *end = data + len;
    h->feed_base = data;
    while (at < end && !h->ended && h->nspans < HTTP_SPANS_MAX) {
        if (chunk_step(h, &at, end) != GOT_BAD) continue;
        if (!h->nspans) return GOT_BAD;
        const struct iovec *last = &h->spans[h->nspans - 1]; /* the data before it is given first, the refusal in the next call */
        *used = (size_t)((const char *)last->iov_base + last->iov_len - data);
        return GOT_BODY;
    }
    *used = (size_t)(at - data);
    if (h->ended) h->phase = PHASE_DONE;
    return h->nspans ? GOT_BODY : h->ended ? GOT_END : GOT_MORE;
}

/* ---- */

void http_init(struct http *h, enum http_kind kind, struct http_head *head, struct iovec *spans) {
    *h = (struct http){.head = head, .spans = spans, .kind = (uint8_t)kind};
    h->line_state = kind == MESSAGE_REQUEST ? SYNTAX_REQUEST : SYNTAX_RESPONSE;
    llhttp_init(&h->parser, kind == MESSAGE_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &head_settings);
}

enum http_event http_feed(struct http *h, const char *data, size_t len, size_t *used) {
    *used = 0;
    h->nspans = 0;
    switch ((enum phase)h->phase) {
    case PHASE_HEAD: return feed_head(h, data, len, used);
    case PHASE_LENGTH:
    case PHASE_CLOSE: return feed_plain(h, data, len, used);
    case PHASE_CHUNKS:
    case PHASE_DATA:
    case PHASE_TRAILER: return feed_chunks(h, data, len, used);
    case PHASE_DONE: return GOT_END;
    case PHASE_BAD: break;
    }
    return GOT_BAD;
}

bool http_eof(struct http *h) {
    if (h->phase == PHASE_CLOSE) {
        h->phase = PHASE_DONE;
        h->ended = true;
    }
    return h->ended;
}

void http_skip(struct http *h, uint64_t n) {
    assert(h->phase == PHASE_LENGTH && n <= h->left);
    h->left -= n;
    if (h->left) return;
    h->ended = true;
    h->phase = PHASE_DONE;
}
