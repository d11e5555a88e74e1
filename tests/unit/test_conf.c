#include "unit.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"

#define POOL "pools: [{name: p, models: [m], endpoints: ['http://h:1']}]\n"

static struct conf *parse(const char *text, struct conf_findings *f) {
    *f = (struct conf_findings){0};
    struct conf *c = conf_parse("test.yaml", text, strlen(text), f);
    assert_int_equal(c == NULL, f->errors > 0);
    return c;
}

/* "line:column error|warning text" of each, one a line. */
static char *told(const struct conf_findings *f) {
    size_t room = 64, len = 0;
    char *text = malloc(room);
    text[0] = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct conf_finding *x = &f->items[i];
        text = realloc(text, room += strlen(x->text) + 64);
        len += (size_t)sprintf(text + len, "%d:%d %s%s\n", x->line, x->column, x->warning ? "warning: " : "", x->text);
    }
    return text;
}

/* All findings of the text, word for word. */
static void finds(const char *text, const char *findings) {
    struct conf_findings f;
    struct conf *c = parse(text, &f);
    char *got = told(&f);
    if (strcmp(got, findings) != 0) fail_msg("of\n%s\nfound\n%s\ninstead of\n%s", text, got, findings);
    free(got);
    conf_free(c);
    conf_findings_free(&f);
}

static struct conf *sound(const char *text) {
    struct conf_findings f;
    struct conf *c = parse(text, &f);
    if (f.count) fail_msg("of\n%s\nfound\n%s", text, f.items[0].text);
    conf_findings_free(&f);
    return c;
}

/* Good, maybe with warnings. */
static bool passes(const char *text) {
    struct conf_findings f;
    struct conf *c = parse(text, &f);
    conf_free(c);
    conf_findings_free(&f);
    return c != NULL;
}

/* ---- what is read ---- */

static void the_original_format_and_its_defaults(void **state) {
    (void)state;
    struct conf *c = sound("pools:\n  - name: chat\n    endpoints:\n      - http://localhost:9001\n      - http://localhost:9101\n"
                           "    models:\n      - llama3-8b-instruct\n  - name: rest\n    endpoints:\n      - http://localhost:9101\n"
                           "    models:\n      - \"*\"\n");
    assert_string_equal(c->path, "test.yaml");
    assert_int_equal(c->npools, 2);
    assert_string_equal(c->pools[0].name, "chat");
    assert_int_equal(c->pools[0].nendpoints, 2);
    assert_string_equal(c->pools[0].endpoints[1].url.text, "http://localhost:9101");
    assert_int_equal(c->pools[0].endpoints[1].line, 5);
    assert_int_equal(c->pools[0].endpoints[1].column, 9);
    assert_int_equal(c->pools[0].endpoints[1].weight, 1);
    assert_int_equal(c->pools[0].endpoints[1].max_inflight, 0);
    assert_null(c->pools[0].endpoints[1].api_key);
    assert_string_equal(c->pools[1].models[0], "*");
    assert_null(c->pools[0].fallback);
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
    conf_free(c);
}

static void default_policy(void **state) {
    static const char *const conversation[] = {"x-openwebui-chat-id", "x-session-id", "x-claude-code-session-id", "session_id", "prompt_cache_key", "conversation"};
    (void)state;
    struct conf *c = sound(POOL);
    const struct conf_policy *p = &c->pools[0].policy;
    assert_int_equal(p->affinity, AFFINITY_USER);
    assert_int_equal(p->identity.count, 4);
    assert_string_equal(p->identity.items[0].name, "user");
    assert_false(p->identity.items[0].header);
    assert_null(p->identity.items[0].sub);
    assert_true(p->identity.items[2].header);
    assert_string_equal(p->identity.items[2].name, "x-openwebui-user-id");
    assert_string_equal(p->identity.items[3].name, "metadata");
    assert_string_equal(p->identity.items[3].sub, "user_id");
    assert_int_equal(p->conversation.count, 6);
    for (size_t i = 0; i < 6; i++) assert_string_equal(p->conversation.items[i].name, conversation[i]);
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
    conf_free(c);
}

