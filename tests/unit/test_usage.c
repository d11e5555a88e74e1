#include "unit.h"

#include "block.h"
#include "buf.h"
#include "usage.h"

static struct usage u;

static void begin(enum usage_kind kind) {
    usage_end(&u);
    usage_begin(&u, kind);
}

static void feed(const char *text) {
    usage_feed(&u, text, strlen(text));
}

/* Whether this feed brought the first token. */
static bool token(const char *text) {
    u.first_token = false;
    feed(text);
    return u.first_token;
}

#define assert_counts(p, c, d)                                                                                                     \
    do {                                                                                                                           \
        assert_int_equal(u.counts.prompt, p);                                                                                      \
        assert_int_equal(u.counts.cached, c);                                                                                      \
        assert_int_equal(u.counts.completion, d);                                                                                  \
    } while (0)

static void kinds(void **state) {
    static const struct {
        const char *type;
        enum usage_kind kind;
    } rows[] = {
        {"text/event-stream", USAGE_SSE},       {"Text/Event-Stream; charset=utf-8", USAGE_SSE},
        {"application/json", USAGE_JSON},       {"application/json;charset=utf-8", USAGE_JSON},
        {"application/x-ndjson", USAGE_NDJSON}, {"application/ndjson", USAGE_NDJSON},
        {"application/jsonl ", USAGE_NDJSON},   {"audio/mpeg", USAGE_OFF},
        {"application/jsonx", USAGE_OFF},       {"", USAGE_OFF},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(usage_kind(str_of(rows[i].type)), rows[i].kind);
    assert_int_equal(usage_kind(STR_NONE), USAGE_OFF);
}

/* What servers really send, with the counts they mean and the record (from 0) that brings the first token (-1: none). Records are
 * separated by '|' here. */
static const struct stream {
    const char *name;
    enum usage_kind kind;
    const char *text;
    int first;
    int64_t prompt, cached, completion;
} streams[] = {
    {"chat", USAGE_SSE,
     "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n|"
     ": ping\n\n|data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n\n|"
     "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n|"
     "data: "
     "{\"choices\":[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":10,\"total_tokens\":29,\"prompt_tokens_details\":{"
     "\"cached_tokens\":16}}}\n\n|"
     "data: [DONE]\n\n|",
     2, 19, 16, 10},
    {"reasoning", USAGE_SSE,
     "data: "
     "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\r\n\r\n|data:{\"choices\":[{\"delta\":{\"reasoning_"
     "content\":\"So\"}}]}\r\n\r\n|",
     1, -1, -1, -1},
    {"tool calls", USAGE_SSE,
     "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"tool_calls\":[]}}]}\n\n|"
     "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n|",
     1, -1, -1, -1},
    {"second choice", USAGE_SSE, "data: {\"choices\":[{\"delta\":{\"content\":\"\"}},{\"delta\":{\"content\":\"b\"}}]}\n\n|", 0, -1,
     -1, -1},
    {"completions", USAGE_SSE,
     "data: {\"choices\":[{\"text\":\"\"}]}\n\n|data: {\"choices\":[{\"text\":\" x\"}]}\n\n|"
     "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n|",
     1, 3, -1, 1},
    {"responses", USAGE_SSE,
     "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"output\":[],\"usage\":null}}\n\n|"
     "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"m\",\"delta\":\"Hi\"}\n\n|"
     "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"usage\":{\"input_tokens\":37,"
     "\"input_tokens_details\":{\"cached_tokens\":5},\"output_tokens\":11,\"output_tokens_details\":{\"reasoning_tokens\":0},"
     "\"total_tokens\":48}}}\n\n|",
     1, 37, 5, 11},
    {"anthropic", USAGE_SSE,
     "event: message_start\ndata: "
     "{\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":25,"
     "\"cache_read_input_tokens\":100,\"cache_creation_input_tokens\":3,\"output_tokens\":1}}}\n\n|"
     "event: content_block_start\ndata: "
     "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n|"
     "event: ping\ndata: {\"type\":\"ping\"}\n\n|"
     "event: content_block_delta\ndata: "
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\"}}\n\n|"
     "event: content_block_delta\ndata: "
     "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n|"
     "event: message_delta\ndata: "
     "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":0,\"output_tokens\":15}}"
     "\n\n|"
     "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n|",
     4, 128, 100, 15},
    {"anthropic without a cache", USAGE_SSE,
     "event: message_start\ndata: "
     "{\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n|"
     "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n|",
     -1, 25, -1, 15},
    {"llama.cpp chat", USAGE_SSE,
     "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n|"
     "data: "
     "{\"choices\":[{\"finish_reason\":\"stop\",\"delta\":{}}],\"timings\":{\"cache_n\":236,\"prompt_n\":1,\"prompt_ms\":30.9,"
     "\"predicted_n\":35}}\n\n|",
     0, 237, 236, 35},
    {"llama.cpp native", USAGE_SSE,
     "data: "
     "{\"index\":0,\"content\":\"a\",\"tokens\":[5],\"stop\":false,\"id_slot\":-1,\"tokens_predicted\":1,\"tokens_evaluated\":4}"
     "\n\n|"
     "data: "
     "{\"content\":\"\",\"stop\":true,\"tokens_predicted\":8,\"tokens_evaluated\":4,\"tokens_cached\":11,\"timings\":{\"prompt_n\":"
     "1,\"cache_n\":3,\"predicted_n\":8}}\n\n|",
     0, 4, 3, 8},
    {"llama.cpp native, cut short", USAGE_SSE,
     "data: {\"content\":\"a\",\"stop\":false,\"tokens_predicted\":1,\"tokens_evaluated\":4}\n\n|", 0, -1, -1, -1},
    {"llama.cpp native, older", USAGE_SSE,
     "data: "
     "{\"content\":\"a\",\"stop\":true,\"tokens_predicted\":8,\"tokens_evaluated\":10,\"tokens_cached\":6,\"timings\":{\"prompt_"
     "n\":4,\"predicted_n\":8}}\n\n|",
     0, 10, 6, 8},
    {"llama.cpp native, the slot's count", USAGE_SSE,
     "data: {\"content\":\"\",\"tokens_predicted\":8,\"tokens_evaluated\":10,\"tokens_cached\":17}\n\n|", -1, 10, -1, 8},
    {"data in two lines", USAGE_SSE,
     "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":3,\ndata: \"completion_tokens\":4}}\n\n|", -1, 3, -1, 4},
    {"ollama chat", USAGE_NDJSON,
     "{\"model\":\"l\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n|"
     "{\"model\":\"l\",\"message\":{\"role\":\"assistant\",\"content\":\"The\"},\"done\":false}\n|"
     "{\"model\":\"l\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":"
     "298}\n|",
     1, 26, -1, 298},
    {"ollama generate", USAGE_NDJSON,
     "{\"response\":\"\",\"done\":false}\n|{\"response\":\"x\",\"done\":false}\r\n|{\"response\":\"\",\"done\":true,\"eval_count\":"
     "2}\n|",
     1, -1, -1, 2},
    {"ollama thinking", USAGE_NDJSON, "{\"message\":{\"content\":\"\",\"thinking\":\"Hm\"}}\n|", 0, -1, -1, -1},
    {"junk", USAGE_SSE,
     "data: {\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":\"7\"}}\n\n|data: {\"usage\":[\"prompt_tokens\"]}\n\n|"
     "data: {\"type\":\"x.delta\",\"delta\":\"a\"}\n\n|data: {\"usage\":{\"prompt_tokens\":1e300}}\n\n|data: "
     "{\"prompt_tokens\":5}\n\n|data: "
     "{\"usage\":{\"prompt_tokens\":5}\n\n|\n\n|\n|",
     -1, -1, -1, -1},
    {"the largest count, also of a sum", USAGE_NDJSON, "{\"usage\":{\"input_tokens\":2147483647,\"cache_read_input_tokens\":1}}\n|",
     -1, INT32_MAX, 1, -1},
};

static size_t without_bars(const char *text, char *to) {
    size_t n = 0;
    for (; *text; text++)
        if (*text != '|') to[n++] = *text;
    return n;
}

static void reads_every_dialect(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        const struct stream *s = &streams[i];
        int record = 0, first = -1;
        begin(s->kind);
        for (const char *p = s->text, *bar; (bar = strchr(p, '|')); p = bar + 1, record++) {
            usage_feed(&u, p, (size_t)(bar - p));
            assert_null(u.tail); /* whole records are read where they lie */
            if (u.first_token) assert_int_equal(first, -1), first = record;
            u.first_token = false;
        }
        if (first != s->first || u.counts.prompt != s->prompt) print_message("in: %s\n", s->name);
        assert_int_equal(first, s->first);
        assert_counts(s->prompt, s->cached, s->completion);
        usage_end(&u);
        assert_counts(s->prompt, s->cached, s->completion);
    }
}

