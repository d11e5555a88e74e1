/* usage: token counts and the moment of the first token, read from an answer's bytes on their way to the client.
 * In: spans of a body, cut anywhere. Out: counts, and a mark when the first content came. Owns one block while an event, a line or
 * a JSON body is unfinished; whole ones are read where they lie. Must never change, hold or delay a byte, nor cost what a token does:
 * an event without the name of a count in it is looked over at memchr's speed, only the others (and those before the first token) are
 * parsed. Counts are an endpoint's words: what is not a sane number is not told.
 *
 *   feed: --record ends in this span--> read in place          A record is an SSE event, a line, or a whole JSON body.
 *         --it goes on----------------> kept (last USAGE_TAIL bytes: a ring once it is longer) --it ends--> read
 *   read: whole --> counts;  its front lost --> the members at its end are made an object again (front_restored) --> counts
 *   The first content, which comes once, is found in cJSON's tree; the counts by a reader of our own, at a tenth of the cost. */
#include "usage.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

#define COUNT_MAX (INT64_C(1) << 53) /* beyond it a double tells no units */
#define DEPTH_MAX 512                /* levels of a record */
#define PREFIX    "{\"response\":{"  /* what a lost front is replaced by, at most */
#define NEAR_END  512                /* bytes of a whole body in which its counts mostly are */

enum line { LINE_EMPTY, LINE_CR, LINE_TEXT }; /* what stands on the line that is not finished */

enum usage_kind usage_kind(struct str content_type) {
    struct str type;
    str_cut(content_type, ';', &type);
    type = str_trim(type);
    switch (type.len) { /* most are of a length that says it all */
    case 16: return str_ieq(type, STR("application/json")) ? USAGE_JSON : USAGE_OFF;
    case 17:
        if (str_ieq(type, STR("text/event-stream"))) return USAGE_SSE;
        return str_ieq(type, STR("application/jsonl")) ? USAGE_NDJSON : USAGE_OFF;
    case 18: return str_ieq(type, STR("application/ndjson")) ? USAGE_NDJSON : USAGE_OFF;
    case 20: return str_ieq(type, STR("application/x-ndjson")) ? USAGE_NDJSON : USAGE_OFF;
    default: return USAGE_OFF;
    }
}

/* ---- what a parsed record tells ---- */

static const cJSON *member(const cJSON *object, const char *name) {
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, name) : NULL;
}

static bool has_text(const cJSON *object, const char *name) {
    const cJSON *m = member(object, name);
    return m && cJSON_IsString(m) && *m->valuestring;
}

static bool has_any(const cJSON *object, const char *const *names) {
    for (; *names; names++) {
        const cJSON *m = member(object, *names);
        if (m && (has_text(object, *names) || ((cJSON_IsArray(m) || cJSON_IsObject(m)) && m->child))) return true;
    }
    return false;
}

static bool choice_has_content(const cJSON *choice) {
    static const char *const names[] = {"content",    "reasoning_content", "reasoning", "refusal",
                                        "tool_calls", "function_call",     NULL};
    return has_text(choice, "text") || has_any(member(choice, "delta"), names);
}

/* Events with a type: Anthropic's content_block_delta, the Responses API's response.output_text.delta and its like. */
static bool typed_has_content(const cJSON *root, struct str type) {
    if (str_eq(type, STR("content_block_delta"))) {
        const cJSON *delta = member(root, "delta");
        for (const cJSON *m = delta ? delta->child : NULL; m; m = m->next)
            if (m->string && strcmp(m->string, "type") != 0 && cJSON_IsString(m) && *m->valuestring) return true;
        return false;
    }
    return str_starts(type, STR("response.")) && str_ends(type, STR(".delta")) && has_text(root, "delta");
}

