/* models: an endpoint's answer to its model list, whichever shape: OpenAI {"data":[{"id"}]}, Ollama {"models":[{"name"|"model"}]}. */
#ifndef MODELS_H
#define MODELS_H
#include "str.h"

#define MODELS_MAX      4096 /* entries of one endpoint; more are dropped and `truncated` says so */
#define MODELS_BODY_MAX ((size_t)4 << 20)

struct models_entry {
    char *id; /* NUL-terminated */
    char *
        json; /* the entry as a JSON object with at least "id" and "object", unknown fields kept byte-equal in value; NULL if it was only a name */
};
struct models {
    struct models_entry *entries; /* in the order told, an id once */
    size_t count;
    bool truncated;
};
/* NULL and *out filled, or what is wrong (not JSON, no list in it). Ids that are not non-empty strings without NUL are passed over.
 * If `data` is an array it counts and `models` beside it is ignored. */
const char *models_parse(struct str body, struct models *out);
void models_free(struct models *m); /* leaves it empty */
#endif
