/* metrics: cells to text.
 * In: stats, the current world, the counters of the modules below. Out: Prometheus text. Owns the table of rows: a metric's name,
 * type, help and the function that writes its samples. Counts nothing itself and changes nothing.
 * Numbers are written as integers or as whole milliseconds with three decimals: no locale, no rounding. */
#include "metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "access.h"
#include "body.h"
#include "client.h"
#include "clock.h"
#include "dispatch.h"
#include "loop.h"
#include "upstream.h"
#include "version.h"
#include "world.h"

/* One sample's beginning: name, labels. Values follow by put_value. */
static void put_label(struct buf *b, const char *key, const char *value, bool first) {
    buf_putc(b, first ? '{' : ',');
    buf_puts(b, str_of(key));
    BUF_LIT(b, "=\"");
    for (const char *p = value; *p; p++) {
        if (*p == '\\' || *p == '"') buf_putc(b, '\\');
        if (*p == '\n')
            BUF_LIT(b, "\\n");
        else
            buf_putc(b, *p);
    }
    buf_putc(b, '"');
}

static void put_name(struct buf *b, const char *name, const char *k1, const char *v1, const char *k2, const char *v2) {
    buf_puts(b, str_of(name));
    if (k1) put_label(b, k1, v1, true);
    if (k2) put_label(b, k2, v2, false);
}

static void put_value(struct buf *b, bool labelled, uint64_t n) {
    buf_puts(b, labelled ? STR("} ") : STR(" "));
    buf_putu(b, n);
    buf_putc(b, '\n');
}

static void put_ms(struct buf *b, uint64_t ms) {
    buf_printf(b, "%llu.%03u", (unsigned long long)(ms / 1000), (unsigned)(ms % 1000));
}

static void put_histogram(struct buf *b, const char *name, const struct histogram *h, const char *pool, const char *model) {
    char bucket[64], bound[32];
    uint64_t n = 0;
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    for (unsigned i = 0; i < STATS_BUCKETS; i++) {
        n += h->count[i];
        if (i < STATS_BUCKETS - 1)
            snprintf(bound, sizeof bound, "%g", stats_bounds[i] / 1000.0);
        else
            str_copy(bound, sizeof bound, STR("+Inf"));
        put_name(b, bucket, "pool", pool, model ? "model" : NULL, model);
        put_label(b, "le", bound, false);
        put_value(b, true, n);
    }
    snprintf(bucket, sizeof bucket, "%s_sum", name);
    put_name(b, bucket, "pool", pool, model ? "model" : NULL, model);
    BUF_LIT(b, "} ");
    put_ms(b, h->sum_ms);
    buf_putc(b, '\n');
    snprintf(bucket, sizeof bucket, "%s_count", name);
    put_name(b, bucket, "pool", pool, model ? "model" : NULL, model);
    put_value(b, true, n);
}

/* ---- by member: pool and endpoint ---- */

#define EACH_POOL(p)      for (const struct pool *p = world_current()->pools, *p##_end = p + world_current()->npools; p < p##_end; p++)
#define EACH_MEMBER(m, p) for (const struct member *m = (p)->members, *m##_end = m + (p)->nmembers; m < m##_end; m++)

static void member_name(struct buf *b, const char *name, const struct pool *p, const struct member *m) {
    put_name(b, name, "pool", p->conf->name, "endpoint", m->endpoint->url.text);
}