/* However the bytes are cut: in two at every place, and all of them one by one. */
static void boundaries_do_not_matter(void **state) {
    static char text[4096];
    (void)state;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        const struct stream *s = &streams[i];
        size_t n = without_bars(s->text, text);
        for (size_t cut = 0; cut <= n + 1; cut++) {
            int tokens = 0;
            begin(s->kind);
            for (size_t at = 0, step; at < n; at += step) {
                step = cut > n ? 1 : at < cut ? cut : n - at;
                usage_feed(&u, text + at, step);
                tokens += u.first_token;
                u.first_token = false;
            }
            assert_int_equal(tokens, s->first >= 0);
            usage_end(&u);
            assert_null(u.tail);
            assert_counts(s->prompt, s->cached, s->completion);
        }
    }
}

static void the_first_token_comes_with_its_last_byte(void **state) {
    (void)state;
    begin(USAGE_SSE);
    assert_false(token("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}"));
    assert_non_null(u.tail);
    assert_false(token("\n"));
    assert_true(token("\n"));
    assert_null(u.tail);
    assert_false(token("data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n"));
}

static void only_an_empty_line_ends_an_event(void **state) {
    (void)state;
    begin(USAGE_SSE);
    feed("data: {\"usage\":{\"prompt_tokens\":1}}\n");
    feed("\r");
    feed("\r\n"); /* two CR are no line end with a LF */
    assert_non_null(u.tail);
    feed("\r");
    feed("\n");
    assert_null(u.tail);
    assert_counts(1, -1, -1);
}

