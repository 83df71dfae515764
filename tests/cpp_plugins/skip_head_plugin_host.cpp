// Drives the TensorRT plugin on a machine without TensorRT's libraries and without a GPU: its launcher is replaced here
// by one that notes what it is given. Prints one line for each failed check; the exit status is their number.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "fcn_edge/skip_head_cuda.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace {

int failures = 0;
#define CHECK(condition) \
    if (!(condition)) ++failures, std::printf("line %d: %s\n", __LINE__, #condition)

// The last launch, and what the next one returns.
struct Launch {
    int count = 0;
    fcn_edge::SkipHeadShape shape = {};
    fcn_edge::SkipHeadType scores_type = {}, kernels_type = {};
    std::vector<const void*> scores, kernels;
    void* labels = nullptr;
    cudaStream_t stream = nullptr;
} launch;
cudaError_t next_status = cudaSuccess;

class Logger : public nvinfer1::ILogger {
 public:
    void log(Severity severity, const char* text) noexcept override { last = severity == Severity::kERROR ? text : ""; }
    std::string last;
};

class Finder : public nvinfer1::ILoggerFinder {
 public:
    explicit Finder(Logger& logger) : logger_(logger) {}
    nvinfer1::ILogger* findLogger() override {
        if (broken) throw 1;
        return &logger_;
    }
    bool broken = false;

 private:
    Logger& logger_;
};

nvinfer1::Dims dims(std::vector<int64_t> sides) {
    nvinfer1::Dims out = {};
    out.nbDims = int32_t(sides.size());
    for (size_t i = 0; i < sides.size(); ++i) out.d[i] = sides[i];
    return out;
}

using nvinfer1::DataType;

// Inputs and output of a head of n = 2, 5 classes, stride 4, on a coarse grid of 3 x 4.
std::vector<nvinfer1::PluginTensorDesc> tensors(DataType scores, DataType kernels, int64_t batch = 2) {
    const auto linear = nvinfer1::TensorFormat::kLINEAR;
    return {{dims({batch, 5, 3, 4}), scores, linear, 1.0f},
            {dims({batch, 5, 6, 8}), scores, linear, 1.0f},
            {dims({5, 1, 4, 4}), kernels, linear, 1.0f},
            {dims({5, 1, 8, 8}), kernels, linear, 1.0f},
            {dims({batch, 21, 30}), DataType::kINT8, linear, 1.0f}};
}

std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const std::vector<nvinfer1::PluginTensorDesc>& from) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> out;
    for (const auto& desc : from) {
        nvinfer1::DynamicPluginTensorDesc one = {};
        one.desc = desc;
        one.desc.dims.d[0] = -1;
        one.min = one.opt = one.max = desc.dims;
        out.push_back(one);
    }
    return out;
}

template <class Interface>
Interface* as(nvinfer1::IPluginV3* plugin, nvinfer1::PluginCapabilityType type) {
    return static_cast<Interface*>(plugin->getCapabilityInterface(type));
}
nvinfer1::IPluginV3OneBuild* build(nvinfer1::IPluginV3* plugin) {
    return as<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
}
nvinfer1::IPluginV3OneRuntime* runtime(nvinfer1::IPluginV3* plugin) {
    return as<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
}

