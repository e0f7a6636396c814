// The bench's guest program: workloads that do a fixed amount of work and return a checksum of it,
// so that a run under an emulator can be compared with a native one, result included.
// C, static, one thread; each file holds one group.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Workload {
    const char *name;
    uint64_t (*run)(unsigned amount);
    unsigned amount; // at scale 1: some 40 ms natively
};

extern const struct Workload integer_workloads[];
extern const struct Workload float_workloads[];
extern const struct Workload memory_workloads[];
extern const struct Workload system_workloads[];

#define NOINLINE __attribute__((noinline))

// A generator of repeatable noise (xorshift64*, Vigna 2016).
static inline uint64_t noise(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

// Folds a value into a checksum; the order of values counts.
static inline uint64_t fold(uint64_t sum, uint64_t value) {
    return (sum ^ value) * 0x100000001b3ull + (sum >> 47);
}

static inline uint64_t fold_double(uint64_t sum, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return fold(sum, bits);
}

static inline void must(int holds, const char *what) {
    if (!holds) {
        perror(what);
        exit(1);
    }
}
