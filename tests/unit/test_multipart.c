/* multipart: which forms are read, where the model lies, and what is refused because two parsers could read it differently. */
#include "unit.h"

#include "multipart.h"

#define CD    "Content-Disposition: form-data; "
#define MODEL "--xyz\r\n" CD "name=\"model\"\r\n\r\nwhisper-1\r\n"
#define OPEN  "--xyz\r\n" CD "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
#define FIL   OPEN "RIFF\r\n"
#define END   "--xyz--\r\n"

static struct multipart m;

/* A read of exactly these bytes, for the sanitizer. */
static enum multipart_status feed(const char *data, size_t len) {
    char *copy = must_alloc(len + !len);
    if (len) memcpy(copy, data, len);
    enum multipart_status s = multipart_feed(&m, copy, len);
    free(copy);
    return s;
}

static enum multipart_status whole(const char *boundary, struct str body) {
    multipart_begin(&m, boundary);
    feed(body.ptr, body.len);
    return multipart_end(&m);
}

static void same_as(const struct multipart *first, enum multipart_status s, enum multipart_status got) {
    assert_int_equal(s, got);
    assert_int_equal(first->at, m.at);
    assert_ptr_equal(first->error, m.error);
    assert_int_equal(first->models, m.models);
    assert_int_equal(first->model_off, m.model_off);
    assert_int_equal(first->model_len, m.model_len);
    assert_int_equal(first->model_is_file, m.model_is_file);
    assert_int_equal(first->model_too_long, m.model_too_long);
    assert_memory_equal(first->model, m.model, m.model_len < MULTIPART_MODEL_MAX ? m.model_len : MULTIPART_MODEL_MAX);
}

/* Whole, in two pieces cut at every offset, byte by byte: each time the same, which is returned. */
static enum multipart_status every_way(const char *boundary, struct str body) {
    enum multipart_status s = whole(boundary, body);
    struct multipart first = m;
    for (size_t at = 0; at <= body.len; at++) {
        multipart_begin(&m, boundary);
        feed(body.ptr, at);
        feed(body.ptr + at, body.len - at);
        same_as(&first, s, multipart_end(&m));
    }
    multipart_begin(&m, boundary);
    for (size_t i = 0; i < body.len; i++)
        feed(body.ptr + i, 1);
    same_as(&first, s, multipart_end(&m));
    return s;
}

static void good(const char *form, unsigned models, const char *model) {
    assert_int_equal(every_way("xyz", str_of(form)), MULTIPART_DONE);
    assert_null(m.error);
    assert_int_equal(m.at, strlen(form));
    assert_int_equal(m.models, models);
    if (!model) return;
    assert_int_equal(m.model_len, strlen(model));
    assert_memory_equal(m.model, model, m.model_len);
    assert_memory_equal(form + m.model_off, model, m.model_len);
    assert_memory_equal(form + m.model_off + m.model_len, "\r\n--", 4);
}

static void refused(const char *form, const char *word) {
    assert_int_equal(every_way("xyz", str_of(form)), MULTIPART_BAD);
    assert_non_null(m.error);
    if (!strstr(m.error, word)) fail_msg("'%s' does not say '%s'", m.error, word);
    assert_int_equal(multipart_feed(&m, "x", 1), MULTIPART_BAD);
    assert_int_equal(multipart_end(&m), MULTIPART_BAD);
}

static void one_part(const char *disposition, unsigned models, const char *model, bool file) {
    char form[4096];
    snprintf(form, sizeof form, "--xyz\r\nContent-Disposition:%s\r\n\r\nwhisper-1\r\n" END, disposition);
    good(form, models, model);
    assert_int_equal(m.model_is_file, file);
}

static void bad_part(const char *disposition) {
    char form[4096];
    snprintf(form, sizeof form, "--xyz\r\nContent-Disposition: %s\r\n\r\nwhisper-1\r\n" END, disposition);
    refused(form, "Content-Disposition");
}

static void bad_head(const char *head, const char *word) {
    char form[4096];
    snprintf(form, sizeof form, "--xyz\r\n" CD "name=\"model\"\r\n%s\r\n\r\nwhisper-1\r\n" END, head);
    refused(form, word);
}

