/* usage: token counts and the moment of the first token, read from response bytes in passing. Never holds a byte back. */
#ifndef USAGE_H
#define USAGE_H
#include "str.h"

#define USAGE_TAIL 8192 /* bytes of a body's end, or of one event, that are kept to be read */

enum usage_kind { USAGE_OFF, USAGE_SSE, USAGE_NDJSON, USAGE_JSON };
enum usage_kind usage_kind(struct str content_type); /* parameters and case ignored */

/* -1 = not told. `prompt` is all of the prompt, what came from a cache included, whatever the dialect (Anthropic's and llama.cpp's
 * timings tell the two apart). Where counts are told more than once the highest stands: they only grow while an answer does. A number
 * above INT32_MAX counts as that. */
struct usage_counts {
    int32_t prompt, cached, completion;
};

struct usage { /* all zero is USAGE_OFF: it may be fed and ended */
    struct usage_counts counts;
    /* Set, once, by the feed that brought the first event or line with content in it; a JSON body never sets it. The caller clears
     * it after noting the time. */
    bool first_token;
    /* private: of an event, line or body that is not finished its last USAGE_TAIL bytes at most, in a block of its own */
    uint8_t kind, line;
    bool seen_token, cut, lost;
    uint16_t tail_len, tail_cap;
    char *tail;
};
/* *u may hold anything before. */
void usage_begin(struct usage *u, enum usage_kind kind);
void usage_feed(struct usage *u, const char *data, size_t len);
/* The same for a body's last bytes: a JSON body that comes in one piece is read where it lies. */
void usage_last(struct usage *u, const char *data, size_t len);
void usage_end(struct usage *u); /* reads what is left, gives back the tail; counts stay */
#endif
