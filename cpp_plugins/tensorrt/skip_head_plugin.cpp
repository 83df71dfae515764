// SkipHead between TensorRT and the CUDA launcher: marshalling only, no arithmetic.
#include "skip_head_plugin.h"

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "fcn_edge/skip_head_cuda.h"
#include "log.h"

namespace fcn_edge {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;

constexpr const char* kName = "SkipHead";
constexpr const char* kVersion = "1";
// Empty, which is where the ONNX parser looks when a node names no plugin_namespace.
constexpr const char* kNamespace = "";
constexpr const char* kSize = "size";

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("[skip_head] " + reason); }

std::string input_name(int32_t index, int32_t stages) {
    return index < stages ? "scores[" + std::to_string(index) + "]" : "kernels[" + std::to_string(index - stages) + "]";
}

// Number of stages of so many inputs.
int32_t stages_of(int32_t inputs, int32_t outputs) {
    if (inputs < 2 || inputs > 2 * kMaxStages || inputs % 2 != 0) {
        refuse("got " + std::to_string(inputs) + " inputs; expected 1 to 4 score maps and as many kernels");
    }
    if (outputs != 1) refuse("got " + std::to_string(outputs) + " outputs; expected 1");
    return inputs / 2;
}

bool taken(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

std::string type_name(DataType type) {
    switch (type) {
        case DataType::kFLOAT:
            return "FP32";
        case DataType::kHALF:
            return "FP16";
        case DataType::kBF16:
            return "BF16";
        case DataType::kINT8:
            return "INT8";
        case DataType::kUINT8:
            return "UINT8";
        case DataType::kINT32:
            return "INT32";
        default:
            return "TensorRT's type " + std::to_string(int32_t(type));
    }
}

// All score maps are FP32 or all FP16; so are all kernels, whatever the score maps are.
void check_types(const DataType* types, int32_t stages) {
    for (int32_t i = 0; i < 2 * stages; ++i) {
        const DataType first = types[i < stages ? 0 : stages];
        if (!taken(types[i])) refuse(input_name(i, stages) + " is " + type_name(types[i]) + "; expected FP32 or FP16");
        if (types[i] != first) {
            refuse(input_name(i, stages) + " is " + type_name(types[i]) + " and " +
                   input_name(i < stages ? 0 : stages, stages) + " " + type_name(first) + "; they must be of one type");
        }
    }
}

SkipHeadType launcher_type(DataType type) {
    return type == DataType::kHALF ? SkipHeadType::kHalf : SkipHeadType::kFloat;
}

// Sizes of one call out of `dims(i)`, the dimensions of input i.
template <class DimsOf>
SkipHeadShape shape_of(int32_t stages, const int32_t (&size)[2], DimsOf&& dims) {
    int64_t sides[2 * kMaxStages][4];
    for (int32_t i = 0; i < 2 * stages; ++i) {
        const nvinfer1::Dims& of = dims(i);
        if (of.nbDims != 4) {
            refuse(input_name(i, stages) + " has " + std::to_string(of.nbDims) + " axes; expected 4");
        }
        for (int axis = 0; axis < 4; ++axis) sides[i][axis] = of.d[axis];
    }
    return skip_head_shape(sides, sides + stages, stages, size[0], size[1]);
}

void check_formats(const nvinfer1::PluginTensorDesc& desc, const std::string& name) {
    if (desc.format != nvinfer1::TensorFormat::kLINEAR) refuse(name + " is not in the linear format");
}

}  // namespace

SkipHeadPlugin::SkipHeadPlugin(int32_t out_h, int32_t out_w) noexcept
    : size_{out_h, out_w}, stages_(0), field_(kSize, size_, PluginFieldType::kINT32, 2), fields_{1, &field_} {}

SkipHeadPlugin::SkipHeadPlugin(const SkipHeadPlugin& other) noexcept
    : IPluginV3(),
      IPluginV3OneCore(),
      IPluginV3OneBuild(),
      IPluginV3OneRuntime(),
      size_{other.size_[0], other.size_[1]},
      stages_(other.stages_),
      field_(kSize, size_, PluginFieldType::kINT32, 2),
      fields_{1, &field_} {}

nvinfer1::IPluginCapability* SkipHeadPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* SkipHeadPlugin::clone() noexcept {
    SkipHeadPlugin* copy = new (std::nothrow) SkipHeadPlugin(*this);
    if (!copy) log_error("[skip_head] the plugin cannot be cloned: out of host memory");
    return copy;
}

const char* SkipHeadPlugin::getPluginName() const noexcept { return kName; }
const char* SkipHeadPlugin::getPluginVersion() const noexcept { return kVersion; }
const char* SkipHeadPlugin::getPluginNamespace() const noexcept { return kNamespace; }

int32_t SkipHeadPlugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                           int32_t input_count) const noexcept {
    const bool fine = logged([&] {
        check_types(inputs, stages_of(input_count, output_count));
        outputs[0] = DataType::kINT8;
    });
    return fine ? 0 : -1;
}