static void test_model_anywhere(void **state) {
    (void)state;
    good(MODEL FIL END, 1, "whisper-1");
    good(FIL MODEL END, 1, "whisper-1");
    good(FIL MODEL FIL END, 1, "whisper-1");
    good(FIL END, 0, NULL);
    good("--xyz--", 0, NULL);
    good("--xyz--\r\n", 0, NULL);
    good("--xyz--\r\n \t\r\n", 0, NULL);
    good("\r\n" MODEL END, 1, "whisper-1");
    good("--xyz\r\nX-Other: (;\"\r\ncontent-DISPOSITION:Form-Data;name=model\r\n\r\nm\r\n" END, 1, "m");
}

static void test_values(void **state) {
    (void)state;
    good("--xyz\r\n" CD "name=\"model\"\r\n\r\n\r\n" END, 1, "");
    good("--xyz\r\n" CD "name=\"model\"\r\n\r\na\r\n--xy\r\n\r\r\n" END, 1, "a\r\n--xy\r\n\r");
    good("--xyz\r\n" CD "name=\"model\"\r\n\r\na--xy\r\n" END, 1, "a--xy");
    good("--xyz\r\n" CD "name=\"model\"\r\n\r\n\r\n\n\r-\r\n" END, 1, "\r\n\n\r-");
    struct str nul = STR("--xyz\r\n" CD "name=\"model\"\r\n\r\na\0b\r\n" END);
    assert_int_equal(every_way("xyz", nul), MULTIPART_DONE);
    assert_int_equal(m.model_len, 3);
    assert_memory_equal(m.model, "a\0b", 3);
}

static void test_more_models(void **state) {
    (void)state;
    good(MODEL FIL MODEL END, 2, "whisper-1");
    assert_int_equal(m.model_off, strlen("--xyz\r\n" CD "name=\"model\"\r\n\r\n"));
    good(MODEL "--xyz\r\n" CD "name=\"MODEL\"\r\n\r\nx\r\n" MODEL END, 3, "whisper-1");
    assert_false(m.model_is_file);
    good(MODEL "--xyz\r\n" CD "name=model; filename=x\r\n\r\nx\r\n" END, 2, "whisper-1");
    assert_true(m.model_is_file);
    good("--xyz\r\n" CD "name=\"models\"\r\n\r\nx\r\n--xyz\r\n" CD "name=\"mode\"\r\n\r\nx\r\n--xyz\r\n" CD
         "name=\"\"\r\n\r\nx\r\n" END,
         0, NULL);
}

static void test_model_length(void **state) {
    char form[4096], name[MULTIPART_MODEL_MAX + 2];
    (void)state;
    for (size_t n = MULTIPART_MODEL_MAX - 1; n <= MULTIPART_MODEL_MAX + 1; n++) {
        for (size_t i = 0; i < n; i++)
            name[i] = (char)('a' + i % 26);
        name[n] = 0;
        snprintf(form, sizeof form, "--xyz\r\n" CD "name=\"model\"\r\n\r\n%s\r\n" END, name);
        assert_int_equal(every_way("xyz", str_of(form)), MULTIPART_DONE);
        assert_int_equal(m.model_len, n);
        assert_int_equal(m.model_too_long, n > MULTIPART_MODEL_MAX);
        assert_memory_equal(m.model, name, n < MULTIPART_MODEL_MAX ? n : MULTIPART_MODEL_MAX);
    }
}

static void test_dispositions(void **state) {
    (void)state;
    one_part(" form-data; name=\"model\"", 1, "whisper-1", false);
    one_part("form-data;name=model;", 1, "whisper-1", false);
    one_part("\t form-data \t;\tname=\"model\" ; x=y ;", 1, "whisper-1", false);
    one_part(" form-data; x=\"a,b\"; name=\"model\"", 1, "whisper-1", false);
    one_part(" form-data; name=\"model\"; filename=\"\"", 1, "whisper-1", true);
    one_part(" form-data; name=\"model\"; filename*=utf-8''x", 1, "whisper-1", true);
    one_part(" form-data; name=file; filename=a.wav; filename*=utf-8''a.wav", 0, NULL, false);
    one_part(" form-data; name=\"f\"; filename=\"C:\\x\\y; name=model\"", 0, NULL, false);
    one_part(" form-data; filename=\"a b\"; size=3; name=\"f\"", 0, NULL, false);
    one_part(" form-data; name=\"f\"; filename=\"\xc3\xa9\"", 0, NULL, false);
}

