/* events: HTTP bytes in, one text of all that http said about them out. The text does not hang on how the bytes were cut, so two
 * walks over the same bytes must give the same text. Used by the golden runner and the fuzz targets of http.
 * Every piece is handed over in a block of its own size, at a new place each time, so that a sanitizer sees each byte read
 * beyond it and each span that was not relative to the head. A broken promise of http.h aborts. */
#ifndef EVENTS_H
#define EVENTS_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "http.h"
#include "syntax.h"

#define CHECK(cond) ((cond) ? (void)0 : events_broken(#cond, __LINE__))

static inline void events_broken(const char *what, int line) {
    fprintf(stderr, "events.h:%d: broken: %s\n", line, what);
    abort();
}

struct events {
    struct buf text;
    struct buf body; /* of the message that is read, as it is */
    bool fields;     /* each field of a head is told too */
    bool in_body;    /* the last line is a body's and still open */
    bool skip;       /* bytes of bodies of known length go past http, as when the kernel moves them (http_skip) */
};

static inline void events_escape(struct buf *b, const char *p, size_t len) {
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '\r')
            BUF_LIT(b, "\\r");
        else if (c == '\n')
            BUF_LIT(b, "\\n");
        else if (c == '\\')
            BUF_LIT(b, "\\\\");
        else if (c < 0x20 || c >= 0x7f)
            buf_printf(b, "\\x%02x", c);
        else
            buf_putc(b, (char)c);
    }
}

static inline void events_line(struct events *e) {
    if (e->in_body) buf_putc(&e->text, '\n');
    e->in_body = false;
}

static inline void events_span(struct events *e, const char *base, struct span s) {
    buf_putc(&e->text, ' ');
    events_escape(&e->text, base + s.off, s.len);
}

/* What http.h promises of a head, whatever the bytes were. */
static inline void events_check_head(const struct http *h, const char *data, size_t len, size_t used) {
    const struct http_head *d = h->head;
    bool request = h->kind == MESSAGE_REQUEST;
    CHECK(d->base == data && d->size == used && used <= len && d->nfields <= HTTP_FIELDS_MAX && d->minor <= 1);
    CHECK(!(d->has_length && d->chunked) && !(d->chunked && !d->minor) && (d->has_length || !d->length));
    CHECK((size_t)d->target.off + d->target.len <= used && (size_t)d->path.off + d->path.len <= used);
    CHECK((size_t)d->reason.off + d->reason.len <= used && (size_t)d->method_text.off + d->method_text.len <= used);
    CHECK(request ? !d->status && !d->bodyless && !d->until_close : d->status >= 100 && d->status <= 599 && d->status != 101);
    CHECK(memcmp(data + used - 4, "\r\n\r\n", 4) == 0);
    for (size_t i = 0; i < used; i++) {
        CHECK(data[i] != '\r' || (i + 1 < used && data[i + 1] == '\n'));
        CHECK(data[i] != '\n' || (i && data[i - 1] == '\r' && (i + 1 == used || (data[i + 1] != ' ' && data[i + 1] != '\t'))));
        CHECK(data[i] != 0 && data[i] != 0x7f);
    }
    unsigned first[FIELD_COUNT] = {0};
    for (unsigned i = 0; i < d->nfields; i++) {
        const struct http_field *f = &d->fields[i];
        struct str name = http_name(d, f), value = http_value(d, f);
        CHECK((size_t)f->name_off + f->name_len < used && (size_t)f->value_off + f->value_len < used);
        CHECK(syntax_token(name) && f->id == field_id(name) && f->id < FIELD_COUNT);
        CHECK(str_eq(value, str_trim(value)));
        for (size_t k = 0; k < value.len; k++)
            CHECK(value.ptr[k] == '\t' || ((unsigned char)value.ptr[k] >= 0x20 && value.ptr[k] != 0x7f));
        if (f->id != FIELD_OTHER && !first[f->id]) first[f->id] = i + 1;
        CHECK(http_get_name(d, name).ptr != NULL);
    }
    for (unsigned id = 1; id < FIELD_COUNT; id++) {
        CHECK(d->first[id] == first[id] && http_get(d, (enum http_id)id).len <= used);
        CHECK(first[id] || !http_has_token(d, (enum http_id)id, STR("close")));
    }
    CHECK(!request || !d->minor || http_find(d, FIELD_HOST));
    bool body = d->until_close || ((d->chunked || d->length) && !d->bodyless);
    CHECK(h->ended == !body && h->left == (body && d->has_length ? d->length : 0));
}

