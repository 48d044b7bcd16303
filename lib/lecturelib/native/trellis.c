/* Search of `trellis.viterbi` along every row: registers are (h, rest) before a step and (rest, b) after it, symbols h and b of k bits.
   RUN, 16, values of rest are worked on together; it is a flag of the compiler.  The choices h of four b are one word: (rest / RUN, b / 4, rest % RUN). */
#include "team.h"

#define MOST 256                    /* symbols */
#define MEMORY ((int64_t)1 << 30)   /* bytes of choices that the threads keep together, if that is enough for one */

typedef struct { const float *x, *table; const int64_t *first; uint8_t *codes; int64_t *begin; int64_t k, rest, steps, dx, dc; } Shifts;
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

/* M'(rest, b) = min_h M(h, rest) + c (c + tw), tw = -2 x: |x - c|^2 less |x|^2, which all paths share; the table is (rest / RUN, h, b, rest % RUN) */
static inline __attribute__((always_inline)) void step(const float *restrict M, const float *restrict table, float tw,
                                                       float *restrict new, uint32_t *restrict choice, const int64_t q, int64_t rest) {
    v16 best[MOST], turn[MOST], m[MOST];
    i16 from[MOST / 4];
    for (int64_t r = 0; r < rest; r += RUN, table += q * q * RUN, new += q * RUN) {
        _Pragma("GCC unroll 8") for (int64_t h = 0; h < q; h++) memcpy(m + h, M + h * rest + r, sizeof *m);
        _Pragma("GCC unroll 8") for (int64_t b = 0; b < q; b++) {
            v16 low, c;
            i16 at = {};
            memcpy(&c, table + b * RUN, sizeof c);
            low = m[0] + c * (c + tw);
            _Pragma("GCC unroll 8") for (int64_t h = 1; h < q; h++) {
                memcpy(&c, table + (h * q + b) * RUN, sizeof c);
                v16 v = m[h] + c * (c + tw);
                i16 less = v < low;
                at = (less & (int32_t)h) | (~less & at);
                low = (v16)((less & (i16)v) | (~less & (i16)low));
            }
            best[b] = low;
            from[b / 4] = b % 4 ? from[b / 4] | at << 8 * (b % 4) : at;
        }
        _Pragma("GCC unroll 8") for (int64_t s = 1; s < q; s *= 2) {          /* k perfect shuffles turn (b, rest) into (rest, b) */
            _Pragma("GCC unroll 8") for (int64_t i = 0; i < q / 2; i++) {
                turn[2 * i] = LOW(best[i], best[i + q / 2]), turn[2 * i + 1] = HIGH(best[i], best[i + q / 2]);
            }
            _Pragma("GCC unroll 8") for (int64_t i = 0; i < q; i++) best[i] = turn[i];
        }
        _Pragma("GCC unroll 8") for (int64_t i = 0; i < q; i++) memcpy(new + i * RUN, best + i, sizeof *best);
        _Pragma("GCC unroll 8") for (int64_t i = 0; i < q; i += 4, choice += RUN) memcpy(choice, from + i / 4, sizeof *from);
    }
}

/* The same where rest < RUN. */
static void short_step(const float *M, const float *table, float tw, float *new, uint32_t *choice, int64_t q, int64_t rest) {
    for (int64_t r = 0; r < rest; r++) for (int64_t b = 0; b < q; b++) {
        float low = INFINITY;
        uint32_t at = 0, *four = choice + b / 4 * rest + r;
        for (int64_t h = 0; h < q; h++) {
            float c = table[(h * q + b) * rest + r], v = M[h * rest + r] + c * (c + tw);
            if (!h || v < low) low = v, at = h;
        }
        new[r * q + b] = low;
        *four = (b % 4 ? *four : 0) | at << 8 * (b % 4);
    }
}

/* Memory that begins with a line of the cache, so that no vector lies in two. */
static void *lines(size_t bytes) { return aligned_alloc(64, bytes / 64 * 64 + 64); }

static float least(const float *M, int64_t n) {
    float low[RUN];
    for (int64_t l = 0; l < RUN; l++) low[l] = INFINITY;
    for (; n >= RUN; n -= RUN, M += RUN) for (int64_t l = 0; l < RUN; l++) low[l] = M[l] < low[l] ? M[l] : low[l];
    for (int64_t l = 0; l < n; l++) low[l] = M[l] < low[l] ? M[l] : low[l];
    for (int64_t l = 1; l < RUN; l++) low[0] = low[l] < low[0] ? low[l] : low[0];
    return low[0];
}

static int rows(const void *p, int64_t begin, int64_t end) {
    const Shifts *f = p;
    const int64_t k = f->k, q = (int64_t)1 << k, n = q * f->rest, T = f->steps, words = (q + 3) / 4, run = f->rest < RUN ? f->rest : RUN;
    float *M = lines(2 * n * sizeof *M);
    uint32_t *choice = lines(T * f->rest * words * sizeof *choice);
    int code = M && choice ? OK : NO_MEMORY;
    for (int64_t i = begin; i < end && !code; i++) {
        float *old = M, *new = M + n;
        const float *x = f->x + i * f->dx;
        for (int64_t r = 0; r < n; r++) old[r] = f->first ? INFINITY : 0;
        if (f->first) old[f->first[i]] = 0;
        for (int64_t t = 0; t < T; t++) {
            uint32_t *here = choice + t * f->rest * words;
            const float tw = -2 * x[t];
            if (f->rest < RUN) short_step(old, f->table, tw, new, here, q, f->rest);
            else switch (f->k) {                           /* constants, so that the loops over symbols are unrolled */
                case 1: step(old, f->table, tw, new, here, 2, f->rest); break;
                case 2: step(old, f->table, tw, new, here, 4, f->rest); break;
                case 3: step(old, f->table, tw, new, here, 8, f->rest); break;
                default: step(old, f->table, tw, new, here, q, f->rest);
            }
            float *turn = old;
            old = new, new = turn;
            if (t % 32 == 31) {                            /* costs are relative; keep them small */
                const float low = least(old, n);
                for (int64_t r = 0; r < n; r++) old[r] -= low;
            }
        }
        int64_t r = f->first ? f->first[i] : 0;
        if (!f->first) for (const float low = least(old, n); old[r] > low; r++);
        for (int64_t t = T - 1; t >= 0; t--) {
            f->codes[i * f->dc + t] = r & (q - 1);
            int64_t b = r & (q - 1), at = r >> k;
            r = (choice[(t * f->rest + (at & -run)) * words + b / 4 * run + (at & run - 1)] >> 8 * (b % 4) & 255) * f->rest + at;
        }
        f->begin[i] = r;
    }
    free(M), free(choice);
    return code;
}

/* x: `batch` rows of `steps` numbers, dx apart; codes dc apart; the registers at the start into `begin`; `first`: the register of both ends, or NULL. */
int shifts(const float *x, const float *table, const int64_t *first, uint8_t *codes, int64_t *begin, int64_t k, int64_t rest,
           int64_t steps, int64_t batch, int64_t dx, int64_t dc, int64_t threads) {
    Shifts f = {x, table, first, codes, begin, k, rest, steps, dx, dc};
    const int64_t fit = MEMORY / (steps * rest * ((((int64_t)1 << k) + 3) / 4 * 4) + 1);
    return spread(rows, &f, batch, threads < fit ? threads : fit > 1 ? fit : 1);
}
