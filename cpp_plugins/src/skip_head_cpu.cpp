// The fused skip head for one instruction set; knows nothing about threads, checks or the other builds of this file.
//
// CMake compiles this file once for each instruction set (FCN_EDGE_CPU_TARGET is the name of the table it defines). It
// must not use anything from the standard library that is inline: the linker would keep one copy out of all builds, and
// that copy may need instructions which the machine lacks.
//
// How it works: the output rows of one cell share two rows of the coarse sum. Each of these is stretched once (every
// value repeated s times), after which the four taps of a vector of output pixels are four loads at x and x - s, and
// the same four serve all rows of the cell. For a block of rows the running maximum and its class stay in registers.
#include "skip_head_cpu.h"

namespace fcn_edge {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 8;  // 2 x 8 registers of 32 hold maxima and classes
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 4;  // 2 x 4 registers of 16
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 8;
#else
constexpr int kLanes = 4, kRows = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef float UnalignedFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint8_t UnalignedBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

inline Floats load(const float* from) { return *reinterpret_cast<const UnalignedFloats*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<UnalignedFloats*>(to) = value; }

// A row of all classes, stretched by `stride`: at(c)[x] is the near tap of output column x, at(c)[x - stride] the left
// one.
struct Stretched {
    float* base;
    size_t step;
    int margin;
    float* at(int c) const { return base + size_t(c) * step + margin; }
};

template <int kStride>
inline void repeat(float* to, const float* from, int count, int stride) {
    const int s = kStride ? kStride : stride;
    for (int j = 0; j < count; ++j) {
        for (int b = 0; b < s; ++b) to[b] = from[j];
        to += s;
    }
}

// Stretches row `row` of every class; a row outside the grid is zero. `plane` is the distance between classes in `sum`.
void stretch(const Stretched& into, const float* sum, size_t plane, int row, int height, int width, int classes,
             int stride, int out_w) {
    const bool inside = row >= 0 && row < height;
    const int needed = tap_near(out_w - 1, stride) + 1;
    const int count = inside ? (needed < width ? needed : width) : 0;
    const int end = int(round_up(out_w, kLanes));
    for (int c = 0; c < classes; ++c) {
        float* to = into.at(c);
        for (int x = -stride; x < -stride / 2; ++x) to[x] = 0.0f;
        to -= stride / 2;
        if (inside) {
            const float* from = sum + size_t(c) * plane + size_t(row) * size_t(width);
            if (stride == 2)
                repeat<2>(to, from, count, stride);
            else if (stride == 4)
                repeat<4>(to, from, count, stride);
            else if (stride == 8)
                repeat<8>(to, from, count, stride);
            else if (stride == 16)
                repeat<16>(to, from, count, stride);
            else
                repeat<0>(to, from, count, stride);
        }
        for (int x = count * stride; x < end + stride / 2; ++x) to[x] = 0.0f;
    }
}

// Brings the sum of stage `stage - 1` to the next grid and adds that grid's scores: rows [rows.begin, rows.end).
void next_stage(const CpuWork& work, int stage, const float* scores, const float* coarse, size_t coarse_plane,
                int coarse_begin, float* fine, RowRange rows, Stretched near, Stretched above) {
    const SkipHeadShape& shape = work.shape;
    const int width = shape.score_w[stage], height = shape.score_h[stage], coarse_h = shape.score_h[stage - 1];
    const size_t fine_plane = size_t(rows.end - rows.begin) * size_t(width);
    near.margin = above.margin = int(round_up(2, kLanes));
    near.step = above.step = stretched_step(width, 2, kLanes);
    int stretched_cell = -1;
    for (int y = rows.begin; y < rows.end; ++y) {
        const int cell = tap_near(y, 2), phase = tap_phase(y, 2);
        if (cell != stretched_cell) {
            // Rows are addressed from the first one that `coarse` holds.
            const float* origin = coarse - ptrdiff_t(coarse_begin) * shape.score_w[stage - 1];
            stretch(near, origin, coarse_plane, cell, coarse_h, shape.score_w[stage - 1], shape.classes, 2, width);
            stretch(above, origin, coarse_plane, cell - 1, coarse_h, shape.score_w[stage - 1], shape.classes, 2, width);
            stretched_cell = cell;
        }
        for (int c = 0; c < shape.classes; ++c) {
            const float* k = work.packed[stage - 1] + (size_t(c) * 2 + size_t(phase)) * 4 * kLanes;
            const Floats k0 = load(k), k1 = load(k + kLanes), k2 = load(k + 2 * kLanes), k3 = load(k + 3 * kLanes);
            const float* n = near.at(c);
            const float* a = above.at(c);
            const float* add = scores + (size_t(c) * size_t(height) + size_t(y)) * size_t(width);
            float* to = fine + size_t(c) * fine_plane + size_t(y - rows.begin) * size_t(width);
            // The last vector is moved back to end with the row; widths are even, so it keeps the phase of its columns.
            for (int done = 0; width >= kLanes && done < width; done += kLanes) {
                const int x = done + kLanes <= width ? done : width - kLanes;
                const Floats taps = load(n + x) * k0 + load(n + x - 2) * k1 + load(a + x) * k2 + load(a + x - 2) * k3;
                store(to + x, taps + load(add + x));
            }
            if (width < kLanes) {
                const Floats taps = load(n) * k0 + load(n - 2) * k1 + load(a) * k2 + load(a - 2) * k3;
                for (int x = 0; x < width; ++x) to[x] = taps[x] + add[x];
            }
        }
    }
}

// Labels kCount rows of kLanes pixels. `k` points at the first row's taps of class 0.
template <int kCount>
inline void label_block(const Stretched& near, const Stretched& above, int x, int stride, int classes, const float* k,
                        size_t k_step, Bytes* labels) {
    Floats best[kCount];
    Ints id[kCount];
    for (int r = 0; r < kCount; ++r) {
        best[r] = Floats{} - __builtin_inff();
        id[r] = Ints{};
    }
    const float* n = near.at(0) + x;
    const float* a = above.at(0) + x;
    for (int c = 0; c < classes; ++c) {
        const Floats s0 = load(n), s1 = load(n - stride), s2 = load(a), s3 = load(a - stride);
        const Ints candidate = Ints{} + c;
#pragma GCC unroll 8
        for (int r = 0; r < kCount; ++r) {
            const float* kr = k + r * 4 * kLanes;
            const Floats score =
                s0 * load(kr) + s1 * load(kr + kLanes) + s2 * load(kr + 2 * kLanes) + s3 * load(kr + 3 * kLanes);
            const Ints better = score > best[r];  // false for NaN and for a tie
            best[r] = better ? score : best[r];
            id[r] = better ? candidate : id[r];
        }
        n += near.step;
        a += above.step;
        k += k_step;
    }
    // In two steps: GCC 12 narrows 32 bits to 8 at once only with AVX-512, and lane by lane otherwise.
    for (int r = 0; r < kCount; ++r) labels[r] = __builtin_convertvector(__builtin_convertvector(id[r], Shorts), Bytes);
}

// Labels rows [y, y + kCount) of one cell, all columns.
template <int kCount>
void label_rows(const CpuWork& work, const Stretched& near, const Stretched& above, uint8_t* to, int phase) {
    const SkipHeadShape& shape = work.shape;
    const size_t k_step = size_t(shape.stride) * 4 * kLanes;
    const float* packed = work.packed[shape.stages - 1] + size_t(phase) * 4 * kLanes;
    for (int x = 0; x < shape.out_w; x += kLanes) {
        const float* k = packed + size_t(x % shape.stride / kLanes) * size_t(shape.classes) * k_step;
        Bytes labels[kCount];
        label_block<kCount>(near, above, x, shape.stride, shape.classes, k, k_step, labels);
        const int count = shape.out_w - x < kLanes ? shape.out_w - x : kLanes;
        for (int r = 0; r < kCount; ++r) {
            uint8_t* row = to + size_t(r) * size_t(shape.out_w) + x;
            if (count == kLanes)
                *reinterpret_cast<UnalignedBytes*>(row) = labels[r];
            else
                for (int i = 0; i < count; ++i) row[i] = labels[r][i];
        }
    }
}

void run(const CpuWork& work, int image, int first, int last, float* scratch) {
    const SkipHeadShape& shape = work.shape;
    const int stages = shape.stages, s = shape.stride;
    Stretched near = {scratch, 0, 0}, above = {scratch + stretched_floats(shape, kLanes), 0, 0};
    float* free = scratch + 2 * stretched_floats(shape, kLanes);

    // The running sum, stage by stage; of the first stage it is the scores themselves.
    size_t plane = size_t(shape.score_h[0]) * size_t(shape.score_w[0]);
    const float* sum = work.scores[0] + size_t(image) * size_t(shape.classes) * plane;
    int begin = 0;
    for (int i = 1; i < stages; ++i) {
        const RowRange rows = rows_needed(shape, i, first, last);
        const size_t scores_plane = size_t(shape.score_h[i]) * size_t(shape.score_w[i]);
        const float* scores = work.scores[i] + size_t(image) * size_t(shape.classes) * scores_plane;
        next_stage(work, i, scores, sum, plane, begin, free, rows, near, above);
        sum = free;
        begin = rows.begin;
        plane = size_t(rows.end - rows.begin) * size_t(shape.score_w[i]);
        free += sum_floats(shape, i, first, last);
    }

    const int height = shape.score_h[stages - 1], width = shape.score_w[stages - 1];
    const float* origin = sum - ptrdiff_t(begin) * width;
    near.margin = above.margin = int(round_up(s, kLanes));
    near.step = above.step = stretched_step(shape.out_w, s, kLanes);
    stretch(above, origin, plane, first - 1, height, width, shape.classes, s, shape.out_w);
    uint8_t* labels = work.labels + size_t(image) * size_t(shape.out_h) * size_t(shape.out_w);
    for (int cell = first; cell < last; ++cell) {
        stretch(near, origin, plane, cell, height, width, shape.classes, s, shape.out_w);
        int y = cell_begin(cell, s);
        int end = y + s < shape.out_h ? y + s : shape.out_h;
        if (y < 0) y = 0;
        while (y < end) {
            uint8_t* to = labels + size_t(y) * size_t(shape.out_w);
            const int phase = tap_phase(y, s);
            int count = end - y;
            if (kRows >= 8 && count >= 8)
                label_rows<8>(work, near, above, to, phase), count = 8;
            else if (count >= 4)
                label_rows<4>(work, near, above, to, phase), count = 4;
            else if (count >= 2)
                label_rows<2>(work, near, above, to, phase), count = 2;
            else
                label_rows<1>(work, near, above, to, phase);
            y += count;
        }
        const Stretched swapped = near;
        near = above;
        above = swapped;
    }
}

}  // namespace

extern const CpuTarget FCN_EDGE_CPU_TARGET;
const CpuTarget FCN_EDGE_CPU_TARGET = {FCN_EDGE_CPU_NAME, kLanes, run};

}  // namespace fcn_edge
