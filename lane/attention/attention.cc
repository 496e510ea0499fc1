#include "lane/attention/attention.h"

#include <fmt/format.h>

#include "lane/attention/cpu/backends.h"
#include "lane/base/error.h"

namespace lane {

std::vector<const AttentionBackend*> attention_backends() { return {&flash_attention(), &reference_attention()}; }

AttentionChoice choose_attention(const AttentionShape& shape, DType kv_dtype, Device device, std::string_view forced) {
  if (forced == "auto") forced = {};
  AttentionChoice choice;
  std::string names;
  bool exists = false;
  for (const AttentionBackend* candidate : attention_backends()) {
    names += (names.empty() ? "" : ", ") + std::string(candidate->name());
    if (!forced.empty() && candidate->name() != forced) continue;
    exists = true;
    const std::string reason = candidate->why_not(shape, kv_dtype, device);
    if (reason.empty()) {
      choice.backend = candidate;
      return choice;
    }
    choice.passed_over += fmt::format("{}: {}; ", candidate->name(), reason);
  }
  if (!exists)
    throw Error(ErrorCode::kUnsupported, fmt::format("no attention backend is called {}; there are {}", forced, names));
  throw Error(ErrorCode::kUnsupported,
              fmt::format("no attention backend fits: {}{}", choice.passed_over,
                          forced.empty() ? "there are no others"
                                         : fmt::format("unset LANE_ATTENTION to choose among {}", names)));
}

}  // namespace lane
