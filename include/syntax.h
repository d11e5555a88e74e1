/* syntax: the grammar of HTTP/1.x text, byte by byte (RFC 9110 5, RFC 9112 2-5), without any leniency. What is let pass here is
 * read one way only, whatever parser reads it after us. No state of its own, no allocation. */
#ifndef SYNTAX_H
#define SYNTAX_H
#include "str.h"

/* Where a scan stands between two bytes. A head begins as SYNTAX_REQUEST or SYNTAX_RESPONSE, trailers as SYNTAX_FIELDS;
 * the others are private. */
enum syntax_state {
    SYNTAX_REQUEST,
    SYNTAX_RESPONSE,
    SYNTAX_FIELDS,
    SYNTAX_EMPTY_LF,
    SYNTAX_NO_EMPTY,
    SYNTAX_REQUEST_LINE,
    SYNTAX_STATUS_LINE,
    SYNTAX_LINE_LF,
    SYNTAX_NAME,
    SYNTAX_VALUE,
    SYNTAX_VALUE_LF,
    SYNTAX_END_LF
};
enum syntax_got {
    SYNTAX_GOT_MORE,  /* all looked at */
    SYNTAX_GOT_LINE,  /* the start line is complete; *at is behind its LF. Scan on for the fields. */
    SYNTAX_GOT_NAME,  /* a field's name is complete; *at is behind the colon that ends it. Scan on. */
    SYNTAX_GOT_VALUE, /* a field's value is complete; *at is behind the CR that ends it. Scan on. */
    SYNTAX_GOT_END,   /* the blank line is complete; *at is behind its LF */
    SYNTAX_GOT_BAD    /* *at is the first byte that may not stand there, *text says why (static) */
};

/* Looks at data[*at, len) and moves *at: every line ends in CRLF and holds no other CR or LF, no NUL, no control byte but HT, no
 * DEL; field lines are token ":" text, never folded; a request line holds only bytes a URL may hold, and blanks. At most one empty
 * line stands before a request line, none before a status line. */
enum syntax_got syntax_scan(uint8_t *state, const char *data, size_t len, size_t *at, const char **text);

struct syntax_request {
    struct str method, target;
    uint8_t minor; /* HTTP/1.minor */
};
struct syntax_status {
    struct str reason;
    uint16_t status; /* 100 to 599 */
    uint8_t minor;
};
/* Of a start line without its CRLF. NULL, or what is wrong with it (static). */
const char *syntax_request_line(struct str line, struct syntax_request *out);
const char *syntax_status_line(struct str line, struct syntax_status *out);

/* The target in origin form: path and query of an absolute-form one (empty where it has none), "*" and an authority as they
 * stand. NULL, or what is wrong with it. */
const char *syntax_target(struct str method, struct str target, struct str *origin);

bool syntax_host(struct str s);  /* host or host:port, as a Host field or an http URL has it; not empty, no userinfo */
bool syntax_token(struct str s); /* RFC 9110 5.6.2; not empty */

/* The byte in lower case if it may stand in a token, else 0. */
unsigned char syntax_lower(char c);
#endif
