/* Nearest points of E8, sixteen vectors side by side; the sums of squares are those of quantization/lattices.py, in the same order. */
#include "team.h"

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

static inline v16 choose(i16 mask, v16 a, v16 b) { return (v16)((mask & (i16)a) | (~mask & (i16)b)); }

typedef struct { const float *x; float *y; int64_t n; } Points;

static inline v16 rounded(v16 x) {
    float a[16];
    memcpy(a, &x, sizeof a);
    for (int l = 0; l < 16; l++) a[l] = rintf(a[l]);
    memcpy(&x, a, sizeof a);
    return x;
}

/* nearest point of D8 + shift and its squared distance */
static inline v16 even(const v16 *x, float shift, v16 *point) {
    v16 worst = (v16){} - 1, error[8];
    i16 at = {}, parity = {};
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) {
        v16 u = x[i] - shift;
        point[i] = rounded(u);
        error[i] = u - point[i];
        v16 size = (v16)((i16)error[i] & INT32_MAX), half = point[i] * 0.5f;
        parity ^= half != rounded(half);
        i16 more = size > worst;
        worst = choose(more, size, worst);
        at = (more & i) | (~more & at);
    }
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) {
        i16 turn = (at == i) & parity;
        v16 step = choose(error[i] < 0, (v16){} - 1, (v16){} + 1);
        point[i] = point[i] + (v16)(turn & (i16)step) + shift;
        v16 e = x[i] - point[i];
        error[i] = e * e;
    }
    return ((error[0] + error[4]) + (error[2] + error[6])) + ((error[1] + error[5]) + (error[3] + error[7]));
}

#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
static const int REVERSED[8] = {0, 4, 2, 6, 1, 5, 3, 7};

/* Sixteen vectors of eight, one after another in r: coordinate i of all, in some order of the vectors, to r[REVERSED[i]]; and back. */
static inline void apart(v16 *r) {
    _Pragma("GCC unroll 3") for (int s = 4; s; s /= 2) _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) if (!(i & s)) { v16 a = r[i], b = r[i + s]; r[i] = EVEN(a, b), r[i + s] = ODD(a, b); }
}
static inline void together(v16 *r) {
    _Pragma("GCC unroll 3") for (int s = 1; s < 8; s *= 2) _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) if (!(i & s)) { v16 a = r[i], b = r[i + s]; r[i] = LOW(a, b), r[i + s] = HIGH(a, b); }
}

static int points(const void *p, int64_t begin, int64_t end) {
    const Points *f = p;
    v16 r[8] = {}, x[8], a[8], b[8];
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t first = tile * 16, count = f->n - first < 16 ? f->n - first : 16;
        if (count == 16) memcpy(r, f->x + first * 8, sizeof r);
        else memcpy(r, f->x + first * 8, count * 8 * sizeof(float));
        apart(r);
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) x[i] = r[REVERSED[i]];
        v16 near = even(x, 0, a), other = even(x, 0.5f, b);
        i16 closer = near <= other;
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) r[REVERSED[i]] = choose(closer, a[i], b[i]);
        together(r);
        if (count == 16) memcpy(f->y + first * 8, r, sizeof r);
        else memcpy(f->y + first * 8, r, count * 8 * sizeof(float));
    }
    return OK;
}

/* nearest points of E8 to x (n, 8) */
int e8(const float *x, float *y, int64_t n, int64_t threads) {
    Points f = {x, y, n};
    return spread(points, &f, (n + 15) / 16, threads);
}
