/* access: one finished request -> one line. Buffered, written once a turn, never waited for: what the log does not take is
 * dropped and counted. */
#ifndef ACCESS_H
#define ACCESS_H
#include "buf.h"
#include "conf.h"
#include "why.h"

/* What is known of a request at its end. Empty strings and negative numbers are written as null. */
struct access_record {
    int64_t time_ms; /* clock_wall_ms of its first byte */
    struct str request_id, client, method, path, model, pool, endpoint;
    const char *affinity; /* NULL = null */
    unsigned tries;
    int status;
    uint64_t received_bytes, sent_bytes; /* bodies */
    int64_t queue_ms, first_byte_ms, first_token_ms, duration_ms;
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    enum why_end end;
};

/* Opens (or, with other settings or after a rotation, reopens) the log. NULL, or what failed; the old one then goes on. */
const char *access_open(enum conf_access format, const char *file);
const char *access_reopen(void); /* the same file again: SIGUSR1 */
void access_write(const struct access_record *r);
void access_flush(void); /* the server calls it at the end; otherwise it happens at the end of each turn */
void access_close(void);
uint64_t access_dropped(void);
#define ACCESS_RECENT 100            /* requests remembered for /status: those that were routed or went wrong */
void access_recent(struct buf *out); /* their lines, newest first, separated by commas */
void access_forget(void);            /* at the end */
/* One line, without its end, of a record: what access_write writes. For tests and /status. */
void access_format(struct buf *out, const struct access_record *r, enum conf_access format);
#endif
