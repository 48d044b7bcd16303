/* Nearest codewords and nearest points of E8, many vectors side by side. */
#include "team.h"

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
#define TILE 32                     /* vectors that are searched together, two registers of them */

static inline v16 choose(i16 mask, v16 a, v16 b) { return (v16)((mask & (i16)a) | (~mask & (i16)b)); }

/* ------------------------------------------------------------------------------------- codewords */
typedef struct { const float *x, *book, *half; int64_t *codes; int64_t n, words, d; } Search;

/* the least of |c|^2 / 2 - <x, c>; of equal ones the first */
static inline __attribute__((always_inline)) void codewords(const Search *f, int64_t begin, int64_t end, const int64_t d) {
    v16 xs[2 * 16];
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t first = tile * TILE, count = f->n - first < TILE ? f->n - first : TILE;
        for (int64_t l = 0; l < TILE; l++)
            for (int64_t i = 0; i < d; i++) xs[2 * i + l / 16][l % 16] = -f->x[(first + (l < count ? l : 0)) * d + i];
        v16 least0 = (v16){} + INFINITY, least1 = least0;
        i16 at0 = {}, at1 = {};
        const float *c = f->book;
        for (int64_t j = 0; j < f->words; j++, c += d) {
            v16 s0 = (v16){} + f->half[j], s1 = s0;
            _Pragma("GCC unroll 16") for (int64_t i = 0; i < d; i++) s0 += xs[2 * i] * c[i], s1 += xs[2 * i + 1] * c[i];
            i16 less0 = s0 < least0, less1 = s1 < least1, here = (i16){} + (int32_t)j;
            least0 = choose(less0, s0, least0), least1 = choose(less1, s1, least1);
            at0 = (less0 & here) | (~less0 & at0), at1 = (less1 & here) | (~less1 & at1);
        }
        for (int64_t l = 0; l < count; l++) f->codes[first + l] = l < 16 ? at0[l] : at1[l - 16];
    }
}

static int searches(const void *p, int64_t begin, int64_t end) {
    const Search *f = p;
    switch (f->d) {
        case 1: codewords(f, begin, end, 1); break;
        case 2: codewords(f, begin, end, 2); break;
        case 4: codewords(f, begin, end, 4); break;
        case 8: codewords(f, begin, end, 8); break;
        default: codewords(f, begin, end, f->d);
    }
    return OK;
}

/* codes of x (n, d), d at most 16, in the book (words, d); half (words): |c|^2 / 2 */
int nearest(const float *x, const float *book, const float *half, int64_t *codes, int64_t n, int64_t words, int64_t d, int64_t threads) {
    Search f = {x, book, half, codes, n, words, d};
    return spread(searches, &f, (n + TILE - 1) / TILE, threads);
}

/* -------------------------------------------------------------------------------------------- E8 */
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
    v16 worst = (v16){} - 1, sum = {}, error[8];
    i16 at = {}, parity = {};
    for (int i = 0; i < 8; i++) {
        v16 u = x[i] - shift;
        point[i] = rounded(u);
        error[i] = u - point[i];
        v16 size = (v16)((i16)error[i] & INT32_MAX), half = point[i] * 0.5f;
        parity ^= half != rounded(half);
        i16 more = size > worst;
        worst = choose(more, size, worst);
        at = (more & i) | (~more & at);
    }
    for (int i = 0; i < 8; i++) {
        i16 turn = (at == i) & parity;
        v16 step = choose(error[i] < 0, (v16){} - 1, (v16){} + 1);
        point[i] = point[i] + (v16)(turn & (i16)step) + shift;
        v16 e = x[i] - point[i];
        sum += e * e;
    }
    return sum;
}

static int points(const void *p, int64_t begin, int64_t end) {
    const Points *f = p;
    v16 x[8], a[8], b[8];
    for (int64_t tile = begin; tile < end; tile++) {
        const int64_t first = tile * 16, count = f->n - first < 16 ? f->n - first : 16;
        float turned[8][16] = {{0}};
        const float *from = f->x + first * 8;
        float *to = f->y + first * 8;
        if (count == 16) for (int i = 0; i < 8; i++) for (int l = 0; l < 16; l++) turned[i][l] = from[l * 8 + i];
        else for (int64_t l = 0; l < count; l++) for (int i = 0; i < 8; i++) turned[i][l] = from[l * 8 + i];
        memcpy(x, turned, sizeof x);
        v16 near = even(x, 0, a), other = even(x, 0.5f, b);
        i16 closer = near <= other;
        for (int i = 0; i < 8; i++) a[i] = choose(closer, a[i], b[i]);
        memcpy(turned, a, sizeof a);
        if (count == 16) for (int l = 0; l < 16; l++) for (int i = 0; i < 8; i++) to[l * 8 + i] = turned[i][l];
        else for (int64_t l = 0; l < count; l++) for (int i = 0; i < 8; i++) to[l * 8 + i] = turned[i][l];
    }
    return OK;
}

/* nearest points of E8 to x (n, 8) */
int e8(const float *x, float *y, int64_t n, int64_t threads) {
    Points f = {x, y, n};
    return spread(points, &f, (n + 15) / 16, threads);
}
