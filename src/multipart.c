/* multipart: the `model` field of a form. In: the bytes of a body as they come. Out: where the first model's value lies, how many
 * there are, or what is wrong. Owns nothing but its state. It must never let a form pass in which python-multipart, Go's
 * mime/multipart or cpp-httplib would see a model that we do not. So BAD is what they read differently:
 *   bytes   a bare CR or LF, a control byte, a folded line in a head
 *   ends    "--boundary" behind a bare CR or LF, or as a line's end; behind CRLF, but before neither CRLF nor "--" (padding too);
 *           a preamble (one CRLF may stand there); an epilogue other than blanks and line ends
 *   heads   none or two Content-Dispositions, not form-data, no name, name or filename twice, NAME, name* and the like, a backslash
 *           in a name or before a quote, a `;` in a name, or in quotes before a name or beside a model's; encodings but identity
 *   values  a charset for the model that is no superset of ASCII; a field `_charset_`
 *
 *   START > FIRST > AFTER > LINE > DATA > AFTER ... > END        LINE: a line of a part's head; AFTER: behind a delimiter */
#include "multipart.h"

#include <assert.h>
#include <string.h>

#include "syntax.h"

enum state { START, START_LF, FIRST, AFTER, AFTER_LF, AFTER_DASH, LINE, LINE_LF, DATA, END, BROKEN };
/* What the last bytes were; NL_HEAD: a head's end, where Go takes a delimiter for the end of an empty part. */
enum newline { NL_NONE, NL_CR, NL_LF, NL_CRLF, NL_HEAD };
/* What is known of the part at hand. ODD: its type says that its bytes may not mean what they are in ASCII. KEEP: it is the model. */
enum part { PART_NAMED = 1, PART_MODEL = 2, PART_FILE = 4, PART_TYPED = 8, PART_ODD = 16, PART_KEEP = 32 };

static const char bad_disposition[] =
    "A part of the form has a Content-Disposition that is not 'form-data; name=\"NAME\"', or can be read in two ways.";
static const char boundary_inside[] = "The form's boundary stands inside a part: choose one that does not.";
static const char long_head[] = "A part of the form has more headers than any sender needs.";

/* ---- header values with parameters ---- */

struct param {
    struct str name, value;
};
enum got { GOT_NONE, GOT_PARAM, GOT_WRONG };

static struct str drop(struct str s, size_t n) {
    return n ? (struct str){s.ptr + n, s.len - n} : s; /* NULL + 0 is not defined before C2y, and a missing field is NULL */
}

/* RFC 2046 5.1.1, without the blank. */
static bool is_boundary_byte(char c) {
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c && strchr("'()+_,-./:=?", c));
}

/* Takes "; name=value" off *rest: a token, or text in quotes in which no backslash stands before a quote, so that it ends at the
 * same place for whoever knows escapes and who does not. `loose`: unquoted, it may be of all that a boundary may. */
static enum got next_param(struct str *rest, bool loose, struct param *p) {
    struct str s = str_trim(*rest);
    if (!s.len) return GOT_NONE;
    if (s.ptr[0] != ';') return GOT_WRONG;
    s = str_trim(drop(s, 1));
    if (!s.len) return GOT_NONE; /* a last ';' */
    size_t n = 0, quoted;
    while (n < s.len && syntax_lower(s.ptr[n]))
        n++;
    if (!n || n == s.len || s.ptr[n] != '=') return GOT_WRONG;
    p->name = (struct str){s.ptr, n};
    s = drop(s, n + 1);
    quoted = s.len && s.ptr[0] == '"';
    s = drop(s, quoted);
    for (n = 0; n < s.len; n++)
        if (quoted ? s.ptr[n] == '"' : !syntax_lower(s.ptr[n]) && !(loose && is_boundary_byte(s.ptr[n]))) break;
    p->value = (struct str){s.ptr, n};
    if (quoted ? n == s.len || (n && s.ptr[n - 1] == '\\') : !n) return GOT_WRONG;
    *rest = drop(s, n + quoted);
    return GOT_PARAM;
}

static bool has_byte(struct str s, char c) {
    return s.len && memchr(s.ptr, c, s.len);
}

