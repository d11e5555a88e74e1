/* backend: an endpoint that costs next to nothing, for the benchmark. One thread, one epoll loop, HTTP/1.1 keep-alive.
 * In: any request; its body is discarded unread (MSG_TRUNC). Out, as the query of its path says:
 *   ?size=N            200 with a chat completion of N bytes (1024 without)
 *   ?sse=N&rate=R      200 text/event-stream: N events, R a second, each with its time of sending in ns, then [DONE]
 *   ?sse=1&hold=1      one event, then silence until the client goes
 *   /health, /v1/models   what a prober wants to see
 * It owns its connections, the ready answers (one a size, made once) and a heap of streams by the time of their next event.
 * The first event of a stream falls at a point of its period that differs from stream to stream, so that a thousand streams
 * are a steady flow and no volley. A chunked request is refused with 411: no proxy here sends one. */
#include "net.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN_SIZE = 4096, ANSWERS_MAX = 64, STREAMS_MAX = 20000, SIZE_MAX_HERE = 64 * 1024 * 1024 };

struct answer {
    long long size;
    size_t len;
    char *bytes;
};

struct conn {
    int fd;
    bool ended, blocked;
    long long discard; /* request body bytes still to come */
    bool has_request;  /* its head was read, its answer has not begun */
    const struct answer *reply;
    size_t sent;
    unsigned events_left;
    bool silent;          /* a stream that is held open */
    uint64_t due, period; /* of the next event, in ns */
    size_t place;         /* in the heap, from 1; 0 = not there */
    struct conn *next;    /* of the dead */
    size_t have;
    char in[IN_SIZE];
};

static int loop_fd;
static struct answer answers[ANSWERS_MAX];
static unsigned answer_count;
static struct conn *heap[STREAMS_MAX + 1];
static size_t heap_len;
static unsigned streams_begun;
static struct conn *dead, *free_conns;
static const struct answer *health, *models, *refusal;

static const char event_text[] = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"t\":%020llu,"
                                 "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n";

static void place(struct conn *c, size_t at) {
    heap[at] = c;
    c->place = at;
}

/* Restores the order around c, wherever it has to go. */
static void heap_settle(struct conn *c) {
    size_t at = c->place;
    while (at > 1 && heap[at / 2]->due > c->due) {
        place(heap[at / 2], at);
        at /= 2;
    }
    for (size_t child; (child = at * 2) <= heap_len; at = child) {
        if (child < heap_len && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        place(heap[child], at);
    }
    place(c, at);
}

static void heap_add(struct conn *c) {
    if (heap_len == STREAMS_MAX) net_die("too many streams");
    place(c, ++heap_len);
    heap_settle(c);
}

static void heap_remove(struct conn *c) {
    if (!c->place) return;
    struct conn *moved = heap[heap_len--];
    if (moved != c) {
        place(moved, c->place);
        heap_settle(moved);
    }
    c->place = 0;
}

static const struct answer *answer_keep(const char *status, const char *body, size_t len, long long size) {
    struct answer *a = &answers[answer_count++];
    a->bytes = malloc(len + 256);
    if (!a->bytes || answer_count == ANSWERS_MAX) net_die("answers");
    int head = snprintf(a->bytes, 256, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, len);
    memcpy(a->bytes + head, body, len);
    a->len = (size_t)head + len;
    a->size = size;
    return a;
}

/* A chat completion padded to size bytes; below what that needs, filler alone. */
static const struct answer *answer_of(long long size) {
    static const char before[] =
        "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char after[] = "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":40,"
                                "\"total_tokens\":160}}";
    for (unsigned i = 0; i < answer_count; i++)
        if (answers[i].size == size) return &answers[i];
    if (size < 0 || size > SIZE_MAX_HERE) return refusal;
    size_t n = (size_t)size, fixed = sizeof before + sizeof after - 2;
    char *body = malloc(n + 1);
    if (!body) net_die("malloc");
    memset(body, 'x', n);
    if (n >= fixed) {
        memcpy(body, before, sizeof before - 1);
        memcpy(body + n - (sizeof after - 1), after, sizeof after - 1);
    }
    const struct answer *a = answer_keep("200 OK", body, n, size);
    free(body);
    return a;
}

static void conn_close(struct conn *c) {
    heap_remove(c);
    close(c->fd);
    c->fd = -1;
    c->next = dead;
    dead = c;
}

static void accept_one(int listener) {
    int fd = net_accept(listener);
    if (fd < 0) return;
    struct conn *c = free_conns;
    if (c)
        free_conns = c->next;
    else if (!(c = malloc(sizeof *c)))
        net_die("malloc");
    memset(c, 0, offsetof(struct conn, in));
    c->fd = fd;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &e) < 0) net_die("epoll_ctl");
} /* NOLINT(clang-analyzer-unix.Malloc): epoll holds it */

