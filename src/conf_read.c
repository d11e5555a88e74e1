/* conf_read: single values of the configuration, checked.
 * In: nodes, the environment, the file of keys. Out: values, or findings at the node's place. Owns nothing it returns.
 * Reads a variable where it is used and expands once: what a variable holds is data and never expanded again. Never repeats a
 * value that may be a key: texts say what would be right. */
#include "conf_read.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRETS_FILE_MAX ((size_t)1 << 20)

/* ---- the tree ---- */

struct entry {
    const char *key;
    size_t at;
};

static int by_key(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int d = strcmp(x->key, y->key);
    return d ? d : (x->at > y->at) - (x->at < y->at);
}

static void drop_entry(struct node *map, size_t at) {
    node_free(map->keys[at]);
    node_free(map->items[at]);
    map->keys[at] = map->items[at] = NULL;
}

/* Sorted, not compared each with each: a list of aliases may be long. */
static void drop_doubles(struct conf_findings *f, struct node *map) {
    struct entry *e = must_alloc(map->count * sizeof *e);
    size_t kept = 0, first = 0;
    for (size_t i = 0; i < map->count; i++)
        e[i] = (struct entry){map->keys[i]->text, i};
    qsort(e, map->count, sizeof *e, by_key);
    for (size_t i = 1; i < map->count; i++) {
        const struct node *key = map->keys[e[i].at], *earlier = map->keys[e[first].at];
        if (key->unreadable || earlier->unreadable || strcmp(e[i].key, e[first].key) != 0) {
            first = i;
            continue;
        }
        findings_error(f, key, key->text, "stands here twice (first on line %d)", earlier->line);
        drop_entry(map, e[i].at);
    }
    for (size_t i = 0; i < map->count; i++) {
        if (!map->keys[i]) continue;
        map->keys[kept] = map->keys[i];
        map->items[kept++] = map->items[i];
    }
    map->count = kept;
    free(e);
}

static void tidy(struct conf_findings *f, struct node *n, const char *key) {
    if (n->problem) findings_error(f, n, key, "%s", n->problem);
    for (size_t i = 0; i < n->count; i++) {
        if (n->kind == NODE_MAP && n->keys[i]->problem) findings_error(f, n->keys[i], "yaml", "%s", n->keys[i]->problem);
        tidy(f, n->items[i], n->kind == NODE_MAP && n->keys[i]->len ? n->keys[i]->text : key);
    }
    if (n->kind == NODE_MAP && n->count > 1) drop_doubles(f, n);
}

void conf_read_tidy(struct conf_findings *f, struct node *root) {
    tidy(f, root, "yaml");
}

static bool is_kind(struct conf_findings *f, const char *key, const struct node *n, enum node_kind kind) {
    static const char *const what[] = {"one value", "a list", "a block of keys"};
    if (n->unreadable) return false;
    if (n->kind == kind) return true;
    if (node_is_null(n))
        findings_error(f, n, key, "needs a value: %s", what[kind]);
    else
        findings_error(f, n, key, "must be %s, not %s", what[kind], what[n->kind]);
    return false;
}

bool conf_read_list(struct conf_findings *f, const char *key, const struct node *n) {
    return is_kind(f, key, n, NODE_LIST);
}

bool conf_read_map(struct conf_findings *f, const char *key, const struct node *n) {
    return is_kind(f, key, n, NODE_MAP);
}

const struct node *conf_read_member(const struct node *map, const char *name) {
    for (size_t i = 0; i < map->count; i++)
        if (!map->keys[i]->unreadable && strcmp(map->keys[i]->text, name) == 0) return map->items[i];
    return NULL;
}

/* ---- the environment ---- */

struct text {
    char *ptr;
    size_t len, room;
};

static void put(struct text *t, struct str s) {
    if (t->len + s.len + 1 > t->room) {
        t->room = 2 * t->room + s.len + 64;
        t->ptr = must_realloc(t->ptr, t->room);
    }
    if (s.len) memcpy(t->ptr + t->len, s.ptr, s.len);
    t->len += s.len;
    t->ptr[t->len] = 0;
}

static bool is_variable(struct str s) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(i && c >= '0' && c <= '9')) return false;
    }
    return s.len && s.len < 256;
}

