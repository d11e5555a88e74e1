/* conn: bytes in and out of one socket.
 * In: a descriptor. Out: unread bytes, enum io. Owns the descriptor, both buffers while they hold bytes, and (all connections together)
 * the scratch.
 * Clears the loop's sticky bits, and is the only one to do so. Never calls its owner; never judges what bytes mean.
 *
 *   kernel --recv--> scratch --settle--> in          iov --sendmsg--> kernel
 *                      |  (owner reads here)           `-- rest --> out --flush--> kernel
 *
 * A read or write shorter than asked means the kernel has no more, so the bit is cleared without the system call that would only
 * say EAGAIN; but not after a HUP, when no further edge may come and reads must go on to the end. */
#include "conn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "slab.h"

static struct slab slab = {.size = sizeof(struct conn_held), .clear = sizeof(struct conn_held)};
static char scratch[CONN_SCRATCH];
static size_t scratch_head, scratch_tail;
static struct conn *scratch_owner;
static struct conn_totals totals;
static size_t test_limit;

const struct conn_totals *conn_totals(void) {
    return &totals;
}

void conn_test_limit(size_t most) {
    test_limit = most;
}

static size_t limited(size_t n) {
    return test_limit && n > test_limit ? test_limit : n;
}

bool conn_open(struct conn *c, int fd, enum conn_side side, void (*ready)(struct loop_fd *)) {
    *c = (struct conn){.side = (uint8_t)side};
    if (loop_add(&c->io, fd, ready, side == CONN_CLIENT ? "client" : "upstream")) return true;
    c->io.fd = -1;
    return false;
}

static struct conn_held *held(struct conn *c) {
    if (!c->held) c->held = slab_get(&slab);
    return c->held;
}

/* Once both are empty. */
static void drop_held(struct conn *c) {
    if (!c->held || c->held->in.mem || c->held->out.mem) return;
    slab_put(&slab, c->held);
    c->held = NULL;
}

void conn_close(struct conn *c) {
    int fd = c->io.fd;
    if (fd < 0) return;
    if (scratch_owner == c) scratch_owner = NULL;
    loop_remove(&c->io);
    close(fd);
    if (!c->held) return;
    buf_free(&c->held->in);
    buf_free(&c->held->out);
    drop_held(c);
}

struct str conn_in(const struct conn *c) {
    if (scratch_owner == c) return (struct str){scratch + scratch_head, scratch_tail - scratch_head};
    return c->held ? buf_str(&c->held->in) : STR("");
}

bool conn_settle(struct conn *c) {
    if (scratch_owner != c) return true;
    struct buf *in = &held(c)->in;
    scratch_owner = NULL;
    buf_put(in, scratch + scratch_head, scratch_tail - scratch_head);
    if (in->failed) c->broken = true;
    return !c->broken;
}

static enum io received(struct conn *c, ssize_t n, size_t want) {
    if (n > 0) {
        totals.received[c->side] += (uint64_t)n;
        if ((size_t)n < want && !(c->io.bits & LOOP_HUP) && !test_limit) c->io.bits &= (uint8_t)~LOOP_READABLE;
        return IO_OK;
    }
    if (n == 0) {
        c->ended = true;
        c->io.bits &= (uint8_t)~LOOP_READABLE; /* an end is told once; asking again would only spin */
        return IO_END;
    }
    if (errno == EAGAIN || errno == EINTR) {
        c->io.bits &= (uint8_t)~LOOP_READABLE;
        return IO_AGAIN;
    }
    c->broken = true;
    c->io.bits &= (uint8_t)~LOOP_READABLE;
    return IO_FAIL;
}

enum io conn_read_into(struct conn *c, void *dst, size_t want, size_t *got) {
    assert(want && conn_in(c).len == 0);
    *got = 0;
    if (c->broken) return IO_FAIL;
    if (c->ended) return IO_END;
    want = limited(want);
    ssize_t n = recv(c->io.fd, dst, want, 0);
    if (n > 0) *got = (size_t)n;
    return received(c, n, want);
}

