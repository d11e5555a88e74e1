/* why: one table of endings. Every refusal and every end of a request is a row: what the client gets, what the log says. */
#ifndef WHY_H
#define WHY_H
#include "str.h"

/* How a request ended, as the access line says it. */
enum why_end { END_DONE, END_REFUSED, END_CLIENT_GONE, END_UPSTREAM_ERROR, END_UPSTREAM_TIMEOUT, END_SHUTDOWN };

enum why_flag {
    WHY_CLOSE = 1,       /* the client connection is closed (lingering) after the reply */
    WHY_RETRY_AFTER = 2, /* a retry can help: Retry-After is set */
    WHY_NO_RETRY = 4,    /* a retry would double work: x-should-retry: false */
    WHY_PARAM_MODEL = 8, /* error.param is "model", else null */
};

#define T_REQ  "invalid_request_error"
#define T_RATE "rate_limit_error"
#define T_SRV  "server_error"
/* clang-format off */
/* id, status, end, type, code ("" = null), label (refused_total's reason; "" = not a refusal), flags, default message */
#define WHY_TABLE(X) \
    X(WHY_NONE,             0,   END_DONE,             "",     "",                     "", 0, "") \
    X(WHY_DONE,             0,   END_DONE,             "",     "",                     "", 0, "") \
    X(WHY_BAD_HTTP,         400, END_REFUSED, T_REQ, "", "bad_http", WHY_CLOSE, "The request is not valid HTTP/1.1.") \
    X(WHY_BAD_JSON,         400, END_REFUSED, T_REQ, "invalid_json", "invalid_json", 0, "The request body must be one JSON object.") \
    X(WHY_BAD_MODEL,        400, END_REFUSED, T_REQ, "invalid_model", "invalid_model", WHY_PARAM_MODEL, "The request must name a model, once, as a non-empty string.") \
    X(WHY_BAD_FORM,         400, END_REFUSED, T_REQ, "invalid_form", "invalid_form", 0, "The request body must be a whole multipart/form-data form.") \
    X(WHY_BAD_KEY,          401, END_REFUSED, T_REQ, "invalid_api_key", "invalid_api_key", 0, "The API key is not one this router accepts.") \
    X(WHY_NO_KEY,           401, END_REFUSED, T_REQ, "invalid_api_key", "invalid_api_key", 0, "No API key was given: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.") \
    X(WHY_FORBIDDEN,        403, END_REFUSED, T_REQ, "forbidden", "forbidden", 0, "That is not allowed here.") \
    X(WHY_NO_MODEL,         404, END_REFUSED, T_REQ, "model_not_found", "model_not_found", WHY_PARAM_MODEL, "No pool serves that model.") \
    X(WHY_NO_URL,           404, END_REFUSED, T_REQ, "unknown_url", "unknown_url", 0, "That path is not one this router serves.") \
    X(WHY_BAD_METHOD,       405, END_REFUSED, T_REQ, "method_not_allowed", "method_not_allowed", 0, "That method is not allowed on this path.") \
    X(WHY_SLOW_HEAD,        408, END_REFUSED, T_REQ, "request_timeout", "request_timeout", WHY_CLOSE, "The request's headers did not arrive in time.") \
    X(WHY_SLOW_BODY,        408, END_REFUSED, T_REQ, "request_timeout", "request_timeout", WHY_CLOSE, "The request's body did not arrive in time.") \
    X(WHY_BIG_BODY,         413, END_REFUSED, T_REQ, "request_too_large", "request_too_large", WHY_CLOSE, "The request body is larger than this router accepts (max_body).") \
    X(WHY_ENCODED,          415, END_REFUSED, T_REQ, "unsupported_encoding", "unsupported_encoding", 0, "The request body is encoded (Content-Encoding): send it plain.") \
    X(WHY_EXPECT,           417, END_REFUSED, T_REQ, "", "expectation_failed", 0, "Only 'Expect: 100-continue' is understood.") \
    X(WHY_BAD_HOST,         421, END_REFUSED, T_REQ, "misdirected_request", "misdirected_request", 0, "This address answers only to an IP address or 'localhost' as Host.") \
    X(WHY_BIG_HEAD,         431, END_REFUSED, T_REQ, "headers_too_large", "headers_too_large", WHY_CLOSE, "The request's headers are larger than this router accepts (max_header).") \
    X(WHY_FULL,             429, END_REFUSED, T_RATE, "overloaded", "overloaded", WHY_RETRY_AFTER, "Every endpoint for this model is busy and the queue is over: try again shortly.") \
    X(WHY_NO_MEMORY,        503, END_REFUSED, T_SRV, "overloaded", "overloaded", WHY_RETRY_AFTER, "The router holds too many request bodies at the moment: try again shortly.") \
    X(WHY_NO_ROOM,          503, END_REFUSED, T_SRV, "overloaded", "overloaded", WHY_RETRY_AFTER | WHY_CLOSE, "The router has too many connections at the moment: try again shortly.") \
    X(WHY_NO_ENDPOINT,      503, END_REFUSED, T_SRV, "upstream_unavailable", "upstream_unavailable", WHY_RETRY_AFTER, "No endpoint for this model is available at the moment: /status and the router's log say why.") \
    X(WHY_UPSTREAM,         502, END_UPSTREAM_ERROR, T_SRV, "upstream_error", "", 0, "The endpoint failed before it answered.") \
    X(WHY_UPSTREAM_SLOW,    504, END_UPSTREAM_TIMEOUT, T_SRV, "upstream_timeout", "", WHY_NO_RETRY, "The endpoint did not begin to answer in time.") \
    X(WHY_UPSTREAM_CUT,     502, END_UPSTREAM_ERROR, T_SRV, "upstream_error", "", 0, "The endpoint broke off in the middle of its answer.") \
    X(WHY_UPSTREAM_STALL,   504, END_UPSTREAM_TIMEOUT, T_SRV, "upstream_timeout", "", 0, "The endpoint stopped in the middle of its answer.") \
    X(WHY_CLIENT_GONE,      499, END_CLIENT_GONE,      "",     "",                     "", WHY_CLOSE, "") \
    X(WHY_CLIENT_SLOW,      499, END_CLIENT_GONE,      "",     "",                     "", WHY_CLOSE, "") \
    X(WHY_IDLE,             0,   END_DONE,             "",     "",                     "", WHY_CLOSE, "") \
    X(WHY_SHUTDOWN,         503, END_SHUTDOWN, T_SRV, "overloaded", "", WHY_CLOSE | WHY_RETRY_AFTER, "The router is shutting down.")
/* clang-format on */

#define X(id, ...) id,
enum why { WHY_TABLE(X) WHY_COUNT };
#undef X

struct why_row {
    const char *name; /* "WHY_DONE" */
    int status;       /* HTTP status; 0 where nothing is said */
    enum why_end end;
    const char *type, *code; /* of the error object; code "" is null */
    const char *label;       /* the reason label of router_refused_total; "" = not counted there */
    unsigned flags;
    const char *text;
};
const struct why_row *why_row(enum why why);
const char *why_end_name(enum why_end end); /* "done", "refused", "client_gone", … */
#endif