/* Cuts off what stands before the parameters. */
static struct str main_value(struct str *rest) {
    const char *semicolon = rest->len ? memchr(rest->ptr, ';', rest->len) : NULL;
    struct str s = {rest->ptr, semicolon ? (size_t)(semicolon - rest->ptr) : rest->len};
    *rest = drop(*rest, s.len);
    return str_trim(s);
}

static bool is_boundary(struct str s) {
    for (size_t i = 0; i < s.len; i++)
        if (!is_boundary_byte(s.ptr[i]) && (s.ptr[i] != ' ' || i + 1 == s.len)) return false;
    return s.len > 0 && s.len <= MULTIPART_BOUNDARY_MAX;
}

bool multipart_boundary(struct str content_type, char dst[MULTIPART_BOUNDARY_MAX + 1]) {
    struct str rest = content_type, boundary = STR_NONE;
    struct param p;
    enum got got;
    if (!str_ieq(main_value(&rest), STR("multipart/form-data"))) return false;
    while ((got = next_param(&rest, true, &p)) == GOT_PARAM) {
        if (str_ieq(p.name, STR("boundary")) && !boundary.ptr)
            boundary = p.value;
        else if (!str_ieq(p.name, STR("charset")) || !str_ieq(p.value, STR("utf-8")))
            return false;
    }
    if (got == GOT_WRONG || !is_boundary(boundary)) return false;
    str_copy(dst, MULTIPART_BOUNDARY_MAX + 1, boundary);
    return true;
}

/* ---- a part's head ---- */

static enum multipart_status broken(struct multipart *m, const char *error) {
    m->state = BROKEN;
    m->error = error;
    return MULTIPART_BAD;
}

static const char *disposition(struct multipart *m, struct str rest) {
    struct param p;
    enum got got;
    bool named = false, file = false, file_star = false, semicolon = false;
    if (m->part & PART_NAMED) return "A part of the form has two Content-Dispositions.";
    if (!str_ieq(main_value(&rest), STR("form-data"))) return bad_disposition;
    while ((got = next_param(&rest, false, &p)) == GOT_PARAM) {
        if (str_ieq(p.name, STR("name"))) {
            if (named || semicolon || !str_eq(p.name, STR("name"))) return bad_disposition; /* to cpp-httplib NAME is none */
            if (has_byte(p.value, '\\') || has_byte(p.value, ';')) return bad_disposition;
            named = true;
            if (str_ieq(p.value, STR("model"))) m->part |= PART_MODEL;
            if (str_ieq(p.value, STR("_charset_"))) return "The form's field '_charset_' is not understood: forms are UTF-8.";
        } else if (str_ieq(p.name, STR("filename"))) {
            if (file) return bad_disposition;
            file = true;
        } else if (str_ieq(p.name, STR("filename*"))) {
            if (file_star) return bad_disposition;
            file_star = true;
        } else if (has_byte(p.name, '*')) {
            return bad_disposition;
        }
        semicolon |= has_byte(p.value, ';'); /* cpp-httplib splits there */
    }
    if (got == GOT_WRONG || !named || ((m->part & PART_MODEL) && semicolon)) return bad_disposition;
    m->part |= PART_NAMED;
    if (file || file_star) m->part |= PART_FILE;
    return NULL;
}

static const char *type(struct multipart *m, struct str rest) {
    static const struct str plain[] = {{"utf-8", 5},       {"us-ascii", 8}, {"ascii", 5},
                                       {"iso-8859-1", 10}, {"latin1", 6},   {"windows-1252", 12}};
    struct param p;
    enum got got;
    if (m->part & PART_TYPED) return "A part of the form has two Content-Types.";
    m->part |= PART_TYPED;
    main_value(&rest);
    while ((got = next_param(&rest, true, &p)) == GOT_PARAM) {
        bool good = !str_ieq((struct str){p.name.ptr, p.name.len < 7 ? p.name.len : 7}, STR("charset"));
        for (size_t i = 0; !good && p.name.len == 7 && i < sizeof plain / sizeof *plain; i++)
            good = str_ieq(p.value, plain[i]);
        if (!good) m->part |= PART_ODD;
    }
    if (got == GOT_WRONG) m->part |= PART_ODD;
    return NULL;
}

static const char *encoding(struct str value) {
    value = str_trim(value);
    if (str_ieq(value, STR("7bit")) || str_ieq(value, STR("8bit")) || str_ieq(value, STR("binary"))) return NULL;
    return "A part of the form has a Content-Transfer-Encoding: send it plain.";
}

