/* fuzz_json: any bytes as a body. Whole, byte by byte, in two, in uneven pieces, with every scanner: json must say the same, and what a
 * plain recursive reader of RFC 8259 says that shares no code with it. Pieces lie in memory of exactly their size. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "json_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct json_want wants[] = {{STR("user"), {0}}, {STR("metadata"), STR("user_id")}, {STR("metadata"), {0}}};
#define NWANTS (sizeof wants / sizeof *wants)

/* ---- the plain reader: end of what begins at p, or NULL ---- */

static const char *plain_blanks(const char *p, const char *end) {
    while (p < end && strchr(" \t\n\r", *p) && *p)
        p++;
    return p;
}

static const char *plain_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if ((unsigned char)*p < 0x20 || (*p == '\\' && (++p == end || (unsigned char)*p < 0x20))) return NULL;
    return p < end ? p + 1 : NULL;
}

static const char *plain_digits(const char *p, const char *end) {
    const char *from = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > from ? p : NULL;
}

static const char *plain_number(const char *p, const char *end) {
    p += *p == '-';
    p = p < end && *p == '0' ? p + 1 : plain_digits(p, end);
    if (p && p < end && *p == '.') p = plain_digits(p + 1, end);
    if (!p || p == end || (*p != 'e' && *p != 'E')) return p;
    p += 1 + (p + 1 < end && (p[1] == '+' || p[1] == '-'));
    return plain_digits(p, end);
}

struct member {
    struct str key;
    struct json_value value;
};
static struct member members[2000]; /* of the objects at that level */
static size_t nmembers;
static int collect;
static const char *base;

static const char *plain_value(const char *p, const char *end, int level, struct json_value *v);

static const char *plain_list(const char *p, const char *end, int level) {
    char close = *p == '{' ? '}' : ']';
    p = plain_blanks(p + 1, end);
    if (p < end && *p == close) return p + 1;
    while (p < end) {
        struct member m = {STR_NONE, {0}};
        if (close == '}') {
            const char *key = p + 1;
            if (*p != '"' || !(p = plain_string(p, end))) return NULL;
            m.key = (struct str){key, (size_t)(p - 1 - key)};
            p = plain_blanks(p, end);
            if (p == end || *p != ':') return NULL;
            p = plain_blanks(p + 1, end);
        }
        if (p == end || !(p = plain_value(p, end, level, &m.value))) return NULL;
        if (level == collect && nmembers < sizeof members / sizeof *members) members[nmembers++] = m;
        p = plain_blanks(p, end);
        if (p < end && *p == close) return p + 1;
        if (p == end || *p != ',') return NULL;
        p = plain_blanks(p + 1, end);
    }
    return NULL;
}

static const char *plain_value(const char *p, const char *end, int level, struct json_value *v) {
    static const char *const words[] = {"true", "false", "null"};
    const char *from = p, *stop = NULL;
    v->type = *p == '"' ? JSON_STRING : *p == '{' ? JSON_OBJECT : *p == '[' ? JSON_ARRAY : JSON_OTHER;
    if (*p == '"')
        stop = plain_string(p, end);
    else if (*p == '{' || *p == '[')
        stop = level < JSON_DEPTH_MAX ? plain_list(p, end, level + 1) : NULL;
    else if (*p == '-' || (*p >= '0' && *p <= '9'))
        stop = plain_number(p, end);
    for (int i = 0; i < 3; i++)
        if (str_starts((struct str){p, (size_t)(end - p)}, str_of(words[i]))) stop = p + strlen(words[i]);
    if (!stop) return NULL;
    size_t string = v->type == JSON_STRING;
    v->off = (size_t)(from - base) + string;
    v->len = (size_t)(stop - from) - 2 * string;
    v->escaped = string && memchr(from, '\\', v->len + 1);
    return stop;
}

/* ---- json ---- */

static void same_value(const struct json_value *a, const struct json_value *b) {
    assert(a->type == b->type);
    assert(a->type == JSON_ABSENT || (a->off == b->off && a->len == b->len && a->escaped == b->escaped));
}

static void same(const struct json *a, const struct json *b) {
    assert(a->error == b->error && a->at == b->at && a->models == b->models);
    same_value(&a->model, &b->model);
    same_value(&a->first_system, &b->first_system);
    same_value(&a->first_user, &b->first_user);
    same_value(&a->system, &b->system);
    same_value(&a->instructions, &b->instructions);
    same_value(&a->input, &b->input);
    for (size_t i = 0; i < NWANTS; i++)
        same_value(&a->found[i], &b->found[i]);
}

