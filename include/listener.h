/* listener: the sockets we accept on. */
#ifndef LISTENER_H
#define LISTENER_H
#include "client.h"
#include "sock.h"

struct listener_want {
    struct sock_addr addr;
    bool admin;
};

/* Listens wherever that is not done yet; what is open stays. False with a message in err: then nothing has changed. */
bool listener_add(const struct listener_want *wants, size_t n, bool reuse_port, const struct client_user *api, char err[256]);
/* Closes those that are not among the wanted, but for inherited ones. */
void listener_keep_only(const struct listener_want *wants, size_t n);
/* A listening socket that a supervisor opened and keeps: it is never taken down from here, nor is its backlog emptied. */
bool listener_adopt(int fd, bool admin, const struct client_user *api, char err[256]);
/* Accepts what waits in the backlogs (of our own sockets), then closes; a unix socket's name goes too. */
void listener_close_all(bool admin);
void listener_set_limit(unsigned max_connections);
unsigned listener_inherited(bool admin); /* how many of them were adopted */
#endif
