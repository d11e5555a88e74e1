/* floor: the least a forwarder can do, as the limit the router is measured against.
 * One thread, one epoll loop, one backend. In: requests with a Content-Length or none; out: the same bytes, both ways.
 * It looks at the end of each head and at Content-Length, and at nothing else; an answer without a length is forwarded
 * until either side closes. Upstream connections are kept and reused, the last one first.
 *   -hold    reads the whole request body before it sends the first byte, as a router that may retry has to
 *   -splice  moves answer bodies by splice(2) through a pipe
 * It owns its connections, a free list of blocks and one of pipes. No pipelining, no timeouts, no retries, no errors
 * but the closing of both sides. Edge-triggered: a socket is registered once, and a short read ends a turn.
 *
 *   client readable -> [block] -> upstream.out -> writev        upstream readable -> [block or pipe] -> client.out -> writev */
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, HEAD_READ = 4096, PIPE = 1024 * 1024, SPLICE_FROM = 32 * 1024, IDLE_MAX = 8192, IOV_MAX_HERE = 64 };

struct block {
    struct block *next;
    size_t len;
    char data[BLOCK];
};

struct tube {
    struct tube *next;
    int in, out;
    size_t held;
};

struct conn {
    int fd;
    bool is_client;
    bool blocked;               /* a write found no room: go on when writable */
    bool ended;                 /* the far side has sent its last byte: a short read is no reason to stop */
    bool in_body;               /* the head of the message being read from this fd has passed */
    long long left;             /* body bytes still to be read from this fd; -1: until it closes */
    struct conn *peer;          /* the other side of the exchange; idle without */
    struct conn *next;          /* in the list of idle upstreams, or of the dead */
    struct block *first, *last; /* bytes to be written to this fd */
    size_t offset;              /* of the first unwritten byte in first */
    struct block *partial;      /* an unfinished head read from this fd */
    struct tube *tube;          /* spliced bytes to be written to this fd */
};

static bool hold, by_splice;
static int loop_fd;
static struct sockaddr_in backend;
static struct block *free_blocks;
static struct tube *free_tubes;
static struct conn *idle, *dead, *free_conns;
static unsigned idle_count;

static void step(struct conn *c);

static struct block *block_get(void) {
    struct block *b = free_blocks;
    if (b)
        free_blocks = b->next;
    else if (!(b = malloc(sizeof *b)))
        net_die("malloc");
    b->next = NULL;
    b->len = 0;
    return b;
}

static void block_put(struct block *b) {
    b->next = free_blocks;
    free_blocks = b;
}

static struct tube *tube_get(void) {
    struct tube *t = free_tubes;
    if (t) {
        free_tubes = t->next;
        return t;
    }
    int fds[2];
    if (!(t = malloc(sizeof *t)) || pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) net_die("pipe");
    fcntl(fds[1], F_SETPIPE_SZ, PIPE); /* a smaller pipe works as well */
    *t = (struct tube){.out = fds[0], .in = fds[1]};
    return t;
}

static void tube_put(struct tube *t) {
    if (t->held) { /* bytes of a broken exchange must not reach the next one */
        close(t->in);
        close(t->out);
        free(t);
        return;
    }
    t->next = free_tubes;
    free_tubes = t;
}

static struct conn *conn_new(int fd, bool is_client) {
    struct conn *c = free_conns;
    if (c)
        free_conns = c->next;
    else if (!(c = malloc(sizeof *c)))
        net_die("malloc");
    *c = (struct conn){.fd = fd, .is_client = is_client};
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &e) < 0) net_die("epoll_ctl");
    return c;
}

/* Its memory stays until the batch of events is over: one of them may still point to it. */
static void conn_close(struct conn *c) {
    close(c->fd);
    c->fd = -1;
    for (struct block *b = c->first, *next; b; b = next) {
        next = b->next;
        block_put(b);
    }
    if (c->partial) block_put(c->partial);
    if (c->tube) tube_put(c->tube);
    c->next = dead;
    dead = c;
}

static void bury_dead(void) {
    while (dead) {
        struct conn *c = dead;
        dead = c->next;
        c->next = free_conns;
        free_conns = c;
    }
}

