/* models: an endpoint's answer to its model list, whichever shape it has.
 * In: the body. Out: ids in the order told, each once, and each entry as JSON, or what is wrong with it. The entries are the
 * caller's until models_free. json proves first that the body is one sound JSON object; then it is walked where it lies and entries
 * are copied value by value, for printing a parsed number again could change it. cJSON has no part in it.
 * An endpoint is not trusted to be small or sane: entries are bounded, bytes that are not UTF-8 never reach a client. */
#include "models.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "json.h"
#include "json_scan.h"

#define SLOTS 8192 /* of the table of ids: twice MODELS_MAX, a power of two */

/* ---- walking sound JSON ---- */

/* All of these stop at `end` too, so that not even a broken text could lead them astray. */
struct walk {
    const char *at, *end;
    const struct json_scan *scan;
};
struct member {
    struct str key, value; /* key: what stands between its quotes; value: its text */
};

static char peek(struct walk *w) {
    while (w->at < w->end && (*w->at == ' ' || *w->at == '\t' || *w->at == '\n' || *w->at == '\r'))
        w->at++;
    char c = 0;
    if (w->at < w->end) c = *w->at;
    return c;
}

static void skip_string(struct walk *w) {
    unsigned seen = 0;
    w->at = json_scan_text(w->scan, w->at + 1, w->end, &seen);
    if (w->at < w->end) w->at++;
}

static struct str take_value(struct walk *w) {
    char first = peek(w);
    const char *start = w->at;
    size_t depth = 0;
    if (first == '"') {
        skip_string(w);
    } else if (first == '{' || first == '[') {
        do {
            char c = *w->at;
            if (c == '"') {
                skip_string(w);
                continue;
            }
            if (c == '{' || c == '[') depth++;
            if (c == '}' || c == ']') depth--;
            w->at++;
        } while (depth && w->at < w->end);
    } else {
        while (w->at < w->end && !strchr(",]} \t\r\n", *w->at))
            w->at++;
    }
    return (struct str){start, (size_t)(w->at - start)};
}

/* Into an object or array; false if the value is none of that kind. */
static bool enter(struct str value, char bracket, struct walk *w) {
    *w = (struct walk){value.ptr, value.ptr, json_scan_best()};
    if (value.len) w->end += value.len; /* an absent one has no address to add to */
    if (peek(w) != bracket) return false;
    w->at++;
    return true;
}

/* The next value of an array; false at its end. */
static bool next_item(struct walk *w, struct str *item) {
    if (peek(w) == ',') w->at++;
    char c = peek(w);
    if (!c || c == ']') return false;
    *item = take_value(w);
    return item->len > 0;
}

static bool next_member(struct walk *w, struct member *m) {
    if (peek(w) == ',') w->at++;
    if (peek(w) != '"') return false;
    const char *quote = w->at;
    skip_string(w);
    if (w->at - quote < 2) return false;
    m->key = (struct str){quote + 1, (size_t)(w->at - quote) - 2};
    if (peek(w) != ':') return false;
    w->at++;
    m->value = take_value(w);
    return true;
}

static bool is_string(struct str value) {
    return value.len >= 2 && value.ptr[0] == '"';
}

static struct str inside(struct str string) {
    return (struct str){string.ptr + 1, string.len - 2};
}

/* Names are compared decoded: "\u0069d" is an id too. None that is asked for is as long as the room here. */
static bool key_is(struct str key, struct str name) {
    char text[32];
    size_t len;
    if (!key.len || !memchr(key.ptr, '\\', key.len)) return str_eq(key, name);
    return !json_decode(key, text, sizeof text, &len) && str_eq((struct str){text, len}, name);
}

/* ---- entries ---- */

/* The length of the UTF-8 sequence at p, 0 if it is none (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
static size_t utf8_len(const unsigned char *p, size_t left) {
    unsigned char c = p[0], low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    if (n > left || (n > 1 && (p[1] < low || p[1] > high))) return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return n;
}

/* The length of the escape at p, which is a backslash; 0 if it is none (RFC 8259 7). */
static size_t escape_len(const unsigned char *p, size_t left) {
    size_t n = left > 1 && p[1] == 'u' ? 6 : 2;
    if (n > left || !p[1] || !strchr("\"\\/bfnrtu", p[1])) return 0;
    for (size_t i = 2; i < n; i++)
        if (!p[i] || !strchr("0123456789abcdefABCDEF", p[i])) return 0;
    return n;
}

/* How many bytes from here on, eight by eight, are ASCII without a backslash. */
static size_t plain_run(const unsigned char *p, size_t left) {
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    size_t n = 0;
    for (uint64_t eight; left - n >= sizeof eight; n += sizeof eight) {
        memcpy(&eight, p + n, sizeof eight);
        uint64_t slashes = eight ^ (ones * '\\');
        if ((eight | ((slashes - ones) & ~slashes)) & high) break;
    }
    return n;
}

/* json leaves the text of strings to whoever uses it. We pass it on, in a list that one bad byte would spoil for everybody. */
static bool is_sound(struct str entry) {
    const unsigned char *p = (const unsigned char *)entry.ptr;
    for (size_t i = 0, n; i < entry.len; i += n) {
        n = plain_run(p + i, entry.len - i);
        if (n) continue;
        n = p[i] == '\\' ? escape_len(p + i, entry.len - i) : utf8_len(p + i, entry.len - i);
        if (!n) return false;
    }
    return true;
}

