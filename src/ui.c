/* ui: the page of src/ui.html, with a nonce and a first table of endpoints.
 * In: whether drain buttons belong on it. Out: HTML and the policy that goes with it. Owns the page's text, which is built in.
 * The table is what a browser without JavaScript shows; with it the page asks /status by itself. Text that is not ours is escaped. */
#include "ui.h"

#include <stdlib.h>
#include <sys/random.h>

#include "world.h"

__asm__(".section .rodata\n"
        ".globl ui_page, ui_page_end\n" /* link-time optimization may part it from its readers */
        ".hidden ui_page, ui_page_end\n"
        ".type ui_page, @object\n"
        "ui_page:\n"
        ".incbin \"src/ui.html\"\n"
        "ui_page_end:\n"
        ".size ui_page, . - ui_page\n"
        ".previous\n");
extern const char ui_page[] __attribute__((visibility("hidden")));
extern const char ui_page_end[] __attribute__((visibility("hidden")));

static void put_text(struct buf *b, const char *text) {
    for (const char *p = text; *p; p++) {
        if (*p == '<')
            BUF_LIT(b, "&lt;");
        else if (*p == '&')
            BUF_LIT(b, "&amp;");
        else
            buf_putc(b, *p);
    }
}

static void put_ms(struct buf *b, int64_t ms) {
    if (ms < 0)
        BUF_LIT(b, "<td class=\"n late\">–</td>");
    else
        buf_printf(b, "<td class=\"n late\">%lld ms</td>", (long long)ms);
}

static void put_row(struct buf *b, const struct pool *p, const struct member *m) {
    const struct endpoint *e = m->endpoint;
    const char *state = endpoint_state_name(endpoint_state(e));
    BUF_LIT(b, "<tr><td>");
    put_text(b, p->conf->name);
    BUF_LIT(b, "</td><td class=\"url\">");
    put_text(b, e->url.text);
    buf_printf(b, "</td><td class=\"state %s\">%s</td><td>%u</td><td class=\"n\">%llu</td><td class=\"n\">%llu</td>", state, state,
               e->in_flight, (unsigned long long)e->requests, (unsigned long long)e->failures);
    put_ms(b, histogram_quantile(&m->stats->first_byte, 50));
    put_ms(b, histogram_quantile(&m->stats->first_byte, 99));
    buf_printf(b, "<td class=\"n late\">%zu</td><td class=\"reason\">", e->models.count);
    put_text(b, e->reason);
    BUF_LIT(b, "</td><td></td></tr>");
}

static void put_rows(struct buf *b) {
    const struct world *w = world_current();
    for (size_t i = 0; i < w->npools; i++)
        for (size_t k = 0; k < w->pools[i].nmembers; k++)
            put_row(b, &w->pools[i], &w->pools[i].members[k]);
}

/* Copies the page, each @NAME@ replaced. A lone @ of the page's own stays. */
static void fill(struct buf *out, struct str page, struct str nonce, bool with_verbs) {
    struct str part;
    bool own = true;
    while (page.len) {
        page = str_cut(page, '@', &part);
        bool name = str_eq(part, STR("NONCE")) || str_eq(part, STR("VERBS")) || str_eq(part, STR("ROWS"));
        if (!own && !name) buf_putc(out, '@');
        own = name;
        if (str_eq(part, STR("NONCE")))
            buf_puts(out, nonce);
        else if (str_eq(part, STR("VERBS")))
            buf_puts(out, with_verbs ? STR("yes") : STR("no"));
        else if (str_eq(part, STR("ROWS")))
            put_rows(out);
        else
            buf_puts(out, part);
    }
}

void ui_render(struct buf *page, struct buf *policy, bool with_verbs) {
    uint64_t bits[2];
    struct buf nonce = {0};
    if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits) abort();
    buf_putx(&nonce, bits[0]);
    buf_putx(&nonce, bits[1]);
    BUF_LIT(policy,
            "Content-Security-Policy: default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; script-src 'nonce-");
    buf_puts(policy, buf_str(&nonce));
    BUF_LIT(policy, "'; style-src 'nonce-");
    buf_puts(policy, buf_str(&nonce));
    BUF_LIT(policy, "'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\n");
    fill(page, (struct str){ui_page, (size_t)(ui_page_end - ui_page)}, buf_str(&nonce), with_verbs);
    page->failed |= nonce.failed;
    buf_free(&nonce);
}