static void conn_close_both(struct conn *c) {
    struct conn *peer = c->peer;
    if (!c->is_client && !peer) {
        for (struct conn **at = &idle; *at; at = &(*at)->next)
            if (*at == c) {
                *at = c->next;
                idle_count--;
                break;
            }
    }
    conn_close(c);
    if (peer) conn_close(peer);
}

/* The answer is out: the upstream waits for its next request, the client may send one. */
static void exchange_end(struct conn *client) {
    struct conn *up = client->peer;
    client->peer = up->peer = NULL;
    client->in_body = up->in_body = false;
    if (idle_count >= IDLE_MAX) {
        conn_close(up);
        return;
    }
    up->next = idle;
    idle = up;
    idle_count++;
}

static bool is_whole(const struct conn *client) {
    const struct conn *up = client->peer;
    return up && up->in_body && up->left == 0 && client->left == 0 && !client->first && !client->tube && !up->first;
}

/* Writes what waits for this fd. False: closed, both. */
static bool flush(struct conn *c) {
    while (c->first) {
        struct iovec iov[IOV_MAX_HERE];
        int count = 0;
        size_t offset = c->offset;
        for (struct block *b = c->first; b && count < IOV_MAX_HERE; b = b->next, offset = 0)
            iov[count++] = (struct iovec){b->data + offset, b->len - offset};
        ssize_t n = count == 1 ? send(c->fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL) : writev(c->fd, iov, count);
        if (n < 0 && errno == EAGAIN) {
            c->blocked = true;
            return true;
        }
        if (n < 0) {
            conn_close_both(c);
            return false;
        }
        c->offset += (size_t)n;
        while (c->first && c->offset >= c->first->len) {
            struct block *b = c->first;
            c->offset -= b->len;
            c->first = b->next;
            block_put(b);
        }
    }
    c->last = NULL;
    return true;
}

static void append(struct conn *to, struct block *b) {
    if (to->last)
        to->last->next = b;
    else
        to->first = b;
    to->last = b;
}

static struct conn *upstream_get(void) {
    struct conn *up = idle;
    if (up) {
        idle = up->next;
        idle_count--;
        return up;
    }
    int fd = net_connect(&backend);
    return fd < 0 ? NULL : conn_new(fd, false);
}

/* Reads a head, whole or in pieces, and hands it and what came with it to the other side.
 * True: there may be a body to go on with; false: nothing more to do now. */
static bool read_head(struct conn *c) {
    struct block *b = c->partial ? c->partial : block_get();
    size_t room = by_splice && !c->is_client ? HEAD_READ : BLOCK;
    c->partial = NULL;
    ssize_t n = b->len < room ? recv(c->fd, b->data + b->len, room - b->len, 0) : 0;
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN && b->len) {
            c->partial = b;
            return false;
        }
        block_put(b);
        if (n == 0 || errno != EAGAIN) conn_close_both(c);
        return false;
    }
    b->len += (size_t)n;
    size_t head = net_head_length(b->data, b->len);
    if (!head) {
        c->partial = b;
        return (size_t)n == room;
    }
    long long length = net_content_length(b->data, head);
    if (length < 0) length = c->is_client ? 0 : -1;
    if (c->is_client && !c->peer) {
        struct conn *up = upstream_get();
        if (!up) {
            block_put(b);
            conn_close_both(c);
            return false;
        }
        c->peer = up;
        up->peer = c;
    }
    c->in_body = true;
    c->left = length < 0 ? -1 : length - (long long)(b->len - head);
    append(c->peer, b);
    if (c->left < -1 || (c->left == -1 && length >= 0)) { /* bytes after the message: pipelining is not for the floor */
        conn_close_both(c);
        return false;
    }
    if (hold && c->is_client && c->left > 0) return true;
    return flush(c->peer) && c->left != 0;
}

/* Through a pipe, no byte touched. False: nothing more to do now. */
static bool move_spliced(struct conn *c) {
    struct conn *to = c->peer;
    while (c->left > 0 || to->tube) {
        if (!to->tube) to->tube = tube_get();
        struct tube *t = to->tube;
        if (!t->held) {
            ssize_t n = splice(c->fd, NULL, t->in, NULL, (size_t)c->left < PIPE ? (size_t)c->left : PIPE,
                               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (n <= 0) {
                to->tube = NULL;
                tube_put(t);
                if (n == 0 || errno != EAGAIN) conn_close_both(c);
                return false;
            }
            c->left -= n;
            t->held = (size_t)n;
        }
        ssize_t n = splice(t->out, NULL, to->fd, NULL, t->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN)
                to->blocked = true;
            else
                conn_close_both(c);
            return false;
        }
        t->held -= (size_t)n;
        if (!t->held) {
            to->tube = NULL;
            tube_put(t);
        }
    }
    return true;
}

