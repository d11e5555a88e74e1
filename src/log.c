/* log: the operator's lines, one write each, on stderr.
 * In: a level, the owner's tag, a text. Owns the level and nothing else.
 * A line is cut at 1 KB. Control bytes become '?', so that no peer's text can forge a line.
 * Never blocks for long: stderr is the operator's own; what it does not take is lost. */
#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static enum log_level level = LOG_INFO;
static int journal = -1; /* stderr is the journal's: lines carry a priority */
static int fd = STDERR_FILENO;
static bool is_socket;

/* A shell that systemd started hands the variable down: it must be this very stream (systemd.exec(5)). */
static bool is_journal(const struct stat *st) {
    char own[48];
    const char *stream = getenv("JOURNAL_STREAM");
    snprintf(own, sizeof own, "%llu:%llu", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
    return stream && strcmp(stream, own) == 0;
}

/* A pipe is opened anew, so that O_NONBLOCK is ours alone: whoever reads it may stall, requests must not. */
static void look_at_stderr(void) {
    struct stat st;
    journal = 0;
    if (fstat(STDERR_FILENO, &st) != 0) return;
    journal = is_journal(&st);
    is_socket = S_ISSOCK(st.st_mode);
    if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode)) return;
    int own = open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (own >= 0) fd = own;
}

static const struct {
    char name[6];
    int priority; /* syslog(3) */
} levels[] = {{"error", 3}, {"warn", 4}, {"info", 6}, {"debug", 7}};

void log_set_level(enum log_level l) {
    level = l;
}

bool log_enabled(enum log_level l) {
    return l <= level;
}

void log_line(enum log_level l, const char *tag, const char *fmt, ...) {
    char line[1024];
    if (!log_enabled(l)) return;
    if (journal < 0) look_at_stderr();
    int n = journal ? snprintf(line, sizeof line, "<%d>%s: ", levels[l].priority, tag)
                    : snprintf(line, sizeof line, "%s %s: ", levels[l].name, tag);
    va_list ap;
    va_start(ap, fmt);
    int more = vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    size_t len = (size_t)n + (size_t)(more < 0 ? 0 : more);
    if (len > sizeof line - 1) len = sizeof line - 1;
    for (size_t i = (size_t)n; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
    line[len] = '\n';
    ssize_t done = is_socket ? send(fd, line, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) : write(fd, line, len + 1);
    (void)done; /* nobody left to tell */
}
