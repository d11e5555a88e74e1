#include "unit.h"

#include "block.h"
#include "clock.h"
#include "forward.h"

static struct http_head head;
static char raw[65536];

static struct forward *made(const char *text, bool drop_credentials) {
    static struct iovec spans[HTTP_SPANS_MAX];
    struct head_forward how = {.client_ip = STR("192.0.2.7"), .request_id = STR("id-1"), .drop_credentials = drop_credentials};
    struct http h;
    size_t used;
    assert_in_range(strlen(text), 1, sizeof raw - 1);
    strcpy(raw, text);
    http_init(&h, MESSAGE_REQUEST, &head, spans);
    if (http_feed(&h, raw, strlen(raw), &used) != GOT_HEAD) fail_msg("%s in: %s", h.text, text);
    return forward_new(&head, &how);
}

/* All pieces, as a C string until the next call. */
static const char *sent(struct forward *f, const char *api_key) {
    static char text[131072];
    struct endpoint e = {.url.base = "/base", .host = "gpu:80"};
    size_t n = 0;
    e.api_key = api_key ? str_dup(str_of(api_key)) : NULL;
    assert_true(forward_line(f, &e));
    free(e.api_key);
    for (;;) {
        struct iovec iov[3];
        int k = forward_pieces(f, n, iov, 3);
        if (!k) break;
        for (int i = 0; i < k; i++) {
            assert_in_range(n + iov[i].iov_len, 1, sizeof text - 1);
            memcpy(text + n, iov[i].iov_base, iov[i].iov_len);
            n += iov[i].iov_len;
        }
    }
    text[n] = 0;
    return text;
}

static const char *kept(struct forward *f) {
    return str_dup(str_of(sent(f, NULL)));
}

#define REQUEST                                                                                                                    \
    "POST /v1/chat/completions?x=Cookie: HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer sk-client\r\nX-One: 1\r\n"              \
    "x-api-KEY: sk-client\r\nCookie: a=sk-client\r\nX-Cookie: mine\r\ncookie: b=sk-client\r\nX-Empty:\r\nContent-Length: "         \
    "0\r\n\r\n"

static void credentials_go_as_if_they_had_never_come(void **state) {
    (void)state;
    struct forward *never = made(REQUEST, true), *came = made(REQUEST, false);
    const char *wanted = kept(never), *before = kept(came);
    assert_non_null(strstr(before, "sk-client"));
    assert_null(strstr(wanted, "sk-client"));
    forward_drop_credentials(came);
    const char *after = kept(came);
    assert_string_equal(after, wanted);
    forward_drop_credentials(came); /* there are none any more */
    assert_string_equal(sent(came, NULL), wanted);
    assert_ptr_equal(strstr(wanted, "POST /base/v1/chat/completions?x=Cookie: HTTP/1.1\r\n"), wanted);
    assert_non_null(strstr(wanted, "X-Cookie: mine\r\n"));
    assert_non_null(strstr(wanted, "X-Empty:"));
    forward_free(never);
    forward_free(came);
    free((void *)(uintptr_t)wanted);
    free((void *)(uintptr_t)before);
    free((void *)(uintptr_t)after);
}

static void the_endpoints_key_stands_alone(void **state) {
    (void)state;
    struct forward *f = made(REQUEST, false);
    forward_drop_credentials(f);
    const char *out = sent(f, "sk-endpoint"), *first = strstr(out, "uthorization:");
    assert_non_null(first);
    assert_non_null(strstr(out, "Authorization: Bearer sk-endpoint\r\n"));
    assert_null(strstr(first + 1, "uthorization:"));
    assert_non_null(strstr(sent(f, NULL), "X-One: 1\r\n")); /* a further try, at one without a key */
    assert_null(strstr(sent(f, NULL), "uthorization:"));
    forward_free(f);
}

static void a_head_without_credentials_stays_as_it_is(void **state) {
    (void)state;
    struct forward *f = made("POST /x HTTP/1.1\r\nHost: router\r\nX-One: 1\r\nContent-Length: 0\r\n\r\n", false);
    const char *before = kept(f);
    forward_drop_credentials(f);
    assert_string_equal(sent(f, NULL), before);
    free((void *)(uintptr_t)before);
    forward_free(f);
}

static void the_body_and_the_alias_stay(void **state) {
    static const char body[] = "{\"model\":\"nick\"}";
    (void)state;
    struct forward *f = made(REQUEST, false);
    assert_true(body_append(&f->body, body, sizeof body - 1, 0));
    assert_true(forward_swap(f, 10, 4, STR("a \"longer\" name"), true));
    forward_drop_credentials(f);
    const char *out = sent(f, "k"), *end = strstr(out, "\r\n\r\n");
    assert_non_null(end);
    assert_string_equal(end + 4, "{\"model\":\"a \\\"longer\\\" name\"}");
    assert_non_null(strstr(out, "Content-Length: 29\r\n"));
    forward_no_swap(f);
    end = strstr(sent(f, "k"), "\r\n\r\n");
    assert_string_equal(end + 4, body);
    forward_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(credentials_go_as_if_they_had_never_come),
        cmocka_unit_test(the_endpoints_key_stands_alone),
        cmocka_unit_test(a_head_without_credentials_stays_as_it_is),
        cmocka_unit_test(the_body_and_the_alias_stay),
    };
    int r = cmocka_run_group_tests_name("forward", tests, NULL, NULL);
    block_trim(0);
    return r;
}
