/* The router's sockets as a kernel that is short of something has them: while the file FAILS names a call and an errno, as in
 * "accept4 23", that call fails with it, and leaves a byte in the file FAILED. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fails(const char *call) {
    char text[64] = "", name[32] = "";
    int saved = errno, number = 0, fd = open(getenv("FAILS"), O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    errno = saved;
    if (n <= 0 || sscanf(text, "%31s %d", name, &number) != 2 || strcmp(name, call) != 0) return 0;
    fd = open(getenv("FAILED"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "", 1) != 1) abort();
    close(fd);
    errno = number;
    return 1;
}

int accept4(int listener, struct sockaddr *peer, socklen_t *len, int flags) {
    int (*next)(int, struct sockaddr *, socklen_t *, int) =
        (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    return fails("accept4") ? -1 : next(listener, peer, len, flags);
}

int socket(int domain, int type, int protocol) {
    int (*next)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    return domain == AF_INET && fails("socket") ? -1 : next(domain, type, protocol);
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags) {
    ssize_t (*next)(int, const struct msghdr *, int) = (ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
    return fails("sendmsg") ? -1 : next(fd, msg, flags);
}
