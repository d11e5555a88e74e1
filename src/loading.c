/* loading: tells llama.cpp's "Loading model" from any other 503.
 * In: a head, then a small body. Out: yes or no. Owns nothing; cJSON reads the body, which is an endpoint's and bounded. */
#include "loading.h"

#include <cjson/cJSON.h>
#include <string.h>

bool loading_maybe(const struct http_head *head) {
    struct str type;
    if (head->status != 503 || !head->has_length || head->length > LOADING_BODY_MAX || head->bodyless) return false;
    str_cut(http_get(head, FIELD_CONTENT_TYPE), ';', &type);
    return str_ieq(str_trim(type), STR("application/json"));
}

static bool member_is(const cJSON *object, const char *name, const char *value) {
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(m) && strcmp(m->valuestring, value) == 0;
}

bool loading_is(struct str body) {
    cJSON *root = cJSON_ParseWithLength(body.ptr, body.len);
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(root, "error");
    bool is = member_is(error, "type", "unavailable_error") || member_is(error, "message", "Loading model");
    cJSON_Delete(root);
    return is;
}
