/* Inner loops that run over columns or over time, where PyTorch would call a kernel for every step.
   GROUP, the most rows of one call of `feedback`, is a flag of the compiler. */
#include "team.h"

#define WIDTH 64                    /* columns of a tile of `feedback` */
#define LANES 16                    /* sequences that `paths` searches side by side */

/* q_j = min(max(round(y_j + sum_{i<j} N_ji (w_i - q_i)), low), high) for j = 0, ..., g - 1; w_j - q_j in the place of w_j.
   strides: of e, y, q and N by matrix and by row j, of N by i, of low and high by matrix and by column. */
typedef struct { float *e; const float *y, *N; float *q; const float *low, *high; const int64_t *s; int64_t g, m, tiles; } Feedback;

static int columns(const void *p, int64_t begin, int64_t end) {
    const Feedback *f = p;
    const int64_t *s = f->s;
    float E[GROUP][WIDTH], a[WIDTH], low[WIDTH], high[WIDTH];
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t b = tile / f->tiles, c = tile % f->tiles * WIDTH, n = f->m - c < WIDTH ? f->m - c : WIDTH;
        memset(low, 0, sizeof low), memset(high, 0, sizeof high), memset(a, 0, sizeof a);
        for (int64_t l = 0; l < n; l++) {
            low[l] = f->low[b * s[7] + (c + l) * s[8]];
            high[l] = f->high[b * s[7] + (c + l) * s[8]];
        }
        for (int64_t j = 0; j < f->g; j++) {
            float *e = f->e + b * s[0] + j * s[1] + c, *q = f->q ? f->q + b * s[4] + j * s[5] + c : NULL;
            const float *N = f->N + b * s[6] + j * s[9];
            memcpy(a, f->y + b * s[2] + j * s[3] + c, n * sizeof(float));
            for (int64_t i = 0; i < j; i++) {
                float v = N[i * s[10]];
                for (int l = 0; l < WIDTH; l++) a[l] += v * E[i][l];
            }
            for (int l = 0; l < WIDTH; l++) {
                float z = rintf(a[l]);
                z = z < low[l] ? low[l] : z;
                a[l] = z > high[l] ? high[l] : z;
            }
            memset(E[j], 0, sizeof E[j]);
            for (int64_t l = 0; l < n; l++) e[l] = E[j][l] = e[l] - a[l];
            if (q) memcpy(q, a, n * sizeof(float));
        }
    }
    return 0;
}

int feedback(float *e, const float *y, const float *N, float *q, const float *low, const float *high, const int64_t *strides,
             int64_t matrices, int64_t g, int64_t m, int64_t threads) {
    Feedback f = {e, y, N, q, low, high, strides, g, m, (m + WIDTH - 1) / WIDTH};
    return spread(columns, &f, matrices * f.tiles, threads);
}

/* Search of `sic_trellis.Search`: from `state`, through x of `steps` times `sequences` with the strides dt and ds; those of q are qt and qs. */
typedef struct { const float *x; float *q; int64_t *state; const int64_t *labels; int64_t states, steps, sequences, dt, ds, qt, qs; } Paths;

static int lanes(const void *p, int64_t begin, int64_t end) {
    const Paths *f = p;
    const int64_t n = f->states, half = n / 2, T = f->steps;
    unsigned char *choice = malloc(T * n * LANES);
    float (*M)[LANES] = malloc(2 * n * sizeof *M), x[LANES], cost[4][LANES];
    int failed = !choice || !M;
    for (int64_t tile = begin; tile < end && !failed; tile++) {
        int64_t first = tile * LANES, count = f->sequences - first < LANES ? f->sequences - first : LANES;
        float (*old)[LANES] = M, (*new)[LANES] = M + n;
        for (int64_t s = 0; s < n; s++) for (int l = 0; l < LANES; l++) old[s][l] = INFINITY;
        for (int l = 0; l < LANES; l++) old[l < count ? f->state[first + l] : 0][l] = 0, x[l] = 0;
        for (int64_t t = 0; t < T; t++) {
            for (int64_t l = 0; l < count; l++) x[l] = f->x[t * f->dt + (first + l) * f->ds];
            for (int l = 0; l < LANES; l++) {
                float r = rintf(x[l] * 0.25f) * -4 + x[l];
                float d1 = fabsf(r + 1) - 2, d2 = fabsf(r) - 2, d3 = fabsf(r - 1) - 2;
                cost[0][l] = r * r, cost[1][l] = d1 * d1, cost[2][l] = d2 * d2, cost[3][l] = d3 * d3;
            }
            unsigned char *mark = choice + t * n * LANES;
            for (int64_t s = 0; s < n; s++) {
                const float *A = old[s / 2], *B = old[half + s / 2], *a = cost[f->labels[s]], *b = cost[f->labels[n + s]];
                for (int l = 0; l < LANES; l++) {
                    float u = A[l] + a[l], v = B[l] + b[l];
                    mark[s * LANES + l] = v < u;
                    new[s][l] = v < u ? v : u;
                }
            }
            float (*turn)[LANES] = old;
            old = new, new = turn;
        }
        for (int64_t l = 0; l < count; l++) {
            int64_t s = 0;
            for (int64_t k = 1; k < n; k++) if (old[k][l] < old[s][l]) s = k;
            f->state[first + l] = s;
            for (int64_t t = T - 1; t >= 0; t--) {
                int64_t w = choice[(t * n + s) * LANES + l] * n + s;
                float label = f->labels[w];
                f->q[t * f->qt + (first + l) * f->qs] = rintf((f->x[t * f->dt + (first + l) * f->ds] - label) * 0.25f) * 4 + label;
                s = w >> 1;
            }
        }
    }
    free(choice), free(M);
    return failed;
}

int paths(const float *x, float *q, int64_t *state, const int64_t *labels, int64_t states, int64_t steps, int64_t sequences,
          int64_t dt, int64_t ds, int64_t qt, int64_t qs, int64_t threads) {
    Paths f = {x, q, state, labels, states, steps, sequences, dt, ds, qt, qs};
    return spread(lanes, &f, (sequences + LANES - 1) / LANES, threads);
}
