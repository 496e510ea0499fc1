#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/net/device_bench.h"

namespace lane::net {
namespace {

constexpr int64_t kMaxRowBytes = 1 << 16;  // of the kernel that adds and normalizes

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

// A positive number that is all of the text; 0 if it is not.
int64_t whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0 ? value : 0;
}

}  // namespace

FusedShape fused_shape_from_text(const std::string& text) {
  const size_t times = text.find('x');
  const std::string_view all = text;
  FusedShape shape;
  if (times != std::string::npos) shape = {whole_number(all.substr(0, times)), whole_number(all.substr(times + 1))};
  if (shape.hidden == 0 || shape.num_tokens == 0)
    refuse(fmt::format("--fused {}: give hidden size and tokens, as in 8192x1,8192x4", text));
  if (shape.hidden % 8 != 0 || shape.hidden * 2 > kMaxRowBytes || shape.num_tokens > 1 << 16)
    refuse(fmt::format("--fused {}: the hidden size is to be a multiple of 8 and at most 32768, tokens at most 65536",
                       text));
  return shape;
}

DevicePeer device_peer_from_text(const std::string& text) {
  const size_t colon = std::min(text.find(':'), text.size());
  DevicePeer peer{text, text.substr(0, colon), text.substr(std::min(colon + 1, text.size()))};
  const bool is_name = !peer.library.empty() && std::all_of(peer.library.begin(), peer.library.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
  if (!is_name)
    refuse(
        fmt::format("--peers {}: a peer on GPUs is NAME or NAME:OPTIONS for a plugin liblane-peer-NAME.so, as in "
                    "nccl,nccl:symmetric",
                    text));
  return peer;
}

void check_options(const DeviceBenchOptions& options) {
  if (!options.graph && !options.eager) refuse("neither --graph nor --eager: there is nothing to measure");
  if (!options.graph && (options.cold || options.with_gemm || options.skew_us > 0))
    refuse("--cold, --with-gemm and --skew are measured in graphs; leave --eager out or use --both");
  for (const FusedShape& shape : options.fused)
    for (const DType dtype : options.dtypes) {
      if (dtype == DType::kI32) refuse("--fused with --dtype int32: a norm is of float32, bfloat16 or float16");
      if (shape.hidden * size_of(dtype) > kMaxRowBytes)
        refuse(fmt::format("--fused {}x{}: a row of {} is to be at most 64 KiB", shape.hidden, shape.num_tokens,
                           lane::name_of(dtype)));
    }
}

double skew_of(int rank, int64_t call, double most_us) {
  return random_uniform(hash_name("skew") + static_cast<uint64_t>(rank), static_cast<uint64_t>(call)) * most_us;
}

}  // namespace lane::net
