#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include <stdint.h>

/* A histogram of times in ns; a bucket is at most 6 % wide. All zero is empty. */
struct tally {
    uint64_t count, sum, max;
    uint32_t buckets[64 * 32];
};

void tally_add(struct tally *t, uint64_t ns);

/* The time below which the given share (0..1) lies, in us. */
double tally_at(const struct tally *t, double share);

/* Prints ,"NAME":{"mean":..,"p50":..,"p90":..,"p99":..,"max":..} in us; nothing where there are no values. */
void tally_print(const struct tally *t, const char *name);

/* Seconds that all threads of some processes have run so far, and that they were ready but waited for a core somebody else had. */
struct tally_cpu {
    double ran, waited;
};

/* pids: "PID,PID"; NULL: none. Exits where they cannot be read. */
struct tally_cpu tally_cpu(const char *pids);

#endif
