/*
The fused skip head on NVIDIA GPUs: score maps in, labels out, in one kernel. Knows nothing about TensorRT or Python.

One kernel, not one for each stage. A block labels 64 columns of 32 rows (of 16 rows of 64 where the last stride is 16,
and so on). At strides 32/16/8 that takes 4x5, 4x7 and 5x10 cells of the three grids, so to work the coarse sums out
again in every block costs, by an estimate of instructions, a quarter of what labelling its 2048 pixels costs, and saves
the launches and the memory traffic of the intermediate sums. Device memory sees the floor: score maps once in (blocks
share a border of one cell, which the second of them finds in L2), labels once out. Kernels are small and stay in L1 and
L2.

What is left is arithmetic. Each class costs each pixel 4 multiply-adds and 3 instructions of arg max, so loads are what
must be kept few: a thread owns 8 pixels that share 8 taps and 10 source values for each class, which is 18 loads to 56
instructions of work. The common last strides are template parameters, so that addresses cost next to nothing: the loop
over classes is 82 instructions on sm_87, 90 with FP16 taps (disassembled). Source values come from shared memory, where
a warp reads few different words (it spans 32 / s cells), taps straight from L1, where neighbouring lanes read
neighbouring words. Labels leave a warp as 32 neighbouring bytes, one sector.

Shared memory holds some classes at a time (24 KB at most: all 19 of them at stride 8 take 10 KB), and the number of
classes is no template parameter: registers do not depend on it. Sums are FP32 whatever the inputs are. The lowest id
wins a tie; NaN never wins. Tile sizes were chosen by counting, not by measuring.

CPU reference: src/skip_head_cpu.cpp and fcn_edge.skip_head.skip_head_numpy. The threads' work is in skip_head_tile.h,
and tests/cpp_plugins/test_skip_head_cuda.py runs just that on the host against the reference and the golden tables.
*/
#include <cuda_fp16.h>

#include "fcn_edge/skip_head_cuda.h"
#include "skip_head_tile.h"

namespace fcn_edge {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Kernel

template <int kStride, class Score, class Kernel>
__global__ void __launch_bounds__(kTileThreads, 4) label_tile(const __grid_constant__ TileWork<Score, Kernel> work) {
    extern __shared__ float shared[];
    const TilePlace place = {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z), int(threadIdx.x), int(threadIdx.y)};
    TileBest best;
    tile_reset(best);
    for (int begin = 0; begin < work.shape.classes; begin += work.plan.classes) {
        const int left = work.shape.classes - begin;
        const int count = left < work.plan.classes ? left : work.plan.classes;
        if (begin > 0) __syncthreads();  // the classes before are still being read
        load_scores(work, place, begin, count, shared);
        __syncthreads();
        for (int stage = 1; stage < work.shape.stages; ++stage) {
            add_coarser(work, place, stage, count, shared);
            __syncthreads();
        }
        label_classes<kStride>(work, place, begin, count, shared, best);
    }
    write_labels(work, place, best);
}

// ---------------------------------------------------------------------------------------------------------------------
// Launcher

template <class Score, class Kernel>
cudaError_t launch(const SkipHeadShape& shape, const void* const* scores, const void* const* kernels, uint8_t* labels,
                   cudaStream_t stream) {
    TileWork<Score, Kernel> work = {shape, tile_plan(shape), {}, {}, labels};
    for (int i = 0; i < shape.stages; ++i) {
        work.scores[i] = static_cast<const Score*>(scores[i]);
        work.kernels[i] = static_cast<const Kernel*>(kernels[i]);
    }
    const dim3 grid(unsigned(work.plan.blocks_x), unsigned(work.plan.blocks_y), unsigned(shape.batch));
    const dim3 block(kTileWidth, kTileUnits);
    void* arguments[] = {&work};
    const void* kernel = with_stride(shape.stride, [](auto stride) {
        return reinterpret_cast<const void*>(label_tile<decltype(stride)::value, Score, Kernel>);
    });
    // Not <<<>>>: its error would have to be asked for with cudaGetLastError(), which also returns those of others.
    return cudaLaunchKernel(kernel, grid, block, arguments, work.plan.shared_bytes(), stream);
}

}  // namespace

cudaError_t skip_head_cuda(const SkipHeadShape& shape, SkipHeadType scores_type, const void* const* scores,
                           SkipHeadType kernels_type, const void* const* kernels, uint8_t* labels,
                           cudaStream_t stream) {
    const bool half_scores = scores_type == SkipHeadType::kHalf, half_kernels = kernels_type == SkipHeadType::kHalf;
    if (half_scores && half_kernels) return launch<__half, __half>(shape, scores, kernels, labels, stream);
    if (half_scores) return launch<__half, float>(shape, scores, kernels, labels, stream);
    if (half_kernels) return launch<float, __half>(shape, scores, kernels, labels, stream);
    return launch<float, float>(shape, scores, kernels, labels, stream);
}

}  // namespace fcn_edge
