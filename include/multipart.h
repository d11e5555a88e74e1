/* multipart: finds the `model` field of a multipart/form-data body as its bytes arrive (RFC 7578, RFC 2046 5.1). A form that two
 * parsers could read differently is refused: see src/multipart.c. */
#ifndef MULTIPART_H
#define MULTIPART_H
#include "str.h"

#define MULTIPART_BOUNDARY_MAX 70   /* RFC 2046 5.1.1 */
#define MULTIPART_HEAD_MAX     8192 /* bytes of one part's header fields, line ends included; more is BAD */
#define MULTIPART_MODEL_MAX    512  /* bytes of the model field */
#define MULTIPART_LINE_MAX     1536 /* bytes of one header line of a part; a longer one is BAD */

enum multipart_status { MULTIPART_MORE, MULTIPART_DONE, MULTIPART_BAD };

struct multipart {
    size_t model_off, model_len;     /* where the value of the first `model` field lies, from the body's first byte */
    char model[MULTIPART_MODEL_MAX]; /* its first bytes */
    unsigned models;                 /* parts named model, ASCII case ignored */
    bool model_is_file;              /* one of them had a filename */
    bool model_too_long;
    const char *error; /* MULTIPART_BAD: for a person; static */
    size_t at;         /* bytes looked at so far; at MULTIPART_BAD without the culprit */
    /* private */
    char delim[2 + MULTIPART_BOUNDARY_MAX + 1]; /* "--boundary" */
    uint8_t delim_len, matched, state, newline, inside, part;
    uint8_t skip[256];                            /* how far a byte lets the search for delim move on (Horspool) */
    uint8_t fail[2 + MULTIPART_BOUNDARY_MAX + 1]; /* [k]: of k bytes matched, how many still are behind a mismatch */
    size_t line_len, head_len;
    char line[MULTIPART_LINE_MAX];
};

/* The boundary parameter of a multipart/form-data Content-Type, quoted or not, into dst; false if it is another type,
 * or the boundary is missing, given twice, empty, too long or of forbidden characters, or if there is another parameter than it
 * and charset=utf-8: some parsers look for "boundary=" anywhere, some decode names by the charset. */
bool multipart_boundary(struct str content_type, char dst[MULTIPART_BOUNDARY_MAX + 1]);
/* boundary: 1 to MULTIPART_BOUNDARY_MAX bytes, as multipart_boundary gives it. */
void multipart_begin(struct multipart *m, const char *boundary);
/* Looks at all of data. DONE once the closing delimiter was seen: from then on only blanks and line ends may follow. */
enum multipart_status multipart_feed(struct multipart *m, const char *data, size_t len);
enum multipart_status multipart_end(struct multipart *m); /* the body is over: DONE if it was whole, else BAD */
#endif
