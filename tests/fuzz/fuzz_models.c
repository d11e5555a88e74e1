/* models: whatever an endpoint tells, what is kept is a list of sound entries, each id once, and everything is given back. */
#include <assert.h>
#include <cjson/cJSON.h>
#include <string.h>

#include "models.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const struct models_entry *e) {
    cJSON *root = NULL;
    assert(e->id[0]);
    if (!e->json) return;
    root = cJSON_ParseWithOpts(e->json, NULL, 1);
    if (!root) return; /* cJSON nests less deep than we do, and takes no lone surrogate */
    /* The first two members are ours: whoever takes the first or the last of a name reads the same. */
    assert(strcmp(root->child->string, "id") == 0 && strcmp(root->child->valuestring, e->id) == 0);
    assert(strcmp(root->child->next->string, "object") == 0 && cJSON_IsString(root->child->next));
    for (const cJSON *m = root->child->next->next; m; m = m->next)
        assert(strcmp(m->string, "id") != 0 && strcmp(m->string, "object") != 0);
    cJSON_Delete(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct models m;
    const char *wrong = models_parse((struct str){(const char *)data, size}, &m);
    assert(m.count <= MODELS_MAX && (!wrong || !m.count));
    for (size_t i = 0; i < m.count; i++) {
        check_entry(&m.entries[i]);
        for (size_t k = 0; k < i && i < 64; k++)
            assert(strcmp(m.entries[i].id, m.entries[k].id) != 0);
    }
    models_free(&m);
    assert(!m.entries && !m.count);
    return 0;
}
