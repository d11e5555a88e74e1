/* field: the header fields we know by name. */
#ifndef FIELD_H
#define FIELD_H
#include "str.h"

/* The header fields anybody here asks about by name. */
/* clang-format off */
#define FIELD_TABLE(X) \
    X(OTHER, "") X(ACCEPT, "accept") X(AUTHORIZATION, "authorization") X(CONNECTION, "connection") \
    X(CONTENT_ENCODING, "content-encoding") X(CONTENT_LENGTH, "content-length") X(CONTENT_TYPE, "content-type") \
    X(COOKIE, "cookie") X(DATE, "date") X(EXPECT, "expect") X(FORWARDED, "forwarded") X(HOST, "host") \
    X(KEEP_ALIVE, "keep-alive") X(ORIGIN, "origin") X(PROXY_AUTHENTICATE, "proxy-authenticate") \
    X(PROXY_AUTHORIZATION, "proxy-authorization") X(PROXY_CONNECTION, "proxy-connection") X(RETRY_AFTER, "retry-after") \
    X(SERVER, "server") X(TE, "te") X(TRAILER, "trailer") X(TRANSFER_ENCODING, "transfer-encoding") X(UPGRADE, "upgrade") \
    X(HTTP2_SETTINGS, "http2-settings") X(VARY, "vary") X(X_ACCEL_BUFFERING, "x-accel-buffering") X(X_API_KEY, "x-api-key") \
    X(X_FORWARDED_FOR, "x-forwarded-for") X(X_FORWARDED_HOST, "x-forwarded-host") X(X_FORWARDED_PROTO, "x-forwarded-proto") \
    X(X_REQUEST_ID, "x-request-id") X(X_ROUTER_POOL, "x-router-pool") X(X_ROUTER_ENDPOINT, "x-router-endpoint") \
    X(X_ROUTER_AFFINITY, "x-router-affinity") X(AC_ALLOW_ORIGIN, "access-control-allow-origin") \
    X(AC_ALLOW_HEADERS, "access-control-allow-headers") X(AC_ALLOW_METHODS, "access-control-allow-methods") \
    X(AC_ALLOW_CREDENTIALS, "access-control-allow-credentials") X(AC_EXPOSE_HEADERS, "access-control-expose-headers") \
    X(AC_MAX_AGE, "access-control-max-age") X(AC_REQUEST_METHOD, "access-control-request-method") \
    X(AC_REQUEST_HEADERS, "access-control-request-headers")
/* clang-format on */
#define X(id, name) FIELD_##id,
enum http_id { FIELD_TABLE(X) FIELD_COUNT };
#undef X

/* Which one that name is, case ignored (RFC 9110 5.1); FIELD_OTHER if it is none of ours. */
enum http_id field_id(struct str name);
#endif
