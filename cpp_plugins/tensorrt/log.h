// Sentences from the plugin to TensorRT's log; knows nothing about what they are about.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>

namespace fcn_edge {

// TensorRT hands this over when it loads the library; until then, and where there is no logger, stderr is used.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* sentence) noexcept;

// Runs `work` behind an interface that must not throw: logs what it throws and returns whether all went well.
template <class Work>
bool logged(Work&& work) noexcept {
    try {
        work();
        return true;
    } catch (const std::exception& error) {
        log_error(error.what());
    } catch (...) {
        log_error("[skip_head] failed for a reason that is no std::exception");
    }
    return false;
}

}  // namespace fcn_edge
