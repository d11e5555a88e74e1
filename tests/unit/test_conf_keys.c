#include "unit.h"

#include "conf_keys.h"

/* What a key can go into; all of it preset. */
struct any {
    struct conf top;
    struct conf_policy policy;
    struct conf_endpoint endpoint;
};

static struct any *any_new(void) {
    struct any *a = calloc(1, sizeof *a);
    conf_keys_preset(CONF_TOP, &a->top);
    conf_keys_preset(CONF_POOL, &a->policy);
    conf_keys_preset(CONF_ENDPOINT, &a->endpoint);
    return a;
}

static void any_free(struct any *a) {
    conf_keys_free_texts(a->top.admin_keys, a->top.nadmin_keys);
    conf_keys_free_texts(a->top.api_keys, a->top.napi_keys);
    conf_keys_free_texts(a->top.cors_origins, a->top.ncors_origins);
    conf_keys_free_texts(a->top.paths, a->top.npaths);
    free(a->top.listen);
    free(a->top.admin);
    free(a->top.trusted_proxies);
    free(a->top.log_file);
    conf_keys_free_policy(&a->policy);
    free(a->endpoint.api_key);
    free(a);
}

static void fill(struct any *a, enum conf_scope scope, bool defaults, const char *text, struct conf_findings *f) {
    struct node_error err;
    void *base = scope == CONF_TOP ? (void *)&a->top : scope == CONF_ENDPOINT ? (void *)&a->endpoint : (void *)&a->policy;
    struct node *n = node_parse(text, strlen(text), &err);
    if (!n) fail_msg("%s: %s", text, err.text);
    conf_keys_fill(f, scope, defaults, n, base);
    findings_sort(f);
    node_free(n);
}

/* All findings, word for word: "column text", one a line. The text is one line of YAML. */
static void finds(enum conf_scope scope, const char *text, const char *wanted) {
    struct conf_findings f = {0};
    struct any *a = any_new();
    char got[4096] = "";
    size_t len = 0;
    fill(a, scope, false, text, &f);
    for (size_t i = 0; i < f.count; i++)
        len += (size_t)snprintf(got + len, sizeof got - len, "%d %s%s\n", f.items[i].column, f.items[i].warning ? "warning: " : "",
                                f.items[i].text);
    if (strcmp(got, wanted) != 0) fail_msg("of\n%s\nfound\n%s\ninstead of\n%s", text, got, wanted);
    findings_free(&f);
    any_free(a);
}

static struct any *sound(enum conf_scope scope, const char *text) {
    struct conf_findings f = {0};
    struct any *a = any_new();
    fill(a, scope, false, text, &f);
    if (f.count) fail_msg("%s: %s", text, f.items[0].text);
    return a;
}

/* ---- values ---- */

static void presets_of_the_top_level(void **state) {
    (void)state;
    struct any *a = any_new();
    const struct conf *c = &a->top;
    assert_int_equal(c->nlisten, 1);
    assert_string_equal(c->listen[0].text, "0.0.0.0:9090");
    assert_null(c->admin);
    assert_int_equal(c->nadmin_keys + c->napi_keys + c->ntrusted_proxies + c->ncors_origins + c->npaths, 0);
    assert_int_equal(c->max_connections, 10000);
    assert_int_equal(c->max_header, 32 << 10);
    assert_int_equal(c->max_body, 100 << 20);
    assert_int_equal(c->body_memory, 1 << 30);
    assert_int_equal(c->body_min_rate, 1024);
    assert_int_equal(c->header_timeout, 10000);
    assert_int_equal(c->body_timeout, 30000);
    assert_int_equal(c->send_timeout, 60000);
    assert_int_equal(c->idle_timeout, 75000);
    assert_int_equal(c->drain_delay, 0);
    assert_int_equal(c->drain_timeout, 30000);
    assert_false(c->route_headers || c->reuse_port);
    assert_true(c->read_usage);
    assert_int_equal(c->access, ACCESS_JSON);
    assert_int_equal(c->log_level, LOG_INFO);
    assert_string_equal(c->log_file, "-");
    any_free(a);
}