static bool has_content(const cJSON *root) {
    static const char *const ollama[] = {"content", "thinking", "tool_calls", NULL};
    const cJSON *choices = member(root, "choices"), *type = member(root, "type"), *message = member(root, "message");
    for (const cJSON *c = choices && cJSON_IsArray(choices) ? choices->child : NULL; c; c = c->next)
        if (choice_has_content(c)) return true;
    if (type && cJSON_IsString(type)) return typed_has_content(root, str_of(type->valuestring));
    /* Ollama's chat and generate, then llama.cpp's own completion. */
    return has_any(message, ollama) || has_text(root, "response") || has_text(root, "thinking") || has_text(root, "content");
}

/* ---- counts ---- */

/* What the names of counts stand for, and of the objects they stand in. */
enum count {
    PROMPT,
    COMPLETION,
    INPUT,
    OUTPUT,
    CACHE_READ,
    CACHE_MADE,
    CACHED, /* OpenAI's and Anthropic's */
    CACHE_N,
    PROMPT_N,
    PREDICTED_N, /* llama.cpp's timings */
    EVALUATED,
    IN_SLOT,
    PREDICTED, /* llama.cpp's own */
    PROMPT_EVAL,
    EVAL, /* Ollama */
    COUNTS,
    ROOT = COUNTS,
    INNER, /* response.completed of the Responses API, message_start of Anthropic: in it only `usage` counts */
    USAGE,
    DETAILS,
    TIMINGS,
    NOWHERE
};

static const struct named_count {
    struct str name;
    enum count is;
} names[][11] = {
    [ROOT - ROOT] = {{{"usage", 5}, USAGE},
                     {{"response", 8}, INNER},
                     {{"message", 7}, INNER},
                     {{"timings", 7}, TIMINGS},
                     {{"tokens_evaluated", 16}, EVALUATED},
                     {{"tokens_cached", 13}, IN_SLOT},
                     {{"tokens_predicted", 16}, PREDICTED},
                     {{"prompt_eval_count", 17}, PROMPT_EVAL},
                     {{"eval_count", 10}, EVAL}},
    [INNER - ROOT] = {{{"usage", 5}, USAGE}},
    [USAGE - ROOT] = {{{"prompt_tokens", 13}, PROMPT},
                      {{"completion_tokens", 17}, COMPLETION},
                      {{"prompt_tokens_details", 21}, DETAILS},
                      {{"input_tokens", 12}, INPUT},
                      {{"output_tokens", 13}, OUTPUT},
                      {{"input_tokens_details", 20}, DETAILS},
                      {{"cache_read_input_tokens", 23}, CACHE_READ},
                      {{"cache_creation_input_tokens", 27}, CACHE_MADE}},
    [DETAILS - ROOT] = {{{"cached_tokens", 13}, CACHED}},
    [TIMINGS - ROOT] = {{{"cache_n", 7}, CACHE_N}, {{"prompt_n", 8}, PROMPT_N}, {{"predicted_n", 11}, PREDICTED_N}},
};

/* A record as it is read: cJSON's tree would cost ten times what the rest of a small answer does. */
struct reader {
    const char *p, *end;
    struct usage_counts counts;
    int64_t n[COUNTS]; /* -1 = not told; those of a `usage` are its own */
};

static int64_t sum(int64_t a, int64_t b) {
    return a < 0 || b < 0 ? a : a + b;
}

static void tell(int32_t *to, int64_t n) {
    if (n > *to) *to = n < INT32_MAX ? (int32_t)n : INT32_MAX;
}

static void forget(int64_t *n, enum count from, enum count to) {
    for (enum count i = from; i <= to; i++)
        n[i] = -1;
}

/* A `usage` is over. Anthropic's input_tokens leave out what its cache brought or took. */
static void usage_over(struct reader *r) {
    const int64_t *n = r->n;
    tell(&r->counts.prompt, n[PROMPT]);
    tell(&r->counts.prompt, sum(sum(n[INPUT], n[CACHE_READ]), n[CACHE_MADE]));
    tell(&r->counts.cached, n[CACHED]);
    tell(&r->counts.cached, n[CACHE_READ]);
    tell(&r->counts.completion, n[COMPLETION]);
    tell(&r->counts.completion, n[OUTPUT]);
}

/* The record is over. llama.cpp's own tokens_cached is in most versions all that lies in the slot afterwards, the answer included: it
 * tells what of the prompt was cached only where it is less than the prompt, and where timings do not tell it better. */
