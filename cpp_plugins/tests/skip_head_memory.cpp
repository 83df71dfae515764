// Lets one allocation after the other fail: the fused head gives its labels or std::bad_alloc, and never ends the
// process.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "fcn_edge/skip_head.h"

namespace {

constexpr size_t kAlignment = 64;
thread_local long left = -1;  // allocations of this thread that are still granted; negative: all

void* granted(size_t size) {
    if (left == 0) throw std::bad_alloc();
    if (left > 0) --left;
    void* const memory = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(size_t size) { return granted(size); }
void* operator new(size_t size, std::align_val_t) { return granted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

int main() {
    constexpr int kClasses = 11, kHeight = 160, kWidth = 240, kThreads = 4, kMost = 1000;
    const int64_t score_dims[1][4] = {{1, kClasses, 20, 30}}, kernel_dims[1][4] = {{kClasses, 1, 16, 16}};
    const std::vector<float> scores(kClasses * 20 * 30, 1.0f), kernels(kClasses * 16 * 16, 1.0f);
    std::vector<uint8_t> labels(kHeight * kWidth);
    const float* const score_maps[] = {scores.data()};
    const float* const kernel_maps[] = {kernels.data()};
    const auto shape = fcn_edge::skip_head_shape(score_dims, kernel_dims, 1, kHeight, kWidth);
    int refused = 0;
    for (long count = 0; count < kMost; ++count) {
        std::fill(labels.begin(), labels.end(), uint8_t(255));
        bool done = true;
        left = count;
        try {
            fcn_edge::skip_head_cpu(shape, score_maps, kernel_maps, labels.data(), kThreads);
        } catch (const std::bad_alloc&) {
            done = false;
        }
        const bool enough = left > 0;
        left = -1;
        if (done && std::any_of(labels.begin(), labels.end(), [](uint8_t label) { return label != 0; })) {
            std::printf("wrong labels after %ld allocations\n", count);
            return 1;
        }
        refused += done ? 0 : 1;
        if (enough) {  // it needed fewer
            std::printf("%d of %ld refused\n", refused, count);
            return refused == 0 ? 1 : 0;
        }
    }
    std::printf("it never had enough\n");
    return 1;
}
