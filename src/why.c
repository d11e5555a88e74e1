/* why: the table of endings, from the rows in why.h.
 * In: an id. Out: its row, constant. Owns nothing. Adding an ending is adding a row there. */
#include "why.h"

#include <assert.h>

#define X(id, status, end, type, code, label, flags, text) {#id, status, end, type, code, label, flags, text},
static const struct why_row rows[] = {WHY_TABLE(X)};
#undef X

const struct why_row *why_row(enum why why) {
    assert((unsigned)why < WHY_COUNT);
    return &rows[why];
}

const char *why_end_name(enum why_end end) {
    static const char *const names[] = {"done", "refused", "client_gone", "upstream_error", "upstream_timeout", "shutdown"};
    assert((unsigned)end < sizeof names / sizeof *names);
    return names[end];
}
