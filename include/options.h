/* options: the command line. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include "value.h"

enum options_verb { VERB_RUN, VERB_TEST, VERB_EXPLAIN, VERB_HEALTHCHECK, VERB_VERSION, VERB_HELP };

struct options {
    enum options_verb verb;
    const char *config;          /* default pools.yaml */
    struct value_listen *listen; /* malloc'ed; NULL if none was given */
    size_t nlisten;
    const char *url;          /* of -healthcheck; NULL = the configured address */
    const char *model, *user; /* of -explain */
};

/* Reads argv (flags take one or two dashes, -flag value or -flag=value). NULL, or what is wrong, good until the next call. */
const char *options_read(struct options *o, int argc, char **argv);
extern const char options_usage[];
#endif
