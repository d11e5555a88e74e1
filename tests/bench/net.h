#ifndef BENCH_NET_H
#define BENCH_NET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC: the same clock in every process of one machine. */
uint64_t net_now(void);

/* Prints "PROGRAM: what: errno" and exits 1: these programs have nobody to recover for. */
void net_die(const char *what) __attribute__((noreturn));

/* "127.0.0.1:8080" -> address; exits on anything else. */
struct sockaddr_in net_address(const char *text);

/* A nonblocking listener; deferred: connections are reported with their first byte (TCP_DEFER_ACCEPT). */
int net_listen(const char *text, bool deferred);

/* The next connection, nonblocking and without Nagle's delay; -1 when there is none. */
int net_accept(int listener);

/* Starts to connect, nonblocking; -1 with errno when that fails at once. */
int net_connect(const struct sockaddr_in *to);

/* Lifts the soft limit of open files to the hard one. */
void net_raise_files(void);

/* Length of the head with its blank line, or 0 while it is not complete. */
size_t net_head_length(const char *bytes, size_t len);

/* The value of Content-Length in a complete head, or -1. */
long long net_content_length(const char *head, size_t len);

/* Whether the complete head says "Transfer-Encoding: chunked". */
bool net_is_chunked(const char *head, size_t len);

#endif