static void test_dispositions_refused(void **state) {
    (void)state;
    bad_part("attachment; name=\"model\"");
    bad_part("form-data");
    bad_part("form-data; filename=\"a\"");
    bad_part("; name=\"model\"");
    bad_part("form-data, name=\"model\"");
    bad_part("form-data; name");
    bad_part("form-data; name=");
    bad_part("form-data; name=;");
    bad_part("form-data; =model");
    bad_part("form-data; name =model");
    bad_part("form-data; name= model");
    bad_part("form-data; name=\"model");
    bad_part("form-data; name=\"model\"x");
    bad_part("form-data; name=\"model\" x");
    bad_part("form-data; name=<model>");
    bad_part("form-data; ; name=\"model\"");
    bad_part("form-data; name=\"file\"; name=\"model\"");
    bad_part("form-data; name=\"file\"; NAME=\"model\"");
    bad_part("form-data; name=\"f\"; filename=a; filename=b");
    bad_part("form-data; name=\"f\"; filename*=a; filename*=b");
    bad_part("form-data; name*=utf-8''model");
    bad_part("form-data; name*0=mo; name*1=del");
    bad_part("form-data; name=\"f\"; name*=utf-8''model");
    bad_part("form-data; name=\"f\"; filename*0=a");
    bad_part("form-data; name=\"mod\\el\"");
    bad_part("form-data; name=\"f\"; filename=\"a\\\"; name=\\\"model\"");
    bad_part("form-data; name=\"f\"; filename=\"a\\\\\"; name=\"model\"");
    bad_part("form-data; filename=\"a; name=model; b\"; name=\"f\"");
    bad_part("form-data; name=\"a; name=model; b\"");
    bad_part("form-data; NAME=\"a; name=model; b\"");
    bad_part("form-data; NAME=\"f\"; filename=\"a; name=model; b\"");
    bad_part("form-data; Name=model");
    bad_part("form-data; name=\"model\"; x=\"; filename=a; b\"");
    refused("--xyz\r\n" CD "name=\"a\"\r\n" CD "name=\"model\"\r\n\r\nx\r\n" END, "two Content-Dispositions");
    refused("--xyz\r\nContent-Type: text/plain\r\n\r\nx\r\n" END, "no Content-Disposition");
    refused("--xyz\r\n\r\nx\r\n" END, "no Content-Disposition");
    refused("--xyz\r\n" CD "name=\"_charset_\"\r\n\r\nutf-16\r\n" END, "_charset_");
}

static void test_types_and_encodings(void **state) {
    static const char *const fine[] = {"Content-Type: text/plain",
                                       "Content-Type: text/plain; charset=utf-8",
                                       "content-type: a;CHARSET=\"UTF-8\"",
                                       "Content-Type: text/plain; charset=ISO-8859-1; x=y/z",
                                       "Content-Type:",
                                       "Content-Transfer-Encoding: 8bit",
                                       "content-transfer-encoding:7BIT",
                                       "Content-Transfer-Encoding: binary \t"};
    static const char *const odd[] = {"text/plain; charset=utf-16", "text/plain; charset=utf-7", "text/plain; charset*=utf-8",
                                      "text/plain; charset=", "text/plain; x"};
    char form[4096], head[200];
    (void)state;
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        snprintf(form, sizeof form, "--xyz\r\n%s\r\n" CD "name=\"model\"\r\n\r\nwhisper-1\r\n" END, fine[i]);
        good(form, 1, "whisper-1");
    }
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        snprintf(head, sizeof head, "Content-Type: %s", odd[i]);
        bad_head(head, "charset");
        snprintf(form, sizeof form, "--xyz\r\n" CD "name=f\r\nContent-Type: %s\r\n\r\nx\r\n" MODEL END, odd[i]);
        good(form, 1, "whisper-1"); /* a file's own business */
    }
    bad_head("Content-Type: a/b\r\ncontent-type: a/b", "two Content-Types");
    bad_head("Content-Transfer-Encoding: base64", "Transfer-Encoding");
    bad_head("Content-Transfer-Encoding: quoted-printable", "Transfer-Encoding");
    bad_head("Content-Transfer-Encoding: 8bit; x", "Transfer-Encoding");
    bad_head("Content-Transfer-Encoding:", "Transfer-Encoding");
}

