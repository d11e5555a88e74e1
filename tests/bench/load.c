/* load: many clients in one thread, for the benchmark.
 * In: what to ask, how often, over how many connections. Out: one line of JSON: requests, events, latencies, and the CPU time that the
 * watched processes used in the same window (the kernel's run time in ns of all their threads, not ticks).
 *   -conns N    connections that ask again as soon as they are answered: POST, -body N bytes of JSON out, -answer N bytes in
 *   -new        each request on a new connection, which the client closes once it is answered
 *   -streams N  SSE streams of -rate R events a second; each event's delay since the backend stamped it
 *   -hold       the streams get one event and then nothing: says "ready", waits for the end of stdin
 *   -spin       never sleeps, so that the proxy does not pay for waking a neighbour, which over a wire it would not either
 * An answer that is not a whole 200 is an error, and its connection is opened anew. It owns its connections, one request text for all
 * of them and one for streams; bodies of answers are not looked at.
 *
 *   opening (at most OPENING at a time) --all there--> -warm ms --> CPU read --> -time ms --> CPU read --> JSON */
#include "net.h"
#include "tally.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH = 256 * 1024, OPENING = 128, TEXT = 1024, DISCARD = 16 << 20, ERRORS_MAX = 20000, SOURCES = 4000 };

struct conn {
    int fd;
    bool is_stream, opening, in_body;
    unsigned have;   /* bytes in text */
    size_t sent;     /* of the request */
    long long left;  /* body bytes still to come */
    uint64_t began;  /* when the request's first byte was sent */
    char text[TEXT]; /* an unfinished head; of a stream's event, the last bytes read */
};

struct plan {
    struct sockaddr_in to;
    const char *model, *watch;
    unsigned long conns, streams, body, answer, rate, warm, time, models, users;
    bool new_each, hold, image, spin;
};

/* Where the six digits stand that change from request to request. */
struct request {
    char *bytes;
    size_t len;
    char *model, *user;
};

static const char stamp_mark[] = "\"t\":";
enum { STAMP = 20 };

static struct plan plan = {.model = "bench-model", .body = 500, .answer = 1024, .rate = 50, .warm = 300, .time = 2000};
static struct request ask, ask_stream;
static struct conn *conns;
static unsigned long total, opened, opening, next_source, sequence;
static int loop_fd;
static bool counting;
static unsigned long requests, events, errors;
static struct tally latency, delay;
static char scratch[SCRATCH];

static void begin(struct conn *c);

/* ---- what is asked ---- */

static void digits(char *at, unsigned long value) {
    for (int i = 5; i >= 0; i--, value /= 10)
        at[i] = (char)('0' + value % 10);
}

/* Text as people and programs write it: words, some escapes. */
static size_t fill_text(char *to, size_t len) {
    static const char words[] = "The router reads the model of a request, picks the pool that serves it and the endpoint that this "
                                "conversation already warmed.\\nIt said \\\"streams, token by token\\\" and meant it; (see 4.2). ";
    for (size_t i = 0; i < len;) {
        size_t n = sizeof words - 1 < len - i ? sizeof words - 1 : len - i;
        memcpy(to + i, words, n);
        i += n;
    }
    while (len && (to[len - 1] == '\\' || to[len - 1] == '"')) /* no escape is cut in half */
        to[--len] = ' ';
    return len;
}

/* A chat of about len bytes: one message, many in turns, or an image. Returns its length. */
static size_t fill_messages(char *to, size_t len) {
    static const char image[] =
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"What is this?\"},{\"type\":\"image_url\","
        "\"image_url\":{\"url\":\"data:image/png;base64,";
    static const char *const roles[] = {"{\"role\":\"user\",\"content\":\"", "{\"role\":\"assistant\",\"content\":\""};
    static const char base64[] = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ/AAA+DUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg";
    size_t at = 0;
    if (plan.image) {
        memcpy(to, image, sizeof image - 1);
        for (at = sizeof image - 1; at + 8 < len; at++)
            to[at] = base64[at % (sizeof base64 - 1)];
        memcpy(to + at, "\"}}]}", 5);
        return at + 5;
    }
    for (unsigned turn = 0; turn == 0 || at + 300 < len; turn++) {
        size_t n = len - at > 64 ? len - at - 64 : 1, head = strlen(roles[turn % 2]);
        if (n > 1500) n = 700;
        if (turn) to[at++] = ',';
        memcpy(to + at, roles[turn % 2], head);
        fill_text(to + at + head, n);
        memcpy(to + at + head + n, "\"}", 2);
        at += head + n + 2;
    }
    return at;
}