static inline void events_head(struct events *e, const struct http *h) {
    const struct http_head *d = h->head;
    struct buf *b = &e->text;
    BUF_LIT(b, "head");
    if (h->kind == MESSAGE_REQUEST) {
        events_span(e, d->base, d->method_text);
        events_span(e, d->base, d->target);
        if (d->path.len != d->target.len) {
            BUF_LIT(b, " path");
            events_span(e, d->base, d->path);
        }
    } else {
        buf_printf(b, " %d", d->status);
        events_span(e, d->base, d->reason);
    }
    buf_printf(b, " 1.%d", d->minor);
    if (d->has_length) buf_printf(b, " length=%llu", (unsigned long long)d->length);
    if (d->chunked) BUF_LIT(b, " chunked");
    if (d->until_close) BUF_LIT(b, " until-close");
    if (d->bodyless) BUF_LIT(b, " bodyless");
    if (d->keep_alive)
        BUF_LIT(b, " keep");
    else
        BUF_LIT(b, " close");
    if (d->expect_continue) BUF_LIT(b, " expect-continue");
    if (d->expect_other) BUF_LIT(b, " expect-other");
    buf_putc(b, '\n');
    for (unsigned i = 0; e->fields && i < d->nfields; i++) {
        struct str name = http_name(d, &d->fields[i]), value = http_value(d, &d->fields[i]);
        BUF_LIT(b, "field ");
        events_escape(b, name.ptr, name.len);
        BUF_LIT(b, ": ");
        events_escape(b, value.ptr, value.len);
        buf_putc(b, '\n');
    }
}

static inline void events_data(struct events *e, const char *p, size_t len) {
    if (!e->in_body) BUF_LIT(&e->text, "body ");
    e->in_body = true;
    events_escape(&e->text, p, len);
    buf_put(&e->body, p, len);
}

static inline void events_body(struct events *e, const struct http *h, const char *data, size_t used) {
    const char *at = data;
    CHECK(h->nspans > 0 && h->nspans <= HTTP_SPANS_MAX);
    for (unsigned i = 0; i < h->nspans; i++) {
        const char *p = h->spans[i].iov_base;
        CHECK(p >= at && h->spans[i].iov_len > 0 && p + h->spans[i].iov_len <= data + used);
        at = p + h->spans[i].iov_len;
        events_data(e, p, h->spans[i].iov_len);
    }
}

/* Chunks read once more, in the plainest way: raw[0, len) was taken for a whole chunked body. */
static inline void events_check_chunks(struct str body, const char *raw, size_t len) {
    size_t at = 0, size, seen = 0;
    for (;;) {
        for (size = 0; at < len && strchr("0123456789abcdefABCDEF", raw[at]) && raw[at]; at++)
            size = size * 16 + (size_t)(raw[at] <= '9' ? raw[at] - '0' : (raw[at] | 0x20) - 'a' + 10);
        CHECK(at < len && (raw[at] == '\r' || raw[at] == ';'));
        while (at < len && raw[at] != '\r' && raw[at] != '\n')
            at++;
        CHECK(len - at >= 2 && raw[at] == '\r' && raw[at + 1] == '\n' && size <= len - at - 2);
        at += 2;
        CHECK(size <= body.len - seen && memcmp(body.ptr + seen, raw + at, size) == 0);
        seen += size;
        at += size;
        if (!size) break;
        CHECK(len - at >= 2 && raw[at] == '\r' && raw[at + 1] == '\n');
        at += 2;
    }
    CHECK(seen == body.len);
    while (len - at > 2) { /* trailers */
        const char *cr = memchr(raw + at, '\r', len - at);
        CHECK(cr && cr[1] == '\n' && cr > raw + at);
        struct str name, line = {raw + at, (size_t)(cr - raw) - at};
        str_cut(line, ':', &name);
        CHECK(syntax_token(name) && name.len < line.len);
        CHECK(!str_ieq(name, STR("Content-Length")) && !str_ieq(name, STR("Transfer-Encoding")) && !str_ieq(name, STR("Host")));
        at = (size_t)(cr - raw) + 2;
    }
    CHECK(len - at == 2 && raw[at] == '\r' && raw[at + 1] == '\n');
}

/* A message has ended: raw[0, len) is what came of it behind its head. */
static inline void events_end(struct events *e, const struct http *h, const char *raw, size_t len, const struct http_head *d) {
    struct str body = buf_str(&e->body);
    CHECK(h->ended && (h->left == 0 || d->bodyless));
    if (d->chunked && !d->bodyless)
        events_check_chunks(body, raw, len);
    else
        CHECK(body.len == len && (!len || memcmp(body.ptr, raw, len) == 0));
    if (d->has_length && !d->bodyless) CHECK(body.len == d->length);
    buf_free(&e->body);
    events_line(e);
    BUF_LIT(&e->text, "end\n");
}

static inline void events_bad(struct events *e, struct http *h, const char *data, size_t len) {
    size_t used = 0;
    CHECK((h->error == WHY_BAD_HTTP || h->error == WHY_BIG_HEAD) && h->text);
    CHECK(http_feed(h, data, len, &used) == GOT_BAD); /* it stays so */
    CHECK(!http_eof(h));
    events_line(e);
    buf_printf(&e->text, "%s %s\n", h->error == WHY_BIG_HEAD ? "big" : "bad", h->text);
}

