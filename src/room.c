/* room: who gives way when connections or descriptors run out.
 * In: the clients between two requests. Out: one of them closed. Owns nothing; those of admin_listen never give way. */
#include "room.h"

#include "client.h"
#include "clock.h"
#include "world.h"

#define LOOK 64

/* A connection just made has its first request on the way: to close it for the next one would only turn newcomers away by newcomers. */
static bool is_new(const struct client *c) {
    int64_t timeout = world_current()->conf->idle_timeout;
    return c->fresh && timeout && c->timer.when - clock_ms() > timeout - CLIENT_FRESH_MS;
}

static struct client *longest_idle(void) {
    int looked = 0;
    list_each(it, client_idle_list()) {
        struct client *c = list_entry(it, struct client, link);
        if (c->admin) continue;
        if (!is_new(c)) return c;
        if (++looked == LOOK) break; /* behind so many new ones nobody has been idle for long */
    }
    return NULL;
}

bool room_from_clients(void) {
    for (struct client *c; (c = longest_idle());)
        if (client_give_way(c)) return true;
    return false;
}
