/* node: a YAML text as a tree that knows its places.
 * In: text. Out: one document's tree, or one error with line and column. Owns the tree until node_free.
 * The only file that includes libyaml; no anchors, no aliases, no tags: a configuration reads as it stands. They are noted where
 * they stand and read over; only what leaves no tree to read ends the reading. */
#include "node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 16
#define NODES_MAX 100000

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    struct node_error *err;
    struct str text;
    size_t nodes;
    bool failed;
};

static void fail(struct reader *r, size_t line, size_t column, const char *text) {
    if (r->failed) return;
    r->failed = true;
    r->err->line = (int)line + 1;
    r->err->column = (int)column + 1;
    snprintf(r->err->text, sizeof r->err->text, "%s", text);
}

static void fail_here(struct reader *r, const char *text) {
    fail(r, r->event.start_mark.line, r->event.start_mark.column, text);
}

/* libyaml tells an encoding error's offset alone. */
static void place_of(struct str text, size_t offset, size_t *line, size_t *column) {
    *line = *column = 0;
    for (size_t i = 0; i < offset && i < text.len; i++) {
        if (text.ptr[i] == '\n')
            ++*line, *column = 0;
        else
            *column += ((unsigned char)text.ptr[i] & 0xc0) != 0x80; /* columns are characters, as libyaml counts them */
    }
}

static void syntax_error(struct reader *r) {
    char text[sizeof r->err->text];
    const yaml_parser_t *p = &r->parser;
    size_t line = p->problem_mark.line, column = p->problem_mark.column;
    const char *problem = p->problem ? p->problem : "cannot be read";
    if (p->error == YAML_MEMORY_ERROR) {
        fail(r, line, column, "cannot be read: out of memory");
        return;
    }
    if (p->context && strstr(p->context, "scanning an a")) /* an alias or anchor: `- *` is what people write */
        problem = "a text that begins with * or & must stand in quotes";
    if (p->error == YAML_READER_ERROR) place_of(r->text, p->problem_offset, &line, &column);
    if (strstr(problem, "cannot start any token") && p->buffer.pointer && *p->buffer.pointer == '\t')
        problem = "a tab may not indent in YAML: use spaces";
    if (p->context && problem == p->problem)
        snprintf(text, sizeof text, "not valid YAML: %s (%s)", problem, p->context);
    else
        snprintf(text, sizeof text, "not valid YAML: %s", problem);
    fail(r, line, column, text);
}

static bool next(struct reader *r) {
    yaml_event_delete(&r->event);
    if (r->failed) return false;
    if (yaml_parser_parse(&r->parser, &r->event)) return true;
    memset(&r->event, 0, sizeof r->event);
    syntax_error(r);
    return false;
}

static struct node *new_node(struct reader *r, enum node_kind kind) {
    if (++r->nodes > NODES_MAX) {
        fail_here(r, "too many values in one file");
        return NULL;
    }
    struct node *n = must_alloc(sizeof *n);
    n->kind = kind;
    n->line = (int)r->event.start_mark.line + 1;
    n->column = (int)r->event.start_mark.column + 1;
    return n;
}

static void note_property(struct node *n, const yaml_char_t *anchor, const yaml_char_t *tag) {
    if (n && tag) n->problem = "YAML tags (!name) are not supported";
    if (n && anchor) n->problem = "YAML anchors (&name) are not supported: write the value out where it is used";
}

static struct node *read_value(struct reader *r, unsigned depth);

static struct node *read_scalar(struct reader *r) {
    const unsigned char *text = r->event.data.scalar.value;
    size_t len = r->event.data.scalar.length;
    struct node *n = new_node(r, NODE_SCALAR);
    if (!n) return NULL;
    note_property(n, r->event.data.scalar.anchor, r->event.data.scalar.tag);
    n->unreadable = memchr(text, 0, len) != NULL;
    if (n->unreadable) n->problem = "a NUL stands in this value", len = 0;
    n->text = str_dup((struct str){(const char *)text, len});
    n->len = len;
    n->quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return n;
}

