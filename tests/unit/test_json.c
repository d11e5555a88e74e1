#include "unit.h"

#include "json.h"
#include "json_cases.h"
#include "json_scan.h"

/* ---- feeding ---- */

/* Feeds data in pieces of the given length, `first` bytes before them; pieces lie in memory of exactly their size. */
static enum json_status feed(struct json *j, const char *data, size_t len, size_t first, size_t piece) {
    enum json_status status = JSON_MORE;
    for (size_t at = 0; at < len && status != JSON_BAD;) {
        size_t n = at == 0 && first ? first : piece, used;
        if (n > len - at) n = len - at;
        char *exact = malloc(n);
        assert_non_null(exact);
        memcpy(exact, data + at, n);
        status = json_feed(j, exact, n, &used);
        free(exact);
        assert_true(status == JSON_BAD ? used < n : used == n);
        at += used;
        assert_int_equal(j->at, at);
    }
    return status;
}

static void same_value(const struct json_value *a, const struct json_value *b) {
    assert_int_equal(a->type, b->type);
    if (a->type == JSON_ABSENT) return;
    assert_int_equal(a->off, b->off);
    assert_int_equal(a->len, b->len);
    assert_int_equal(a->escaped, b->escaped);
}

static void same(const struct json *a, const struct json *b) {
    assert_ptr_equal(a->error, b->error);
    assert_int_equal(a->at, b->at);
    assert_int_equal(a->models, b->models);
    same_value(&a->model, &b->model);
    same_value(&a->first_system, &b->first_system);
    same_value(&a->first_user, &b->first_user);
    same_value(&a->system, &b->system);
    same_value(&a->instructions, &b->instructions);
    same_value(&a->input, &b->input);
    for (size_t i = 0; i < JSON_WANTS_MAX; i++)
        same_value(&a->found[i], &b->found[i]);
}

/* Whole, byte by byte, in two at every place, in uneven pieces, with every scanner: one answer, left in *whole. */
static enum json_status check(struct json *whole, const char *data, size_t len) {
    const struct json_scan *scan;
    struct json j;
    json_begin(whole, wants, NWANTS);
    feed(whole, data, len, 0, SIZE_MAX);
    enum json_status status = json_end(whole);
    assert_int_equal(status == JSON_BAD, whole->error != NULL);
    for (size_t v = 0; (scan = json_scan_variant(v)); v++) {
        for (size_t piece = 1; piece < 40; piece += piece < 4 ? 1 : 12) {
            json_begin(&j, wants, NWANTS);
            j.scan = scan;
            feed(&j, data, len, 0, piece);
            assert_int_equal(json_end(&j), status);
            same(&j, whole);
        }
    }
    for (size_t first = 1; first < len && len < 3000; first++) {
        json_begin(&j, wants, NWANTS);
        feed(&j, data, len, first, SIZE_MAX);
        assert_int_equal(json_end(&j), status);
        same(&j, whole);
    }
    return status;
}

static struct json got; /* of the last taken() or refused() */

static void taken(const char *text) {
    if (check(&got, text, strlen(text)) != JSON_DONE) fail_msg("refused at %zu: %s: %s", got.at, text, got.error);
}

static void value_is(const struct json_value *v, const char *text, enum json_type type, const char *raw) {
    if (v->type != type) fail_msg("%s: type %d, not %d", text, v->type, type);
    if (type == JSON_ABSENT) return;
    assert_true(v->off + v->len <= strlen(text));
    if (v->len != strlen(raw) || memcmp(text + v->off, raw, v->len) != 0)
        fail_msg("%s: found %.*s, not %s", text, (int)v->len, text + v->off, raw);
    assert_int_equal(v->escaped, type == JSON_STRING && memchr(raw, '\\', v->len) != NULL);
}

/* ---- the grammar ---- */

static void takes_all_of_rfc_8259(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        taken(accepted[i]);
        assert_int_equal(got.at, strlen(accepted[i]));
    }
}

static void refuses_all_else(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const char *text = refused[i].text;
        if (check(&got, text, strlen(text)) != JSON_BAD) fail_msg("taken: %s", text);
        if (got.at != refused[i].at) fail_msg("%s: refused at %zu, not %zu: %s", text, got.at, refused[i].at, got.error);
        if (strstr(text, ":01}") || strstr(text, ":-00}")) assert_non_null(strstr(got.error, "begin with 0"));
        assert_true(got.error[0] >= 'A' && got.error[0] <= 'Z' && got.error[strlen(got.error) - 1] == '.');
    }
}

