// Floating point: scalar and packed SSE2, and the x87. No library functions beyond sqrt, whose
// result IEEE 754 fixes: a C library picks other code for other CPUs, with other last bits.
#include "tests/bench/work/work.h"
#include <emmintrin.h>

static uint64_t matrix_scalar(unsigned rounds) {
    enum { n = 64 };
    static double a[n][n], b[n][n], c[n][n];
    uint64_t sum = 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            a[i][j] = (i + 1) / (j + 3.0);
            b[i][j] = (j - i) / 64.0;
        }
    for (unsigned r = 0; r < rounds; ++r) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) {
                double total = 0;
                for (int k = 0; k < n; ++k)
                    total += a[i][k] * b[k][j];
                c[i][j] = total;
            }
        a[r % n][r % n] = c[1][2] * 1e-3;
    }
    for (int i = 0; i < n; ++i)
        sum = fold_double(sum, c[i][n - 1 - i]);
    return sum;
}

static uint64_t matrix_packed(unsigned rounds) {
    enum { n = 64 };
    static float a[n][n], b[n][n], c[n][n] __attribute__((aligned(16)));
    uint64_t sum = 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            a[i][j] = (float)(i + 1) / (float)(j + 3);
            b[i][j] = (float)(j - i) / 64;
        }
    for (unsigned r = 0; r < rounds; ++r) {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; j += 4) {
                __m128 total = _mm_setzero_ps();
                for (int k = 0; k < n; ++k)
                    total =
                        _mm_add_ps(total, _mm_mul_ps(_mm_set1_ps(a[i][k]), _mm_loadu_ps(&b[k][j])));
                _mm_storeu_ps(&c[i][j], total);
            }
        a[r % n][r % n] = c[1][2] * 1e-3f;
    }
    for (int i = 0; i < n; ++i)
        sum = fold_double(sum, c[i][n - 1 - i]);
    return sum;
}

static uint64_t bodies(unsigned steps) {
    struct Body {
        double position[3], velocity[3], mass;
    } body[5];
    uint64_t sum = 0;
    for (int i = 0; i < 5; ++i)
        body[i] = (struct Body){{i * 1.5, i * i * 0.5 - 1, 2.0 - i},
                                {0.1 * i, 0.05 * (4 - i), -0.02 * i},
                                1.0 / (i + 1)};
    for (unsigned s = 0; s < steps; ++s) {
        for (int i = 0; i < 5; ++i)
            for (int j = i + 1; j < 5; ++j) {
                double d[3], square = 0.01;
                for (int x = 0; x < 3; ++x) {
                    d[x] = body[i].position[x] - body[j].position[x];
                    square += d[x] * d[x];
                }
                double pull = 1e-3 / (square * __builtin_sqrt(square));
                for (int x = 0; x < 3; ++x) {
                    body[i].velocity[x] -= d[x] * body[j].mass * pull;
                    body[j].velocity[x] += d[x] * body[i].mass * pull;
                }
            }
        for (int i = 0; i < 5; ++i)
            for (int x = 0; x < 3; ++x)
                body[i].position[x] += 1e-3 * body[i].velocity[x];
    }
    for (int i = 0; i < 5; ++i)
        sum = fold_double(sum, body[i].position[0] + body[i].velocity[2]);
    return sum;
}

static uint64_t mandelbrot(unsigned width) {
    uint64_t sum = 0;
    for (unsigned y = 0; y < width; ++y)
        for (unsigned x = 0; x < width; ++x) {
            double cr = 3.0 * x / width - 2.2, ci = 2.4 * y / width - 1.2, r = 0, i = 0;
            unsigned n = 0;
            while (n < 100 && r * r + i * i < 4) {
                double t = r * r - i * i + cr;
                i = 2 * r * i + ci;
                r = t;
                ++n;
            }
            sum += n;
        }
    return sum;
}

static uint64_t conversions(unsigned count) {
    double x = 1.5;
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; ++i) {
        x = x * 1.000001 + (double)(int)(i & 1023) / 7;
        float narrow = (float)x;
        sum += (uint64_t)(int64_t)narrow + (x > narrow) + (i % 3 == 0 && x < 1e6);
        if (x > 1e6)
            x -= 999999.5;
    }
    return fold_double(sum, x);
}

static uint64_t x87(unsigned count) {
    volatile long double start = 0.75L;
    long double x = start, total = 0;
    for (unsigned i = 1; i <= count; ++i) {
        x = x * (3.5L - x) / (1.0L + x * x * 0.25L);
        total += x / (long double)i;
    }
    return fold_double(0, (double)total);
}

const struct Workload float_workloads[] = {
    {"matrix-scalar", matrix_scalar, 120},
    {"matrix-packed", matrix_packed, 400},
    {"bodies", bodies, 250000},
    {"mandelbrot", mandelbrot, 420},
    {"conversions", conversions, 6000000},
    {"x87", x87, 2500000},
    {0},
};
