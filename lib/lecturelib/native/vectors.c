/* Nearest codewords, many vectors side by side. */
#include "team.h"

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
#define TILE 32                     /* vectors that are searched together, two registers of them */

static inline v16 choose(i16 mask, v16 a, v16 b) { return (v16)((mask & (i16)a) | (~mask & (i16)b)); }

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

/* Cells of x (n, d) with codes in the book (words, d): vectors in each (words), their sums (words, d) in the order of the vectors, and the squared errors (n). */
int cells(const float *x, const float *book, const int64_t *codes, int64_t *count, double *sums, float *errors, int64_t n, int64_t words, int64_t d, int64_t threads) {
    (void)threads;                  /* one: the order of a sum must not depend on them */
    memset(count, 0, words * sizeof *count), memset(sums, 0, words * d * sizeof *sums);
    for (int64_t i = 0; i < n; i++, x += d) {
        const float *c = book + codes[i] * d;
        double *s = sums + codes[i] * d;
        float error = 0;
        for (int64_t l = 0; l < d; l++) { const float e = x[l] - c[l]; s[l] += x[l], error += e * e; }
        count[codes[i]]++, errors[i] = error;
    }
    return OK;
}