static void refuses_a_nul_anywhere(void **state) {
    static const char text[] = " { \"k\" : [ 1 , true , \"s\\n\" , { } ] } ";
    (void)state;
    for (size_t i = 0; i < sizeof text; i++) {
        char with[sizeof text + 1];
        memcpy(with, text, i);
        with[i] = 0;
        memcpy(with + i + 1, text + i, sizeof text - 1 - i);
        assert_int_equal(check(&got, with, sizeof text), JSON_BAD);
        assert_int_equal(got.at, i);
    }
    assert_int_equal(check(&got, "{\0\"\0a\0", 6), JSON_BAD); /* UTF-16 */
}

/* Every byte, at every place where the grammar has a say: only those it names may stand there. */
static void every_byte_at_every_state(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        for (int c = 0; c < 256; c++) {
            char text[64];
            int n = snprintf(text, sizeof text, "%s%c%s", bytes[i].before, 1, bytes[i].after);
            text[strlen(bytes[i].before)] = (char)c;
            bool allowed = c && strchr(bytes[i].allowed, c);
            if ((check(&got, text, (size_t)n) == JSON_DONE) != allowed)
                fail_msg("%s[%02x]%s: %s", bytes[i].before, (unsigned)c, bytes[i].after, got.error);
        }
    }
}

static void nests(char *text, size_t levels, unsigned kind) {
    size_t n = (size_t)sprintf(text, "{\"a\":");
    char ends[JSON_DEPTH_MAX + 8];
    size_t open = 1;
    ends[0] = '}';
    for (; open < levels; open++) {
        bool object = kind == 1 || (kind == 2 && open % 3 == 0);
        n += (size_t)sprintf(text + n, object ? "{\"a\":" : "[");
        ends[open] = object ? '}' : ']';
    }
    text[n++] = '0';
    while (open)
        text[n++] = ends[--open];
    text[n] = 0;
}

static void nesting_is_bounded(void **state) {
    static char text[6 * JSON_DEPTH_MAX + 64];
    (void)state;
    for (unsigned kind = 0; kind < 3; kind++) {
        for (size_t levels = 1; levels < JSON_DEPTH_MAX; levels += levels < 140 ? 1 : 61) {
            nests(text, levels, kind);
            json_begin(&got, wants, NWANTS);
            assert_int_equal(feed(&got, text, strlen(text), 0, SIZE_MAX), JSON_DONE);
            text[strlen(text) - 1] ^= ']' ^ '}'; /* the last bracket is of the wrong kind */
            json_begin(&got, wants, NWANTS);
            assert_int_equal(feed(&got, text, strlen(text), 0, SIZE_MAX), JSON_BAD);
            assert_int_equal(got.at, strlen(text) - 1);
        }
        nests(text, JSON_DEPTH_MAX, kind);
        taken(text);
        nests(text, JSON_DEPTH_MAX + 1, kind);
        assert_int_equal(check(&got, text, strlen(text)), JSON_BAD);
        assert_non_null(strstr(got.error, "512"));
        assert_int_equal(got.at, strcspn(text, "0") - (kind == 1 ? 5 : 1));
    }
}

/* ---- feeding it ---- */

static void one_call_looks_at_no_more_than_its_step(void **state) {
    size_t len = 3 * JSON_STEP_MAX + 100, used = 0;
    char *text = malloc(len);
    (void)state;
    assert_non_null(text);
    memset(text, 'x', len);
    memcpy(text, "{\"user\":\"", 9);
    memcpy(text + len - 2, "\"}", 2);
    json_begin(&got, wants, NWANTS);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(json_feed(&got, text + got.at, len - got.at, &used), JSON_MORE);
        assert_int_equal(used, JSON_STEP_MAX);
    }
    assert_int_equal(json_feed(&got, text + got.at, len - got.at, &used), JSON_DONE);
    assert_int_equal(used, 100);
    assert_int_equal(got.steps, 4);
    assert_int_equal(got.longest_step, JSON_STEP_MAX);
    assert_int_equal(got.found[USER].off, 9);
    assert_int_equal(got.found[USER].len, len - 11);
    json_begin(&got, wants, NWANTS);
    assert_int_equal(json_feed(&got, text, JSON_STEP_MAX - 1, &used), JSON_MORE);
    assert_int_equal(used, JSON_STEP_MAX - 1);
    assert_int_equal(json_feed(&got, text, 2, &used), JSON_MORE);
    assert_int_equal(got.longest_step, JSON_STEP_MAX - 1);
    free(text);
}