static void test_header_lines(void **state) {
    (void)state;
    bad_head("X", "Name: value");
    bad_head(": x", "Name: value");
    bad_head("X : y", "Name: value");
    bad_head("X: y\r\n z", "folded");
    bad_head("\tX: y", "folded");
    bad_head("X: y\nZ: y", "control");
    bad_head("X: y\rZ: y", "CR without LF");
    bad_head("X: \x01", "control");
    bad_head("X: \x7f", "control");
    struct str nul = STR("--xyz\r\n" CD "name=\"mo\0del\"\r\n\r\nx\r\n" END);
    assert_int_equal(every_way("xyz", nul), MULTIPART_BAD);
    refused("--xyz\r\n" CD "name=\"model\"\n\nx\r\n" END, "control");
    refused("--xyz\r\n" CD "name=\"model\"\r\n--xyz\r\n", "Name: value"); /* no blank line */
}

/* Lines and heads at the edges of their bounds. */
static void test_head_bounds(void **state) {
    static const char begin[] = CD "name=\"f\"; filename=\"";
    char form[3 * MULTIPART_HEAD_MAX], pad[MULTIPART_HEAD_MAX + 1];
    (void)state;
    for (int over = 0; over < 2; over++) {
        size_t n = MULTIPART_LINE_MAX - strlen(begin) - 1 + (size_t)over;
        snprintf(form, sizeof form, "--xyz\r\n%s%.*s\"\r\n\r\nx\r\n" END, begin, (int)n, (char *)memset(pad, 'a', sizeof pad));
        multipart_begin(&m, "xyz");
        assert_int_equal(feed(form, strlen(form)), over ? MULTIPART_BAD : MULTIPART_DONE);
    }
    for (int over = 0; over < 2; over++) { /* one that nobody needs, too: its end might be a delimiter */
        int n = MULTIPART_LINE_MAX - (int)strlen("X-Other: --xyz") + 1;
        snprintf(form, sizeof form, "--xyz\r\n" CD "name=f\r\nX-Other: %.*s%s\r\n\r\nx\r\n" END, n, pad, over ? "--xyz" : "-xyz");
        assert_int_equal(whole("xyz", str_of(form)), over ? MULTIPART_BAD : MULTIPART_DONE);
    }
    snprintf(form, sizeof form, "--xyz\r\n" CD "name=model\r\n%.*s: x\r\n\r\nm\r\n" END, MULTIPART_LINE_MAX - 3, pad);
    assert_int_equal(whole("xyz", str_of(form)), MULTIPART_DONE);
    snprintf(form, sizeof form, "--xyz\r\n" CD "name=model\r\n%.*s: x\r\n\r\nm\r\n" END, MULTIPART_LINE_MAX - 2, pad);
    refused(form, "too long");
    for (int over = 0; over < 2; over++) {
        int first = MULTIPART_LINE_MAX - 2, lines = MULTIPART_HEAD_MAX / MULTIPART_LINE_MAX;
        int n = MULTIPART_HEAD_MAX - (int)strlen(CD "name=f\r\n\r\n") - lines * (MULTIPART_LINE_MAX + 2) - 4 + over;
        size_t len = (size_t)snprintf(form, sizeof form, "--xyz\r\n" CD "name=f\r\n");
        for (int i = 0; i < lines; i++)
            len += (size_t)snprintf(form + len, sizeof form - len, "X:%.*s\r\n", first, pad);
        snprintf(form + len, sizeof form - len, "X:%.*s\r\n\r\nx\r\n" END, n, pad);
        assert_int_equal(whole("xyz", str_of(form)), over ? MULTIPART_BAD : MULTIPART_DONE);
    }
    assert_non_null(strstr(m.error, "headers"));
}

