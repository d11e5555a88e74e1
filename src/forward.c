/* forward: the request half of an exchange, as the endpoint gets it.
 * In: a client's head and stored body, an alias, an endpoint. Out: iovecs over line, fields and body, from any offset.
 * Owns these bytes until the endpoint answers. The client's bytes are rebuilt (head) or passed as they lie (body); the body is
 * framed by its length, however it came. */
#include "forward.h"

#include "json.h"
#include "slab.h"

#define SWAP_MAX 3200 /* a model's name with every byte escaped */

static struct slab slab = {.size = sizeof(struct forward), .clear = sizeof(struct forward)};

struct forward *forward_new(const struct http_head *head, const struct head_forward *how) {
    struct forward *f = slab_get(&slab);
    struct str target = str_at(head->base, head->target);
    buf_puts(&f->fields, target);
    f->target_len = (uint32_t)target.len;
    f->bare = how->drop_credentials;
    head_request_fields(&f->fields, head, how);
    return f;
}

void forward_no_swap(struct forward *f) {
    buf_free(&f->swap);
}

void forward_drop_credentials(struct forward *f) {
    struct str rest = {buf_ptr(&f->fields) + f->target_len, buf_len(&f->fields) - f->target_len}, line, name;
    struct buf kept = {0};
    if (f->bare) return;
    buf_put(&kept, buf_ptr(&f->fields), f->target_len);
    while (rest.len) {
        rest = str_cut(rest, '\n', &line);
        str_cut(line, ':', &name);
        enum http_id id = field_id(name);
        if (id == FIELD_AUTHORIZATION || id == FIELD_COOKIE || id == FIELD_X_API_KEY) continue;
        buf_puts(&kept, line);
        buf_putc(&kept, '\n');
    }
    kept.failed |= f->fields.failed;
    buf_free(&f->fields);
    f->fields = kept;
    f->bare = true;
}

bool forward_swap(struct forward *f, uint64_t off, uint64_t raw, struct str name, bool json) {
    char text[SWAP_MAX];
    size_t len = name.len;
    buf_free(&f->swap);
    if (json) {
        len = json_encode(name, text, sizeof text);
        name = (struct str){text, len};
    }
    if (!len) return false;
    buf_puts(&f->swap, name);
    f->swap_off = off;
    f->swap_raw = raw;
    return !f->swap.failed;
}

static uint64_t body_length(const struct forward *f) {
    size_t n = buf_len(&f->swap);
    return n ? f->body.len - f->swap_raw + n : f->body.len;
}

bool forward_line(struct forward *f, const struct endpoint *e) {
    if (f->fields.failed) return false;
    struct str target = {buf_ptr(&f->fields), f->target_len};
    buf_free(&f->line);
    head_request_line(&f->line, STR("POST"), str_of(e->url.base), target, str_of(e->host), str_of(e->api_key));
    BUF_LIT(&f->line, "Content-Length: ");
    buf_putu(&f->line, body_length(f));
    BUF_LIT(&f->line, "\r\n");
    return !f->line.failed;
}

/* Adds one run of bytes, less what of it lies before `from`; *at is the run's offset and moves behind it. */
static int add(struct iovec *iov, uint64_t from, uint64_t *at, const char *ptr, uint64_t len) {
    uint64_t start = *at;
    *at += len;
    if (from >= *at || !len) return 0;
    uint64_t skip = from > start ? from - start : 0;
    *iov = (struct iovec){(void *)(uintptr_t)(ptr + skip), (size_t)(len - skip)};
    return 1;
}

/* The same for a run [a, b) of the body, which may lie in many blocks. */
static int add_body(const struct forward *f, struct iovec *iov, int max, uint64_t from, uint64_t *at, uint64_t a, uint64_t b) {
    uint64_t start = *at;
    *at += b - a;
    if (from >= *at || a == b) return 0;
    return body_pieces(&f->body, from > start ? a + (from - start) : a, b, iov, max);
}

int forward_pieces(const struct forward *f, uint64_t from, struct iovec *iov, int max) {
    uint64_t at = 0;
    int n = 0;
    n += add(iov, from, &at, buf_ptr(&f->line), buf_len(&f->line));
    n += add(iov + n, from, &at, buf_ptr(&f->fields) + f->target_len, buf_len(&f->fields) - f->target_len);
    if (!buf_len(&f->swap)) return n + add_body(f, iov + n, max - n, from, &at, 0, f->body.len);
    n += add_body(f, iov + n, max - n, from, &at, 0, f->swap_off);
    if (n < max) n += add(iov + n, from, &at, buf_ptr(&f->swap), buf_len(&f->swap));
    if (n < max) n += add_body(f, iov + n, max - n, from, &at, f->swap_off + f->swap_raw, f->body.len);
    return n;
}

void forward_free(struct forward *f) {
    if (!f) return;
    body_free(&f->body);
    buf_free(&f->fields);
    buf_free(&f->line);
    buf_free(&f->swap);
    slab_put(&slab, f);
}