/* One http_feed, on a copy of the bytes, or http_skip, told in e->text. Returns the event; *used is what it ate. */
static inline enum http_event events_step(struct events *e, struct http *h, const char *data, size_t n, size_t *used) {
    bool in_head = h->phase == 0;
    if (e->skip && h->left) {
        *used = n < h->left ? n : (size_t)h->left;
        events_data(e, data, *used);
        http_skip(h, *used);
        return GOT_BODY;
    }
    char *copy = must_alloc(n);
    memcpy(copy, data, n);
    *used = n + 1;
    enum http_event got = http_feed(h, copy, n, used);
    switch (got) {
    case GOT_MORE: CHECK(*used == (in_head ? 0 : n) && !h->ended && (!in_head || h->seen == n)); break;
    case GOT_HEAD:
        CHECK(in_head);
        events_check_head(h, copy, n, *used);
        events_head(e, h);
        break;
    case GOT_BODY:
        CHECK(!in_head && *used > 0 && *used <= n);
        events_body(e, h, copy, *used);
        break;
    case GOT_END: CHECK(!in_head && h->ended && *used > 0 && *used <= n); break;
    case GOT_BAD:
        CHECK(*used == 0 && !h->ended);
        events_bad(e, h, copy, n);
        break;
    }
    free(copy);
    return got;
}

/* Walks over data, which arrives in the pieces that end at cuts[0..ncuts) (ascending) and at len, and then, where eof is set,
 * the peer's end. Requests may follow each other; behind a final response whatever comes is the rest. */
static inline void events_walk(struct events *e, enum http_kind kind, bool head_answer, const char *data, size_t len,
                               const size_t *cuts, size_t ncuts, bool eof) {
    static struct http_head head;
    static struct iovec spans[HTTP_SPANS_MAX];
    struct http h;
    size_t from = 0, to = 0, body = 0, used = 0;
    bool fresh = true, final = false;
    enum http_event got = GOT_HEAD;
    for (size_t piece = 0; piece <= ncuts && !final && got != GOT_BAD; piece++) {
        to = piece < ncuts ? cuts[piece] : len;
        for (got = GOT_HEAD; from < to && !final && got != GOT_MORE && got != GOT_BAD; from += used) {
            if (fresh) {
                http_init(&h, kind, &head, spans);
                h.head_answer = head_answer;
                memset(&head, 0xa5, sizeof head);
                fresh = false;
            }
            got = events_step(e, &h, data + from, to - from, &used);
            if (got == GOT_HEAD) body = from + used;
            if (!h.ended) continue;
            events_end(e, &h, data + body, from + used - body, &head);
            fresh = true;
            final = kind == MESSAGE_RESPONSE && head.status >= 200;
        }
    }
    events_line(e);
    if (final && from < len) buf_printf(&e->text, "rest %zu\n", len - from);
    if (!fresh && got != GOT_BAD) {
        if (!eof)
            BUF_LIT(&e->text, "more\n");
        else if (http_eof(&h))
            events_end(e, &h, data + body, len - body, &head);
        else
            BUF_LIT(&e->text, "cut\n");
    }
    buf_free(&e->body);
}

#define EVENTS_PREFIX 8 /* bytes of a fuzz input before the message: one of flags, seven that say where to cut */

static inline void events_differ(const struct events *a, const struct events *b, const char *how) {
    if (str_eq(buf_str(&a->text), buf_str(&b->text))) return;
    fprintf(stderr, "whole:\n" STR_FMT "%s:\n" STR_FMT, STR_ARG(buf_str(&a->text)), how, STR_ARG(buf_str(&b->text)));
    abort();
}

/* A fuzz input, read whole, in up to eight pieces, and byte by byte (a long one in 512 steps): the same events each time. */
static inline void events_fuzz(enum http_kind kind, const uint8_t *input, size_t size) {
    struct events whole = {.fields = true}, cut = {.fields = true}, bytes = {.fields = true},
                  skipped = {.fields = true, .skip = true};
    size_t cuts[EVENTS_PREFIX - 1], ncuts = 0, each[512], neach = 0;
    if (size < EVENTS_PREFIX) return;
    bool eof = input[0] & 1, head_answer = kind == MESSAGE_RESPONSE && input[0] & 2;
    const char *data = (const char *)input + EVENTS_PREFIX;
    size_t len = size - EVENTS_PREFIX;
    events_walk(&whole, kind, head_answer, data, len, NULL, 0, eof);
    for (size_t last = 0; ncuts < EVENTS_PREFIX - 1; ncuts++) {
        size_t at = len * input[1 + ncuts] / 256;
        cuts[ncuts] = last = at > last ? at : last;
    }
    events_walk(&cut, kind, head_answer, data, len, cuts, ncuts, eof);
    events_differ(&whole, &cut, "in pieces");
    for (size_t step = len / 512 + 1; (neach + 1) * step < len; neach++)
        each[neach] = (neach + 1) * step;
    events_walk(&bytes, kind, head_answer, data, len, each, neach, eof);
    events_differ(&whole, &bytes, "byte by byte");
    events_walk(&skipped, kind, head_answer, data, len, cuts, ncuts, eof);
    events_differ(&whole, &skipped, "bodies skipped");
    buf_free(&whole.text);
    buf_free(&cut.text);
    buf_free(&bytes.text);
    buf_free(&skipped.text);
}
#endif
