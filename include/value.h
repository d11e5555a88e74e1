/* value: the small values of a configuration, read strictly. Each returns NULL and its result, or what is wrong, as a static text
 * that says what would be right. */
#ifndef VALUE_H
#define VALUE_H
#include <netinet/in.h>
#include <sys/socket.h>

#include "str.h"

const char *value_duration(struct str s, int64_t *ms); /* 250ms 10s 5m 2h 0; a bare number other than 0 is an error */
const char *value_size(struct str s, uint64_t *bytes); /* 512 64k 100m 1g (powers of 1024, either case) */
const char *value_bool(struct str s, bool *out);       /* true false (yes no on off too) */

/* An endpoint URL, normalised: scheme http:// or unix:. */
struct value_url {
    bool is_unix;
    char host[256]; /* name or address, lower case, no brackets */
    uint16_t port;  /* 80 if not given */
    char path[108]; /* unix: the socket's path */
    char base[512]; /* base path without slash at its end and without a final /v1; "" if none */
    char text[800]; /* normalised: http://host:port/base (v6 in brackets) or unix:/path. The endpoint's identity */
};
/* Errors: https:// (the message says TLS to endpoints is not there yet), user:password, query, fragment, bad port, bad host, other scheme. */
const char *value_url(struct str s, struct value_url *out);

/* An address to listen on: HOST:PORT, [v6]:PORT, :PORT, unix:/path. A host must be an IP address or "localhost". */
struct value_listen {
    struct sockaddr_storage addr; /* unix too */
    socklen_t len;
    bool is_unix;
    bool loopback;  /* unix sockets too */
    char text[128]; /* normalised, for logs */
};
const char *value_listen(struct str s, struct value_listen *out);

struct value_cidr {
    uint8_t addr[16]; /* v4 as v4-mapped */
    uint8_t bits;     /* 0..128 */
};
const char *value_cidr(struct str s, struct value_cidr *out);                 /* an address or address/bits */
bool value_cidr_has(const struct value_cidr *c, const struct in6_addr *host); /* IPv4 as v4-mapped */

/* Glob: * any bytes, ? any one byte, nothing else is special; byte for byte; linear time in practice (no recursion). */
bool value_glob(struct str pattern, struct str text);
size_t value_glob_prefix(struct str pattern); /* length of the literal prefix */
bool value_is_glob(struct str pattern);
/* Edit distance (for "did you mean"), at most cap; larger gives cap. */
unsigned value_distance(struct str a, struct str b, unsigned cap);
#endif
