#include "unit.h"

#include <glob.h>
#include <unistd.h>

#include "conf.h"

#define POOL "pools: [{name: p, models: [m], endpoints: ['http://h:1']}]\n"

static struct conf *parse(const char *text, struct conf_findings *f) {
    *f = (struct conf_findings){0};
    struct conf *c = conf_parse("test.yaml", text, strlen(text), f);
    assert_int_equal(c == NULL, f->errors > 0);
    return c;
}

/* All findings of the text, word for word: "line:column text", one a line. */
static void finds(const char *text, const char *wanted) {
    struct conf_findings f;
    struct conf *c = parse(text, &f);
    char got[8192] = "";
    size_t len = 0;
    for (size_t i = 0; i < f.count; i++) {
        const struct conf_finding *x = &f.items[i];
        len += (size_t)snprintf(got + len, sizeof got - len, "%d:%d %s%s\n", x->line, x->column, x->warning ? "warning: " : "",
                                x->text);
    }
    if (strcmp(got, wanted) != 0) fail_msg("of\n%s\nfound\n%s\ninstead of\n%s", text, got, wanted);
    conf_free(c);
    conf_findings_free(&f);
}

static struct conf *sound(const char *text) {
    struct conf_findings f;
    struct conf *c = parse(text, &f);
    if (f.count) fail_msg("of\n%s\nfound\n%s", text, f.items[0].text);
    return c;
}

/* ---- what is read ---- */

static void the_original_format(void **state) {
    (void)state;
    struct conf *c =
        sound("pools:\n  - name: chat\n    endpoints:\n      - http://localhost:9001\n      - http://localhost:9101\n"
              "    models:\n      - llama3-8b-instruct\n  - name: rest\n    endpoints:\n      - http://localhost:9101\n"
              "    models:\n      - \"*\"\n");
    assert_string_equal(c->path, "test.yaml");
    assert_int_equal(c->npools, 2);
    const struct conf_pool *p = &c->pools[0];
    assert_string_equal(p->name, "chat");
    assert_int_equal(p->nmodels, 1);
    assert_int_equal(p->naliases, 0);
    assert_null(p->fallback);
    assert_int_equal(p->nendpoints, 2);
    assert_string_equal(p->endpoints[1].url.text, "http://localhost:9101");
    assert_int_equal(p->endpoints[1].line, 5);
    assert_int_equal(p->endpoints[1].column, 9);
    assert_int_equal(p->endpoints[1].weight, 1);
    assert_int_equal(p->endpoints[1].max_inflight, 0);
    assert_null(p->endpoints[1].api_key);
    assert_int_equal(p->policy.retries, 2);
    assert_string_equal(c->pools[1].models[0], "*");
    assert_int_equal(c->nlisten, 1);
    assert_int_equal(c->max_connections, 10000);
    conf_free(c);
}

static void a_pool_with_everything(void **state) {
    (void)state;
    struct conf *c = sound(
        "pools:\n  - name: p\n    models: [m, 'g*']\n    aliases: {n: m, o: other}\n    fallback: q\n    max_inflight: 1\n    "
        "affinity: model\n"
        "    endpoints: [{url: 'http://h:1', weight: 17, max_inflight: 18, api_key: k}, {url: 'http://h:2', max_inflight: 0},\n"
        "                'http://h:3', {url: 'http://h:4', max_inflight: null, api_key: null}]\n"
        "  - {name: q, affinity: none, models: ['*'], fallback: null, aliases: , endpoints: ['unix:/s']}\n");
    const struct conf_pool *p = &c->pools[0];
    assert_int_equal(p->nmodels, 2);
    assert_string_equal(p->models[1], "g*");
    assert_int_equal(p->naliases, 2);
    assert_string_equal(p->aliases[1].name, "o");
    assert_string_equal(p->aliases[1].target, "other");
    assert_string_equal(p->fallback, "q");
    assert_int_equal(p->fallback_index, 1);
    assert_int_equal(p->policy.affinity, AFFINITY_MODEL);
    assert_int_equal(p->endpoints[0].weight, 17);
    assert_int_equal(p->endpoints[0].max_inflight, 18);
    assert_string_equal(p->endpoints[0].api_key, "k");
    assert_int_equal(p->endpoints[1].max_inflight, 0); /* its own 0, not the pool's 1 */
    assert_int_equal(p->endpoints[2].max_inflight, 1);
    assert_int_equal(p->endpoints[3].max_inflight, 1);
    assert_null(p->endpoints[3].api_key);
    assert_null(c->pools[1].fallback);
    assert_int_equal(c->pools[1].policy.affinity, AFFINITY_NONE);
    assert_true(c->pools[1].endpoints[0].url.is_unix);
    conf_free(c);
}

