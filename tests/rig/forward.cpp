// The C entry points that TensorRT's Python bindings link against, each handed on to TensorRT-RTX's library.
//
// Both libraries export the same factory functions with the same interfaces behind them. A factory takes the version
// that its caller was compiled for and refuses any other, so the version that arrives is replaced by the library's own.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

// Ends the process with a reason: these functions are called from C and have no way to report one.
[[noreturn]] void give_up(char const* what, char const* reason) {
    std::fprintf(stderr, "[forward] %s: %s\n", what, reason != nullptr ? reason : "not found");
    std::abort();
}

void* opened(char const* library) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    if (handle == nullptr) {
        give_up(library, dlerror());
    }
    return handle;
}

template <typename Result, typename... Arguments>
Result call(void* library, char const* name, Arguments... arguments) {
    auto function = reinterpret_cast<Result (*)(Arguments...)>(dlsym(library, name));
    if (function == nullptr) {
        give_up(name, dlerror());
    }
    return function(arguments...);
}

void* core() {
    static void* const handle = opened("libtensorrt_rtx.so");
    return handle;
}

void* parser() {
    static void* const handle = opened("libtensorrt_onnxparser_rtx.so");
    return handle;
}

}  // namespace

extern "C" {

int32_t getInferLibVersion() { return call<int32_t>(core(), "getInferLibVersion"); }

int32_t getNvOnnxParserVersion() { return call<int32_t>(parser(), "getNvOnnxParserVersion"); }

void* createInferBuilder_INTERNAL(void* logger, int32_t) {
    return call<void*>(core(), "createInferBuilder_INTERNAL", logger, getInferLibVersion());
}

void* createInferRuntime_INTERNAL(void* logger, int32_t) {
    return call<void*>(core(), "createInferRuntime_INTERNAL", logger, getInferLibVersion());
}

void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t) {
    return call<void*>(core(), "createInferRefitter_INTERNAL", engine, logger, getInferLibVersion());
}

void* createNvOnnxParser_INTERNAL(void* network, void* logger, int32_t) {
    return call<void*>(parser(), "createNvOnnxParser_INTERNAL", network, logger, getNvOnnxParserVersion());
}

void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int32_t) {
    return call<void*>(parser(), "createNvOnnxParserRefitter_INTERNAL", refitter, logger, getNvOnnxParserVersion());
}

void* getPluginRegistry() { return call<void*>(core(), "getPluginRegistry"); }

void* getBuilderPluginRegistry(int32_t capability) {
    return call<void*>(core(), "getBuilderPluginRegistry", capability);
}

// TensorRT-RTX has no library of standard plugins; there is nothing to register.
bool initLibNvInferPlugins(void*, char const*) { return true; }

}  // extern "C"