static struct request make_request(const char *query, size_t body_len, bool stream) {
    static const char start[] = "{\"messages\": [";
    char *body = malloc(body_len + 1024), tail[256];
    struct request r = {.bytes = malloc(body_len + 2048)};
    if (!r.bytes || !body) net_die("malloc");
    int end = snprintf(tail, sizeof tail, "],\"stream\":%s,\"model\":\"%s%s\",\"user\":\"user-000000\"}", stream ? "true" : "false",
                       plan.model, plan.models > 1 ? "-000000" : "");
    size_t fixed = sizeof start - 1 + (size_t)end, len = sizeof start - 1;
    memcpy(body, start, len);
    len += fill_messages(body + len, body_len > fixed + 64 ? body_len - fixed : 64);
    memcpy(body + len, tail, (size_t)end);
    len += (size_t)end;
    int head =
        snprintf(r.bytes, 1024,
                 "POST /v1/chat/completions?%s HTTP/1.1\r\nHost: router.example\r\nUser-Agent: OpenAI/Python 1.40.0\r\n"
                 "Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
                 "Content-Length: %zu\r\n\r\n",
                 query, len);
    memcpy(r.bytes + head, body, len);
    r.len = (size_t)head + len;
    r.user = r.bytes + r.len - 8;
    if (plan.models > 1) r.model = r.bytes + r.len - (size_t)end + (strstr(tail, "-000000\",") + 1 - tail);
    free(body);
    return r;
}

/* ---- connections ---- */

/* The source address rotates, so that ports in TIME_WAIT do not run out. */
static int connect_from(void) {
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) net_die("socket");
    unsigned long n = next_source++ % SOURCES;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl((uint32_t)(0x7f010001 + (n / 250 << 8) + n % 250))};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *)&from, sizeof from) < 0) net_die("bind");
    if (connect(fd, (const struct sockaddr *)&plan.to, sizeof plan.to) < 0 && errno != EINPROGRESS) net_die("connect");
    return fd;
}

static void open_conn(struct conn *c) {
    bool is_stream = c->is_stream;
    memset(c, 0, offsetof(struct conn, text));
    c->is_stream = is_stream;
    c->fd = connect_from();
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(loop_fd, EPOLL_CTL_ADD, c->fd, &e) < 0) net_die("epoll_ctl");
    begin(c);
}

static void open_more(void) {
    while (opened < total && opening < OPENING) {
        struct conn *c = &conns[opened++];
        c->is_stream = opened <= plan.streams;
        opening++;
        open_conn(c);
        c->opening = true;
    }
}

static void is_open(struct conn *c) {
    if (!c->opening) return;
    c->opening = false;
    opening--;
    open_more();
}

static void failed(struct conn *c, const char *why) {
    if (errors++ < 5) fprintf(stderr, "load: %s (errno %d)\n", why, errno);
    if (errors > ERRORS_MAX) exit(1);
    close(c->fd);
    bool was_opening = c->opening;
    open_conn(c);
    c->opening = was_opening;
}

/* Sends what the kernel takes; the rest when it is writable. */
static void send_request(struct conn *c) {
    const struct request *r = c->is_stream ? &ask_stream : &ask;
    while (c->sent < r->len) {
        ssize_t n = send(c->fd, r->bytes + c->sent, r->len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) failed(c, "send");
            return;
        }
        c->sent += (size_t)n;
    }
}

