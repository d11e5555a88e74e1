/* ui: the page that shows /status to people. One document, nothing from outside. */
#ifndef UI_H
#define UI_H
#include "buf.h"

/* The page, and the Content-Security-Policy that fits it, as a ready field line; both appended. The page's own script and style
 * carry a nonce made for this answer: nothing else in it can run (CSP level 3, 6.7.3.3). */
void ui_render(struct buf *page, struct buf *policy, bool with_verbs);
#endif
