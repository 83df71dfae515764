// Choice of the instruction set and threads for the CPU skip head; knows nothing about its arithmetic.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
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
    const int pieces = threads == 1 ? 1 : std::min(cells, 2 * std::min(threads, cells));
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
    } catch (const std::exception&) {
        // No more threads, or memory for one, to be had: those that there are do all of the work.
    }
    work_off(scratch[0].get());
    for (std::thread& thread : started) thread.join();
}

}  // namespace fcn_edge