static void preset_policy_is(const struct conf_policy *p) {
    static const char *const conversation[] = {"x-openwebui-chat-id", "x-session-id",     "x-claude-code-session-id",
                                               "session_id",          "prompt_cache_key", "conversation"};
    assert_int_equal(p->affinity, AFFINITY_USER);
    assert_int_equal(p->identity.count, 4);
    assert_string_equal(p->identity.items[0].name, "user");
    assert_false(p->identity.items[0].header);
    assert_null(p->identity.items[0].sub);
    assert_string_equal(p->identity.items[1].name, "safety_identifier");
    assert_true(p->identity.items[2].header);
    assert_string_equal(p->identity.items[2].name, "x-openwebui-user-id");
    assert_string_equal(p->identity.items[3].name, "metadata");
    assert_string_equal(p->identity.items[3].sub, "user_id");
    assert_int_equal(p->conversation.count, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(p->conversation.items[i].name, conversation[i]);
        assert_int_equal(p->conversation.items[i].header, i < 4);
    }
    assert_int_equal(p->max_inflight + p->max_imbalance + p->queue_size, 0);
    assert_int_equal(p->queue_timeout, 30000);
    assert_string_equal(p->health.path, "/health");
    assert_int_equal(p->health.interval, 5000);
    assert_int_equal(p->health.timeout, 2000);
    assert_int_equal(p->health.rise, 1);
    assert_int_equal(p->health.fall, 3);
    assert_int_equal(p->connect_timeout, 2000);
    assert_int_equal(p->first_byte_timeout, 0);
    assert_int_equal(p->stream_idle_timeout, 600000);
    assert_string_equal(p->model_list.path, "/v1/models");
    assert_int_equal(p->model_list.interval, 30000);
    assert_int_equal(p->keepalive_max_idle, 64);
    assert_int_equal(p->keepalive_timeout, 4000);
    assert_int_equal(p->retries, 2);
    assert_false(p->finish_on_disconnect);
    assert_int_equal(p->slow_start, 0);
}

static void presets_of_a_pool(void **state) {
    struct conf_policy copy;
    (void)state;
    struct any *a = any_new();
    preset_policy_is(&a->policy);
    conf_keys_copy_policy(&copy, &a->policy);
    assert_int_equal(a->endpoint.weight, 1);
    assert_null(a->endpoint.api_key);
    any_free(a);
    preset_policy_is(&copy); /* shares nothing with what is gone */
    conf_keys_free_policy(&copy);
}

static void every_key_goes_to_its_field(void **state) {
    (void)state;
    struct any *a = sound(
        CONF_TOP,
        "{listen: ['127.0.0.1:1', '[::1]:2'], admin_listen: unix:/a, admin_keys: [x, y], api_keys: [z], max_connections: 5,\n"
        "max_header: 2k, max_body: 3m, body_memory: 4m, header_timeout: 6s, body_timeout: 7s, body_min_rate: 8, send_timeout: 9s,\n"
        "idle_timeout: 10s, drain_delay: 11s, drain_timeout: 12s, trusted_proxies: [10.0.0.0/8, '::1'], route_headers: true,\n"
        "read_usage: false, reuse_port: yes, paths: [/a, /b/c], log: {access: text, level: debug, file: /x}}");
    const struct conf *c = &a->top;
    assert_int_equal(c->nlisten, 2);
    assert_string_equal(c->listen[1].text, "[::1]:2");
    assert_string_equal(c->admin->text, "unix:/a");
    assert_int_equal(c->nadmin_keys, 2);
    assert_string_equal(c->admin_keys[1], "y");
    assert_int_equal(c->napi_keys, 1);
    assert_string_equal(c->api_keys[0], "z");
    assert_int_equal(c->max_connections, 5);
    assert_int_equal(c->max_header, 2048);
    assert_int_equal(c->max_body, 3 << 20);
    assert_int_equal(c->body_memory, 4 << 20);
    assert_int_equal(c->header_timeout, 6000);
    assert_int_equal(c->body_timeout, 7000);
    assert_int_equal(c->body_min_rate, 8);
    assert_int_equal(c->send_timeout, 9000);
    assert_int_equal(c->idle_timeout, 10000);
    assert_int_equal(c->drain_delay, 11000);
    assert_int_equal(c->drain_timeout, 12000);
    assert_int_equal(c->ntrusted_proxies, 2);
    assert_int_equal(c->trusted_proxies[0].bits, 104);
    assert_true(c->route_headers && c->reuse_port && !c->read_usage);
    assert_int_equal(c->npaths, 2);
    assert_string_equal(c->paths[1], "/b/c");
    assert_int_equal(c->access, ACCESS_TEXT);
    assert_int_equal(c->log_level, LOG_DEBUG);
    assert_string_equal(c->log_file, "/x");
    any_free(a);
}

