#include "lane/net/nccl_setting.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "lane/base/error.h"

namespace lane::net {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;
constexpr std::array<Pair, 7> kAlgorithms = {{{"tree", "Tree"},
                                              {"ring", "Ring"},
                                              {"collnet_direct", "CollnetDirect"},
                                              {"collnet_chain", "CollnetChain"},
                                              {"nvls", "NVLS"},
                                              {"nvls_tree", "NVLSTree"},
                                              {"pat", "PAT"}}};
constexpr std::array<Pair, 3> kProtocols = {{{"ll", "LL"}, {"ll128", "LL128"}, {"simple", "Simple"}}};
constexpr int kMostChannels = 64;  // of NCCL_MAX_CTAS since 2.25

bool same_letters(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if ((a[i] | 0x20) != (b[i] | 0x20)) return false;
  return true;
}

template <size_t kCount>
std::string second_of(const std::array<Pair, kCount>& pairs, std::string_view first) {
  for (const auto& [name, token] : pairs)
    if (name == first) return std::string(token);
  return "";
}

template <size_t kCount>
std::string first_of(const std::array<Pair, kCount>& pairs, std::string_view second) {
  for (const auto& [name, token] : pairs)
    if (same_letters(token, second)) return std::string(name);
  return "";
}

}  // namespace

std::string name_of(const NcclSetting& setting) {
  if (setting.is_default()) return "default";
  std::string name = setting.algorithm + "_" + setting.protocol;
  if (setting.num_channels > 0) name += fmt::format("_c{}", setting.num_channels);
  return name;
}

NcclSetting parse_nccl_setting(std::string_view name) {
  if (name == "default") return {};
  NcclSetting setting;
  std::string_view rest = name;
  if (const size_t c = rest.rfind("_c"); c != std::string_view::npos) {
    const std::string_view digits = rest.substr(c + 2);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), setting.num_channels);
    if (!digits.empty() && error == std::errc{} && end == digits.data() + digits.size()) rest = rest.substr(0, c);
  }
  const size_t split = rest.rfind('_');
  if (split != std::string_view::npos) {
    setting.algorithm = rest.substr(0, split);
    setting.protocol = rest.substr(split + 1);
  }
  if (algorithm_token(setting.algorithm).empty() || protocol_token(setting.protocol).empty() ||
      setting.num_channels < 0 || setting.num_channels > kMostChannels)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("setting {}: expected default or ALGORITHM_PROTOCOL[_cCHANNELS] such as ring_ll or "
                            "nvls_simple_c16; algorithms: tree, ring, collnet_direct, collnet_chain, nvls, nvls_tree, "
                            "pat; protocols: ll, ll128, simple; channels: 1 to {}",
                            name, kMostChannels));
  return setting;
}

std::string algorithm_token(std::string_view algorithm) { return second_of(kAlgorithms, algorithm); }
std::string protocol_token(std::string_view protocol) { return second_of(kProtocols, protocol); }
std::string algorithm_of_token(std::string_view token) { return first_of(kAlgorithms, token); }
std::string protocol_of_token(std::string_view token) { return first_of(kProtocols, token); }

std::string tuner_collective(std::string_view collective) {
  constexpr std::array<Pair, 5> kNames = {{{"all_reduce", "allreduce"},
                                           {"all_gather", "allgather"},
                                           {"reduce_scatter", "reducescatter"},
                                           {"broadcast", "broadcast"},
                                           {"reduce", "reduce"}}};
  return second_of(kNames, collective);
}

bool can_run(std::string_view collective, const NcclSetting& setting) {
  if (setting.is_default()) return true;
  const std::string& algorithm = setting.algorithm;
  const bool simple = setting.protocol == "simple";
  if (algorithm == "ring") return !tuner_collective(collective).empty();
  if (algorithm == "tree") return collective == "all_reduce";
  if (algorithm == "nvls_tree" || algorithm == "collnet_chain") return collective == "all_reduce" && simple;
  const bool scatters = collective == "all_gather" || collective == "reduce_scatter";
  if (algorithm == "pat") return scatters && simple;
  return (scatters || collective == "all_reduce") && simple;  // nvls, collnet_direct
}

}  // namespace lane::net