static void read_body(struct conn *c) {
    struct conn *to = c->peer;
    bool holding = hold && c->is_client;
    while (c->left != 0) {
        if (to->first && !holding) return;
        struct block *b = holding && to->last && to->last->len < BLOCK ? to->last : NULL;
        bool is_new = !b;
        if (is_new) b = block_get();
        size_t room = BLOCK - b->len;
        if (c->left > 0 && (size_t)c->left < room) room = (size_t)c->left;
        ssize_t n = recv(c->fd, b->data + b->len, room, 0);
        if (n <= 0) {
            if (is_new) block_put(b);
            if (n == 0 || errno != EAGAIN) conn_close_both(c);
            return;
        }
        b->len += (size_t)n;
        if (c->left > 0) c->left -= n;
        if (is_new) append(to, b);
        if ((!holding || c->left == 0) && !flush(to)) return;
        if ((size_t)n < room && !c->ended) return; /* drained; what comes later is a new edge */
    }
}

/* Does what this fd's next bytes allow. */
static void step(struct conn *c) {
    if (!c->in_body && !read_head(c)) {
        if (c->fd >= 0 && c->peer && !c->is_client && is_whole(c->peer)) exchange_end(c->peer);
        return;
    }
    if (!c->in_body) return;
    if (by_splice && !c->is_client && !c->peer->first && (c->left >= SPLICE_FROM || c->peer->tube)) {
        if (!move_spliced(c)) return;
    } else {
        read_body(c);
    }
    if (c->fd < 0) return;
    struct conn *client = c->is_client ? c : c->peer;
    if (is_whole(client)) exchange_end(client);
}

/* Room to write again: the rest, then what the other side could not hand over. */
static void resume(struct conn *c) {
    c->blocked = false;
    if (!flush(c) || c->blocked || !c->peer) return;
    struct conn *client = c->is_client ? c : c->peer;
    if (is_whole(client)) {
        exchange_end(client);
        return;
    }
    if (c->peer->in_body && (c->peer->left != 0 || c->tube)) step(c->peer);
}

static void on_event(struct conn *c, unsigned events) {
    if (c->fd < 0) return;
    if (events & (EPOLLERR | EPOLLHUP) || (events & EPOLLRDHUP && c->is_client)) {
        conn_close_both(c);
        return;
    }
    if (events & EPOLLRDHUP) c->ended = true;
    if (c->blocked && events & EPOLLOUT) resume(c);
    if (c->fd < 0 || !(events & EPOLLIN)) return;
    if (!c->is_client && !c->peer)
        conn_close_both(c); /* the backend ended an idle connection */
    else if (!c->in_body || c->left != 0)
        step(c);
}

static void accept_one(int listener) {
    int fd = net_accept(listener);
    if (fd >= 0) step(conn_new(fd, true));
} /* NOLINT(clang-analyzer-unix.Malloc): epoll holds it */

int main(int argc, char **argv) {
    const char *listen_on = NULL, *to = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-hold") == 0)
            hold = true;
        else if (strcmp(argv[i], "-splice") == 0)
            by_splice = true;
        else if (strcmp(argv[i], "-listen") == 0 && i + 1 < argc)
            listen_on = argv[++i];
        else if (strcmp(argv[i], "-to") == 0 && i + 1 < argc)
            to = argv[++i];
        else
            listen_on = NULL, i = argc;
    }
    if (!listen_on || !to) {
        fprintf(stderr, "usage: floor -listen HOST:PORT -to HOST:PORT [-hold] [-splice]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_files();
    backend = net_address(to);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = net_listen(listen_on, true);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop_fd < 0 || epoll_ctl(loop_fd, EPOLL_CTL_ADD, listener, &e) < 0) net_die("epoll");
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(loop_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                on_event(events[i].data.ptr, events[i].events);
            else
                accept_one(listener);
        }
        bury_dead();
    }
}