/* An event is a few hundred bytes; a client that leaves no room for it is closed, loudly. */
static bool send_small(struct conn *c, const char *bytes, size_t len) {
    if (send(c->fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len) return true;
    if (errno == EAGAIN) fprintf(stderr, "backend: a stream's client does not read\n");
    conn_close(c);
    return false;
}

static void send_event(struct conn *c, uint64_t now) {
    char out[512], event[400];
    int n = snprintf(event, sizeof event, event_text, (unsigned long long)now);
    bool is_last = c->events_left == 1 && !c->silent;
    int len = snprintf(out, sizeof out, "%x\r\n%s\r\n%s", (unsigned)n, event, is_last ? "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" : "");
    if (!send_small(c, out, (size_t)len)) return;
    c->events_left--;
    if (!c->events_left) {
        heap_remove(c);
        return;
    }
    if (!c->place) return; /* a held stream waits for nothing */
    c->due += c->period;
    heap_settle(c);
}

static void stream_begin(struct conn *c, unsigned count, double rate, bool silent) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n";
    if (!send_small(c, head, sizeof head - 1)) return;
    uint64_t now = net_now();
    c->silent = silent;
    c->events_left = count;
    if (silent) {
        send_event(c, now);
        return;
    }
    c->period = (uint64_t)(1e9 / (rate > 0.001 ? rate : 0.001));
    /* the golden section spreads any number of streams evenly over the period */
    c->due = now + (uint64_t)((double)c->period * ((double)(++streams_begun * 2654435769u) / 4294967296.0));
    heap_add(c);
}

static long long query(const char *target, const char *name, long long otherwise) {
    const char *found = strstr(target, name);
    return found ? strtoll(found + strlen(name), NULL, 10) : otherwise;
}

static void write_reply(struct conn *c) {
    while (c->reply) {
        ssize_t n = send(c->fd, c->reply->bytes + c->sent, c->reply->len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) conn_close(c);
            return;
        }
        c->sent += (size_t)n;
        if (c->sent == c->reply->len) c->reply = NULL;
    }
}

static void answer(struct conn *c, char *head) {
    char *end = strstr(head, "\r\n");
    *end = '\0';
    long long sse = query(head, "sse=", 0);
    if (sse > 0) {
        stream_begin(c, (unsigned)sse + (query(head, "hold=", 0) != 0), (double)query(head, "rate=", 10),
                     query(head, "hold=", 0) != 0);
        return;
    }
    if (strncmp(head, "GET /health", 11) == 0)
        c->reply = health;
    else if (strncmp(head, "GET /v1/models", 14) == 0)
        c->reply = models;
    else
        c->reply = answer_of(query(head, "size=", 1024));
    c->sent = 0;
    write_reply(c);
}

/* Reads on while there is something and nothing is being answered. False: nothing more to read now. */
static bool read_some(struct conn *c) {
    static char scratch[64 * 1024]; /* MSG_TRUNC leaves it alone */
    if (c->discard) {
        size_t want = c->discard < 16 << 20 ? (size_t)c->discard : 16 << 20;
        ssize_t n = recv(c->fd, scratch, want, MSG_TRUNC);
        if (n > 0) c->discard -= n;
        if (n == 0 || (n < 0 && errno != EAGAIN)) conn_close(c);
        return n > 0;
    }
    ssize_t n = recv(c->fd, c->in + c->have, IN_SIZE - 1 - c->have, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) conn_close(c);
    if (n <= 0) return false;
    c->have += (size_t)n;
    return true;
}

