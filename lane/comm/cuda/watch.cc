#include "lane/comm/cuda/watch.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "lane/base/dtype.h"

namespace lane::cuda {
namespace {

constexpr std::chrono::milliseconds kPeriod{2};
constexpr int kSizeBits = 18;

std::string_view name_of(Step step) {
  switch (step) {
    case Step::kReduce:
      return "adding up";
    case Step::kGather:
      return "collecting the sums";
    case Step::kBetweenNodes:
      return "between nodes";
    case Step::kNetwork:
      return "on the network";
    case Step::kCall:
      return "comparing calls";
  }
  return "?";
}

uint32_t load(const uint32_t& word) {
  return std::atomic_ref(const_cast<uint32_t&>(word)).load(std::memory_order_acquire);
}

}  // namespace

uint32_t call_word(DeviceCall call, uint32_t algorithm, DType type, ReduceOp op, int64_t bytes) {
  const uint64_t mixed = static_cast<uint64_t>(bytes) * 0x9e3779b97f4a7c15u;
  return static_cast<uint32_t>(call) << 29 | (algorithm & 15) << 25 | static_cast<uint32_t>(type) << 22 |
         static_cast<uint32_t>(op) << 19 | static_cast<uint32_t>(mixed >> (64 - kSizeBits));
}

std::string describe_call(uint32_t word) {
  constexpr std::array<std::string_view, 8> kCalls{
      "nothing", "all_reduce", "all_reduce_add_rms_norm", "reduce_scatter", "all_gather", "broadcast", "?", "?"};
  constexpr std::array<std::string_view, 8> kOps{"sum", "max", "min", "prod", "avg", "?", "?", "?"};
  const uint32_t call = word >> 29;
  std::string text = fmt::format("{} of {}", kCalls[call], lane::name_of(static_cast<DType>(word >> 22 & 7)));
  if (call <= static_cast<uint32_t>(DeviceCall::kReduceScatter)) text += fmt::format(" ({})", kOps[word >> 19 & 7]);
  return text;
}

Watch::Watch(Board& board, Report& report, std::chrono::milliseconds timeout, std::function<int(const Report&)> rank_of)
    : board_(board), report_(report), timeout_(timeout), rank_of_(std::move(rank_of)), thread_([this] { run(); }) {}

Watch::~Watch() {
  is_over_ = true;
  thread_.join();
}

void Watch::look() {
  if (load(report_.written) != 0 && !board_.failed()) {
    const int peer = rank_of_(report_);
    if (report_.step == Step::kCall && report_.call != report_.peer_call) {
      const std::string mine = describe_call(report_.call), theirs = describe_call(report_.peer_call);
      board_.post_failure(
          ErrorCode::kInvalidArgument,
          fmt::format(
              "in operation #{} on the GPU {} calls {} while rank {} calls {}{}: all ranks have to call the same "
              "collectives with the same sizes and algorithms in the same order",
              report_.number, board_.name_of(peer), theirs, board_.rank(), mine,
              mine == theirs ? " of another size or by another algorithm" : ""));
    } else {
      const int32_t behind = static_cast<int32_t>(report_.number - report_.peer_number);
      const std::string seen = report_.step == Step::kBetweenNodes || report_.step == Step::kNetwork ? ""
                               : behind > 0 ? fmt::format(", which has come to #{}", report_.peer_number)
                                            : ", which is in or past it";
      board_.post_failure(ErrorCode::kTimeout,
                          fmt::format("rank {} waited {:.1f} s on the GPU for {} in {} #{} ({}){}", board_.rank(),
                                      static_cast<double>(report_.waited_ns) * 1e-9, board_.suspect(peer, timeout_ / 2),
                                      describe_call(report_.call), report_.number, name_of(report_.step), seen));
    }
  }
  if (board_.failed()) std::atomic_ref(report_.abort).store(1, std::memory_order_release);
}

void Watch::run() {
  while (!is_over_) {
    look();
    std::this_thread::sleep_for(kPeriod);
  }
}

}  // namespace lane::cuda
