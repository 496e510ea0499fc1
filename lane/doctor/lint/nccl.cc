#include <fmt/format.h>

#include <algorithm>

#include "lane/doctor/lint/rules.h"

// What values of NCCL's variables do, and which contradict each other. Times are those of NCCL's own cost model
// (src/graph/tuning.cc of 2.30.7).
namespace lane::doctor {
namespace {

struct Token {
  std::string_view name;
  int since = 0, until = 0;  // first version, and first without it; 0: always
};
constexpr Token kAlgorithms[] = {{"Ring"},
                                 {"Tree"},
                                 {"CollnetDirect", 21400},
                                 {"CollnetChain", 21400},
                                 {"NVLS", 21700},
                                 {"NVLSTree", 21800},
                                 {"PAT", 22300},
                                 {"Collnet", 0, 21400}};
constexpr Token kProtocols[] = {{"LL"}, {"LL128"}, {"Simple"}};
constexpr std::string_view kFunctions[] = {"Broadcast", "Reduce", "AllGather", "ReduceScatter", "AllReduce"};
constexpr int kStrictTokens = 22400;  // from here on an unknown token makes ncclCommInit fail

std::span<const Token> tokens_of(const Variable& variable) {
  return variable.name == "NCCL_ALGO" ? std::span<const Token>(kAlgorithms) : std::span<const Token>(kProtocols);
}

const Token* find_token(std::span<const Token> tokens, std::string_view name) {
  for (const Token& token : tokens)
    if (same_letters(token.name, name)) return &token;
  return nullptr;
}

// "ring,tree;allreduce:^nvls": since 2.24 a list for all functions, then lists for some.
struct Choice {
  std::string_view function;  // empty: all
  bool excludes = false;
  std::vector<std::string_view> tokens;
};
std::vector<Choice> parse_choices(std::string_view value) {
  std::vector<Choice> choices;
  for (std::string_view part : split(value, ';')) {
    Choice choice;
    if (const size_t colon = part.find(':'); colon != std::string_view::npos) {
      choice.function = part.substr(0, colon);
      part.remove_prefix(colon + 1);
    }
    if (part.starts_with('^')) {
      choice.excludes = true;
      part.remove_prefix(1);
    }
    choice.tokens = split(part, ',');
    choices.push_back(choice);
  }
  return choices;
}

// Whether `function` may use `token` under `variable`.
bool allows(const Variable& variable, std::string_view token, std::string_view function = "AllReduce") {
  bool allowed = true;
  for (const Choice& choice : parse_choices(variable.value)) {
    if (!choice.function.empty() && !same_letters(choice.function, function)) continue;
    const bool named = std::any_of(choice.tokens.begin(), choice.tokens.end(),
                                   [&](std::string_view one) { return same_letters(one, token); });
    allowed = named != choice.excludes;
  }
  return allowed;
}

Finding bad_token(const Lint& lint, const Variable& variable, std::string_view token,
                  std::span<const std::string_view> known) {
  const bool fails = lint.at_least(kStrictTokens);
  std::string what = fmt::format("{}: \"{}\" is none of NCCL's words; ", words_for(variable), token);
  if (fails)
    what += fmt::format("ncclCommInit fails in {}", version_words(lint.nccl_version));
  else if (lint.nccl_version == 0)
    what += "from 2.24 on ncclCommInit fails, before that it is passed over";
  else
    what += fmt::format("{} passes it over, from 2.24 on ncclCommInit fails", version_words(lint.nccl_version));
  const std::string nearest = nearest_name(token, known);
  std::string fix = fmt::format("unset {}: NCCL chooses by size and topology", variable.name);
  if (same_letters(token, "auto"))
    fix += "; there is no word for that";
  else if (!nearest.empty())
    fix += fmt::format("; or did you mean {}?", nearest);
  return about(fails ? Verdict::kFatal : Verdict::kWarning, variable, what, fix);
}

std::vector<Finding> unknown_tokens(const Lint& lint) {
  std::vector<Finding> found;
  for (const char* name : {"NCCL_ALGO", "NCCL_PROTO"}) {
    const Variable* variable = lint.find(name);
    if (variable == nullptr || variable->value.empty()) continue;
    const auto tokens = tokens_of(*variable);
    std::vector<std::string_view> names;
    for (const Token& token : tokens) names.push_back(token.name);
    bool is_first = true;
    for (const Choice& choice : parse_choices(variable->value)) {
      const bool known_function = std::any_of(std::begin(kFunctions), std::end(kFunctions),
                                              [&](std::string_view f) { return same_letters(f, choice.function); });
      if (!choice.function.empty() && !known_function)
        found.push_back(bad_token(lint, *variable, choice.function, kFunctions));
      if (choice.function.empty() && !is_first)
        found.push_back(
            about(lint.at_least(kStrictTokens) ? Verdict::kFatal : Verdict::kWarning, *variable,
                  fmt::format("{}: only the first list may go without the name of a function", words_for(*variable)),
                  "write it as ring,tree;allreduce:tree"));
      for (const std::string_view token : choice.tokens)
        if (find_token(tokens, token) == nullptr) found.push_back(bad_token(lint, *variable, token, names));
      is_first = false;
    }
  }
  return found;
}

std::vector<Finding> token_versions(const Lint& lint) {
  std::vector<Finding> found;
  for (const char* name : {"NCCL_ALGO", "NCCL_PROTO"}) {
    const Variable* variable = lint.find(name);
    if (variable == nullptr || lint.nccl_version == 0) continue;
    if (lint.before(kStrictTokens) && variable->value.find_first_of(";:") != std::string::npos)
      found.push_back(about(Verdict::kWarning, *variable,
                            fmt::format("{}: lists by function came with NCCL 2.24; this is {}", words_for(*variable),
                                        version_words(lint.nccl_version)),
                            "give one list for all functions"));
    for (const Choice& choice : parse_choices(variable->value))
      for (const std::string_view word : choice.tokens) {
        const Token* token = find_token(tokens_of(*variable), word);
        if (token == nullptr) continue;
        if (lint.before(token->since))
          found.push_back(about(Verdict::kWarning, *variable,
                                fmt::format("{} came with NCCL {}; this is {}", token->name,
                                            version_words(token->since), version_words(lint.nccl_version)),
                                fmt::format("take {} out of {}", token->name, variable->name)));
        if (token->until != 0 && lint.at_least(token->until))
          found.push_back(about(lint.at_least(kStrictTokens) ? Verdict::kFatal : Verdict::kWarning, *variable,
                                fmt::format("{} became CollnetDirect and CollnetChain in NCCL 2.14", token->name),
                                "name those, or unset it"));
      }
  }
  return found;
}

std::vector<Finding> forced_algorithm(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_ALGO");
  if (variable == nullptr || variable->value.empty() || !unknown_tokens(lint).empty()) return {};
  const std::string fix =
      "unset NCCL_ALGO; if a measurement is behind it, give ranges of sizes to a tuner plugin: lane "
      "tune nccl";
  if (allows(*variable, "Ring") && !allows(*variable, "Tree"))
    return {
        about(Verdict::kWarning, *variable,
              fmt::format("{} gives up trees{}: a ring of n ranks takes 2(n-1) steps, a tree about 2 log2 of the nodes",
                          words_for(*variable), allows(*variable, "NVLS") ? "" : " and NVLink multicast"),
              fix,
              "by NCCL's model a small all-reduce on 2 x 8 GPUs takes 40 µs (Intel) or 68 µs (AMD) by ring, 25 by "
              "tree; on 128 x 8 it is 2484 against 85. Per step: the difference times 2 x layers")};
  // Rings are all that broadcast and reduce have (tuning.cc), and since 2.24 nothing falls back to them.
  if (!lint.before(kStrictTokens) && !allows(*variable, "Ring", "Broadcast"))
    return {about(Verdict::kWarning, *variable,
                  fmt::format("{} leaves broadcast and reduce without an algorithm: from 2.24 on they fail",
                              words_for(*variable)),
                  fix + "; or name the function: allreduce:...")};
  return {about(Verdict::kNote, *variable,
                fmt::format("{} holds for all sizes and all communicators; NCCL's guide keeps it for experiments",
                            words_for(*variable)),
                fix)};
}

std::vector<Finding> forced_protocol(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_PROTO");
  if (variable == nullptr || variable->value.empty() || !unknown_tokens(lint).empty()) return {};
  const std::string fix =
      "unset NCCL_PROTO; if a measurement is behind it, give ranges of sizes to a tuner plugin: lane "
      "tune nccl";
  if (!allows(*variable, "LL") && !allows(*variable, "LL128"))
    return {about(
        Verdict::kWarning, *variable,
        fmt::format("{} gives up the protocols for small messages, which decoding is made of", words_for(*variable)),
        fix,
        "by NCCL's model a small all-reduce takes 56 µs instead of 15 on 8 GPUs with NVLink, 92 instead of 25 on "
        "2 x 8 over InfiniBand. Per step: the difference times 2 x layers")};
  if (variable->value.find("128") != std::string::npos && allows(*variable, "LL128"))
    return {about(
        Verdict::kWarning, *variable,
        fmt::format("{} forces LL128 also where NCCL turned it off, which may corrupt data", words_for(*variable)),
        fix)};
  return {about(Verdict::kNote, *variable,
                fmt::format("{} holds for all sizes; NCCL's guide keeps it for experiments", words_for(*variable)),
                fix)};
}

std::vector<Finding> few_channels(const Lint& lint) {
  constexpr int64_t kFew = 8;
  constexpr double kHopperGbPerS = 36.7, kReached = 370;  // of a channel by LL128's cap; of all channels, measured
  std::vector<Finding> found;
  for (const char* name : {"NCCL_MAX_NCHANNELS", "NCCL_MAX_CTAS"}) {
    const auto count = lint.number(name);
    if (!count || *count < 1 || *count > kFew) continue;
    const Variable& variable = *lint.find(name);
    found.push_back(about(
        Verdict::kWarning, variable,
        fmt::format("{} caps all communicators at {:.0f} GB/s on Hopper ({} x {} GB/s), where about {:.0f} "
                    "can be reached",
                    words_for(variable), static_cast<double>(*count) * kHopperGbPerS, *count, kHopperGbPerS, kReached),
        fmt::format("unset {}; to spare SMs for a kernel that runs beside it, set maxCTAs in ncclConfig_t "
                    "of that communicator",
                    name),
        "prefill slows down; decode gains nothing, as nothing runs beside its all-reduces"));
  }
  return found;
}

std::vector<Finding> threads_and_buffers(const Lint& lint) {
  std::vector<Finding> found;
  if (const Variable* threads = lint.find("NCCL_NTHREADS"))
    found.push_back(about(Verdict::kNote, *threads,
                          fmt::format("{}: fewer threads in a block free no SM; channels do", words_for(*threads)),
                          "unset NCCL_NTHREADS"));
  if (const auto bytes = lint.number("NCCL_BUFFSIZE"); bytes && *bytes > 0) {
    constexpr int64_t kDefault = 4 << 20;
    const Variable& variable = *lint.find("NCCL_BUFFSIZE");
    if ((*bytes & (*bytes - 1)) != 0)
      found.push_back(about(Verdict::kWarning, variable, fmt::format("{} is no power of two", words_for(variable)),
                            "unset NCCL_BUFFSIZE (4194304)"));
    else if (*bytes < kDefault)
      found.push_back(
          about(Verdict::kNote, variable,
                fmt::format("{}: buffers are per channel, peer and protocol; smaller ones slow large messages",
                            words_for(variable)),
                "unset NCCL_BUFFSIZE (4194304)"));
    if (const auto threshold = lint.number("NCCL_IB_AR_THRESHOLD"); threshold && *threshold > *bytes)
      found.push_back(about(Verdict::kWarning, variable,
                            "NCCL_IB_AR_THRESHOLD above NCCL_BUFFSIZE turns adaptive routing off", "unset both"));
  }
  return found;
}

std::vector<Finding> cross_nic(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_CROSS_NIC");
  if (variable == nullptr) return {};
  if (variable->value == "1")
    return {about(
        Verdict::kNote, *variable,
        "NCCL_CROSS_NIC=1 lets rings change rails: right where all NICs of a host share a switch (Slingshot sites "
        "set it), while on a rail-optimised fabric it sends traffic over the spine",
        "unset NCCL_CROSS_NIC (2: the same NIC unless crossing is better)")};
  if (variable->value == "0")
    return {about(Verdict::kNote, *variable,
                  "NCCL_CROSS_NIC=0 keeps rings on their rails, for fabrics with slow links between rails",
                  "unset NCCL_CROSS_NIC (2: the same NIC unless crossing is better)")};
  return {};
}

std::vector<Finding> relaxed_ordering(const Lint& lint) {
  if (!lint.is("NCCL_IB_PCI_RELAXED_ORDERING", "1")) return {};
  return {about(
      Verdict::kNote, *lint.find("NCCL_IB_PCI_RELAXED_ORDERING"),
      "NCCL_IB_PCI_RELAXED_ORDERING=1 fails where it is not available; it orders writes on PCIe and has nothing to do "
      "with congestion",
      "unset NCCL_IB_PCI_RELAXED_ORDERING (2: where it is available)")};
}

std::vector<Finding> topology_file(const Lint& lint) {
  if (!lint.is("NCCL_TOPO_FILE", "/var/run/nvidia-topologyd/virtualTopology.xml")) return {};
  return {about(Verdict::kNote, *lint.find("NCCL_TOPO_FILE"),
                "NCCL_TOPO_FILE names the file that NCCL loads by itself if it is there", "unset NCCL_TOPO_FILE")};
}

std::vector<Finding> multicast_setting(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_NVLS_ENABLE");
  if (variable == nullptr) return {};
  if (variable->value == "0")
    return {about(
        Verdict::kNote, *variable,
        "NCCL_NVLS_ENABLE=0 gives up NVLink multicast: right where multicast memory cannot be bound, else it costs "
        "bandwidth",
        "unset NCCL_NVLS_ENABLE",
        "large all-reduces on 8 H200 ran at 368 instead of 482 GB/s; decode sizes use LL either way")};
  if (variable->value != "1") return {};
  return {
      about(Verdict::kNote, *variable,
            lint.at_least(22700) && lint.before(22900)
                ? "NCCL_NVLS_ENABLE=1: in 2.27 and 2.28 it fails where the default (2) falls back"
                : "NCCL_NVLS_ENABLE=1 asks for what the default (2) does already; from 2.29 on both fail if multicast "
                  "memory cannot be bound",
            "unset NCCL_NVLS_ENABLE")};
}

std::vector<Finding> disabled_paths(const Lint& lint) {
  struct Path {
    const char *name, *what;
  };
  constexpr Path kPaths[] = {{"NCCL_P2P_DISABLE", "GPUs of a host no longer reach each other over NVLink or PCIe"},
                             {"NCCL_SHM_DISABLE", "GPUs without peer-to-peer go over the network inside a host"},
                             {"NCCL_IB_DISABLE", "hosts talk over TCP instead of InfiniBand or RoCE"},
                             {"NCCL_PXN_DISABLE", "GPUs no longer reach a far rail through their neighbour"}};
  std::vector<Finding> found;
  for (const Path& path : kPaths)
    if (lint.is(path.name, "1"))
      found.push_back(about(Verdict::kWarning, *lint.find(path.name), fmt::format("{}=1: {}", path.name, path.what),
                            fmt::format("unset {}; it is meant for looking for a fault", path.name)));
  if (lint.is("NCCL_P2P_LEVEL", "LOC") || lint.is("NCCL_P2P_LEVEL", "0"))
    found.push_back(about(Verdict::kWarning, *lint.find("NCCL_P2P_LEVEL"),
                          "NCCL_P2P_LEVEL=LOC turns peer-to-peer off, NVLink included", "unset NCCL_P2P_LEVEL"));
  if (lint.is("NCCL_DMABUF_ENABLE", "0")) {
    const inventory::Fact* peermem = lint.inventory == nullptr ? nullptr : lint.inventory->find("nvidia.peermem");
    const bool lost = peermem != nullptr && peermem->known() && peermem->value != "loaded";
    found.push_back(about(lost ? Verdict::kWarning : Verdict::kNote, *lint.find("NCCL_DMABUF_ENABLE"),
                          lost ? "NCCL_DMABUF_ENABLE=0, and nvidia_peermem is not loaded: no GPUDirect RDMA"
                               : "NCCL_DMABUF_ENABLE=0: GPUDirect RDMA needs nvidia_peermem then",
                          "unset NCCL_DMABUF_ENABLE"));
  }
  return found;
}

std::vector<Finding> debug_left_on(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_DEBUG");
  if (variable == nullptr || (!same_letters(variable->value, "INFO") && !same_letters(variable->value, "TRACE")))
    return {};
  return {about(Verdict::kNote, *variable,
                fmt::format("{} writes lines for every communicator on every rank", words_for(*variable)),
                "export NCCL_DEBUG=WARN, which says what fails and is silent otherwise")};
}

struct Pair {
  const char *a, *a_value, *b, *b_value;  // value null: set to anything
  const char* what;
};
constexpr Pair kPairs[] = {
    {"NCCL_P2P_DISABLE", "1", "NCCL_P2P_LEVEL", nullptr, "the level has no effect when peer-to-peer is off"},
    {"NCCL_IB_DISABLE", "1", "NCCL_IB_HCA", nullptr, "the list of HCAs has no effect when InfiniBand is off"},
    {"NCCL_NET", "Socket", "NCCL_IB_HCA", nullptr, "the list of HCAs has no effect when TCP is asked for"},
    {"NCCL_NET", "IB", "NCCL_IB_DISABLE", "1", "InfiniBand is asked for and turned off: initialization fails"},
    {"NCCL_MNNVL_ENABLE", "1", "NCCL_CUMEM_ENABLE", "0", "NVLink between hosts needs cuMem: initialization fails"},
    {"NCCL_NET_GDR_LEVEL", "LOC", "NCCL_NET_GDR_READ", "1", "LOC turns GPUDirect RDMA off altogether"},
    {"NCCL_IB_GID_INDEX", nullptr, "NCCL_IB_ADDR_FAMILY", nullptr,
     "the family is for choosing a GID, which the index fixes"},
    {"NCCL_IB_GID_INDEX", nullptr, "NCCL_IB_ADDR_RANGE", nullptr,
     "the range is for choosing a GID, which the index fixes"},
    {"NCCL_IB_GID_INDEX", nullptr, "NCCL_IB_ROCE_VERSION_NUM", nullptr,
     "the version is for choosing a GID, which the index fixes"},
    {"NCCL_IB_SPLIT_DATA_ON_QPS", "1", "NCCL_IB_QPS_PER_CONNECTION", "1",
     "there is nothing to split over with one queue pair"},
    {"NCCL_MAX_NCHANNELS", nullptr, "NCCL_MAX_CTAS", nullptr, "two names of one limit: the lower value counts"},
    {"NCCL_MIN_NCHANNELS", nullptr, "NCCL_MIN_CTAS", nullptr, "two names of one limit: the higher value counts"},
    {"NCCL_MULTI_RANK_GPU_ENABLE", "1", "NCCL_NVLS_ENABLE", "1",
     "multicast does not go with several ranks on a GPU: initialization fails"},
};

Finding contradiction(const Variable& a, const Variable& b, const std::string& why) {
  Finding made = about(Verdict::kWarning, a, fmt::format("{} and {}: {}", words_for(a), words_for(b), why),
                       fmt::format("unset {} or {}", a.name, b.name));
  made.evidence.push_back({b.source, words_for(b)});
  return made;
}

std::vector<Finding> contradictions(const Lint& lint) {
  std::vector<Finding> found;
  const auto holds = [&](const char* name, const char* value) {
    const Variable* variable = lint.find(name);
    return variable != nullptr && (value == nullptr ? !variable->value.empty() && variable->value != "-1"
                                                    : same_letters(variable->value, value))
               ? variable
               : nullptr;
  };
  for (const Pair& pair : kPairs) {
    const Variable *a = holds(pair.a, pair.a_value), *b = holds(pair.b, pair.b_value);
    if (a != nullptr && b != nullptr) found.push_back(contradiction(*a, *b, pair.what));
  }
  const Variable* algorithm = lint.find("NCCL_ALGO");
  const Variable* multicast = holds("NCCL_NVLS_ENABLE", "1");
  if (algorithm != nullptr && multicast != nullptr && !algorithm->value.empty() && !allows(*algorithm, "NVLS") &&
      !allows(*algorithm, "NVLSTree"))
    found.push_back(
        contradiction(*algorithm, *multicast, "the algorithms leave multicast out, so enabling it has no effect"));
  for (const char* suffix : {"CTAS", "NCHANNELS"}) {
    const std::string low = fmt::format("NCCL_MIN_{}", suffix), high = fmt::format("NCCL_MAX_{}", suffix);
    const auto min = lint.number(low), max = lint.number(high);
    if (min && max && *min > *max)
      found.push_back(contradiction(*lint.find(low), *lint.find(high), "the least is more than the most"));
  }
  const auto threads = lint.number("NCCL_SOCKET_NTHREADS"), sockets = lint.number("NCCL_NSOCKS_PERTHREAD");
  constexpr int64_t kMostSockets = 64;
  if (threads && sockets && *threads > 0 && *sockets > 0 && *threads <= kMostSockets && *sockets <= kMostSockets &&
      *threads * *sockets > kMostSockets)
    found.push_back(
        contradiction(*lint.find("NCCL_SOCKET_NTHREADS"), *lint.find("NCCL_NSOCKS_PERTHREAD"), "together at most 64"));
  return found;
}

}  // namespace

std::span<const Rule> nccl_rules() {
  static constexpr Rule kRules[] = {
      {"env-unknown-word", unknown_tokens},  {"env-word-of-other-version", token_versions},
      {"env-algo-forced", forced_algorithm}, {"env-proto-forced", forced_protocol},
      {"env-few-channels", few_channels},    {"env-threads-and-buffers", threads_and_buffers},
      {"env-cross-nic", cross_nic},          {"env-relaxed-ordering", relaxed_ordering},
      {"env-topo-file", topology_file},      {"env-nvls", multicast_setting},
      {"env-path-disabled", disabled_paths}, {"env-debug", debug_left_on},
      {"env-contradiction", contradictions}};
  return kRules;
}

}  // namespace lane::doctor