static void what_is_left_is_read_at_the_end(void **state) {
    (void)state;
    begin(USAGE_SSE);
    feed("data: {\"usage\":{\"prompt_tokens\":1}}\n");
    assert_counts(-1, -1, -1);
    usage_end(&u);
    assert_counts(1, -1, -1);
    begin(USAGE_NDJSON);
    feed("{\"eval_count\":5}");
    usage_end(&u);
    assert_counts(-1, -1, 5);
    usage_end(&u); /* once more does no harm */
    feed("{\"eval_count\":9}\n");
    assert_counts(-1, -1, 5);
}

static void the_highest_count_stands(void **state) {
    (void)state;
    begin(USAGE_SSE);
    feed("data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}\n\ndata: "
         "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n");
    assert_counts(7, -1, 2);
    feed("data: {\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}\n\n");
    assert_counts(7, -1, 2);
}

static void off_reads_nothing(void **state) {
    struct usage zero = {0};
    (void)state;
    usage_feed(&zero, "data: {}", 8);
    usage_end(&zero);
    assert_null(zero.tail);
    begin(USAGE_OFF);
    assert_false(token("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":7}}\n\n"));
    assert_counts(-1, -1, -1);
    usage_feed(&u, NULL, 0);
}

/* ---- bodies ---- */

/* A JSON body of `n` bytes: a text to fill it, then `rest`. */
static size_t body_of(char *to, size_t n, const char *front, const char *rest) {
    size_t head = strlen(front), tail = strlen(rest);
    assert_true(head + tail <= n);
    memcpy(to, front, head);
    memset(to + head, 'x', n - head - tail);
    memcpy(to + n - tail, rest, tail);
    return n;
}

static void feed_pieces(const char *text, size_t n, size_t piece) {
    for (size_t at = 0; at < n; at += piece)
        usage_feed(&u, text + at, n - at < piece ? n - at : piece);
}