static void test_delimiters(void **state) {
    (void)state;
    good(OPEN "a--xy--xy \r\n-xyz\n-\r--xy\n--xy\r\n--xyabc---xy\r\n" MODEL END, 1, "whisper-1");
    refused("--xyz\r\n" CD "name=f\r\n\r\na--xyz\r\n" END, "inside"); /* cpp-httplib, where its first read is short */
    refused("--xyz\r\n" CD "name=f\r\n\r\na\r\n----xyz\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\n\r\na\r\n--x--xyz\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\n--xyz: a\r\n\r\na\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\nX: --xyz\r\n\r\na\r\n" END, "inside");
    good(OPEN "a--xyz b--xyz\rc--xyz\r--\r\n----xyz--xyz--\r\n" MODEL END, 1, "whisper-1");
    good("--xyz\r\nX-y: a--xyz b\r\n" CD "name=f; filename=a--xyz.wav\r\n\r\na\r\n" MODEL END, 1, "whisper-1");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\n--xyz\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r--xyz\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\n--xyzq\r\n" END, "inside");
    refused("--xyz\r\n" CD "name=f\r\n\r\n--xyz\r\n" END, "inside"); /* Go: an empty part; python-multipart: data */
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyz \r\n" END, "neither a line end");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyz\t\r\n" END, "neither a line end");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyz\n" END, "neither a line end");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyz\rX" END, "neither a line end");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyzz\r\n" END, "neither a line end");
    refused("--xyz\r\n" CD "name=f\r\n\r\nab\r\n--xyz-\r\n" END, "neither a line end");
    refused("--xyz \r\n" CD "name=f\r\n\r\nab\r\n" END, "neither a line end");
    refused("--xyz\n" CD "name=f\r\n\r\nab\r\n" END, "neither a line end");
}

static void test_around(void **state) {
    (void)state;
    refused("hello\r\n" MODEL END, "begin");
    refused("\n" MODEL END, "begin");
    refused("\r" MODEL END, "begin");
    refused("\r\n\r\n" MODEL END, "begin");
    refused("\r\nhello--xyz\r\n" END, "begin");
    refused("--xyw\r\n", "begin");
    refused(MODEL END "x", "behind the form's end");
    refused(MODEL END MODEL END, "behind the form's end");
    refused(MODEL "--xyz-- --xyz--", "behind the form's end");
    refused("", "cut");
    refused("--xyz", "cut");
    refused(MODEL, "cut");
    refused(MODEL "--xyz", "cut");
    refused(MODEL "--xyz-", "cut");
    refused(MODEL FIL "--xyz\r\nContent-Dis", "cut");
}

static void test_cut_before_the_end_is_more(void **state) {
    static const char form[] = FIL MODEL "--xyz--";
    (void)state;
    multipart_begin(&m, "xyz");
    for (size_t i = 0; i + 1 < sizeof form; i++)
        assert_int_equal(feed(form + i, 1), i + 2 < sizeof form ? MULTIPART_MORE : MULTIPART_DONE);
    assert_int_equal(feed("", 0), MULTIPART_DONE);
    assert_int_equal(feed("\r\n", 2), MULTIPART_DONE);
    assert_int_equal(m.at, sizeof form - 1 + 2);
}

/* The search through a file must find the delimiter at each distance from what was read before, for short and long boundaries. */
static void test_search(void **state) {
    static const char *const bounds[] = {
        "x", "xx", "-", "----------------", "------------------------0123456789abcdef", "ab ab", "a'()+_,-./:=?z"};
    enum { N = 1000 };
    char form[4 * N];
    (void)state;
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++)
        for (size_t n = 0; n < N; n += n < 200 ? 1 : 37) {
            int at = snprintf(form, sizeof form, "--%s\r\n" CD "name=f\r\n\r\n", bounds[b]);
            for (size_t i = 0; i < n; i++)
                form[at++] = "\r\nx-"[i * i % 31 % (n % 3 ? 4 : 3)];
            form[at++] = '.';
            at += snprintf(form + at, sizeof form - (size_t)at, "\r\n--%s\r\n" CD "name=model\r\n\r\nm\r\n--%s--", bounds[b],
                           bounds[b]);
            bool early = strlen(bounds[b]) < 3 && n > 3; /* such a boundary may well stand in the data */
            enum multipart_status s = whole(bounds[b], (struct str){form, (size_t)at});
            if (early) continue;
            assert_int_equal(s, MULTIPART_DONE);
            assert_int_equal(m.models, 1);
            assert_memory_equal(form + m.model_off, "m\r\n", 3);
        }
}

