/* probe: -healthcheck: one GET from the command line, for an image without curl. */
#ifndef PROBE_H
#define PROBE_H
#include "conf.h"

/* Exit status: 0 if the URL answers 200 within 5 s, else 1 with a line on stderr. */
int probe_url(const char *url);
/* The same for /health on an address that is listened on (a wildcard address is asked on loopback). */
int probe_listen(const struct value_listen *l);
#endif
