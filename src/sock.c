/* sock: the system calls that make sockets.
 * In: addresses. Out: descriptors, nonblocking and close-on-exec from birth, TCP_NODELAY set (a token must not wait for an ACK).
 * Owns nothing: the descriptor is the caller's. Reads and writes no byte (conn does). */
#include "sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void set(int fd, int level, int option, int value) {
    /* Only options whose absence costs speed or patience, never correctness: a refusal is not an error. */
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

static bool is_unix(const struct sock_addr *a) {
    return a->u.sa.sa_family == AF_UNIX;
}

/* True if somebody still answers on that unix path. */
static bool unix_alive(const struct sock_addr *addr) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return true;
    bool alive = connect(fd, &addr->u.sa, addr->len) == 0 || errno != ECONNREFUSED;
    close(fd);
    return alive;
}

static bool clear_unix_path(const struct sock_addr *addr) {
    struct stat st;
    if (lstat(addr->u.un.sun_path, &st) != 0) return errno == ENOENT;
    if (!S_ISSOCK(st.st_mode)) return errno = EEXIST, false;
    if (unix_alive(addr)) return errno = EADDRINUSE, false;
    return unlink(addr->u.un.sun_path) == 0;
}

static bool bind_to(int fd, const struct sock_addr *addr) {
    if (!is_unix(addr)) return bind(fd, &addr->u.sa, addr->len) == 0;
    if (!clear_unix_path(addr)) return false;
    mode_t old = umask(0117); /* 0660 from birth: no moment in which others may connect */
    bool ok = bind(fd, &addr->u.sa, addr->len) == 0;
    umask(old);
    return ok;
}

int sock_listen(const struct sock_addr *addr, bool reuse_port, int backlog) {
    int fd = socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (!is_unix(addr)) {
        set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        if (reuse_port) set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
        if (addr->u.sa.sa_family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        set(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* accepted sockets inherit it */
    }
    if (bind_to(fd, addr) && listen(fd, backlog) == 0) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

int sock_accept(int listener, struct sock_addr *peer) {
    peer->len = sizeof peer->u;
    return accept4(listener, &peer->u.sa, &peer->len, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

int sock_connect(const struct sock_addr *addr, bool *done) {
    int fd = socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (!is_unix(addr)) {
        set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        sock_watch_peer(fd);
    }
    if (connect(fd, &addr->u.sa, addr->len) == 0) return *done = true, fd;
    *done = false;
    if (errno == EINPROGRESS) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

void sock_set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* refused by a unix socket, which needs none */
}

int sock_error(int fd) {
    int e = 0;
    socklen_t len = sizeof e;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) == 0 ? e : errno;
}

bool sock_local(int fd, struct sock_addr *out) {
    out->len = sizeof out->u;
    return getsockname(fd, &out->u.sa, &out->len) == 0;
}

/* Every request asks for its client's: inet_ntop would print it with sprintf. */
static void v4_text(const void *addr, char *dst) {
    const uint8_t *b = addr;
    for (int i = 0; i < 4; i++) {
        if (i) *dst++ = '.';
        if (b[i] > 99) *dst++ = (char)('0' + b[i] / 100);
        if (b[i] > 9) *dst++ = (char)('0' + b[i] / 10 % 10);
        *dst++ = (char)('0' + b[i] % 10);
    }
    *dst = 0;
}

struct in6_addr sock_host(const struct sock_addr *addr) {
    struct in6_addr host = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
    if (addr->u.sa.sa_family == AF_INET6) return addr->u.in6.sin6_addr;
    if (addr->u.sa.sa_family != AF_INET) return (struct in6_addr)IN6ADDR_ANY_INIT;
    memcpy(&host.s6_addr[12], &addr->u.in4.sin_addr, 4);
    return host;
}

const char *sock_host_text(const struct in6_addr *host, char dst[SOCK_TEXT]) {
    if (IN6_IS_ADDR_V4MAPPED(host))
        v4_text(&host->s6_addr[12], dst);
    else
        inet_ntop(AF_INET6, host, dst, SOCK_TEXT);
    return dst;
}

const char *sock_ip(const struct sock_addr *addr, char dst[SOCK_TEXT]) {
    struct in6_addr host = sock_host(addr);
    dst[0] = 0;
    return addr->u.sa.sa_family == AF_INET || addr->u.sa.sa_family == AF_INET6 ? sock_host_text(&host, dst) : dst;
}

const char *sock_text(const struct sock_addr *addr, char dst[SOCK_TEXT]) {
    char ip[SOCK_TEXT];
    sock_ip(addr, ip);
    if (addr->u.sa.sa_family == AF_INET)
        snprintf(dst, SOCK_TEXT, "%.64s:%u", ip, ntohs(addr->u.in4.sin_port));
    else if (addr->u.sa.sa_family == AF_INET6)
        snprintf(dst, SOCK_TEXT, "[%.64s]:%u", ip, ntohs(addr->u.in6.sin6_port));
    else if (is_unix(addr) && addr->len > offsetof(struct sockaddr_un, sun_path))
        snprintf(dst, SOCK_TEXT, "unix:%.107s", addr->u.un.sun_path);
    else
        snprintf(dst, SOCK_TEXT, "unix:");
    return dst;
}

void sock_watch_peer(int fd) {
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 20);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

/* Not TCP_USER_TIMEOUT: it also kills a connection whose peer is alive but reads nothing for as long (tcp(7)). Probes of a window that
 * was full for long are up to 120 s apart (TCP_RTO_MAX): then the first one without an answer tells. */
bool sock_peer_lost(int fd) {
    struct tcp_info i;
    socklen_t len = sizeof i;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) != 0) return false;
    return i.tcpi_last_ack_recv > (i.tcpi_retransmits > 2 || i.tcpi_probes > 2 ? 50000u : i.tcpi_probes ? 130000u : UINT32_MAX);
}

size_t sock_unsent(int fd) {
    int n = 0;
    return ioctl(fd, SIOCOUTQ, &n) == 0 && n > 0 ? (size_t)n : 0;
}
