/* Numbers rounded to a grid, a float format or a codebook, one by one or in blocks with scales; float32.
   Every function does the operations of its eager namesake in the same order, so that the results are equal.
   CHAIN, the number of levels up to which all thresholds are compared, is a flag of the compiler. */
#include "team.h"

#define TILE 1024                   /* numbers worked on together */
#define FINITE 0x7f800000           /* magnitudes of finite numbers have smaller bits */

enum { GRID, FLOATS, LEVELS };      /* kinds of rules */
enum { MAGNITUDE, SIGNED, RANGE };  /* kinds of extremes */

/* GRID: step (round((x / step - offset) clamped to low, high) + offset).  FLOATS: as in float_formats.
   LEVELS: points between thresholds, by comparing all, or by a table of bins as in codebooks.  `cut` limits what enters FLOATS. */
typedef struct {
    int32_t kind, count, first, last, digits, mantissa, top_code, sign, one_zero;
    float step, offset, low, high, top, cut, start, scale;
    const float *points, *thresholds, *inside, *below_points;
    const int32_t *below;
    int32_t bins;
} Rule;

typedef union { float f; int32_t i; } Bits;

static inline int32_t bits_of(float x) { return ((Bits){.f = x}).i; }
static inline float float_of(int32_t i) { return ((Bits){.i = i}).f; }
static inline float limit(float x, float low, float high) { x = x < low ? low : x; return x > high ? high : x; }
static inline int32_t limit_int(int32_t x, int32_t low, int32_t high) { x = x < low ? low : x; return x > high ? high : x; }

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

/* Nearest values of u (n <= TILE, rounded up to 16) in its own place. */
static void to_values(float *u, int64_t n, const Rule *r) {
    if (r->kind == GRID) {
        const float o = r->offset, low = r->low, high = r->high;
        if (o) for (int64_t l = 0; l < n; l++) u[l] = limit(rintf(u[l] - o), low, high) + o;
        else for (int64_t l = 0; l < n; l++) u[l] = limit(rintf(u[l]), low, high);
    } else if (r->kind == FLOATS) {
        const int32_t offset = ((r->digits - r->mantissa) << r->digits) + (1 << (r->digits - 1)), first = r->first, last = r->last;
        const int32_t keep = r->one_zero ? 0 : INT32_MIN;
        const float top = r->top, cut = r->cut;
        for (int64_t l = 0; l < n; l++) {
            int32_t bits = bits_of(limit(u[l], -cut, cut));
            float s = float_of(limit_int(bits & FINITE, first, last) + offset);
            u[l] = float_of(bits_of(limit((float_of(bits) + s) - s, -top, top)) | (bits & keep));
        }
    } else if (r->count <= CHAIN) {
        for (int64_t l = 0; l < n; l += 16) {
            v16 x, y;
            memcpy(&x, u + l, sizeof x);
            y = (v16){} + r->points[0];
            for (int32_t j = 1; j < r->count; j++) {
                i16 up = x > r->thresholds[j - 1];
                y = (v16)(((i16)y & ~up) | ((i16)((v16){} + r->points[j]) & up));
            }
            memcpy(u + l, &y, sizeof y);
        }
    } else {
        const float start = r->start, scale = r->scale, most = r->bins - 1, *inside = r->inside, *points = r->below_points;
        for (int64_t l = 0; l < n; l++) {
            int32_t k = (int32_t)limit((u[l] - start) * scale, 0, most);
            u[l] = points[2 * k + (u[l] > inside[k])];
        }
    }
}

/* Their codes. */
static void to_codes(float *u, int32_t *codes, int64_t n, const Rule *r) {
    if (r->kind == GRID) {
        const float low = r->low, high = r->high;
        for (int64_t l = 0; l < n; l++) codes[l] = (int32_t)(limit(rintf(u[l]), low, high) - low);
    } else if (r->kind == FLOATS) {
        const int32_t shift = r->digits - r->mantissa, offset = shift << r->digits, first = r->first, last = r->last, top = r->top_code, sign = r->sign;
        const int32_t minus_zero = r->one_zero ? 0 : -1;
        const float cut = r->cut;
        for (int64_t l = 0; l < n; l++) {
            int32_t bits = bits_of(limit(u[l], -cut, cut)), e = limit_int(bits & FINITE, first, last), s = e + offset;
            int32_t code = bits_of(float_of(bits & INT32_MAX) + float_of(s)) - s + ((e - first) >> shift);
            code = code > top ? top : code;
            codes[l] = code | ((bits >> 31) & sign & (code ? -1 : minus_zero));
        }
    } else if (r->count <= CHAIN) {
        for (int64_t l = 0; l < n; l += 16) {
            v16 x;
            i16 j = {};
            memcpy(&x, u + l, sizeof x);
            for (int32_t i = 1; i < r->count; i++) j -= x > r->thresholds[i - 1];
            memcpy(codes + l, &j, sizeof j);
        }
    } else {
        const float start = r->start, scale = r->scale, most = r->bins - 1, *inside = r->inside;
        const int32_t *below = r->below;
        for (int64_t l = 0; l < n; l++) {
            int32_t k = (int32_t)limit((u[l] - start) * scale, 0, most);
            codes[l] = below[k] + (u[l] > inside[k]);
        }
    }
}

