// Memory: block moves of many sizes, string instructions, dependent loads.
#include "tests/bench/work/work.h"

enum { megabyte = 1 << 20 };
static unsigned char source[megabyte + 4096], target[megabyte + 4096];

static uint64_t copy(unsigned rounds) {
    uint64_t sum = 0;
    memset(source, 0x5a, sizeof source);
    for (unsigned r = 0; r < rounds; ++r) {
        volatile size_t size = (size_t)16 << r % 12, offset = r * 8 % 4096;
        source[offset] = (unsigned char)r;
        memcpy(target + offset / 2, source + offset, size);
        sum = fold(sum, target[offset / 2] + target[offset / 2 + size - 1]);
    }
    return sum;
}

static uint64_t fill(unsigned rounds) {
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; ++r) {
        volatile size_t size = (size_t)16 << r % 12, offset = r * 8 % 4096;
        memset(target + offset, (int)r, size);
        sum = fold(sum, target[offset + size - 1]);
    }
    return sum;
}

// The string instructions themselves: kernels clear and copy pages with them.
static uint64_t string_moves(unsigned rounds) {
    uint64_t sum = 0;
    memset(source, 0x33, sizeof source);
    for (unsigned r = 0; r < rounds; ++r) {
        void *to = target, *from = source;
        size_t count = 4096;
        source[r % 4096] = (unsigned char)r;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        sum = fold(sum, target[r % 4096]);
    }
    return sum;
}

static uint64_t string_stores(unsigned rounds) {
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; ++r) {
        void *to = target;
        size_t count = 512;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"((uint64_t)r) : "memory");
        sum = fold(sum, target[8 * (r % 512)]);
    }
    return sum;
}

// One cycle through all slots in random order (Sattolo's shuffle): each load waits for the last.
static uint64_t chase(unsigned steps, unsigned slots) {
    uint32_t *next = malloc(slots * sizeof *next);
    uint64_t seed = 17;
    must(next != NULL, "malloc");
    for (uint32_t i = 0; i < slots; ++i)
        next[i] = i;
    for (uint32_t i = slots - 1; i > 0; --i) {
        uint32_t j = (uint32_t)(noise(&seed) % i), t = next[i];
        next[i] = next[j];
        next[j] = t;
    }
    uint32_t at = 0;
    for (unsigned i = 0; i < steps; ++i)
        at = next[at];
    free(next);
    return at;
}

static uint64_t chase_near(unsigned steps) {
    return chase(steps, 4096);
}
static uint64_t chase_far(unsigned steps) {
    return chase(steps, 4 * megabyte);
}

static uint64_t columns(unsigned rounds) {
    enum { n = 1024 };
    static uint16_t table[n][n];
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; ++r)
        for (unsigned x = 0; x < n; ++x)
            for (unsigned y = 0; y < n; ++y)
                sum += table[y][x] = (uint16_t)(table[y][x] + x + y + r);
    return sum;
}

const struct Workload memory_workloads[] = {
    {"copy", copy, 400000},
    {"fill", fill, 600000},
    {"string-moves", string_moves, 300000},
    {"string-stores", string_stores, 300000},
    {"chase-near", chase_near, 20000000},
    {"chase-far", chase_far, 300000},
    {"columns", columns, 12},
    {0},
};