static void says_what_it_is_at(void **state) {
    size_t used = 7;
    (void)state;
    json_begin(&got, NULL, 0);
    assert_int_equal(json_feed(&got, NULL, 0, &used), JSON_MORE);
    assert_int_equal(used, 0);
    assert_int_equal(got.steps, 1);
    assert_int_equal(json_feed(&got, "{\"model\":1", 10, &used), JSON_MORE);
    assert_int_equal(json_feed(&got, "}", 1, &used), JSON_DONE);
    assert_int_equal(json_feed(&got, "", 0, &used), JSON_DONE);
    assert_int_equal(json_feed(&got, " \n", 2, &used), JSON_DONE);
    assert_int_equal(used, 2);
    assert_int_equal(json_end(&got), JSON_DONE);
    assert_int_equal(json_feed(&got, " x ", 3, &used), JSON_BAD); /* and bad it stays */
    assert_int_equal(used, 1);
    assert_int_equal(got.at, 14);
    const char *error = got.error;
    assert_int_equal(json_feed(&got, "{}", 2, &used), JSON_BAD);
    assert_int_equal(used, 0);
    assert_int_equal(got.at, 14);
    assert_int_equal(json_end(&got), JSON_BAD);
    assert_ptr_equal(got.error, error);
    json_begin(&got, NULL, 0);
    assert_int_equal(json_end(&got), JSON_BAD);
    assert_non_null(strstr(got.error, "empty"));
    json_begin(&got, NULL, 0);
    assert_int_equal(json_feed(&got, "{", 1, &used), JSON_MORE);
    assert_int_equal(json_end(&got), JSON_BAD);
    assert_non_null(strstr(got.error, "ends before"));
    assert_int_equal(json_feed(&got, "}", 1, &used), JSON_BAD);
}

/* ---- the model ---- */

static void model_of(const char *text, unsigned models, enum json_type type, const char *raw) {
    taken(text);
    if (got.models != models) fail_msg("%s: %u models, not %u", text, got.models, models);
    value_is(&got.model, text, type, raw);
}

static void finds_the_model(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof model_cases / sizeof *model_cases; i++)
        model_of(model_cases[i].text, model_cases[i].models, model_cases[i].type, model_cases[i].raw);
}

/* What Go, C and lenient readers would take for the model is never passed over. */
static void nothing_hides_a_second_model(void **state) {
    static const char *const twice[] = {
        "model", "MODEL", "Model", "moDel", "mod\\u0065l", "\\u004dodel", "\\u004D\\u004f\\u0044\\u0045\\u004c", "MODE\\u006c"};
    (void)state;
    for (size_t i = 0; i < sizeof twice / sizeof *twice; i++) {
        char text[200];
        bool exact = twice[i][0] != 'M' && !strstr(twice[i], "D") && !strstr(twice[i], "\\u004d");
        snprintf(text, sizeof text, "{\"%s\":\"x\"}", twice[i]);
        model_of(text, 1, exact ? JSON_STRING : JSON_ABSENT, "x");
        snprintf(text, sizeof text, "{\"model\":\"m\",\"%s\":\"x\"}", twice[i]);
        model_of(text, 2, JSON_STRING, "m");
        snprintf(text, sizeof text, "{\"%s\":\"x\",\"b\":1,\"model\":\"m\"}", twice[i]);
        model_of(text, 2, JSON_STRING, exact ? "x" : "m");
    }
    for (size_t i = 0; i < sizeof doubtful / sizeof *doubtful; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"model\":\"m\",\"%s\":\"x\"}", doubtful[i]);
        model_of(text, 2, JSON_STRING, "m");
    }
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"model\":\"m\",\"%s\":\"x\"}", harmless[i]);
        model_of(text, 1, JSON_STRING, "m");
    }
}

/* ---- wants ---- */

static void found(const struct found_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        taken(cases[i].text);
        value_is(&got.found[cases[i].want], cases[i].text, cases[i].type, cases[i].raw);
    }
}

static void finds_what_is_wanted(void **state) {
    (void)state;
    found(wanted, sizeof wanted / sizeof *wanted);
}

static void of_an_object_its_id_is_found(void **state) {
    (void)state;
    found(ids, sizeof ids / sizeof *ids);
}