static void record_over(struct reader *r) {
    const int64_t *n = r->n;
    tell(&r->counts.prompt, sum(n[PROMPT_N], n[CACHE_N]));
    tell(&r->counts.prompt, n[EVALUATED]);
    tell(&r->counts.prompt, n[PROMPT_EVAL]);
    tell(&r->counts.cached, n[CACHE_N] < 0 && n[IN_SLOT] < n[EVALUATED] ? n[IN_SLOT] : n[CACHE_N]);
    tell(&r->counts.completion, n[PREDICTED_N]);
    tell(&r->counts.completion, n[PREDICTED]);
    tell(&r->counts.completion, n[EVAL]);
}

static void skip_blanks(struct reader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
        r->p++;
}

static bool take(struct reader *r, char c) {
    skip_blanks(r);
    if (r->p == r->end || *r->p != c) return false;
    r->p++;
    return true;
}

/* Behind the string whose first quote is at p; NULL if it does not end. */
static const char *string_end(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\' && p + 1 < end) p++;
    return p < end ? p + 1 : NULL;
}

/* -1 if it is no sane count. */
static int64_t number(struct str s) {
    char text[32], *stop;
    uint64_t whole;
    if (str_uint(s, COUNT_MAX, &whole)) return (int64_t)whole;
    if (str_copy(text, sizeof text, s) < s.len) return -1;
    double d = strtod(text, &stop);
    return *stop || !(d >= 0 && d <= (double)COUNT_MAX) ? -1 : (int64_t)d;
}

static bool read_number(struct reader *r, enum count is) {
    const char *from = r->p;
    while (r->p < r->end && ((*r->p >= '0' && *r->p <= '9') || (*r->p && strchr("+-.eE", *r->p))))
        r->p++;
    if (is < COUNTS && r->n[is] < 0) r->n[is] = number((struct str){from, (size_t)(r->p - from)});
    return r->p > from;
}

static bool read_word(struct reader *r, struct str word) {
    if (!str_starts((struct str){r->p, (size_t)(r->end - r->p)}, word)) return false;
    r->p += word.len;
    return true;
}

static bool read_value(struct reader *r, enum count is, unsigned depth);

/* Where the brackets are open already. */
static bool read_array(struct reader *r, unsigned depth) {
    if (take(r, ']')) return true;
    do
        if (!read_value(r, NOWHERE, depth)) return false;
    while (take(r, ','));
    return take(r, ']');
}

static enum count named(struct str name, enum count in) {
    if (in == NOWHERE) return NOWHERE;
    for (const struct named_count *n = names[in - ROOT]; n->name.len; n++)
        if (name.len == n->name.len && memcmp(name.ptr, n->name.ptr, name.len) == 0) return (enum count)n->is;
    return NOWHERE;
}

static bool read_member(struct reader *r, enum count place, unsigned depth) {
    skip_blanks(r);
    const char *name = r->p, *after = name < r->end && *name == '"' ? string_end(name, r->end) : NULL;
    if (!after) return false;
    r->p = after;
    return take(r, ':') && read_value(r, named((struct str){name + 1, (size_t)(after - name) - 2}, place), depth);
}

static bool read_object(struct reader *r, enum count place, unsigned depth) {
    if (place == USAGE) forget(r->n, PROMPT, CACHED);
    if (!take(r, '}')) {
        do
            if (!read_member(r, place, depth)) return false;
        while (take(r, ','));
        if (!take(r, '}')) return false;
    }
    if (place == USAGE) usage_over(r);
    return true;
}

static bool read_value(struct reader *r, enum count is, unsigned depth) {
    if (depth == DEPTH_MAX) return false;
    skip_blanks(r);
    if (r->p == r->end) return false;
    switch (*r->p) {
    case '{': r->p++; return read_object(r, is < COUNTS ? NOWHERE : is, depth + 1);
    case '[': r->p++; return read_array(r, depth + 1);
    case '"': return (r->p = string_end(r->p, r->end)) != NULL;
    case 't': return read_word(r, STR("true"));
    case 'f': return read_word(r, STR("false"));
    case 'n': return read_word(r, STR("null"));
    default: return read_number(r, is);
    }
}