static void reads_bodies(void **state) {
    (void)state;
    begin(USAGE_JSON);
    assert_false(token("{\"choices\":[{\"message\":{\"content\":\"hello\"}}],\"usage\":{\"prompt_tokens\":5,"));
    assert_false(token("\"completion_tokens\":6}}\n"));
    assert_counts(-1, -1, -1); /* not before it is over */
    usage_end(&u);
    assert_counts(5, -1, 6);
    assert_false(u.first_token);
    /* A whole body is read by its structure: */
    begin(USAGE_JSON);
    feed("{\"choices\":[{\"usage\":{\"prompt_tokens\":1}}],\"usage\":{\"prompt_tokens\":2},\"x\":{\"usage\":{\"prompt_tokens\":3}}"
         "}");
    usage_end(&u);
    assert_counts(2, -1, -1);
    begin(USAGE_JSON);
    feed("{\"choices\":[{\"text\":\"a\"}],\"usage\":{\"prompt_tokens\":2}}");
    usage_end(&u);
    assert_counts(2, -1, -1);
    assert_false(u.first_token);
    begin(USAGE_JSON); /* Anthropic's */
    feed("{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}],\"usage\":{\"input_tokens\":4,\"cache_read_input_"
         "tokens\":2,\"output_tokens\":3}}");
    usage_end(&u);
    assert_counts(6, 2, 3);
}

/* A body that is all there is read where it lies; one whose beginning was kept goes on as before. */
static void the_last_bytes_of_a_body(void **state) {
    static const size_t sizes[] = {200, 511, 512, 513, 1000, USAGE_TAIL, USAGE_TAIL + 1, 100000};
    static char text[100000];
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t kept = 0; kept < sizes[i]; kept += sizes[i] / 2) {
            size_t n = body_of(text, sizes[i], "{\"choices\":[{\"message\":{\"content\":\"",
                               "\"}}],\"usage\":{\"completion_tokens\":9,\"prompt_tokens\":8}}\n");
            begin(USAGE_JSON);
            usage_feed(&u, text, kept);
            usage_last(&u, text + kept, n - kept);
            assert_true(kept || !u.tail);
            usage_end(&u);
            assert_null(u.tail);
            assert_counts(8, -1, 9);
        }
    begin(USAGE_JSON); /* counts in front, too far from the end for the first look */
    usage_last(&u, text, body_of(text, 4000, "{\"usage\":{\"completion_tokens\":9,\"prompt_tokens\":8},\"x\":\"", "\",\"a_n\":1}"));
    assert_counts(8, -1, 9);
}

/* How numbers may be written, what is none, and what makes a record none. */
static void only_sane_counts_of_sound_records(void **state) {
    static const struct {
        const char *text;
        int64_t prompt, cached, completion;
    } rows[] = {
        {"{\"usage\":{\"prompt_tokens\":12.0,\"completion_tokens\":1.5e1}}", 12, -1, 15},
        {"{\"usage\":{\"prompt_tokens\":9007199254740994,\"completion_tokens\":1e300}}", -1, -1, -1},
        {"{\"usage\":{\"prompt_tokens\":true,\"completion_tokens\":null}}", -1, -1, -1},
        {"{\"usage\":{\"prompt_tokens\":1000000000000000000000000000000000000001,\"completion_tokens\":4}}", -1, -1, 4},
        {" { \"usage\" :\t{ \"prompt_tokens\" : 2 , \"prompt_tokens_details\" : { \"cached_tokens\" : 1 } } } ", 2, 1, -1},
        {"{\"usage\":{\"x\":{\"prompt_tokens\":1}},\"y\":{\"prompt_tokens\":1},\"z\":[{\"prompt_tokens\":1}]}", -1, -1, -1},
        {"{\"cached_tokens\":1,\"timings\":{\"tokens_evaluated\":1},\"response\":{\"eval_count\":2}}", -1, -1, -1},
        {"{\"usage\":{\"prompt_tokens\" 2}}", -1, -1, -1},
        {"{\"usage\":{\"prompt_tokens\":2},\"a\":[1,]}", -1, -1, -1},
        {"{\"usage\":{\"prompt_tokens\":2,\"cache_read_input_tokens\":7},\"usage\":{\"input_tokens\":3}}", 3, 7, -1},
    };
    static char deep[1200];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(USAGE_JSON);
        feed(rows[i].text);
        usage_end(&u);
        assert_counts(rows[i].prompt, rows[i].cached, rows[i].completion);
    }
    for (int levels = 511; levels <= 512; levels++) { /* the outermost object is a level too */
        memset(deep, '[', 600);
        memset(deep + 600, ']', 600);
        begin(USAGE_NDJSON);
        feed("{\"a\":");
        usage_feed(&u, deep + 600 - levels, 2 * (size_t)levels);
        feed(",\"eval_count\":2}\n");
        assert_int_equal(u.counts.completion, levels < 512 ? 2 : -1);
    }
}

