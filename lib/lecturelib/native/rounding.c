/* Numbers rounded to a grid, a float format or a codebook, one by one or in blocks with scales; float32.
   Every function does the operations of its eager namesake in the same order, so that the results are equal.
   CHAIN, the number of levels up to which all thresholds are compared, is a flag of the compiler. */
#include "team.h"
#include "levels.h"

#define TILE 1024                   /* numbers worked on together */

enum { GRID, FLOATS, LEVELS };      /* kinds of rules */

/* GRID: step (round((x / step - offset) clamped to low, high) + offset).  FLOATS: as in float_formats.
   LEVELS: points between thresholds, by comparing all, or by a table of bins as in codebooks.  `cut` limits what enters FLOATS. */
typedef struct {
    int32_t kind, count, first, last, digits, mantissa, top_code, sign, one_zero;
    float step, offset, low, high, top, cut, start, scale;
    const float *points, *thresholds, *inside, *below_points;
    const int32_t *below;
    int32_t bins;
} Rule;

static inline float limit(float x, float low, float high) { x = x < low ? low : x; return x > high ? high : x; }
static inline int32_t limit_int(int32_t x, int32_t low, int32_t high) { x = x < low ? low : x; return x > high ? high : x; }

static inline i16 indices(const uint8_t *c) {
    i16 j;
    for (int l = 0; l < 16; l++) j[l] = c[l];
    return j;
}