enum io conn_fill(struct conn *c, size_t want) {
    if (c->broken) return IO_FAIL;
    if (c->ended) return IO_END;
    assert(want && want <= CONN_SCRATCH);
    want = limited(want);
    if (scratch_owner && scratch_owner != c) conn_settle(scratch_owner);
    if (!conn_settle(c)) return IO_FAIL;
    if (c->held &&
        buf_len(&c->held->in)) { /* what its block has no room for goes by the scratch: who drips holds no more than its bytes */
        struct buf *in = &c->held->in;
        size_t room = in->cap - in->tail < want ? in->cap - in->tail : want;
        struct iovec v[2] = {{in->mem + in->tail, room}, {scratch, want - room}};
        ssize_t n = readv(c->io.fd, v, 2);
        if (n > 0) {
            size_t fits = (size_t)n < room ? (size_t)n : room;
            buf_commit(in, fits);
            buf_put(in, scratch, (size_t)n - fits);
            if (in->failed) return c->broken = true, IO_FAIL;
        }
        return received(c, n, want);
    }
    ssize_t n = recv(c->io.fd, scratch, want, 0);
    if (n > 0) {
        scratch_owner = c;
        scratch_head = 0;
        scratch_tail = (size_t)n;
    }
    return received(c, n, want);
}

void conn_consume(struct conn *c, size_t n) {
    if (scratch_owner != c) {
        if (!n) return;
        buf_consume(&c->held->in, n);
        drop_held(c);
        return;
    }
    assert(n <= scratch_tail - scratch_head);
    scratch_head += n;
    if (scratch_head == scratch_tail) scratch_owner = NULL;
}

enum io conn_send(struct conn *c, const struct iovec *iov, int n, size_t *sent) {
    size_t all = 0;
    *sent = 0;
    assert(n > 0 && n <= CONN_IOV_MAX && !conn_owes(c));
    if (c->broken) return IO_FAIL;
    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    struct iovec one;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    if (test_limit) { /* as if the kernel had little room: the first bytes of the first piece */
        while (n > 1 && !iov->iov_len)
            iov++, n--;
        one = (struct iovec){iov->iov_base, limited(iov->iov_len)};
        msg.msg_iov = &one;
        msg.msg_iovlen = 1;
    }
    ssize_t done = sendmsg(c->io.fd, &msg, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS && errno != ENOMEM) {
        c->io.bits &= (uint8_t)~LOOP_WRITABLE;
        return IO_FAIL; /* not `broken`: what the peer sent before is still to be read */
    }
    if (done > 0) *sent = (size_t)done;
    totals.sent[c->side] += *sent;
    if (*sent == all) return IO_OK;
    if (test_limit && done > 0)
        loop_ready(&c->io); /* the kernel has room: no edge will come */
    else
        c->io.bits &= (uint8_t)~LOOP_WRITABLE;
    return IO_AGAIN;
}

static bool owe(struct conn *c, const struct iovec *iov, int n, size_t skip) {
    struct buf *out = &held(c)->out;
    for (int i = 0; i < n; i++) {
        size_t s = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        skip -= s;
        buf_put(out, (const char *)iov[i].iov_base + s, iov[i].iov_len - s);
    }
    if (out->failed) c->broken = true;
    return !c->broken;
}

enum io conn_flush(struct conn *c) {
    while (conn_owes(c)) {
        struct conn_held *h = c->held;
        struct iovec v = {h->out.mem + h->out.head, buf_len(&h->out)};
        size_t sent;
        c->held = NULL; /* conn_send wants to see nothing owed */
        enum io r = conn_send(c, &v, 1, &sent);
        c->held = h;
        buf_consume(&h->out, sent);
        drop_held(c);
        if (r != IO_OK) return r;
    }
    return IO_OK;
}

