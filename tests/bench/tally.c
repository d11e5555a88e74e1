/* tally: times in a histogram, and the CPU time of other processes.
 * In: times in ns, process ids. Out: percentiles as JSON, seconds. Owns nothing.
 * CPU time is what the scheduler counted in ns (/proc/PID/task/TID/schedstat), not the ticks of /proc/PID/stat. */
#include "tally.h"
#include "net.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

void tally_add(struct tally *t, uint64_t ns) {
    unsigned shift = ns < 32 ? 0 : (unsigned)(63 - __builtin_clzll(ns)) - 4;
    t->buckets[ns < 32 ? ns : (ns >> shift) + (uint64_t)shift * 16]++;
    t->count++;
    t->sum += ns;
    if (ns > t->max) t->max = ns;
}

double tally_at(const struct tally *t, double share) {
    uint64_t wanted = (uint64_t)((double)t->count * share), seen = 0;
    for (unsigned i = 0; i < sizeof t->buckets / sizeof *t->buckets; i++) {
        seen += t->buckets[i];
        if (seen <= wanted) continue;
        unsigned shift = i < 32 ? 0 : i / 16 - 1;
        uint64_t low = i < 32 ? i : (uint64_t)(i % 16 + 16) << shift;
        return ((double)low + (double)((uint64_t)1 << shift) / 2) / 1000;
    }
    return (double)t->max / 1000;
}

void tally_print(const struct tally *t, const char *name) {
    if (!t->count) return;
    printf(",\"%s\":{\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name,
           (double)t->sum / (double)t->count / 1000, tally_at(t, 0.5), tally_at(t, 0.9), tally_at(t, 0.99), (double)t->max / 1000);
}

/* Adds what one thread has run and waited; nothing for one that has just ended. */
static void add_thread(struct tally_cpu *sum, unsigned long pid, const char *tid) {
    char path[128], text[64] = "", *end;
    snprintf(path, sizeof path, "/proc/%lu/task/%.32s/schedstat", pid, tid);
    FILE *f = fopen(path, "r");
    if (!f) return;
    size_t n = fread(text, 1, sizeof text - 1, f);
    (void)fclose(f);
    if (!n) return;
    sum->ran += strtod(text, &end) / 1e9;
    sum->waited += strtod(end, NULL) / 1e9;
}

struct tally_cpu tally_cpu(const char *pids) {
    struct tally_cpu sum = {0};
    for (const char *at = pids; at && *at;) {
        char path[64], *end;
        unsigned long pid = strtoul(at, &end, 10);
        snprintf(path, sizeof path, "/proc/%lu/task", pid);
        DIR *threads = opendir(path);
        if (!threads) net_die(path);
        for (const struct dirent *d; (d = readdir(threads));)
            if (d->d_name[0] != '.') add_thread(&sum, pid, d->d_name);
        closedir(threads);
        at = *end == ',' ? end + 1 : "";
    }
    return sum;
}