/* Nothing is told of what is no JSON object. */
static void read_counts(struct usage_counts *c, struct str json) {
    struct reader r = {json.ptr, json.ptr + json.len, *c, {0}};
    forget(r.n, 0, COUNTS - 1);
    if (!read_value(&r, ROOT, 0)) return;
    record_over(&r);
    *c = r.counts;
}

/* ---- is it worth parsing? ---- */

static bool follows(const char *p, const char *end, struct str what) {
    return (size_t)(end - p) >= what.len && memcmp(p, what.ptr, what.len) == 0;
}

/* The names of all counts have an underscore in them, which is rare enough to be run after, and end at a quote, which inside a string
 * would be escaped. So `"usage":null` and whatever the answer talks about cost nothing. */
static bool may_have_counts(struct str s) {
    const char *end = s.ptr + s.len;
    bool native = false;
    for (const char *p = s.ptr; p < end && (p = memchr(p, '_', (size_t)(end - p)));) {
        p++;
        if (follows(p, end, STR("tokens\"")) || follows(p, end, STR("n\"")) || follows(p, end, STR("count\""))) return true;
        if (follows(p, end, STR("predicted\"")) || follows(p, end, STR("evaluated\""))) native = true;
    }
    /* llama.cpp's own stream counts in every event; the last one is enough. */
    return native && !memmem(s.ptr, s.len, "\"stop\":false", sizeof "\"stop\":false" - 1);
}

/* ---- a record whose front is lost ---- */

/* The first place where a string begins for sure: inside one, the quote before such a name would have a backslash, and behind one no
 * letter may follow. Of the very first byte nobody knows what stood before it. */
static const char *find_string(struct str s) {
    static const struct str keys[] = {{"usage\"", 6},       {"timings\"", 8},           {"prompt_eval_count\"", 18},
                                      {"eval_count\"", 11}, {"tokens_evaluated\"", 17}, {"tokens_predicted\"", 17}};
    const char *end = s.ptr + s.len, *p = s.ptr;
    while (p < end && (p = memchr(p, '"', (size_t)(end - p)))) {
        if (++p == end || (*p != 'u' && *p != 't' && *p != 'p' && *p != 'e')) continue; /* as keys begin */
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (follows(p, end, keys[i]) && p - 1 > s.ptr && p[-2] != '\\') return p - 1;
    }
    return NULL;
}

/* With that bit '[' is '{' and ']' is '}'. */
static int step(char c) {
    return ((c | 0x20) == '{') - ((c | 0x20) == '}');
}

/* How many levels are open at p, if the text is whole at its end: those that are closed behind it. 0: it is not. */
static int levels_at(const char *p, const char *end) {
    int levels = 0;
    while (p && p < end) {
        levels -= step(*p);
        p = *p == '"' ? string_end(p, end) : p + 1;
    }
    return p && levels > 0 ? levels : 0;
}

static bool is_key(const char *after, const char *end) {
    while (after < end && (*after == ' ' || *after == '\t' || *after == '\n' || *after == '\r'))
        after++;
    return after < end && *after == ':';
}

/* The first key at p or behind it that stands in the outermost object, or in one right inside it. */
static const char *outer_key(const char *p, const char *end, int *levels) {
    while (*levels > 0 && p < end) {
        const char *after = *p == '"' ? string_end(p, end) : p + 1;
        if (!after) return NULL;
        if (*p == '"' && *levels <= 2 && is_key(after, end)) return p;
        *levels += step(*p);
        p = after;
    }
    return NULL;
}

/* Makes the end of an object an object again: from a key that can be told, with as many brackets before it as are closed behind it.
 * An object inside it is taken for `response`, for that is where the one long event with counts in it has them. */
