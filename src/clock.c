/* clock: two clocks read once a loop turn, and the two ways they are written.
 * Owns the cached times, which are the process's only ones: deadlines of one turn compare equal.
 * Reads no clock but here; formats may ask for the cached date, never for the time. */
#include "clock.h"

#include <stdio.h>
#include <time.h>

static int64_t mono_ms, wall_ms, date_second = -1;
static char date[30];

static int64_t read_us(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

void clock_update(void) {
    mono_ms = read_us(CLOCK_MONOTONIC) / 1000;
    wall_ms = read_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_ms(void) {
    if (!mono_ms) clock_update();
    return mono_ms;
}

int64_t clock_wall_ms(void) {
    if (!mono_ms) clock_update();
    return wall_ms;
}

int64_t clock_now_us(void) {
    return read_us(CLOCK_MONOTONIC);
}

struct str clock_http_date(void) {
    static const char day[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char month[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t now = clock_wall_ms() / 1000;
    if (now != date_second) {
        time_t t = (time_t)now;
        struct tm tm;
        gmtime_r(&t, &tm);
        /* Not strftime: its names follow the locale. */
        snprintf(date, sizeof date, "%s, %02u %s %04u %02u:%02u:%02u GMT", day[tm.tm_wday], (unsigned)tm.tm_mday % 100,
                 month[tm.tm_mon], (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
                 (unsigned)tm.tm_sec % 100);
        date_second = now;
    }
    return (struct str){date, 29};
}

void clock_rfc3339(int64_t ms, char dst[25]) {
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&t, &tm);
    snprintf(dst, 25, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)(tm.tm_mon + 1) % 100,
             (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100,
             (unsigned)(ms % 1000));
}
