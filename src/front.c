/* front: what a request is about, before its body is read.
 * In: a head. Out: a refusal, a page of our own, or a txn on its way to an endpoint. Owns one mark; the txn owns the rest.
 * Paths are compared byte for byte, as they stood: nothing is decoded or tidied into an allowed one. */
#include "front.h"

#include "keys.h"
#include "local.h"
#include "multipart.h"
#include "txn.h"
#include "world.h"

enum route_kind { ROUTE_NOT, ROUTE_JSON, ROUTE_FORM };

#define R(path, kind)                                                                                                              \
    { {path, sizeof(path) - 1}, kind }
static const struct {
    struct str path;
    enum route_kind kind;
} routes[] = {
    R("/v1/chat/completions", ROUTE_JSON),
    R("/v1/completions", ROUTE_JSON),
    R("/v1/embeddings", ROUTE_JSON),
    R("/v1/responses", ROUTE_JSON),
    R("/v1/messages", ROUTE_JSON),
    R("/v1/messages/count_tokens", ROUTE_JSON),
    R("/v1/rerank", ROUTE_JSON),
    R("/v1/moderations", ROUTE_JSON),
    R("/v1/images/generations", ROUTE_JSON),
    R("/v1/audio/speech", ROUTE_JSON),
    R("/v1/audio/transcriptions", ROUTE_FORM),
    R("/v1/audio/translations", ROUTE_FORM),
    /* llama.cpp */
    R("/completion", ROUTE_JSON),
    R("/completions", ROUTE_JSON),
    R("/infill", ROUTE_JSON),
    R("/tokenize", ROUTE_JSON),
    R("/detokenize", ROUTE_JSON),
    R("/apply-template", ROUTE_JSON),
    R("/embedding", ROUTE_JSON),
    R("/embeddings", ROUTE_JSON),
    R("/rerank", ROUTE_JSON),
    R("/reranking", ROUTE_JSON),
    /* Ollama */
    R("/api/chat", ROUTE_JSON),
    R("/api/generate", ROUTE_JSON),
    R("/api/embed", ROUTE_JSON),
    R("/api/embeddings", ROUTE_JSON),
    R("/api/show", ROUTE_JSON),
};
#undef R

static enum route_kind route_kind(struct str path) {
    const struct conf *c = world_current()->conf;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (str_eq(path, routes[i].path)) return routes[i].kind;
    for (size_t i = 0; i < c->npaths; i++)
        if (str_eq(path, str_of(c->paths[i]))) return ROUTE_JSON;
    return ROUTE_NOT;
}

static void error(struct txn *t, enum why why) {
    txn_error(t, why, STR_NONE, STR_NONE);
}

static bool has_admin;

void front_set_admin(bool there) {
    has_admin = there;
}

/* The 204 that tells a browser which headers it may send; only where its origin is allowed (Fetch standard, CORS protocol). */
static void preflight(struct txn *t, const struct http_head *h) {
    struct buf extra = {0};
    struct str asked = http_get(h, FIELD_AC_REQUEST_HEADERS);
    BUF_LIT(&extra, "Access-Control-Allow-Methods: GET, HEAD, POST\r\nAccess-Control-Max-Age: 600\r\n");
    if (asked.len) {
        BUF_LIT(&extra, "Access-Control-Allow-Headers: ");
        buf_puts(&extra, asked); /* a field's value, which http found free of control bytes */
        BUF_LIT(&extra, "\r\n");
    }
    if (extra.failed)
        error(t, WHY_NO_MEMORY);
    else
        txn_reply(t, 204, STR_NONE, buf_str(&extra), STR_NONE);
    buf_free(&extra);
}

/* Pages that a person looks at with a browser: their key may come as the password of Basic, and the browser asks for it. */
static bool is_page(enum local_page page) {
    return page == LOCAL_METRICS || page == LOCAL_STATUS || page == LOCAL_UI;
}

/* True: allowed in. */
static bool admitted(struct client *c, struct txn *t, const struct http_head *h, enum local_page page) {
    const struct conf *conf = world_current()->conf;
    if (c->admin && !has_admin) { /* a connection that outlived its listener */
        error(t, WHY_NO_URL);
        return false;
    }
    if (c->admin && !conf->nadmin_keys && !keys_host_is_local(http_get(h, FIELD_HOST))) {
        error(t, WHY_BAD_HOST);
        return false;
    }
    if (page == LOCAL_HEALTH || page == LOCAL_READY) return true;
    /* The buttons of /ui send what the browser was told for /ui. */
    enum why why = c->admin ? keys_check(conf->admin_keys, conf->nadmin_keys, h, true)
                            : keys_check(conf->api_keys, conf->napi_keys, h, is_page(page));
    if (why == WHY_NONE) return true;
    txn_error(t, why, STR_NONE,
              is_page(page) ? STR("WWW-Authenticate: Basic realm=\"router\"\r\n") : STR("WWW-Authenticate: Bearer\r\n"));
    return false;
}

