// Checks of the skip head's sizes, for every backend; knows nothing about how any of them works.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "fcn_edge/skip_head.h"

namespace fcn_edge {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("[skip_head] " + reason); }

std::string name(const char* what, int index) { return std::string(what) + "[" + std::to_string(index) + "]"; }

std::string text(const int64_t (&dims)[4]) {
    std::string out = "[";
    for (int i = 0; i < 4; ++i) out += (i ? ", " : "") + std::to_string(dims[i]);
    return out + "]";
}

constexpr int64_t kMaxSide = 1 << 15;  // keeps every coordinate and every product of two of them inside an int

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

}  // namespace fcn_edge
