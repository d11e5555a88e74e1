/* findings: errors and warnings, collected.
 * In: a place, a key, words. Out: a list in the order of the file. Owns the texts until findings_free.
 * Texts may quote a configuration's names, so control bytes are replaced here: one finding is one line, whatever the file holds.
 * Keeps so many and no more: a file of garbage must not become a list as large as itself. */
#include "findings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX  512
#define KEY_SHOWN 64

static void keep(struct conf_findings *f, const struct node *at, bool warning, const char *text) {
    f->items = must_realloc(f->items, (f->count + 1) * sizeof *f->items);
    struct conf_finding *x = &f->items[f->count++];
    *x = (struct conf_finding){at ? at->line : 0, at ? at->column : 0, warning, str_dup(str_of(text))};
    for (char *c = x->text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
}

__attribute__((format(printf, 5, 0))) static void add(struct conf_findings *f, const struct node *at, bool warning, const char *key,
                                                      const char *fmt, va_list ap) {
    char text[TEXT_MAX];
    size_t *seen = warning ? &f->warnings : &f->errors;
    if (++*seen > FINDINGS_MAX) {
        if (*seen == FINDINGS_MAX + 1)
            keep(f, at, warning,
                 warning ? "file: too many warnings: not all are shown" : "file: too many errors: not all are shown");
        return;
    }
    int n = snprintf(text, sizeof text, "%.*s: ", KEY_SHOWN, *key ? key : "''");
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    keep(f, at, warning, text);
}

void findings_error(struct conf_findings *f, const struct node *at, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add(f, at, false, key, fmt, ap);
    va_end(ap);
}

void findings_warning(struct conf_findings *f, const struct node *at, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add(f, at, true, key, fmt, ap);
    va_end(ap);
}

bool findings_full(const struct conf_findings *f) {
    return f->errors >= FINDINGS_MAX;
}

static bool goes_before(const struct conf_finding *a, const struct conf_finding *b) {
    return a->line != b->line ? a->line < b->line : a->column < b->column;
}

/* By insertion: stable, and the list is short and mostly in order. */
void findings_sort(struct conf_findings *f) {
    for (size_t i = 1; i < f->count; i++) {
        struct conf_finding x = f->items[i];
        size_t k = i;
        for (; k && goes_before(&x, &f->items[k - 1]); k--)
            f->items[k] = f->items[k - 1];
        f->items[k] = x;
    }
}

void findings_free(struct conf_findings *f) {
    for (size_t i = 0; i < f->count; i++)
        free(f->items[i].text);
    free(f->items);
    *f = (struct conf_findings){0};
}