/* What an entry is read as: the names that hold its id, the better one first. */
struct shape {
    struct str list;
    struct str names[2];
};
static const struct shape openai = {{"data", 4}, {{"id", 2}, {NULL, 0}}};
static const struct shape ollama = {{"models", 6}, {{"name", 4}, {"model", 5}}};

struct reader {
    struct models *out;
    const struct shape *shape;
    size_t room;
    uint16_t table[SLOTS]; /* 1 + index of the entry whose id hashes there, or thereabouts */
};

static char *append(char *to, struct str s) {
    if (s.len) memcpy(to, s.ptr, s.len);
    return to + s.len;
}

/* The entry with our "id" and an "object" in front, the rest as it stood. id is what stands between the quotes. NULL: no memory. */
static char *render(struct str entry, struct str id) {
    char *text = malloc(entry.len + id.len + sizeof "{'id':'','object':'model',}" + 8), *to = text;
    struct str object = STR("\"model\"");
    struct member m;
    struct walk w;
    if (!text) return NULL;
    for (enter(entry, '{', &w); next_member(&w, &m);)
        if (key_is(m.key, STR("object")) && is_string(m.value)) object = m.value;
    to = append(to, STR("{\"id\":\""));
    to = append(to, id);
    to = append(to, STR("\",\"object\":"));
    to = append(to, object);
    for (enter(entry, '{', &w); next_member(&w, &m);) {
        if (key_is(m.key, STR("id")) || key_is(m.key, STR("object"))) continue;
        to = append(to, STR(",\""));
        to = append(to, m.key);
        to = append(to, STR("\":"));
        to = append(to, m.value);
    }
    *append(to, STR("}")) = 0;
    return text;
}

/* The place of that id in the table; taken if it is known already. */
static uint16_t *slot_of(struct reader *r, struct str id) {
    size_t i = XXH3_64bits(id.ptr, id.len) % SLOTS;
    while (r->table[i] && !str_eq(str_of(r->out->entries[r->table[i] - 1].id), id))
        i = (i + 1) % SLOTS;
    return &r->table[i];
}

/* raw: the id between its quotes; entry: the object it comes from, empty if it is no more than a name. */
static void add(struct reader *r, struct str raw, struct str entry) {
    struct models *out = r->out;
    size_t len;
    char *id = malloc(raw.len + 1); /* decoding makes nothing longer */
    if (!id || json_decode(raw, id, raw.len + 1, &len) || !len) {
        out->truncated |= !id;
        free(id);
        return;
    }
    uint16_t *slot = slot_of(r, (struct str){id, len});
    if (*slot || out->count == MODELS_MAX) {
        out->truncated |= !*slot;
        free(id);
        return;
    }
    if (out->count == r->room) {
        r->room = r->room ? 2 * r->room : 16;
        out->entries = must_realloc(out->entries, r->room * sizeof *out->entries);
    }
    char *json = entry.len && is_sound(entry) ? render(entry, raw) : NULL;
    out->entries[out->count++] = (struct models_entry){id, json};
    *slot = (uint16_t)out->count;
}

static bool is_name(const struct shape *shape, struct str key, int *which) {
    for (*which = 0; *which < 2; ++*which)
        if (shape->names[*which].len && key_is(key, shape->names[*which])) return true;
    return false;
}

static void add_object(struct reader *r, struct str entry) {
    struct str raw[2] = {STR_NONE, STR_NONE};
    bool more = false;
    struct member m;
    struct walk w;
    int which;
    for (enter(entry, '{', &w); next_member(&w, &m);) {
        if (!is_name(r->shape, m.key, &which))
            more = true;
        else if (is_string(m.value))
            raw[which] = inside(m.value);
    }
    struct str id = raw[0].len ? raw[0] : raw[1];
    if (id.len) add(r, id, more ? entry : STR_NONE);
}

static void read_list(struct reader *r, struct str list) {
    struct str item;
    struct walk w;
    for (enter(list, '[', &w); next_item(&w, &item);) {
        if (is_string(item))
            add(r, inside(item), STR_NONE);
        else if (*item.ptr == '{')
            add_object(r, item);
    }
}

static const char *check(struct str body) {
    struct json j;
    size_t used;
    json_begin(&j, NULL, 0);
    while (body.len) {
        if (json_feed(&j, body.ptr, body.len, &used) == JSON_BAD) return "it is not a JSON object";
        body = (struct str){body.ptr + used, body.len - used};
    }
    return json_end(&j) == JSON_DONE ? NULL : "it is not a whole JSON object";
}

const char *models_parse(struct str body, struct models *out) {
    struct str data = STR_NONE, models = STR_NONE;
    struct member m;
    struct walk w;
    *out = (struct models){0};
    const char *wrong = check(body);
    if (wrong) return wrong;
    for (enter(body, '{', &w); next_member(&w, &m);) { /* of a member given twice the last one counts */
        if (key_is(m.key, openai.list)) data = m.value;
        if (key_is(m.key, ollama.list)) models = m.value;
    }
    bool has_data = enter(data, '[', &w);
    if (!has_data && !enter(models, '[', &w)) return "there is no list of models in it";
    struct reader *r = must_alloc(sizeof *r);
    r->out = out;
    r->shape = has_data ? &openai : &ollama;
    read_list(r, has_data ? data : models);
    free(r);
    return NULL;
}

void models_free(struct models *m) {
    for (size_t i = 0; i < m->count; i++) {
        free(m->entries[i].id);
        free(m->entries[i].json);
    }
    free(m->entries);
    *m = (struct models){0};
}
