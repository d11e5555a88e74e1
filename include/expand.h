/* expand: names whose every address is an endpoint of its own (`expand: dns`, as for a headless service), watched while a world has
 * them. One struct expansion a host name. */
#ifndef EXPAND_H
#define EXPAND_H
#include "resolve.h"

struct expansion;
struct expansion *expand_get(const char *host);                    /* a reference more; made, and asked for from now on, if new */
void expand_put(struct expansion *x);                              /* the last one ends the watch */
const struct resolve_name *expand_name(const struct expansion *x); /* its addresses now; ASKING before the first answer */
/* Called at the end of a turn in which the set of addresses of one of them became another: a world must be built anew. */
void expand_on_change(void (*changed)(void));
#endif
