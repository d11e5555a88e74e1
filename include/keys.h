/* keys: who may ask. Keys are compared in constant time and appear in no output. */
#ifndef KEYS_H
#define KEYS_H
#include "conf.h"
#include "http.h"
#include "why.h"

/* WHY_NONE if the request carries one of the keys (Bearer, x-api-key, or with `basic` the password of Basic), or there are none. */
enum why keys_check(char *const *keys, size_t count, const struct http_head *head, bool basic);
/* True for the Host of somebody who knows where he is: an IP address or "localhost", with or without a port. A page whose name was
 * rebound to our address has that name there. An empty one passes: no browser sends it. */
bool keys_host_is_local(struct str host);
#endif