static struct node *read_alias(struct reader *r) {
    struct node *n = new_node(r, NODE_SCALAR);
    if (!n) return NULL;
    n->text = str_dup(STR_NONE);
    n->unreadable = true;
    n->problem = "YAML aliases (*name) are not supported: write the value out, or put a text that begins with * in quotes";
    return n;
}

static void append(struct node *n, struct node *key, struct node *item) {
    if (!(n->count & (n->count - 1))) { /* 0 or a power of two: full */
        size_t room = n->count ? 2 * n->count : 1;
        n->items = must_realloc(n->items, room * sizeof(struct node *));
        if (n->kind == NODE_MAP) n->keys = must_realloc(n->keys, room * sizeof(struct node *));
    }
    if (n->keys) n->keys[n->count] = key;
    n->items[n->count++] = item;
}

static struct node *read_list(struct reader *r, unsigned depth) {
    struct node *n = new_node(r, NODE_LIST);
    note_property(n, r->event.data.sequence_start.anchor, r->event.data.sequence_start.tag);
    while (n && next(r) && r->event.type != YAML_SEQUENCE_END_EVENT) {
        struct node *item = read_value(r, depth + 1);
        if (item) append(n, NULL, item);
    }
    return n;
}

static struct node *read_map(struct reader *r, unsigned depth) {
    struct node *n = new_node(r, NODE_MAP);
    note_property(n, r->event.data.mapping_start.anchor, r->event.data.mapping_start.tag);
    while (n && next(r) && r->event.type != YAML_MAPPING_END_EVENT) {
        if (r->event.type != YAML_SCALAR_EVENT && r->event.type != YAML_ALIAS_EVENT) fail_here(r, "a key must be plain text");
        struct node *key = read_value(r, depth + 1);
        struct node *item = key && next(r) ? read_value(r, depth + 1) : NULL;
        if (item)
            append(n, key, item);
        else
            node_free(key);
    }
    return n;
}

static struct node *read_value(struct reader *r, unsigned depth) {
    if (depth > DEPTH_MAX) fail_here(r, "nested too deeply");
    if (r->failed) return NULL;
    switch (r->event.type) {
    case YAML_SCALAR_EVENT: return read_scalar(r);
    case YAML_SEQUENCE_START_EVENT: return read_list(r, depth);
    case YAML_MAPPING_START_EVENT: return read_map(r, depth);
    case YAML_ALIAS_EVENT: return read_alias(r);
    default: fail_here(r, "not a value"); return NULL;
    }
}

static struct node *read_document(struct reader *r) {
    struct node *root = NULL;
    while (next(r) && r->event.type != YAML_STREAM_END_EVENT) {
        if (r->event.type != YAML_DOCUMENT_START_EVENT) continue;
        if (root) {
            fail_here(r, "a second document begins here: one file, one document");
            break;
        }
        if (next(r)) root = read_value(r, 0);
    }
    if (!r->failed && !root) root = must_alloc(sizeof *root), root->kind = NODE_MAP, root->line = root->column = 1;
    return root;
}

struct node *node_parse(const char *text, size_t len, struct node_error *err) {
    struct reader r = {.err = err, .text = {text, len}};
    if (!yaml_parser_initialize(&r.parser)) {
        fail(&r, 0, 0, "no memory to read it");
        return NULL;
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    struct node *root = read_document(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (r.failed) {
        node_free(root);
        return NULL;
    }
    return root;
}

void node_free(struct node *n) {
    if (!n) return;
    for (size_t i = 0; i < n->count; i++) {
        node_free(n->items[i]);
        if (n->keys) node_free(n->keys[i]);
    }
    free(n->items);
    free(n->keys);
    free(n->text);
    free(n);
}

bool node_is_null(const struct node *n) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    if (n->kind != NODE_SCALAR || n->quoted || n->unreadable) return false;
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++)
        if (strcmp(n->text, nulls[i]) == 0) return true;
    return false;
}
