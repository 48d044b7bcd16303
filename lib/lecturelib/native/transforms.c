/* Rotations made of multipliers and Hadamard matrices, row by row, and the codes of rotated directions; float32. */
#include "team.h"
#include "levels.h"

#define FEW 16                      /* odd parts of the dimension that are mixed in one go */

typedef struct { const float *x, *factors, *odd; float *y; int64_t d, r, rounds, last; } Turn;
typedef struct { Turn turn; const float *points, *thresholds; float length, least, most, *norms, *overlaps; uint8_t *codes; } Codec;

#define SWAP(v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) __builtin_shufflevector(v, v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
#define FLIP(v, ...) ((v16)((i16)(v) ^ ((i16){__VA_ARGS__} * INT32_MIN)))

/* H_16 v, not normalized */
static inline v16 sixteen(v16 v) {
    v = SWAP(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14) + FLIP(v, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1);
    v = SWAP(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13) + FLIP(v, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1);
    v = SWAP(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11) + FLIP(v, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1);
    return SWAP(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7) + FLIP(v, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
}

/* H_p of p numbers, not normalized */
static void walsh(float *a, int64_t p) {
    int64_t h = 1;
    if (p >= 16) {
        for (int64_t i = 0; i < p; i += 16) { v16 v; memcpy(&v, a + i, sizeof v); v = sixteen(v); memcpy(a + i, &v, sizeof v); }
        h = 16;
    }
    for (; 4 * h <= p; h *= 4)
        for (int64_t i = 0; i < p; i += 4 * h) {
            float *restrict b = a + i, *restrict c = b + h, *restrict d = c + h, *restrict e = d + h;
            for (int64_t j = 0; j < h; j++) {
                float s = b[j] + c[j], t = b[j] - c[j], u = d[j] + e[j], v = d[j] - e[j];
                b[j] = s + u, c[j] = t + v, d[j] = s - u, e[j] = t - v;
            }
        }
    for (; 2 * h <= p; h *= 2)
        for (int64_t i = 0; i < p; i += 2 * h) {
            float *restrict b = a + i, *restrict c = b + h;
            for (int64_t j = 0; j < h; j++) { float s = b[j] + c[j]; c[j] = b[j] - c[j]; b[j] = s; }
        }
}

/* a = T m_{R-1} ... T a, where m_0 is applied already; b: d numbers of room */
static const float *rounds(const Turn *f, float *restrict a, float *restrict b) {
    const int64_t d = f->d, r = f->r, p = d / r;
    const float *m = f->factors;
    for (int64_t t = 0; t < f->rounds; t++) {
        if (t) { m += d; for (int64_t j = 0; j < d; j++) a[j] *= m[j]; }
        for (int64_t k = 0; k < r; k++) walsh(a + k * p, p);
        if (r > 1 && r <= FEW && p % 16 == 0) {
            for (int64_t j = 0; j < p; j += 16) {
                v16 v[FEW];
                for (int64_t l = 0; l < r; l++) memcpy(v + l, a + l * p + j, sizeof *v);
                for (int64_t k = 0; k < r; k++) {
                    v16 sum = f->odd[k * r] * v[0];
                    for (int64_t l = 1; l < r; l++) sum += f->odd[k * r + l] * v[l];
                    memcpy(a + k * p + j, &sum, sizeof sum);
                }
            }
        } else if (r > 1) {
            memcpy(b, a, d * sizeof *a);
            for (int64_t k = 0; k < r; k++) {
                float *restrict row = a + k * p;
                for (int64_t j = 0; j < p; j++) row[j] = f->odd[k * r] * b[j];
                for (int64_t l = 1; l < r; l++) {
                    const float w = f->odd[k * r + l], *restrict v = b + l * p;
                    for (int64_t j = 0; j < p; j++) row[j] += w * v[j];
                }
            }
        }
    }
    return m + d;
}

static int rows(const void *with, int64_t begin, int64_t end) {
    const Turn *f = with;
    const int64_t d = f->d;
    float *a = aligned_alloc(64, (2 * d + 15) / 16 * 64);
    if (!a) return NO_MEMORY;
    int code = OK;
    for (int64_t i = begin; i < end && !code; i++) {
        const float *x = f->x + i * d;
        float *y = f->y + i * d;
        if (largest_bits(x, d) >= FINITE) { code = NOT_FINITE; break; }
        for (int64_t j = 0; j < d; j++) a[j] = x[j] * f->factors[j];
        const float *m = rounds(f, a, a + d);
        if (f->last) for (int64_t j = 0; j < d; j++) y[j] = a[j] * m[j];
        else memcpy(y, a, d * sizeof *a);
        if (largest_bits(y, d) >= FINITE) code = RESULT_NOT_FINITE;
    }
    free(a);
    return code;
}

static inline float sum_of(v16 v) {
    for (int s = 8; s; s /= 2) for (int l = 0; l < s; l++) v[l] += v[l + s];
    return v[0];
}

static int directions(const void *with, int64_t begin, int64_t end) {
    const Codec *f = with;
    const int64_t d = f->turn.d;
    float *a = aligned_alloc(64, 2 * d * sizeof *a);
    if (!a) return NO_MEMORY;
    int code = OK;
    for (int64_t i = begin; i < end; i++) {
        const float *x = f->turn.x + i * d, *m = f->turn.factors;
        v16 square = {}, overlap = {};
        for (int64_t j = 0; j < d; j += 16) { v16 v; memcpy(&v, x + j, sizeof v); square += v * v; }
        const float norm = sqrtf(sum_of(square)), scale = f->length / norm;
        if (!(norm > f->least && norm < f->most)) { code = OUT_OF_RANGE; break; }
        for (int64_t j = 0; j < d; j++) a[j] = x[j] * scale * m[j];
        rounds(&f->turn, a, a + d);
        for (int64_t j = 0; j < d; j += 16) {
            v16 v, point;
            memcpy(&v, a + j, sizeof v);
            const i16 c = level(v, f->thresholds);
            for (int l = 0; l < 16; l++) f->codes[i * d + j + l] = c[l];
            if (f->overlaps) look_up(f->points, c, (float *)&point), overlap += v * point;
        }
        f->norms[i] = norm;
        if (f->overlaps) f->overlaps[i] = sum_of(overlap) / d;
    }
    free(a);
    return code;
}

/* y = m_R T m_{R-1} ... T m_0 x for rows x (n, d): m_i the rows of `factors`, m_R only if `last`; T = F x H with F = `odd` (r, r) and H the
   Hadamard matrix of d / r, which is not normalized.  y may be x. */
int turn(const float *x, float *y, const float *factors, const float *odd, int64_t n, int64_t d, int64_t r, int64_t rounds, int64_t last, int64_t threads) {
    Turn f = {x, factors, odd, y, d, r, rounds, last};
    return spread(rows, &f, n, threads);
}

/* Codes of the coordinates of length T ... m_0 x / |x| (d a multiple of 16) between the thresholds, the norms, and if `overlaps` is given the
   mean of coordinate times point; OUT_OF_RANGE at a norm that is not between `least` and `most`. */
int codes(const float *x, const float *factors, const float *odd, const float *points, const float *thresholds, uint8_t *codes, float *norms, float *overlaps,
          const float *limits, int64_t n, int64_t d, int64_t r, int64_t rounds, int64_t threads) {
    Codec f = {{x, factors, odd, NULL, d, r, rounds, 0}, points, thresholds, limits[0], limits[1], limits[2], norms, overlaps, codes};
    return spread(directions, &f, n, threads);
}
