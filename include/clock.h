/* clock: the time, read once a loop turn. Everybody else asks here, so that a turn has one "now". */
#ifndef CLOCK_H
#define CLOCK_H
#include "str.h"

void clock_update(void);          /* reads both clocks; the loop calls it after each wait */
int64_t clock_ms(void);           /* monotonic, ms, cached */
int64_t clock_wall_ms(void);      /* since 1970 in UTC, ms, cached */
int64_t clock_now_us(void);       /* monotonic, µs, read now: for measuring, not for deadlines */
struct str clock_http_date(void); /* IMF-fixdate of the cached second (RFC 9110 5.6.7), 29 bytes */
/* RFC 3339 in UTC with ms and Z, 24 bytes, NUL-terminated into dst (25 bytes at least). */
void clock_rfc3339(int64_t wall_ms, char dst[25]);
#endif
