/* intake: from a request's head and passing body bytes to a model and an affinity key.
 * In: a head, body bytes in order, then the stored body. Out: the model, where it lies, and for a pool the 64-bit key.
 * Owns the checker's state, only while a request arrives and is routed first. Copies and decodes only the values it uses;
 * what a person wrote is hashed where it lies and never kept. */
#include "intake.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "slab.h"

#define VALUE_MAX 4096               /* a decoded identity value: longer ones are hashed as they lie */
#define TEXT_MAX  ((size_t)16 << 10) /* of each first text, as it lies */

static struct slab slab = {.size = sizeof(struct intake)};
static struct slab forms = {.size = sizeof(struct multipart)};

/* One hasher for all: a hash is begun and ended within one call. */
static XXH3_state_t *hasher(void) {
    static XXH3_state_t *state;
    if (!state && !(state = XXH3_createState())) abort();
    XXH3_64bits_reset(state);
    return state;
}

struct intake *intake_new(struct world *w, enum intake_kind kind, const char *boundary) {
    struct intake *in = slab_get(&slab);
    in->world = w;
    in->kind = (uint8_t)kind;
    in->headers_seen = 0;
    in->error = NULL;
    in->has_model = false;
    in->model_len = 0;
    in->model[0] = 0;
    in->model_off = in->model_raw = 0;
    in->form = NULL;
    if (kind == INTAKE_JSON) {
        json_begin(&in->json, w->wants, w->nwants);
    } else {
        in->form = slab_get(&forms);
        multipart_begin(in->form, boundary);
    }
    return in;
}

void intake_free(struct intake *in) {
    if (in->form) slab_put(&forms, in->form);
    slab_put(&slab, in);
}

void intake_headers(struct intake *in, const struct http_head *head) {
    for (size_t i = 0; i < in->world->nheaders; i++) {
        struct str value = http_get_name(head, in->world->headers[i]);
        if (!value.len) continue;
        in->headers[i] = route_hash(value);
        in->headers_seen |= 1u << i;
    }
}

enum why intake_feed(struct intake *in, const char *data, size_t len) {
    if (in->kind == INTAKE_FORM) {
        if (multipart_feed(in->form, data, len) != MULTIPART_BAD) return WHY_NONE;
        in->error = in->form->error;
        return WHY_BAD_FORM;
    }
    while (len) {
        size_t used = 0;
        if (json_feed(&in->json, data, len, &used) == JSON_BAD) {
            in->error = in->json.error;
            return WHY_BAD_JSON;
        }
        data += used;
        len -= used;
    }
    return WHY_NONE;
}

static enum why bad_model(struct intake *in, const char *error) {
    in->error = error;
    return WHY_BAD_MODEL;
}

static enum why json_model(struct intake *in, const struct body *body) {
    const struct json *j = &in->json;
    char raw[6 * INTAKE_MODEL_MAX]; /* each byte of it may be written as \u00XX */
    if (j->models > 1)
        return bad_model(in, "'model' is given more than once (also in other letter case), or a name like it is broken.");
    if (j->model.type == JSON_ABSENT) return j->models ? bad_model(in, "'model' must be written in lower case.") : WHY_NONE;
    if (j->model.type != JSON_STRING) return bad_model(in, "'model' must be a string.");
    if (!j->model.len) return bad_model(in, "'model' must not be empty.");
    if (j->model.len > sizeof raw) return bad_model(in, "'model' is longer than any model's name.");
    in->model_off = j->model.off;
    in->model_raw = j->model.len;
    body_copy(body, j->model.off, j->model.len, raw);
    const char *wrong = NULL;
    if (j->model.escaped) {
        wrong = json_decode((struct str){raw, j->model.len}, in->model, sizeof in->model, &in->model_len);
    } else if (j->model.len > INTAKE_MODEL_MAX) {
        wrong = "too long";
    } else {
        in->model_len = str_copy(in->model, sizeof in->model, (struct str){raw, j->model.len});
    }
    if (wrong) return bad_model(in, "'model' is not a name: it is too long, or its text is no valid JSON string.");
    in->has_model = true;
    return WHY_NONE;
}