static void blocks_merge_key_by_key(void **state) {
    (void)state;
    struct conf *c = sound("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1'], health: {fall: 9}, queue: {size: 1}, "
                           "identity: [], max_inflight: 3}\n"
                           "  - {name: q, models: [n], endpoints: ['http://h:2'], keepalive: }\n"
                           "defaults: {health: {interval: 1s, fall: 5}, queue: {timeout: 2s}, identity: [body.x], retries: 0, "
                           "max_inflight: 7}\nlog: {level: warn}\n");
    const struct conf_policy *p = &c->pools[0].policy, *q = &c->pools[1].policy;
    assert_int_equal(p->health.fall, 9);
    assert_int_equal(p->health.interval, 1000);
    assert_int_equal(p->health.timeout, 2000);
    assert_int_equal(q->health.fall, 5);
    assert_int_equal(q->keepalive_max_idle, 64);
    assert_int_equal(p->queue_size, 1);
    assert_int_equal(p->queue_timeout, 2000);
    assert_int_equal(q->queue_size, 0);
    assert_int_equal(p->identity.count, 0);
    assert_int_equal(q->identity.count, 1);
    assert_int_equal(p->retries + q->retries, 0);
    assert_int_equal(c->pools[0].endpoints[0].max_inflight, 3);
    assert_int_equal(c->pools[1].endpoints[0].max_inflight, 7);
    assert_int_equal(c->log_level, LOG_WARN);
    assert_int_equal(c->access, ACCESS_JSON);
    conf_free(c);
}

/* ---- the file as a whole ---- */

static void what_is_no_configuration(void **state) {
    (void)state;
    finds("", "1:1 pools: there are none: a configuration names at least one pool\n");
    finds("---\n", "2:1 pools: there are none: a configuration names at least one pool\n");
    finds("listen: :1\n", "1:1 pools: there are none: a configuration names at least one pool\n");
    finds("- a\n- b\n", "1:1 file: must be a block of keys, not a list\n");
    finds("text\n", "1:1 file: must be a block of keys, not one value\n");
    finds("pools: []\n", "1:8 pools: must name at least one pool\n");
    finds("pools:\n", "1:7 pools: needs a value: a list\n");
    finds("pools: {chat: {models: [m]}}\n", "1:8 pools: must be a list, not a block of keys\n");
    finds("pools: [~, text]\n", "1:9 pools: needs a value: a block of keys\n1:12 pools: must be a block of keys, not one value\n");
    finds("a: [\n", "2:1 yaml: not valid YAML: did not find expected node content (while parsing a flow node)\n");
    finds("defaults: []\nretries: 1\n",
          "1:1 pools: there are none: a configuration names at least one pool\n1:11 defaults: must be a block of keys, not a list\n"
          "2:1 retries: unknown key here: 'retries' belongs in defaults or in a pool\n");
    finds("defaults:\n" POOL, "");
}