static void every_key_goes_to_its_field(void **state) {
    (void)state;
    struct conf *c = sound("listen: [127.0.0.1:1, '[::1]:2']\nadmin_listen: unix:/a\nadmin_keys: [x, y]\napi_keys: [z]\nmax_connections: 5\nmax_header: 2k\n"
                           "max_body: 3m\nbody_memory: 4m\nheader_timeout: 6s\nbody_timeout: 7s\nbody_min_rate: 8\nsend_timeout: 9s\nidle_timeout: 10s\n"
                           "drain_delay: 11s\ndrain_timeout: 12s\ntrusted_proxies: [10.0.0.0/8, '::1']\nroute_headers: true\nread_usage: false\nreuse_port: yes\n"
                           "paths: [/a, /b/c]\nlog: {access: text, level: debug, file: /x}\n" POOL);
    assert_int_equal(c->nlisten, 2);
    assert_string_equal(c->listen[1].text, "[::1]:2");
    assert_string_equal(c->admin->text, "unix:/a");
    assert_int_equal(c->nadmin_keys, 2);
    assert_string_equal(c->admin_keys[1], "y");
    assert_int_equal(c->napi_keys, 1);
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
    conf_free(c);
}

static void every_pool_key_goes_to_its_field(void **state) {
    (void)state;
    struct conf *c = sound("pools:\n  - name: p\n    models: [m, 'g*']\n    aliases: {n: m}\n    fallback: q\n    affinity: conversation\n    identity: [header.X-A]\n"
                           "    conversation: [body.c]\n    max_inflight: 1\n    max_imbalance: 2\n    queue: {size: 3, timeout: 4s}\n"
                           "    health: {path: '/h?x=1', interval: 5s, timeout: 6s, rise: 7, fall: 8}\n    connect_timeout: 9s\n    first_byte_timeout: 10s\n"
                           "    stream_idle_timeout: 11s\n    model_list: {path: /m, interval: 12s}\n    keepalive: {max_idle: 13, timeout: 14s}\n    retries: 15\n"
                           "    on_disconnect: finish\n    slow_start: 16s\n"
                           "    endpoints: [{url: 'http://h:1', weight: 17, max_inflight: 18, api_key: k}, {url: 'http://h:2', max_inflight: 0}, 'http://h:3']\n"
                           "  - {name: q, affinity: none, models: ['*'], endpoints: ['unix:/s']}\n");
    const struct conf_pool *pool = &c->pools[0];
    const struct conf_policy *p = &pool->policy;
    assert_int_equal(pool->nmodels, 2);
    assert_int_equal(pool->naliases, 1);
    assert_string_equal(pool->aliases[0].name, "n");
    assert_string_equal(pool->aliases[0].target, "m");
    assert_string_equal(pool->fallback, "q");
    assert_int_equal(pool->fallback_index, 1);
    assert_int_equal(p->affinity, AFFINITY_CONVERSATION);
    assert_string_equal(p->identity.items[0].name, "x-a");
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
    assert_int_equal(pool->endpoints[0].weight, 17);
    assert_int_equal(pool->endpoints[0].max_inflight, 18);
    assert_string_equal(pool->endpoints[0].api_key, "k");
    assert_int_equal(pool->endpoints[1].max_inflight, 0); /* its own 0, not the pool's 1 */
    assert_int_equal(pool->endpoints[2].max_inflight, 1);
    assert_int_equal(c->pools[1].policy.affinity, AFFINITY_NONE);
    assert_true(c->pools[1].endpoints[0].url.is_unix);
    conf_free(c);
}

