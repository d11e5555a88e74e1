/* access: records to lines, lines to a file that may be slow, full or gone.
 * In: a record at the end of a request. Out: one line of JSON or text. Owns the log's descriptor and one turn's lines.
 * Never blocks: a pipe on stdout is reopened through /proc/self/fd so that O_NONBLOCK stays ours alone, a socket is sent to with
 * MSG_DONTWAIT, a file is written as it is. Lines that do not fit are dropped whole and counted. */
#include "access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "loop.h"
#include "timer.h"

#define PENDING_MAX ((size_t)1 << 20) /* bytes of lines held while the log does not take them */
#define AGAIN_MS    500               /* after which a log that took no more is tried again, with nothing new to say */
#define TEXT_MAX    512               /* bytes of one client text in a line */
#define RECENT_TEXT 512               /* bytes of all texts of a request that is remembered; the last ones are cut */

static int fd = -1;
static bool is_socket;
static bool torn; /* the log ends in the middle of a line; pending begins with the rest of it */
static enum conf_access format = ACCESS_OFF;
static char *file;
static struct buf pending;
static uint64_t dropped, dropped_told;
static int drop_errno; /* why the last ones were */
static struct loop_task flush_task;
static struct timer again;

/* The last requests, for /status: kept as they are, made text only when somebody asks. */
struct recent {
    struct access_record record;
    char text[RECENT_TEXT];
};
static struct recent *recent;
static unsigned recent_count, recent_next;

