// Runs the golden tables (skip_head_golden.txt) through every build of the CPU kernel that this machine can run.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fcn_edge/skip_head.h"

namespace {

// Words between white space; '#' starts a comment.
std::vector<std::string> read_words(const char* path) {
    std::ifstream file(path);
    std::vector<std::string> words;
    for (std::string word; file >> word;) {
        if (word[0] == '#') {
            std::getline(file, word);
        } else {
            words.push_back(word);
        }
    }
    return words;
}

struct Reader {
    const std::vector<std::string>& words;
    size_t at = 0;
    const std::string& next() {
        if (at >= words.size()) throw std::runtime_error("the file ends inside a case");
        return words[at++];
    }
    int64_t integer() { return std::stoll(next()); }
    std::vector<float> floats(const int64_t (&dims)[4]) {
        std::vector<float> values(size_t(dims[0] * dims[1] * dims[2] * dims[3]));
        for (float& value : values) value = std::strtof(next().c_str(), nullptr);
        return values;
    }
};

// Reads one case, labels it with every target and thread count, returns the number of pixels that are wrong.
int run_case(Reader& reader) {
    if (reader.next() != "case") throw std::runtime_error("expected the word 'case'");
    const std::string name = reader.next();
    const int64_t batch = reader.integer(), classes = reader.integer(), stages = reader.integer(), s = reader.integer();
    const int64_t out_h = reader.integer(), out_w = reader.integer(), h = reader.integer(), w = reader.integer();
    if (stages < 1 || stages > fcn_edge::kMaxStages) throw std::runtime_error("a case has too many stages");

    int64_t score_dims[fcn_edge::kMaxStages][4], kernel_dims[fcn_edge::kMaxStages][4];
    std::vector<std::vector<float>> scores, kernels;
    std::vector<const float*> score_data, kernel_data;
    for (int i = 0; i < stages; ++i) {
        const int64_t side = i + 1 == stages ? 2 * s : 4;
        const int64_t dims[2][4] = {{batch, classes, h << i, w << i}, {classes, 1, side, side}};
        for (int axis = 0; axis < 4; ++axis) {
            score_dims[i][axis] = dims[0][axis];
            kernel_dims[i][axis] = dims[1][axis];
        }
    }
    for (int i = 0; i < stages; ++i) scores.push_back(reader.floats(score_dims[i]));
    for (int i = 0; i < stages; ++i) kernels.push_back(reader.floats(kernel_dims[i]));
    for (const auto& map : scores) score_data.push_back(map.data());
    for (const auto& kernel : kernels) kernel_data.push_back(kernel.data());
    const auto shape = fcn_edge::skip_head_shape(score_dims, kernel_dims, int(stages), out_h, out_w);
    std::vector<int64_t> expected(size_t(batch * out_h * out_w));
    for (int64_t& label : expected) label = reader.integer();

    int wrong = 0;
    for (const char* const* target = fcn_edge::skip_head_cpu_targets(); *target; ++target) {
        for (int threads : {1, 3}) {
            const uint8_t untouched = 0xEE;
            const size_t guard = 64;  // bytes behind the labels that have to stay as they are
            std::vector<uint8_t> labels(expected.size() + guard, untouched);
            fcn_edge::skip_head_cpu(shape, score_data.data(), kernel_data.data(), labels.data(), threads, *target);
            int differing = 0;
            for (size_t i = 0; i < expected.size(); ++i) differing += labels[i] != expected[i];
            for (size_t i = expected.size(); i < labels.size(); ++i) differing += labels[i] != untouched;
            std::printf("%-20s %-10s %d threads  %d of %zu differ\n", name.c_str(), *target, threads, differing,
                        expected.size());
            wrong += differing;
        }
    }
    return wrong;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s skip_head_golden.txt\n", argv[0]);
        return 2;
    }
    try {
        const std::vector<std::string> words = read_words(argv[1]);
        Reader reader{words};
        int wrong = 0, cases = 0;
        for (; reader.at < words.size(); ++cases) wrong += run_case(reader);
        std::printf("%d cases, %d wrong pixels\n", cases, wrong);
        return cases > 0 && wrong == 0 ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
        return 1;
    }
}