void check_creator(nvinfer1::IPluginCreatorV3One& creator, Logger& logger) {
    CHECK(creator.getPluginName() == std::string("SkipHead"));
    CHECK(creator.getPluginVersion() == std::string("1"));
    CHECK(creator.getPluginNamespace() == std::string(""));
    const auto& names = *creator.getFieldNames();
    CHECK(names.nbFields == 1 && names.fields[0].name == std::string("size"));

    const int64_t wide[2] = {21, 30};
    const nvinfer1::PluginField fields[] = {{"plugin_version", "1", nvinfer1::PluginFieldType::kCHAR, 1},
                                            {"size", wide, nvinfer1::PluginFieldType::kINT64, 2}};
    nvinfer1::PluginFieldCollection both = {2, fields};
    nvinfer1::IPluginV3* plugin = creator.createPlugin("x", &both, nvinfer1::TensorRTPhase::kBUILD);
    CHECK(plugin != nullptr);
    const auto* kept = static_cast<const int32_t*>(runtime(plugin)->getFieldsToSerialize()->fields[0].data);
    CHECK(kept[0] == 21 && kept[1] == 30);
    delete plugin;

    CHECK(creator.createPlugin("x", nullptr, nvinfer1::TensorRTPhase::kRUNTIME) == nullptr);
    CHECK(logger.last == "[skip_head] attribute size is (0, 0); expected (height, width) of the labels");
    const float real[2] = {21, 30};
    const nvinfer1::PluginField wrong = {"size", real, nvinfer1::PluginFieldType::kFLOAT32, 2};
    nvinfer1::PluginFieldCollection wrongs = {1, &wrong};
    CHECK(creator.createPlugin("x", &wrongs, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
    CHECK(logger.last.find("expected 2 integers") != std::string::npos);
    const int32_t huge[2] = {1, -5};
    const nvinfer1::PluginField low = {"size", huge, nvinfer1::PluginFieldType::kINT32, 2};
    nvinfer1::PluginFieldCollection lows = {1, &low};
    CHECK(creator.createPlugin("x", &lows, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
}

// The fields of a copy live in the copy, and an engine is made again from them.
void check_life(nvinfer1::IPluginCreatorV3One& creator, nvinfer1::IPluginV3* plugin) {
    nvinfer1::IPluginV3* copy = plugin->clone();
    CHECK(copy != plugin);
    const nvinfer1::PluginFieldCollection* stored = runtime(copy)->getFieldsToSerialize();
    CHECK(stored->fields != runtime(plugin)->getFieldsToSerialize()->fields);
    CHECK(stored->fields[0].data != runtime(plugin)->getFieldsToSerialize()->fields[0].data);
    const char* begin = reinterpret_cast<const char*>(copy);
    const char* data = static_cast<const char*>(stored->fields[0].data);
    CHECK(data > begin && data < begin + 1024);
    CHECK(stored->fields[0].type == nvinfer1::PluginFieldType::kINT32 && stored->fields[0].length == 2);
    nvinfer1::IPluginV3* again = creator.createPlugin("x", stored, nvinfer1::TensorRTPhase::kRUNTIME);
    CHECK(std::memcmp(runtime(again)->getFieldsToSerialize()->fields[0].data, data, 2 * sizeof(int32_t)) == 0);
    nvinfer1::IPluginV3* attached = runtime(again)->attachToContext(nullptr);
    CHECK(attached != nullptr && attached != again);
    delete attached;
    delete again;
    delete copy;
}

void check_build(nvinfer1::IPluginV3* plugin, Logger& logger) {
    auto* at_build = build(plugin);
    CHECK(at_build->getNbOutputs() == 1);
    CHECK(at_build->getWorkspaceSize(nullptr, 4, nullptr, 1) == 0);
    DataType out = DataType::kFLOAT;
    const DataType halves[4] = {DataType::kHALF, DataType::kHALF, DataType::kFLOAT, DataType::kFLOAT};
    CHECK(at_build->getOutputDataTypes(&out, 1, halves, 4) == 0 && out == DataType::kINT8);
    const DataType bytes[4] = {DataType::kFLOAT, DataType::kINT8, DataType::kFLOAT, DataType::kFLOAT};
    CHECK(at_build->getOutputDataTypes(&out, 1, bytes, 4) != 0);
    CHECK(logger.last == "[skip_head] scores[1] is INT8; expected FP32 or FP16");
    CHECK(at_build->getOutputDataTypes(&out, 1, halves, 3) != 0);
    CHECK(at_build->getOutputDataTypes(&out, 1, halves, 0) != 0);

    for (DataType scores : {DataType::kFLOAT, DataType::kHALF}) {
        for (DataType kernels : {DataType::kFLOAT, DataType::kHALF}) {
            auto all = dynamic(tensors(scores, kernels));
            for (int32_t i = 0; i < 5; ++i) CHECK(at_build->supportsFormatCombination(i, all.data(), 4, 1));
            CHECK(at_build->configurePlugin(all.data(), 4, all.data() + 4, 1) == 0);
            all[1].desc.format = nvinfer1::TensorFormat::kCHW32;
            CHECK(!at_build->supportsFormatCombination(1, all.data(), 4, 1));
            CHECK(at_build->configurePlugin(all.data(), 4, all.data() + 4, 1) != 0);
            CHECK(logger.last == "[skip_head] scores[1] is not in the linear format");
        }
    }
    auto all = dynamic(tensors(DataType::kFLOAT, DataType::kFLOAT));
    all[4].desc.type = DataType::kUINT8;
    CHECK(!at_build->supportsFormatCombination(4, all.data(), 4, 1));
    CHECK(at_build->configurePlugin(all.data(), 4, all.data() + 4, 1) != 0);
    CHECK(logger.last == "[skip_head] labels are UINT8; expected INT8, whose bytes are class ids");
    all[1].desc.type = DataType::kHALF;
    CHECK(!at_build->supportsFormatCombination(1, all.data(), 4, 1));
    CHECK(!at_build->supportsFormatCombination(0, all.data(), 3, 1));
}

void check_enqueue(nvinfer1::IPluginV3* made, Logger& logger) {
    nvinfer1::IPluginV3* plugin = made->clone();
    auto* at_runtime = runtime(plugin);
    const auto descs = tensors(DataType::kHALF, DataType::kFLOAT);
    const void* const inputs[4] = {&descs[0], &descs[1], &descs[2], &descs[3]};
    void* outputs[1] = {&logger};
    const auto stream = reinterpret_cast<cudaStream_t>(&failures);
    CHECK(at_runtime->enqueue(descs.data(), &descs[4], inputs, outputs, nullptr, stream) != 0);
    CHECK(logger.last == "[skip_head] enqueue() came before onShapeChange()");
    CHECK(launch.count == 0);

    CHECK(at_runtime->onShapeChange(descs.data(), 4, &descs[4], 1) == 0);
    CHECK(at_runtime->enqueue(descs.data(), &descs[4], inputs, outputs, nullptr, stream) == 0);
    CHECK(launch.count == 1);
    CHECK(launch.shape.batch == 2 && launch.shape.classes == 5 && launch.shape.stages == 2 && launch.shape.stride == 4);
    CHECK(launch.shape.score_h[1] == 6 && launch.shape.score_w[0] == 4);
    CHECK(launch.shape.out_h == 21 && launch.shape.out_w == 30);
    CHECK(launch.scores_type == fcn_edge::SkipHeadType::kHalf);
    CHECK(launch.kernels_type == fcn_edge::SkipHeadType::kFloat);
    CHECK(launch.scores == std::vector<const void*>({inputs[0], inputs[1]}));
    CHECK(launch.kernels == std::vector<const void*>({inputs[2], inputs[3]}));
    CHECK(launch.labels == outputs[0] && launch.stream == stream);

    next_status = cudaErrorNoKernelImageForDevice;
    CHECK(at_runtime->enqueue(descs.data(), &descs[4], inputs, outputs, nullptr, stream) != 0);
    CHECK(logger.last == "[skip_head] the kernel could not be launched: stubbed");
    next_status = cudaSuccess;

    auto wrong = descs;
    wrong[1].dims.d[3] = 9;
    CHECK(at_runtime->onShapeChange(wrong.data(), 4, &wrong[4], 1) != 0);
    CHECK(logger.last.find("scores[1] is 6x9; expected 6x8") != std::string::npos);
    CHECK(at_runtime->enqueue(wrong.data(), &wrong[4], inputs, outputs, nullptr, stream) != 0);
    CHECK(launch.count == 2);
    wrong[0].dims.nbDims = 3;
    CHECK(at_runtime->onShapeChange(wrong.data(), 4, &wrong[4], 1) != 0);
    CHECK(logger.last == "[skip_head] scores[0] has 3 axes; expected 4");
    delete plugin;
}

}  // namespace

namespace fcn_edge {

cudaError_t skip_head_cuda(const SkipHeadShape& shape, SkipHeadType scores_type, const void* const* scores,
                           SkipHeadType kernels_type, const void* const* kernels, uint8_t* labels,
                           cudaStream_t stream) {
    const std::vector<const void*> score_maps(scores, scores + shape.stages), taps(kernels, kernels + shape.stages);
    launch = {launch.count + 1, shape, scores_type, kernels_type, score_maps, taps, labels, stream};
    return next_status;
}

}  // namespace fcn_edge

extern "C" const char* CUDARTAPI cudaGetErrorString(cudaError_t) { return "stubbed"; }

int main() {
    Logger logger;
    Finder finder(logger);
    setLoggerFinder(&finder);
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
    CHECK(count == 1);
    auto& creator = *static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
    check_creator(creator, logger);

    const int32_t size[2] = {21, 30};
    const nvinfer1::PluginField field = {"size", size, nvinfer1::PluginFieldType::kINT32, 2};
    const nvinfer1::PluginFieldCollection fields = {1, &field};
    nvinfer1::IPluginV3* plugin = creator.createPlugin("x", &fields, nvinfer1::TensorRTPhase::kBUILD);
    check_life(creator, plugin);
    check_enqueue(plugin, logger);
    check_build(plugin, logger);

    // A logger that cannot be found does no harm: the sentence goes to stderr.
    finder.broken = true;
    DataType out;
    CHECK(build(plugin)->getOutputDataTypes(&out, 1, &out, 0) != 0);
    delete plugin;
    return failures;
}