/* The digits are changed in the one text there is: what a connection still has to send of its last request would change with them,
 * so they only vary where requests are small enough to be taken by the kernel whole. */
static void begin(struct conn *c) {
    c->sent = 0;
    c->in_body = false;
    c->have = 0;
    c->began = net_now();
    sequence++;
    if (ask.model && !c->is_stream) digits(ask.model, sequence % plan.models);
    if (plan.users && !c->is_stream) digits(ask.user, sequence * 7919 % plan.users);
    send_request(c);
}

static void answered(struct conn *c) {
    if (counting) {
        requests++;
        tally_add(&latency, net_now() - c->began);
    }
    is_open(c);
    if (plan.new_each) {
        close(c->fd);
        open_conn(c);
    } else {
        begin(c);
    }
}

/* Looks for the head at the start of scratch; *n becomes the bytes after it. False: it is not complete and was put aside, or failed. */
static bool take_head(struct conn *c, size_t have, ssize_t *n) {
    size_t len = net_head_length(scratch, have);
    if (!len && have <= TEXT) {
        memcpy(c->text, scratch, have);
        c->have = (unsigned)have;
        return false;
    }
    if (!len || strncmp(scratch, "HTTP/1.1 200", 12) != 0) {
        if (errors < 5) fprintf(stderr, "load: %.*s\n", (int)strcspn(scratch, "\r\n"), scratch);
        failed(c, "not a 200");
        return false;
    }
    c->in_body = true;
    c->left = net_content_length(scratch, len);
    *n = (ssize_t)(have - len);
    return true;
}

static void read_answer(struct conn *c) {
    for (;;) {
        ssize_t n;
        if (c->in_body) {
            n = recv(c->fd, scratch, c->left < DISCARD ? (size_t)c->left : DISCARD, MSG_TRUNC);
        } else {
            memcpy(scratch, c->text, c->have);
            n = recv(c->fd, scratch + c->have, SCRATCH - c->have, 0);
        }
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            failed(c, n ? "recv" : "closed in an answer");
            return;
        }
        if (!c->in_body && !take_head(c, c->have + (size_t)n, &n)) return;
        c->left -= n;
        if (c->left == 0) answered(c);
        if (c->left < 0) failed(c, "an answer without a length, or beyond it");
        if (c->left <= 0) return;
    }
}

/* An event's stamp may be cut by the end of a read: the last bytes are looked at again with the next ones. */
static void read_stream(struct conn *c) {
    for (;;) {
        memcpy(scratch, c->text, c->have);
        ssize_t n = recv(c->fd, scratch + c->have, SCRATCH - c->have, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) failed(c, "stream");
            return;
        }
        uint64_t now = net_now();
        const char *at = scratch, *end = scratch + c->have + n, *found;
        if (!c->in_body && strncmp(scratch, "HTTP/1.1 200", 12) != 0) {
            failed(c, "stream: not a 200");
            return;
        }
        c->in_body = true;
        while ((found = memmem(at, (size_t)(end - at), stamp_mark, sizeof stamp_mark - 1)) && end - found >= STAMP + 4) {
            uint64_t sent = strtoull(found + 4, NULL, 10);
            at = found + STAMP + 4;
            is_open(c);
            if (!counting) continue;
            events++;
            tally_add(&delay, now > sent ? now - sent : 0);
        }
        size_t kept = (size_t)(end - at) < STAMP + 3 ? (size_t)(end - at) : STAMP + 3;
        memcpy(c->text, end - kept, kept);
        c->have = (unsigned)kept;
    }
}

static void on_event(struct conn *c, unsigned bits) {
    int fd = c->fd;
    if (bits & EPOLLOUT) send_request(c);
    if (c->fd != fd || !(bits & ~(unsigned)EPOLLOUT)) return;
    if (c->is_stream)
        read_stream(c);
    else
        read_answer(c);
}

/* ---- the run ---- */

static void turn(int wait_ms) {
    struct epoll_event found[256];
    int n = epoll_wait(loop_fd, found, 256, plan.spin ? 0 : wait_ms);
    if (n == 0 && plan.spin) sched_yield();
    for (int i = 0; i < n; i++)
        on_event(found[i].data.ptr, found[i].events);
}

