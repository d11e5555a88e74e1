/* conf_read: one value of the configuration from its node. Every reader says what is wrong at the node's place, under the key's
 * name, and returns false; else the value and true. A node that the tree already has a problem with is false without a word:
 * conf_read_tidy has reported it. Scalars are expanded first: ${NAME}, ${NAME:-default}, $${ for a literal ${. */
#ifndef CONF_READ_H
#define CONF_READ_H
#include "findings.h"
#include "value.h"

#define CONF_TEXT_MAX   ((size_t)64 << 10) /* bytes of one expanded value */
#define CONF_NAME_MAX   64                 /* of a pool's name */
#define CONF_MODEL_MAX  512                /* of a model's name */
#define CONF_PATH_MAX   1024               /* of a URL path */
#define CONF_SECRET_MAX 4096               /* of a key */

/* Once over the whole tree, before anything is read: reports anchors, aliases, tags and keys given twice, whose later values are
 * taken out. */
void conf_read_tidy(struct conf_findings *f, struct node *root);

bool conf_read_list(struct conf_findings *f, const char *key, const struct node *n); /* is it a list? */
bool conf_read_map(struct conf_findings *f, const char *key, const struct node *n);
const struct node *conf_read_member(const struct node *map, const char *name); /* NULL if absent; says nothing */

/* *out is malloc'ed, not empty, NUL-terminated. */
bool conf_read_text(struct conf_findings *f, const char *key, const struct node *n, char **out);
bool conf_read_pool_name(struct conf_findings *f, const char *key, const struct node *n, char **out);
bool conf_read_model(struct conf_findings *f, const char *key, const struct node *n, char **out);
bool conf_read_url_path(struct conf_findings *f, const char *key, const struct node *n, bool query, char **out);
bool conf_read_origin(struct conf_findings *f, const char *key, const struct node *n, char **out); /* "*" or scheme://host */
bool conf_read_secret(struct conf_findings *f, const char *key, const struct node *n, char **out);
/* The file that the node names; its keys, one a line, are added to (*keys)[*count]. *path is malloc'ed, also when it is unreadable. */
bool conf_read_secrets_file(struct conf_findings *f, const char *key, const struct node *n, char **path, char ***keys,
                            size_t *count);

bool conf_read_bool(struct conf_findings *f, const char *key, const struct node *n, bool *out);
bool conf_read_number(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, uint64_t *out);
/* Bytes; with zero_too, 0 is right as well as min..max. */
bool conf_read_size(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, bool zero_too,
                    uint64_t *out);
bool conf_read_duration(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, int64_t *ms);
/* choices: "user|model|none"; *out is the index of the one. */
bool conf_read_choice(struct conf_findings *f, const char *key, const struct node *n, const char *choices, unsigned *out);
bool conf_read_listen(struct conf_findings *f, const char *key, const struct node *n, struct value_listen *out);
bool conf_read_cidr(struct conf_findings *f, const char *key, const struct node *n, struct value_cidr *out);
bool conf_read_url(struct conf_findings *f, const char *key, const struct node *n, struct value_url *out);

/* NULL, or what is wrong with a name accepted from clients or sent to endpoints (static). */
const char *conf_read_model_wrong(struct str name);
/* A size or duration as a person writes it, "64k", "30s"; into text of at least 24 bytes. */
const char *conf_read_size_text(uint64_t bytes, char text[24]);
const char *conf_read_duration_text(uint64_t ms, char text[24]);
#endif
