/* fuzz_conf: any bytes as a configuration.
 * In: a text. Out: nothing; it aborts where a promise of conf.h is broken: no configuration if and only if there was an error, and
 * every finding has a place in the text, one line of text without control bytes, and stands in the order of the file. */
#include <stdlib.h>

#include "conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
    if (!holds) abort();
}

static void check_findings(const struct conf_findings *f) {
    for (size_t i = 0; i < f->count; i++) {
        const struct conf_finding *x = &f->items[i];
        must(x->line >= 1 && x->column >= 1);
        must(!i || x->line > x[-1].line || (x->line == x[-1].line && x->column >= x[-1].column));
        for (const char *c = x->text; *c; c++)
            must((unsigned char)*c >= 0x20 && *c != 0x7f);
    }
}

static void check_conf(const struct conf *c) {
    must(c->nlisten > 0 && c->npools > 0 && c->max_header && c->max_body && c->log_file);
    for (size_t i = 0; i < c->npools; i++) {
        const struct conf_pool *p = &c->pools[i];
        must(p->name && p->nmodels && p->nendpoints && p->policy.health.path && p->policy.model_list.path);
        must(p->policy.connect_timeout > 0 && p->policy.retries <= CONF_RETRIES_MAX);
        must(!p->fallback || (p->fallback_index < c->npools && p->fallback_index != i));
        for (size_t k = 0; k < p->nendpoints; k++)
            must(p->endpoints[k].weight >= 1 && p->endpoints[k].url.text[0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct conf_findings f = {0};
    struct conf *c = conf_parse("fuzz", (const char *)data, size, &f);
    must((c == NULL) == (f.errors > 0));
    check_findings(&f);
    if (c) check_conf(c);
    conf_free(c);
    conf_findings_free(&f);
    return 0;
}
