/* node: a YAML file as a tree in which every node knows its line and column. libyaml's events, no anchors, no tags. */
#ifndef NODE_H
#define NODE_H
#include "str.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct node {
    enum node_kind kind;
    int line, column; /* of its first character, from 1 */
    char *text;       /* scalar: NUL-terminated, as YAML reads it; never NULL there */
    size_t len;
    bool quoted;         /* scalar in quotes or a block: never null */
    bool unreadable;     /* an alias, or a NUL in it: text is empty and must not be used; `problem` says why */
    const char *problem; /* an anchor, alias, tag or NUL, in words (static); NULL = none. The tree is read on, so that whoever
                            looks at it finds all of them in one go */
    size_t count;        /* list items, or map entries */
    struct node **items; /* list items, or map values */
    struct node **keys;  /* map keys, scalars; in file order, duplicates kept (conf reports them) */
};

struct node_error {
    int line, column;
    char text[256];
};

/* The one document of a YAML text; NULL and *err on a syntax error, a second document, a key that is no scalar, nesting deeper
 * than 16, more than 100,000 nodes. An empty text is an empty map. */
struct node *node_parse(const char *text, size_t len, struct node_error *err);
void node_free(struct node *n);
bool node_is_null(const struct node *n); /* nothing, ~ or null, unquoted */
#endif
