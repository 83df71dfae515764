// What a block and each of its threads do in the CUDA skip head, compiled for the host too; knows nothing about CUDA.
//
// A block labels kTileWidth columns of kTileUnits units. A unit is two neighbouring row phases in four cells below each
// other, so eight rows: the same eight taps of the last kernel serve all four cells, and the same four source values
// serve both phases. A thread owns one column of one unit, and its eight running maxima stay in registers.
//
// Shared memory holds, for some classes at a time, every grid's part that the block needs, one cell wider on each side,
// and behind them the kernels that lead from grid to grid. What a step fetches from device memory it fetches some at a
// time, before the first of them is waited for: a block has few threads and nothing else to do meanwhile.
// The steps of a block, each for all of its threads before the next: load_scores, add_coarser for stage 1, 2, ...,
// label_classes; then the next classes; at last write_labels. tests/cpp_plugins runs these same steps on the host.
#pragma once

#include <cstddef>
#include <type_traits>

#include "fcn_edge/skip_head.h"

#if defined(__CUDACC__)
#define FCN_EDGE_UNROLL _Pragma("unroll")
#define FCN_EDGE_NO_UNROLL _Pragma("unroll 1")
#else
#define FCN_EDGE_UNROLL
#define FCN_EDGE_NO_UNROLL
#endif