static void every_pool_key_goes_to_its_field(void **state) {
    (void)state;
    struct any *a =
        sound(CONF_POOL,
              "{affinity: conversation, identity: [header.X-A], conversation: [body.c], max_inflight: 1, max_imbalance: 2,\n"
              "queue: {size: 3, timeout: 4s}, health: {path: '/h?x=1', interval: 5s, timeout: 6s, rise: 7, fall: 8},\n"
              "connect_timeout: 9s, first_byte_timeout: 10s, stream_idle_timeout: 11s, model_list: {path: /m, interval: 12s},\n"
              "keepalive: {max_idle: 13, timeout: 14s}, retries: 15, on_disconnect: finish, slow_start: 16s}");
    const struct conf_policy *p = &a->policy;
    assert_int_equal(p->affinity, AFFINITY_CONVERSATION);
    assert_int_equal(p->identity.count, 1);
    assert_string_equal(p->identity.items[0].name, "x-a");
    assert_int_equal(p->conversation.count, 1);
    assert_string_equal(p->conversation.items[0].name, "c");
    assert_int_equal(p->max_inflight, 1);
    assert_int_equal(p->max_imbalance, 2);
    assert_int_equal(p->queue_size, 3);
    assert_int_equal(p->queue_timeout, 4000);
    assert_string_equal(p->health.path, "/h?x=1");
    assert_int_equal(p->health.interval, 5000);
    assert_int_equal(p->health.timeout, 6000);
    assert_int_equal(p->health.rise, 7);
    assert_int_equal(p->health.fall, 8);
    assert_int_equal(p->connect_timeout, 9000);
    assert_int_equal(p->first_byte_timeout, 10000);
    assert_int_equal(p->stream_idle_timeout, 11000);
    assert_string_equal(p->model_list.path, "/m");
    assert_int_equal(p->model_list.interval, 12000);
    assert_int_equal(p->keepalive_max_idle, 13);
    assert_int_equal(p->keepalive_timeout, 14000);
    assert_int_equal(p->retries, 15);
    assert_true(p->finish_on_disconnect);
    assert_int_equal(p->slow_start, 16000);
    any_free(a);
    a = sound(CONF_ENDPOINT, "{url: http://h, weight: 17, max_inflight: 18, api_key: k}");
    assert_int_equal(a->endpoint.weight, 17);
    assert_int_equal(a->endpoint.max_inflight, 18);
    assert_string_equal(a->endpoint.api_key, "k");
    any_free(a);
}

