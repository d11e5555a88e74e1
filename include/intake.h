/* intake: what routing needs from a request, found while it arrives: the model, and the values the affinity key is made of. */
#ifndef INTAKE_H
#define INTAKE_H
#include "body.h"
#include "http.h"
#include "json.h"
#include "multipart.h"
#include "route.h"
#include "world.h"

#define INTAKE_MODEL_MAX 512

enum intake_kind { INTAKE_JSON, INTAKE_FORM };

struct intake {
    struct world *world; /* borrowed from the txn; NULL once that goes on in another one */
    uint8_t kind;
    uint32_t headers_seen;               /* bit i: world.headers[i] was there and not empty */
    uint64_t headers[WORLD_HEADERS_MAX]; /* their values' hashes */
    const char *error;                   /* what was wrong, for a person; NULL = the why row's own text */
    /* After intake_end: */
    bool has_model;
    char model[INTAKE_MODEL_MAX + 1]; /* decoded, NUL-terminated */
    size_t model_len;
    uint64_t model_off, model_raw; /* where its value lies in the body, without quotes, and its length there */
    struct multipart *form;        /* of a form; else NULL, and what follows is in use */
    struct json json;
};

struct intake *intake_new(struct world *w, enum intake_kind kind, const char *boundary); /* boundary: of a form */
void intake_headers(struct intake *in, const struct http_head *head);                    /* notes what the pools' lists ask for */
enum why intake_feed(struct intake *in, const char *data, size_t len);
enum why intake_end(struct intake *in, const struct body *body);
/* The affinity key for that pool, of that name sent to the endpoint. */
uint64_t intake_key(const struct intake *in, const struct body *body, const struct pool *p, struct str sent_model);
void intake_free(struct intake *in);
#endif
