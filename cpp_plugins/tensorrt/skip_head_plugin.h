// SkipHead as a TensorRT plugin: its interface to TensorRT; knows no arithmetic, only types, sizes and names.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "fcn_edge/skip_head.h"

namespace fcn_edge {

// Inputs: n score maps, then n kernels, n = 1 to 4. Output: labels, INT8 [N, H, W], whose bytes are class ids.
// Every method is noexcept; what goes wrong is logged as one sentence and returned as a status other than 0.
class SkipHeadPlugin final : public nvinfer1::IPluginV3,
                             public nvinfer1::IPluginV3OneCore,
                             public nvinfer1::IPluginV3OneBuild,
                             public nvinfer1::IPluginV3OneRuntime {
 public:
    SkipHeadPlugin(int32_t out_h, int32_t out_w) noexcept;
    SkipHeadPlugin(const SkipHeadPlugin& other) noexcept;  // points the fields at its own storage
    SkipHeadPlugin& operator=(const SkipHeadPlugin&) = delete;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override;
    const char* getPluginVersion() const noexcept override;
    const char* getPluginNamespace() const noexcept override;

    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                            const nvinfer1::DimsExprs* shape_inputs, int32_t shape_input_count,
                            nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept override;

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::PluginTensorDesc* outputs, int32_t output_count) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
    int32_t size_[2];  // (height, width) of the labels; what field_ points at
    int32_t stages_;   // n; 0 until the inputs are known
    nvinfer1::PluginField field_;
    nvinfer1::PluginFieldCollection fields_;
};

// Makes the plugin from its one field, `size`: two INT32 or INT64 numbers, (height, width).
class SkipHeadCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
    SkipHeadCreator() noexcept;
    nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }
    const char* getPluginName() const noexcept override;
    const char* getPluginVersion() const noexcept override;
    const char* getPluginNamespace() const noexcept override;

 private:
    nvinfer1::PluginField field_;
    nvinfer1::PluginFieldCollection fields_;
};

}  // namespace fcn_edge