/* What stands between the braces. As in a shell, :- counts for a variable that is set but empty too. */
static bool put_variable(struct conf_findings *f, const char *key, const struct node *n, struct str inside, struct text *t) {
    char name[256];
    struct str var;
    const char *value;
    struct str preset = str_cut(inside, ':', &var);
    bool has_preset = var.len != inside.len;
    if (!is_variable(var) || (has_preset && (!preset.len || preset.ptr[0] != '-'))) {
        findings_error(f, n, key, "has a bad variable: write ${NAME} or ${NAME:-default}, or $${ for a literal ${");
        return false;
    }
    str_copy(name, sizeof name, var);
    value = getenv(name);
    if (has_preset && (!value || !*value)) {
        put(t, (struct str){preset.ptr + 1, preset.len - 1});
    } else if (value) {
        put(t, str_of(value));
    } else {
        findings_error(f, n, key, "the environment variable %s is not set (${%s:-default} gives it a default)", name, name);
        return false;
    }
    return true;
}

static bool expand(struct conf_findings *f, const char *key, const struct node *n, struct text *t) {
    struct str rest = {n->text, n->len};
    put(t, STR_NONE);
    while (rest.len && t->len <= CONF_TEXT_MAX) {
        const char *dollar = memchr(rest.ptr, '$', rest.len);
        size_t plain = dollar ? (size_t)(dollar - rest.ptr) : rest.len;
        put(t, (struct str){rest.ptr, plain});
        rest = (struct str){rest.ptr + plain, rest.len - plain};
        if (str_starts(rest, STR("$${"))) {
            put(t, STR("${"));
            rest.ptr += 3, rest.len -= 3;
        } else if (str_starts(rest, STR("${"))) {
            struct str inside, from = {rest.ptr + 2, rest.len - 2};
            rest = str_cut(from, '}', &inside);
            if (inside.len == from.len) {
                findings_error(f, n, key, "has a ${ without its }: write $${ for a literal ${");
                return false;
            }
            if (!put_variable(f, key, n, inside, t)) return false;
        } else if (rest.len) {
            put(t, STR("$"));
            rest.ptr++, rest.len--;
        }
    }
    if (t->len <= CONF_TEXT_MAX) return true;
    findings_error(f, n, key, "is longer than 64k");
    return false;
}

bool conf_read_text(struct conf_findings *f, const char *key, const struct node *n, char **out) {
    struct text t = {0};
    *out = NULL;
    if (n->unreadable || (!node_is_null(n) && !is_kind(f, key, n, NODE_SCALAR))) return false;
    if (node_is_null(n)) {
        if (n->len)
            findings_error(f, n, key, "needs a value (a text that reads %s goes in quotes)", n->text);
        else
            findings_error(f, n, key, "needs a value: none stands here");
        return false;
    }
    if (!expand(f, key, n, &t)) {
        free(t.ptr);
        return false;
    }
    if (!t.len) {
        findings_error(f, n, key, "must not be empty");
        free(t.ptr);
        return false;
    }
    *out = t.ptr;
    return true;
}

/* ---- texts of some form ---- */

/* One text whose form `wrong` judges. */
static bool read_checked(struct conf_findings *f, const char *key, const struct node *n, const char *(*wrong)(struct str),
                         char **out) {
    if (!conf_read_text(f, key, n, out)) return false;
    assert(*out);
    const char *problem = wrong(str_of(*out));
    if (!problem) return true;
    findings_error(f, n, key, "%s", problem);
    free(*out);
    *out = NULL;
    return false;
}

static const char *pool_name_wrong(struct str s) {
    if (s.len > CONF_NAME_MAX) return "is too long: at most 64 bytes";
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("._-:/+@", c);
        if (!ok) return "may hold letters, digits and . _ - : / + @ only";
    }
    return NULL;
}

const char *conf_read_model_wrong(struct str s) {
    if (!s.len) return "must not be empty";
    if (s.len > CONF_MODEL_MAX) return "is too long: a model's name has at most 512 bytes";
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7f) return "holds a control byte: no model's name does";
    return NULL;
}

static const char *query_path_wrong(struct str s) {
    if (s.ptr[0] != '/') return "must begin with /";
    if (s.len > CONF_PATH_MAX) return "is too long: at most 1024 bytes";
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '#') return "must not have a fragment (#)";
        if (c <= 0x20 || c >= 0x7f || strchr("\"<>\\^`{|}", c)) return "has a byte that must be percent-encoded in a URL";
    }
    return NULL;
}

static const char *path_wrong(struct str s) {
    return memchr(s.ptr, '?', s.len) ? "must not have a query (?)" : query_path_wrong(s);
}

