/* findings: what a check of the configuration found: errors and warnings with their places, put in order at the end. */
#ifndef FINDINGS_H
#define FINDINGS_H
#include "node.h"

#define FINDINGS_MAX 1000 /* errors that are kept, and as many warnings; what is above is counted, and said so once */

/* One finding of a check: an error or a warning with its place. */
struct conf_finding {
    int line, column; /* from 1; 0 where it has no place (file not readable) */
    bool warning;
    char *text; /* "key: what is wrong": one line, no control bytes, never the value of a key */
};
struct conf_findings {          /* all zero is an empty one */
    struct conf_finding *items; /* sorted by place once conf_load returns */
    size_t count;
    size_t errors, warnings; /* all there were, kept or not */
};

/* `key` is the key it is about, as a person would look for it; at: where it stands, NULL = nowhere. */
void findings_error(struct conf_findings *f, const struct node *at, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void findings_warning(struct conf_findings *f, const struct node *at, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
bool findings_full(const struct conf_findings *f); /* a further error would not be kept: no need for a good text */
void findings_sort(struct conf_findings *f);       /* by line, then column; what stands at one place as it was found */
void findings_free(struct conf_findings *f);       /* empty and usable again */
#endif
