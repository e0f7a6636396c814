// Integer work: what compilers make of ordinary programs (loops, tables, branches, calls).
#include "tests/bench/work/work.h"

// --- SHA-256 (FIPS 180-4, 6.2) -------------------------------------------------------------------
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, unsigned n) {
    return x >> n | x << (32 - n);
}

static NOINLINE void compress(uint32_t hash[8], const unsigned char block[64]) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; ++i) {
        memcpy(&w[i], block + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (int i = 16; i < 64; ++i) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    memcpy(v, hash, sizeof v);
    for (int i = 0; i < 64; ++i) {
        uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t t1 = v[7] + s1 + choice + round_constants[i] + w[i];
        uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + s0 + majority;
    }
    for (int i = 0; i < 8; ++i)
        hash[i] += v[i];
}

static uint64_t sha256(unsigned blocks) {
    unsigned char data[64 * 64];
    uint32_t hash[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (unsigned i = 0; i < sizeof data; ++i)
        data[i] = (unsigned char)(i * 131);
    for (unsigned i = 0; i < blocks; ++i)
        compress(hash, data + i % 64 * 64);
    return (uint64_t)hash[0] << 32 | hash[5];
}

// --- sorting -------------------------------------------------------------------------------------
static NOINLINE void sift_down(uint32_t *heap, unsigned at, unsigned count) {
    uint32_t value = heap[at];
    for (unsigned child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] > heap[child])
            ++child;
        if (heap[child] <= value)
            break;
        heap[at] = heap[child];
    }
    heap[at] = value;
}

static uint64_t heap_sort(unsigned count) {
    uint32_t *a = malloc(count * sizeof *a);
    uint64_t seed = 42, sum = 0;
    must(a != NULL, "malloc");
    for (unsigned i = 0; i < count; ++i)
        a[i] = (uint32_t)noise(&seed);
    for (unsigned i = count / 2; i-- > 0;)
        sift_down(a, i, count);
    for (unsigned n = count; n-- > 1;) {
        uint32_t largest = a[0];
        a[0] = a[n];
        a[n] = largest;
        sift_down(a, 0, n);
    }
    for (unsigned i = 0; i < count; i += 997)
        sum = fold(sum, a[i]);
    free(a);
    return sum;
}

static int compare(const void *a, const void *b) {
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return (x > y) - (x < y);
}

static uint64_t library_sort(unsigned count) {
    uint32_t *a = malloc(count * sizeof *a);
    uint64_t seed = 43, sum = 0;
    must(a != NULL, "malloc");
    for (unsigned i = 0; i < count; ++i)
        a[i] = (uint32_t)noise(&seed);
    qsort(a, count, sizeof *a, compare); // an indirect call for each comparison
    for (unsigned i = 0; i < count; i += 997)
        sum = fold(sum, a[i]);
    free(a);
    return sum;
}