enum io conn_write(struct conn *c, const struct iovec *iov, int n) {
    size_t sent = 0;
    if (c->broken) return IO_FAIL;
    if (conn_owes(c)) {
        enum io r = conn_writable(c) ? conn_flush(c) : IO_AGAIN;
        if (r == IO_FAIL) return r;
        if (r == IO_AGAIN) return owe(c, iov, n, 0) ? IO_AGAIN : IO_FAIL;
    }
    enum io r = conn_send(c, iov, n, &sent);
    if (r == IO_AGAIN && !owe(c, iov, n, sent)) return IO_FAIL;
    return r;
}

/* ---- splice ---- */

/* One pipe for all: it is empty between calls, for what the writing side does not take is read out of it at once. */
static int pipe_fds[2] = {-1, -1};
static bool no_pipe;

static void drop_pipe(void) {
    if (pipe_fds[0] < 0) return;
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    pipe_fds[0] = pipe_fds[1] = -1;
}

bool conn_can_splice(void) {
    if (pipe_fds[0] >= 0) return true;
    if (no_pipe) return false;
    if (pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC) != 0) {
        no_pipe = errno != EMFILE && errno != ENFILE; /* a shortage passes */
        return false;
    }
    (void)fcntl(pipe_fds[1], F_SETPIPE_SZ, (int)(4 * CONN_SCRATCH)); /* more slots: a segment takes one, however short it is */
    return true;
}

/* n bytes lie in the pipe and the socket takes no more of them now. */
static bool owe_from_pipe(struct conn *to, size_t n) {
    struct buf *out = &held(to)->out;
    while (n) {
        char *at = buf_reserve(out, n);
        ssize_t got = at ? read(pipe_fds[0], at, n) : -1;
        if (got <= 0) {
            drop_pipe();
            to->broken = true;
            return false;
        }
        buf_commit(out, (size_t)got);
        n -= (size_t)got;
    }
    return true;
}

static enum io splice_out(struct conn *to, size_t n) {
    while (n) {
        ssize_t done = splice(pipe_fds[0], NULL, to->io.fd, NULL, limited(n), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (done > 0) {
            totals.sent[to->side] += (uint64_t)done;
            n -= (size_t)done;
            if (!test_limit) continue;
            loop_ready(&to->io); /* as if the kernel had little room, though it has: no edge will come */
            return !n ? IO_OK : owe_from_pipe(to, n) ? IO_AGAIN : IO_FAIL;
        }
        if (done < 0 && errno == EINTR) continue;
        to->io.bits &= (uint8_t)~LOOP_WRITABLE;
        if (done < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)) return owe_from_pipe(to, n) ? IO_AGAIN : IO_FAIL;
        drop_pipe(); /* what lies in it is nobody's */
        return IO_FAIL;
    }
    return IO_OK;
}

enum io conn_splice(struct conn *from, struct conn *to, size_t most, size_t *moved, enum io *wrote) {
    assert(most && pipe_fds[0] >= 0 && conn_in(from).len == 0 && !conn_owes(to));
    *moved = 0;
    *wrote = IO_OK;
    if (from->broken) return IO_FAIL;
    if (from->ended) return IO_END;
    if (to->broken) return *wrote = IO_FAIL, IO_AGAIN;
    ssize_t n = splice(from->io.fd, NULL, pipe_fds[1], NULL, limited(most), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n <= 0) return n < 0 && errno == EINVAL ? IO_FAIL : received(from, n, most);
    totals.received[from->side] += (uint64_t)n; /* a short one means nothing: the pipe's slots may have been full */
    *moved = (size_t)n;
    *wrote = splice_out(to, (size_t)n);
    return IO_OK;
}

void conn_shut(struct conn *c) {
    if (conn_is_open(c)) shutdown(c->io.fd, SHUT_WR);
}

void conn_reset(struct conn *c) {
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    if (conn_is_open(c)) (void)setsockopt(c->io.fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}
