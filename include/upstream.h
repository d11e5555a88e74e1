/* upstream: one connection to an endpoint: made or reused, a request sent, a response read; then idle or closed by the checklist.
 * Knows its user (a txn, a probe) only through struct upstream_user. */
#ifndef UPSTREAM_H
#define UPSTREAM_H
#include "conn.h"
#include "endpoint.h"
#include "http.h"
#include "timer.h"

enum upstream_state {
    UPSTREAM_NAMING,     /* waits for the first answer about the endpoint's name */
    UPSTREAM_CONNECTING, /* one address after the other */
    UPSTREAM_EXCHANGE,   /* request and response, each in its own time */
    UPSTREAM_IDLE,       /* on the endpoint's idle list */
    UPSTREAM_CLOSED,
};

/* How it went wrong. */
enum upstream_failure {
    UPSTREAM_NO_CONNECT, /* no address took the connection, in time: nothing was sent */
    UPSTREAM_NO_ROOM,    /* we are out of descriptors or memory ourselves: nothing was sent, and the endpoint is not to blame */
    UPSTREAM_STALE,      /* a reused connection died without one response byte, within STALE_MS of sending */
    UPSTREAM_BROKE,      /* died before the response's head was whole */
    UPSTREAM_BAD,        /* what came is no HTTP response we would pass on */
    UPSTREAM_SLOW,       /* first_byte_timeout */
    UPSTREAM_CUT,        /* died in the middle of the body */
    UPSTREAM_STALL,      /* stream_idle_timeout in the middle of the body */
};
#define UPSTREAM_STALE_MS 1000

struct upstream;
struct upstream_user {
    /* The request's bytes from offset on, at most max pieces; 0 pieces = all was sent. */
    int (*pieces)(void *user, uint64_t from, struct iovec *iov, int max);
    /* A final response's head (1xx are dropped before). Spans are good during the call. */
    void (*head)(void *user, const struct http_head *head);
    /* Body bytes, good during the call. `ended`: the response is whole with them (n may be 0); the upstream is released on return. */
    void (*body)(void *user, const struct iovec *spans, int n, bool ended);
    /* After each step in which head or body was called: what was put together goes out now. */
    void (*flush)(void *user);
    bool (*wants)(void *user); /* may more of the body be read? */
    /* May body bytes go straight from socket to socket? The connection they go to, and how many at most; NULL: show them to `body`.
     * `left` of the body are still to come. Then `passed` tells how many went, and what the writing side said. Both NULL: never. */
    struct conn *(*straight)(void *user, uint64_t left, uint64_t *most);
    void (*passed)(void *user, size_t n, enum io wrote);
    void (*failed)(void *user, enum upstream_failure failure, const char *reason); /* it is closed on return */
};

struct upstream_limits { /* ms, 0 = none */
    int64_t connect, first_byte, stream_idle;
};

struct upstream {
    struct list link; /* on the endpoint's idle or waiting list */
    struct conn conn;
    struct http http;
    struct timer timer;
    struct endpoint *endpoint; /* a reference */
    const struct upstream_user *api;
    void *user;                 /* NULL while idle */
    struct http_head *own_head; /* while a head is half read */
    uint64_t sent;              /* bytes of the request that went */
    int64_t started;            /* clock_ms: of this exchange */
    int64_t due; /* clock_ms: no address after; of the exchange's timeout, TIMER_NEVER = none; idle: not reused after */
    uint32_t first_byte, stream_idle;       /* ms, 0 = none */
    uint32_t name_changes;                  /* of the endpoint's name as the connect began: never reused after another */
    uint16_t left;                          /* further exchanges the endpoint allows (Keep-Alive: max), 65535 = not told */
    uint16_t keep_alive_s;                  /* Keep-Alive: timeout, in s, 0 = not told */
    uint8_t state;                          /* enum upstream_state; upstream_set alone writes it */
    uint8_t read_shift;                     /* the next read asks for 2^this bytes: grows while the client keeps up */
    uint8_t first_address, tried_addresses; /* where its way through the addresses began; how many it tried */
    uint8_t informational;                  /* 1xx seen */
    uint8_t got_byte : 1;                   /* of this response */
    uint8_t got_head : 1;
    uint8_t sent_all : 1;
    uint8_t reused : 1;   /* for this exchange an idle connection was taken */
    uint8_t no_reuse : 1; /* early answer, status >= 400, Connection: close …: closes at the end */
    uint8_t in_step : 1;
    uint8_t no_splice : 1;   /* this pair of sockets cannot */
    uint8_t failed_send : 1; /* the endpoint takes no more; what it said before may still lie there */
};

/* For one exchange with that endpoint: an idle connection, or (none, or `fresh`) a new one. Nothing happens before upstream_go,
 * so that the user can note it first. Never NULL. */
struct upstream *upstream_start(struct endpoint *e, const struct upstream_user *api, void *user,
                                const struct upstream_limits *limits, bool head_answer, bool fresh);
void upstream_go(struct upstream *u);         /* callbacks may come from within */
void upstream_resume(struct upstream *u);     /* wants() is true again */
void upstream_abandon(struct upstream *u);    /* the user lets go before the end: closed at once */
void upstream_close_idle(struct endpoint *e); /* all idle connections of one endpoint */
unsigned upstream_idle_count(void);
bool upstream_close_oldest_idle(void); /* makes room for a descriptor; false if none is idle */
unsigned upstream_count(void);         /* idle ones included */
void upstream_setup(void);             /* once, at start: takes the endpoints' hooks for names and ends */
#endif
