/* Random numbers that depend on a seed and a position alone, and the two dithered quantizers; float32.  The operations are those of quantization/dither.py. */
#include "team.h"

#define TILE 1024                   /* numbers worked on together */

enum { DRAW, SUBTRACT, STOCHASTIC };

typedef struct { const float *x; float *y; int64_t n, start, kind; uint64_t seed; float step, low, high; int32_t *most; } Dither;
typedef struct { uint32_t a, b; } Keys;

static Keys keys(uint64_t seed, uint64_t level) {          /* splitmix64 */
    uint64_t z = seed + (level + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    z ^= z >> 31;
    return (Keys){(uint32_t)z, (uint32_t)(z >> 32)};
}

static inline uint32_t mix(uint32_t h, Keys k) {           /* C. Wellons' triple32 */
    h ^= k.a;
    h = (h ^ h >> 17) * 0xED5AD4BBu + k.b;
    h = (h ^ h >> 11) * 0xAC4C1B51u;
    h = (h ^ h >> 15) * 0x31848BABu;
    return h ^ h >> 14;
}

/* True with probability chance / 2^24, given that the first 24 bits were those of floor(chance) */
static int again(float chance, uint32_t index, uint64_t seed) {
    for (uint64_t level = 1;; level++) {
        chance = (chance - floorf(chance)) * 16777216.0f;
        if (chance == 0) return 0;
        float k = (float)(mix(index, keys(seed, level)) & 0xffffff), whole = floorf(chance);
        if (k != whole) return k < whole;
    }
}

static int pieces(const void *p, int64_t begin, int64_t end) {
    const Dither *f = p;
    const Keys k = keys(f->seed, 0);
    const float step = f->step, low = f->low, high = f->high;
    float u[TILE], chance[TILE], away[TILE];
    int32_t most = 0;
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t at = tile * TILE, n = f->n - at < TILE ? f->n - at : TILE;
        const uint32_t first = (uint32_t)(f->start + at);
        const float *x = f->x + at;
        float *y = f->y + at;
        if (f->kind != STOCHASTIC)
            for (int64_t l = 0; l < n; l++) u[l] = ((float)((int32_t)mix(first + (uint32_t)l, k) >> 8) + 0.5f) * 0x1p-24f;
        if (f->kind == DRAW) { memcpy(y, u, n * sizeof *u); continue; }
        const int32_t m = largest_bits(x, n);
        most = m > most ? m : most;
        if (most >= FINITE) return NOT_FINITE;
        if (f->kind == SUBTRACT) {
            for (int64_t l = 0; l < n; l++) {
                float m = rintf(x[l] / step + u[l]);
                m = m < low ? low : m;
                m = m > high ? high : m;
                y[l] = (m - u[l]) * step;
            }
        } else {
            int unclear = 0;
            for (int64_t l = 0; l < n; l++) {
                float v = x[l] / step, m = truncf(v), c = fabsf(v - m) * 16777216.0f, whole = floorf(c);
                float drawn = (float)(mix(first + (uint32_t)l, k) & 0xffffff);
                unclear |= drawn == whole && c > whole;
                chance[l] = c, u[l] = m;
                away[l] = drawn < whole ? (v > 0 ? 1.0f : -1.0f) : 0.0f;
            }
            if (unclear)
                for (int64_t l = 0; l < n; l++)
                    if ((float)(mix(first + (uint32_t)l, k) & 0xffffff) == floorf(chance[l]) && chance[l] > floorf(chance[l]) && again(chance[l], first + (uint32_t)l, f->seed))
                        away[l] = x[l] > 0 ? 1 : -1;
            for (int64_t l = 0; l < n; l++) y[l] = (u[l] + away[l]) * step;
        }
    }
    int32_t seen = __atomic_load_n(f->most, __ATOMIC_RELAXED);
    while (most > seen && !__atomic_compare_exchange_n(f->most, &seen, most, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return OK;
}

/* kind 0: y = U / step for positions start, start + 1, ...; 1: step (round(x / step + U) clamped - U); 2: stochastic rounding.
   parameters: step, low, high; the bits of the largest magnitude of x into `most`. */
int dither(const float *x, float *y, const float *parameters, int32_t *most, const uint64_t *seed, int64_t n, int64_t start, int64_t kind, int64_t threads) {
    Dither f = {x, y, n, start, kind, *seed, parameters[0], parameters[1], parameters[2], most};
    *most = 0;
    return spread(pieces, &f, (n + TILE - 1) / TILE, threads);
}