static uint64_t lines_in(struct str s) {
    uint64_t n = 0;
    for (const char *p = s.ptr, *end = s.ptr + s.len; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
        n++;
    return n;
}

static int open_log(const char *path, bool *sock) {
    struct stat st;
    *sock = false;
    if (strcmp(path, "-") != 0) return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
    if (fstat(STDOUT_FILENO, &st) != 0) return -1;
    *sock = S_ISSOCK(st.st_mode);
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
        int own = open("/proc/self/fd/1", O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (own >= 0) return own;
    }
    return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

static void flush_now(struct loop_task *t) {
    (void)t;
    access_flush();
}

static void flush_again(struct timer *t) {
    (void)t;
    access_flush();
}

const char *access_open(enum conf_access f, const char *path) {
    static char problem[300];
    int opened = -1;
    bool sock = false;
    if (!recent) recent = must_alloc(ACCESS_RECENT * sizeof *recent); /* here, for later it is no time to run out of memory */
    if (fd >= 0 && f != ACCESS_OFF && strcmp(path, "-") == 0 && strcmp(file, "-") == 0) {
        format = f; /* the same stdout: what it has not taken yet stays owed, and no line is cut */
        return NULL;
    }
    if (f != ACCESS_OFF && (opened = open_log(path, &sock)) < 0) {
        snprintf(problem, sizeof problem, "cannot open %.200s: %s", path, strerror(errno));
        return problem;
    }
    access_close();
    loop_task_init(&flush_task, flush_now);
    timer_init(&again, flush_again);
    fd = opened, is_socket = sock, format = f, torn = false;
    file = str_dup(str_of(path));
    return NULL;
}

const char *access_reopen(void) {
    if (!file) return NULL;
    char *path = str_dup(str_of(file));
    const char *problem = access_open(format, path);
    free(path);
    return problem;
}

void access_close(void) {
    access_flush();
    if (fd >= 0) close(fd);
    if (flush_task.run) loop_undefer(&flush_task);
    timer_drop(&again);
    uint64_t lost = lines_in(buf_str(&pending));
    if (lost) log_warn("access", "%llu lines that the access log did not take are dropped", (unsigned long long)lost);
    dropped += lost;
    buf_free(&pending);
    free(file);
    fd = -1, file = NULL, format = ACCESS_OFF;
}

uint64_t access_dropped(void) {
    return dropped;
}

/* All but the rest of a line of which a part went: what comes after it must not be glued to half a line. */
static void drop_pending(struct str s) {
    const char *end = torn ? memchr(s.ptr, '\n', s.len) : NULL;
    size_t rest = end ? (size_t)(end - s.ptr) + 1 : 0;
    dropped += lines_in((struct str){s.ptr + rest, s.len - rest});
    buf_cut(&pending, rest);
}

void access_flush(void) {
    while (fd >= 0 && buf_len(&pending)) {
        struct str s = buf_str(&pending);
        ssize_t n = is_socket ? send(fd, s.ptr, s.len, MSG_DONTWAIT | MSG_NOSIGNAL) : write(fd, s.ptr, s.len);
        if (n > 0) {
            torn = s.ptr[n - 1] != '\n';
            buf_consume(&pending, (size_t)n);
            continue;
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN && buf_len(&pending) < PENDING_MAX) {
            timer_set(&again, clock_ms() + AGAIN_MS); /* or at the end of the next turn that logs */
            return;
        }
        drop_errno = errno;
        drop_pending(s);
        break;
    }
    if (dropped == dropped_told) return;
    if (dropped_told == 0) log_warn("access", "the access log takes no more: lines are dropped (%s)", strerror(drop_errno));
    dropped_told = dropped;
}

/* ---- lines ---- */

/* A line in the making: {"key":value,...} or key=value ... */
struct line {
    struct buf *out;
    bool json, begun;
};

static void put_key(struct line *l, struct str key) {
    if (l->json) buf_puts(l->out, l->begun ? STR(",\"") : STR("{\""));
    if (!l->json && l->begun) buf_putc(l->out, ' ');
    l->begun = true;
    buf_puts(l->out, key);
    buf_puts(l->out, l->json ? STR("\":") : STR("="));
}

static bool plain(struct str s) {
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=') return false;
    }
    return !str_eq(s, STR("-"));
}

/* In text only what would be read wrongly stands in quotes, written as in JSON: nobody can forge a field or a line. */
static void put_text(struct line *l, struct str key, struct str s) {
    put_key(l, key);
    if (!s.len) {
        buf_puts(l->out, l->json ? STR("null") : STR("-"));
    } else if (!l->json && s.len <= TEXT_MAX && plain(s)) {
        buf_puts(l->out, s);
    } else {
        buf_putc(l->out, '"');
        buf_put_json(l->out, s, TEXT_MAX);
        buf_putc(l->out, '"');
    }
}

static void put_number(struct line *l, struct str key, int64_t n) {
    put_key(l, key);
    if (n < 0)
        buf_puts(l->out, l->json ? STR("null") : STR("-"));
    else
        buf_putu(l->out, (uint64_t)n);
}

static void format_line(struct line *l, const struct access_record *r) {
    char when[25];
    clock_rfc3339(r->time_ms, when);
    put_text(l, STR("time"), (struct str){when, 24});
    put_text(l, STR("request_id"), r->request_id);
    put_text(l, STR("client"), r->client);
    put_text(l, STR("method"), r->method);
    put_text(l, STR("path"), r->path);
    put_text(l, STR("model"), r->model);
    put_text(l, STR("pool"), r->pool);
    put_text(l, STR("endpoint"), r->endpoint);
    put_text(l, STR("affinity"), str_of(r->affinity));
    put_number(l, STR("tries"), (int64_t)r->tries);
    put_number(l, STR("status"), r->status ? r->status : -1);
    put_number(l, STR("received_bytes"), (int64_t)r->received_bytes);
    put_number(l, STR("sent_bytes"), (int64_t)r->sent_bytes);
    put_number(l, STR("queue_ms"), r->queue_ms);
    put_number(l, STR("first_byte_ms"), r->first_byte_ms);
    put_number(l, STR("first_token_ms"), r->first_token_ms);
    put_number(l, STR("duration_ms"), r->duration_ms);
    put_number(l, STR("prompt_tokens"), r->prompt_tokens);
    put_number(l, STR("cached_tokens"), r->cached_tokens);
    put_number(l, STR("completion_tokens"), r->completion_tokens);
    put_text(l, STR("end"), str_of(why_end_name(r->end)));
    if (l->json) buf_putc(l->out, '}');
}

void access_format(struct buf *out, const struct access_record *r, enum conf_access f) {
    struct line l = {out, f == ACCESS_JSON, false};
    if (f != ACCESS_OFF) format_line(&l, r);
}

static void remember(const struct access_record *r) {
    if (!recent) return;
    struct recent *to = &recent[recent_next];
    struct str *const texts[] = {&to->record.request_id, &to->record.pool,  &to->record.endpoint, &to->record.client,
                                 &to->record.method,     &to->record.model, &to->record.path};
    size_t used = 0;
    to->record = *r;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = texts[i]->len < RECENT_TEXT - used ? texts[i]->len : RECENT_TEXT - used;
        if (n) memcpy(to->text + used, texts[i]->ptr, n);
        *texts[i] = (struct str){to->text + used, n};
        used += n;
    }
    recent_next = (recent_next + 1) % ACCESS_RECENT;
    if (recent_count < ACCESS_RECENT) recent_count++;
}

void access_recent(struct buf *out) {
    for (unsigned i = 0; i < recent_count; i++) {
        if (i) buf_putc(out, ',');
        access_format(out, &recent[(recent_next + ACCESS_RECENT - 1 - i) % ACCESS_RECENT].record, ACCESS_JSON);
    }
}

void access_forget(void) {
    free(recent);
    recent = NULL;
    recent_count = recent_next = 0;
}

void access_write(const struct access_record *r) {
    if (r->pool.len || r->end != END_DONE) remember(r); /* our own pages, asked for every second, would push out the rest */
    if (format == ACCESS_OFF) return;
    if (buf_len(&pending) >= PENDING_MAX) {
        dropped++;
        drop_errno = EAGAIN;
        return;
    }
    size_t before = buf_len(&pending);
    access_format(&pending, r, format);
    buf_putc(&pending, '\n');
    if (pending.failed) { /* the whole line or nothing of it */
        buf_cut(&pending, before);
        dropped++;
        drop_errno = ENOMEM;
    }
    loop_defer(&flush_task);
}