static int32_t largest_bits(const float *x, int64_t n) {
    int32_t m = 0;
    for (int64_t l = 0; l < n; l++) { int32_t b = bits_of(x[l]) & INT32_MAX; m = b > m ? b : m; }
    return m;
}

/* ------------------------------------------------------------------------------------------ one by one */
typedef struct { const float *x; void *out; int64_t n, size; const Rule *rule; int32_t *most; } Elements;

static int elements(const void *p, int64_t begin, int64_t end) {
    const Elements *f = p;
    const Rule *r = f->rule;
    float u[TILE] __attribute__((aligned(64)));
    int32_t codes[TILE] __attribute__((aligned(64))), most = 0;
    memset(u, 0, sizeof u);
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t at = tile * TILE, n = f->n - at < TILE ? f->n - at : TILE;
        const float *x = f->x + at, step = r->step;
        int32_t m = largest_bits(x, n);
        if (m >= FINITE) return NOT_FINITE;
        most = m > most ? m : most;
        if (r->kind == GRID) for (int64_t l = 0; l < n; l++) u[l] = x[l] / step;
        else memcpy(u, x, n * sizeof *u);
        if (!f->size) {
            float *y = (float *)f->out + at;
            to_values(u, n, r);
            if (r->kind == GRID) for (int64_t l = 0; l < n; l++) y[l] = u[l] * step;
            else memcpy(y, u, n * sizeof *u);
        } else {
            to_codes(u, codes, n, r);
            if (f->size == 4) memcpy((int32_t *)f->out + at, codes, n * sizeof *codes);
            else for (int64_t l = 0; l < n; l++) ((uint8_t *)f->out)[at + l] = (uint8_t)codes[l];
        }
    }
    int32_t seen = __atomic_load_n(f->most, __ATOMIC_RELAXED);
    while (most > seen && !__atomic_compare_exchange_n(f->most, &seen, most, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return OK;
}

/* x (n) to the nearest values (size 0) or their codes (of 1 or 4 bytes); the bits of the largest magnitude into `most` */
int round_elements(const float *x, void *out, const Rule *rule, int32_t *most, int64_t n, int64_t size, int64_t threads) {
    Elements f = {x, out, n, size, rule, most};
    *most = 0;
    return spread(elements, &f, (n + TILE - 1) / TILE, threads);
}

/* ---------------------------------------------------------------------------------------------- blocks */
typedef struct { const float *x; float *first, *second; int64_t block, kind; } Ends;

static int ends(const void *p, int64_t begin, int64_t end) {
    const Ends *f = p;
    const int64_t B = f->block;
    int32_t all = 0;
    for (int64_t k = begin; k < end; k++) {
        const float *x = f->x + k * B;
        int32_t m = largest_bits(x, B);
        all = m > all ? m : all;
        if (f->kind == MAGNITUDE) f->first[k] = float_of(m);
        else if (f->kind == SIGNED) {
            int64_t l = 0;
            while (l < B - 1 && (bits_of(x[l]) & INT32_MAX) != m) l++;
            f->first[k] = x[l];
        } else {                                           /* signed integers in the order of the numbers */
            int32_t low = INT32_MAX, high = INT32_MIN;
            for (int64_t l = 0; l < B; l++) {
                int32_t b = bits_of(x[l]), key = b ^ ((b >> 31) & INT32_MAX);
                low = key < low ? key : low;
                high = key > high ? key : high;
            }
            f->first[k] = float_of(low ^ ((low >> 31) & INT32_MAX));
            f->second[k] = float_of(high ^ ((high >> 31) & INT32_MAX));
        }
    }
    return all >= FINITE ? NOT_FINITE : OK;
}

/* Of every block of x (blocks, block): the largest magnitude, or the entry that has it, or least and largest entry. */
int block_ends(const float *x, float *first, float *second, int64_t blocks, int64_t block, int64_t kind, int64_t threads) {
    Ends f = {x, first, second, block, kind};
    return spread(ends, &f, blocks, threads);
}

typedef struct { const float *x, *s, *z; float *y, *error; uint8_t *codes; int64_t block; const Rule *rule; } Scaled;

/* (x - z) / s for a block, 0 where s = 0; constant B lets the compiler unroll */
static inline __attribute__((always_inline)) void ratio(const float *x, float *u, float s, float z, int shifted, int64_t B) {
    if (s == 0) { for (int64_t l = 0; l < B; l++) u[l] = 0; return; }
    if (shifted) for (int64_t l = 0; l < B; l++) u[l] = (x[l] - z) / s;
    else for (int64_t l = 0; l < B; l++) u[l] = x[l] / s;
}

static inline __attribute__((always_inline)) void product(const float *u, float *y, float s, float z, int shifted, int64_t B) {
    if (shifted) for (int64_t l = 0; l < B; l++) y[l] = u[l] * s + z;
    else for (int64_t l = 0; l < B; l++) y[l] = u[l] * s;
}

static inline __attribute__((always_inline)) float distance(const float *u, const float *x, float s, float z, int shifted, int64_t B) {
    float sum[16] = {0}, total = 0, y[16];
    for (int64_t at = 0; at < B; at += 16) {
        int64_t n = B - at < 16 ? B - at : 16;
        product(u + at, y, s, z, shifted, n);
        for (int64_t l = 0; l < n; l++) { float d = y[l] - x[at + l]; sum[l] += d * d; }
    }
    for (int l = 0; l < 16; l++) total += sum[l];
    return total;
}

static inline __attribute__((always_inline)) int some_blocks(const Scaled *f, int64_t begin, int64_t end, const int64_t B) {
    const Rule *r = f->rule;
    const int64_t together = B < TILE ? TILE / B : 1;
    const int shifted = f->z != NULL;
    float *u = aligned_alloc(64, (together * B + 16 + 15) / 16 * 64);
    int32_t *codes = f->codes ? aligned_alloc(64, (together * B + 16 + 15) / 16 * 64) : NULL;
    if (!u || (f->codes && !codes)) { free(u), free(codes); return NO_MEMORY; }
    memset(u, 0, (together * B + 16) * sizeof *u);
    for (int64_t k = begin; k < end; k += together) {
        const int64_t count = end - k < together ? end - k : together;
        for (int64_t b = 0; b < count; b++) ratio(f->x + (k + b) * B, u + b * B, f->s[k + b], shifted ? f->z[k + b] : 0, shifted, B);
        if (f->codes) {
            to_codes(u, codes, count * B, r);
            for (int64_t l = 0; l < count * B; l++) f->codes[k * B + l] = (uint8_t)codes[l];
        } else {
            to_values(u, count * B, r);
            for (int64_t b = 0; b < count; b++) {
                const float s = f->s[k + b], z = shifted ? f->z[k + b] : 0;
                if (f->error) f->error[k + b] = distance(u + b * B, f->x + (k + b) * B, s, z, shifted, B);
                else product(u + b * B, f->y + (k + b) * B, s, z, shifted, B);
            }
        }
    }
    free(u), free(codes);
    return OK;
}

static int scaled(const void *p, int64_t begin, int64_t end) {
    const Scaled *f = p;
    switch (f->block) {
        case 16: return some_blocks(f, begin, end, 16);
        case 32: return some_blocks(f, begin, end, 32);
        case 64: return some_blocks(f, begin, end, 64);
        default: return some_blocks(f, begin, end, f->block);
    }
}

/* x (blocks, block) with scales s and zeros z (or NULL) of each block: the nearest values into y, or the square errors of the blocks, or the codes. */
int round_blocks(const float *x, const float *s, const float *z, float *y, float *error, uint8_t *codes, const Rule *rule,
                 int64_t blocks, int64_t block, int64_t threads) {
    Scaled f = {x, s, z, y, error, codes, block, rule};
    return spread(scaled, &f, blocks, threads);
}

typedef struct { const uint8_t *codes; const float *s, *z, *points; float *y; int64_t count, block; } Stored;

static int stored(const void *p, int64_t begin, int64_t end) {
    const Stored *f = p;
    const int64_t B = f->block;
    float points[256] = {0};
    uint8_t top = 0;
    int32_t most = 0;
    memcpy(points, f->points, f->count * sizeof *points);
    for (int64_t k = begin; k < end; k++) {
        const uint8_t *c = f->codes + k * B;
        float *y = f->y + k * B;
        const float s = f->s ? f->s[k] : 1, z = f->z ? f->z[k] : 0;
        for (int64_t l = 0; l < B; l++) { top = c[l] > top ? c[l] : top; y[l] = points[c[l]]; }
        if (f->s) for (int64_t l = 0; l < B; l++) y[l] *= s;
        if (f->z) for (int64_t l = 0; l < B; l++) y[l] += z;
        int32_t m = largest_bits(y, B);
        most = m > most ? m : most;
    }
    return top >= f->count ? OUT_OF_RANGE : most >= FINITE ? NOT_FINITE : OK;
}

/* points[code] (times s, plus z of its block) for codes (blocks, block); s and z may be NULL */
int decode_blocks(const uint8_t *codes, const float *s, const float *z, const float *points, float *y, int64_t count, int64_t blocks, int64_t block, int64_t threads) {
    Stored f = {codes, s, z, points, y, count, block};
    return spread(stored, &f, blocks, threads);
}
