/* Codes of `width` < 8 bits, a byte each, in a stream without gaps and back: eight codes are a word, moved together by three folds. */
#include "team.h"

typedef struct { const uint8_t *from; uint8_t *to; int64_t words, width; } Stream;

static inline uint64_t lanes(uint64_t mask, int size) {   /* `mask` in every lane of `size` bytes */
    uint64_t all = 0;
    for (int k = 0; k < 8; k += size) all |= mask << 8 * k;
    return all;
}

static int folds(const void *p, int64_t begin, int64_t end) {
    const Stream *f = p;
    const int w = (int)f->width;
    const uint64_t a = lanes(0xff, 2), b = lanes(0xffff, 4), c = 0xffffffff, wrong = lanes(0xff & ~((1 << w) - 1), 1);
    uint64_t bad = 0;
    for (int64_t i = begin; i < end; i++) {
        uint64_t v;
        memcpy(&v, f->from + 8 * i, 8);
        bad |= v & wrong;
        v = (v & a) | (v >> 8 & a) << w;
        v = (v & b) | (v >> 16 & b) << 2 * w;
        v = (v & c) | (v >> 32 & c) << 4 * w;
        if (w * i + 8 <= w * end) memcpy(f->to + w * i, &v, 8);        /* the next words overwrite what is too much */
        else memcpy(f->to + w * i, &v, w);
    }
    return bad ? OUT_OF_RANGE : OK;
}

static int unfolds(const void *p, int64_t begin, int64_t end) {
    const Stream *f = p;
    const int w = (int)f->width;
    const uint64_t a = lanes((1 << w) - 1, 2), b = lanes((1 << 2 * w) - 1, 4), c = (UINT64_C(1) << 4 * w) - 1;
    for (int64_t i = begin; i < end; i++) {
        uint64_t v = 0;
        if (w * i + 8 <= w * f->words) memcpy(&v, f->from + w * i, 8);
        else memcpy(&v, f->from + w * i, w);
        v = (v & c) | (v >> 4 * w & c) << 32;
        v = (v & b) | (v >> 2 * w & b) << 16;
        v = (v & a) | (v >> w & a) << 8;
        memcpy(f->to + 8 * i, &v, 8);
    }
    return OK;
}

/* 8 * words codes into width * words bytes; OUT_OF_RANGE if a code does not fit */
int pack(const uint8_t *codes, uint8_t *data, int64_t words, int64_t width, int64_t threads) {
    Stream f = {codes, data, words, width};
    return spread(folds, &f, words, threads);
}

int unpack(const uint8_t *data, uint8_t *codes, int64_t words, int64_t width, int64_t threads) {
    Stream f = {data, codes, words, width};
    return spread(unfolds, &f, words, threads);
}