static enum why form_model(struct intake *in) {
    const struct multipart *m = in->form;
    if (m->models > 1) return bad_model(in, "The form has more than one field 'model'.");
    if (m->model_is_file) return bad_model(in, "The form's field 'model' must be text, not a file.");
    if (!m->models) return WHY_NONE;
    if (m->model_too_long) return bad_model(in, "'model' is longer than any model's name.");
    if (!m->model_len) return bad_model(in, "'model' must not be empty.");
    if (memchr(m->model, 0, m->model_len)) return bad_model(in, "'model' must not hold a NUL.");
    in->model_len = str_copy(in->model, sizeof in->model, (struct str){m->model, m->model_len});
    in->model_off = m->model_off;
    in->model_raw = m->model_len;
    in->has_model = true;
    return WHY_NONE;
}

enum why intake_end(struct intake *in, const struct body *body) {
    if (in->kind == INTAKE_FORM) {
        if (multipart_end(in->form) == MULTIPART_BAD) return in->error = in->form->error, WHY_BAD_FORM;
        return form_model(in);
    }
    if (json_end(&in->json) == JSON_BAD) return in->error = in->json.error, WHY_BAD_JSON;
    return json_model(in, body);
}

/* ---- keys ---- */

static void hash_extent(XXH3_state_t *h, const struct body *body, const struct json_value *v) {
    struct iovec iov[8];
    uint64_t from = v->off, to = v->off + (v->len < TEXT_MAX ? v->len : TEXT_MAX);
    while (from < to) {
        int n = body_pieces(body, from, to, iov, 8);
        for (int i = 0; i < n; i++) {
            XXH3_64bits_update(h, iov[i].iov_base, iov[i].iov_len);
            from += iov[i].iov_len;
        }
    }
}

static uint64_t hash_value(const struct body *body, const struct json_value *v) {
    char raw[VALUE_MAX], text[VALUE_MAX];
    size_t len;
    if (v->len <= sizeof raw) {
        struct str s = {raw, v->len};
        body_copy(body, v->off, v->len, raw);
        if (!v->escaped) return route_hash(s);
        if (!json_decode(s, text, sizeof text, &len)) return route_hash((struct str){text, len});
        return route_hash(s);
    }
    XXH3_state_t *h = hasher();
    hash_extent(h, body, v);
    return XXH3_64bits_digest(h);
}

/* The first source of the list that is there. */
static bool first_of(const struct intake *in, const struct body *body, const struct source_list *list, uint64_t *hash) {
    for (size_t i = 0; i < list->count; i++) {
        const struct source_ref *s = &list->items[i];
        if (s->header) {
            if (!(in->headers_seen >> s->index & 1)) continue;
            *hash = in->headers[s->index];
            return true;
        }
        if (in->kind != INTAKE_JSON) continue;
        const struct json_value *v = &in->json.found[s->index];
        if (v->type != JSON_STRING || !v->len) continue;
        *hash = hash_value(body, v);
        return true;
    }
    return false;
}

/* How the conversation began: the first system and the first user text, of whichever API. */
static bool first_texts(const struct intake *in, const struct body *body, uint64_t *hash) {
    const struct json *j = &in->json;
    if (in->kind != INTAKE_JSON) return false;
    const struct json_value *system = &j->first_system, *user = &j->first_user;
    if (system->type == JSON_ABSENT) system = j->system.type != JSON_ABSENT ? &j->system : &j->instructions;
    if (user->type == JSON_ABSENT && j->input.type == JSON_STRING) user = &j->input;
    if (system->type == JSON_ABSENT && user->type == JSON_ABSENT) return false;
    XXH3_state_t *h = hasher();
    if (system->type != JSON_ABSENT) hash_extent(h, body, system);
    XXH3_64bits_update(h, "", 1); /* where one text ends and the other begins */
    if (user->type != JSON_ABSENT) hash_extent(h, body, user);
    *hash = XXH3_64bits_digest(h);
    return true;
}

uint64_t intake_key(const struct intake *in, const struct body *body, const struct pool *p, struct str sent_model) {
    uint64_t hash = 0;
    bool found = false;
    enum conf_affinity affinity = p->conf->policy.affinity;
    if (affinity == AFFINITY_CONVERSATION) found = first_of(in, body, &p->conversation, &hash) || first_texts(in, body, &hash);
    if (!found && affinity != AFFINITY_MODEL) found = first_of(in, body, &p->identity, &hash);
    return route_key_hashed(hash, found, sent_model);
}