static void one_level_of_an_object_is_looked_at(void **state) {
    (void)state;
    found(one_level, sizeof one_level / sizeof *one_level);
}

static void the_last_of_two_counts(void **state) {
    (void)state;
    found(last_of_two, sizeof last_of_two / sizeof *last_of_two);
    taken("{\"system\":\"a\",\"system\":null,\"instructions\":\"a\",\"instructions\":{},\"input\":\"a\",\"input\":1}");
    assert_int_equal(got.system.type, JSON_ABSENT);
    assert_int_equal(got.instructions.type, JSON_ABSENT);
    assert_int_equal(got.input.type, JSON_ABSENT);
}

/* A key of exactly the longest length, written in every way and cut at every place; one byte more matches nothing. */
static void keys_are_bounded(void **state) {
    static char name[JSON_KEY_MAX + 1], plain[JSON_KEY_MAX * 6 + 64], text[JSON_KEY_MAX * 6 + 128];
    (void)state;
    memset(name, 'k', JSON_KEY_MAX - 3);
    memcpy(name + JSON_KEY_MAX - 3, "\xe2\x82\xac", 3);
    struct json_want want = {{name, JSON_KEY_MAX}, {0}};
    for (int way = 0; way < 3; way++) {
        size_t n = 0;
        for (size_t i = 0; i < JSON_KEY_MAX - 3; i++)
            n += (size_t)sprintf(plain + n, way == 2 || (way == 1 && i == 30) ? "\\u006b" : "k");
        n += (size_t)sprintf(plain + n, way ? "\\u20ac" : "\xe2\x82\xac");
        for (int more = 0; more < 2; more++) {
            size_t len = (size_t)sprintf(text, "{\"%s%s\":\"v\"}", plain, more ? way ? "\\u006b" : "k" : "");
            for (size_t first = 0; first < len; first++) {
                json_begin(&got, &want, 1);
                assert_int_equal(feed(&got, text, len, first, first % 3 ? SIZE_MAX : 1), JSON_DONE);
                assert_int_equal(got.found[0].type, more ? JSON_ABSENT : JSON_STRING);
            }
        }
    }
    struct json_want empty = {STR_NONE, STR_NONE};
    json_begin(&got, &empty, 1);
    assert_int_equal(feed(&got, "{\"\":1}", 6, 0, 1), JSON_DONE);
    assert_int_equal(got.found[0].type, JSON_OTHER);
    char *huge = malloc(100000); /* a key longer than all that is kept of it */
    assert_non_null(huge);
    memset(huge, 'k', 100000);
    memcpy(huge, "{\"\\u006b", 8);
    memcpy(huge + 99996, "\":0}", 4);
    json_begin(&got, &want, 1);
    assert_int_equal(feed(&got, huge, 100000, 0, 1000), JSON_DONE);
    assert_int_equal(got.found[0].type, JSON_ABSENT);
    assert_int_equal(got.models, 0);
    free(huge);
}

static void takes_as_many_wants_as_it_says(void **state) {
    struct json_want many[JSON_WANTS_MAX];
    char names[JSON_WANTS_MAX][16], text[JSON_WANTS_MAX * 20 + 8];
    size_t n = 1;
    (void)state;
    text[0] = '{';
    for (int i = 0; i < JSON_WANTS_MAX; i++) {
        snprintf(names[i], sizeof names[i], "w%d", i);
        many[i] = (struct json_want){str_of(names[i]), {0}};
        n += (size_t)sprintf(text + n, "%s\"w%d\":\"v%d\"", i ? "," : "", i, i);
    }
    text[n++] = '}';
    json_begin(&got, many, JSON_WANTS_MAX);
    assert_int_equal(feed(&got, text, n, 0, SIZE_MAX), JSON_DONE);
    for (int i = 0; i < JSON_WANTS_MAX; i++) {
        char value[16];
        snprintf(value, sizeof value, "v%d", i);
        assert_int_equal(got.found[i].type, JSON_STRING);
        assert_memory_equal(text + got.found[i].off, value, strlen(value));
        assert_int_equal(got.found[i].len, strlen(value));
    }
}

/* ---- how a conversation began ---- */

static void begins(const struct begin_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        taken(cases[i].text);
        value_is(&got.first_system, cases[i].text, cases[i].system_type, cases[i].system);
        value_is(&got.first_user, cases[i].text, cases[i].user_type, cases[i].user);
    }
}

