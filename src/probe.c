/* probe: asks a router whether it lives.
 * In: a URL or an address. Out: an exit status. Runs alone in its own process, so it may block, with a deadline; owns its socket.
 * Used by -healthcheck only, never by the daemon. */
#include "probe.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define DEADLINE_S 5

static int complain(const char *what, const char *why) {
    fprintf(stderr, "router: healthcheck: %s: %s\n", what, why);
    return 1;
}

/* Status of GET path over a connected socket; 0 if it did not answer. */
static int ask(int fd, const char *host, const char *path) {
    char text[1024];
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
    if (n < 0 || (size_t)n >= sizeof text || send(fd, text, (size_t)n, MSG_NOSIGNAL) != n) return 0;
    size_t have = 0;
    while (have < 13) {
        ssize_t r = recv(fd, text + have, sizeof text - 1 - have, 0);
        if (r <= 0) return 0;
        have += (size_t)r;
    }
    struct str line = {text, have};
    uint64_t status;
    if (!str_starts(line, STR("HTTP/1.1 ")) && !str_starts(line, STR("HTTP/1.0 "))) return 0;
    return str_uint((struct str){text + 9, 3}, 599, &status) ? (int)status : 0;
}

static int check(const struct sockaddr *sa, socklen_t len, const char *host, const char *path, const char *what) {
    struct timeval limit = {DEADLINE_S, 0};
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return complain(what, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int status = connect(fd, sa, len) == 0 ? ask(fd, host, path) : -1;
    int e = errno;
    close(fd);
    if (status == 200) return 0;
    if (status < 0) return complain(what, strerror(e));
    if (status == 0) return complain(what, "no HTTP answer");
    char text[32];
    snprintf(text, sizeof text, "status %d", status);
    return complain(what, text);
}

int probe_listen(const struct value_listen *l) {
    struct sockaddr_storage a = l->addr;
    if (a.ss_family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)&a;
        if (in->sin_addr.s_addr == htonl(INADDR_ANY)) in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (a.ss_family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)&a;
        if (IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr)) in6->sin6_addr = in6addr_loopback;
    }
    return check((struct sockaddr *)(void *)&a, l->len, "localhost", "/health", l->text);
}

int probe_url(const char *url) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char host[256], port[8] = "80", path[512] = "/";
    struct str s = str_of(url), authority, rest;
    if (!str_starts(s, STR("http://"))) return complain(url, "only http:// can be asked");
    s.ptr += 7, s.len -= 7;
    rest = str_cut(s, '/', &authority);
    if (rest.len) snprintf(path, sizeof path, "/" STR_FMT, STR_ARG(rest));
    struct str name = authority;
    if (name.len && name.ptr[0] == '[') {
        name.ptr++, name.len--;
        struct str after = str_cut(name, ']', &name);
        if (after.len > 1 && after.ptr[0] == ':') str_copy(port, sizeof port, (struct str){after.ptr + 1, after.len - 1});
    } else {
        struct str after = str_cut(authority, ':', &name);
        if (after.len) str_copy(port, sizeof port, after);
    }
    str_copy(host, sizeof host, name);
    int e = getaddrinfo(host, port, &hints, &list);
    if (e) return complain(url, gai_strerror(e));
    char field[300];
    snprintf(field, sizeof field, STR_FMT, STR_ARG(authority));
    int status = 1;
    for (const struct addrinfo *a = list; a && status; a = a->ai_next)
        status = check(a->ai_addr, a->ai_addrlen, field, path, url);
    freeaddrinfo(list);
    return status;
}
