// liblane-nccl-tuner.so: NCCL asks it which algorithm, protocol and number of channels a collective should take. It
// answers from a table that `lane tune nccl` made, and leaves NCCL's own choice alone where the table says nothing.
//
// NCCL gives a communicator each its own context, which is only read once init() is through; so there is nothing to
// lock. An error from here would end the job's collective, so a table that cannot be read is a warning: the job then
// runs as without the plugin.
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "tools/nccl_tuner/nccl_tuner_abi.h"
#include "tools/nccl_tuner/rules.h"

namespace nccl_tuner {
namespace {

constexpr size_t kMostRules = 100'000;
constexpr int kMostWarnings = 10;

struct Context {
  size_t num_nodes = 0, num_ranks = 0;
  std::vector<Rule> rules;
};

void say(LogFunction log, LogLevel level, int line, const std::string& words) {
  if (log) log(level, kTuning, "lane-nccl-tuner", line, "TUNER/Lane: %s", words.c_str());
}

// NCCL's example reads its file's name from the same variable: one table serves both.
std::string table_path() {
  const char* path = std::getenv("NCCL_TUNER_CONFIG_FILE");
  return path ? path : "";
}

std::vector<Rule> read_table(const std::string& path, LogFunction log) {
  std::vector<Rule> rules;
  if (path.empty()) {
    say(log, kWarn, __LINE__, "NCCL_TUNER_CONFIG_FILE is not set; NCCL chooses as without this plugin");
    return rules;
  }
  std::ifstream file(path);
  if (!file) {
    say(log, kWarn, __LINE__, "cannot read " + path + "; NCCL chooses as without this plugin");
    return rules;
  }
  int number = 0, num_bad = 0;
  for (std::string text; std::getline(file, text) && rules.size() < kMostRules;) {
    ++number;
    const size_t begin = text.find_first_not_of(" \t\r");
    if (begin == std::string::npos || text[begin] == '#') continue;
    Rule rule{};
    std::string why;
    if (parse_rule(text, &rule, &why))
      rules.push_back(rule);
    else if (++num_bad <= kMostWarnings)
      say(log, kWarn, __LINE__, path + ":" + std::to_string(number) + ": left out: " + why);
  }
  say(log, kInfo, __LINE__, std::to_string(rules.size()) + " rules from " + path);
  return rules;
}

Result init(void** context, uint64_t, size_t num_ranks, size_t num_nodes, LogFunction log, NvlDomainInfo*,
            Constants*) noexcept {
  if (!context) return kInvalidArgument;
  *context = nullptr;
  try {
    auto made = std::make_unique<Context>();
    made->num_nodes = num_nodes;
    made->num_ranks = num_ranks;
    made->rules = read_table(table_path(), log);
    *context = made.release();
    return kSuccess;
  } catch (...) {  // memory
    return kSystemError;
  }
}

Result get_coll_info(void* context, Function function, size_t bytes, int num_pipe_ops, float** costs,
                     int num_algorithms, int num_protocols, int registered, int* num_channels) noexcept {
  if (!context || !costs || !num_channels) return kSuccess;  // NCCL's own choice
  const auto& known = *static_cast<const Context*>(context);
  auto* const table = reinterpret_cast<float*>(costs);
  const Call call{function, bytes, known.num_nodes, known.num_ranks, num_pipe_ops, registered};
  for (const Rule& rule : known.rules) {
    if (!matches(rule, call) || rule.algorithm >= num_algorithms || rule.protocol >= num_protocols) continue;
    float& cost = table[static_cast<int>(rule.algorithm) * num_protocols + static_cast<int>(rule.protocol)];
    if (cost == kNotAvailable) continue;  // not on this machine: a later rule may fit
    cost = 0;
    if (rule.num_channels > 0) *num_channels = rule.num_channels;
    break;
  }
  return kSuccess;
}

Result finalize(void* context) noexcept {
  delete static_cast<Context*>(context);
  return kSuccess;
}

}  // namespace
}  // namespace nccl_tuner

#define LANE_EXPORT extern "C" __attribute__((visibility("default")))
LANE_EXPORT const nccl_tuner::TunerV6 ncclTunerPlugin_v6;
LANE_EXPORT const nccl_tuner::TunerV5 ncclTunerPlugin_v5;
const nccl_tuner::TunerV6 ncclTunerPlugin_v6 = {"Lane", nccl_tuner::init, nccl_tuner::get_coll_info,
                                                nccl_tuner::finalize, nullptr};
const nccl_tuner::TunerV5 ncclTunerPlugin_v5 = {"Lane", nccl_tuner::init, nccl_tuner::get_coll_info,
                                                nccl_tuner::finalize};