/* seed: 0 whole, else pieces up to `most` bytes long, of lengths that follow from it. */
static void run(struct json *j, const char *data, size_t len, const struct json_scan *scan, size_t first, uint64_t seed,
                size_t most) {
    enum json_status status = JSON_MORE;
    json_begin(j, wants, NWANTS);
    if (scan) j->scan = scan;
    for (size_t at = 0, used; at < len && status != JSON_BAD; at += used) {
        size_t n = at || !first
                       ? seed ? 1 + (size_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) % most : len - at
                       : first;
        if (n > len - at) n = len - at;
        char *exact = malloc(n);
        assert(exact);
        memcpy(exact, data + at, n);
        status = json_feed(j, exact, n, &used);
        assert(used == n || (status == JSON_BAD && used < n));
        assert(j->at == at + used && (status == JSON_BAD) == (j->error != NULL));
        free(exact);
    }
    assert(json_end(j) == (j->error ? JSON_BAD : JSON_DONE));
}

static bool all_plain; /* no member's name has an escape or is not ASCII */

static struct json_value last(struct str key) {
    struct json_value v = {0};
    for (size_t i = 0; i < nmembers; i++) {
        struct str k = members[i].key;
        for (size_t n = 0; n < k.len; n++)
            all_plain &= k.ptr[n] != '\\' && (unsigned char)k.ptr[n] < 0x80;
        if (str_eq(k, key)) v = members[i].value;
    }
    return v;
}

/* What the plain reader makes of it: soundness, and what members whose names are plain must have led to. */
static void compare(const struct json *j, const char *data, size_t len) {
    const char *p = plain_blanks(base = data, data + len), *end = data + len;
    struct json_value all, none = {0};
    unsigned models = 0;
    nmembers = 0;
    collect = 1;
    all_plain = true;
    p = p < end && *p == '{' ? plain_value(p, end, 0, &all) : NULL;
    assert((p && plain_blanks(p, end) == end) == !j->error);
    if (j->error || nmembers == sizeof members / sizeof *members) return;
    struct json_value user = last(STR("user")), metadata = last(STR("metadata")), model = last(STR("model"));
    for (size_t i = 0; i < nmembers; i++)
        models += str_ieq(members[i].key, STR("model"));
    assert(j->models >= models);
    if (!all_plain) return;
    assert(j->models == models);
    if (models < 2) same_value(&j->model, &model);
    if (user.type != JSON_OBJECT) same_value(&j->found[0], &user);
    nmembers = 0;
    collect = 2;
    if (metadata.type == JSON_OBJECT) plain_list(data + metadata.off, end, 2);
    struct json_value user_id = last(STR("user_id")), id = last(STR("id"));
    if (!all_plain) return;
    same_value(&j->found[1], metadata.type == JSON_OBJECT ? &user_id : &none);
    same_value(&j->found[2], metadata.type == JSON_OBJECT && id.type == JSON_STRING ? &id : &metadata);
}

static void scans(const char *data, size_t len) {
    const struct json_scan *plain = json_scan_variant(0), *scan;
    char *exact = malloc(len + 1);
    assert(exact);
    memcpy(exact + 1, data, len);
    for (size_t from = 1; from <= len && from < 70; from += from < 4 ? 1 : 11)
        for (size_t v = 1; (scan = json_scan_variant(v)); v++) {
            unsigned a = 0, b = 0;
            const char *end = exact + 1 + len, *p = exact + from, *stop = plain->text(p, end, &a);
            assert(scan->text(p, end, &b) == stop && a == b);
            assert(scan->blanks(p, end) == plain->blanks(p, end));
        }
    free(exact);
}

/* Any text encoded is decoded to itself, but for a NUL; any bytes are decoded to something that is, or refused. */
static void values(const char *data, size_t len) {
    char *coded = malloc(6 * len + 1), *text = malloc(len + 1), *again = malloc(len + 1);
    size_t n, m;
    assert(coded && text && again);
    n = json_encode((struct str){data, len}, coded, 6 * len);
    const char *wrong = json_decode((struct str){coded, n}, text, len + 1, &m);
    assert(!wrong == (!len || !memchr(data, 0, len)));
    assert(wrong || (m == len && memcmp(text, data, len) == 0));
    if (!json_decode((struct str){data, len}, text, len + 1, &m)) {
        n = json_encode((struct str){text, m}, coded, 6 * len);
        assert(m <= len && strlen(text) == m && !json_decode((struct str){coded, n}, again, m + 1, &n));
        assert(n == m && memcmp(again, text, m) == 0);
        if (m) assert(json_decode((struct str){data, len}, again, m, &n));
    }
    free(coded);
    free(text);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len) {
    static struct json whole, j;
    const struct json_scan *scan;
    const char *data = (const char *)bytes;
    if (len > 20000) return 0;
    run(&whole, data, len, NULL, 0, 0, 0);
    compare(&whole, data, len);
    scans(data, len);
    values(data, len);
    for (size_t v = 0; (scan = json_scan_variant(v)); v++) {
        static const size_t most[] = {3, 40, 140, 1};
        for (size_t i = 0; i < (v ? 3 : 4); i++) {
            run(&j, data, len, scan, 0, len * 31 + v + 1, most[i]);
            same(&j, &whole);
        }
    }
    for (size_t first = 1; first < len; first += 1 + len / 32) {
        run(&j, data, len, NULL, first, 0, 0);
        same(&j, &whole);
    }
    return 0;
}
