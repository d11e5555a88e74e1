/* local: the router's own URLs, answered from memory. */
#ifndef LOCAL_H
#define LOCAL_H
#include "txn.h"

enum local_page {
    LOCAL_NONE,
    LOCAL_HEALTH,
    LOCAL_READY,
    LOCAL_MODELS,
    LOCAL_MODEL,
    LOCAL_TAGS,
    LOCAL_VERSION,
    LOCAL_METRICS,
    LOCAL_STATUS,
    LOCAL_UI,
    LOCAL_DRAIN,
    LOCAL_UNDRAIN,
};

/* Which page that path is. LOCAL_MODEL for /v1/models/{id}. */
enum local_page local_page(struct str path);
/* Answers it; the txn may be gone on return. A symbol of its own, for `make guard` counts from one call to the next. */
__attribute__((noinline)) void local_answer(struct txn *t, enum local_page page, const struct http_head *head);
void local_set_draining(void); /* /ready says 503 from now on */
#endif
