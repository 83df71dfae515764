// The Python module fcn_edge._native: marshalling only, no arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fcn_edge/skip_head.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Maps = std::vector<nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>>;
using Labels = nb::ndarray<uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void skip_head(const Maps& scores, const Maps& kernels, std::pair<int64_t, int64_t> size, Labels out, int threads,
               const std::optional<std::string>& target) {
    if (scores.size() != kernels.size() || scores.empty() || scores.size() > fcn_edge::kMaxStages) {
        throw std::invalid_argument("[skip_head] got " + std::to_string(scores.size()) + " score maps and " +
                                    std::to_string(kernels.size()) + " kernels; expected 1 to 4 of each, equally many");
    }
    int64_t score_dims[fcn_edge::kMaxStages][4], kernel_dims[fcn_edge::kMaxStages][4];
    const float* score_data[fcn_edge::kMaxStages];
    const float* kernel_data[fcn_edge::kMaxStages];
    for (size_t i = 0; i < scores.size(); ++i) {
        for (size_t axis = 0; axis < 4; ++axis) {
            score_dims[i][axis] = int64_t(scores[i].shape(axis));
            kernel_dims[i][axis] = int64_t(kernels[i].shape(axis));
        }
        score_data[i] = scores[i].data();
        kernel_data[i] = kernels[i].data();
    }
    const fcn_edge::SkipHeadShape shape =
        fcn_edge::skip_head_shape(score_dims, kernel_dims, int(scores.size()), size.first, size.second);
    if (int64_t(out.shape(0)) != shape.batch || int64_t(out.shape(1)) != shape.out_h ||
        int64_t(out.shape(2)) != shape.out_w) {
        throw std::invalid_argument("[skip_head] out is [" + std::to_string(out.shape(0)) + ", " +
                                    std::to_string(out.shape(1)) + ", " + std::to_string(out.shape(2)) +
                                    "]; expected [" + std::to_string(shape.batch) + ", " + std::to_string(shape.out_h) +
                                    ", " + std::to_string(shape.out_w) + "]");
    }
    uint8_t* labels = out.data();
    nb::gil_scoped_release release;
    fcn_edge::skip_head_cpu(shape, score_data, kernel_data, labels, threads, target ? target->c_str() : nullptr);
}

std::vector<std::string> skip_head_targets() {
    std::vector<std::string> names;
    for (const char* const* name = fcn_edge::skip_head_cpu_targets(); *name; ++name) names.emplace_back(*name);
    return names;
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Compiled parts of fcn_edge; call them through the Python modules that wrap them.";
    module.def("skip_head", &skip_head, "scores"_a.noconvert(), "kernels"_a.noconvert(), "size"_a, "out"_a.noconvert(),
               "threads"_a = 1, "target"_a = nb::none(), "Labels of the fused skip head, written into `out`.");
    module.def("skip_head_targets", &skip_head_targets, "Instruction sets that can run here, fastest first.");
}