/* Around the length where the front begins to be lost, and the place where the ring has gone round. */
static void long_bodies_are_read_from_their_end(void **state) {
    static const size_t sizes[] = {USAGE_TAIL - 1,     USAGE_TAIL,     USAGE_TAIL + 1,     USAGE_TAIL + 40,
                                   2 * USAGE_TAIL - 1, 2 * USAGE_TAIL, 2 * USAGE_TAIL + 1, 100000};
    static const size_t pieces[] = {100000, USAGE_TAIL + 1, USAGE_TAIL, USAGE_TAIL - 1, 1000, 7};
    static char text[100000];
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            size_t n = body_of(text, sizes[i], "{\"choices\":[{\"message\":{\"content\":\"",
                               "\"}}],\"created\":1,\"usage\":{\"completion_tokens\":9,\"prompt_tokens\":8,\"prompt_tokens_"
                               "details\":{\"cached_tokens\":4}},\"timings\":{\"cache_n\":4}}\n");
            begin(USAGE_JSON);
            feed_pieces(text, n, pieces[k]);
            assert_true(u.tail_cap <= 2 * USAGE_TAIL);
            usage_end(&u);
            assert_counts(8, 4, 9);
        }
}

/* The ends of bodies whose front is lost. */
static void finds_counts_whose_front_is_lost(void **state) {
    static const struct {
        const char *rest;
        int64_t prompt, cached, completion;
    } rows[] = {
        /* A string that talks of usage. */
        {"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}}],\"usage\" : {\"prompt_tokens\":2}}", 2, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tokens\":2},\"note\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}", 2, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tokens\":2},\"note\":\"usage\",\"more\":\"}}]]{\\\\\"}", 2, -1, -1},
        /* Members of that name that are not the body's. */
        {"\"}}],\"usage\":{\"prompt_tokens\":2},\"tools\":[{\"usage\":{\"prompt_tokens\":1}}]}", 2, -1, -1},
        {"\",\"usage\":{\"prompt_tokens\":1}}}],\"usage\":{\"prompt_tokens\":2}}", 2, -1, -1},
        {"\",\"usage\":{\"prompt_tokens\":1}}}],\"x\":1}", -1, -1, -1},
        {"\",\"usage\":{\"prompt_tokens\":1}}}],\"x\":{\"prompt_tokens\":3}}", -1, -1, -1},
        /* Only a body that is whole at its end tells which is which. */
        {"\"}}],\"usage\":{\"prompt_tokens\":2}", -1, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tokens\":2},\"x\":\"", -1, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tok", -1, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tokens\":2}}]]]]", -1, -1, -1},
        {"prompt_tokens\"}}]}", -1, -1, -1},
        {"\"}}],\"usage\":{\"prompt_tokens\":2}},\"x\":\"", -1, -1, -1},
        /* Keys that only end so, values that are no keys, objects too far inside. */
        {"\"}}],\"a\\\"usage\":{\"prompt_tokens\":1}}", -1, -1, -1},
        {"\"}}],\"tags\":[\"usage\",\"b\"],\"usage\":{\"prompt_tokens\":2}}", 2, -1, -1},
        {"\",\"usage\":{\"prompt_tokens\":1}}}]}", -1, -1, -1},
        {"\"}}],\"a\":{\"b\":{\"usage\":{\"prompt_tokens\":1}}}}", -1, -1, -1},
        /* The other dialects. */
        {"\"}}],\"stop\":true,\"tokens_cached\":9,\"timings\":{\"prompt_n\":3,\"cache_n\":4,\"predicted_n\":5}}", 7, 4, 5},
        {"\"}}],\"context\":[1,2,3],\"prompt_eval_count\":26,\"eval_duration\":1,\"eval_count\":298}", 26, -1, 298},
        {"\"}}],\"tokens_predicted\":5,\"tokens_evaluated\":6,\"settings\":{\"a\":[]}}", 6, -1, 5},
    };
    static char text[3 * USAGE_TAIL];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t piece = 100; piece <= sizeof text; piece += sizeof text - 100) {
            size_t n = body_of(text, sizeof text, "{\"choices\":[{\"message\":{\"content\":\"", rows[i].rest);
            begin(USAGE_JSON);
            feed_pieces(text, n, piece);
            usage_end(&u);
            if (u.counts.prompt != rows[i].prompt) print_message("in: %s\n", rows[i].rest);
            assert_counts(rows[i].prompt, rows[i].cached, rows[i].completion);
        }
}

