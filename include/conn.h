/* conn: a connected socket with its two buffers; the only caller of recv, sendmsg and splice. Knows no HTTP.
 * Reading goes into one shared scratch buffer: only what is still unread when the step ends is copied into a buffer of the
 * connection's own (conn_settle). So an idle or busy connection holds no memory; one with half a message does. */
#ifndef CONN_H
#define CONN_H
#include <sys/uio.h>

#include "buf.h"
#include "loop.h"

#define CONN_SCRATCH ((size_t)256 << 10)
#define CONN_IOV_MAX 64

enum io { IO_OK, IO_AGAIN, IO_END, IO_FAIL }; /* END: the peer closed its sending side; FAIL: errno says */

enum conn_side { CONN_CLIENT, CONN_ENDPOINT, CONN_SIDES };

struct conn_held {
    struct buf in;  /* read, settled, not consumed */
    struct buf out; /* owed: accepted by conn_write, not yet taken by the kernel */
};

struct conn {
    struct loop_fd io;
    struct conn_held *held; /* NULL while it holds no bytes: most of the time */
    uint8_t side;           /* enum conn_side */
    bool ended;             /* END was seen: the peer will send no more */
    bool broken;            /* a read or a write failed for good, or memory ran out */
};

struct conn_totals {
    uint64_t received[CONN_SIDES], sent[CONN_SIDES]; /* bytes on the wire, bodies and heads */
};
const struct conn_totals *conn_totals(void);

/* Takes the descriptor into the loop. False (and the descriptor still the caller's) if the loop refuses. */
bool conn_open(struct conn *c, int fd, enum conn_side side, void (*ready)(struct loop_fd *));
void conn_close(struct conn *c); /* out of the loop, closed, buffers given back. Harmless twice */
static inline bool conn_is_open(const struct conn *c) {
    return c->io.fd >= 0;
}

/* The bytes read and not consumed. Good until the next conn_fill of any connection or conn_settle/consume of this one. */
struct str conn_in(const struct conn *c);
/* One read of at most `want` bytes (<= CONN_SCRATCH) behind what is unread. AGAIN when nothing is there. */
enum io conn_fill(struct conn *c, size_t want);
/* The same straight into memory of the caller's; only while nothing is unread. *got > 0 with OK. */
enum io conn_read_into(struct conn *c, void *dst, size_t want, size_t *got);
void conn_consume(struct conn *c, size_t n);
/* The step is over: what is unread in the scratch moves into the connection's own buffer. False (and broken) without memory. */
bool conn_settle(struct conn *c);

/* Bytes accepted by conn_write that the kernel has not taken yet. */
static inline size_t conn_owes(const struct conn *c) {
    return c->held ? buf_len(&c->held->out) : 0;
}
/* One sendmsg; *sent tells how much went. OK: all of it. AGAIN: less. Nothing is copied; only while nothing is owed. */
enum io conn_send(struct conn *c, const struct iovec *iov, int n, size_t *sent);
/* Sends what is owed and then iov; what the kernel does not take is copied and owed. OK: all gone. AGAIN: some is owed, call conn_flush
 * when writable. */
enum io conn_write(struct conn *c, const struct iovec *iov, int n);
enum io conn_flush(struct conn *c);

/* Body bytes straight from one socket to the other, inside the kernel (splice(2)), at most `most` of them (<= CONN_SCRATCH). Only while
 * nothing is unread at `from` and nothing is owed at `to`. What it returns is the reading side's: OK with *moved > 0. What `to` did
 * not take of them is owed; *wrote is what the writing side said: OK, AGAIN, FAIL. FAIL with *moved 0 and errno EINVAL: this
 * pair of sockets cannot; read and write instead. */
enum io conn_splice(struct conn *from, struct conn *to, size_t most, size_t *moved, enum io *wrote);
bool conn_can_splice(void); /* false once the machine refused a pipe, for a while */

static inline bool conn_readable(const struct conn *c) {
    return c->io.bits & LOOP_READABLE;
}
static inline bool conn_writable(const struct conn *c) {
    return c->io.bits & LOOP_WRITABLE;
}
void conn_shut(struct conn *c);    /* half-close: no more will be sent */
void conn_reset(struct conn *c);   /* the close to come sends RST, so that the peer cannot take a cut for an end */
void conn_test_limit(size_t most); /* tests: no read or write moves more than this many bytes; 0 = no limit */
#endif
