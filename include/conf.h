/* conf: pools.yaml -> an immutable struct conf, or all errors at once. The struct is in conf_keys.h, beside the table that fills it,
 * one row a key; the findings are in findings.h. */
#ifndef CONF_H
#define CONF_H
#include "conf_keys.h"

/* Reads and checks the file. Returns the configuration, or NULL if there was an error; findings are appended either way.
 * Environment variables are read here, once. */
struct conf *conf_load(const char *path, struct conf_findings *f);
/* The same from text; path only names it. */
struct conf *conf_parse(const char *path, const char *text, size_t len, struct conf_findings *f);
struct conf *conf_ref(struct conf *c); /* one reference more: two worlds may be built from it */
void conf_free(struct conf *c);        /* one less; the last one frees it */
void conf_findings_free(struct conf_findings *f);
#endif
