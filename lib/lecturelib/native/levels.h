/* Codes and points of at most CHAIN levels, for sixteen numbers at a time. */
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

/* Of sixteen numbers the least j with x <= t[j]; t: CHAIN - 1 increasing thresholds, the last ones infinite. */
static inline i16 level(v16 x, const float *t) {
    i16 j = {};
#ifdef __AVX512F__                                         /* the thresholds fit in a register: halve four times */
    const __m512 all = _mm512_maskz_loadu_ps(0x7fff, t);
    j -= (x > t[7]) * 8;
    j -= (x > (v16)_mm512_permutexvar_ps((__m512i)(j + 3), all)) * 4;
    j -= (x > (v16)_mm512_permutexvar_ps((__m512i)(j + 1), all)) * 2;
    j -= x > (v16)_mm512_permutexvar_ps((__m512i)j, all);
#else
    for (int32_t i = 0; i < CHAIN - 1; i++) j -= x > t[i];
#endif
    return j;
}

/* y = p[j], of CHAIN points p */
static inline void look_up(const float *p, i16 j, float *y) {
#ifdef __AVX512F__
    _mm512_storeu_ps(y, _mm512_permutexvar_ps((__m512i)j, _mm512_loadu_ps(p)));
#else
    for (int l = 0; l < 16; l++) y[l] = p[j[l]];
#endif
}