static const char *secret_wrong(struct str s) {
    if (s.len > CONF_SECRET_MAX) return "is too long for a key: at most 4096 bytes";
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] <= 0x20 || (unsigned char)s.ptr[i] >= 0x7f)
            return "is no key: it goes into a header, so it may hold visible ASCII characters only, no blank and no line end";
    return NULL;
}

static const char *origin_wrong(struct str s) {
    const char *colon = memchr(s.ptr, ':', s.len);
    if (str_eq(s, STR("*"))) return NULL;
    if (!colon || colon == s.ptr || !str_starts((struct str){colon, s.len - (size_t)(colon - s.ptr)}, STR("://")) ||
        colon + 3 == s.ptr + s.len)
        return "must be an origin as a browser sends it, https://chat.example.com, or *";
    for (const char *c = s.ptr; c < s.ptr + s.len; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f || strchr("\"<>\\^`{|},;@?#%*", *c) ||
            (*c == '/' && c > colon + 2))
            return "must be an origin and nothing more: scheme://host or scheme://host:port, without a path";
    return NULL;
}

bool conf_read_pool_name(struct conf_findings *f, const char *key, const struct node *n, char **out) {
    return read_checked(f, key, n, pool_name_wrong, out);
}

bool conf_read_model(struct conf_findings *f, const char *key, const struct node *n, char **out) {
    return read_checked(f, key, n, conf_read_model_wrong, out);
}

bool conf_read_url_path(struct conf_findings *f, const char *key, const struct node *n, bool query, char **out) {
    return read_checked(f, key, n, query ? query_path_wrong : path_wrong, out);
}

bool conf_read_origin(struct conf_findings *f, const char *key, const struct node *n, char **out) {
    if (!read_checked(f, key, n, origin_wrong, out)) return false;
    for (char *c = *out; *c; c++) /* as browsers write it (RFC 6454 6.1), for it is compared byte for byte */
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c | 0x20);
    return true;
}

bool conf_read_secret(struct conf_findings *f, const char *key, const struct node *n, char **out) {
    return read_checked(f, key, n, secret_wrong, out);
}

/* ---- the file of keys ---- */

/* The whole of a small regular file, or NULL and errno: nothing that could keep us waiting. */
static char *read_small_file(const char *path, size_t *len) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), e = 0;
    char *text = NULL;
    if (fd < 0) return NULL;
    *len = 0;
    if (fstat(fd, &st) != 0) {
        e = errno;
    } else if (!S_ISREG(st.st_mode)) {
        e = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    } else {
        text = must_alloc(SECRETS_FILE_MAX + 2);
        ssize_t n = 1;
        while (n > 0 && *len <= SECRETS_FILE_MAX) {
            n = read(fd, text + *len, SECRETS_FILE_MAX + 1 - *len);
            if (n > 0) *len += (size_t)n;
        }
        if (n < 0) e = errno;
        if (*len > SECRETS_FILE_MAX) e = EFBIG;
    }
    close(fd);
    if (!e) return text;
    free(text);
    errno = e;
    return NULL;
}

static bool read_secret_lines(struct conf_findings *f, const char *key, const struct node *n, struct str rest, char ***keys,
                              size_t *count) {
    bool sound = true, any = false;
    struct str line;
    for (int number = 1; rest.len; number++) {
        rest = str_cut(rest, '\n', &line);
        if (str_ends(line, STR("\r"))) line.len--;
        line = str_trim(line);
        if (!line.len || line.ptr[0] == '#') continue;
        any = true;
        const char *problem = secret_wrong(line);
        if (problem) {
            findings_error(f, n, key, "line %d of that file %s", number, problem);
            sound = false;
            continue;
        }
        *keys = must_realloc(*keys, (*count + 1) * sizeof **keys);
        (*keys)[(*count)++] = str_dup(line);
    }
    if (!any) findings_error(f, n, key, "that file holds no key: nobody could be let in");
    return sound && any;
}

bool conf_read_secrets_file(struct conf_findings *f, const char *key, const struct node *n, char **path, char ***keys,
                            size_t *count) {
    size_t len;
    if (!conf_read_text(f, key, n, path)) return false;
    char *text = read_small_file(*path, &len);
    if (!text) {
        const char *why = errno == EINVAL  ? "it is not a regular file"
                          : errno == EFBIG ? "it is larger than 1 MB"
                                           : strerror(errno);
        findings_error(f, n, key, "cannot read that file: %s", why);
        return false;
    }
    bool ok = read_secret_lines(f, key, n, (struct str){text, len}, keys, count);
    free(text);
    return ok;
}

