#include "unit.h"

#include <cjson/cJSON.h>

#include "block.h"
#include "clock.h"
#include "head.h"

static struct http_head head;
static char raw[65536];

/* The head of a message that http accepts; its bytes stay in `raw`. */
static const struct http_head *parsed(enum http_kind kind, const char *text, bool head_answer) {
    static struct iovec spans[HTTP_SPANS_MAX];
    struct http h;
    size_t used;
    assert_in_range(strlen(text), 1, sizeof raw - 1);
    strcpy(raw, text);
    http_init(&h, kind, &head, spans);
    h.head_answer = head_answer;
    enum http_event e = http_feed(&h, raw, strlen(raw), &used);
    if (e != GOT_HEAD) fail_msg("%s in: %s", h.text, text);
    return &head;
}

static const struct http_head *request(const char *text) {
    return parsed(MESSAGE_REQUEST, text, false);
}

static const struct http_head *response(const char *text) {
    return parsed(MESSAGE_RESPONSE, text, false);
}

/* What was built, as a C string until the next call. */
static const char *text_of(struct buf *b) {
    static char text[200000];
    assert_false(b->failed);
    assert_in_range(buf_len(b), 0, sizeof text - 1);
    memcpy(text, buf_ptr(b), buf_len(b));
    text[buf_len(b)] = 0;
    buf_free(b);
    return text;
}

static const char *fields(const char *in, const struct head_forward *f) {
    struct buf b = {0};
    head_request_fields(&b, request(in), f);
    return text_of(&b);
}

static const char *relayed(const char *in, const struct head_relay *r) {
    struct buf b = {0};
    head_response(&b, response(in), r);
    return text_of(&b);
}