namespace fcn_edge {

constexpr int kTileWidth = 64, kTileUnits = 4;
constexpr int kTileThreads = kTileWidth * kTileUnits;
constexpr int kUnitRows = 2, kUnitCells = 4;
constexpr int kTaps = 16;                    // of a kernel between two grids
constexpr int kFetched = 6;                  // elements that a thread fetches before it waits
constexpr int kLine = 128;                   // bytes that come from device memory together
constexpr int kOne = 1 << 16;                // of fixed point
constexpr int kTileSharedBytes = 24 * 1024;  // four blocks share the 100 KB of an sm_86 multiprocessor

// How a call is cut into blocks, and what shared memory of one block holds.
struct TilePlan {
    int blocks_x;
    int blocks_y;
    int pairs_log2;           // a cell has 2^pairs_log2 pairs of row phases
    int rows[kMaxStages];     // of stage i that a block holds
    int columns[kMaxStages];  // likewise
    int inverse[kMaxStages];  // 2^16 / columns[i], rounded up: see row_of()
    int offset[kMaxStages];   // where stage i begins within a class, in floats
    int step;                 // floats of a class, and from one class to the next
    int taps;                 // where the taps between the grids begin, behind all classes
    int classes;              // held at a time
    int floats;               // in all
    FCN_EDGE_HOST_DEVICE size_t shared_bytes() const { return size_t(floats) * sizeof(float); }
};

// Columns of the finest grid that a block holds.
FCN_EDGE_HOST_DEVICE static constexpr int finest_columns(int stride) {
    return (kTileWidth - 1 + stride / 2) / stride + 2;
}

static inline TilePlan tile_plan(const SkipHeadShape& shape) {
    TilePlan plan = {};
    while ((2 << plan.pairs_log2) < shape.stride) ++plan.pairs_log2;
    const int pairs = 1 << plan.pairs_log2;
    const int cells = tap_near(shape.out_h - 1, shape.stride) + 1;  // rows of cells
    const int units = (cells + kUnitCells - 1) / kUnitCells * pairs;
    plan.blocks_x = (shape.out_w + kTileWidth - 1) / kTileWidth;
    plan.blocks_y = (units + kTileUnits - 1) / kTileUnits;

    // The units of a block lie in one group of cells, or in several whole groups: both numbers are powers of two.
    int rows = (kTileUnits > pairs ? kTileUnits / pairs : 1) * kUnitCells + 1;
    int columns = finest_columns(shape.stride);
    for (int i = shape.stages - 1; i >= 0; --i) {
        plan.rows[i] = rows;
        plan.columns[i] = columns;
        plan.inverse[i] = (kOne + columns - 1) / columns;
        plan.offset[i] = plan.step;
        plan.step += rows * columns;
        rows = rows / 2 + 2;  // two fine cells share a coarse one; the ends need a neighbour each
        columns = columns / 2 + 2;
    }
    const int taps = kTaps * (shape.stages - 1);
    const int fit = kTileSharedBytes / ((plan.step + taps) * int(sizeof(float)));
    const int passes = (shape.classes + fit - 1) / fit;
    plan.classes = (shape.classes + passes - 1) / passes;  // as even as can be
    plan.taps = plan.step * plan.classes;
    plan.floats = plan.taps + taps * plan.classes;
    return plan;
}

// Calls `call` with the last stride as a constant where it is a common one, else with 0: a constant stride turns the
// addresses of the taps into offsets within the load instructions.
template <class Call>
static inline auto with_stride(int stride, Call&& call) {
    switch (stride) {
        case 4:
            return call(std::integral_constant<int, 4>());
        case 8:
            return call(std::integral_constant<int, 8>());
        case 16:
            return call(std::integral_constant<int, 16>());
        case 32:
            return call(std::integral_constant<int, 32>());
        default:
            return call(std::integral_constant<int, 0>());
    }
}

// One call. Score and Kernel are types that convert to float.
template <class Score, class Kernel>
struct TileWork {
    SkipHeadShape shape;
    TilePlan plan;
    const Score* scores[kMaxStages];
    const Kernel* kernels[kMaxStages];
    uint8_t* labels;
};

// Place of a block among blocks_x * blocks_y * batch, and of a thread within its block.
struct TilePlace {
    int block_x;
    int block_y;
    int image;
    int column;  // 0 to kTileWidth - 1
    int unit;    // 0 to kTileUnits - 1
};

// Number of a thread within its block.
FCN_EDGE_HOST_DEVICE static inline int thread_of(TilePlace place) { return place.unit * kTileWidth + place.column; }

// Running maxima of a thread and their classes.
struct TileBest {
    float score[kUnitCells][kUnitRows];
    int label[kUnitCells][kUnitRows];
};

FCN_EDGE_HOST_DEVICE static inline void tile_reset(TileBest& best) {
    FCN_EDGE_UNROLL
    for (int k = 0; k < kUnitCells; ++k) {
        FCN_EDGE_UNROLL
        for (int r = 0; r < kUnitRows; ++r) {
            best.score[k][r] = -__builtin_inff();
            best.label[k][r] = 0;
        }
    }
}

// First cell of a unit of the whole picture, and the pair of row phases that the unit takes of each of its cells.
FCN_EDGE_HOST_DEVICE static inline int unit_cell(int unit, const TilePlan& plan) {
    return (unit >> plan.pairs_log2) * kUnitCells;
}
FCN_EDGE_HOST_DEVICE static inline int unit_phase(int unit, const TilePlan& plan) {
    return (unit & ((1 << plan.pairs_log2) - 1)) * kUnitRows;
}

// First row (column) of the finest grid that a block holds; minus 1 at the edge, where sums are zero.
FCN_EDGE_HOST_DEVICE static inline int finest_row(const TilePlan& plan, int block_y) {
    return unit_cell(block_y * kTileUnits, plan) - 1;
}
FCN_EDGE_HOST_DEVICE static inline int finest_column(const SkipHeadShape& shape, int block_x) {
    return tap_near(block_x * kTileWidth, shape.stride) - 1;
}

// The same for the grid `steps` stages coarser: the near tap's predecessor, so many times. -1 has the near tap of 0, so
// it needs no clipping. With b = begin + 2 a step is b -> ceil(b / 2).
FCN_EDGE_HOST_DEVICE static inline int coarser_begin(int begin, int steps) {
    return ((begin + 1 + (1 << steps)) >> steps) - 2;
}

// Where the columns and rows of stage `stage` that a block holds begin in its grid.
struct TileOrigin {
    int row;
    int column;
};
template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline TileOrigin tile_origin(const TileWork<Score, Kernel>& work, TilePlace place,
                                                          int stage) {
    const int steps = work.shape.stages - 1 - stage;
    return {coarser_begin(finest_row(work.plan, place.block_y), steps),
            coarser_begin(finest_column(work.shape, place.block_x), steps)};
}

// Row of a cell of stage `stage` that a block holds: exact as long as cell * columns is less than 2^16.
FCN_EDGE_HOST_DEVICE static inline int row_of(const TilePlan& plan, int stage, int cell) {
    return (cell * plan.inverse[stage]) >> 16;
}

// A thread's share of work on some elements of each class: one element (of many, every kTileThreads-th from it on) of
// every `classes`-th class from `first` on. What an element needs is then worked out once for all of its classes.
struct TileShare {
    int element;
    int first;
    int classes;
    FCN_EDGE_HOST_DEVICE TileShare(TilePlace place, int elements) {
        const int thread = thread_of(place);
        classes = elements < kTileThreads ? kTileThreads / elements : 1;
        first = elements < kTileThreads ? thread / elements : 0;
        element = thread - first * elements;
        if (first >= classes) element = elements;  // nothing is left for it
    }
};

// Starts fetching what all threads of a block will read, which nobody waits for yet; of many bytes the first.
template <class Kernel>
FCN_EDGE_HOST_DEVICE static inline void touch(const Kernel* first, size_t count, TilePlace place) {
#if defined(__CUDA_ARCH__)
    const size_t at = size_t(thread_of(place)) * (kLine / sizeof(Kernel));
    if (at < count) asm volatile("prefetch.global.L1 [%0];" ::"l"(first + at));
#else
    (void)first, (void)count, (void)place;
#endif
}

// Brings the scores of all stages into shared memory, zero outside the grids, and the taps between them.
template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void load_scores(const TileWork<Score, Kernel>& work, TilePlace place,
                                                    int class_begin, int class_count, float* shared) {
    const TilePlan& plan = work.plan;
    FCN_EDGE_NO_UNROLL
    for (int i = 0; i < work.shape.stages; ++i) {
        const size_t size = size_t(i + 1 < work.shape.stages ? kTaps : 4 * work.shape.stride * work.shape.stride);
        touch(work.kernels[i] + size_t(class_begin) * size, size_t(class_count) * size, place);
    }
    const TileShare share(place, plan.step);
    for (int element = share.element; element < plan.step; element += kTileThreads) {
        int stage = work.shape.stages - 1;
        FCN_EDGE_UNROLL
        for (int i = kMaxStages - 2; i >= 0; --i) {  // the coarser lie behind the finer
            if (i < work.shape.stages - 1 && element >= plan.offset[i]) stage = i;
        }
        const TileOrigin origin = tile_origin(work, place, stage);
        const int cell = element - plan.offset[stage], row = row_of(plan, stage, cell);
        const int y = origin.row + row, x = origin.column + cell - row * plan.columns[stage];
        const int height = work.shape.score_h[stage], width = work.shape.score_w[stage];
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        const size_t plane = size_t(height) * size_t(width);
        const Score* from = work.scores[stage] +
                            (size_t(place.image) * size_t(work.shape.classes) + size_t(class_begin)) * plane +
                            (inside ? size_t(y) * size_t(width) + size_t(x) : 0);
        float* to = shared + element;
        for (int begin = share.first; begin < class_count; begin += kFetched * share.classes) {
            float values[kFetched];
            FCN_EDGE_UNROLL
            for (int k = 0; k < kFetched; ++k) {
                const int c = begin + k * share.classes;
                values[k] = inside && c < class_count ? float(from[size_t(c) * plane]) : 0.0f;
            }
            FCN_EDGE_UNROLL
            for (int k = 0; k < kFetched; ++k) {
                const int c = begin + k * share.classes;
                if (c < class_count) to[c * plan.step] = values[k];
            }
        }
    }
    for (int stage = 1; stage < work.shape.stages; ++stage) {
        const Kernel* taps = work.kernels[stage - 1] + class_begin * kTaps;
        float* to = shared + plan.taps + (stage - 1) * plan.classes * kTaps;
        FCN_EDGE_NO_UNROLL
        for (int i = thread_of(place); i < class_count * kTaps; i += kTileThreads) to[i] = float(taps[i]);
    }
}

// Adds to the scores of `stage` (1 or more) in shared memory the sum of the stage before, brought to this grid.
template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void add_coarser(const TileWork<Score, Kernel>& work, TilePlace place, int stage,
                                                    int class_count, float* shared) {
    const TilePlan& plan = work.plan;
    const TileOrigin origin = tile_origin(work, place, stage), coarse = tile_origin(work, place, stage - 1);
    const int height = work.shape.score_h[stage], width = work.shape.score_w[stage];
    const int coarse_columns = plan.columns[stage - 1], cells = plan.rows[stage] * plan.columns[stage];
    const TileShare share(place, cells);
    for (int cell = share.element; cell < cells; cell += kTileThreads) {
        const int row = row_of(plan, stage, cell);
        const int y = origin.row + row, x = origin.column + cell - row * plan.columns[stage];
        if (y < 0 || y >= height || x < 0 || x >= width) continue;
        const int near_row = tap_near(y, 2) - coarse.row, near_column = tap_near(x, 2) - coarse.column;
        const float* from = shared + plan.offset[stage - 1] + near_row * coarse_columns + near_column;
        const float* taps =
            shared + plan.taps + (stage - 1) * plan.classes * kTaps + tap_phase(y, 2) * 4 + tap_phase(x, 2);
        float* to = shared + plan.offset[stage] + cell;
        FCN_EDGE_NO_UNROLL
        for (int c = share.first; c < class_count; c += share.classes) {
            const float* n = from + c * plan.step;
            const float* a = n - coarse_columns;
            const float* k = taps + c * kTaps;
            to[c * plan.step] += n[0] * k[0] + n[-1] * k[2] + a[0] * k[8] + a[-1] * k[10];
        }
    }
}

// Compares the classes that shared memory holds with the best so far. NaN and ties never win, and classes come in
// rising order, so the lowest id stays. kStride is the last stride, or 0: see with_stride().
template <int kStride, class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void label_classes(const TileWork<Score, Kernel>& work, TilePlace place,
                                                      int class_begin, int class_count, const float* shared,
                                                      TileBest& best) {
    const int s = kStride ? kStride : work.shape.stride, finest = work.shape.stages - 1;
    const int columns = finest_columns(s);
    const int x = place.block_x * kTileWidth + place.column;
    const int unit = place.block_y * kTileUnits + place.unit;
    const int row = unit_cell(unit, work.plan) - 1 - finest_row(work.plan, place.block_y);  // above the first cell
    const int column = tap_near(x, s) - finest_column(work.shape, place.block_x);
    const float* from = shared + work.plan.offset[finest] + row * columns + column;
    const size_t kernel_size = size_t(4) * size_t(s) * size_t(s);
    const Kernel* taps = work.kernels[finest] + size_t(class_begin) * kernel_size +
                         size_t(unit_phase(unit, work.plan)) * size_t(2 * s) + size_t(tap_phase(x, s));
    for (int c = class_begin; c < class_begin + class_count; ++c) {
        float k[kUnitRows][4];
        FCN_EDGE_UNROLL
        for (int r = 0; r < kUnitRows; ++r) {
            const Kernel* near = taps + r * 2 * s;
            const Kernel* above = near + size_t(2 * s) * size_t(s);
            k[r][0] = float(near[0]), k[r][1] = float(near[s]), k[r][2] = float(above[0]), k[r][3] = float(above[s]);
        }
        const float* source = from;
        float above = source[0], above_left = source[-1];
        FCN_EDGE_UNROLL
        for (int cell = 0; cell < kUnitCells; ++cell) {
            source += columns;
            const float near = source[0], left = source[-1];
            FCN_EDGE_UNROLL
            for (int r = 0; r < kUnitRows; ++r) {
                const float score = near * k[r][0] + left * k[r][1] + above * k[r][2] + above_left * k[r][3];
                if (score > best.score[cell][r]) {
                    best.score[cell][r] = score;
                    best.label[cell][r] = c;
                }
            }
            above = near;
            above_left = left;
        }
        from += work.plan.step;
        taps += kernel_size;
    }
}

template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void write_labels(const TileWork<Score, Kernel>& work, TilePlace place,
                                                     const TileBest& best) {
    const SkipHeadShape& shape = work.shape;
    const int x = place.block_x * kTileWidth + place.column;
    const int unit = place.block_y * kTileUnits + place.unit;
    const int first = cell_begin(unit_cell(unit, work.plan), shape.stride) + unit_phase(unit, work.plan);
    if (x >= shape.out_w) return;
    uint8_t* image = work.labels + size_t(place.image) * size_t(shape.out_h) * size_t(shape.out_w);
    FCN_EDGE_UNROLL
    for (int cell = 0; cell < kUnitCells; ++cell) {
        FCN_EDGE_UNROLL
        for (int r = 0; r < kUnitRows; ++r) {
            const int y = first + cell * shape.stride + r;
            if (y >= 0 && y < shape.out_h) {
                image[size_t(y) * size_t(shape.out_w) + size_t(x)] = uint8_t(best.label[cell][r]);
            }
        }
    }
}

}  // namespace fcn_edge
