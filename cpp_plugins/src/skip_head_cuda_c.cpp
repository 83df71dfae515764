// The CUDA launcher behind a C interface, for tests and benchmarks through ctypes: marshalling only, no arithmetic.
#include <cstdio>
#include <exception>

#include "fcn_edge/skip_head_cuda.h"

// Dimensions are int64 [stages][4], pointers are to device memory, `stream` is a cudaStream_t. Returns 0, or 1 and a
// sentence in `message`, which has room for `message_bytes`.
extern "C" __attribute__((visibility("default"))) int fcn_edge_skip_head_cuda(
    int stages, const int64_t (*score_dims)[4], const void* const* scores, int half_scores,
    const int64_t (*kernel_dims)[4], const void* const* kernels, int half_kernels, int64_t out_h, int64_t out_w,
    void* labels, void* stream, char* message, size_t message_bytes) {
    using fcn_edge::SkipHeadType;
    try {
        const fcn_edge::SkipHeadShape shape = fcn_edge::skip_head_shape(score_dims, kernel_dims, stages, out_h, out_w);
        const cudaError_t status =
            fcn_edge::skip_head_cuda(shape, half_scores ? SkipHeadType::kHalf : SkipHeadType::kFloat, scores,
                                     half_kernels ? SkipHeadType::kHalf : SkipHeadType::kFloat, kernels,
                                     static_cast<uint8_t*>(labels), static_cast<cudaStream_t>(stream));
        if (status == cudaSuccess) return 0;
        std::snprintf(message, message_bytes, "[skip_head] the kernel could not be launched: %s",
                      cudaGetErrorString(status));
    } catch (const std::exception& error) {
        std::snprintf(message, message_bytes, "%s", error.what());
    }
    return 1;
}
