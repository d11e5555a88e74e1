/* front: the door: keys, path and method; then our own answer or an endpoint's. */
#ifndef FRONT_H
#define FRONT_H
#include "client.h"

extern const struct client_user front_api; /* what clients are made with */
/* There is a listener of the operator's: /metrics, /status and /ui are answered only there. */
void front_set_admin(bool there);
/* Answers "too many connections" to a client just accepted, before it asked anything. */
void front_no_room(struct client *c);
#endif
