/* health: asks endpoints how they are and what they serve, on a timer, through upstream like any other exchange. */
#ifndef HEALTH_H
#define HEALTH_H
#include "world.h"

/* A world was put in force: endpoints of it are asked from now on (new ones at once), others no more. NULL: none. */
void health_sync(const struct world *w);
#endif
