/* Work on pieces of a range by several threads.  Every file of this folder is built by itself. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FINITE 0x7f800000           /* magnitudes of finite numbers have smaller bits */
typedef union { float f; int32_t i; } Bits;
static inline int32_t bits_of(float x) { return ((Bits){.f = x}).i; }
static inline float float_of(int32_t i) { return ((Bits){.i = i}).f; }

/* bits of the largest magnitude; NaN counts as larger than infinity */
static inline __attribute__((always_inline)) int32_t largest_bits(const float *x, int64_t n) {
    int32_t m = 0;
    for (int64_t l = 0; l < n; l++) { int32_t b = bits_of(x[l]) & INT32_MAX; m = b > m ? b : m; }
    return m;
}

enum { OK, NO_MEMORY, NOT_FINITE, OUT_OF_RANGE, RESULT_NOT_FINITE };

/* The OpenMP runtime that PyTorch has loaded, so that its waiting threads are the ones that work; threads of our own without it. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

typedef int (*Loop)(const void *with, int64_t begin, int64_t end);
typedef struct { Loop loop; const void *with; int64_t n, threads; int failed; } Team;
typedef struct { Team *team; int64_t k; int own; pthread_t thread; } Job;

static void part(Team *t, int64_t k, int64_t of) {
    int code = t->loop(t->with, t->n * k / of, t->n * (k + 1) / of);
    if (code) t->failed = code;
}
static void in_team(void *p) { part(p, omp_get_thread_num(), omp_get_num_threads()); }
static void *in_thread(void *p) { Job *j = p; part(j->team, j->k, j->team->threads); return NULL; }

/* loop(with, begin, end) on `threads` pieces of 0, ..., n - 1; OK, or what one of them returned instead */
__attribute__((unused)) static int spread(Loop loop, const void *with, int64_t n, int64_t threads) {
    if (threads > n) threads = n;
    if (threads > 256) threads = 256;
    Team team = {loop, with, n, threads, 0};
    if (threads < 2) {
        if (n) part(&team, 0, 1);
    } else if (GOMP_parallel && omp_get_thread_num && omp_get_num_threads) {
        GOMP_parallel(in_team, &team, threads, 0);
    } else {
        Job jobs[256];
        for (int64_t k = 0; k < threads; k++) {
            jobs[k] = (Job){&team, k, 0, 0};
            jobs[k].own = k + 1 < threads && !pthread_create(&jobs[k].thread, NULL, in_thread, &jobs[k]);
            if (!jobs[k].own) in_thread(&jobs[k]);
        }
        for (int64_t k = 0; k < threads; k++) if (jobs[k].own) pthread_join(jobs[k].thread, NULL);
    }
    return team.failed;
}
