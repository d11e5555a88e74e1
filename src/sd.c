/* sd: the two small protocols between a service and systemd: datagrams out, descriptors in.
 * In: the environment. Out: datagrams. Owns one socket and a copy of the names. Needs no library: libsystemd would bring ten.
 * Never waits: the datagram socket is nonblocking, and what it does not take is lost. */
#include "sd.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FIRST_FD 3
#define FDS_MAX  64

static int notify_fd = -1;
static int sockets;
static char *names;
static int64_t watchdog_ms;

static bool is_for_us(const char *variable) {
    const char *pid = getenv(variable);
    uint64_t n;
    return !pid || (str_uint(str_of(pid), INT32_MAX, &n) && (pid_t)n == getpid());
}

/* "@name" is an abstract socket (unix(7)). */
static void open_notify(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = path ? strlen(path) : 0;
    if (len < 2 || len >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@')) return;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return;
    if (connect(fd, (const struct sockaddr *)(const void *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) == 0)
        notify_fd = fd;
    else
        close(fd);
}

static void take_sockets(void) {
    const char *count = getenv("LISTEN_FDS"), *given = getenv("LISTEN_FDNAMES");
    uint64_t n;
    if (!count || !getenv("LISTEN_PID") || !is_for_us("LISTEN_PID") || !str_uint(str_of(count), FDS_MAX, &n)) return;
    sockets = (int)n;
    names = given ? str_dup(str_of(given)) : NULL;
    for (int i = 0; i < sockets; i++)
        (void)fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC);
}

static void read_watchdog(void) {
    const char *usec = getenv("WATCHDOG_USEC");
    uint64_t n;
    if (usec && is_for_us("WATCHDOG_PID") && str_uint(str_of(usec), INT64_MAX, &n)) watchdog_ms = (int64_t)(n / 2000);
}

void sd_setup(void) {
    static const char *const variables[] = {"NOTIFY_SOCKET",  "LISTEN_FDS",    "LISTEN_PID",
                                            "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"};
    open_notify();
    take_sockets();
    read_watchdog();
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
}

void sd_tell(const char *fmt, ...) {
    char text[512];
    va_list ap;
    if (notify_fd < 0) return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0) (void)send(notify_fd, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, MSG_NOSIGNAL);
}

void sd_tell_reloading(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    sd_tell("RELOADING=1\nMONOTONIC_USEC=%lld\n", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

int sd_sockets(void) {
    return sockets;
}

struct str sd_socket_name(int i) {
    struct str rest = str_of(names), name = STR_NONE;
    for (int k = 0; k <= i; k++) {
        if (!rest.len) return STR_NONE;
        rest = str_cut(rest, ':', &name);
    }
    return name;
}

int64_t sd_watchdog_ms(void) {
    return watchdog_ms;
}

void sd_close(void) {
    if (notify_fd >= 0) close(notify_fd);
    notify_fd = -1;
    free(names);
    names = NULL;
    sockets = 0;
}