static void zero_means_none(void **state) {
    (void)state;
    struct any *a = sound(
        CONF_TOP,
        "{max_connections: 0, max_header: 0, max_body: 0, body_memory: 0, header_timeout: 0, body_min_rate: 0, drain_timeout: 0}");
    assert_int_equal(a->top.max_connections, 0);
    assert_true(a->top.max_body == CONF_SIZE_MAX); /* whoever compares needs no second thought */
    assert_int_equal(a->top.max_header, 256 << 20);
    assert_int_equal(a->top.body_memory + a->top.header_timeout + a->top.body_min_rate + a->top.drain_timeout, 0);
    any_free(a);
    a = sound(CONF_POOL, "{queue: {timeout: 0}, health: {interval: 0, timeout: 0}, model_list: {interval: 0}, keepalive: {timeout: "
                         "0, max_idle: 0}, retries: 0}");
    assert_int_equal(a->policy.keepalive_timeout + a->policy.health.interval + a->policy.retries, 0);
    any_free(a);
    finds(CONF_POOL, "connect_timeout: 0", "18 connect_timeout: must be at least 1ms: 0 is not possible here\n");
}

/* ---- the table ---- */

static bool takes(const struct conf_key *k, const char *value) {
    struct conf_findings f = {0};
    struct any *a = any_new();
    char text[512];
    const char *block = conf_keys_scope_name((enum conf_scope)k->scope);
    enum conf_scope scope = k->scope == CONF_LOG ? CONF_TOP : *block ? CONF_POOL : (enum conf_scope)k->scope;
    snprintf(text, sizeof text, *block ? "%s: {%s: %s}" : "%s%s: %s", block, k->name, value);
    fill(a, scope, k->flags & CONF_DEFAULTS, text, &f);
    bool taken = !f.count;
    findings_free(&f);
    any_free(a);
    return taken;
}

static bool takes_number(const struct conf_key *k, uint64_t n) {
    char value[32];
    snprintf(value, sizeof value, "%llu%s", (unsigned long long)n, k->type == CONF_DURATION && n ? "ms" : "");
    return takes(k, value);
}

static void every_number_has_its_edges(void **state) {
    size_t n, seen = 0;
    const struct conf_key *keys = conf_keys(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        const struct conf_key *k = &keys[i];
        if (k->type != CONF_NUMBER && k->type != CONF_SIZE && k->type != CONF_DURATION) continue;
        bool zero = !k->min || k->flags & CONF_ZERO_IS_MOST;
        if (!takes_number(k, k->min) || !takes_number(k, k->max)) fail_msg("%s: its edges are refused", k->name);
        if (takes_number(k, k->max + 1) || takes_number(k, 0) != zero) fail_msg("%s: more than its range is taken", k->name);
        if (k->min > 1 && takes_number(k, k->min - 1)) fail_msg("%s: less than its range is taken", k->name);
        if (k->type == CONF_DURATION) assert_true(k->max <= UINT32_MAX);
        seen++;
    }
    assert_true(seen > 20);
}

static void rows_are_whole(void **state) {
    size_t n;
    const struct conf_key *keys = conf_keys(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        const struct conf_key *k = &keys[i];
        assert_true(k->name[0] && k->help && k->help[0] && k->scope < CONF_SCOPES);
        assert_int_equal(k->choices != NULL, k->type == CONF_CHOICE || k->type == CONF_EITHER);
        for (size_t j = 0; j < i; j++)
            assert_true(keys[j].scope != k->scope || strcmp(keys[j].name, k->name) != 0);
        if (k->preset && !takes(k, k->preset)) fail_msg("%s: does not take its own default", k->name);
        if (k->type == CONF_OWN) continue;
        if (takes(k, k->type == CONF_BLOCK ? "text" : "{a: b}")) fail_msg("%s: takes another kind", k->name);
        if (takes(k, "") != (k->type == CONF_BLOCK)) fail_msg("%s: with nothing written", k->name);
        if (takes(k, "null") != (k->type == CONF_BLOCK || !k->preset)) fail_msg("%s: null", k->name);
    }
}

