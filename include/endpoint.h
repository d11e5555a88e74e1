/* endpoint: one LLM server's address: who it is, how it is, how busy it is. One for each URL, whatever pools it stands in;
 * survives a reload. Touches no socket. */
#ifndef ENDPOINT_H
#define ENDPOINT_H
#include "conf.h"
#include "models.h"
#include "resolve.h"
#include "sock.h"
#include "timer.h"

enum endpoint_state { ENDPOINT_UP, ENDPOINT_LOADING, ENDPOINT_DOWN, ENDPOINT_DRAINING, ENDPOINT_STATES };

/* What became of one try or probe, as far as the endpoint's health is concerned. */
enum endpoint_sign {
    SIGN_ALIVE,   /* a whole answer below 500, or a connect that succeeded with a byte of response */
    SIGN_LOADING, /* 503 to a probe, or llama.cpp's "Loading model" to a request */
    SIGN_FAILED,  /* connect refused or timed out, probe answered 5xx, broke or timed out */
    SIGN_NO_NAME, /* its name does not resolve */
};

struct endpoint {
    struct list link; /* registry */
    unsigned refs;    /* pools' members and upstreams */
    struct value_url url;
    char host[300]; /* for the Host field: name:port, [v6]:port; "localhost" for a unix socket */
    uint64_t hash;  /* of url.text, for rendezvous */

    /* From the configuration in force; endpoint_configure writes them. */
    char *api_key;
    unsigned max_inflight; /* the lowest given in any pool; 0 = unlimited */
    unsigned keepalive_max_idle;
    int64_t keepalive_timeout;
    char *health_path;
    int64_t health_interval, health_timeout, connect_timeout;
    unsigned rise, fall;
    char *models_path;
    int64_t models_interval;

    /* Where it is: unset for a unix socket. */
    struct resolve_watch watch;
    bool named;          /* host is watched; false for a unix socket */
    unsigned good;       /* index of the address that worked last */
    struct list waiting; /* upstreams that wait for the first answer about the name (upstream's) */

    /* How it is. */
    uint8_t state;                 /* enum endpoint_state, without drained: see endpoint_state() */
    bool drained;                  /* by an operator, until undrained */
    bool probed;                   /* the first probe has ended, or there are none */
    char reason[96];               /* of the last change, for people */
    int64_t since;                 /* clock_wall_ms of the last change */
    int64_t up_since;              /* clock_ms, for slow_start */
    unsigned passes, fails;        /* in a row */
    int64_t offer_at, offer_delay; /* no probes: when a down endpoint is offered a request, and the delay after the next failure */
    int64_t last_byte;             /* clock_ms of the last byte of a response to a request (not to a probe) */

    /* How busy it is. in_flight is dispatch's alone to write. */
    unsigned in_flight;
    struct list idle; /* upstreams, the last used first (upstream's) */
    unsigned nidle;
    uint64_t requests, failures;

    /* What it says it serves. */
    struct models models;
    bool models_known;
    struct health *health; /* health's own part; NULL if none */
};

struct endpoint *endpoint_get(const struct value_url *url); /* the one of that URL, made if new; one reference more */
void endpoint_ref(struct endpoint *e);
void endpoint_unref(struct endpoint *e); /* the last one frees it: its idle list must be empty by then */
/* Takes over what a configuration says of it; `first` of this world replaces, a further pool's narrows max_inflight. */
void endpoint_configure(struct endpoint *e, const struct conf_endpoint *c, const struct conf_policy *p, bool first);
struct list *endpoint_all(void); /* of struct endpoint.link */

enum endpoint_state endpoint_state(const struct endpoint *e);
const char *endpoint_state_name(enum endpoint_state s);
bool endpoint_usable(const struct endpoint *e); /* may be offered a request now: up, or down without probes and its time has come */
bool endpoint_full(const struct endpoint *e);   /* in_flight has reached max_inflight */
void endpoint_sign(struct endpoint *e, enum endpoint_sign sign, const char *reason);
/* A request was given to it though it is not up (no probes): the next one waits for this one's outcome. */
void endpoint_offered(struct endpoint *e);
void endpoint_drain(struct endpoint *e, bool on);
/* The i-th address on the way of a connect that began at the `first`, with the URL's port. Others' connects do not change that way,
 * though they may find an address that works. False: there are no more. */
bool endpoint_address(const struct endpoint *e, unsigned first, unsigned i, struct sock_addr *out);

/* Set once by who stands below: called when an endpoint's name got its first or another answer, when its last reference goes
 * (idle connections must be closed). NULL = nobody. */
struct endpoint_hooks {
    void (*name)(struct endpoint *e);
    void (*gone)(struct endpoint *e);
};
void endpoint_set_hooks(const struct endpoint_hooks *hooks);
/* The same for whoever wants to know that a state changed. */
void endpoint_on_change(void (*changed)(struct endpoint *e));
#endif