static struct str front_restored(struct str s, char *room) {
    const char *end = s.ptr + s.len, *p = find_string(s);
    int levels = p ? levels_at(p, end) : 0;
    p = levels ? outer_key(p, end, &levels) : NULL;
    if (!p) return STR_NONE;
    size_t prefix = levels == 1 ? 1 : sizeof PREFIX - 1;
    memcpy(room, PREFIX, prefix);
    memcpy(room + prefix, p, (size_t)(end - p));
    return (struct str){room, prefix + (size_t)(end - p)};
}

/* ---- records ---- */

/* What the data lines of an event say; where there are several they are joined in `room` (HTML 9.2.6). */
static struct str event_data(struct str event, char *room) {
    struct str data = STR_NONE, line;
    while (event.len) {
        event = str_cut(event, '\n', &line);
        if (!str_starts(line, STR("data:"))) continue;
        line.ptr += 5, line.len -= 5;
        if (!data.ptr) {
            data = line;
            continue;
        }
        if (data.ptr != room) memcpy(room, data.ptr, data.len);
        memcpy(room + data.len, line.ptr, line.len); /* without the LF between them: JSON does not need it */
        data = (struct str){room, data.len + line.len};
    }
    return data;
}

/* The front of a long event may be no more than its first lines; else its end is the end of one long line. */
static struct str event_end_data(struct str event, char *room) {
    struct str line, rest = str_cut(event, '\n', &line), data = event_data(rest, room);
    return data.len ? data : front_restored(line, room);
}

static struct str json_of(const struct usage *u, struct str record, char *room) {
    if (u->kind == USAGE_SSE) return u->cut ? event_end_data(record, room) : event_data(record, room);
    return u->cut ? front_restored(record, room) : record;
}

static void parse_record(struct usage *u, struct str record, bool counts) {
    char room[sizeof PREFIX + USAGE_TAIL];
    struct str json = json_of(u, record, room);
    while (json.len && (*json.ptr == ' ' || *json.ptr == '\r' || *json.ptr == '\n' || *json.ptr == '\t'))
        json.ptr++, json.len--;
    if (!json.len || *json.ptr != '{') return; /* "[DONE]" */
    if (counts) read_counts(&u->counts, json);
    if (u->seen_token || u->kind == USAGE_JSON || u->cut) return;
    cJSON *root = cJSON_ParseWithLength(json.ptr, json.len);
    if (has_content(root)) u->seen_token = u->first_token = true;
    cJSON_Delete(root);
}

/* At most USAGE_TAIL bytes; with u->cut they are the end of more. */
static void read_record(struct usage *u, struct str record) {
    bool counts = may_have_counts(record), token = !u->seen_token && u->kind != USAGE_JSON && !u->cut;
    if (counts || token) parse_record(u, record, counts);
}

static void read_in_place(struct usage *u, struct str record) {
    u->cut = record.len > USAGE_TAIL;
    if (u->cut) record = (struct str){record.ptr + record.len - USAGE_TAIL, USAGE_TAIL};
    read_record(u, record);
    u->cut = false;
}

/* ---- records in pieces ---- */

static bool tail_room(struct usage *u, size_t n) {
    size_t got;
    if (u->tail && n <= u->tail_cap) return true;
    char *mem = block_get(n, &got);
    if (!mem) return false;
    if (u->tail) {
        memcpy(mem, u->tail, u->tail_len);
        block_put(u->tail, u->tail_cap);
    }
    u->tail = mem;
    u->tail_cap = (uint16_t)got; /* of a block for USAGE_TAIL bytes at most */
    return true;
}

/* tail_len is where the next byte goes: the length, or once it is cut the place in the ring. */
static void keep(struct usage *u, struct str s) {
    size_t total = u->tail_len + s.len;
    if (u->lost) return;
    if (!tail_room(u, total < USAGE_TAIL ? total : USAGE_TAIL)) {
        u->lost = true; /* no memory: nobody will know what this one said */
        return;
    }
    if (total > USAGE_TAIL) u->cut = true;
    if (s.len > USAGE_TAIL) s = (struct str){s.ptr + s.len - USAGE_TAIL, USAGE_TAIL};
    while (s.len) {
        size_t at = u->tail_len % USAGE_TAIL, n = USAGE_TAIL - at;
        if (n > s.len) n = s.len;
        memcpy(u->tail + at, s.ptr, n);
        u->tail_len = (uint16_t)(at + n);
        s = (struct str){s.ptr + n, s.len - n};
    }
}