static void blocks_merge_key_by_key(void **state) {
    (void)state;
    struct conf *c = sound("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1'], health: {fall: 9}, queue: {size: 1}, identity: []}\n"
                           "  - {name: q, models: [n], endpoints: ['http://h:2'], keepalive: }\n"
                           "defaults: {health: {interval: 1s, fall: 5}, queue: {timeout: 2s}, identity: [body.x], retries: 0}\nlog: {level: warn}\n");
    const struct conf_policy *p = &c->pools[0].policy, *q = &c->pools[1].policy;
    assert_int_equal(p->health.fall, 9);
    assert_int_equal(p->health.interval, 1000);
    assert_int_equal(p->health.timeout, 2000);
    assert_int_equal(q->health.fall, 5);
    assert_int_equal(p->queue_size, 1);
    assert_int_equal(p->queue_timeout, 2000);
    assert_int_equal(q->queue_size, 0);
    assert_int_equal(p->identity.count, 0);
    assert_int_equal(q->identity.count, 1);
    assert_int_equal(p->retries + q->retries, 0);
    assert_int_equal(c->log_level, LOG_WARN);
    assert_int_equal(c->access, ACCESS_JSON);
    conf_free(c);
}

static void zero_means_none(void **state) {
    (void)state;
    struct conf *c = sound("max_connections: 0\nmax_header: 0\nmax_body: 0\nbody_memory: 0\nheader_timeout: 0\nbody_timeout: 0\nbody_min_rate: 0\nsend_timeout: 0\n"
                           "idle_timeout: 0\ndrain_timeout: 0\ndefaults: {queue: {timeout: 0}, health: {interval: 0, timeout: 0}, model_list: {interval: 0},\n"
                           "  keepalive: {timeout: 0, max_idle: 0}, stream_idle_timeout: 0, retries: 0}\n" POOL);
    assert_int_equal(c->max_connections, 0);
    assert_true(c->max_body == CONF_SIZE_MAX); /* whoever compares needs no second thought */
    assert_int_equal(c->max_header, 256 << 20);
    assert_int_equal(c->body_memory, 0);
    assert_int_equal(c->pools[0].policy.keepalive_timeout, 0);
    conf_free(c);
    finds("defaults: {connect_timeout: 0}\n" POOL, "1:29 connect_timeout: must be at least 1ms: 0 is not possible here\n");
}

/* ---- the table ---- */

/* A sound file but for what is said of that key. */
static void with_key(const struct conf_key *k, const char *value, char *text, size_t cap) {
    const char *block = conf_keys_scope_name((enum conf_scope)k->scope);
    char entry[256];
    snprintf(entry, sizeof entry, *block ? "%s: {%s%s: %s}" : "%s%s%s: %s", block, "", k->name, value);
    if (k->scope == CONF_ENDPOINT)
        snprintf(text, cap, "pools: [{name: p, models: [m], endpoints: [{url: 'http://h:1', %s}]}]\n", entry);
    else if (k->scope == CONF_TOP || k->scope == CONF_LOG)
        snprintf(text, cap, "%s\n" POOL, entry);
    else
        snprintf(text, cap, "defaults: {%s}\n" POOL, entry);
}

static bool takes(const struct conf_key *k, uint64_t n) {
    char value[32], text[512];
    const char *unit = k->type == CONF_DURATION && n ? "ms" : "";
    snprintf(value, sizeof value, "%llu%s", (unsigned long long)n, unit);
    with_key(k, value, text, sizeof text);
    return passes(text);
}

static void every_number_has_its_edges(void **state) {
    size_t n, seen = 0;
    const struct conf_key *keys = conf_keys(&n);
    (void)state;
    for (size_t i = 0; i < n; i++) {
        const struct conf_key *k = &keys[i];
        if (k->type != CONF_NUMBER && k->type != CONF_SIZE && k->type != CONF_DURATION) continue;
        bool zero = !k->min || k->flags & CONF_ZERO_IS_MOST;
        if (!takes(k, k->min) || !takes(k, k->max)) fail_msg("%s: its edges are refused", k->name);
        if (takes(k, k->max + 1) || takes(k, 0) != zero || (k->min > 1 && takes(k, k->min - 1))) fail_msg("%s: more than its range is taken", k->name);
        seen++;
    }
    assert_int_equal(seen, 29);
}

