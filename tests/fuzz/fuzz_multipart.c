/* fuzz_multipart: a form, read whole, in eight pieces and byte by byte, must give the same; and what is let pass must hold no model
 * for a reader that knows no quotes and no heads, only delimiters and `;`, that was not counted.
 * In: seven bytes that say where to cut, a Content-Type, LF, the body. Each piece lies in a block of its own size. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "multipart.h"

#define CUTS 7

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static enum multipart_status piece(struct multipart *m, const char *data, size_t len) {
    char *copy = must_alloc(len + !len);
    if (len) memcpy(copy, data, len);
    enum multipart_status s = multipart_feed(m, copy, len);
    free(copy);
    check(s != MULTIPART_BAD || m->error, "BAD without words");
    return s;
}

/* cuts: ascending offsets; with each set instead, every byte comes alone (of a long body, up to 512 pieces). */
static enum multipart_status walk(struct multipart *m, const char *boundary, struct str body, const size_t *cuts, size_t ncuts,
                                  bool each) {
    size_t from = 0;
    enum multipart_status s = MULTIPART_MORE;
    multipart_begin(m, boundary);
    for (size_t step = body.len / 512 + 1; each && from < body.len && s != MULTIPART_BAD; from += step)
        s = piece(m, body.ptr + from, step < body.len - from ? step : body.len - from);
    for (size_t i = 0; !each && i <= ncuts && s != MULTIPART_BAD; i++) {
        size_t to = cuts && i < ncuts ? cuts[i] : body.len;
        s = piece(m, body.ptr + from, to - from);
        from = to;
    }
    if (s == MULTIPART_BAD) {
        check(multipart_feed(m, body.ptr, body.len) == MULTIPART_BAD, "BAD did not stay");
        check(m->at <= body.len, "more looked at than there was");
    } else {
        check(m->at == body.len, "not all was looked at");
    }
    enum multipart_status end = multipart_end(m);
    check(s == MULTIPART_BAD ? end == MULTIPART_BAD : (s == MULTIPART_DONE) == (end == MULTIPART_DONE),
          "the end and the feed differ");
    return end;
}

static void same(const struct multipart *a, const struct multipart *b) {
    size_t kept = a->model_len < MULTIPART_MODEL_MAX ? a->model_len : MULTIPART_MODEL_MAX;
    check(a->at == b->at && a->error == b->error, "the verdict hangs on the cuts");
    check(a->models == b->models && a->model_is_file == b->model_is_file, "the models hang on the cuts");
    check(a->model_off == b->model_off && a->model_len == b->model_len && a->model_too_long == b->model_too_long,
          "the place hangs on the cuts");
    check(memcmp(a->model, b->model, kept) == 0, "the value hangs on the cuts");
}

/* The name of a part as the plainest reader finds it: its Content-Disposition cut at every `;`, the first piece that begins with name=. */
static bool names_model(struct str head) {
    static const struct str disposition = {"content-disposition:", 20};
    struct str line = STR_NONE;
    while (head.len && !(line.len > disposition.len && str_ieq((struct str){line.ptr, disposition.len}, disposition)))
        head = str_cut(head, '\n', &line);
    if (line.len && line.ptr[line.len - 1] == '\r') line.len--;
    while (line.len) {
        struct str part, key;
        line = str_cut(line, ';', &part);
        struct str value = str_trim(str_cut(str_trim(part), '=', &key));
        if (!str_eq(str_trim(key), STR("name"))) continue;
        if (value.len >= 2 && value.ptr[0] == '"' && value.ptr[value.len - 1] == '"')
            value = (struct str){value.ptr + 1, value.len - 2};
        return str_ieq(value, STR("model"));
    }
    return false;
}

static const char *find(struct str s, const char *what) {
    return s.len ? memmem(s.ptr, s.len, what, strlen(what)) : NULL;
}

/* No line of a part may begin with a delimiter, whatever a line is, and none may end with one. */
static void inside(struct str part, const char *delim) {
    size_t n = strlen(delim);
    for (const char *at; (at = find(part, delim)); part.len -= (size_t)(at + 1 - part.ptr), part.ptr = at + 1) {
        check(at[-1] != '\r' && at[-1] != '\n', "a boundary at a line's start was let pass");
        check(at + n + 2 > part.ptr + part.len || memcmp(at + n, "\r\n", 2) != 0, "a boundary at a line's end was let pass");
    }
}

/* What was let pass, read once more. */
static void second_reading(const struct multipart *m, struct str body, const char *boundary) {
    char delim[MULTIPART_BOUNDARY_MAX + 5];
    unsigned models = 0;
    struct str rest;
    snprintf(delim, sizeof delim, "\r\n--%s", boundary);
    check(memcmp(body.ptr, delim + (body.ptr[0] == '-' ? 2 : 0), strlen(delim) - (body.ptr[0] == '-' ? 2 : 0)) == 0,
          "a preamble was let pass");
    rest = (struct str){body.ptr + strlen(delim) - (body.ptr[0] == '-' ? 2 : 0), 0};
    rest.len = body.len - (size_t)(rest.ptr - body.ptr);
    while (rest.len >= 2 && memcmp(rest.ptr, "\r\n", 2) == 0) {
        const char *blank = find(rest, "\r\n\r\n"), *next = find(rest, delim);
        check(next && blank && blank < next, "a part without an end was let pass");
        inside((struct str){rest.ptr + 2, (size_t)(next - rest.ptr) - 2}, delim + 2);
        struct str head = {rest.ptr, (size_t)(blank - rest.ptr)};
        if (names_model(head) && !models++) {
            check(m->model_off == (size_t)(blank + 4 - body.ptr), "the model begins elsewhere");
            check(next >= blank + 4 && m->model_len == (size_t)(next - blank) - 4, "the model ends elsewhere");
            check(m->model_too_long == (m->model_len > MULTIPART_MODEL_MAX), "too long or not");
            check(m->model_too_long || memcmp(m->model, blank + 4, m->model_len) == 0, "the model is another");
        }
        rest = (struct str){next + strlen(delim), (size_t)(body.ptr + body.len - next) - strlen(delim)};
    }
    check(rest.len >= 2 && memcmp(rest.ptr, "--", 2) == 0, "a form without its end was let pass");
    for (size_t i = 2; i < rest.len; i++)
        check(strchr("\r\n \t", rest.ptr[i]) && rest.ptr[i], "an epilogue was let pass");
    check(models == m->models, "a model was not counted");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct multipart whole, cut, each;
    char boundary[MULTIPART_BOUNDARY_MAX + 1];
    struct str body, type;
    size_t cuts[CUTS], last = 0;
    if (size < CUTS) return 0;
    body = str_cut((struct str){(const char *)data + CUTS, size - CUTS}, '\n', &type);
    if (!multipart_boundary(type, boundary)) return 0;
    check(*boundary && strlen(boundary) <= MULTIPART_BOUNDARY_MAX && find(type, boundary), "a boundary that was not given");
    for (size_t i = 0; i < CUTS; i++) {
        size_t at = body.len * data[i] / 256;
        cuts[i] = last = at > last ? at : last;
    }
    enum multipart_status s = walk(&whole, boundary, body, NULL, 0, false);
    check(walk(&cut, boundary, body, cuts, CUTS, false) == s, "the status hangs on the cuts");
    same(&whole, &cut);
    check(walk(&each, boundary, body, NULL, 0, true) == s, "the status hangs on the bytes");
    same(&whole, &each);
    if (s == MULTIPART_DONE) second_reading(&whole, body, boundary);
    return 0;
}
