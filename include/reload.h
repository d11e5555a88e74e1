/* reload: a configuration comes into force, whole or not at all: at the start, and again at SIGHUP. */
#ifndef RELOAD_H
#define RELOAD_H
#include "conf.h"

struct server_options {
    const char *config;          /* the file's path */
    struct value_listen *listen; /* from the command line: overrides the file's addresses */
    size_t nlisten;
};

/* Takes conf over, whatever comes of it. NULL, or what failed, good until the next call: then nothing has changed, and what was in
 * force goes on. */
const char *reload_apply(struct conf *conf, const struct server_options *options);
/* Reads the file again and applies it. What is wrong is logged, counted and kept for /status. True if it is in force. */
bool reload_again(const struct server_options *options);
#endif