static void anchors_and_doubles_do_not_hide_the_rest(void **state) {
    (void)state;
    finds(
        "max_body: &a 1x\nmax_header: *a\nidle_timeout: !!str 5s\nbody_timeout: \"\\0\"\nmax_body: 2y\nlisten: &b [x]\npools: *c\n",
        "1:11 max_body: YAML anchors (&name) are not supported: write the value out where it is used\n"
        "1:11 max_body: must be a size like 512, 64k, 100m or 1g\n"
        "2:13 max_header: YAML aliases (*name) are not supported: write the value out, or put a text that begins with * in quotes\n"
        "3:15 idle_timeout: YAML tags (!name) are not supported\n4:15 body_timeout: a NUL stands in this value\n"
        "5:1 max_body: stands here twice (first on line 1)\n6:9 listen: YAML anchors (&name) are not supported: write the value "
        "out where it is used\n"
        "6:13 listen: needs a port: HOST:PORT, [v6]:PORT, :PORT or unix:/path\n"
        "7:8 pools: YAML aliases (*name) are not supported: write the value out, or put a text that begins with * in quotes\n");
    finds("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1'], retries: 1, retries: 99, aliases: {a: b, a: c}}\n",
          "2:67 retries: stands here twice (first on line 2)\n2:96 a: stands here twice (first on line 2)\n");
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

/* ---- pools ---- */

static void pools_are_whole(void **state) {
    (void)state;
    finds("pools:\n  - {}\n",
          "2:5 name: this pool has none\n"
          "2:5 models: this pool has none: give it at least one model (\"*\" takes every model that no other pool names)\n"
          "2:5 endpoints: this pool has none: give it at least one URL\n");
    finds("pools:\n  - name: p\n    models: []\n    endpoints: []\n",
          "3:13 models: must name at least one model (\"*\" takes every model that no other pool names)\n4:16 endpoints: must name "
          "at least one URL\n");
    finds("pools:\n  - {name: 'a b', models: m, endpoints: 'http://h:1'}\n",
          "2:12 name: may hold letters, digits and . _ - : / + @ only\n2:27 models: must be a list, not one value\n2:41 endpoints: "
          "must be a list, not one value\n");
    finds("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1']}\n  - {name: p, models: [n], endpoints: ['http://h:1']}\n",
          "3:12 name: there is another pool 'p' (line 2)\n");
}

static void names_of_models(void **state) {
    char text[2048];
    (void)state;
    finds("pools: [{name: p, models: ['', \"a\\tb\", [x]], endpoints: ['http://h:1']}]\n",
          "1:28 models: must not be empty\n1:32 models: holds a control byte: no model's name does\n1:40 models: must be one "
          "value, not a list\n");
    snprintf(text, sizeof text, "pools: [{name: p, models: [a%0511d], endpoints: ['http://h:1']}]\n", 0);
    conf_free(sound(text));
    snprintf(text, sizeof text, "pools: [{name: p, models: [a%0512d], endpoints: ['http://h:1']}]\n", 0);
    finds(text, "1:28 models: is too long: a model's name has at most 512 bytes\n");
    finds("pools: [{name: p, models: [m], aliases: {'a*': m, '': m, b: 'm?', c: [x]}, endpoints: ['http://h:1']}]\n",
          "1:42 aliases: an accepted name is exact: * and ? belong in models\n1:51 aliases: must not be empty\n"
          "1:61 aliases: the name sent to the endpoint is exact: no * or ? in it\n1:70 aliases: must be one value, not a list\n");
    finds("pools: [{name: p, models: [m], aliases: [a], endpoints: ['http://h:1']}]\n",
          "1:41 aliases: must be a block of keys, not a list\n");
}

static void only_values_are_expanded(void **state) {
    (void)state;
    setenv("RT_MODEL", "big", 1);
    struct conf *c = sound("pools: [{name: \"${RT_POOL:-p}\", models: [\"${RT_MODEL}-1\"], aliases: {\"${RT_MODEL}\": "
                           "\"${RT_MODEL}\"}, endpoints: ['http://${RT_MODEL}:1']}]\n");
    assert_string_equal(c->pools[0].name, "p");
    assert_string_equal(c->pools[0].models[0], "big-1");
    assert_string_equal(c->pools[0].aliases[0].name, "${RT_MODEL}");
    assert_string_equal(c->pools[0].aliases[0].target, "big");
    assert_string_equal(c->pools[0].endpoints[0].url.text, "http://big:1");
    conf_free(c);
}

static void a_name_has_one_pool(void **state) {
    (void)state;
    finds("pools:\n  - {name: p, models: [m], endpoints: ['http://h:1']}\n  - {name: q, models: [m], endpoints: ['http://h:1']}\n",
          "3:24 models: 'm' is claimed twice: pool 'p' has it already (line 2)\n");
    finds("pools:\n  - {name: p, models: [m, m], aliases: {m: x}, endpoints: ['http://h:1']}\n",
          "2:27 models: 'm' is claimed twice: pool 'p' has it already (line 2)\n2:41 aliases: 'm' is claimed twice: pool 'p' has "
          "it already (line 2)\n");
    finds("pools:\n  - {name: p, models: [m], aliases: {a: m}, endpoints: ['http://h:1']}\n"
          "  - {name: q, models: [n], aliases: {a: n}, endpoints: ['http://h:1']}\n",
          "3:38 aliases: 'a' is claimed twice: pool 'p' has it already (line 2)\n");
    conf_free(sound("pools: [{name: p, models: [m, M, 'm*'], aliases: {n: m, o: m, p: other}, endpoints: ['http://h:1']}]\n"));
}

/* The first in file order has it: that is said where it looks like a slip, and not where the second pool is a fallback. */
static void globs_may_stand_in_two_pools(void **state) {
    (void)state;
    finds("pools:\n  - {name: p, models: ['g*', 'g*'], endpoints: ['http://h:1']}\n  - {name: q, models: ['g*', '*'], endpoints: "
          "['http://h:1']}\n",
          "2:30 warning: models: 'g*' stands in this pool twice\n3:24 warning: models: 'g*' is also in pool 'p', which comes "
          "first: here it is never used\n");
    conf_free(sound("pools:\n  - {name: p, models: ['*'], fallback: q, endpoints: ['http://h:1']}\n  - {name: q, models: ['*'], "
                    "endpoints: ['http://h:2']}\n"));
}

static void fallbacks(void **state) {
    (void)state;
    finds("pools:\n  - {name: chat, models: [m], fallback: rset, endpoints: ['http://h:1']}\n  - {name: rest, models: [n], "
          "fallback: xyzzy, endpoints: ['http://h:1']}\n",
          "2:41 fallback: there is no pool 'rset', did you mean 'rest'?\n3:41 fallback: there is no pool 'xyzzy'\n");
    finds("pools: [{name: p, models: [m], fallback: p, endpoints: ['http://h:1']}]\n",
          "1:42 fallback: a pool cannot be its own fallback\n");
    finds("pools: [{name: p, models: [m], fallback: , endpoints: ['http://h:1']}]\n",
          "1:42 fallback: needs a value: none stands here\n");
    finds("pools:\n  - {name: a, models: [a], fallback: b, endpoints: ['http://h:1']}\n  - {name: b, models: [b], fallback: c, "
          "endpoints: ['http://h:1']}\n"
          "  - {name: c, models: [c], fallback: b, endpoints: ['http://h:1']}\n  - {name: d, models: [d], fallback: e, endpoints: "
          "['http://h:1']}\n"
          "  - {name: e, models: [e], fallback: d, endpoints: ['http://h:1']}\n",
          "3:38 fallback: leads round in a circle: b > c > b\n5:38 fallback: leads round in a circle: d > e > d\n");
}

/* p1 falls back on p2 and so on; the last has none, or p1. */
static void chain(char *text, size_t cap, int pools, bool round) {
    size_t len = (size_t)snprintf(text, cap, "pools:\n");
    for (int i = 1; i <= pools; i++) {
        len += (size_t)snprintf(text + len, cap - len, " - {name: p%d, models: [m%d], endpoints: ['http://h:1']", i, i);
        if (i < pools || round) len += (size_t)snprintf(text + len, cap - len, ", fallback: p%d", i % pools + 1);
        len += (size_t)snprintf(text + len, cap - len, "}\n");
    }
}

static void a_row_of_fallbacks_is_as_long_as_a_request_may_go(void **state) {
    char text[8192];
    struct conf_findings f;
    (void)state;
    chain(text, sizeof text, CONF_CHAIN_MAX, false);
    conf_free(sound(text));
    chain(text, sizeof text, CONF_CHAIN_MAX + 1, false);
    finds(text, "2:66 fallback: more than 32 pools in a row\n");
    chain(text, sizeof text, CONF_CHAIN_MAX + 1, true); /* told once, and in one line */
    assert_null(parse(text, &f));
    assert_int_equal(f.errors, 1);
    assert_non_null(strstr(f.items[0].text, "leads round in a circle: p1 > p2 > p3"));
    conf_findings_free(&f);
}

/* ---- endpoints ---- */

static void endpoints_are_urls(void **state) {
    (void)state;
    finds("pools:\n  - name: p\n    models: [m]\n    endpoints:\n      - https://h\n      - http://u:secret@h\n      - {weight: "
          "2}\n      - {url: 'ftp://h', weight: 0}\n"
          "      - {url: 'http://h:1', weight: 1001, api_key: 'a b'}\n      - [x]\n      - ~\n      - http://h:1:2\n",
          "5:9 endpoints: TLS to endpoints (https://) is not there yet: use http://, or a local TLS proxy\n"
          "6:9 endpoints: must not hold user:password: give an endpoint's key as api_key\n7:9 url: this endpoint has none: "
          "http://host:port or unix:/path\n"
          "8:15 url: must begin with http:// or unix:\n8:34 weight: must be a whole number from 1 to 1000\n9:37 weight: must be a "
          "whole number from 1 to 1000\n"
          "9:52 api_key: is no key: it goes into a header, so it may hold visible ASCII characters only, no blank and no line end\n"
          "10:9 endpoints: must be one value, not a list\n11:9 endpoints: needs a value (a text that reads ~ goes in quotes)\n"
          "12:9 endpoints: has an IPv6 address without brackets: write [::1]:8080\n");
}

static void a_name_may_stand_for_many(void **state) {
    (void)state;
    struct conf *c = sound("pools: [{name: p, models: [m], endpoints: [{url: 'http://h:1', expand: dns}, {url: 'http://h:2', "
                           "expand: none}, 'http://h:3']}]\n");
    assert_true(c->pools[0].endpoints[0].expand);
    assert_false(c->pools[0].endpoints[1].expand || c->pools[0].endpoints[2].expand);
    conf_free(c);
    finds("pools: [{name: p, models: [m], endpoints: [{url: 'unix:/s', expand: dns}]}]\n",
          "1:50 expand: a unix socket has no name with addresses\n");
    finds("pools: [{name: p, models: [m], endpoints: [{url: 'http://h', expand: yes}]}]\n", "1:70 expand: must be none or dns\n");
}

static void an_endpoint_twice_in_a_pool_counts_once(void **state) {
    static const char text[] =
        "pools:\n  - name: p\n    models: [m]\n    endpoints: ['http://a:1', {url: 'http://B:2/v1/', weight: 5, api_key: k},\n"
        "      'http://A:1', {url: 'http://b:2', api_key: k}, 'http://c:3']\n";
    struct conf_findings f;
    (void)state;
    struct conf *c = parse(text, &f);
    assert_int_equal(f.warnings, 2);
    assert_true(f.items[0].warning);
    assert_int_equal(f.items[0].line, 5);
    assert_int_equal(f.items[0].column, 7);
    assert_string_equal(f.items[0].text, "endpoints: http://a:1 stands in this pool twice: it counts once");
    assert_int_equal(c->pools[0].nendpoints, 3);
    assert_string_equal(c->pools[0].endpoints[0].url.text, "http://a:1");
    assert_string_equal(c->pools[0].endpoints[1].url.text, "http://b:2");
    assert_int_equal(c->pools[0].endpoints[1].weight, 5); /* the first counts */
    assert_string_equal(c->pools[0].endpoints[2].url.text, "http://c:3");
    conf_free(c);
    conf_findings_free(&f);
}

static void an_endpoint_is_the_same_in_all_pools(void **state) {
    (void)state;
    finds("pools:\n  - {name: p, models: [m], endpoints: [{url: 'http://h:1', api_key: a}]}\n  - {name: q, models: [n], endpoints: "
          "[{url: 'http://h:1/', api_key: b}, 'http://h:2']}\n"
          "  - {name: r, models: [o], endpoints: ['http://h:1', 'http://h:2'], health: {fall: 9}}\n",
          "3:40 api_key: http://h:1 has another one on line 2: an endpoint has one key, whatever pools it stands in\n"
          "4:40 api_key: http://h:1 has another one on line 2: an endpoint has one key, whatever pools it stands in\n"
          "4:40 health: http://h:1 is in pool 'p' too (line 2), with other health settings: an endpoint is probed in one way\n"
          "4:54 health: http://h:2 is in pool 'q' too (line 3), with other health settings: an endpoint is probed in one way\n");
    finds("pools: [{name: p, models: [m], endpoints: ['http://h:1', {url: 'http://h:1', api_key: b}]}]\n",
          "1:58 api_key: http://h:1 has another one on line 1: an endpoint has one key, whatever pools it stands in\n"
          "1:58 warning: endpoints: http://h:1 stands in this pool twice: it counts once\n");
    conf_free(sound(
        "pools:\n  - {name: p, models: [m], endpoints: [{url: 'http://h:1', api_key: a, weight: 2}], health: {fall: 9, interval: "
        "60s}}\n"
        "  - {name: q, models: [n], endpoints: [{url: 'http://h:1', api_key: a}], health: {fall: 9, interval: 1m}, retries: 0}\n"));
}

/* n sources of that kind in one list, one of them twice. */
static void many(char *text, size_t cap, const char *affinity, const char *kind, int n) {
    size_t len = (size_t)snprintf(text, cap, "defaults:\n  affinity: %s\n  conversation: []\n  identity: [", affinity);
    for (int i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, cap - len, "%s.x%d, ", kind, i);
    snprintf(text + len, cap - len, "%s.x0]\n" POOL, kind);
}

static void the_number_of_sources_is_bounded(void **state) {
    static const char *const kinds[] = {"body", "header"};
    char text[2048], wanted[128];
    (void)state;
    for (int i = 0; i < 2; i++) {
        many(text, sizeof text, "user", kinds[i], CONF_SOURCES_MAX);
        conf_free(sound(text));
        many(text, sizeof text, "conversation", kinds[i], CONF_SOURCES_MAX + 1);
        snprintf(wanted, sizeof wanted, "4:13 identity: too many: all pools together may use 24 different %s sources\n", kinds[i]);
        finds(text, wanted);
        many(text, sizeof text, "none", kinds[i], CONF_SOURCES_MAX + 1); /* nobody looks for them */
        conf_free(sound(text));
    }
}

/* ---- the top level ---- */

static void admin(void **state) {
    (void)state;
    finds(
        "listen: :1\nadmin_listen: :1\n" POOL,
        "2:15 admin_listen: 0.0.0.0:1 is in listen too: it needs an address of its own\n"
        "2:15 warning: admin_listen: others than this machine reach it and there are no admin_keys: anybody may drain endpoints\n");
    finds("admin_keys: [k]\n" POOL, "1:13 warning: admin_keys: they have no effect without admin_listen\n");
    conf_free(sound("admin_listen: 0.0.0.0:1\nadmin_keys: [k]\n" POOL));
    conf_free(sound("admin_listen: '[::1]:1'\n" POOL));
    conf_free(sound("admin_listen: 127.0.0.1:0\nlisten: 127.0.0.1:0\n" POOL));
    conf_free(sound("admin_listen: unix:/a\n" POOL));
}

static void limits_that_contradict(void **state) {
    (void)state;
    finds("body_memory: 1m\n" POOL, "1:14 warning: body_memory: is less than max_body: a body as large as that is never taken\n");
    finds("max_body: 2g\n" POOL, "1:11 warning: body_memory: is less than max_body: a body as large as that is never taken\n");
    conf_free(sound("max_body: 0\n" POOL));
    conf_free(sound("max_body: 2g\nbody_memory: 0\n" POOL));
}

static void keys_from_a_file_are_added(void **state) {
    char path[] = "/tmp/router-test-keys-XXXXXX", text[256];
    int fd = mkstemp(path);
    (void)state;
    assert_int_equal(write(fd, "two\nthree\n", 10), 10);
    close(fd);
    snprintf(text, sizeof text, "api_keys_file: %s\napi_keys: [one]\n" POOL, path);
    struct conf *c = sound(text);
    unlink(path);
    assert_int_equal(c->napi_keys, 3);
    assert_string_equal(c->api_keys[0], "one");
    assert_string_equal(c->api_keys[2], "three");
    assert_string_equal(c->api_keys_file, path);
    conf_free(c);
    finds("api_keys_file: /nonexistent/keys\n" POOL, "1:16 api_keys_file: cannot read that file: No such file or directory\n");
    finds("api_keys_file:\n" POOL, "1:15 api_keys_file: needs a value: none stands here\n");
    conf_free(sound("api_keys_file: null\n" POOL));
}

static void no_finding_repeats_a_key(void **state) {
    struct conf_findings f;
    (void)state;
    assert_null(parse("pools: [{name: p, models: [m], endpoints: ['http://u:SECRET@h', 'http://SECRET@h', 'http://u:SEC/RET@h:1', "
                      "{url: 'http://h', api_key: 'SECRET x'},\n"
                      "  {url: 'http://h', api_key: SECRET}, {url: 'http://h', api_key: SECRET2}]}]\n",
                      &f));
    assert_int_equal(f.errors, 6);
    for (size_t i = 0; i < f.count; i++)
        assert_null(strstr(f.items[i].text, "SEC"));
    conf_findings_free(&f);
}

/* ---- files ---- */

static void loads(const char *path, struct conf_findings *f) {
    struct conf *c = conf_load(path, f);
    if (!c) fail_msg("%s:%d:%d: %s", path, f->items[0].line, f->items[0].column, f->items[0].text);
    assert_string_equal(c->path, path);
    conf_free(c);
    conf_findings_free(f);
}

static void every_example_loads(void **state) {
    struct conf_findings f = {0};
    glob_t g;
    (void)state;
    setenv("ROUTER_KEY", "sk-test", 1);
    setenv("VLLM_KEY", "sk-test", 1);
    loads("pools.yaml", &f);
    assert_int_equal(glob("examples/*.yaml", 0, NULL, &g), 0);
    assert_true(g.gl_pathc >= 8);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        struct conf *c = conf_load(g.gl_pathv[i], &f);
        for (size_t k = 0; k < f.count; k++)
            fail_msg("%s:%d:%d: %s", g.gl_pathv[i], f.items[k].line, f.items[k].column, f.items[k].text);
        assert_non_null(c);
        conf_free(c);
    }
    globfree(&g);
}

