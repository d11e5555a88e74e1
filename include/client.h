/* client: a connection from a caller. Requests come out, replies go in: keep-alive, pipelining, timeouts, the lingering close.
 * Knows what stands below it only through struct client_user. */
#ifndef CLIENT_H
#define CLIENT_H
#include "body.h"
#include "conf.h"
#include "conn.h"
#include "http.h"
#include "sock.h"
#include "timer.h"

enum client_state {
    CLIENT_IDLE,    /* between requests, or before its first byte */
    CLIENT_HEAD,    /* part of a head is here */
    CLIENT_BODY,    /* the head is accepted, the body is arriving */
    CLIENT_BUSY,    /* the user has the whole request, or has begun to answer */
    CLIENT_DISCARD, /* answered before the body was read: the rest of it is thrown away */
    CLIENT_LINGER,  /* last reply sent, half-closed: what still comes is thrown away, so that no reset destroys the reply */
    CLIENT_CLOSED,
};

struct client;

/* Who handles the requests. `user` in struct client is what begin returned, until client_done or gone. */
struct client_user {
    void *(*begin)(struct client *c);                                 /* the first byte of a head */
    void (*head)(struct client *c, const struct http_head *head);     /* a whole head; spans are good during the call only.
                                                                     Calls client_accept or answers at once */
    enum why (*body)(struct client *c, const char *data, size_t len); /* bytes just stored; anything but WHY_NONE refuses */
    void (*request)(struct client *c);                                /* the whole request has arrived and is stored */
    void (*refused)(struct client *c, enum why why,
                    const char *text);            /* not HTTP, too large, too slow …: answer that. text may be NULL */
    void (*drained)(struct client *c);            /* everything given to client_write has gone */
    void (*gone)(struct client *c, enum why why); /* the connection is lost: forget it. It is closed after the call */
};

struct client_reading; /* what is needed only while a request arrives */
struct client {
    struct list link; /* all clients of a state class: idle ones in one list, the longest idle first; others in another */
    struct conn conn;
    struct timer timer;
    const struct client_user *api;
    void *user;
    struct client_reading *reading; /* NULL between requests, and once the whole of one is here */
    struct in6_addr peer;           /* as sock_host gives it */
    int64_t linger_start;           /* clock_ms */
    uint32_t head_used;             /* bytes of the head that user->head looks at */
    union {
        uint32_t lingered; /* bytes thrown away while lingering */
        uint32_t unsent;   /* bytes in the kernel when send_timeout was armed, or when idle_timeout was over a first time */
    };
    uint8_t state;    /* enum client_state; client_set alone writes it */
    bool admin;       /* came by admin_listen */
    bool close_after; /* no further request after this one */
    bool fresh;       /* its first request has not begun */
    bool in_step;
};

/* A new connection; takes the descriptor over. NULL if the loop refuses (the descriptor is closed). */
struct client *client_new(int fd, const struct sock_addr *peer, bool admin, const struct client_user *api);
/* Answers a connection just made with that refusal, before it asked anything. */
void client_refuse(struct client *c, enum why why);
/* From user->head: the request is wanted; its body is stored there, at most max bytes. */
void client_accept(struct client *c, struct body *store, uint64_t max);
/* Response bytes. AGAIN: some wait in the connection; stop until `drained`. FAIL: the client is lost, `gone` follows at the turn's end. */
enum io client_write(struct client *c, const struct iovec *iov, int n);
/* The same for bytes that conn_splice wrote past it: what that said. */
void client_passed(struct client *c, enum io io);
static inline bool client_owes(const struct client *c) {
    return conn_owes(&c->conn) != 0;
}
/* True: the connection will not be used again after this answer, which must say so. */
bool client_closes(const struct client *c);
/* The response is complete and everything of it has gone (not client_owes). The user has let go. */
void client_done(struct client *c, bool close);
/* The response cannot be completed: what is owed still goes, then the connection ends without a clean end (reset: even where
 * only the close would have marked the end). The user has let go. */
void client_cut(struct client *c, bool reset);
void client_close(struct client *c);  /* at once; the user, if any, is told nothing */
void client_resume(struct client *c); /* take up reading again after the user let go */

void client_close_all(void);            /* at the end of the process */
unsigned client_count(void);            /* without those of admin_listen */
unsigned client_idle_count(void);       /* of those, between requests */
struct list *client_idle_list(void);    /* the longest idle first, those of admin_listen among them */
bool client_give_way(struct client *c); /* of an idle one: closed if nothing came meanwhile; true if it is */
#define CLIENT_FRESH_MS 1000            /* for a request on its way on a connection just made: to close that would refuse it */
/* Drain: idle clients are read once more and closed if nothing came; all others close after their response. */
void client_drain_all(void);
#endif