static const char *head_line(struct multipart *m) {
    /* Whatever it is called: what was not kept of it might be a delimiter. */
    if (m->line_len > MULTIPART_LINE_MAX) return "A part of the form has a header line that is too long.";
    struct str name, line = {m->line, m->line_len};
    struct str value = str_cut(line, ':', &name);
    if (name.len == line.len || !syntax_token(name)) return "A part of the form has a header line that is not 'Name: value'.";
    if (str_starts(line, (struct str){m->delim, m->delim_len}) || str_ends(line, (struct str){m->delim, m->delim_len}))
        return boundary_inside;
    bool is_disposition = str_ieq(name, STR("Content-Disposition")), is_type = str_ieq(name, STR("Content-Type"));
    bool is_encoding = str_ieq(name, STR("Content-Transfer-Encoding"));
    if (!is_disposition && !is_type && !is_encoding) return NULL;
    return is_disposition ? disposition(m, value) : is_type ? type(m, value) : encoding(value);
}

/* The blank line: `data` is the offset of what follows it. */
static const char *head_end(struct multipart *m, size_t data) {
    if (!(m->part & PART_NAMED)) return "A part of the form has no Content-Disposition.";
    m->state = DATA;
    m->newline = NL_HEAD;
    m->inside = 0;
    m->matched = 0;
    if (!(m->part & PART_MODEL)) return NULL;
    if (m->part & PART_ODD)
        return "The form's field 'model' has a Content-Type or charset that is not understood: send it as UTF-8.";
    if (m->part & PART_FILE) m->model_is_file = true;
    if (m->models++) return NULL;
    m->part |= PART_KEEP;
    m->model_off = data;
    return NULL;
}

static const char *head_byte(struct multipart *m, char c) {
    if (++m->head_len > MULTIPART_HEAD_MAX) return long_head;
    if (c == '\r') {
        m->state = LINE_LF;
        return NULL;
    }
    if (!m->line_len && (c == ' ' || c == '\t')) return "A part of the form has a folded header line.";
    if (((unsigned char)c < 0x20 && c != '\t') || c == 0x7f) return "A part of the form has a control byte in its headers.";
    if (m->line_len < MULTIPART_LINE_MAX) m->line[m->line_len] = c;
    m->line_len++;
    return NULL;
}

/* ---- a part's data ---- */

/* From where data[i, len) has to be looked at byte by byte: two bytes before the first delimiter in it, wherever in a line that
 * stands, or so near the end that one may be cut there. */
static size_t skip_data(const struct multipart *m, const char *data, size_t i, size_t len) {
    size_t n = m->delim_len;
    char last = m->delim[n - 1];
    for (size_t at = i + n - 1; at < len; at += m->skip[(unsigned char)data[at]])
        if (data[at] == last && memcmp(data + at - n + 1, m->delim, n) == 0) return at - i > n ? at - n - 1 : i;
    return len - n - 1;
}

static void part_over(struct multipart *m, size_t delimiter) {
    m->state = AFTER;
    if (!(m->part & PART_KEEP)) return;
    m->model_len = delimiter - m->model_off;
    m->model_too_long = m->model_len > MULTIPART_MODEL_MAX;
}

/* One byte of a part's data, `off` bytes into the body. newline: of what stands before the matched bytes (Knuth, Morris, Pratt). */
static const char *data_byte(struct multipart *m, char c, size_t off) {
    while (m->matched && c != m->delim[m->matched]) {
        m->matched = m->fail[m->matched];
        m->newline = NL_NONE;
    }
    if (m->inside) {
        if (m->inside == 2 && c == '\n') return boundary_inside;
        m->inside = m->inside == 1 && c == '\r' ? 2 : 0;
    }
    if (c == m->delim[m->matched]) {
        if (++m->matched < m->delim_len) return NULL;
        if (m->newline == NL_CRLF) {
            part_over(m, off + 1 - m->delim_len - 2);
            return NULL;
        }
        if (m->newline != NL_NONE) return boundary_inside;
        m->matched = m->fail[m->matched];
        m->inside = 1;
        return NULL;
    }
    bool crlf = c == '\n' && m->newline == NL_CR;
    m->newline = crlf ? NL_CRLF : c == '\n' ? NL_LF : c == '\r' ? NL_CR : NL_NONE;
    return NULL;
}

