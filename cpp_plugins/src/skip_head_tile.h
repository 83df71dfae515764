// What a block and each of its threads do in the CUDA skip head, compiled for the host too; knows nothing about CUDA.
//
// A block labels kTileWidth columns of kTileUnits units. A unit is two neighbouring row phases in four cells below each
// other, so eight rows: the same eight taps of the last kernel serve all four cells, and the same four source values
// serve both phases. A thread owns one column of one unit, and its eight running maxima stay in registers.
//
// Shared memory holds, for some classes at a time, every grid's part that the block needs, one cell wider on each side.
// The steps of a block, each for all of its threads before the next: load_scores, add_coarser for stage 1, 2, ...,
// label_classes; then the next classes; at last write_labels. tests/cpp_plugins runs these same steps on the host.
#pragma once

#include <cstddef>
#include <type_traits>

#include "fcn_edge/skip_head.h"

#if defined(__CUDACC__)
#define FCN_EDGE_UNROLL _Pragma("unroll")
#else
#define FCN_EDGE_UNROLL
#endif

namespace fcn_edge {

constexpr int kTileWidth = 64, kTileUnits = 4;
constexpr int kTileThreads = kTileWidth * kTileUnits;
constexpr int kUnitRows = 2, kUnitCells = 4;
constexpr int kTileSharedBytes = 24 * 1024;  // four blocks share the 100 KB of an sm_86 multiprocessor

// How a call is cut into blocks, and what shared memory of one block holds.
struct TilePlan {
    int blocks_x;
    int blocks_y;
    int pairs_log2;           // a cell has 2^pairs_log2 pairs of row phases
    int rows[kMaxStages];     // of stage i that a block holds
    int columns[kMaxStages];  // likewise
    int offset[kMaxStages];   // where stage i begins within a class, in floats
    int step;                 // floats from one class to the next
    int classes;              // held at a time
    FCN_EDGE_HOST_DEVICE size_t shared_bytes() const { return size_t(step) * size_t(classes) * sizeof(float); }
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
        plan.offset[i] = plan.step;
        plan.step += rows * columns;
        rows = rows / 2 + 2;  // two fine cells share a coarse one; the ends need a neighbour each
        columns = columns / 2 + 2;
    }
    const int fit = kTileSharedBytes / (plan.step * int(sizeof(float)));
    const int passes = (shape.classes + fit - 1) / fit;
    plan.classes = (shape.classes + passes - 1) / passes;  // as even as can be
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

// The same for the grid `steps` stages coarser: the near tap's predecessor. -1 has the near tap of 0, so it needs no
// clipping.
FCN_EDGE_HOST_DEVICE static inline int coarser_begin(int begin, int steps) {
    for (; steps > 0; --steps) begin = tap_near(begin, 2) - 1;
    return begin;
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

// Brings the scores of all stages into shared memory; zero outside the grids.
template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void load_scores(const TileWork<Score, Kernel>& work, TilePlace place,
                                                    int class_begin, int class_count, float* shared) {
    for (int i = 0; i < work.shape.stages; ++i) {
        const TileOrigin origin = tile_origin(work, place, i);
        const int height = work.shape.score_h[i], width = work.shape.score_w[i];
        const size_t plane = size_t(height) * size_t(width);
        const Score* image =
            work.scores[i] + (size_t(place.image) * size_t(work.shape.classes) + size_t(class_begin)) * plane;
        for (int cell = place.column; cell < work.plan.rows[i] * work.plan.columns[i]; cell += kTileWidth) {
            const int y = origin.row + cell / work.plan.columns[i], x = origin.column + cell % work.plan.columns[i];
            const bool inside = y >= 0 && y < height && x >= 0 && x < width;
            const Score* from = image + (inside ? size_t(y) * size_t(width) + size_t(x) : 0);
            float* to = shared + work.plan.offset[i] + cell;
            for (int c = place.unit; c < class_count; c += kTileUnits) {
                to[c * work.plan.step] = inside ? float(from[size_t(c) * plane]) : 0.0f;
            }
        }
    }
}

// Adds to the scores of `stage` (1 or more) in shared memory the sum of the stage before, brought to this grid.
template <class Score, class Kernel>
FCN_EDGE_HOST_DEVICE static inline void add_coarser(const TileWork<Score, Kernel>& work, TilePlace place, int stage,
                                                    int class_begin, int class_count, float* shared) {
    const TileOrigin origin = tile_origin(work, place, stage), coarse = tile_origin(work, place, stage - 1);
    const int height = work.shape.score_h[stage], width = work.shape.score_w[stage];
    const int coarse_columns = work.plan.columns[stage - 1];
    for (int cell = place.column; cell < work.plan.rows[stage] * work.plan.columns[stage]; cell += kTileWidth) {
        const int y = origin.row + cell / work.plan.columns[stage], x = origin.column + cell % work.plan.columns[stage];
        if (y < 0 || y >= height || x < 0 || x >= width) continue;
        const int near_row = tap_near(y, 2) - coarse.row, near_column = tap_near(x, 2) - coarse.column;
        const float* from = shared + work.plan.offset[stage - 1] + near_row * coarse_columns + near_column;
        const Kernel* taps = work.kernels[stage - 1] + class_begin * 16 + tap_phase(y, 2) * 4 + tap_phase(x, 2);
        float* to = shared + work.plan.offset[stage] + cell;
        for (int c = place.unit; c < class_count; c += kTileUnits) {
            const float* n = from + c * work.plan.step;
            const float* a = n - coarse_columns;
            const Kernel* k = taps + c * 16;
            to[c * work.plan.step] +=
                n[0] * float(k[0]) + n[-1] * float(k[2]) + a[0] * float(k[8]) + a[-1] * float(k[10]);
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
