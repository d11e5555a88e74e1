/* server: the process: wiring, signals, drain. */
#ifndef SERVER_H
#define SERVER_H
#include "reload.h"

/* Runs until a signal ends it. The exit status: 0 clean stop, 1 cannot listen or another failure of the machine. Takes conf over. */
int server_run(struct conf *conf, const struct server_options *options);
#endif