int32_t SkipHeadPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                                        const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                        int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept {
    const bool fine = logged([&] {
        const int32_t stages = stages_of(input_count, output_count);
        nvinfer1::Dims known[2 * kMaxStages] = {};
        for (int32_t i = 0; i < input_count; ++i) {
            known[i].nbDims = inputs[i].nbDims;
            for (int32_t axis = 0; axis < inputs[i].nbDims && axis < 4; ++axis) {
                const nvinfer1::IDimensionExpr* side = inputs[i].d[axis];
                const bool batch = axis == 0 && i < stages;
                if (!side->isConstant() && !batch) {
                    refuse(input_name(i, stages) + " changes its size along axis " + std::to_string(axis) +
                           "; only the batch may be dynamic: build one engine for each size");
                }
                known[i].d[axis] = side->isConstant() ? side->getConstantValue() : 1;
            }
        }
        // A batch that is dynamic in one map only is left to configurePlugin(), which sees numbers.
        bool all_known = true;
        for (int32_t i = 0; i < stages; ++i) all_known &= inputs[i].nbDims != 4 || inputs[i].d[0]->isConstant();
        for (int32_t i = 0; i < stages && !all_known; ++i) known[i].d[0] = 1;
        shape_of(stages, size_, [&](int32_t i) -> const nvinfer1::Dims& { return known[i]; });
        outputs[0].nbDims = 3;
        outputs[0].d[0] = inputs[0].d[0];
        outputs[0].d[1] = builder.constant(size_[0]);
        outputs[0].d[2] = builder.constant(size_[1]);
    });
    return fine ? 0 : -1;
}

// Asked about many combinations on networks without types, where a refusal is no error: so nothing is logged here.
bool SkipHeadPlugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                               int32_t input_count, int32_t output_count) noexcept {
    if (input_count < 2 || input_count > 2 * kMaxStages || input_count % 2 != 0 || output_count != 1) return false;
    const nvinfer1::PluginTensorDesc& asked = tensors[position].desc;
    if (asked.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == input_count) return asked.type == DataType::kINT8;
    const int32_t first = position < input_count / 2 ? 0 : input_count / 2;
    return taken(asked.type) && asked.type == tensors[first].desc.type;
}

int32_t SkipHeadPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                                        const nvinfer1::DynamicPluginTensorDesc* outputs,
                                        int32_t output_count) noexcept {
    const bool fine = logged([&] {
        const int32_t stages = stages_of(input_count, output_count);
        DataType types[2 * kMaxStages];
        for (int32_t i = 0; i < input_count; ++i) {
            types[i] = inputs[i].desc.type;
            check_formats(inputs[i].desc, input_name(i, stages));
        }
        check_types(types, stages);
        if (outputs[0].desc.type != DataType::kINT8) {
            refuse("labels are " + type_name(outputs[0].desc.type) + "; expected INT8, whose bytes are class ids");
        }
        shape_of(stages, size_, [&](int32_t i) -> const nvinfer1::Dims& { return inputs[i].max; });
        stages_ = stages;
    });
    return fine ? 0 : -1;
}

int32_t SkipHeadPlugin::onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                                      const nvinfer1::PluginTensorDesc*, int32_t output_count) noexcept {
    const bool fine = logged([&] {
        const int32_t stages = stages_of(input_count, output_count);
        shape_of(stages, size_, [&](int32_t i) -> const nvinfer1::Dims& { return inputs[i].dims; });
        stages_ = stages;
    });
    return fine ? 0 : -1;
}

int32_t SkipHeadPlugin::enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc*,
                                const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept {
    const bool fine = logged([&] {
        if (stages_ == 0) refuse("enqueue() came before onShapeChange()");
        const SkipHeadShape shape =
            shape_of(stages_, size_, [&](int32_t i) -> const nvinfer1::Dims& { return input_descs[i].dims; });
        const cudaError_t status =
            skip_head_cuda(shape, launcher_type(input_descs[0].type), inputs, launcher_type(input_descs[stages_].type),
                           inputs + stages_, static_cast<uint8_t*>(outputs[0]), stream);
        if (status != cudaSuccess) {
            refuse(std::string("the kernel could not be launched: ") + cudaGetErrorString(status));
        }
    });
    return fine ? 0 : -1;
}

nvinfer1::IPluginV3* SkipHeadPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* SkipHeadPlugin::getFieldsToSerialize() noexcept { return &fields_; }

SkipHeadCreator::SkipHeadCreator() noexcept : field_(kSize, nullptr, PluginFieldType::kINT32, 2), fields_{1, &field_} {}

nvinfer1::IPluginV3* SkipHeadCreator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                                   nvinfer1::TensorRTPhase) noexcept {
    nvinfer1::IPluginV3* made = nullptr;
    logged([&] {
        int64_t size[2] = {0, 0};
        for (int32_t i = 0; fields && i < fields->nbFields; ++i) {
            const nvinfer1::PluginField& field = fields->fields[i];
            if (std::strcmp(field.name, kSize) != 0) continue;  // plugin_version and the like, which parsers pass on
            const bool wide = field.type == PluginFieldType::kINT64;
            if (field.length != 2 || !field.data || (!wide && field.type != PluginFieldType::kINT32)) {
                refuse("attribute size holds " + std::to_string(field.length) + " values of TensorRT's field type " +
                       std::to_string(int32_t(field.type)) + "; expected 2 integers, (height, width)");
            }
            for (int axis = 0; axis < 2; ++axis) {
                size[axis] = wide ? static_cast<const int64_t*>(field.data)[axis]
                                  : static_cast<const int32_t*>(field.data)[axis];
            }
        }
        if (size[0] < 1 || size[1] < 1 || size[0] > INT32_MAX || size[1] > INT32_MAX) {
            refuse("attribute size is (" + std::to_string(size[0]) + ", " + std::to_string(size[1]) +
                   "); expected (height, width) of the labels");
        }
        made = new SkipHeadPlugin(int32_t(size[0]), int32_t(size[1]));
    });
    return made;
}

const char* SkipHeadCreator::getPluginName() const noexcept { return kName; }
const char* SkipHeadCreator::getPluginVersion() const noexcept { return kVersion; }
const char* SkipHeadCreator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace fcn_edge
