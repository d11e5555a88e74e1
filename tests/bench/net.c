/* net: sockets, the clock and the two looks at a head that the benchmark's programs share.
 * In: addresses as text, raw heads. Out: nonblocking sockets, lengths.
 * Owns nothing. Strict it is not: it reads what this benchmark's own programs and four known proxies write. */
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t net_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void net_die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

struct sockaddr_in net_address(const char *text) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    char host[64], *end = NULL;
    size_t len = strcspn(text, ":");
    unsigned long port = text[len] ? strtoul(text + len + 1, &end, 10) : 0;
    snprintf(host, sizeof host, "%.*s", (int)len, text);
    if (!end || *end || port > 65535 || inet_pton(AF_INET, host, &to.sin_addr) != 1) {
        errno = EINVAL;
        net_die(text);
    }
    to.sin_port = htons((uint16_t)port);
    return to;
}

int net_listen(const char *text, bool deferred) {
    struct sockaddr_in at = net_address(text);
    int one = 1, seconds = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) net_die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (deferred) setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
    if (bind(fd, (const struct sockaddr *)&at, sizeof at) < 0) net_die(text);
    if (listen(fd, 4096) < 0) net_die(text);
    return fd;
}

int net_accept(int listener) {
    int one = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int net_connect(const struct sockaddr_in *to) {
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0 && errno != EINPROGRESS) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

void net_raise_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

size_t net_head_length(const char *bytes, size_t len) {
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

/* The value of the named field, blanks before it skipped; name is given in lower case with its colon. */
static const char *field(const char *head, size_t len, const char *name) {
    size_t n = strlen(name);
    const char *end = head + len;
    for (const char *line = head; (line = memchr(line, '\n', (size_t)(end - line))) != NULL;) {
        line++;
        if ((size_t)(end - line) < n) return NULL;
        if ((*line | 0x20) == *name && strncasecmp(line, name, n) == 0) {
            line += n;
            while (*line == ' ')
                line++;
            return line;
        }
    }
    return NULL;
}

long long net_content_length(const char *head, size_t len) {
    const char *value = field(head, len, "content-length:");
    return value ? strtoll(value, NULL, 10) : -1;
}

bool net_is_chunked(const char *head, size_t len) {
    const char *value = field(head, len, "transfer-encoding:");
    return value && strncasecmp(value, "chunked", 7) == 0;
}