static void no_key_takes_another_kind(void **state) {
    size_t n;
    const struct conf_key *keys = conf_keys(&n);
    char text[512];
    (void)state;
    for (size_t i = 0; i < n; i++) {
        with_key(&keys[i], keys[i].type == CONF_BLOCK || strcmp(keys[i].name, "defaults") == 0 ? "text" : "{a: b}", text, sizeof text);
        if (passes(text)) fail_msg("%s", text);
        with_key(&keys[i], "", text, sizeof text); /* nothing written */
        bool may = keys[i].type == CONF_BLOCK || strcmp(keys[i].name, "defaults") == 0;
        if (passes(text) != may) fail_msg("%s", text);
        assert_true(keys[i].help && keys[i].help[0]);
    }
}

static void each_default_is_as_if_written(void **state) {
    size_t n;
    const struct conf_key *keys = conf_keys(&n);
    char text[512];
    (void)state;
    for (size_t i = 0; i < n; i++) {
        if (!keys[i].preset) continue;
        with_key(&keys[i], keys[i].preset, text, sizeof text);
        conf_free(sound(text)); /* without a warning too */
    }
}

static void keys_without_an_effect_say_so(void **state) {
    (void)state;
    size_t n, inert = 0;
    const struct conf_key *keys = conf_keys(&n);
    for (size_t i = 0; i < n; i++) inert += (keys[i].flags & CONF_INERT) != 0;
    assert_int_equal(inert, 1);
    finds("cors_origins: ['https://A.example']\n" POOL, "1:1 warning: cors_origins: has no effect yet\n");
    conf_free(sound("cors_origins: []\n" POOL));
}

static void choices(void **state) {
    (void)state;
    finds("defaults: {affinity: sticky}\nlog: {access: no}\n" POOL, "1:22 affinity: must be user, conversation, model or none\n2:15 log.access: must be json, text or off\n");
    struct conf *c = sound("log: {access: off}\ndefaults: {affinity: model}\n" POOL);
    assert_int_equal(c->access, ACCESS_OFF);
    assert_int_equal(c->pools[0].policy.affinity, AFFINITY_MODEL);
    conf_free(c);
}

static void unknown_keys(void **state) {
    (void)state;
    finds("max_bdy: 1m\n" POOL, "1:1 max_bdy: unknown key 'max_bdy', did you mean 'max_body'?\n");
    finds("defaults: {health: {intervall: 1s}}\n" POOL, "1:21 health.intervall: unknown key 'intervall', did you mean 'interval'?\n");
    finds("pools: [{name: p, modles: [m], models: [m], endpoints: ['http://h:1']}]\n", "1:19 modles: unknown key 'modles', did you mean 'models'?\n");
    finds("pools: [{name: p, models: [m], endpoints: [{url: 'http://h:1', expand: dns}]}]\n", "1:64 expand: unknown key 'expand': the nearest known one is 'weight'\n");
    finds("retries: 1\n" POOL, "1:1 retries: unknown key here: 'retries' belongs in defaults or in a pool\n");
    finds("api_key: x\n" POOL, "1:1 api_key: unknown key 'api_key', did you mean 'api_keys'?\n");
    finds("rise: 1\n" POOL, "1:1 rise: unknown key here: 'rise' belongs in health\n");
    finds("weight: 1\n" POOL, "1:1 weight: unknown key here: 'weight' belongs in endpoints\n");
    finds("'': 1\n" POOL, "1:1 '': unknown key '': the nearest known one is 'log'\n");
    finds("\"a\\nb: c\": 1\n" POOL, "1:1 a?b: c: unknown key 'a?b: c': the nearest known one is 'paths'\n"); /* one finding, one line */
    finds("defaults: {name: a, models: [b], aliases: {c: d}, endpoints: [e], fallback: f}\n" POOL,
          "1:12 name: unknown key here: 'name' belongs in a pool\n1:21 models: unknown key here: 'models' belongs in a pool\n"
          "1:34 aliases: unknown key here: 'aliases' belongs in a pool\n1:51 endpoints: unknown key here: 'endpoints' belongs in a pool\n"
          "1:67 fallback: unknown key here: 'fallback' belongs in a pool\n");
}

static void no_name_is_long_enough_to_hurt(void **state) {
    char text[400];
    (void)state;
    snprintf(text, sizeof text, "%0200d: 1\n" POOL, 7);
    struct conf_findings f;
    assert_null(parse(text, &f));
    assert_true(strlen(f.items[0].text) < 100);
    conf_findings_free(&f);
}

