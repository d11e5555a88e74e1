/* catalog: the models that are served, merged from the configuration and what endpoints told, rendered when something changed. */
#ifndef CATALOG_H
#define CATALOG_H
#include "buf.h"
#include "world.h"

void catalog_touch(void); /* something changed: the next question renders anew */
/* {"object":"list","data":[…]}; good until the next catalog_touch. Of all three: STR_NONE where there is no memory to render it. */
struct str catalog_list(void);
/* The entry of that id, as JSON; false if there is none. */
bool catalog_find(struct str id, struct str *json);
struct str catalog_tags(void); /* the same list in Ollama's shape */
void catalog_close(void);
#endif
