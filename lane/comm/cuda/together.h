#pragma once
#include <fmt/format.h>

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/comm/cuda/peer_memory.h"

namespace lane::cuda {

struct Outcome {
  std::vector<Json> results;     // by rank
  std::optional<Error> failure;  // one rank's, the same on all
};

// Timeouts and lost peers come of another's failure, which says more.
inline bool is_consequence(ErrorCode code) { return code == ErrorCode::kTimeout || code == ErrorCode::kPeerLost; }

// Takes a step that may fail on some ranks only, and lets all know how it went on each: so nobody goes on to wait for
// one that gave up. That is why errors are caught here.
inline Outcome together(const PeerMemory::Exchange& exchange, const std::function<Json()>& step) {
  Json own;
  const auto failed = [&own](ErrorCode code, const char* what) {
    own = {{"code", static_cast<int>(code)}, {"error", what}};
  };
  try {
    own["result"] = step();
  } catch (const Error& error) {
    failed(error.code(), error.what());
  } catch (const std::exception& error) {
    failed(ErrorCode::kSystem, error.what());
  }
  Outcome outcome;
  for (const std::string& text : exchange(own.dump(-1, ' ', false, Json::error_handler_t::replace))) {
    const size_t rank = outcome.results.size();
    const Json said = parse_json(text, fmt::format("what rank {} says of its GPU memory", rank));
    if (said.contains("error")) {
      const auto code = static_cast<ErrorCode>(said.at("code").get<int>());
      if (!outcome.failure || (is_consequence(outcome.failure->code()) && !is_consequence(code)))
        outcome.failure.emplace(code, fmt::format("rank {}: {}", rank, said.at("error").get<std::string>()));
    }
    outcome.results.push_back(said.value("result", Json()));
  }
  return outcome;
}

// The same for a step that all have to take: throws on all if it failed on one. What each brought, by rank.
inline std::vector<Json> all_together(const PeerMemory::Exchange& exchange, const std::function<Json()>& step) {
  Outcome outcome = together(exchange, step);
  if (outcome.failure) throw *outcome.failure;
  return std::move(outcome.results);
}

}  // namespace lane::cuda
