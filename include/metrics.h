/* metrics: everything that is counted, as Prometheus text (exposition format 0.0.4). */
#ifndef METRICS_H
#define METRICS_H
#include "buf.h"

/* The whole page, appended. Labels come from the configuration in force, never from clients. */
void metrics_render(struct buf *out);
#endif