static void requests(struct buf *b, const char *name) {
    static const char *const codes[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
    EACH_POOL(p) EACH_MEMBER(m, p) for (unsigned c = 0; c < 6; c++) {
        if (c == 1 || (!c && !m->stats->code[0])) continue; /* a 1xx is never the answer */
        member_name(b, name, p, m);
        put_label(b, "code", codes[c], false);
        put_value(b, true, m->stats->code[c]);
    }
}

static void in_flight(struct buf *b, const char *name) {
    EACH_POOL(p) EACH_MEMBER(m, p) {
        member_name(b, name, p, m);
        put_value(b, true, m->stats->in_flight);
    }
}

static void retries(struct buf *b, const char *name) {
    EACH_POOL(p) EACH_MEMBER(m, p) {
        member_name(b, name, p, m);
        put_value(b, true, m->stats->retries);
    }
}

static void endpoint_up(struct buf *b, const char *name) {
    EACH_POOL(p) EACH_MEMBER(m, p) {
        member_name(b, name, p, m);
        put_value(b, true, endpoint_state(m->endpoint) == ENDPOINT_UP);
    }
}

static void endpoint_states(struct buf *b, const char *name) {
    EACH_POOL(p) EACH_MEMBER(m, p) for (unsigned s = 0; s < ENDPOINT_STATES; s++) {
        member_name(b, name, p, m);
        put_label(b, "state", endpoint_state_name((enum endpoint_state)s), false);
        put_value(b, true, endpoint_state(m->endpoint) == (enum endpoint_state)s);
    }
}

/* ---- by pool ---- */

static void queued(struct buf *b, const char *name) {
    EACH_POOL(p) {
        put_name(b, name, "pool", p->conf->name, NULL, NULL);
        put_value(b, true, p->live->queued);
    }
}

static void queue_wait(struct buf *b, const char *name) {
    EACH_POOL(p) put_histogram(b, name, &p->live->stats.queue_wait, p->conf->name, NULL);
}

static void first_byte(struct buf *b, const char *name) {
    EACH_POOL(p) put_histogram(b, name, &p->live->stats.first_byte, p->conf->name, NULL);
}

static void duration(struct buf *b, const char *name) {
    EACH_POOL(p) put_histogram(b, name, &p->live->stats.duration, p->conf->name, NULL);
}

static void affinity(struct buf *b, const char *name) {
    EACH_POOL(p) for (unsigned a = 0; a < STATS_AFFINITIES; a++) {
        put_name(b, name, "pool", p->conf->name, "result", route_affinity_name((enum route_affinity)a));
        put_value(b, true, p->live->stats.affinity[a]);
    }
}

static void client_gone(struct buf *b, const char *name) {
    EACH_POOL(p) {
        put_name(b, name, "pool", p->conf->name, NULL, NULL);
        put_value(b, true, p->live->stats.client_gone);
    }
}

/* ---- by pool and model ---- */

static void first_token(struct buf *b, const char *name) {
    list_each(it, stats_models()) {
        const struct stats_model *m = list_entry(it, struct stats_model, link);
        put_histogram(b, name, &m->first_token, m->pool, m->entry);
    }
}

static void per_token(struct buf *b, const char *name) {
    list_each(it, stats_models()) {
        const struct stats_model *m = list_entry(it, struct stats_model, link);
        put_histogram(b, name, &m->per_token, m->pool, m->entry);
    }
}

static void tokens(struct buf *b, const char *name) {
    static const char *const types[TOKENS_KINDS] = {"prompt", "cached", "completion"};
    list_each(it, stats_models()) {
        const struct stats_model *m = list_entry(it, struct stats_model, link);
        for (unsigned k = 0; k < TOKENS_KINDS; k++) {
            put_name(b, name, "pool", m->pool, "model", m->entry);
            put_label(b, "type", types[k], false);
            put_value(b, true, m->tokens[k]);
        }
    }
}

/* ---- the process ---- */

static void build_info(struct buf *b, const char *name) {
    put_name(b, name, "version", ROUTER_VERSION, NULL, NULL);
    put_value(b, true, 1);
}

/* Rows of the table of endings may share a label: it is written once, with their sum. */
static void refused(struct buf *b, const char *name) {
    for (unsigned i = 0; i < WHY_COUNT; i++) {
        const char *label = why_row((enum why)i)->label;
        uint64_t n = 0;
        bool first = label[0] != 0;
        for (unsigned k = 0; k < WHY_COUNT && first; k++) {
            if (strcmp(why_row((enum why)k)->label, label) != 0) continue;
            if (k < i) first = false;
            n += stats.refused[k];
        }
        if (!first) continue;
        put_name(b, name, "reason", label, NULL, NULL);
        put_value(b, true, n);
    }
}

static void both_sides(struct buf *b, const char *name, const uint64_t by_side[CONN_SIDES]) {
    put_name(b, name, "side", "client", NULL, NULL);
    put_value(b, true, by_side[CONN_CLIENT]);
    put_name(b, name, "side", "endpoint", NULL, NULL);
    put_value(b, true, by_side[CONN_ENDPOINT]);
}

static void received_bytes(struct buf *b, const char *name) {
    both_sides(b, name, conn_totals()->received);
}

static void sent_bytes(struct buf *b, const char *name) {
    both_sides(b, name, conn_totals()->sent);
}

static void connections(struct buf *b, const char *name) {
    unsigned idle = client_idle_count();
    const struct {
        const char *side, *state;
        unsigned n;
    } rows[] = {{"client", "active", client_count() - idle},
                {"client", "idle", idle},
                {"endpoint", "active", upstream_count() - upstream_idle_count()},
                {"endpoint", "idle", upstream_idle_count()}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_name(b, name, "side", rows[i].side, "state", rows[i].state);
        put_value(b, true, rows[i].n);
    }
}

static void body_memory(struct buf *b, const char *name) {
    put_name(b, name, NULL, NULL, NULL, NULL);
    put_value(b, false, body_held());
}

static void loop_busy(struct buf *b, const char *name) {
    const struct loop_stats *s = loop_stats();
    uint64_t n = 0;
    for (unsigned i = 0; i < LOOP_BUSY_BUCKETS; i++) {
        n += s->busy[i];
        if (i < LOOP_BUSY_BUCKETS - 1)
            buf_printf(b, "%s_bucket{le=\"%.6f\"} %llu\n", name, (double)(1u << i) / 1e6, (unsigned long long)n);
        else
            buf_printf(b, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)n);
    }
    buf_printf(b, "%s_sum %llu.%06u\n%s_count %llu\n", name, (unsigned long long)(s->busy_us / 1000000),
               (unsigned)(s->busy_us % 1000000), name, (unsigned long long)n);
}