/* Takes a head out of what was read. False: it is not complete. */
static bool take_head(struct conn *c, char *head) {
    static const char chunked[] = "POST /?size=-1 \r\n";
    size_t len = net_head_length(c->in, c->have);
    if (!len) {
        if (c->have == IN_SIZE - 1) conn_close(c);
        return false;
    }
    memcpy(head, c->in, len);
    head[len] = '\0';
    long long body = net_content_length(head, len);
    if (body < 0) body = 0;
    size_t rest = c->have - len, taken = (long long)rest < body ? rest : (size_t)body;
    c->discard = body - (long long)taken;
    c->have = rest - taken;
    memmove(c->in, c->in + len + taken, c->have);
    if (net_is_chunked(head, len)) memcpy(head, chunked, sizeof chunked);
    return true;
}

static void serve(struct conn *c) {
    char head[IN_SIZE];
    bool more = true;
    while (c->fd >= 0 && !c->reply && !c->events_left) {
        /* a head is only answered once its body is gone, so the line it was asked by has to wait beside it */
        if (take_head(c, head)) {
            while (c->fd >= 0 && c->discard && read_some(c))
                continue;
            if (c->fd < 0) return;
            if (c->discard) {
                size_t line = (size_t)(strstr(head, "\r\n") - head) + 2;
                memcpy(c->in, head, line);
                c->in[line] = '\0';
                c->has_request = true;
                return;
            }
            answer(c, head);
            continue;
        }
        if (!more || c->fd < 0) return;
        more = read_some(c);
    }
}

static void on_event(struct conn *c, unsigned events) {
    if (c->fd < 0) return;
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) {
        conn_close(c);
        return;
    }
    if (events & EPOLLOUT && c->reply) write_reply(c);
    if (c->has_request) {
        while (c->fd >= 0 && c->discard && read_some(c))
            continue;
        if (c->fd < 0 || c->discard) return;
        c->has_request = false;
        answer(c, c->in);
    }
    if (c->fd >= 0) serve(c);
}

/* Sends every event that is due; returns how long to sleep, in ns, or -1. */
static long long send_due(void) {
    for (unsigned turn = 0; heap_len && turn < 64; turn++) {
        uint64_t now = net_now();
        if (heap[1]->due > now) return (long long)(heap[1]->due - now);
        send_event(heap[1], now);
    }
    return heap_len ? 0 : -1;
}

int main(int argc, char **argv) {
    bool spin = argc == 4 && strcmp(argv[3], "-spin") == 0; /* never sleeps: see load.c */
    if (argc != 3 + spin || strcmp(argv[1], "-listen") != 0) {
        fprintf(stderr, "usage: backend -listen HOST:PORT [-spin]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_files();
    refusal = answer_keep("411 Length Required", "{}", 2, -1);
    health = answer_keep("200 OK", "{\"status\":\"ok\"}", 15, -2);
    models = answer_keep("200 OK", "{\"object\":\"list\",\"data\":[]}", 27, -3);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = net_listen(argv[2], false);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop_fd < 0 || epoll_ctl(loop_fd, EPOLL_CTL_ADD, listener, &e) < 0) net_die("epoll");
    for (;;) {
        struct epoll_event events[256];
        long long wait = send_due();
        if (spin) wait = 0;
        struct timespec ts = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        int n = epoll_pwait2(loop_fd, events, 256, wait < 0 ? NULL : &ts, NULL);
        if (n == 0 && spin) sched_yield();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                on_event(events[i].data.ptr, events[i].events);
            else
                accept_one(listener);
        }
        while (dead) {
            struct conn *c = dead;
            dead = c->next;
            c->next = free_conns;
            free_conns = c;
        }
    }
}