static void run_for(unsigned long ms) {
    uint64_t end = net_now() + ms * 1000000u, now;
    while ((now = net_now()) < end)
        turn((int)((end - now) / 1000000u) + 1);
}

static void open_all(void) {
    uint64_t limit = net_now() + 60000000000u;
    open_more();
    while (opening || opened < total) {
        turn(100);
        if (net_now() > limit) {
            fprintf(stderr, "load: %lu of %lu connections were not answered\n", opening + total - opened, total);
            exit(1);
        }
    }
}

static void report(double seconds, struct tally_cpu before, struct tally_cpu after) {
    printf("{\"requests\":%lu,\"events\":%lu,\"errors\":%lu,\"seconds\":%.4f,\"cpu\":%.6f,\"waited\":%.6f", requests, events,
           errors, seconds, after.ran - before.ran, after.waited - before.waited);
    tally_print(&latency, "latency");
    tally_print(&delay, "delay");
    printf("}\n");
}

static unsigned long number(const char *text) {
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (errno || end == text || *end) {
        fprintf(stderr, "load: %s: not a number\n", text);
        exit(2);
    }
    return n;
}

static bool read_flag(const char *flag, const char *value) {
    static const struct {
        const char *name;
        unsigned long *to;
    } numbers[] = {{"-conns", &plan.conns},   {"-streams", &plan.streams}, {"-body", &plan.body},
                   {"-answer", &plan.answer}, {"-rate", &plan.rate},       {"-warm", &plan.warm},
                   {"-time", &plan.time},     {"-models", &plan.models},   {"-users", &plan.users}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(flag, numbers[i].name) == 0) {
            *numbers[i].to = number(value);
            return true;
        }
    if (strcmp(flag, "-to") == 0)
        plan.to = net_address(value);
    else if (strcmp(flag, "-model") == 0)
        plan.model = value;
    else if (strcmp(flag, "-watch") == 0)
        plan.watch = value;
    else
        return false;
    return true;
}

static bool read_args(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-new") == 0)
            plan.new_each = true;
        else if (strcmp(argv[i], "-hold") == 0)
            plan.hold = true;
        else if (strcmp(argv[i], "-image") == 0)
            plan.image = true;
        else if (strcmp(argv[i], "-spin") == 0)
            plan.spin = true;
        else if (i + 1 == argc || !read_flag(argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return plan.to.sin_port && plan.conns + plan.streams > 0;
}

int main(int argc, char **argv) {
    if (!read_args(argc, argv)) {
        fprintf(stderr,
                "usage: load -to HOST:PORT [-conns N [-new] [-body N [-image]] [-answer N] [-models N] [-users N]]\n"
                "            [-streams N [-rate R | -hold]] [-model NAME] [-watch PID,...] [-warm MS] [-time MS] [-spin]\n");
        return 2;
    }
    char query[64];
    signal(SIGPIPE, SIG_IGN);
    net_raise_files();
    snprintf(query, sizeof query, "size=%lu", plan.answer);
    ask = make_request(query, plan.body, false);
    snprintf(query, sizeof query, plan.hold ? "sse=1&hold=1" : "sse=100000000&rate=%lu", plan.rate);
    ask_stream = make_request(query, 500, true);
    total = plan.conns + plan.streams;
    conns = calloc(total, sizeof *conns);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || loop_fd < 0) net_die("setup");
    open_all();
    if (plan.hold) {
        char c;
        puts("ready");
        (void)fflush(stdout);
        while (read(STDIN_FILENO, &c, 1) > 0)
            continue;
        return errors ? 1 : 0;
    }
    run_for(plan.warm);
    errors = 0;
    struct tally_cpu before = tally_cpu(plan.watch);
    uint64_t start = net_now();
    counting = true;
    run_for(plan.time);
    counting = false;
    report((double)(net_now() - start) / 1e9, before, tally_cpu(plan.watch));
    return 0;
}
