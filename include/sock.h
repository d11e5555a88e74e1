/* sock: sockets made ready: nonblocking, close-on-exec, without Nagle. Addresses as text. */
#ifndef SOCK_H
#define SOCK_H
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "str.h"

/* Any address we listen on or connect to. */
struct sock_addr {
    socklen_t len; /* 0 = none */
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } u;
};
#define SOCK_TEXT 128 /* room for any address as text */

/* A listening socket, or -1 with errno. A unix path gets mode 0660 and replaces a dead socket of that name (not a live one:
 * EADDRINUSE, nor a file of another kind: EEXIST). */
int sock_listen(const struct sock_addr *addr, bool reuse_port, int backlog);
/* The next connection, or -1 with errno (EAGAIN: none). *peer is filled. */
int sock_accept(int listener, struct sock_addr *peer);
/* Starts a connection: the descriptor, with *done telling if it stands already; or -1 with errno. */
int sock_connect(const struct sock_addr *addr, bool *done);
void sock_set_nonblocking(int fd);              /* of a descriptor that somebody else made */
int sock_error(int fd);                         /* SO_ERROR: 0 or an errno; clears it */
bool sock_local(int fd, struct sock_addr *out); /* the address it is bound to */
/* "1.2.3.4:80", "[::1]:80", "unix:/path"; returns dst. */
const char *sock_text(const struct sock_addr *addr, char dst[SOCK_TEXT]);
/* Without the port: "1.2.3.4", "::1"; v4-mapped v6 as v4; "" for unix. */
const char *sock_ip(const struct sock_addr *addr, char dst[SOCK_TEXT]);
/* An address without its port: IPv4 as v4-mapped; "::", which nobody has, for a unix socket. */
struct in6_addr sock_host(const struct sock_addr *addr);
const char *sock_host_text(const struct in6_addr *host, char dst[SOCK_TEXT]); /* "1.2.3.4", "::1" */
/* Waits for no one: what the kernel says a vanished peer costs: probes after 20 s, dead after about 50 s (RFC 1122 4.2.3.6). */
void sock_watch_peer(int fd);
/* True: what was sent was not acknowledged for 50 s, however often it was tried (130 s after a window that was full for minutes).
 * A full window that the peer confirms is no loss. */
bool sock_peer_lost(int fd);
/* Bytes written that the peer has not taken yet: in the kernel or under way (tcp(7), SIOCOUTQ). */
size_t sock_unsent(int fd);
#endif