/* Where the cut falls into the key itself, byte by byte. What stood before the tail's first byte nobody knows: it could be a
 * backslash. */
static void the_cut_may_fall_anywhere(void **state) {
    static const char rest[] = "\"}}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}";
    static char text[3 * USAGE_TAIL];
    size_t key = (size_t)(strstr(rest, "\"usage") - rest);
    (void)state;
    for (size_t cut = 0; cut < sizeof rest - 1; cut++) {
        size_t filled = body_of(text, USAGE_TAIL, "{\"choices\":[{\"message\":{\"content\":\"", rest);
        size_t n =
            filled - (sizeof rest - 1) + cut + USAGE_TAIL; /* so that the last USAGE_TAIL bytes begin `cut` bytes into rest */
        memset(text + filled, ' ', n - filled);
        text[n - 1] = '}';
        begin(USAGE_JSON);
        usage_feed(&u, text, n);
        usage_end(&u);
        assert_int_equal(u.counts.prompt, cut < key ? 2 : -1);
    }
}

/* ---- long events ---- */

/* response.completed tells the whole answer again. */
static void long_events_are_read_from_their_end(void **state) {
    static char text[3 * USAGE_TAIL];
    (void)state;
    for (size_t size = USAGE_TAIL - 2; size < USAGE_TAIL + 60; size++)
        for (size_t piece = 1000; piece <= sizeof text; piece += sizeof text - 1000) {
            begin(USAGE_SSE);
            size_t n = body_of(
                text, size, "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"instructions\":\"",
                "\",\"usage\":{\"input_tokens\":37,\"output_tokens\":11},\"metadata\":{}}}\r\n\r\n");
            feed_pieces(text, n, piece);
            assert_null(u.tail);
            assert_counts(37, -1, 11);
            assert_false(u.first_token);
            /* Reading goes on at the next. */
            assert_true(token("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"));
        }
    begin(USAGE_SSE); /* with members behind the response, as some order them */
    feed_pieces(text,
                body_of(text, 2 * USAGE_TAIL, "data: {\"response\":{\"text\":\"",
                        "\",\"usage\":{\"input_tokens\":3}},\"type\":\"response.completed\"}\n\n"),
                999);
    assert_counts(3, -1, -1);
}

static void what_cannot_be_read_of_a_long_event_is_looked_over(void **state) {
    static char text[3 * USAGE_TAIL];
    (void)state;
    begin(USAGE_SSE);
    feed_pieces(text,
                body_of(text, 2 * USAGE_TAIL, "data: {\"usage\":{\"prompt_tokens\":5},\"choices\":[{\"delta\":{\"content\":\"",
                        "\"}}]}\n\n"),
                1234);
    assert_counts(-1, -1, -1);
    assert_false(u.first_token); /* nobody can tell what it was */
    assert_null(u.tail);
    assert_true(token("data: {\"usage\":{\"prompt_tokens\":5},\"choices\":[{\"text\":\"a\"}]}\n\n"));
    assert_counts(5, -1, -1);
    begin(USAGE_NDJSON);
    feed_pieces(text,
                body_of(text, 2 * USAGE_TAIL, "{\"x\":\"", "\",\"prompt_eval_count\":4,\"eval_count\":2,\"response\":\"a\"}\n"),
                1234);
    assert_counts(4, -1, 2);
    assert_false(u.first_token);
}

