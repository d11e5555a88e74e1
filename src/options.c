/* options: argv -> struct options.
 * In: the words of the command line. Out: what to do, or the one word that is wrong. Owns the list of addresses it fills.
 * Opens nothing, reads no file. */
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char options_usage[] =
    "usage: router [-config FILE] [-listen ADDR ...] [-t | -explain MODEL [USER] | -healthcheck [URL] | -version | -help]\n"
    "\n"
    "  -config FILE           configuration file (default pools.yaml)\n"
    "  -listen ADDR           HOST:PORT, [v6]:PORT, :PORT or unix:/path.sock; overrides `listen:`; may be given more than\n"
    "                         once; port 0 picks one and logs it\n"
    "  -t                     check the configuration and exit\n"
    "  -explain MODEL [USER]  print the pool and the ordered endpoints for a model and a user, from the configuration alone\n"
    "  -healthcheck [URL]     GET the URL (default /health on the configured address); exit 0 on 200, else 1\n"
    "  -version, -help        print and exit\n";

static char problem[256];

static const char *bad(const char *fmt, const char *word) {
    char form[128];
    snprintf(form, sizeof form, "%s", fmt);
    char *at = strstr(form, "%s");
    if (!at) return str_copy(problem, sizeof problem, str_of(form)), problem;
    *at = 0;
    snprintf(problem, sizeof problem, "%s%.100s%s", form, word, at + 2);
    return problem;
}

static const char *add_listen(struct options *o, const char *text) {
    struct value_listen l;
    const char *wrong = value_listen(str_of(text), &l);
    if (wrong) {
        snprintf(problem, sizeof problem, "-listen %.80s: %.150s", text, wrong);
        return problem;
    }
    o->listen = must_realloc(o->listen, (o->nlisten + 1) * sizeof *o->listen);
    o->listen[o->nlisten++] = l;
    return NULL;
}

static const char *set_verb(struct options *o, enum options_verb verb) {
    if (o->verb != VERB_RUN && o->verb != verb)
        return bad("only one of -t, -explain, -healthcheck, -version, -help can be done", "");
    o->verb = verb;
    return NULL;
}

/* The flag's name without dashes; *value gets what follows '=', or NULL. */
static struct str flag_name(const char *word, const char **value) {
    while (*word == '-')
        word++;
    const char *eq = strchr(word, '=');
    *value = eq ? eq + 1 : NULL;
    return eq ? (struct str){word, (size_t)(eq - word)} : str_of(word);
}

static const char *read_one(struct options *o, int argc, char **argv, int *i) {
    const char *word = argv[*i], *value;
    bool dashes = word[0] == '-' && word[1] && !(word[1] == '-' && (!word[2] || word[2] == '-'));
    if (!dashes) return bad("'%s' is not a flag", word);
    struct str name = flag_name(word, &value);
    bool takes = str_eq(name, STR("config")) || str_eq(name, STR("listen")) || str_eq(name, STR("explain"));
    if (takes && !value && !(value = *i + 1 < argc ? argv[++*i] : NULL)) return bad("%s needs a value", word);
    if (str_eq(name, STR("config"))) return o->config = value, (const char *)NULL;
    if (str_eq(name, STR("listen"))) return add_listen(o, value);
    if (str_eq(name, STR("explain"))) {
        o->model = value;
        if (*i + 1 < argc && argv[*i + 1][0] != '-') o->user = argv[++*i];
        return set_verb(o, VERB_EXPLAIN);
    }
    if (str_eq(name, STR("healthcheck"))) {
        o->url = value ? value : *i + 1 < argc && argv[*i + 1][0] != '-' ? argv[++*i] : NULL;
        return set_verb(o, VERB_HEALTHCHECK);
    }
    if (value) return bad("'%s' is not a flag that takes a value", word);
    if (str_eq(name, STR("t"))) return set_verb(o, VERB_TEST);
    if (str_eq(name, STR("version")) || str_eq(name, STR("v"))) return set_verb(o, VERB_VERSION);
    if (str_eq(name, STR("help")) || str_eq(name, STR("h"))) return set_verb(o, VERB_HELP);
    return bad("unknown flag '%s'", word);
}

const char *options_read(struct options *o, int argc, char **argv) {
    *o = (struct options){.verb = VERB_RUN, .config = "pools.yaml"};
    for (int i = 1; i < argc; i++) {
        const char *wrong = read_one(o, argc, argv, &i);
        if (wrong) return wrong;
    }
    return NULL;
}
