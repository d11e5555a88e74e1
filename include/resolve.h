/* resolve: names to addresses inside the loop (c-ares), never blocking. One struct resolve_name a host name, whatever ports and
 * endpoints watch it; asked again as its TTL ends, for as long as somebody watches.
 * For tests: the environment variable ROUTER_DNS=IP:PORT ([v6]:PORT) replaces the DNS servers of /etc/resolv.conf. */
#ifndef RESOLVE_H
#define RESOLVE_H
#include "list.h"
#include "sock.h"

#define RESOLVE_ADDRS_MAX   64     /* addresses in use of one name; what an answer has above it is passed over */
#define RESOLVE_HOST_MAX    255    /* bytes of a name (RFC 1035 2.3.4) */
#define RESOLVE_TTL_LEAST   5000   /* ms; shorter TTLs are taken for this */
#define RESOLVE_TTL_MOST    300000 /* ms; longer ones for this */
#define RESOLVE_TTL_NONE    30000  /* ms; where there is none: /etc/hosts */
#define RESOLVE_RETRY_FIRST 1000   /* ms after a failure until it is asked again; doubles */
#define RESOLVE_RETRY_MOST  30000

enum resolve_state {
    RESOLVE_ASKING, /* never answered yet: who needs it waits */
    RESOLVE_KNOWN,  /* has at least one address, and stays so while DNS servers are dead, slow or in trouble */
    RESOLVE_FAILED, /* DNS says there is no such name or no address, or nobody ever told; asked again after 1, 2, 4 ... 30 s */
};

/* Read only. Changes only at the end of a turn, just before its watches are called. */
struct resolve_name {
    enum resolve_state state;
    unsigned naddrs;                           /* 1..RESOLVE_ADDRS_MAX while KNOWN, else 0 */
    unsigned changes;                          /* goes up whenever the set of addresses becomes another one */
    struct sock_addr addrs[RESOLVE_ADDRS_MAX]; /* AF_INET and AF_INET6, port 0; see resolve_merge for their order */
    uint8_t moved[RESOLVE_ADDRS_MAX];          /* resolve_place's */
};

/* Somebody who wants to know; embedded in its owner, zeroed before the first resolve_watch. */
struct resolve_watch {
    struct list link;
    struct resolve_name *name;               /* NULL = watches nothing */
    void (*changed)(struct resolve_watch *); /* at the end of a turn: its first answer (also one that was there already), then
                                                whenever the name's state or set of addresses is another; may watch and unwatch */
    bool told;
};

const char *resolve_open(void); /* after loop_open. NULL, or what failed; a ROUTER_DNS that is no IP:PORT is an error */
/* Ends all questions. Names still watched are asked no more; resolve_unwatch frees them as ever. */
void resolve_close(void);

/* Watches a name of 1 to RESOLVE_HOST_MAX bytes, or an IP address (v6 without brackets), which is KNOWN on return. Sets w->name;
 * `changed` is never called from within. */
void resolve_watch(struct resolve_watch *w, struct str host, void (*changed)(struct resolve_watch *));
/* Nobody answers at its addresses: asked again at once, whatever its TTL (a recreated container has another address, and Docker's
 * DNS a TTL of 10 min), but not within RESOLVE_TTL_LEAST of the last time. */
void resolve_again(const struct resolve_watch *w);
void resolve_unwatch(struct resolve_watch *w); /* never called again; the last one frees the name. w->name becomes NULL */

/* During `changed`: where the address is now that stood at place `was` before; 0 if it is gone. */
unsigned resolve_place(const struct resolve_name *n, unsigned was);

/* Puts an answer into the list in use, so that answers in changing order move nobody: addresses known before keep their order
 * and stand first, new ones follow as the answer has them, those it lacks are dropped; twice the same counts once. moved[i] is the
 * new place of the i-th, RESOLVE_ADDRS_MAX if dropped. True if the set is another. */
bool resolve_merge(struct sock_addr addrs[RESOLVE_ADDRS_MAX], unsigned *naddrs, const struct sock_addr *answer, unsigned nanswer,
                   uint8_t moved[RESOLVE_ADDRS_MAX]);
/* ms until a name with that TTL (in s; -1 = none) is asked again. */
int64_t resolve_ttl_ms(int64_t ttl);

void resolve_test_conf(const char *path); /* tests: before resolve_open, in place of /etc/resolv.conf; NULL = that again */
#endif