static void unknown_keys(void **state) {
    (void)state;
    finds(CONF_TOP, "max_bdy: 1m", "1 max_bdy: unknown key 'max_bdy', did you mean 'max_body'?\n");
    finds(CONF_POOL, "health: {intervall: 1s}", "10 health.intervall: unknown key 'intervall', did you mean 'interval'?\n");
    finds(CONF_POOL, "modles: [m]", "1 modles: unknown key 'modles', did you mean 'models'?\n");
    finds(CONF_ENDPOINT, "{expend: dns}", "2 expend: unknown key 'expend', did you mean 'expand'?\n");
    finds(CONF_TOP, "retries: 1", "1 retries: unknown key here: 'retries' belongs in defaults or in a pool\n");
    finds(CONF_TOP, "api_key: x", "1 api_key: unknown key 'api_key', did you mean 'api_keys'?\n");
    finds(CONF_POOL, "rise: 1", "1 rise: unknown key here: 'rise' belongs in health\n");
    finds(CONF_POOL, "weight: 1", "1 weight: unknown key here: 'weight' belongs in endpoints\n");
    finds(CONF_ENDPOINT, "listen: 1", "1 listen: unknown key here: 'listen' belongs at the top level\n");
    finds(CONF_TOP, "'': 1", "1 '': unknown key '': the nearest known one is 'log'\n");
    finds(CONF_TOP, "{\"a\\nb: c\": 1}",
          "2 a?b: c: unknown key 'a?b: c': the nearest known one is 'listen'\n"); /* one finding, one line */
    finds(CONF_TOP, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: 1",
          "1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: unknown key\n");
}

static void defaults_take_no_key_that_names_a_pool(void **state) {
    static const char *const own[] = {"name", "models", "aliases", "endpoints", "fallback"};
    (void)state;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        struct conf_findings f = {0};
        struct any *a = any_new();
        char text[64];
        snprintf(text, sizeof text, "%s: x", own[i]);
        fill(a, CONF_POOL, true, text, &f);
        assert_int_equal(f.errors, 1);
        assert_non_null(strstr(f.items[0].text, "belongs in a pool"));
        findings_free(&f);
        any_free(a);
        any_free(sound(CONF_POOL, text)); /* in a pool it is conf's to read */
    }
}

/* ---- lists ---- */

static void sources(void **state) {
    static const char level[] = "must be body.NAME, body.NAME.SUB or header.NAME: at most one level below a member";
    static const char *const deep[] = {"body", "body.", "body.a.", "body.a.b.c", "body..a", "body.a.b."};
    char text[256], wanted[256];
    (void)state;
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        snprintf(text, sizeof text, "identity: [%s]", deep[i]);
        snprintf(wanted, sizeof wanted, "12 identity: %s\n", level);
        finds(CONF_POOL, text, wanted);
    }
    finds(CONF_POOL, "identity: [user, cookie.x, Body.x]",
          "12 identity: must be body.NAME, body.NAME.SUB or header.NAME\n18 identity: must be body.NAME, body.NAME.SUB or "
          "header.NAME\n"
          "28 identity: must be body.NAME, body.NAME.SUB or header.NAME\n");
    finds(
        CONF_POOL, "identity: [header, header., 'header.a b', 'header.x:']",
        "12 identity: has no header name: write header.X-Session-Id\n20 identity: has no header name: write header.X-Session-Id\n"
        "29 identity: has no header name: write header.X-Session-Id\n43 identity: has no header name: write header.X-Session-Id\n");
    snprintf(text, sizeof text, "identity: [body.a%063d.b%063d]", 0, 0);
    any_free(sound(CONF_POOL, text));
    snprintf(text, sizeof text, "identity: [body.a%063d.b%064d]", 0, 0);
    finds(CONF_POOL, text, "12 identity: names a member of more than 64 bytes\n");
}

