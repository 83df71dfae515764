// Checks, choice of the instruction set and threads for the CPU skip head; knows nothing about its arithmetic.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "skip_head_cpu.h"

namespace fcn_edge {

extern const CpuTarget kBaseline;
#if defined(FCN_EDGE_X86_64)
extern const CpuTarget kX86V3;
extern const CpuTarget kX86V4;
#endif

namespace {

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("[skip_head] " + reason); }

std::string name(const char* what, int index) { return std::string(what) + "[" + std::to_string(index) + "]"; }

std::string text(const int64_t (&dims)[4]) {
    std::string out = "[";
    for (int i = 0; i < 4; ++i) out += (i ? ", " : "") + std::to_string(dims[i]);
    return out + "]";
}

constexpr int64_t kMaxSide = 1 << 15;  // keeps every coordinate and every product of two of them inside an int

// Builds that this machine can run, fastest first.
std::vector<const CpuTarget*> find_targets() {
    std::vector<const CpuTarget*> found;
#if defined(FCN_EDGE_X86_64)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx") && __builtin_cpu_supports("popcnt");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4) found.push_back(&kX86V4);
    if (v3) found.push_back(&kX86V3);
#endif
    found.push_back(&kBaseline);
    return found;
}

const std::vector<const CpuTarget*>& targets() {
    static const std::vector<const CpuTarget*> found = find_targets();
    return found;
}

const CpuTarget& choose(const char* wanted) {
    if (!wanted) return *targets().front();
    std::string known;
    for (const CpuTarget* target : targets()) {
        if (std::strcmp(target->name, wanted) == 0) return *target;
        known += (known.empty() ? "" : ", ") + std::string(target->name);
    }
    refuse("target is '" + std::string(wanted) + "'; this machine can run " + known);
}

// Brings one stage's kernels [C, 1, 2s, 2s] into the order of CpuWork::packed. Lane l of block q is output column
// q * lanes + l of a cell-aligned row, whose phase is tap_phase(column, s).
void pack(const float* kernels, int classes, int s, int lanes, float* to) {
    const int side = 2 * s;
    const int blocks = std::max(1, s / lanes);
    std::vector<float> row(std::max(s, lanes) * 2);
    for (int c = 0; c < classes; ++c) {
        for (int phase = 0; phase < s; ++phase) {
            for (int tap = 0; tap < 4; ++tap) {
                const float* from = kernels + (size_t(c) * side + phase + (tap / 2) * s) * side + (tap % 2) * s;
                const int half = s / 2;  // column 0 has phase s/2
                for (int at = 0; at < std::max(s, lanes); at += s) {
                    std::memcpy(&row[at], from + half, sizeof(float) * half);
                    std::memcpy(&row[at + half], from, sizeof(float) * half);
                }
                for (int q = 0; q < blocks; ++q) {
                    float* into = to + (((size_t(q) * classes + c) * s + phase) * 4 + tap) * lanes;
                    std::memcpy(into, &row[size_t(q) * lanes], sizeof(float) * lanes);
                }
            }
        }
    }
}

size_t packed_floats(int classes, int s, int lanes) { return size_t(classes) * s * 4 * std::max(s, lanes); }

struct AlignedFree {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], AlignedFree>;

Floats allocate(size_t count) {
    return Floats(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t(64))));
}

}  // namespace

