/* explain: -explain MODEL [USER]: where a request would go, from the configuration alone. */
#ifndef EXPLAIN_H
#define EXPLAIN_H
#include "conf.h"

/* Prints pool, reason and ordered endpoints on stdout; takes conf over. Exit status: 0, or 1 if no pool matches. */
int explain_route(struct conf *conf, const char *model, const char *user);
#endif
