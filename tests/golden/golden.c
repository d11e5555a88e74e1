/* golden: raw HTTP in, events out, compared with what the case files say. Each case is run whole, byte by byte, and cut in two at
 * every offset. In: folders or files given as arguments; every *.txt below them is a list of cases:
 *
 *     ## name of the case
 *     # a remark
 *     request                       or: response, response to HEAD
 *     < POST / HTTP/1.1\r\n         what comes, byte for byte; \r \n \t \0 \\ \xNN; {1000*ab} repeats; lines are joined as they are
 *     eof                           the peer closes its side then
 *     = head POST / 1.1 length=2    what is told of it: see tests/fuzz/events.h; fields only where the case names one
 *
 * Out: a line for each case that failed, and "N passed, M failed". */
#include <ftw.h>

#include "../fuzz/events.h"

#define TWO_PIECES_MAX ((size_t)4096) /* longer inputs are cut in two only near their ends and at every 97th byte */

struct golden {
    char name[200];
    struct buf input, expected;
    enum http_kind kind;
    bool head_answer, eof, fields, any;
};

static unsigned passed, failed;
static const char *file;
static unsigned line_no;
static struct buf names; /* of all cases, NUL between them: none may be there twice */

static void die(const char *what) {
    fprintf(stderr, "%s:%u: %s\n", file, line_no, what);
    exit(2);
}

static unsigned hex(char c) {
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    if (!at) die("a bad \\x escape");
    return (unsigned)(at - digits);
}

/* The brace that closes the one at p, or NULL. */
static char *closing(char *p) {
    int depth = 0;
    for (; *p; p++) {
        if (*p == '\\' && p[1])
            p++;
        else if (*p == '{')
            depth++;
        else if (*p == '}' && !--depth)
            return p;
    }
    return NULL;
}

static void unescape(struct buf *b, char *p) {
    unsigned high;
    for (; *p; p++) {
        if (*p == '{') {
            char *star, *end = closing(p);
            unsigned long n = strtoul(p + 1, &star, 10);
            if (!end || *star != '*') die("a brace that is no {N*text}");
            *end = 0;
            struct buf one = {0};
            unescape(&one, star + 1);
            for (unsigned long i = 0; i < n; i++)
                buf_puts(b, buf_str(&one));
            buf_free(&one);
            p = end;
        } else if (*p != '\\') {
            buf_putc(b, *p);
        } else {
            switch (*++p) {
            case 'r': buf_putc(b, '\r'); break;
            case 'n': buf_putc(b, '\n'); break;
            case 't': buf_putc(b, '\t'); break;
            case '0': buf_putc(b, 0); break;
            case '\\': buf_putc(b, '\\'); break;
            case '{': buf_putc(b, '{'); break;
            case 'x':
                high = hex(p[1]);
                buf_putc(b, (char)(high << 4 | hex(p[2])));
                p += 2;
                break;
            default: die("an unknown escape");
            }
        }
    }
}

/* Runs the case cut at these places and says whether the events were the expected ones. */
static bool run_cut(const struct golden *g, const size_t *cuts, size_t ncuts, const char *how, bool skip) {
    struct events e = {.fields = g->fields, .skip = skip};
    events_walk(&e, g->kind, g->head_answer, buf_ptr(&g->input), buf_len(&g->input), cuts, ncuts, g->eof);
    bool same = str_eq(buf_str(&e.text), buf_str(&g->expected));
    if (!same) {
        printf("FAILED %s: %s (%s", file, g->name, how);
        if (ncuts) printf(" %zu", cuts[0]);
        printf(")\n  expected:\n" STR_FMT "  got:\n" STR_FMT, STR_ARG(buf_str(&g->expected)), STR_ARG(buf_str(&e.text)));
    }
    buf_free(&e.text);
    return same;
}

static bool run_all(const struct golden *g) {
    size_t len = buf_len(&g->input);
    if (!run_cut(g, NULL, 0, "whole", false) || !run_cut(g, NULL, 0, "body skipped", true)) return false;
    size_t *cuts = must_alloc((len + 1) * sizeof *cuts);
    for (size_t i = 0; i < len; i++)
        cuts[i] = i + 1;
    bool good = len > 2 * TWO_PIECES_MAX || run_cut(g, cuts, len ? len - 1 : 0, "byte by byte", false);
    free(cuts);
    for (size_t at = 1; good && at < len; at++) {
        if (len > TWO_PIECES_MAX && at > 300 && at + 300 < len && at % 97) continue;
        good = run_cut(g, &at, 1, "cut at", false);
    }
    return good;
}

static void finish(struct golden *g) {
    if (g->any) {
        if (!buf_len(&g->expected)) die("the case before this line expects nothing");
        if (run_all(g))
            passed++;
        else
            failed++;
    }
    buf_free(&g->input);
    buf_free(&g->expected);
    memset(g, 0, sizeof *g);
}

static void begin(struct golden *g, const char *name) {
    finish(g);
    for (size_t at = 0; at < buf_len(&names); at += strlen(buf_ptr(&names) + at) + 1)
        if (strcmp(buf_ptr(&names) + at, name) == 0) die("a case of that name is there already");
    buf_put(&names, name, strlen(name) + 1);
    snprintf(g->name, sizeof g->name, "%s", name);
    g->any = true;
}

static void take_line(struct golden *g, char *line) {
    static const struct {
        const char *text;
        enum http_kind kind;
        bool head_answer;
    } kinds[] = {
        {"request", MESSAGE_REQUEST, false}, {"response", MESSAGE_RESPONSE, false}, {"response to HEAD", MESSAGE_RESPONSE, true}};
    if (strncmp(line, "## ", 3) == 0) {
        begin(g, line + 3);
    } else if (!*line || *line == '#') {
        return;
    } else if (!g->any) {
        die("a line before the first case");
    } else if (strncmp(line, "< ", 2) == 0) {
        unescape(&g->input, line + 2);
    } else if (strncmp(line, "= ", 2) == 0) {
        g->fields |= strncmp(line, "= field ", 8) == 0;
        buf_puts(&g->expected, str_of(line + 2));
        buf_putc(&g->expected, '\n');
    } else if (strcmp(line, "eof") == 0) {
        g->eof = true;
    } else {
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            if (strcmp(line, kinds[i].text) != 0) continue;
            g->kind = kinds[i].kind;
            g->head_answer = kinds[i].head_answer;
            return;
        }
        die("a line that is no part of a case");
    }
}

static void read_cases(const char *path) {
    FILE *f = fopen(path, "r");
    struct golden g = {.any = false};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    file = path;
    line_no = 0;
    if (!f) die("cannot be read");
    while ((n = getline(&line, &cap, f)) >= 0) {
        line_no++;
        if (n && line[n - 1] == '\n') line[n - 1] = 0;
        take_line(&g, line);
    }
    finish(&g);
    free(line);
    (void)fclose(f);
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)ftw;
    size_t n = strlen(path);
    if (type == FTW_F && n > 4 && strcmp(path + n - 4, ".txt") == 0) read_cases(path);
    return 0;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (nftw(argv[i], visit, 8, FTW_PHYS) != 0) fprintf(stderr, "%s: cannot be walked\n", argv[i]);
    buf_free(&names);
    if (!passed && !failed) failed = 1; /* no cases are no success */
    printf("%u passed, %u failed\n", passed, failed);
    return failed ? 1 : 0;
}