static bool same(const struct node *a, const struct node *b) {
    if (a->kind != b->kind || a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (!same(a->items[i], b->items[i])) return false;
    return a->kind != NODE_SCALAR || strcmp(a->text, b->text) == 0;
}

static struct node *tree_of(const char *path) {
    static char text[64 << 10];
    struct node_error err;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t len = fread(text, 1, sizeof text, file);
    fclose(file);
    struct node *n = node_parse(text, len, &err);
    assert_non_null(n);
    return n;
}

static void the_full_example_has_every_key_with_its_default(void **state) {
    size_t n;
    struct node_error err;
    const struct conf_key *keys = conf_keys(&n);
    (void)state;
    struct node *root = tree_of("examples/full.yaml");
    const struct node *defaults = conf_read_member(root, "defaults"), *pool = conf_read_member(root, "pools")->items[0];
    for (size_t i = 0; i < n; i++) {
        const struct conf_key *k = &keys[i];
        const char *block = conf_keys_scope_name((enum conf_scope)k->scope);
        const struct node *map = k->scope == CONF_TOP || k->scope == CONF_LOG           ? root
                                 : k->scope == CONF_POOL && !(k->flags & CONF_DEFAULTS) ? pool
                                                                                        : defaults;
        if (k->scope == CONF_ENDPOINT) map = conf_read_member(pool, "endpoints")->items[1];
        if (*block) map = conf_read_member(map, block);
        const struct node *value = conf_read_member(map, k->name);
        if (!value) fail_msg("examples/full.yaml has no %s%s%s", block, *block ? "." : "", k->name);
        if (!k->preset) continue;
        struct node *preset = node_parse(k->preset, strlen(k->preset), &err);
        if (!same(value, preset)) fail_msg("examples/full.yaml:%d: %s is not %s", value->line, k->name, k->preset);
        node_free(preset);
    }
    node_free(root);
}

static void no_file(void **state) {
    struct conf_findings f = {0};
    (void)state;
    assert_null(conf_load("/nonexistent/pools.yaml", &f));
    assert_null(conf_load("/tmp", &f));
    assert_int_equal(f.errors, 2);
    assert_string_equal(f.items[0].text, "file: cannot be read: No such file or directory");
    assert_int_equal(f.items[0].line, 0);
    assert_string_equal(f.items[1].text, "file: cannot be read: Is a directory");
    conf_findings_free(&f);
}

static void a_file_has_its_bound(void **state) {
    size_t most = (size_t)16 << 20;
    char path[] = "/tmp/router-test-conf-XXXXXX", *text = malloc(most + 1);
    struct conf_findings f = {0};
    FILE *file = fdopen(mkstemp(path), "w");
    (void)state;
    memset(text, '#', most + 1);
    memcpy(text, POOL, strlen(POOL));
    assert_int_equal(fwrite(text, 1, most, file), most);
    fflush(file);
    loads(path, &f);
    fputc('#', file);
    fclose(file);
    assert_null(conf_load(path, &f));
    assert_string_equal(f.items[0].text, "file: is larger than 16 MB");
    conf_findings_free(&f);
    unlink(path);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_original_format),
        cmocka_unit_test(a_pool_with_everything),
        cmocka_unit_test(blocks_merge_key_by_key),
        cmocka_unit_test(what_is_no_configuration),
        cmocka_unit_test(anchors_and_doubles_do_not_hide_the_rest),
        cmocka_unit_test(findings_are_added_to_those_before),
        cmocka_unit_test(pools_are_whole),
        cmocka_unit_test(names_of_models),
        cmocka_unit_test(only_values_are_expanded),
        cmocka_unit_test(a_name_has_one_pool),
        cmocka_unit_test(globs_may_stand_in_two_pools),
        cmocka_unit_test(fallbacks),
        cmocka_unit_test(a_row_of_fallbacks_is_as_long_as_a_request_may_go),
        cmocka_unit_test(endpoints_are_urls),
        cmocka_unit_test(a_name_may_stand_for_many),
        cmocka_unit_test(an_endpoint_twice_in_a_pool_counts_once),
        cmocka_unit_test(an_endpoint_is_the_same_in_all_pools),
        cmocka_unit_test(the_number_of_sources_is_bounded),
        cmocka_unit_test(admin),
        cmocka_unit_test(limits_that_contradict),
        cmocka_unit_test(keys_from_a_file_are_added),
        cmocka_unit_test(no_finding_repeats_a_key),
        cmocka_unit_test(every_example_loads),
        cmocka_unit_test(the_full_example_has_every_key_with_its_default),
        cmocka_unit_test(no_file),
        cmocka_unit_test(a_file_has_its_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
