/* ui: the page of src/ui.html, with a nonce.
 * In: whether drain buttons belong on it. Out: HTML and the policy that goes with it. Owns the page's text, which is built in.
 * Reads no state: the page asks /status by itself. */
#include "ui.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

__asm__(".section .rodata\n"
        ".type ui_page, @object\n"
        "ui_page:\n"
        ".incbin \"src/ui.html\"\n"
        "ui_page_end:\n"
        ".size ui_page, . - ui_page\n"
        ".previous\n");
extern const char ui_page[] __attribute__((visibility("hidden")));
extern const char ui_page_end[] __attribute__((visibility("hidden")));

/* Copies the page, each @NAME@ replaced. */
static void fill(struct buf *out, struct str page, struct str nonce, bool with_verbs) {
    struct str part;
    while (page.len) {
        page = str_cut(page, '@', &part);
        if (str_eq(part, STR("NONCE")))
            buf_puts(out, nonce);
        else if (str_eq(part, STR("VERBS")))
            buf_puts(out, with_verbs ? STR("yes") : STR("no"));
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
    buf_free(&nonce);
}
