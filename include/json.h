/* json: a resumable checker of one JSON object over bytes as they arrive (RFC 8259), which notes where the values lie that
 * routing needs. Nothing is copied or decoded on the way; cJSON decodes only the few values found, later. */
#ifndef JSON_H
#define JSON_H
#include "str.h"

struct json_scan;

#define JSON_DEPTH_MAX 512
#define JSON_WANTS_MAX 24
#define JSON_KEY_MAX   64                  /* longest key that can be wanted, decoded, bytes */
#define JSON_STEP_MAX  ((size_t)256 << 10) /* json_feed looks at no more than this in one call */

enum json_type { JSON_ABSENT, JSON_STRING, JSON_OBJECT, JSON_ARRAY, JSON_OTHER }; /* OTHER: number, true, false, null */

/* Where a value lies: offsets from the body's first byte. A string's are of what stands between its quotes. */
struct json_value {
    size_t off, len;
    uint8_t type; /* enum json_type */
    bool escaped; /* a string with a backslash in it: must be decoded to be used */
};

/* A member to look out for: top-level `key`, or (sub not empty) the member `sub` of a top-level object `key`.
 * Names are compared decoded, byte for byte. */
struct json_want {
    struct str key, sub;
};

enum json_status { JSON_MORE, JSON_DONE, JSON_BAD }; /* DONE: the object is closed; only blanks may follow and json_end judges */

struct json {
    /* What was found. Of a member given twice the last one counts (as Python and Go read it), but for `model`. */
    struct json_value model;                 /* type JSON_ABSENT if there was none */
    unsigned models;                         /* how many members are named model, ASCII case ignored, or have a name that some
                                                lenient reader may take for it: cut by a NUL, or broken off (a bad escape, bytes
                                                that are no UTF-8) where it still began like model */
    struct json_value found[JSON_WANTS_MAX]; /* by index of the want; for a want with only a key that is an object, its string
                                                member "id" is what is noted (type JSON_STRING), else the object itself */
    /* The conversation's beginning: raw extent of the `content` of the first message with role system or developer, and of
     * the first with role user, in top-level `messages` or `input` arrays of objects (role before or after content); a message
     * whose content is absent, null, a number or a boolean is passed over. Set when the object is closed.
     * Extent of a string: between its quotes; of an array or object: with its brackets. */
    struct json_value first_system, first_user;
    struct json_value system, instructions,
        input;                  /* top-level members of those names: string or array extents; input also if a string */
    const char *error;          /* JSON_BAD: what is wrong, for a person; static */
    size_t at;                  /* bytes looked at so far = offset of the next; at JSON_BAD of the culprit */
    size_t steps, longest_step; /* calls of json_feed, and the most bytes one looked at */

    /* private */
    const struct json_want *wants;
    size_t nwants;
    const struct json_scan *scan;
    const char *chunk;                   /* this call's first byte, at offset `at` */
    uint64_t stack[JSON_DEPTH_MAX / 64]; /* a bit a level: object or array */
    size_t off;                          /* where the string, number or word that runs began */
    size_t outer_off, inner_off;         /* where the object or array began that is wanted ... */
    uint32_t hits;                       /* what the value that comes or runs is wanted for; 0 of most */
    uint32_t outer_hits, inner_hits;     /* ... of the top-level member, of the watched member in it, and what for */
    uint32_t members;                    /* wants whose key is the top-level object that is open */
    unsigned seen;                       /* JSON_SCAN_* of the string that runs */
    uint16_t depth, kept;                /* levels open; bytes in raw */
    uint8_t state, watch, list, role;    /* watch: the level whose keys are looked at */
    bool in_key, keep;                   /* of the string that runs: it is a key; its text is looked at when it ends */
    const char *word;                    /* what is left of true, false, null */
    struct json_value content;           /* of the message that is open */
    struct json_value first[2][2];       /* [messages, input][system, user] */
    char raw[6 * (JSON_KEY_MAX + 1)];    /* a text to be looked at that came in pieces, as it was written */
};

/* wants may be NULL with nwants 0; must outlive the checker. nwants <= JSON_WANTS_MAX. */
void json_begin(struct json *j, const struct json_want *wants, size_t nwants);
/* Looks at min(len, JSON_STEP_MAX) bytes and says in *used how many: all of them unless JSON_BAD. */
enum json_status json_feed(struct json *j, const char *data, size_t len, size_t *used);
/* The body is over: JSON_DONE if it was one whole object, else JSON_BAD with an error. */
enum json_status json_end(struct json *j);

/* Decodes the inside of a JSON string (what stood between the quotes) with cJSON into dst, NUL-terminated, at most cap-1 bytes.
 * Returns NULL and the length in *len, or what is wrong (a bad escape, a lone surrogate, a NUL in it, longer than cap-1). */
const char *json_decode(struct str raw, char *dst, size_t cap, size_t *len);
/* Writes text as the inside of a JSON string: the bytes an alias's target becomes in a body. Returns the length, 0 if cap is too small. */
size_t json_encode(struct str text, char *dst, size_t cap);
#endif