static void test_large_file(void **state) {
    size_t n = (size_t)3 << 20, len = 0, piece = 1;
    char *form = must_alloc(n + 4096);
    uint64_t seed = 88172645463325252u;
    (void)state;
    len += (size_t)snprintf(form, 4096, "%s", OPEN);
    for (; len < n; len++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        form[len] = (char)(seed >> 32);
    }
    len += (size_t)snprintf(form + len, 4096, ".\r\n%s", MODEL END);
    multipart_begin(&m, "xyz");
    for (size_t at = 0; at < len; at += piece, piece = piece * 5 % 65521)
        feed(form + at, piece < len - at ? piece : len - at);
    assert_int_equal(multipart_end(&m), MULTIPART_DONE);
    assert_int_equal(m.models, 1);
    assert_memory_equal(m.model, "whisper-1", 9);
    assert_memory_equal(form + m.model_off, "whisper-1\r\n", 11);
    free(form);
}

static void boundary(const char *type, const char *want) {
    char got[MULTIPART_BOUNDARY_MAX + 1] = "untouched";
    assert_int_equal(multipart_boundary(str_of(type), got), want != NULL);
    if (want) assert_string_equal(got, want);
}

static void test_boundaries(void **state) {
    char type[200], longest[MULTIPART_BOUNDARY_MAX + 2];
    (void)state;
    boundary("multipart/form-data; boundary=xyz", "xyz");
    boundary("Multipart/Form-Data;BOUNDARY=xyz", "xyz");
    boundary("multipart/form-data ; boundary=\"xyz\" ;", "xyz");
    boundary("multipart/form-data; charset=utf-8; boundary=xyz", "xyz");
    boundary("multipart/form-data; boundary=xyz; charset=\"UTF-8\"", "xyz");
    boundary("multipart/form-data; boundary=\"09azAZ'()+_,-./:=? x\"", "09azAZ'()+_,-./:=? x");
    boundary("multipart/form-data; boundary=----=_Part/1:2?", "----=_Part/1:2?");
    memset(longest, 'b', sizeof longest);
    longest[MULTIPART_BOUNDARY_MAX] = 0;
    snprintf(type, sizeof type, "multipart/form-data; boundary=%s", longest);
    boundary(type, longest);
    snprintf(type, sizeof type, "multipart/form-data; boundary=%sb", longest);
    boundary(type, NULL);
    boundary("", NULL);
    boundary("multipart/form-data", NULL);
    boundary("multipart/form-data; ", NULL);
    boundary("multipart/mixed; boundary=xyz", NULL);
    boundary("multipart/form-data-x; boundary=xyz", NULL);
    boundary("multipart/form-data boundary=xyz", NULL);
    boundary("multipart/form-data; boundary=", NULL);
    boundary("multipart/form-data; boundary=\"\"", NULL);
    boundary("multipart/form-data; boundary=\"xyz", NULL);
    boundary("multipart/form-data; boundary=\"xyz \"", NULL);
    boundary("multipart/form-data; boundary=x yz", NULL);
    boundary("multipart/form-data; boundary=\"x;yz\"", NULL);
    boundary("multipart/form-data; boundary=\"x\\yz\"", NULL);
    boundary("multipart/form-data; boundary=x\xc3\xa9", NULL);
    boundary("multipart/form-data; boundary=x*z", NULL); /* a token, but no boundary */
    boundary("multipart/form-data; boundary=xyz; boundary=abc", NULL);
    boundary("multipart/form-data; boundary=xyz; boundary=xyz", NULL);
    boundary("multipart/form-data; boundary*=utf-8''xyz", NULL);
    boundary("multipart/form-data; xboundary=abc; boundary=xyz", NULL);
    boundary("multipart/form-data; x=\"boundary=abc\"; boundary=xyz", NULL);
    boundary("multipart/form-data; boundary=xyz; charset=utf-16", NULL);
    boundary("multipart/form-data; boundary = xyz", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_anywhere),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_more_models),
        cmocka_unit_test(test_model_length),
        cmocka_unit_test(test_dispositions),
        cmocka_unit_test(test_dispositions_refused),
        cmocka_unit_test(test_types_and_encodings),
        cmocka_unit_test(test_header_lines),
        cmocka_unit_test(test_head_bounds),
        cmocka_unit_test(test_delimiters),
        cmocka_unit_test(test_around),
        cmocka_unit_test(test_cut_before_the_end_is_more),
        cmocka_unit_test(test_search),
        cmocka_unit_test(test_large_file),
        cmocka_unit_test(test_boundaries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