static void finds_the_first_texts(void **state) {
    (void)state;
    begins(beginnings, sizeof beginnings / sizeof *beginnings);
}

static void messages_and_input_together(void **state) {
    static const char text[] = "{\"input\":[{\"role\":\"user\",\"content\":\"a\"}],\"input\":\"b\"}";
    (void)state;
    begins(two_lists, sizeof two_lists / sizeof *two_lists);
    taken(text);
    value_is(&got.input, text, JSON_STRING, "b");
}

static void finds_system_instructions_input(void **state) {
    static const char strings[] = "{\"system\":\"s\\\\\",\"instructions\":\"i\",\"input\":\"p\"}";
    static const char arrays[] =
        "{\"system\":[{\"type\":\"text\"}],\"a\":[1,2],\"instructions\":[ ],\"b\":{},\"input\":[\"p\",\"q\"],\"c\":[3]}";
    static const char others[] = "{\"system\":{\"a\":1},\"instructions\":null,\"input\":{\"id\":\"x\"}}";
    (void)state;
    taken(strings);
    value_is(&got.system, strings, JSON_STRING, "s\\\\");
    value_is(&got.instructions, strings, JSON_STRING, "i");
    value_is(&got.input, strings, JSON_STRING, "p");
    taken(arrays);
    value_is(&got.system, arrays, JSON_ARRAY, "[{\"type\":\"text\"}]");
    value_is(&got.instructions, arrays, JSON_ARRAY, "[ ]");
    value_is(&got.input, arrays, JSON_ARRAY, "[\"p\",\"q\"]");
    taken(others);
    assert_int_equal(got.system.type, JSON_ABSENT);
    assert_int_equal(got.instructions.type, JSON_ABSENT);
    assert_int_equal(got.input.type, JSON_ABSENT);
    taken("{\"x\":{\"system\":\"s\",\"instructions\":\"i\",\"input\":\"p\"}}");
    assert_int_equal(got.system.type, JSON_ABSENT);
    assert_int_equal(got.input.type, JSON_ABSENT);
}

/* A want may be named like a member that is looked at anyway. */
static void wants_share_members(void **state) {
    static const struct json_want shared[] = {
        {STR("model"), {0}}, {STR("messages"), {0}}, {STR("input"), STR("a")}, {STR("model"), {0}}};
    static const char text[] = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],\"input\":{\"a\":\"b\","
                               "\"role\":\"user\",\"content\":\"x\"}}";
    (void)state;
    json_begin(&got, shared, 4);
    assert_int_equal(feed(&got, text, strlen(text), 0, 7), JSON_DONE);
    value_is(&got.model, text, JSON_STRING, "m");
    value_is(&got.found[0], text, JSON_STRING, "m");
    value_is(&got.found[1], text, JSON_ARRAY, "[{\"role\":\"user\",\"content\":\"u\"}]");
    value_is(&got.found[2], text, JSON_STRING, "b");
    value_is(&got.found[3], text, JSON_STRING, "m");
    value_is(&got.first_user, text, JSON_STRING, "u");
}

/* ---- values ---- */