/* ---- the file as a whole ---- */

static void what_is_no_configuration(void **state) {
    (void)state;
    finds("", "1:1 pools: there are none: a configuration names at least one pool\n");
    finds("---\n", "1:1 pools: there are none: a configuration names at least one pool\n");
    finds("listen: :1\n", "1:1 pools: there are none: a configuration names at least one pool\n");
    finds("- a\n- b\n", "1:1 file: must be a block of keys, not a list\n");
    finds("text\n", "1:1 file: must be a block of keys, not one value\n");
    finds("pools: []\n", "1:8 pools: must name at least one pool\n");
    finds("pools:\n", "1:7 pools: needs a value: a list\n");
    finds("pools: {chat: {models: [m]}}\n", "1:8 pools: must be a list, not a block of keys\n");
    finds("pools: [~, text]\n", "1:9 pools: needs a value: a block of keys\n1:12 pools: must be a block of keys, not one value\n");
    finds("a: [\n", "2:1 yaml: not valid YAML: did not find expected node content (while parsing a flow node)\n");
    finds("defaults: []\nretries: 1\n", "1:1 pools: there are none: a configuration names at least one pool\n1:11 defaults: must be a block of keys, not a list\n"
                                        "2:1 retries: unknown key here: 'retries' belongs in defaults or in a pool\n");
}

static void anchors_and_doubles_do_not_hide_the_rest(void **state) {
    (void)state;
    finds("max_body: &a 1x\nmax_header: *a\nidle_timeout: !!str 5s\nbody_timeout: \"\\0\"\nmax_body: 2y\nlisten: &b [x]\npools: *c\n",
          "1:11 max_body: YAML anchors (&name) are not supported: write the value out where it is used\n"
          "1:11 max_body: must be a size like 512, 64k, 100m or 1g\n"
          "2:13 max_header: YAML aliases (*name) are not supported: write the value out, or put a text that begins with * in quotes\n"
          "3:15 idle_timeout: YAML tags (!name) are not supported\n4:15 body_timeout: a NUL stands in this value\n"
          "5:1 max_body: stands here twice (first on line 1)\n6:9 listen: YAML anchors (&name) are not supported: write the value out where it is used\n"
          "6:13 listen: needs a port: HOST:PORT, [v6]:PORT, :PORT or unix:/path\n"
          "7:8 pools: YAML aliases (*name) are not supported: write the value out, or put a text that begins with * in quotes\n");
    finds("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1'], retries: 1, retries: 1, retries: 99, aliases: {a: b, a: c}}\n",
          "2:67 retries: stands here twice (first on line 2)\n2:79 retries: stands here twice (first on line 2)\n"
          "2:110 a: stands here twice (first on line 2)\n");
}

static void findings_are_in_order_and_bounded(void **state) {
    size_t len = 0;
    char *text = malloc(64 * (FINDINGS_MAX + 100));
    struct conf_findings f = {0};
    (void)state;
    for (int i = 0; i < FINDINGS_MAX + 50; i++) len += (size_t)sprintf(text + len, "key%d: 1\n", i);
    assert_null(conf_parse("x", text, len, &f));
    assert_int_equal(f.errors, FINDINGS_MAX + 51);
    assert_int_equal(f.count, FINDINGS_MAX + 1);
    for (size_t i = 1; i < f.count; i++) assert_true(f.items[i].line > f.items[i - 1].line || i == 1);
    assert_string_equal(f.items[f.count - 1].text, "file: too many errors: not all are shown");
    conf_findings_free(&f);
    assert_int_equal(f.count, 0);
    free(text);
}

static void findings_are_added_to_those_before(void **state) {
    struct conf_findings f = {0};
    (void)state;
    assert_null(conf_parse("a", "x: 1\n" POOL, strlen("x: 1\n" POOL), &f));
    struct conf *c = conf_parse("b", POOL, strlen(POOL), &f);
    assert_non_null(c);
    assert_int_equal(f.errors, 1);
    conf_free(c);
    conf_findings_free(&f);
}