/* ---- numbers and the like ---- */

static bool wrong_value(struct conf_findings *f, const char *key, const struct node *n, const char *wrong) {
    if (wrong) findings_error(f, n, key, "%s", wrong);
    return !wrong;
}

bool conf_read_bool(struct conf_findings *f, const char *key, const struct node *n, bool *out) {
    char *text;
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_bool(str_of(text), out);
    free(text);
    return wrong_value(f, key, n, wrong);
}

bool conf_read_number(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, uint64_t *out) {
    char *text;
    if (!conf_read_text(f, key, n, &text)) return false;
    bool ok = str_uint(str_of(text), max, out) && *out >= min;
    free(text);
    if (!ok)
        findings_error(f, n, key, "must be a whole number from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
    return ok;
}

/* Into the largest unit that divides it. */
static const char *in_units(uint64_t n, const uint64_t *units, const char *const *names, char text[24]) {
    while (*units > 1 && (!n || n % *units))
        units++, names++;
    snprintf(text, 24, "%llu%s", (unsigned long long)(n / *units), n ? *names : "");
    return text;
}

const char *conf_read_size_text(uint64_t bytes, char text[24]) {
    static const uint64_t units[] = {1 << 30, 1 << 20, 1 << 10, 1};
    static const char *const names[] = {"g", "m", "k", ""};
    return in_units(bytes, units, names, text);
}

const char *conf_read_duration_text(uint64_t ms, char text[24]) {
    static const uint64_t units[] = {3600000, 60000, 1000, 1};
    static const char *const names[] = {"h", "m", "s", "ms"};
    return in_units(ms, units, names, text);
}

bool conf_read_size(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, bool zero_too,
                    uint64_t *out) {
    char *text, a[24], b[24];
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_size(str_of(text), out);
    free(text);
    if (wrong || (zero_too && !*out) || (*out >= min && *out <= max)) return wrong_value(f, key, n, wrong);
    findings_error(f, n, key, "must be %sfrom %s to %s", zero_too && min ? "0 or " : "", conf_read_size_text(min, a),
                   conf_read_size_text(max, b));
    return false;
}

bool conf_read_duration(struct conf_findings *f, const char *key, const struct node *n, uint64_t min, uint64_t max, int64_t *ms) {
    char *text, a[24];
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_duration(str_of(text), ms);
    free(text);
    if (wrong) return wrong_value(f, key, n, wrong);
    if ((uint64_t)*ms < min)
        findings_error(f, n, key, "must be at least %s: 0 is not possible here", conf_read_duration_text(min, a));
    else if ((uint64_t)*ms > max)
        findings_error(f, n, key, "must be at most %s", conf_read_duration_text(max, a));
    return (uint64_t)*ms >= min && (uint64_t)*ms <= max;
}

bool conf_read_choice(struct conf_findings *f, const char *key, const struct node *n, const char *choices, unsigned *out) {
    char *text, list[128];
    struct str rest = str_of(choices), one;
    size_t len = 0;
    if (!conf_read_text(f, key, n, &text)) return false;
    for (*out = 0; rest.len; ++*out) {
        rest = str_cut(rest, '|', &one);
        if (str_eq(one, str_of(text))) return free(text), true;
        len += (size_t)snprintf(list + len, sizeof list - len, "%s" STR_FMT, !len ? "" : rest.len ? ", " : " or ", STR_ARG(one));
    }
    free(text);
    findings_error(f, n, key, "must be %s", list);
    return false;
}

bool conf_read_listen(struct conf_findings *f, const char *key, const struct node *n, struct value_listen *out) {
    char *text;
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_listen(str_of(text), out);
    free(text);
    return wrong_value(f, key, n, wrong);
}

bool conf_read_cidr(struct conf_findings *f, const char *key, const struct node *n, struct value_cidr *out) {
    char *text;
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_cidr(str_of(text), out);
    free(text);
    return wrong_value(f, key, n, wrong);
}

bool conf_read_url(struct conf_findings *f, const char *key, const struct node *n, struct value_url *out) {
    char *text;
    if (!conf_read_text(f, key, n, &text)) return false;
    const char *wrong = value_url(str_of(text), out);
    free(text);
    return wrong_value(f, key, n, wrong);
}
