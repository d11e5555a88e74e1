/* status: the fleet and the last requests, as one JSON document (README.md has its fields). */
#ifndef STATUS_H
#define STATUS_H
#include "buf.h"

void status_render(struct buf *out, bool draining); /* appended */
#endif