static void drop_tail(struct usage *u) {
    if (u->tail) block_put(u->tail, u->tail_cap);
    u->tail = NULL;
    u->tail_len = u->tail_cap = 0;
    u->cut = u->lost = false;
}

static void read_cut_tail(struct usage *u) {
    char record[USAGE_TAIL];
    size_t at = u->tail_len % USAGE_TAIL;
    memcpy(record, u->tail + at, USAGE_TAIL - at);
    memcpy(record + USAGE_TAIL - at, u->tail, at);
    read_record(u, (struct str){record, USAGE_TAIL});
}

/* Of a whole body: servers tell the counts last, so its last bytes are looked at first, and mostly that is all. What is read from such
 * a key on stands in the outermost object if that object's end is the body's. */
static bool read_near_end(struct usage *u, struct str record) {
    if (u->kind != USAGE_JSON || record.len <= NEAR_END) return false;
    const char *end = record.ptr + record.len, *key = find_string((struct str){end - NEAR_END, NEAR_END});
    if (!key) return false;
    struct reader r = {key, end, u->counts, {0}};
    forget(r.n, 0, COUNTS - 1);
    do
        if (!read_member(&r, ROOT, 1)) return false;
    while (take(&r, ','));
    if (!take(&r, '}')) return false;
    skip_blanks(&r);
    record_over(&r);
    if (r.p < end || r.counts.prompt < 0 || r.counts.completion < 0) return false;
    u->counts = r.counts;
    return true;
}

static void read_kept(struct usage *u) {
    if (u->tail && !u->lost) {
        struct str record = {u->tail, u->tail_len};
        if (u->cut)
            read_cut_tail(u);
        else if (!read_near_end(u, record))
            read_record(u, record);
    }
    drop_tail(u);
}

/* Where the record ends that goes on at p: behind an empty line or a line, or NULL. A CR before a LF does not count; alone it ends
 * nothing, though the standard would have it so: no server does that. */
static const char *record_end(struct usage *u, const char *p, const char *end) {
    if (u->kind == USAGE_JSON) return NULL;
    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((lf ? lf : end) - p);
        bool blank = n == 0 || (n == 1 && *p == '\r' && u->line == LINE_EMPTY);
        if (!lf) {
            u->line = blank && u->line == LINE_EMPTY ? LINE_CR : LINE_TEXT;
            return NULL;
        }
        blank = blank && u->line != LINE_TEXT;
        u->line = LINE_EMPTY;
        p = lf + 1;
        if (blank || u->kind == USAGE_NDJSON) return p;
    }
    return NULL;
}

void usage_begin(struct usage *u, enum usage_kind kind) {
    *u = (struct usage){.counts = {-1, -1, -1}, .kind = (uint8_t)kind, .line = LINE_EMPTY};
}

void usage_feed(struct usage *u, const char *data, size_t len) {
    if (u->kind == USAGE_OFF || !len) return;
    const char *end = data + len;
    while (data < end) {
        const char *stop = record_end(u, data, end);
        struct str piece = {data, (size_t)((stop ? stop : end) - data)};
        bool first = !u->tail && !u->lost;
        if (stop && first) {
            read_in_place(u, piece);
        } else {
            keep(u, piece);
            if (stop) read_kept(u);
        }
        data += piece.len;
    }
}

void usage_last(struct usage *u, const char *data, size_t len) {
    struct str body = {data, len};
    if (u->kind != USAGE_JSON || u->tail || u->lost) {
        usage_feed(u, data, len);
        return;
    }
    if (!read_near_end(u, body)) read_in_place(u, body);
    u->kind = USAGE_OFF;
}

void usage_end(struct usage *u) {
    if (u->kind != USAGE_OFF) read_kept(u);
    u->kind = USAGE_OFF;
}