// --- CRC-32 by table (IEEE 802.3 polynomial, reflected) ------------------------------------------
static uint64_t crc32(unsigned kilobytes) {
    uint32_t table[256], crc = ~0u;
    unsigned char data[1024];
    for (uint32_t i = 0; i < 256; ++i) {
        table[i] = i;
        for (int bit = 0; bit < 8; ++bit)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (unsigned i = 0; i < sizeof data; ++i)
        data[i] = (unsigned char)(i * 7 + i / 256);
    for (unsigned k = 0; k < kilobytes; ++k)
        for (unsigned i = 0; i < sizeof data; ++i)
            crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return crc;
}

// --- an open-addressed hash table ----------------------------------------------------------------
static uint64_t hash_table(unsigned operations, unsigned bits) {
    struct {
        uint64_t key, value;
    } *slots = calloc((size_t)1 << bits, sizeof *slots);
    uint64_t seed = 7, sum = 0, mask = (1ull << bits) - 1;
    must(slots != NULL, "calloc");
    for (unsigned i = 0; i < operations; ++i) {
        uint64_t key = noise(&seed) % (mask * 5 / 8) + 1;
        uint64_t at = key * 0x9e3779b97f4a7c15ull >> (64 - bits);
        while (slots[at].key && slots[at].key != key)
            at = (at + 1) & mask;
        slots[at].key = key;
        slots[at].value += i;
        sum += slots[at].value;
    }
    free(slots);
    return sum;
}

static uint64_t hash_small(unsigned operations) {
    return hash_table(operations, 10);
}
static uint64_t hash_large(unsigned operations) {
    return hash_table(operations, 19);
}

// --- strings: split text into words, count and compare them, byte by byte ------------------------
static NOINLINE int same_word(const char *a, const char *b, unsigned length) {
    while (length && *a == *b)
        ++a, ++b, --length;
    return length == 0;
}

static uint64_t words(unsigned rounds) {
    static char text[8192];
    uint64_t seed = 5, sum = 0;
    for (unsigned i = 0; i < sizeof text - 1; ++i)
        text[i] = "eeettaaoinshr    dlu\n"[noise(&seed) % 21];
    for (unsigned r = 0; r < rounds; ++r) {
        const char *previous = text;
        unsigned count = 0, repeats = 0, lines = 0, letters = 0;
        for (const char *p = text; *p;) {
            while (*p == ' ' || *p == '\n')
                lines += *p++ == '\n';
            const char *start = p;
            while (*p && *p != ' ' && *p != '\n')
                letters += (unsigned)(*p++ - 'a');
            repeats += (unsigned)same_word(previous, start, (unsigned)(p - start));
            previous = start;
            ++count;
        }
        sum = fold(sum, count + repeats * 3ull + lines * 5ull + letters * 7ull);
        text[r % (sizeof text - 1)] ^= 1;
    }
    return sum;
}

static uint64_t library_strings(unsigned rounds) {
    static char a[4096], b[4096];
    uint64_t sum = 0;
    for (unsigned i = 0; i < sizeof a - 1; ++i)
        a[i] = (char)('a' + (i * 7 + i / 13) % 23);
    for (unsigned r = 0; r < rounds; ++r) {
        char *volatile from = a + r % 512;
        *from = (char)('a' + r % 23);
        sum += strlen(from);
        char *found = strchr(from, 'z');
        sum = fold(sum, found ? (uint64_t)(found - from) : 1);
        strcpy(b, from);
        sum += memcmp(b, from, 1024) == 0;
        sum += strstr(b, "xyz0") == NULL;
    }
    return sum;
}

// --- a dictionary compressor: a hash of four bytes, the longest match there ----------------------
static uint64_t compressor(unsigned rounds) {
    enum { size = 1 << 16 };
    static unsigned char in[size + 8], out[2 * size];
    static uint32_t last[1 << 12];
    uint64_t seed = 11, sum = 0;
    for (unsigned i = 0; i < size;) {
        unsigned run = 3 + (unsigned)(noise(&seed) % 24), back = 1 + (unsigned)(noise(&seed) % 50);
        if (i > 100 && noise(&seed) % 4)
            for (; run-- && i < size; ++i)
                in[i] = in[i - back];
        else
            in[i++] = (unsigned char)("abcdefghij klmn\n"[noise(&seed) % 16]);
    }
    for (unsigned r = 0; r < rounds; ++r) {
        unsigned put = 0;
        memset(last, 0, sizeof last);
        for (unsigned at = 0; at < size - 8;) {
            uint32_t four, there;
            memcpy(&four, in + at, 4);
            uint32_t *slot = &last[four * 2654435761u >> 20];
            unsigned candidate = *slot, length = 0;
            *slot = at;
            memcpy(&there, in + candidate, 4);
            if (candidate < at && there == four)
                for (length = 4; at + length < size && length < 255; ++length)
                    if (in[at + length] != in[candidate + length])
                        break;
            if (length) {
                out[put++] = 0xff;
                out[put++] = (unsigned char)length;
                out[put++] = (unsigned char)(at - candidate);
                at += length;
            } else {
                out[put++] = in[at++];
            }
        }
        sum = fold(sum, put + out[put / 2]);
        in[r % size] ^= 3;
    }
    return sum;
}

// --- an interpreter of byte code -----------------------------------------------------------------
static uint64_t interpreter(unsigned loops) {
    enum { load, add, shift, mix, store, test, jump_back, stop };
    static const unsigned char program[] = {load, 0, add,   1, mix,  2, shift,     7,  store, 1,
                                            load, 2, mix,   0, add,  3, store,     2,  load,  3,
                                            add,  1, store, 0, test, 0, jump_back, 26, stop,  0};
    uint64_t registers[4] = {1, 2, 3, 5}, accumulator = 0;
    unsigned left = loops;
    for (const unsigned char *pc = program;;) {
        unsigned operation = pc[0], operand = pc[1];
        pc += 2;
        switch (operation) {
        case load: accumulator = registers[operand]; break;
        case add: accumulator += registers[operand]; break;
        case shift: accumulator = accumulator << operand | accumulator >> (64 - operand); break;
        case mix: accumulator ^= registers[operand] >> 3; break;
        case store: registers[operand] = accumulator; break;
        case test: left -= 1; break;
        case jump_back:
            if (left)
                pc -= operand + 2;
            break;
        default: return accumulator ^ registers[1] ^ registers[2];
        }
    }
}

// --- calls: direct and recursive, and through a table --------------------------------------------
static NOINLINE unsigned fibonacci(unsigned n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t calls(unsigned rounds) {
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; ++r)
        sum = fold(sum, fibonacci(20 + r % 3));
    return sum;
}

static NOINLINE uint64_t step_a(uint64_t x) {
    return x + 3;
}
static NOINLINE uint64_t step_b(uint64_t x) {
    return x * 5;
}
static NOINLINE uint64_t step_c(uint64_t x) {
    return x ^ x >> 7;
}
static NOINLINE uint64_t step_d(uint64_t x) {
    return x << 1 | x >> 63;
}

static uint64_t indirect_calls(unsigned count) {
    static uint64_t (*const steps[])(uint64_t) = {step_a, step_b, step_c, step_d};
    uint64_t x = 1;
    for (unsigned i = 0; i < count; ++i)
        x = steps[(x ^ i) & 3](x);
    return x;
}

// --- wide arithmetic and division ----------------------------------------------------------------
static uint64_t big_numbers(unsigned rounds) {
    enum { limbs = 32 };
    uint64_t a[limbs], product[2 * limbs], seed = 3, sum = 0;
    for (int i = 0; i < limbs; ++i)
        a[i] = noise(&seed);
    for (unsigned r = 0; r < rounds; ++r) {
        memset(product, 0, sizeof product);
        for (int i = 0; i < limbs; ++i) {
            uint64_t carry = 0;
            for (int j = 0; j < limbs; ++j) {
                unsigned __int128 t = (unsigned __int128)a[i] * a[j] + product[i + j] + carry;
                product[i + j] = (uint64_t)t;
                carry = (uint64_t)(t >> 64);
            }
            product[i + limbs] = carry;
        }
        memcpy(a, product + limbs / 2, sizeof a);
        a[0] |= 1;
        sum = fold(sum, a[limbs / 2]);
    }
    return sum;
}

static uint64_t division(unsigned count) {
    uint64_t seed = 9, sum = 0;
    for (unsigned i = 0; i < count; ++i) {
        uint64_t n = noise(&seed);
        uint64_t d = n >> 40 | 1;
        sum += n / d + n % (d + 2) + (uint32_t)n / (uint32_t)(d | 4);
    }
    return sum;
}

// --- branches that no predictor knows ------------------------------------------------------------
static uint64_t branches(unsigned count) {
    uint64_t sum = 0;
    for (unsigned i = 1; i <= count; ++i)
        for (uint64_t n = i; n != 1; ++sum)
            n = n & 1 ? 3 * n + 1 : n / 2;
    return sum;
}

const struct Workload integer_workloads[] = {
    {"sha256", sha256, 150000},
    {"heap-sort", heap_sort, 300000},
    {"library-sort", library_sort, 350000},
    {"crc32", crc32, 20000},
    {"hash-small", hash_small, 6000000},
    {"hash-large", hash_large, 2200000},
    {"words", words, 2500},
    {"library-strings", library_strings, 120000},
    {"compressor", compressor, 150},
    {"interpreter", interpreter, 1500000},
    {"calls", calls, 1000},
    {"indirect-calls", indirect_calls, 8000000},
    {"big-numbers", big_numbers, 40000},
    {"division", division, 4000000},
    {"branches", branches, 60000},
    {0},
};
