// The fused skip head: its shape and its entry points; knows nothing about Python, TensorRT or any instruction set.
//
// SkipHead(scores_1..n, kernels_1..n) -> labels, n = 1 to 4. Scores run from coarse to fine, each exactly twice as fine
// as the one before. For i < n, kernel_i [C, 1, 4, 4] is the depthwise transposed convolution (stride 2, padding 1)
// that brings the running sum to the next grid, where scores_{i+1} is added. kernel_n [C, 1, 2s, 2s] (stride s, padding
// s/2) brings it to full resolution, cropped to (out_h, out_w) from the top left. labels = argmax over C. The lowest id
// wins a tie. NaN counts as minus infinity: a class whose score is NaN never wins, and where all are NaN the label is
// 0. Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, 2015.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FCN_EDGE_HOST_DEVICE __host__ __device__
#else
#define FCN_EDGE_HOST_DEVICE
#endif

namespace fcn_edge {

constexpr int kMaxStages = 4;
constexpr int kMaxClasses = 256;

// Sizes of one call. Arrays are dense: scores float [batch, classes, score_h, score_w], labels uint8 [batch, out_h,
// out_w].
struct SkipHeadShape {
    int batch;
    int classes;
    int stages;               // n, the number of score maps
    int stride;               // s, of the last stage: a power of two, at least 2
    int score_h[kMaxStages];  // coarse to fine; entries from `stages` on are 0
    int score_w[kMaxStages];
    int out_h;
    int out_w;
};

// Both kinds of stage are the same arithmetic: kernel 2s, stride s, padding s/2 (s = 2 between the grids). So an output
// coordinate sees two source coordinates: tap_near(at, s) with kernel index tap_phase(at, s), and the one before it
// with kernel index tap_phase(at, s) + s. Source coordinates outside the grid count as zero. Internal linkage, because
// this header is compiled for several instruction sets and the linker must not merge them.
FCN_EDGE_HOST_DEVICE static constexpr int tap_near(int at, int stride) { return (at + stride / 2) / stride; }
FCN_EDGE_HOST_DEVICE static constexpr int tap_phase(int at, int stride) { return (at + stride / 2) % stride; }
// First output coordinate whose near tap is `cell` (negative for cell 0, where only the second half lies in the
// output).
FCN_EDGE_HOST_DEVICE static constexpr int cell_begin(int cell, int stride) { return cell * stride - stride / 2; }

// Checks the sizes of all arrays against each other and gathers them. `scores` and `kernels` hold `stages` entries.
// Throws std::invalid_argument that names the array, what it has and what is expected.
SkipHeadShape skip_head_shape(const int64_t (*scores)[4], const int64_t (*kernels)[4], int stages, int64_t out_h,
                              int64_t out_w);

// Writes the labels on the CPU with up to `threads` threads; the result does not depend on their number. `target` names
// an instruction set out of skip_head_cpu_targets(), null chooses the fastest. Throws std::invalid_argument.
void skip_head_cpu(const SkipHeadShape& shape, const float* const* scores, const float* const* kernels, uint8_t* labels,
                   int threads = 1, const char* target = nullptr);

// Names of the instruction sets that this build holds and this machine can run, fastest first; ends with a null.
const char* const* skip_head_cpu_targets();

}  // namespace fcn_edge
