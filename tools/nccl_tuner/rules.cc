#include "tools/nccl_tuner/rules.h"

#include <charconv>

namespace nccl_tuner {
namespace {

constexpr size_t kFewestFields = 8, kMostFields = 10;

struct Name {
  const char* text;
  int value;
};
constexpr Name kFunctions[] = {{"broadcast", kBroadcast},
                               {"reduce", kReduce},
                               {"allgather", kAllGather},
                               {"reducescatter", kReduceScatter},
                               {"allreduce", kAllReduce}};
constexpr Name kAlgorithms[] = {{"tree", kTree},
                                {"ring", kRing},
                                {"collnet_direct", kCollnetDirect},
                                {"collnet_chain", kCollnetChain},
                                {"nvls", kNvls},
                                {"nvls_tree", kNvlsTree},
                                {"pat", kPat}};
constexpr Name kProtocols[] = {{"ll", kLL}, {"ll128", kLL128}, {"simple", kSimple}};

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

template <size_t kCount>
bool find(const Name (&names)[kCount], std::string_view text, const char* what, int* value, std::string* why) {
  for (const Name& name : names)
    if (text == name.text) {
      *value = name.value;
      return true;
    }
  *why = std::string(what) + " \"" + std::string(text.substr(0, 40)) + "\" is not known";
  return false;
}

template <class Number>
bool number(std::string_view text, const char* what, Number least, Number* value, std::string* why) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  if (error == std::errc{} && end == text.data() + text.size() && *value >= least) return true;
  *why = std::string(what) + " \"" + std::string(text.substr(0, 40)) + "\" is not a number that can be";
  return false;
}

}  // namespace

bool matches(const Rule& rule, const Call& call) {
  const auto any_or = [](int wanted, uint64_t is) { return wanted == -1 || static_cast<uint64_t>(wanted) == is; };
  return rule.function == call.function && rule.min_bytes <= call.bytes && call.bytes <= rule.max_bytes &&
         any_or(rule.num_nodes, call.num_nodes) && any_or(rule.num_ranks, call.num_ranks) &&
         any_or(rule.num_pipe_ops, static_cast<uint64_t>(call.num_pipe_ops)) &&
         any_or(rule.registered, static_cast<uint64_t>(call.registered));
}

bool parse_rule(std::string_view line, Rule* rule, std::string* why) {
  std::string_view fields[kMostFields];
  size_t count = 0;
  for (size_t begin = 0; begin <= line.size(); ++count) {
    const size_t end = line.find(',', begin) == std::string_view::npos ? line.size() : line.find(',', begin);
    if (count == kMostFields) {
      *why = "more than 10 fields";
      return false;
    }
    fields[count] = trimmed(line.substr(begin, end - begin));
    begin = end + 1;
  }
  if (count < kFewestFields) {
    *why = "fewer than 8 fields";
    return false;
  }
  int function = 0, algorithm = 0, protocol = 0;
  rule->num_pipe_ops = rule->registered = -1;
  if (!find(kFunctions, fields[0], "collective", &function, why) ||
      !number<uint64_t>(fields[1], "min_bytes", 0, &rule->min_bytes, why) ||
      !number<uint64_t>(fields[2], "max_bytes", 0, &rule->max_bytes, why) ||
      !find(kAlgorithms, fields[3], "algorithm", &algorithm, why) ||
      !find(kProtocols, fields[4], "protocol", &protocol, why) ||
      !number(fields[5], "channels", -1, &rule->num_channels, why) ||
      !number(fields[6], "nNodes", -1, &rule->num_nodes, why) ||
      !number(fields[7], "nRanks", -1, &rule->num_ranks, why) ||
      (count > 8 && !number(fields[8], "numPipeOps", -1, &rule->num_pipe_ops, why)) ||
      (count > 9 && !number(fields[9], "regBuff", -1, &rule->registered, why)))
    return false;
  if (rule->min_bytes > rule->max_bytes) {
    *why = "min_bytes is above max_bytes";
    return false;
  }
  rule->function = static_cast<Function>(function);
  rule->algorithm = static_cast<Algorithm>(algorithm);
  rule->protocol = static_cast<Protocol>(protocol);
  return true;
}

}  // namespace nccl_tuner