static bool has(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

/* ---- requests ---- */

static void passes_end_to_end_fields_as_they_stood(void **state) {
    struct head_forward f = {.client_ip = STR("192.0.2.7"), .request_id = STR("id-1"), .has_body = true, .body_length = 42};
    (void)state;
    const char *out = fields(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: router:9090\r\nAccept:*/*\r\nCoNtEnT-tYpE:   application/json \r\n"
        "Content-Length: 7\r\nAuthorization: Bearer sk-1\r\nX-Empty:\r\nX-Api-Key: k\r\nCookie: a=b\r\nsession_id: s\r\n\r\n",
        &f);
    assert_string_equal(
        out, "Accept: */*\r\nCoNtEnT-tYpE: application/json\r\nAuthorization: Bearer sk-1\r\nX-Empty: \r\nX-Api-Key: k\r\n"
             "Cookie: a=b\r\nsession_id: s\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n"
             "X-Forwarded-Host: router:9090\r\nX-Request-Id: id-1\r\nContent-Length: 42\r\n\r\n");
}

static void drops_what_concerns_one_connection(void **state) {
    struct head_forward f = {.request_id = STR("i")};
    (void)state;
    const char *out =
        fields("POST / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, x-hop\r\nX-Hop: 1\r\nx-HOP: 2\r\nX-Hops: 3\r\nKeep-Alive: "
               "timeout=5\r\n"
               "Proxy-Authorization: Basic eA==\r\nProxy-Connection: close\r\nProxy-Anything: 1\r\nTE: trailers\r\nTrailer: x\r\n"
               "Transfer-Encoding: chunked\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nExpect: 100-continue\r\nX-Request-Id: old\r\n"
               "Connection: X-Other ,, http2-settings\r\nX-Other: 4\r\nProxyless: 5\r\n\r\n",
               &f);
    assert_string_equal(out,
                        "X-Hops: 3\r\nProxyless: 5\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Request-Id: i\r\n\r\n");
}

/* As many names as are told apart, and one more. */
static void connection_may_name_many(void **state) {
    struct head_forward f = {.request_id = STR("i")};
    char text[2048];
    (void)state;
    for (int n = 16; n <= 17; n++) {
        strcpy(text, "GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\nX-Kept: 1\r\nN15: 1\r\nConnection: close");
        for (int i = 0; i < n; i++)
            sprintf(text + strlen(text), ", n%d", i);
        strcat(text, "\r\n\r\n");
        const char *out = fields(text, &f);
        assert_true(has(out, "Accept: b\r\n"));
        assert_false(has(out, "N15"));
        assert_int_equal(has(out, "X-Kept"), n == 16);
    }
}

static void a_stranger_forwards_for_nobody(void **state) {
    struct head_forward f = {.client_ip = STR("::1"), .request_id = STR("i")};
    (void)state;
    const char *in =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n"
        "Forwarded: for=1.1.1.1\r\nX-Forwarded-Port: 443\r\nx-forwarded-for: 2.2.2.2\r\n\r\n";
    assert_string_equal(fields(in, &f),
                        "X-Forwarded-For: ::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Request-Id: i\r\n\r\n");
    f.client_ip = STR_NONE; /* a unix socket */
    assert_string_equal(fields(in, &f), "X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Request-Id: i\r\n\r\n");
}

static void a_trusted_peer_is_added_to(void **state) {
    struct head_forward f = {.client_ip = STR("10.0.0.1"), .request_id = STR("i"), .peer_trusted = true};
    (void)state;
    const char *in =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-Host: site\r\nX-Forwarded-Proto: https\r\n"
        "Forwarded: for=1.1.1.1\r\nX-Forwarded-Port: 443\r\nx-forwarded-for: 3.3.3.3\r\nx-forwarded-for:\r\n\r\n";
    assert_string_equal(fields(in, &f),
                        "X-Forwarded-Host: site\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-Port: 443\r\n"
                        "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1\r\nX-Request-Id: i\r\n\r\n");
    f.client_ip = STR_NONE;
    assert_true(has(fields(in, &f), "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3\r\n"));
    /* One that says nothing itself. */
    assert_string_equal(fields("GET / HTTP/1.1\r\nHost: h\r\n\r\n", &f),
                        "X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Request-Id: i\r\n\r\n");
    assert_string_equal(fields("GET / HTTP/1.0\r\n\r\n", &f), "X-Forwarded-Proto: http\r\nX-Request-Id: i\r\n\r\n");
}

static void credentials_stay_here_if_told_so(void **state) {
    struct head_forward f = {.request_id = STR("i"), .drop_credentials = true};
    (void)state;
    const char *out =
        fields("GET / HTTP/1.1\r\nHost: h\r\nauthorization: Bearer sk-secret\r\nX-API-KEY: sk-secret\r\nCookie: sk-secret\r\n"
               "Cookie: sk-secret\r\nX-Api-Keys: 1\r\n\r\n",
               &f);
    assert_string_equal(out, "X-Api-Keys: 1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Request-Id: i\r\n\r\n");
}

static void body_length_is_ours(void **state) {
    struct head_forward f = {.request_id = STR("i"), .has_body = true, .body_length = UINT64_MAX};
    (void)state;
    assert_true(has(fields("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", &f),
                    "Content-Length: 18446744073709551615\r\n\r\n"));
    f.body_length = 0;
    assert_true(has(fields("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", &f), "Content-Length: 0\r\n\r\n"));
    f.has_body = false;
    assert_false(has(fields("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n", &f), "Content-Length"));
}

/* Room is reserved once, from the head's size: the worst heads are those where every field grows, and where nothing does. */
static void the_largest_head_fits(void **state) {
    static char text[HTTP_FIELDS_MAX * 24 + 2048];
    char ip[64], id[128];
    struct head_forward f = {
        .client_ip = {ip, sizeof ip}, .request_id = {id, sizeof id}, .has_body = true, .body_length = UINT64_MAX};
    (void)state;
    memset(ip, '1', sizeof ip);
    memset(id, 'i', sizeof id);
    for (int i = 0; i < 3; i++) {
        struct buf b = {0};
        f.peer_trusted = i == 1;
        size_t n = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost:");
        memset(text + n, 'h', 1000);
        strcpy(text + n + 1000, "\r\n");
        for (int k = 0; k < HTTP_FIELDS_MAX - 1; k++)
            strcat(text, i ? "x-forwarded-for:1\r\n" : "a:\r\n");
        strcat(text, "\r\n");
        head_request_fields(&b, request(text), &f);
        assert_int_equal(head.nfields, HTTP_FIELDS_MAX);
        assert_in_range(buf_len(&b), 1000, head.size + head.nfields + sizeof ip + sizeof id + 512);
        const char *out = text_of(&b);
        assert_int_equal(has(out, "a: \r\na: \r\n"), i == 0);
        assert_int_equal(has(out, "X-Forwarded-For: 1, 1, 1, "), i == 1);
    }
}

static void request_lines(void **state) {
    static const struct {
        const char *base, *target, *key, *out;
    } rows[] = {
        {"", "/v1/models?a=b", NULL, "POST /v1/models?a=b HTTP/1.1\r\nHost: [::1]:8080\r\n"},
        {"/base", "/v1/models", "k", "POST /base/v1/models HTTP/1.1\r\nHost: [::1]:8080\r\nAuthorization: Bearer k\r\n"},
        {"", "", NULL, "POST / HTTP/1.1\r\nHost: [::1]:8080\r\n"},
        {"/b", "?q", NULL, "POST /b/?q HTTP/1.1\r\nHost: [::1]:8080\r\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = {0};
        head_request_line(&b, STR("POST"), str_of(rows[i].base), str_of(rows[i].target), STR("[::1]:8080"), str_of(rows[i].key));
        assert_string_equal(text_of(&b), rows[i].out);
    }
}

/* ---- responses ---- */

static void relays_a_response(void **state) {
    struct head_relay r = {.framing = FRAMING_CHUNKED, .request_id = STR("id-9")};
    (void)state;
    const char *out =
        relayed("HTTP/1.0 200 Fine\r\nDate: then\r\nServer: llama.cpp\r\nContent-Type: application/json\r\nX-Request-Id: theirs\r\n"
                "Connection: close, x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: "
                "5\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
                "Proxy-Authenticate: x\r\nTrailer: y\r\nUpgrade: h2c\r\nX-Router-Pool: forged\r\nx-router-anything: forged\r\n"
                "Access-Control-Allow-Origin: *\r\nX-Accel-Buffering: yes\r\n\r\n",
                &r);
    assert_string_equal(
        out, "HTTP/1.1 200 Fine\r\nDate: then\r\nServer: llama.cpp\r\nContent-Type: application/json\r\nSet-Cookie: a\r\n"
             "set-cookie: b\r\nAccess-Control-Allow-Origin: *\r\nX-Accel-Buffering: yes\r\nX-Request-Id: id-9\r\n"
             "Transfer-Encoding: chunked\r\n\r\n");
}

static void gives_a_date_where_there_is_none(void **state) {
    struct head_relay r = {.framing = FRAMING_LENGTH, .length = 3};
    char want[128];
    (void)state;
    struct str date = clock_http_date();
    snprintf(want, sizeof want, "HTTP/1.1 404 Not Found\r\nDate: %.*s\r\nContent-Length: 3\r\n\r\n", (int)date.len, date.ptr);
    assert_string_equal(relayed("HTTP/1.1 404 \r\nContent-Length: 3\r\n\r\n", &r), want);
}

static void reasons(void **state) {
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"HTTP/1.1 200 Very Well\r\nDate: x\r\n\r\n", "HTTP/1.1 200 Very Well\r\n"},
        {"HTTP/1.1 200 \r\nDate: x\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
        {"HTTP/1.1 503 \xc3\xa9\r\nDate: x\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\n"},
        {"HTTP/1.1 599 \r\nDate: x\r\n\r\n", "HTTP/1.1 599 \r\n"},
        {"HTTP/1.1 200 0123456789012345678901234567890123456789012345678901234567890123\r\n\r\n",
         "HTTP/1.1 200 0123456789012345678901234567890123456789012345678901234567890123\r\n"},
        {"HTTP/1.1 200 01234567890123456789012345678901234567890123456789012345678901234\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
    };
    struct head_relay r = {.framing = FRAMING_CLOSE};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_memory_equal(relayed(rows[i].in, &r), rows[i].out, strlen(rows[i].out));
}

static void framing(void **state) {
    static const struct {
        enum head_framing framing;
        bool head_answer;
        const char *in, *out;
    } rows[] = {
        {FRAMING_LENGTH, false, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\n", "Content-Length: 7\r\n\r\n"},
        {FRAMING_CHUNKED, false, "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"},
        {FRAMING_CLOSE, false, "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n", "Connection: close\r\n\r\n"},
        {FRAMING_NONE, true, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\n", "Content-Length: 9\r\n\r\n"},
        {FRAMING_NONE, true, "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
        {FRAMING_NONE, false, "HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n", "Content-Length: 9\r\n\r\n"},
        {FRAMING_NONE, false, "HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 0\r\n\r\n", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct head_relay r = {.framing = rows[i].framing, .length = 7};
        struct buf b = {0};
        char want[200];
        const char *line_end = strstr(rows[i].in, "\r\n");
        snprintf(want, sizeof want, "%.*s\r\nDate: x\r\n%s", (int)(line_end - rows[i].in), rows[i].in,
                 *rows[i].out ? rows[i].out : "\r\n");
        head_response(&b, parsed(MESSAGE_RESPONSE, rows[i].in, rows[i].head_answer), &r);
        assert_string_equal(text_of(&b), want);
    }
}

static void connection_of_a_response(void **state) {
    const char *in = "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n";
    struct head_relay r = {.framing = FRAMING_CHUNKED};
    (void)state;
    assert_false(has(relayed(in, &r), "Connection"));
    r.keep_alive_10 = true;
    assert_true(has(relayed(in, &r), "\r\nConnection: keep-alive\r\n"));
    r.close = true;
    const char *out = relayed(in, &r);
    assert_true(has(out, "\r\nConnection: close\r\n"));
    assert_false(has(out, "keep-alive"));
}

static void event_streams_are_not_buffered(void **state) {
    struct head_relay r = {.framing = FRAMING_CHUNKED};
    (void)state;
    const char *out = relayed(
        "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: Text/Event-Stream ; charset=utf-8\r\nX-Accel-Buffering: yes\r\n\r\n", &r);
    assert_true(has(out, "X-Accel-Buffering: no\r\n"));
    assert_false(has(out, "yes"));
    assert_false(has(relayed("HTTP/1.1 200 OK\r\nContent-Type: text/event-streams\r\n\r\n", &r), "X-Accel-Buffering"));
    assert_false(has(relayed("HTTP/1.1 200 OK\r\n\r\n", &r), "X-Accel-Buffering"));
}

static void retry_after_is_added_once(void **state) {
    struct head_relay r = {.framing = FRAMING_LENGTH, .retry_after_5 = true};
    (void)state;
    assert_true(has(relayed("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", &r), "\r\nRetry-After: 5\r\n"));
    const char *out = relayed("HTTP/1.1 503 x\r\nContent-Length: 0\r\nretry-after: 30\r\n\r\n", &r);
    assert_true(has(out, "retry-after: 30\r\n"));
    assert_false(has(out, "Retry-After: 5"));
}

static void cors_is_the_routers(void **state) {
    struct head_relay r = {.framing = FRAMING_CHUNKED, .cors = {STR("https://app.example"), true}};
    (void)state;
    const char *in = "HTTP/1.1 200 OK\r\nDate: x\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
                     "Access-Control-Allow-Private-Network: true\r\nAccess-Control-Expose-Headers: a\r\nVary: Accept\r\n\r\n";
    assert_string_equal(relayed(in, &r),
                        "HTTP/1.1 200 OK\r\nDate: x\r\nVary: Accept\r\nAccess-Control-Allow-Origin: https://app.example\r\n"
                        "Access-Control-Expose-Headers: *\r\nVary: Origin\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_false(has(relayed("HTTP/1.1 200 OK\r\nvary: accept, ORIGIN\r\n\r\n", &r), "Vary: Origin"));
    assert_false(has(relayed("HTTP/1.1 200 OK\r\nVary: *\r\n\r\n", &r), "Vary: Origin"));
    r.cors = (struct head_cors){STR("*"), false};
    assert_false(has(relayed(in, &r), "Vary: Origin"));
    r.cors.allow_origin = STR_NONE;
    assert_true(has(relayed(in, &r), "Access-Control-Allow-Private-Network: true\r\n"));
}

static void route_fields_cannot_end_a_line(void **state) {
    struct head_relay r = {.framing = FRAMING_CHUNKED, .route = {STR("chat\r\nX: y"), STR("http://10.0.0.1:1"), STR("hit")}};
    (void)state;
    assert_true(has(relayed("HTTP/1.1 200 OK\r\nX-Router-Affinity: z\r\n\r\n", &r),
                    "\r\nX-Router-Pool: chat??X: y\r\nX-Router-Endpoint: http://10.0.0.1:1\r\nX-Router-Affinity: hit\r\n"));
}

/* ---- our own ---- */

static void replies(void **state) {
    struct head_reply r = {.status = 200,
                           .content_type = STR("text/plain"),
                           .body = STR("ok\n"),
                           .request_id = STR("i"),
                           .extra = STR("Allow: GET\r\n")};
    struct buf b = {0};
    char want[400];
    (void)state;
    struct str date = clock_http_date();
    snprintf(
        want, sizeof want,
        "HTTP/1.1 200 OK\r\nDate: %.*s\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nAllow: GET\r\nX-Request-Id: i\r\n\r\n",
        (int)date.len, date.ptr);
    r.head_only = true;
    head_reply(&b, &r);
    assert_string_equal(text_of(&b), want);
    r.head_only = false;
    head_reply(&b, &r);
    strcat(want, "ok\n");
    assert_string_equal(text_of(&b), want);
    r = (struct head_reply){.status = 204, .cors = {STR("*"), false}, .close = true, .keep_alive_10 = true};
    head_reply(&b, &r);
    snprintf(want, sizeof want,
             "HTTP/1.1 204 No Content\r\nDate: %.*s\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: "
             "*\r\nConnection: close\r\n\r\n",
             (int)date.len, date.ptr);
    assert_string_equal(text_of(&b), want);
    /* Behind what is in the buffer already: pipelined answers share one. */
    buf_puts(&b, STR("before"));
    head_reply(&b, &r);
    assert_memory_equal(text_of(&b), "beforeHTTP/1.1 204", 18);
}

static void dialects(void **state) {
    static const struct {
        const char *path;
        enum head_dialect dialect;
    } rows[] = {
        {"/v1/messages", DIALECT_ANTHROPIC},
        {"/v1/messages/count_tokens", DIALECT_ANTHROPIC},
        {"/v1/message", DIALECT_OPENAI},
        {"/api/chat", DIALECT_OLLAMA},
        {"/api/", DIALECT_OLLAMA},
        {"/api", DIALECT_OPENAI},
        {"", DIALECT_OPENAI},
        {"/v1/chat/completions", DIALECT_OPENAI},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(head_dialect(str_of(rows[i].path)), rows[i].dialect);
}

static void error_shapes(void **state) {
    static const struct {
        enum why why;
        enum head_dialect dialect;
        const char *message, *out;
    } rows[] = {
        {WHY_NO_MODEL, DIALECT_OPENAI, "a\"b",
         "{\"error\":{\"message\":\"a\\\"b\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}"
         "}"},
        {WHY_BAD_HTTP, DIALECT_OPENAI, NULL,
         "{\"error\":{\"message\":\"The request is not valid "
         "HTTP/1.1.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}"},
        {WHY_FULL, DIALECT_OPENAI, "m",
         "{\"error\":{\"message\":\"m\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"overloaded\"}}"},
        {WHY_UPSTREAM, DIALECT_OPENAI, "m",
         "{\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_error\"}}"},
        {WHY_BAD_JSON, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"m\"}}"},
        {WHY_NO_KEY, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":\"m\"}}"},
        {WHY_FORBIDDEN, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"m\"}}"},
        {WHY_NO_MODEL, DIALECT_ANTHROPIC, "m", "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"m\"}}"},
        {WHY_BIG_BODY, DIALECT_ANTHROPIC, "m", "{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\",\"message\":\"m\"}}"},
        {WHY_BIG_HEAD, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"m\"}}"},
        {WHY_FULL, DIALECT_ANTHROPIC, "m", "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\"}}"},
        {WHY_NO_ENDPOINT, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}"},
        {WHY_UPSTREAM_SLOW, DIALECT_ANTHROPIC, "m",
         "{\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",\"message\":\"m\"}}"},
        {WHY_UPSTREAM, DIALECT_ANTHROPIC, "m", "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"m\"}}"},
        {WHY_NO_MODEL, DIALECT_OLLAMA, "a<b\r\n", "{\"error\":\"a\\u003cb\\u000d\\u000a\"}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = {0};
        head_error_body(&b, rows[i].why, rows[i].dialect, str_of(rows[i].message));
        assert_string_equal(text_of(&b), rows[i].out);
    }
}

/* Every row that has a status, in every shape, is JSON and says what its row says. */
static void every_error_is_json(void **state) {
    (void)state;
    for (int why = 0; why < WHY_COUNT; why++) {
        const struct why_row *row = why_row((enum why)why);
        for (int d = DIALECT_OPENAI; row->status && row->status != 499 && d <= DIALECT_OLLAMA; d++) {
            struct head_error e = {.why = (enum why)why, .dialect = (enum head_dialect)d, .retry_after = 7, .request_id = STR("i")};
            struct buf b = {0};
            head_error(&b, &e);
            const char *out = text_of(&b), *body = strstr(out, "\r\n\r\n") + 4;
            char line[64], length[64];
            snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\n", row->status, head_status_text(row->status));
            assert_memory_equal(out, line, strlen(line));
            assert_true(*head_status_text(row->status));
            snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", strlen(body));
            assert_true(has(out, length));
            assert_true(has(out, "\r\nContent-Type: application/json\r\n"));
            assert_int_equal(has(out, "\r\nRetry-After: 7\r\n"), (row->flags & WHY_RETRY_AFTER) != 0);
            assert_int_equal(has(out, "\r\nx-should-retry: false\r\n"), (row->flags & WHY_NO_RETRY) != 0);
            assert_int_equal(has(out, "\r\nConnection: close\r\n"), (row->flags & WHY_CLOSE) != 0);
            cJSON *root = cJSON_Parse(body);
            const cJSON *error = cJSON_GetObjectItemCaseSensitive(root, "error");
            const cJSON *message = d == DIALECT_OLLAMA ? error : cJSON_GetObjectItemCaseSensitive(error, "message");
            assert_string_equal(cJSON_GetStringValue(message), row->text);
            if (d == DIALECT_OPENAI) assert_int_equal(cJSON_GetArraySize(error), 4);
            cJSON_Delete(root);
        }
    }
}

static void errors_have_a_head(void **state) {
    struct head_error e = {
        .why = WHY_BAD_METHOD, .extra = STR("Allow: POST\r\n"), .request_id = STR("i"), .head_only = true, .keep_alive_10 = true};
    struct buf b = {0};
    (void)state;
    head_error(&b, &e);
    const char *out = text_of(&b);
    assert_true(has(out, "\r\nAllow: POST\r\n"));
    assert_true(has(out, "\r\nX-Request-Id: i\r\n"));
    assert_true(has(out, "\r\nConnection: keep-alive\r\n"));
    assert_string_equal(strstr(out, "\r\n\r\n"), "\r\n\r\n"); /* HEAD: nothing behind it */
    e = (struct head_error){.why = WHY_FULL, .close = true};
    head_error(&b, &e);
    out = text_of(&b);
    assert_true(has(out, "\r\nRetry-After: 1\r\n"));
    assert_true(has(out, "\r\nConnection: close\r\n"));
}

static void long_messages_are_cut(void **state) {
    static char message[5000];
    struct buf b = {0};
    (void)state;
    memset(message, 'm', sizeof message);
    head_error_body(&b, WHY_NO_MODEL, DIALECT_OLLAMA, (struct str){message, sizeof message});
    assert_int_equal(strlen(text_of(&b)), 1024 + strlen("{'error':''}"));
}

static void stream_errors(void **state) {
    static const struct {
        enum head_dialect dialect;
        bool ndjson, open;
        const char *out;
    } rows[] = {
        {DIALECT_OPENAI, false, false,
         "data: {\"error\":{\"message\":\"The endpoint broke off in the middle of its "
         "answer.\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_error\"}}\n\n"},
        {DIALECT_OLLAMA, false, true,
         "\n\ndata: {\"error\":{\"message\":\"The endpoint broke off in the middle of its "
         "answer.\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_error\"}}\n\n"},
        {DIALECT_ANTHROPIC, false, true,
         "\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"The endpoint broke off in "
         "the middle of its answer.\"}}\n\n"},
        {DIALECT_OLLAMA, true, false, "{\"error\":\"The endpoint broke off in the middle of its answer.\"}\n"},
        {DIALECT_OPENAI, true, true, "\n{\"error\":\"The endpoint broke off in the middle of its answer.\"}\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = {0};
        head_stream_error(&b, WHY_UPSTREAM_CUT, rows[i].dialect, rows[i].ndjson, rows[i].open);
        assert_string_equal(text_of(&b), rows[i].out);
    }
}

static void request_ids(void **state) {
    char id[130];
    (void)state;
    memset(id, 'a', sizeof id);
    assert_false(head_request_id_ok((struct str){id, 0}));
    assert_true(head_request_id_ok((struct str){id, 1}));
    assert_true(head_request_id_ok((struct str){id, 128}));
    assert_false(head_request_id_ok((struct str){id, 129}));
    for (int c = 0; c < 256; c++) {
        char one = (char)c;
        bool want = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("._~:/+=@-", c));
        assert_int_equal(head_request_id_ok((struct str){&one, 1}), want);
    }
}

static void says_when_memory_fails(void **state) {
    struct head_error e = {.why = WHY_FULL, .request_id = STR("i")};
    struct head_reply reply = {.status = 200};
    struct head_forward f = {.request_id = STR("i")};
    struct head_relay r = {.request_id = STR("i")};
    struct buf b = {0};
    (void)state;
    for (long n = 1; n <= 3; n++) { /* body, extra, the whole */
        block_test_fail_after(n);
        head_error(&b, &e);
        assert_true(b.failed);
        buf_free(&b);
    }
    block_test_fail_after(-1);
    assert_non_null(buf_reserve(&b, 4000)); /* the whole has room, only the body has none */
    block_test_fail_after(1);
    head_error(&b, &e);
    assert_true(b.failed);
    buf_free(&b);
    for (int i = 0; i < 4; i++) {
        const struct http_head *in = i < 2 ? request("GET / HTTP/1.1\r\nHost: h\r\n\r\n") : response("HTTP/1.1 200 OK\r\n\r\n");
        block_test_fail_after(1);
        if (i == 0) head_request_fields(&b, in, &f);
        if (i == 1) head_request_line(&b, STR("GET"), STR_NONE, STR("/"), STR("h"), STR_NONE);
        if (i == 2) head_response(&b, in, &r);
        if (i == 3) head_reply(&b, &reply);
        assert_true(b.failed);
        assert_int_equal(buf_len(&b), 0);
        buf_free(&b);
    }
    block_test_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_end_to_end_fields_as_they_stood),
        cmocka_unit_test(drops_what_concerns_one_connection),
        cmocka_unit_test(connection_may_name_many),
        cmocka_unit_test(a_stranger_forwards_for_nobody),
        cmocka_unit_test(a_trusted_peer_is_added_to),
        cmocka_unit_test(credentials_stay_here_if_told_so),
        cmocka_unit_test(body_length_is_ours),
        cmocka_unit_test(the_largest_head_fits),
        cmocka_unit_test(request_lines),
        cmocka_unit_test(relays_a_response),
        cmocka_unit_test(gives_a_date_where_there_is_none),
        cmocka_unit_test(reasons),
        cmocka_unit_test(framing),
        cmocka_unit_test(connection_of_a_response),
        cmocka_unit_test(event_streams_are_not_buffered),
        cmocka_unit_test(retry_after_is_added_once),
        cmocka_unit_test(cors_is_the_routers),
        cmocka_unit_test(route_fields_cannot_end_a_line),
        cmocka_unit_test(replies),
        cmocka_unit_test(dialects),
        cmocka_unit_test(error_shapes),
        cmocka_unit_test(every_error_is_json),
        cmocka_unit_test(errors_have_a_head),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(stream_errors),
        cmocka_unit_test(request_ids),
        cmocka_unit_test(says_when_memory_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