static void decodes(void **state) {
    static const struct {
        const char *raw, *text; /* NULL: is wrong */
    } rows[] = {
        {"", ""},
        {"a", "a"},
        {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
        {"\\u0041\\u00e9\\u20ac\\ud83d\\ude00", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xc3\xa9", "\xc3\xa9"},
        {"\xff", "\xff"},
        {"\\uFFFF", "\xef\xbf\xbf"},
        {"\\u007f\\u0080\\u07ff\\u0800", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80"},
        {"a\\\\u0000", "a\\u0000"},
        {"\\q", NULL},
        {"\\", NULL},
        {"a\\", NULL},
        {"\\u", NULL},
        {"\\u12", NULL},
        {"\\u00zz", NULL},
        {"\\u 041", NULL},
        {"\\ud800", NULL},
        {"\\udc00", NULL},
        {"\\ud800x", NULL},
        {"\\ud800\\u0041", NULL},
        {"\\udc00\\ud800", NULL},
        {"\\u0000", NULL},
        {"a\\u0000b", NULL},
        {"\"", NULL},
        {"a\"b", NULL},
        {"\n", NULL},
        {"\\\n", NULL},
        {"\x1f", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char dst[64];
        size_t len = 77;
        const char *error = json_decode(str_of(rows[i].raw), dst, sizeof dst, &len);
        if (!error != !!rows[i].text) fail_msg("%s: %s", rows[i].raw, error ? error : "taken");
        if (!rows[i].text) continue;
        assert_int_equal(len, strlen(rows[i].text));
        assert_string_equal(dst, rows[i].text);
    }
    assert_non_null(json_decode((struct str){"a\0b", 3}, (char[8]){0}, 8, &(size_t){0}));
    size_t len = 7;
    assert_null(json_decode(STR_NONE, (char[1]){1}, 1, &len));
    assert_int_equal(len, 0);
}

static void decoding_is_bounded(void **state) {
    char dst[5];
    size_t len;
    (void)state;
    assert_null(json_decode(STR("abcd"), dst, 5, &len));
    assert_string_equal(dst, "abcd");
    assert_non_null(json_decode(STR("abcde"), dst, 5, &len));
    assert_null(json_decode(STR("\\u20ac\\u0061"), dst, 5, &len));
    assert_int_equal(len, 4);
    assert_non_null(json_decode(STR("\\u20ac\\u00e9"), dst, 5, &len));
    assert_null(json_decode(STR("\\u0061\\u0061\\u0061\\u0061"), dst, 5, &len));
    assert_non_null(json_decode(STR(""), dst, 0, &len));
    assert_null(json_decode(STR(""), dst, 1, &len));
    assert_int_equal(dst[0], 0);
}

static void encodes(void **state) {
    char dst[64], back[64];
    size_t len;
    (void)state;
    assert_int_equal(json_encode(STR("llama3:8b/x"), dst, sizeof dst), 11);
    assert_memory_equal(dst, "llama3:8b/x", 11);
    len = json_encode(STR("\"\\\b\f\n\r\t\x01\x1f/\xc3\xa9\x7f"), dst, sizeof dst);
    assert_int_equal(len, 14 + 12 + 4);
    assert_memory_equal(dst, "\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f/\xc3\xa9\x7f", len);
    assert_int_equal(json_encode((struct str){"\0", 1}, dst, sizeof dst), 6);
    assert_memory_equal(dst, "\\u0000", 6);
    assert_int_equal(json_encode(STR(""), dst, sizeof dst), 0);
    assert_int_equal(json_encode(STR_NONE, NULL, 0), 0);
    assert_int_equal(json_encode(STR("ab"), dst, 2), 2); /* no NUL behind it */
    assert_int_equal(json_encode(STR("ab"), dst, 1), 0);
    assert_int_equal(json_encode(STR("a\""), dst, 3), 3);
    assert_int_equal(json_encode(STR("a\""), dst, 2), 0);
    assert_int_equal(json_encode(STR("\x01"), dst, 6), 6);
    assert_int_equal(json_encode(STR("\x01"), dst, 5), 0);
    for (int c = 1; c < 256; c++) { /* what is encoded is taken by the checker, and decodes to itself */
        char text[80], byte = (char)c;
        len = json_encode((struct str){&byte, 1}, dst, sizeof dst);
        int n = snprintf(text, sizeof text, "{\"model\":\"%.*s\"}", (int)len, dst);
        assert_int_equal(check(&got, text, (size_t)n), JSON_DONE);
        assert_int_equal(got.model.len, len);
        assert_null(json_decode((struct str){dst, len}, back, sizeof back, &len));
        assert_int_equal(len, 1);
        assert_int_equal((unsigned char)back[0], c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_all_of_rfc_8259),
        cmocka_unit_test(refuses_all_else),
        cmocka_unit_test(refuses_a_nul_anywhere),
        cmocka_unit_test(every_byte_at_every_state),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(one_call_looks_at_no_more_than_its_step),
        cmocka_unit_test(says_what_it_is_at),
        cmocka_unit_test(finds_the_model),
        cmocka_unit_test(nothing_hides_a_second_model),
        cmocka_unit_test(finds_what_is_wanted),
        cmocka_unit_test(of_an_object_its_id_is_found),
        cmocka_unit_test(one_level_of_an_object_is_looked_at),
        cmocka_unit_test(the_last_of_two_counts),
        cmocka_unit_test(keys_are_bounded),
        cmocka_unit_test(takes_as_many_wants_as_it_says),
        cmocka_unit_test(finds_the_first_texts),
        cmocka_unit_test(messages_and_input_together),
        cmocka_unit_test(finds_system_instructions_input),
        cmocka_unit_test(wants_share_members),
        cmocka_unit_test(decodes),
        cmocka_unit_test(decoding_is_bounded),
        cmocka_unit_test(encodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
