/* sd: what systemd is told, and what it hands over (sd_notify(3), sd_listen_fds(3)). Without it each call does nothing. */
#ifndef SD_H
#define SD_H
#include "str.h"

/* Reads the environment once and takes its variables out of it, so that no child is misled. Before everything else here. */
void sd_setup(void);
/* One datagram to $NOTIFY_SOCKET: lines "KEY=value", as READY=1. A failure is ignored: a supervisor that is gone is no error. */
void sd_tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void sd_tell_reloading(void); /* RELOADING=1 with MONOTONIC_USEC, as Type=notify-reload wants it; READY=1 ends it */

/* Listening sockets handed over: descriptors 3 … 3+n-1, close-on-exec set. */
int sd_sockets(void);
/* The name given to the i-th by FileDescriptorName=, "" if there is none. */
struct str sd_socket_name(int i);
int64_t sd_watchdog_ms(void); /* how often to say WATCHDOG=1: half of WATCHDOG_USEC; 0 = never */
void sd_close(void);
#endif
