/* dns: a DNS server in the loop of the test itself, on UDP and TCP of one port: what it is asked and says happens in turns. */
#ifndef DNS_H
#define DNS_H
#include <arpa/inet.h>
#include <strings.h>
#include <unistd.h>

#include "loop.h"

enum { NOERROR = 0, SERVFAIL = 2, NXDOMAIN = 3, DROP = 100 };

struct zone {
    const char *name;
    const char *v4, *v6; /* blank between addresses; NULL: none */
    uint32_t ttl;
    int rcode4, rcode6;
    bool truncate;      /* over UDP */
    uint32_t cname_ttl; /* 0: no CNAME */
    int asked4, asked6;
};

static struct zone zones[8];
static struct loop_fd udp, tcp, tcp_conn;
static int tcp_answers, packets;

static void put16(uint8_t *p, unsigned n) {
    p[0] = (uint8_t)(n >> 8);
    p[1] = (uint8_t)n;
}

/* Its name as text; returns the offset behind the question. */
static size_t read_question(const uint8_t *q, size_t len, char name[256], unsigned *type) {
    size_t i = 12, n = 0;
    while (i < len && q[i]) {
        if (n) name[n++] = '.';
        memcpy(name + n, q + i + 1, q[i]);
        n += q[i];
        i += q[i] + 1u;
    }
    name[n] = 0;
    *type = (unsigned)(q[i + 1] << 8 | q[i + 2]);
    return i + 5;
}

static size_t put_record(uint8_t *to, unsigned type, uint32_t ttl, const void *data, size_t len) {
    put16(to, 0xc00c); /* the name of the question */
    put16(to + 2, type);
    put16(to + 4, 1);
    put16(to + 6, ttl >> 16);
    put16(to + 8, ttl & 0xffff);
    put16(to + 10, (unsigned)len);
    memcpy(to + 12, data, len);
    return 12 + len;
}

static size_t put_addresses(uint8_t *to, const struct zone *z, const char *list, int family, unsigned *count) {
    char copy[1024], *rest = copy;
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", list ? list : "");
    for (char *one; (one = strsep(&rest, " "));) {
        uint8_t addr[16];
        if (!*one) continue;
        assert_int_equal(inet_pton(family, one, addr), 1);
        n += put_record(to + n, family == AF_INET ? 1 : 28, z->ttl, addr, family == AF_INET ? 4 : 16);
        ++*count;
    }
    return n;
}

/* The answer's length, 0 = none is sent. */
static size_t answer(const uint8_t *q, size_t len, bool over_tcp, uint8_t out[4096]) {
    char name[256];
    unsigned type, count = 0;
    size_t end = read_question(q, len, name, &type);
    struct zone *z = NULL;
    for (size_t i = 0; i < 8; i++)
        if (zones[i].name && strcasecmp(zones[i].name, name) == 0) z = &zones[i];
    bool v4 = type == 1;
    int rcode = !z ? NXDOMAIN : v4 ? z->rcode4 : z->rcode6;
    packets++;
    if (z) ++*(v4 ? &z->asked4 : &z->asked6);
    if (rcode == DROP) return 0;
    memset(out, 0, 12);
    memcpy(out, q, end); /* without what stands behind the question (EDNS) */
    put16(out + 2, 0x8180u + (unsigned)rcode + (z && z->truncate && !over_tcp ? 0x200 : 0));
    put16(out + 4, 1);
    put16(out + 8, 0);
    put16(out + 10, 0);
    size_t n = end;
    if (z && rcode == NOERROR && !(z->truncate && !over_tcp)) {
        if (z->cname_ttl && (v4 ? z->v4 : z->v6)) { /* an alias of its own name: enough for its TTL */
            n += put_record(out + n, 5, z->cname_ttl, "\xc0\x0c", 2);
            count++;
        }
        n += put_addresses(out + n, z, v4 ? z->v4 : z->v6, v4 ? AF_INET : AF_INET6, &count);
    }
    put16(out + 6, count);
    return n;
}

static void udp_ready(struct loop_fd *io) {
    uint8_t q[512], out[4096];
    struct sockaddr_in from;
    socklen_t flen = sizeof from;
    for (ssize_t n; (n = recvfrom(io->fd, q, sizeof q, MSG_DONTWAIT, (void *)&from, &flen)) > 0;) {
        size_t len = answer(q, (size_t)n, false, out);
        if (len) assert_int_equal(sendto(io->fd, out, len, 0, (void *)&from, flen), len);
    }
}

/* The whole in one piece, so that it lies there when c-ares has read the length alone. */
static void conn_ready(struct loop_fd *io) {
    uint8_t q[514], out[4098];
    ssize_t n = recv(io->fd, q, sizeof q, MSG_DONTWAIT);
    size_t all = 0, off = 0;
    while (n > 0 && off + 2 < (size_t)n) { /* both questions may come in one read */
        size_t len = (size_t)(q[off] << 8 | q[off + 1]);
        all = answer(q + off + 2, len, true, out + 2);
        put16(out, (unsigned)all);
        assert_int_equal(send(io->fd, out, all + 2, MSG_NOSIGNAL), all + 2);
        tcp_answers++;
        off += len + 2;
    }
}

static void tcp_ready(struct loop_fd *io) {
    int fd = accept(io->fd, NULL, NULL);
    if (fd < 0) return;
    assert_true(loop_add(&tcp_conn, fd, conn_ready, "dns"));
}

static struct zone *zone(unsigned i, const char *name, const char *v4, uint32_t ttl) {
    zones[i] = (struct zone){.name = name, .v4 = v4, .ttl = ttl};
    return &zones[i];
}

static int listen_on(struct sockaddr_in *a, int type) {
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof *a;
    if (bind(fd, (void *)a, len) != 0 || getsockname(fd, (void *)a, &len) != 0) return close(fd), -1;
    return fd;
}

/* Opens it on a free port; "IP:PORT" into dns. */
static bool dns_open(char dns[32]) {
    struct sockaddr_in a;
    int u = -1, t = -1;
    while (t < 0) { /* both kinds on one port */
        a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        if (u >= 0) close(u);
        u = listen_on(&a, SOCK_DGRAM);
        t = listen_on(&a, SOCK_STREAM);
    }
    snprintf(dns, 32, "127.0.0.1:%u", ntohs(a.sin_port));
    memset(zones, 0, sizeof zones);
    tcp_answers = packets = 0;
    tcp_conn.fd = -1;
    return listen(t, 8) == 0 && loop_add(&udp, u, udp_ready, "dns") && loop_add(&tcp, t, tcp_ready, "dns");
}

static void close_one(struct loop_fd *io) {
    int fd = io->fd;
    loop_remove(io);
    if (fd >= 0) close(fd);
}

static void dns_close(void) {
    close_one(&udp);
    close_one(&tcp);
    close_one(&tcp_conn);
}
#endif
