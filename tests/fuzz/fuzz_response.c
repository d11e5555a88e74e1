/* fuzz_response: a response, 1xx before it, and the connection's end, as http reads them. In: see events_fuzz. The events must not hang on how the
 * bytes were cut, every span must lie in the bytes given, and what is accepted must hold what http.h promises of it. */
#include "events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    events_fuzz(MESSAGE_RESPONSE, data, size);
    return 0;
}
