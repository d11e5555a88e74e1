/* usage: fed whole or in pieces of any size, an answer tells the same counts and has its first token as often. */
#include <assert.h>
#include <string.h>

#include "usage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned feed(struct usage *u, const char *text, size_t len) {
    usage_feed(u, text, len);
    bool first = u->first_token;
    u->first_token = false;
    return first;
}

/* The first byte is the kind, and how often the end of the rest (2 KB) is told again, for a tail goes round only in long bodies. The
 * second is how it is cut: into pieces of 8 bytes at most, or of more. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char text[32 << 10];
    struct usage whole, split;
    unsigned tokens[2] = {0, 0}, seed;
    if (size < 2) return 0;
    size_t len = size - 2 < sizeof text / 2 ? size - 2 : sizeof text / 2, from = len > 2048 ? len - 2048 : 0, part = len - from;
    memcpy(text, data + 2, len);
    for (int n = part ? (data[0] >> 4) - 10 : 0; n > 0; n--, len += part)
        memcpy(text + len, text + from, part);
    usage_begin(&whole, (enum usage_kind)(data[0] % 4));
    usage_begin(&split, (enum usage_kind)(data[0] % 4));
    tokens[0] = feed(&whole, text, len);
    seed = data[1];
    for (size_t at = 0, n; at < len; at += n) {
        seed = seed * 1103515245u + 12345u;
        n = data[1] < 64 ? 1 + (seed >> 16) % 8 : 1 + (seed >> 16) % (data[1] * 64u);
        if (n > len - at) n = len - at;
        tokens[1] += feed(&split, text + at, n);
        assert(split.tail_len <= USAGE_TAIL && (!split.tail_len || split.tail));
    }
    usage_end(&whole);
    usage_end(&split);
    assert(!whole.tail && !split.tail);
    tokens[0] += whole.first_token;
    tokens[1] += split.first_token;
    assert(tokens[0] == tokens[1] && tokens[0] <= 1);
    assert(memcmp(&whole.counts, &split.counts, sizeof whole.counts) == 0);
    return 0;
}