static void lines_dropped(struct buf *b, const char *name) {
    put_name(b, name, NULL, NULL, NULL, NULL);
    put_value(b, false, access_dropped());
}

static void reloads(struct buf *b, const char *name) {
    put_name(b, name, "result", "ok", NULL, NULL);
    put_value(b, true, stats.reloads_ok);
    put_name(b, name, "result", "failed", NULL, NULL);
    put_value(b, true, stats.reloads_failed);
}

static void put_seconds(struct buf *b, const char *name, int64_t ms) {
    buf_puts(b, str_of(name));
    buf_putc(b, ' ');
    put_ms(b, (uint64_t)ms);
    buf_putc(b, '\n');
}

static void config_loaded(struct buf *b, const char *name) {
    put_seconds(b, name, stats.loaded_ms);
}

static void start_time(struct buf *b, const char *name) {
    put_seconds(b, name, stats.started_ms);
}

static void cpu_seconds(struct buf *b, const char *name) {
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0) return;
    put_seconds(b, name,
                (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000);
}

/* The n-th number of /proc/self/statm, in bytes. */
static void memory(struct buf *b, const char *name, int nth) {
    char text[256];
    struct str rest, word = STR_NONE;
    uint64_t pages;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
    if (fd >= 0) close(fd);
    rest = (struct str){text, n > 0 ? (size_t)n : 0};
    for (int i = 0; i <= nth; i++)
        rest = str_cut(rest, ' ', &word);
    if (!str_uint(word, INT64_MAX / 65536, &pages)) return;
    buf_puts(b, str_of(name));
    put_value(b, false, pages * (uint64_t)sysconf(_SC_PAGESIZE));
}

static void virtual_memory(struct buf *b, const char *name) {
    memory(b, name, 0);
}

static void resident_memory(struct buf *b, const char *name) {
    memory(b, name, 1);
}

