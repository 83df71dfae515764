// What the CPU kernel and the code that chooses among its builds share; knows nothing about threads or checks.
#pragma once

#include <cstddef>

#include "fcn_edge/skip_head.h"

namespace fcn_edge {

// One call, shared by all threads. `packed` holds each stage's kernels in the order in which the kernel reads them:
// [column block][class][row phase][tap][lane], taps in the order near/near, near/left, above/near, above/left.
struct CpuWork {
    SkipHeadShape shape;
    const float* const* scores;
    const float* packed[kMaxStages];
    uint8_t* labels;
};

// One build of the kernel. `run` labels the output rows of cells [first, last) of one image; a cell is the output rows
// that share their taps, and there are score_h + 1 of them. `scratch` holds scratch_floats() floats and is one thread's
// own.
struct CpuTarget {
    const char* name;
    int lanes;
    void (*run)(const CpuWork& work, int image, int first, int last, float* scratch);
};

// All of the functions below have internal linkage for the reason given in skip_head.h.

static inline size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Floats between the rows of two classes in a stretched row: room for `stride` zeros on the left, a whole vector and
// the rest of a cell on the right, and an odd number of cache lines, so that the classes do not all fall into the same
// sets of the cache.
static inline size_t stretched_step(int width, int stride, int lanes) {
    const size_t line = 16;
    const size_t lines = round_up(round_up(width, lanes) + 2 * round_up(stride, lanes), line) / line;
    return (lines | 1) * line;
}

// Rows of stage `stage`'s sum that cells [first, last) of the last stage need: from begin (inclusive) to end
// (exclusive).
struct RowRange {
    int begin;
    int end;
};
static inline RowRange rows_needed(const SkipHeadShape& shape, int stage, int first, int last) {
    RowRange rows = {first > 0 ? first - 1 : 0,
                     last < shape.score_h[shape.stages - 1] ? last : shape.score_h[shape.stages - 1]};
    for (int i = shape.stages - 1; i > stage; --i) {
        const int begin = tap_near(rows.begin, 2) - 1;
        const int end = tap_near(rows.end - 1, 2) + 1;
        rows.begin = begin > 0 ? begin : 0;
        rows.end = end < shape.score_h[i - 1] ? end : shape.score_h[i - 1];
    }
    return rows;
}

static inline size_t sum_floats(const SkipHeadShape& shape, int stage, int first, int last) {
    const RowRange rows = rows_needed(shape, stage, first, last);
    return round_up(size_t(shape.classes) * size_t(rows.end - rows.begin) * size_t(shape.score_w[stage]), 16);
}

// Floats of one stretched row of all classes, large enough for every stage.
static inline size_t stretched_floats(const SkipHeadShape& shape, int lanes) {
    size_t step = stretched_step(shape.out_w, shape.stride, lanes);
    for (int i = 1; i < shape.stages; ++i) {
        const size_t needed = stretched_step(shape.score_w[i], 2, lanes);
        step = step > needed ? step : needed;
    }
    return size_t(shape.classes) * step;
}

// Two stretched rows, then the sums of every stage but the first.
static inline size_t scratch_floats(const SkipHeadShape& shape, int first, int last, int lanes) {
    size_t floats = 2 * stretched_floats(shape, lanes);
    for (int i = 1; i < shape.stages; ++i) floats += sum_floats(shape, i, first, last);
    return floats;
}

}  // namespace fcn_edge
