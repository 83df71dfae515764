// What TensorRT looks for in a plugin library: its creators and where it may log; knows nothing about the plugins.
#include <NvInferRuntime.h>

#include <atomic>
#include <cstdio>

#include "log.h"
#include "skip_head_plugin.h"

namespace fcn_edge {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log_error(const char* sentence) noexcept {
    try {
        nvinfer1::ILoggerFinder* finder = logger_finder;
        nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr;
        if (logger) {
            logger->log(nvinfer1::ILogger::Severity::kERROR, sentence);
            return;
        }
    } catch (...) {
        // findLogger() is not noexcept; the sentence still has to come out.
    }
    std::fprintf(stderr, "%s\n", sentence);
}

}  // namespace fcn_edge

// TensorRT finds these two by name, in IPluginRegistry::loadLibrary() and in trtexec --dynamicPlugins.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    fcn_edge::set_logger_finder(finder);
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
    static fcn_edge::SkipHeadCreator skip_head;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&skip_head};
    count = 1;
    return creators;
}
