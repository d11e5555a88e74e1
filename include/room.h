/* room: descriptors for newcomers, from connections that only wait. */
#ifndef ROOM_H
#define ROOM_H
#include <stdbool.h>

bool room_from_clients(void); /* closes the client that has been idle longest; false if there is none to close */
#endif