/* Which of our own pages this listener has. */
static enum local_page page_for(const struct client *c, struct str path) {
    enum local_page page = local_page(path);
    if (page == LOCAL_HEALTH || page == LOCAL_READY) return page;
    if (is_page(page)) return c->admin || !has_admin ? page : LOCAL_NONE;
    if (page == LOCAL_DRAIN || page == LOCAL_UNDRAIN) return c->admin ? page : LOCAL_NONE;
    return c->admin ? LOCAL_NONE : page;
}

/* A body that we would not read, known from the head alone. True: it is acceptable so far. */
static bool body_acceptable(struct txn *t, const struct http_head *h) {
    if (h->expect_other)
        error(t, WHY_EXPECT);
    else if (head_encoded(h))
        error(t, WHY_ENCODED);
    else if (h->has_length && h->length > world_current()->conf->max_body)
        error(t, WHY_BIG_BODY);
    else
        return true;
    return false;
}

static void routed(struct txn *t, const struct http_head *h, enum route_kind kind) {
    char boundary[MULTIPART_BOUNDARY_MAX + 1];
    if (h->method != METHOD_POST) {
        txn_error(t, WHY_BAD_METHOD, STR("This path takes POST."), STR("Allow: POST\r\n"));
        return;
    }
    if (!body_acceptable(t, h)) return;
    if (kind == ROUTE_FORM && !multipart_boundary(http_get(h, FIELD_CONTENT_TYPE), boundary)) {
        txn_error(t, WHY_BAD_FORM, STR("This path takes a form: Content-Type: multipart/form-data with a boundary."), STR_NONE);
        return;
    }
    txn_route(t, h, kind == ROUTE_FORM ? boundary : NULL);
}

static void unknown(struct txn *t) {
    txn_error(
        t, WHY_NO_URL,
        STR("That path is not served here. An OpenAI client's base URL is http://HOST:PORT/v1, any other's http://HOST:PORT."),
        STR_NONE);
}

static void own_page(struct txn *t, const struct http_head *h, enum local_page page) {
    bool verb = page == LOCAL_DRAIN || page == LOCAL_UNDRAIN;
    if (verb && h->method != METHOD_POST)
        txn_error(t, WHY_BAD_METHOD, STR("This path takes POST."), STR("Allow: POST\r\n"));
    else if (!verb && h->method != METHOD_GET && h->method != METHOD_HEAD)
        txn_error(t, WHY_BAD_METHOD, STR("This path takes GET."), STR("Allow: GET, HEAD\r\n"));
    else if (h->expect_other)
        error(t, WHY_EXPECT);
    else
        local_answer(t, page, h);
}

static void on_head(struct client *c, const struct http_head *h) {
    struct txn *t = c->user;
    struct str path = str_at(h->base, h->path);
    enum local_page page = page_for(c, path);
    enum route_kind kind = page == LOCAL_NONE && !c->admin ? route_kind(path) : ROUTE_NOT;
    txn_head(t, h);
    if (t->cors && h->method == METHOD_OPTIONS && http_find(h, FIELD_AC_REQUEST_METHOD)) {
        preflight(t, h);
        return;
    }
    if (!admitted(c, t, h, page)) return;
    if (h->method == METHOD_CONNECT || h->method == METHOD_TRACE)
        txn_error(t, WHY_BAD_METHOD, STR_NONE, STR("Allow: GET, HEAD, POST\r\n"));
    else if (kind != ROUTE_NOT)
        routed(t, h, kind);
    else if (page != LOCAL_NONE)
        own_page(t, h, page);
    else
        unknown(t);
}

static void *on_begin(struct client *c) {
    return txn_new(c);
}

static enum why on_body(struct client *c, const char *data, size_t len) {
    return txn_body(c->user, data, len);
}

static void on_request(struct client *c) {
    txn_request(c->user);
}

static void on_refused(struct client *c, enum why why, const char *text) {
    txn_refused(c->user, why, text);
}

static void on_drained(struct client *c) {
    txn_drained(c->user);
}

static void on_gone(struct client *c, enum why why) {
    txn_gone(c->user, why);
}

const struct client_user front_api = {on_begin, on_head, on_body, on_request, on_refused, on_drained, on_gone};

void front_no_room(struct client *c) {
    client_refuse(c, WHY_NO_ROOM);
}
