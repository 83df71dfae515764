// Runs the blocks of the CUDA skip head on the host, thread by thread; g++ compiles it, Python calls it through ctypes.
//
// The steps of a block are done for all of its threads before the next begins, which is what __syncthreads() stands for
// in the kernel. Within a step the order of the threads is the caller's: labels that depend on it betray a missing
// barrier. Shared memory starts as NaN, which no label may see, and is followed by a canary.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <vector>

#include "skip_head_tile.h"

namespace {

using namespace fcn_edge;

// IEEE half precision by its bits, so that no compiler's own type is needed.
struct Half {
    uint16_t bits;
    operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
        uint32_t wide = 0;
        if (exponent == 0) {
            const float value = float(fraction) * 0x1p-24f;
            return sign ? -value : value;
        }
        wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }
};

constexpr int kBroken = 1000;

template <class Score, class Kernel>
int run(const SkipHeadShape& shape, const void* const* scores, const void* const* kernels, uint8_t* labels,
        bool backwards) {
    TileWork<Score, Kernel> work = {shape, tile_plan(shape), {}, {}, labels};
    for (int i = 0; i < shape.stages; ++i) {
        work.scores[i] = static_cast<const Score*>(scores[i]);
        work.kernels[i] = static_cast<const Kernel*>(kernels[i]);
    }
    const size_t floats = work.plan.shared_bytes() / sizeof(float);
    const float canary = -12345.0f;
    std::vector<float> shared(floats + 2 * 64);
    std::vector<TileBest> best(kTileThreads);
    for (int block = 0; block < work.plan.blocks_x * work.plan.blocks_y * shape.batch; ++block) {
        const auto for_threads = [&](auto&& step) {
            for (int i = 0; i < kTileThreads; ++i) {
                const int thread = backwards ? kTileThreads - 1 - i : i;
                const int xy = block % (work.plan.blocks_x * work.plan.blocks_y);
                const TilePlace place = {xy % work.plan.blocks_x, xy / work.plan.blocks_x,
                                         block / (work.plan.blocks_x * work.plan.blocks_y), thread % kTileWidth,
                                         thread / kTileWidth};
                step(place, best[size_t(thread)]);
            }
        };
        std::fill(shared.begin(), shared.end(), canary);
        float* memory = shared.data() + 64;
        for_threads([&](TilePlace, TileBest& mine) { tile_reset(mine); });
        for (int begin = 0; begin < shape.classes; begin += work.plan.classes) {
            const int count = std::min(work.plan.classes, shape.classes - begin);
            std::fill(memory, memory + floats, std::numeric_limits<float>::quiet_NaN());
            for_threads([&](TilePlace place, TileBest&) { load_scores(work, place, begin, count, memory); });
            for (int i = 1; i < shape.stages; ++i) {
                for_threads([&](TilePlace place, TileBest&) { add_coarser(work, place, i, count, memory); });
            }
            with_stride(shape.stride, [&](auto stride) {
                for_threads([&](TilePlace place, TileBest& mine) {
                    label_classes<decltype(stride)::value>(work, place, begin, count, memory, mine);
                });
            });
        }
        for_threads([&](TilePlace place, TileBest& mine) { write_labels(work, place, mine); });
        for (size_t i = 0; i < 64; ++i) {
            if (shared[i] != canary || shared[64 + floats + i] != canary) return kBroken;
        }
    }
    return 0;
}

}  // namespace

extern "C" {

// sizes: batch classes stages stride out_h out_w coarse_h coarse_w. Halves: bit 0 scores, bit 1 kernels. 0 is fine.
int skip_head_tile_host(const int* sizes, const void* const* scores, const void* const* kernels, uint8_t* labels,
                        int halves, int backwards) {
    SkipHeadShape shape = {sizes[0], sizes[1], sizes[2], sizes[3], {}, {}, sizes[4], sizes[5]};
    for (int i = 0; i < shape.stages; ++i) {
        shape.score_h[i] = sizes[6] << i;
        shape.score_w[i] = sizes[7] << i;
    }
    switch (halves) {
        case 0:
            return run<float, float>(shape, scores, kernels, labels, backwards);
        case 1:
            return run<Half, float>(shape, scores, kernels, labels, backwards);
        case 2:
            return run<float, Half>(shape, scores, kernels, labels, backwards);
        default:
            return run<Half, Half>(shape, scores, kernels, labels, backwards);
    }
}

// What a plan holds: blocks_x, blocks_y, classes at a time, bytes of shared memory.
void skip_head_tile_plan(const int* sizes, int64_t* plan_out) {
    const SkipHeadShape shape = {sizes[0], sizes[1], sizes[2], sizes[3], {}, {}, sizes[4], sizes[5]};
    const TilePlan plan = tile_plan(shape);
    plan_out[0] = plan.blocks_x;
    plan_out[1] = plan.blocks_y;
    plan_out[2] = plan.classes;
    plan_out[3] = int64_t(plan.shared_bytes());
}
}
