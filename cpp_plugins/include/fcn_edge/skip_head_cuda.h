// Entry point of the fused skip head on NVIDIA GPUs; knows nothing about TensorRT or Python.
#pragma once

#include <cuda_runtime_api.h>

#include "fcn_edge/skip_head.h"

namespace fcn_edge {

enum class SkipHeadType : int { kFloat = 0, kHalf = 1 };

// Writes the labels on `stream` and returns at once. Pointers are to device memory, dense, `shape.stages` of each;
// scores are all of one type and kernels all of one type. `shape` comes from skip_head_shape(), which checked it.
// Allocates nothing and needs no workspace, so it can be captured into a CUDA graph. Returns the launch's own error.
cudaError_t skip_head_cuda(const SkipHeadShape& shape, SkipHeadType scores_type, const void* const* scores,
                           SkipHeadType kernels_type, const void* const* kernels, uint8_t* labels, cudaStream_t stream);

}  // namespace fcn_edge
