/* loading: a 503 that may only mean "the model is still loading" (llama.cpp), held until its body tells. */
#ifndef LOADING_H
#define LOADING_H
#include "buf.h"
#include "head.h"

#define LOADING_BODY_MAX 4096 /* such an answer is small; a larger 503 is passed on at once */

/* May this head be one? A 503 with JSON of a known, small length. */
bool loading_maybe(const struct http_head *head);
/* Is this body one? A JSON error whose type is "unavailable_error" or whose message is "Loading model". */
bool loading_is(struct str body);
#endif