static void open_fds(struct buf *b, const char *name) {
    struct stat st;
    uint64_t n = 0;
    if (stat("/proc/self/fd", &st) != 0) return;
    n = (uint64_t)st.st_size; /* Linux 6.2 and later tell it there; before, they must be counted */
    DIR *d = n ? NULL : opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d) closedir(d), n -= 3; /* itself, "." and ".." */
    buf_puts(b, str_of(name));
    put_value(b, false, n);
}

static void max_fds(struct buf *b, const char *name) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    buf_puts(b, str_of(name));
    put_value(b, false, (uint64_t)r.rlim_cur);
}

#define COUNTER "counter"
#define GAUGE   "gauge"
#define HISTO   "histogram"
static const struct {
    const char *name, *type, *help;
    void (*samples)(struct buf *b, const char *name);
} rows[] = {
    {"router_build_info", GAUGE, "Always 1; the version is a label.", build_info},
    {"router_requests_total", COUNTER,
     "Requests finished at an endpoint, by class of status; none: nothing was told to the client.", requests},
    {"router_refused_total", COUNTER, "Requests the router refused itself, by the error's code.", refused},
    {"router_requests_in_flight", GAUGE, "Requests an endpoint works on now.", in_flight},
    {"router_requests_queued", GAUGE, "Requests that wait for an endpoint now.", queued},
    {"router_queue_wait_seconds", HISTO, "Time requests waited in a pool's queue.", queue_wait},
    {"router_first_byte_seconds", HISTO, "Time from a request's first byte to the first byte of its response.", first_byte},
    {"router_first_token_seconds", HISTO, "Time from a request's first byte to the first event with content.", first_token},
    {"router_time_per_output_token_seconds", HISTO,
     "Time a token takes in streams that tell how many they were, after the first: 1 / tokens per second.", per_token},
    {"router_request_duration_seconds", HISTO, "Time from a request's first byte to its end.", duration},
    {"router_tokens_total", COUNTER, "Tokens as endpoints told them: prompt, cached (part of prompt), completion.", tokens},
    {"router_endpoint_up", GAUGE, "1 if the endpoint is up.", endpoint_up},
    {"router_endpoint_state", GAUGE, "1 for the state the endpoint is in.", endpoint_states},
    {"router_affinity_total", COUNTER,
     "How requests met their endpoint: hit, spill (first choice busy), failover (first choice down), none.", affinity},
    {"router_retries_total", COUNTER, "Tries at an endpoint after another one failed.", retries},
    {"router_client_gone_total", COUNTER, "Requests whose client left before the end.", client_gone},
    {"router_received_bytes_total", COUNTER, "Bytes received, heads included.", received_bytes},
    {"router_sent_bytes_total", COUNTER, "Bytes sent, heads included.", sent_bytes},
    {"router_connections", GAUGE, "Open connections.", connections},
    {"router_body_memory_bytes", GAUGE, "Bytes of request bodies held now.", body_memory},
    {"router_loop_busy_seconds", HISTO, "Time from a wake of the event loop to its next wait.", loop_busy},
    {"router_log_lines_dropped_total", COUNTER, "Access lines the log did not take.", lines_dropped},
    {"router_reloads_total", COUNTER, "Reloads of the configuration.", reloads},
    {"router_config_loaded_timestamp_seconds", GAUGE, "When the configuration in force was loaded.", config_loaded},
    {"process_cpu_seconds_total", COUNTER, "User and system CPU time spent.", cpu_seconds},
    {"process_resident_memory_bytes", GAUGE, "Resident memory.", resident_memory},
    {"process_virtual_memory_bytes", GAUGE, "Virtual memory.", virtual_memory},
    {"process_open_fds", GAUGE, "Open file descriptors.", open_fds},
    {"process_max_fds", GAUGE, "Limit of open file descriptors.", max_fds},
    {"process_start_time_seconds", GAUGE, "When the process was started.", start_time},
};

void metrics_render(struct buf *out) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", rows[i].name, rows[i].help, rows[i].name, rows[i].type);
        rows[i].samples(out, rows[i].name);
    }
}
