/* main: argv -> what is to be done.
 * In: the command line. Out: an exit status: 0 done, 1 bad configuration or cannot listen, 2 usage.
 * Owns nothing for long. */
#include <ares.h>
#include <cjson/cJSON.h>
#include <llhttp.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>
#include <yaml.h>

#include "conf.h"
#include "explain.h"
#include "options.h"
#include "probe.h"
#include "server.h"
#include "version.h"

static void print_findings(const char *file, const struct conf_findings *f) {
    for (size_t i = 0; i < f->count; i++) {
        const struct conf_finding *x = &f->items[i];
        const char *kind = x->warning ? "warning" : "error";
        if (x->line)
            fprintf(stderr, "%s:%d:%d: %s: %s\n", file, x->line, x->column, kind, x->text);
        else
            fprintf(stderr, "%s: %s: %s\n", file, kind, x->text);
    }
}

static struct conf *load(const char *file) {
    struct conf_findings f = {0};
    struct conf *c = conf_load(file, &f);
    print_findings(file, &f);
    conf_findings_free(&f);
    return c;
}

static int test_config(const char *file) {
    struct conf *c = load(file);
    if (!c) return 1;
    conf_free(c);
    printf("%s: ok\n", file);
    return 0;
}

static int healthcheck(const struct options *o) {
    if (o->url) return probe_url(o->url);
    if (o->nlisten) return probe_listen(&o->listen[0]);
    struct conf *c = load(o->config);
    if (!c) return 1;
    int status = probe_listen(&c->listen[0]);
    conf_free(c);
    return status;
}

static int version(void) {
    printf("router " ROUTER_VERSION " (libyaml %s, llhttp %d.%d.%d, cJSON %d.%d.%d, xxHash %d.%d.%d, c-ares %s)\n",
           yaml_get_version_string(), LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR, LLHTTP_VERSION_PATCH, CJSON_VERSION_MAJOR,
           CJSON_VERSION_MINOR, CJSON_VERSION_PATCH, XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE, ARES_VERSION_STR);
    return 0;
}

static int explain(const struct options *o) {
    struct conf *c = load(o->config);
    return c ? explain_route(c, o->model, o->user) : 1;
}

static int run(struct options *o) {
    struct conf *c = load(o->config);
    if (!c) return 1;
    struct server_options so = {o->config, o->listen, o->nlisten};
    return server_run(c, &so);
}

int main(int argc, char **argv) {
    struct options o;
    int status = 0;
    const char *wrong = options_read(&o, argc, argv);
    if (wrong) {
        fprintf(stderr, "router: %s\n%s", wrong, options_usage);
        free(o.listen);
        return 2;
    }
    switch (o.verb) {
    case VERB_HELP: fputs(options_usage, stdout); break;
    case VERB_VERSION: status = version(); break;
    case VERB_TEST: status = test_config(o.config); break;
    case VERB_HEALTHCHECK: status = healthcheck(&o); break;
    case VERB_EXPLAIN: status = explain(&o); break;
    case VERB_RUN: status = run(&o); break;
    }
    free(o.listen);
    return status;
}