/* The longest event that is read as a whole, and one byte more; in one piece and in two. */
static void the_longest_event(void **state) {
    static char text[2 * USAGE_TAIL];
    (void)state;
    for (size_t more = 0; more <= 1; more++)
        for (size_t piece = 1000; piece <= sizeof text; piece += sizeof text - 1000) {
            begin(USAGE_SSE);
            feed_pieces(
                text,
                body_of(text, USAGE_TAIL + more, "data: {\"choices\":[{\"text\":\"", "\"}],\"usage\":{\"prompt_tokens\":3}}\n\n"),
                piece);
            assert_int_equal(u.first_token, !more);
            assert_counts(3, -1, -1);
        }
}

/* The front of a long event may be lines that hold no data. */
static void only_first_lines_may_be_lost(void **state) {
    static char text[3 * USAGE_TAIL];
    (void)state;
    begin(USAGE_SSE);
    feed_pieces(text, body_of(text, 2 * USAGE_TAIL, ": ", "\ndata: {\"usage\":{\"prompt_tokens\":5}}\n\n"), 4000);
    assert_counts(5, -1, -1);
}

/* ---- memory ---- */

static void holds_no_more_than_it_needs(void **state) {
    static char text[USAGE_TAIL];
    (void)state;
    memset(text, 'x', sizeof text);
    begin(USAGE_SSE);
    feed("data: x");
    assert_int_equal(u.tail_cap, BLOCK_MIN);
    usage_feed(&u, text, BLOCK_MIN);
    assert_int_equal(u.tail_cap, 4 * BLOCK_MIN);
    for (int i = 0; i < 100; i++)
        usage_feed(&u, text, sizeof text);
    assert_int_equal(u.tail_cap, 16 * BLOCK_MIN);
    assert_true(u.tail_len <= USAGE_TAIL);
    feed("\n\n");
    assert_null(u.tail);
    assert_int_equal(u.tail_cap, 0);
}

static void without_memory_one_event_is_lost(void **state) {
    static char text[USAGE_TAIL];
    (void)state;
    memset(text, ' ', sizeof text);
    for (int held = 0; held <= 1; held++) { /* at its first bytes, or when it grows */
        begin(USAGE_SSE);
        feed(held ? "data: " : "");
        block_test_fail_after(1);
        usage_feed(&u, text, 2000);
        block_test_fail_after(-1);
        feed("data: {\"usage\":{\"prompt_tokens\":5}}\n");
        assert_false(token("\n"));
        assert_null(u.tail);
        assert_counts(-1, -1, -1);
        feed("data: {\"usage\":{\"pro");
        feed("mpt_tokens\":6}}\n\n");
        assert_counts(6, -1, -1);
    }
    begin(USAGE_JSON);
    block_test_fail_after(1);
    feed("{\"usage\":{\"prompt_tokens\":5");
    block_test_fail_after(-1);
    feed("}}");
    usage_end(&u);
    assert_counts(-1, -1, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds),
        cmocka_unit_test(reads_every_dialect),
        cmocka_unit_test(boundaries_do_not_matter),
        cmocka_unit_test(the_first_token_comes_with_its_last_byte),
        cmocka_unit_test(only_an_empty_line_ends_an_event),
        cmocka_unit_test(what_is_left_is_read_at_the_end),
        cmocka_unit_test(the_highest_count_stands),
        cmocka_unit_test(off_reads_nothing),
        cmocka_unit_test(reads_bodies),
        cmocka_unit_test(the_last_bytes_of_a_body),
        cmocka_unit_test(only_sane_counts_of_sound_records),
        cmocka_unit_test(long_bodies_are_read_from_their_end),
        cmocka_unit_test(finds_counts_whose_front_is_lost),
        cmocka_unit_test(the_cut_may_fall_anywhere),
        cmocka_unit_test(long_events_are_read_from_their_end),
        cmocka_unit_test(what_cannot_be_read_of_a_long_event_is_looked_over),
        cmocka_unit_test(the_longest_event),
        cmocka_unit_test(only_first_lines_may_be_lost),
        cmocka_unit_test(holds_no_more_than_it_needs),
        cmocka_unit_test(without_memory_one_event_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