/* Nearest values of x (n <= TILE, rounded up to 16) into u, which may be x. */
static void to_values(const float *x, float *u, int64_t n, const Rule *r) {
    if (r->kind == GRID) {                                 /* of the step 1 and the offset 0 */
        const float low = r->low, high = r->high;
        _Pragma("GCC ivdep") for (int64_t l = 0; l < n; l++) u[l] = limit(rintf(x[l]), low, high);
    } else if (r->kind == FLOATS) {
        const int32_t offset = ((r->digits - r->mantissa) << r->digits) + (1 << (r->digits - 1)), first = r->first, last = r->last;
        const int32_t keep = r->one_zero ? 0 : INT32_MIN;
        const float top = r->top, cut = r->cut;
        _Pragma("GCC ivdep") for (int64_t l = 0; l < n; l++) {
            int32_t bits = bits_of(limit(x[l], -cut, cut));
            float s = float_of(limit_int(bits & FINITE, first, last) + offset);
            u[l] = float_of(bits_of(limit((float_of(bits) + s) - s, -top, top)) | (bits & keep));
        }
    } else if (r->count <= CHAIN) {
        for (int64_t l = 0; l < n; l += 16) {
            v16 v;
            memcpy(&v, x + l, sizeof v);
            i16 j = level(v, r->thresholds);
            look_up(r->points, j, u + l);
        }
    } else {
        const float start = r->start, scale = r->scale, most = r->bins - 1, *inside = r->inside, *points = r->below_points;
        _Pragma("GCC ivdep") for (int64_t l = 0; l < n; l++) {
            int32_t k = (int32_t)limit((x[l] - start) * scale, 0, most);
            u[l] = points[2 * k + (x[l] > inside[k])];
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
            memcpy(&x, u + l, sizeof x);
            i16 j = level(x, r->thresholds);
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

/* ------------------------------------------------------------------------------------------ one by one */
typedef struct { const float *x; void *out; int64_t n, size, refused; const Rule *rule; } Elements;

static int elements(const void *p, int64_t begin, int64_t end) {
    const Elements *f = p;
    const Rule *r = f->rule;
    float u[TILE] __attribute__((aligned(64)));
    int32_t codes[TILE] __attribute__((aligned(64)));
    memset(u, 0, sizeof u);
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t at = tile * TILE, n = f->n - at < TILE ? f->n - at : TILE;
        const float *x = f->x + at, step = r->step;
        if (largest_bits(x, n) >= FINITE) return NOT_FINITE;
        float *y = (float *)f->out + at;
        if (!f->size && r->kind == GRID) {
            const float o = r->offset, low = r->low, high = r->high;
            if (o) _Pragma("GCC ivdep") for (int64_t l = 0; l < n; l++) y[l] = (limit(rintf(x[l] / step - o), low, high) + o) * step;
            else _Pragma("GCC ivdep") for (int64_t l = 0; l < n; l++) y[l] = limit(rintf(x[l] / step), low, high) * step;
            if (largest_bits(y, n) >= f->refused) return RESULT_NOT_FINITE;
        } else if (!f->size && n == TILE) to_values(x, y, n, r);
        else if (!f->size) {
            memcpy(u, x, n * sizeof *u);
            to_values(u, u, n, r);
            memcpy(y, u, n * sizeof *u);
        } else {
            memcpy(u, x, n * sizeof *u);
            to_codes(u, codes, n, r);
            if (f->size == 4) memcpy((int32_t *)f->out + at, codes, n * sizeof *codes);
            else for (int64_t l = 0; l < n; l++) ((uint8_t *)f->out)[at + l] = (uint8_t)codes[l];
        }
    }
    return OK;
}

/* x (n) to the nearest values (size 0) or their codes (of 1 or 4 bytes); RESULT_NOT_FINITE if a value has bits from `refused` on */
int round_elements(const float *x, void *out, const Rule *rule, int64_t n, int64_t size, int64_t refused, int64_t threads) {
    Elements f = {x, out, n, size, refused, rule};
    return spread(elements, &f, (n + TILE - 1) / TILE, threads);
}

/* ---------------------------------------------------------------------------------------------- blocks */
/* least and largest entry; signed integers in the order of the numbers */
static inline __attribute__((always_inline)) void range(const float *x, float *least, float *most, int64_t B) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t l = 0; l < B; l++) {
        int32_t b = bits_of(x[l]), key = b ^ ((b >> 31) & INT32_MAX);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *least = float_of(low ^ ((low >> 31) & INT32_MAX));
    *most = float_of(high ^ ((high >> 31) & INT32_MAX));
}

/* the entry with the largest magnitude, of several the first */
static inline __attribute__((always_inline)) float farthest(const float *x, int64_t B) {
    float low, high;
    range(x, &low, &high, B);
    if (high != -low) return high > -low ? high : low;
    for (int64_t l = 0; l < B; l++) if (x[l] == low || x[l] == high) return x[l];
    return 0;
}

typedef struct { const float *x; float *most; int64_t length; } Rows;

static int maxima(const void *p, int64_t begin, int64_t end) {
    const Rows *f = p;
    int32_t all = 0;
    for (int64_t k = begin; k < end; k++) {
        int32_t m = largest_bits(f->x + k * f->length, f->length);
        all = m > all ? m : all;
        f->most[k] = float_of(m);
    }
    return all >= FINITE ? NOT_FINITE : OK;
}

/* the largest magnitude of every row of x (rows, length) */
int row_maxima(const float *x, float *most, int64_t rows, int64_t length, int64_t threads) {
    Rows f = {x, most, length};
    return spread(maxima, &f, rows, threads);
}

/* Where the scale of a block comes from: its ideal by `rule`, then the best of `count` candidates, which are
   the ideal times a factor, stored as `type`, or, of `neighbors`, the number of E4M3 that many codes away.
   POWER: 2^(floor(log2 a) - emax), twice that from the mantissa bits `up` on. */
enum { ABSMAX, SIGNED_MOST, ENDS, POWER };
enum { FLOAT32, FLOAT16, BFLOAT16, E4M3, E8M0 };
typedef struct { int32_t rule, type, emax, up, neighbors, count; float top; const float *factors; } Finder;

/* t: the matrix's scale of every `per` blocks, or NULL.  Without `find` the scales s are given; with it s and z are written, if they are asked for. */
typedef struct { const float *x, *t; float *s, *z, *y; uint8_t *codes; int64_t block, per, refused; const Finder *find; const Rule *rule; } Scaled;

/* x rounded to `mantissa` bits, its exponent taken to lie between `low` and `high`; the sign of zero is kept */
static inline __attribute__((always_inline)) float narrow(float x, int32_t mantissa, int32_t low, int32_t high) {
    const float s = float_of(limit_int(bits_of(x) & FINITE, (127 + low) << 23, (127 + high) << 23) + ((23 - mantissa) << 23) + (1 << 22));
    return float_of(bits_of((x + s) - s) | (bits_of(x) & INT32_MIN));
}

/* Scales to their type, nearest; E4M3 saturates, elsewhere what is too large becomes infinite. */
static void store(float *s, int64_t n, int32_t type) {
    switch (type) {
        case FLOAT16: for (int64_t b = 0; b < n; b++) { float r = narrow(s[b], 10, -14, 15); s[b] = fabsf(r) > 65504 ? INFINITY : r; } break;
        case BFLOAT16: for (int64_t b = 0; b < n; b++) { int32_t i = bits_of(s[b]); s[b] = float_of((i + 0x7fff + (i >> 16 & 1)) & ~0xffff); } break;
        case E4M3: for (int64_t b = 0; b < n; b++) s[b] = narrow(limit(s[b], -448, 448), 3, -6, 8); break;
        case E8M0: for (int64_t b = 0; b < n; b++) s[b] = limit(s[b], 0x1p-127f, 0x1p127f); break;
        default: break;
    }
}

/* The ideal scales of `count` blocks at x, and their zeros; NOT_FINITE if x is not. */
static inline __attribute__((always_inline)) int ideals(const float *x, const float *t, const Finder *f, float *s, float *z, int64_t count, const int64_t B) {
    int32_t m[TILE], all = 0;
    for (int64_t b = 0; b < count; b++) { m[b] = largest_bits(x + b * B, B); all = m[b] > all ? m[b] : all; }
    if (all >= FINITE) return NOT_FINITE;
    switch (f->rule) {
        case ABSMAX: for (int64_t b = 0; b < count; b++) s[b] = float_of(m[b]) / f->top / t[b]; break;
        case SIGNED_MOST: for (int64_t b = 0; b < count; b++) s[b] = farthest(x + b * B, B) / f->top / t[b]; break;
        case ENDS: for (int64_t b = 0; b < count; b++) { float high; range(x + b * B, z + b, &high, B); s[b] = (high - z[b]) / f->top; } break;
        default: for (int64_t b = 0; b < count; b++) {
            int32_t small = m[b] < 1 << 23, i = small ? bits_of(float_of(m[b]) * 0x1p24f) : m[b];        /* subnormal numbers are shifted up first */
            int32_t e = (i >> 23) - (small ? 24 : 0) + ((i & 0x7fffff) >= f->up) - f->emax;
            e = m[b] ? limit_int(e, 0, 254) : 0;
            s[b] = float_of(e ? e << 23 : 1 << 22);
        }
    }
    return OK;
}

/* Candidate c for the scales. */
static void candidates(const float *ideal, float *s, int64_t n, const Finder *f, int32_t c) {
    for (int64_t b = 0; b < n; b++) s[b] = f->neighbors ? ideal[b] : ideal[b] * f->factors[c];
    store(s, n, f->type);
    if (f->neighbors) for (int64_t b = 0; b < n; b++) {
        int32_t e = limit_int(bits_of(s[b]) & FINITE, 121 << 23, 135 << 23), unit = e + (20 << 23);
        int32_t code = bits_of(s[b] + float_of(unit)) - unit + ((e - (121 << 23)) >> 20) + (int32_t)f->factors[c];
        code = limit_int(code, 0, 126);
        s[b] = code < 8 ? code * 0x1p-9f : float_of((code << 20) + (120 << 23));
    }
}

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

static inline __attribute__((always_inline)) float distance(const float *u, const float *x, float s, int64_t B) {
    float sum[16] = {0}, total = 0;
    for (int64_t at = 0; at < B; at += 16)
        for (int64_t l = 0; l < 16 && l < B - at; l++) { float d = u[at + l] * s - x[at + l]; sum[l] += d * d; }
    for (int l = 0; l < 16; l++) total += sum[l];
    return total;
}

static inline __attribute__((always_inline)) int some_blocks(const Scaled *f, int64_t begin, int64_t end, const int64_t B) {
    const Finder *find = f->find;
    const int64_t together = B < TILE ? TILE / B : 1, room = (together * B + 16 + 15) / 16 * 64;
    const int shifted = find && find->rule == ENDS;
    float t[TILE], s[TILE], z[TILE], ideal[TILE], trial[TILE], least[TILE], *u = aligned_alloc(64, room);
    int32_t *codes = f->codes ? aligned_alloc(64, room) : NULL;
    int code = u && (codes || !f->codes) ? OK : NO_MEMORY;
    if (!code) memset(u, 0, room);
    memset(z, 0, sizeof z);
    for (int64_t k = begin; k < end && !code; k += together) {
        const int64_t count = end - k < together ? end - k : together;
        const float *x = f->x + k * B;
        for (int64_t b = 0, j = k / f->per, left = (j + 1) * f->per - k; b < count; b++) {
            t[b] = f->t ? f->t[j] : 1;
            if (!--left) j++, left = f->per;
        }
        if (!find) for (int64_t b = 0; b < count; b++) s[b] = f->s[k + b];
        else {
            if ((code = ideals(x, t, find, ideal, z, count, B))) break;
            for (int32_t c = 0; c < find->count; c++) {
                candidates(ideal, trial, count, find, c);
                for (int64_t b = 0; b < count; b++) if ((bits_of(trial[b]) & INT32_MAX) >= FINITE) code = OUT_OF_RANGE;
                if (find->count > 1) for (int64_t b = 0; b < count; b++) ratio(x + b * B, u + b * B, trial[b] * t[b], 0, 0, B);
                if (find->count > 1) to_values(u, u, count * B, f->rule);
                for (int64_t b = 0; b < count; b++) {
                    float error = find->count > 1 ? distance(u + b * B, x + b * B, trial[b] * t[b], B) : 0;
                    if (!c || error < least[b]) least[b] = error, s[b] = trial[b];
                }
            }
            if (shifted) store(z, count, find->type);
            for (int64_t b = 0; b < count; b++) if ((bits_of(z[b]) & INT32_MAX) >= FINITE) code = OUT_OF_RANGE;
            if (code) break;
            if (f->s) memcpy(f->s + k, s, count * sizeof *s);
            if (f->z) memcpy(f->z + k, z, count * sizeof *z);
        }
        for (int64_t b = 0; b < count; b++) ratio(x + b * B, u + b * B, s[b] * t[b], z[b], shifted, B);
        if (f->codes) {
            to_codes(u, codes, count * B, f->rule);
            for (int64_t l = 0; l < count * B; l++) f->codes[k * B + l] = (uint8_t)codes[l];
        } else {
            to_values(u, u, count * B, f->rule);
            for (int64_t b = 0; b < count; b++) product(u + b * B, f->y + (k + b) * B, s[b] * t[b], z[b], shifted, B);
            if (largest_bits(f->y + k * B, count * B) >= f->refused) code = RESULT_NOT_FINITE;
        }
    }
    free(u), free(codes);
    return code;
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

/* x (blocks, block): the nearest values into y, or codes, with scales that are given or found, as said at Scaled; RESULT_NOT_FINITE as above. */
int round_blocks(const float *x, const float *t, float *s, float *z, float *y, uint8_t *codes, const Finder *find, const Rule *rule,
                 int64_t blocks, int64_t block, int64_t per, int64_t refused, int64_t threads) {
    Scaled f = {x, t, s, z, y, codes, block, per, refused, find, rule};
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
        for (int64_t l = 0; l < B; l++) top = c[l] > top ? c[l] : top;
        int64_t l = 0;
        if (f->count <= CHAIN) for (; l + 16 <= B; l += 16) look_up(points, indices(c + l), y + l);
        for (; l < B; l++) y[l] = points[c[l]];
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