static void paths(void **state) {
    static const char *const own[] = {"/health",      "/ready",     "/metrics",     "/status", "/ui",       "/admin",
                                      "/admin/drain", "/v1/models", "/v1/models/x", "/models", "/api/tags", "/api/version"};
    (void)state;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        char text[64], wanted[128];
        snprintf(text, sizeof text, "paths: [%s]", own[i]);
        snprintf(wanted, sizeof wanted, "9 paths: %s is a URL of the router's own\n", own[i]);
        finds(CONF_TOP, text, wanted);
    }
    finds(
        CONF_TOP, "paths: [v1, '/a?b', '/a#b', '/a b', \"/\xc3\xa4\"]",
        "9 paths: must begin with /\n13 paths: must not have a query (?)\n21 paths: must not have a fragment (#)\n"
        "29 paths: has a byte that must be percent-encoded in a URL\n37 paths: has a byte that must be percent-encoded in a URL\n");
    any_free(sound(CONF_TOP, "paths: [/v1/models2, /healthy, /admins, /v1/chat/completions, /, '/%41']"));
}

static void addresses(void **state) {
    (void)state;
    struct any *a = sound(CONF_TOP, "{listen: unix:/run/r.sock, admin_listen: null}"); /* one needs no list */
    assert_int_equal(a->top.nlisten, 1);
    assert_string_equal(a->top.listen[0].text, "unix:/run/r.sock");
    assert_null(a->top.admin);
    any_free(a);
    any_free(sound(CONF_TOP, "listen: ['127.0.0.1:0', '127.0.0.1:0']"));
    finds(CONF_TOP, "listen: []", "9 listen: must name 1 to 64 addresses\n");
    finds(CONF_TOP, "listen: [':1', '0.0.0.0:1', x, ':2']",
          "9 listen: 0.0.0.0:1 stands here twice\n29 listen: needs a port: HOST:PORT, [v6]:PORT, :PORT or unix:/path\n");
    finds(CONF_TOP, "admin_listen: [':1']", "15 admin_listen: must be one value, not a list\n");
    char text[1024] = "listen: [':1'";
    for (int i = 2; i <= CONF_LISTEN_MAX; i++)
        sprintf(text + strlen(text), ",':%d'", i);
    strcat(text, "]");
    any_free(sound(CONF_TOP, text));
    strcpy(text + strlen(text) - 1, ",':99']");
    finds(CONF_TOP, text, "9 listen: must name 1 to 64 addresses\n");
}

static void no_finding_repeats_a_key(void **state) {
    static const char *const texts[] = {
        "api_keys: SECRET",
        "api_keys: {SECRET: x}",
        "api_keys: ['SECRET x', \"SECRET\\n\"]",
        "admin_keys: [\"SECRET\xc3\xa4\", [SECRET]]",
        "{max_body: SECRET, listen: SECRET, trusted_proxies: [SECRET], read_usage: SECRET}",
        "{log: {level: SECRET}, cors_origins: [SECRET]}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct conf_findings f = {0};
        struct any *a = any_new();
        fill(a, CONF_TOP, false, texts[i], &f);
        assert_true(f.errors > 0);
        for (size_t k = 0; k < f.count; k++)
            if (strstr(f.items[k].text, "SECRET")) fail_msg("%s", f.items[k].text);
        findings_free(&f);
        any_free(a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_of_the_top_level),
        cmocka_unit_test(presets_of_a_pool),
        cmocka_unit_test(every_key_goes_to_its_field),
        cmocka_unit_test(every_pool_key_goes_to_its_field),
        cmocka_unit_test(zero_means_none),
        cmocka_unit_test(every_number_has_its_edges),
        cmocka_unit_test(rows_are_whole),
        cmocka_unit_test(unknown_keys),
        cmocka_unit_test(defaults_take_no_key_that_names_a_pool),
        cmocka_unit_test(sources),
        cmocka_unit_test(paths),
        cmocka_unit_test(addresses),
        cmocka_unit_test(no_finding_repeats_a_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