SkipHeadShape skip_head_shape(const int64_t (*scores)[4], const int64_t (*kernels)[4], int stages, int64_t out_h,
                              int64_t out_w) {
    if (stages < 1 || stages > kMaxStages) refuse("got " + std::to_string(stages) + " score maps; expected 1 to 4");
    SkipHeadShape shape = {};
    shape.stages = stages;
    const auto& first = scores[0];
    for (int i = 0; i < stages; ++i) {
        for (int64_t side : scores[i]) {
            if (side < 1 || side > kMaxSide) {
                refuse(name("scores", i) + " is " + text(scores[i]) + "; every side must be 1 to " +
                       std::to_string(kMaxSide));
            }
        }
    }
    if (first[1] > kMaxClasses) refuse("scores have " + std::to_string(first[1]) + " channels; expected 1 to 256");
    for (int i = 1; i < stages; ++i) {
        if (scores[i][0] != first[0] || scores[i][1] != first[1]) {
            const bool batch = scores[i][0] != first[0];
            const std::string unit = batch ? " images" : " channels";
            refuse(name("scores", 0) + " has " + std::to_string(first[batch ? 0 : 1]) + unit + ", " +
                   name("scores", i) + " has " + std::to_string(scores[i][batch ? 0 : 1]) + "; they must be equal");
        }
        if (scores[i][2] != 2 * scores[i - 1][2] || scores[i][3] != 2 * scores[i - 1][3]) {
            refuse(name("scores", i) + " is " + std::to_string(scores[i][2]) + "x" + std::to_string(scores[i][3]) +
                   "; expected " + std::to_string(2 * scores[i - 1][2]) + "x" + std::to_string(2 * scores[i - 1][3]) +
                   ", twice as fine as " + name("scores", i - 1));
        }
    }
    const int64_t side = kernels[stages - 1][2];
    const int64_t s = side / 2;
    for (int i = 0; i < stages; ++i) {
        const bool last = i == stages - 1;
        const bool power = side >= 4 && side <= kMaxSide && (side & (side - 1)) == 0;
        if (kernels[i][0] != first[1] || kernels[i][1] != 1 || kernels[i][2] != kernels[i][3] ||
            (last ? !power : kernels[i][2] != 4)) {
            refuse(name("kernels", i) + " is " + text(kernels[i]) + "; expected [" + std::to_string(first[1]) +
                   (last ? ", 1, 2s, 2s] with s a power of two, at least 2" : ", 1, 4, 4]"));
        }
    }
    const int64_t full_h = s * scores[stages - 1][2], full_w = s * scores[stages - 1][3];
    if (out_h < 1 || out_w < 1 || out_h > full_h || out_w > full_w || out_h > kMaxSide || out_w > kMaxSide) {
        refuse("size is " + std::to_string(out_h) + "x" + std::to_string(out_w) + "; expected 1x1 to " +
               std::to_string(std::min(full_h, kMaxSide)) + "x" + std::to_string(std::min(full_w, kMaxSide)));
    }
    shape.batch = int(first[0]);
    shape.classes = int(first[1]);
    shape.stride = int(s);
    for (int i = 0; i < stages; ++i) {
        shape.score_h[i] = int(scores[i][2]);
        shape.score_w[i] = int(scores[i][3]);
    }
    shape.out_h = int(out_h);
    shape.out_w = int(out_w);
    return shape;
}

const char* const* skip_head_cpu_targets() {
    static const std::vector<const char*> names = [] {
        std::vector<const char*> out;
        for (const CpuTarget* target : targets()) out.push_back(target->name);
        out.push_back(nullptr);
        return out;
    }();
    return names.data();
}

void skip_head_cpu(const SkipHeadShape& shape, const float* const* scores, const float* const* kernels, uint8_t* labels,
                   int threads, const char* target_name) {
    if (threads < 1) refuse("threads is " + std::to_string(threads) + "; expected at least 1");
    const CpuTarget& target = choose(target_name);

    CpuWork work = {shape, scores, {}, labels};
    std::vector<Floats> packed;
    for (int i = 0; i < shape.stages; ++i) {
        const int s = i == shape.stages - 1 ? shape.stride : 2;
        packed.push_back(allocate(packed_floats(shape.classes, s, target.lanes)));
        pack(kernels[i], shape.classes, s, target.lanes, packed.back().get());
        work.packed[i] = packed.back().get();
    }

    // Pieces of work are ranges of cells. Each recomputes the few coarse rows it shares with its neighbours, so no
    // thread waits for another; more pieces than threads even out a core that is busy with something else.
    const int cells = tap_near(shape.out_h - 1, shape.stride) + 1;
    const int pieces = threads == 1 ? 1 : std::min(cells, 2 * threads);
    const int total = pieces * shape.batch;
    std::vector<Floats> scratch;
    const int workers = std::min(threads, total);
    size_t needed = 0;
    for (int piece = 0; piece < pieces; ++piece) {
        needed =
            std::max(needed, scratch_floats(shape, cells * piece / pieces, cells * (piece + 1) / pieces, target.lanes));
    }
    for (int i = 0; i < workers; ++i) scratch.push_back(allocate(needed));

    std::atomic<int> next{0};
    const auto work_off = [&](float* memory) {
        for (int i = next++; i < total; i = next++) {
            const int piece = i % pieces;
            target.run(work, i / pieces, cells * piece / pieces, cells * (piece + 1) / pieces, memory);
        }
    };
    std::vector<std::thread> started;
    started.reserve(size_t(workers));
    try {
        for (int i = 1; i < workers; ++i) started.emplace_back(work_off, scratch[size_t(i)].get());
    } catch (const std::system_error&) {
        // No more threads to be had: those that there are do all of the work.
    }
    work_off(scratch[0].get());
    for (std::thread& thread : started) thread.join();
}

}  // namespace fcn_edge