/* From data[i] on as far as the part goes; returns where it stopped. */
static size_t data_run(struct multipart *m, const char *data, size_t i, size_t len, const char **error) {
    size_t from = i, n = m->delim_len, base = m->at;
    while (i < len && m->state == DATA) {
        if (!m->matched && !m->inside && len - i > n + 1) {
            size_t to = skip_data(m, data, i, len);
            if (to > i) m->newline = NL_NONE;
            i = to;
        }
        if ((*error = data_byte(m, data[i], base + i))) break;
        i++;
    }
    if (m->part & PART_KEEP) { /* a delimiter's bytes too: model_len tells */
        size_t to = base + from - m->model_off;
        if (to < MULTIPART_MODEL_MAX)
            memcpy(m->model + to, data + from, i - from < MULTIPART_MODEL_MAX - to ? i - from : MULTIPART_MODEL_MAX - to);
    }
    return i;
}

/* ---- the form ---- */

static void next_line(struct multipart *m) {
    m->state = LINE;
    m->line_len = 0;
}

static const char *one_byte(struct multipart *m, char c, size_t off) {
    static const char start[] = "The form does not begin with its boundary.";
    static const char behind[] = "A boundary of the form is followed by neither a line end nor '--'.";
    switch ((enum state)m->state) {
    case START:
        if (c == '\r') return m->state = START_LF, NULL;
        m->state = FIRST;
        __attribute__((fallthrough));
    case FIRST:
        if (c != m->delim[m->matched]) return start;
        if (++m->matched == m->delim_len) m->state = AFTER;
        return NULL;
    case START_LF: m->state = FIRST; return c == '\n' ? NULL : start;
    case AFTER: m->state = c == '\r' ? AFTER_LF : AFTER_DASH; return c == '\r' || c == '-' ? NULL : behind;
    case AFTER_DASH: m->state = END; return c == '-' ? NULL : behind;
    case AFTER_LF:
        m->part = 0;
        m->head_len = 0;
        next_line(m);
        return c == '\n' ? NULL : behind;
    case LINE: return head_byte(m, c);
    case LINE_LF: {
        if (c != '\n') return "A part of the form has a CR without LF in its headers.";
        if (++m->head_len > MULTIPART_HEAD_MAX) return long_head;
        if (!m->line_len) return head_end(m, off + 1);
        const char *error = head_line(m);
        next_line(m);
        return error;
    }
    case END: return c == '\r' || c == '\n' || c == ' ' || c == '\t' ? NULL : "Something stands behind the form's end.";
    default: return m->error;
    }
}

void multipart_begin(struct multipart *m, const char *boundary) {
    struct str b = str_of(boundary);
    assert(b.len > 0 && b.len <= MULTIPART_BOUNDARY_MAX);
    memset(m, 0, offsetof(struct multipart, line));
    memcpy(m->delim, "--", 2);
    memcpy(m->delim + 2, b.ptr, b.len);
    m->delim_len = (uint8_t)(b.len + 2);
    memset(m->skip, m->delim_len, sizeof m->skip);
    for (unsigned i = 0; i + 1 < m->delim_len; i++)
        m->skip[(unsigned char)m->delim[i]] = (uint8_t)(m->delim_len - 1 - i);
    for (unsigned i = 1, k = 0; i < m->delim_len; m->fail[++i] = (uint8_t)k) {
        while (k && m->delim[i] != m->delim[k])
            k = m->fail[k];
        if (m->delim[i] == m->delim[k]) k++;
    }
}

enum multipart_status multipart_feed(struct multipart *m, const char *data, size_t len) {
    const char *error = NULL;
    size_t i = 0;
    if (m->state == BROKEN) return MULTIPART_BAD;
    while (i < len && !error) {
        if (m->state == DATA)
            i = data_run(m, data, i, len, &error);
        else if (!(error = one_byte(m, data[i], m->at + i)))
            i++;
    }
    m->at += i;
    if (error) return broken(m, error);
    return m->state == END ? MULTIPART_DONE : MULTIPART_MORE;
}

enum multipart_status multipart_end(struct multipart *m) {
    if (m->state == BROKEN) return MULTIPART_BAD;
    return m->state == END ? MULTIPART_DONE : broken(m, "The form is cut: its last boundary, '--boundary--', is missing.");
}
