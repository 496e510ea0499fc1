#include "lane/net/all_reduce_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "lane/base/error.h"
#include "lane/net/agreement.h"
#include "lane/net/timing.h"
#include "lane/net/vectors.h"
#include "lane/plan/schedule.h"

namespace lane::net {
namespace {

using std::chrono::milliseconds;

constexpr int kRounds = 5;  // in which Lane's algorithms and the peers take turns

struct Case {
  int64_t bytes;
  DType dtype;
  ReduceOp op;
};

class Bench {
 public:
  Bench(Communicator& group, const AllReduceOptions& options) : group_(group), options_(options) {
    if (group.size() < 2)
      throw Error(ErrorCode::kInvalidArgument, "an all-reduce needs two ranks; add --ranks 2 or use a launcher");
    for (const std::string& name : options.algorithms) {
      if (name == "all") {
        add_algorithm("auto");
        for (const std::string& each : plan::schedule_names(plan::Collective::kAllReduce, group.fabric().layout))
          add_algorithm(each);
      } else {
        group_.set_algorithm(name);  // says what there is if this is not
        add_algorithm(name);
      }
    }
    group_.set_algorithm("auto");
    for (const PeerOptions& peer : options.peers) {
      check_peer_name(peer.name);
      peers_.push_back(std::make_unique<Peer>(group, peer));
    }
    // The two ends of the way: on different hosts if there are several. Where ranks share cores, those that only wait
    // for these two would be measured.
    const std::vector<int> shape = shape_of(group.fabric().layout);
    has_floor_ = shape.front() <= group.hardware().num_cpus;
    pair_ = group.split(group.rank() == 0 || group.rank() == group.size() - 1 ? 0 : -1, group.rank());
  }

  std::vector<AllReduceRow> measure_case(const Case& what) {
    const int64_t count = what.bytes / size_of(what.dtype);
    const std::array<int64_t, 4> shape{1, 1, 1, std::max<int64_t>(count, 1)};
    in_ = Buffer(what.dtype, shape);
    out_ = Buffer(what.dtype, shape);
    fill(what.dtype, what.op, group_.rank(), count, in_.data());

    std::vector<Contender> contenders;
    for (const std::string& name : algorithms_) contenders.push_back(prepare_algorithm(what, count, name));
    for (size_t i = 0; i < peers_.size(); ++i) contenders.push_back(prepare_peer(what, count, i));
    if (has_floor_) contenders.push_back(prepare_ping_pong(what));
    for (int round = 0; round < kRounds; ++round)
      for (Contender& contender : contenders) {
        const int batches = options_.num_batches * (round + 1) / kRounds - options_.num_batches * round / kRounds;
        if (batches == 0 || !contender.row.why_not.empty()) continue;
        const std::vector<double> seconds = contender.run(batches);
        contender.seconds.insert(contender.seconds.end(), seconds.begin(), seconds.end());
        if (contender.peer != nullptr && seconds.empty())
          contender.row.why_not = "it stopped: " + contender.peer->why_not();
      }
    group_.set_algorithm("auto");

    std::vector<AllReduceRow> rows;
    for (Contender& contender : contenders) rows.push_back(finish(contender));
    double auto_s = 0;
    for (const AllReduceRow& row : rows)
      if (!row.is_peer && row.algorithm == "auto") auto_s = row.time.median_s;
    for (AllReduceRow& row : rows)
      if (auto_s > 0 && row.why_not.empty()) row.of_auto = row.time.median_s / auto_s;
    return rows;
  }

 private:
  struct Contender {
    AllReduceRow row;
    const Peer* peer = nullptr;
    std::function<std::vector<double>(int batches)> run = {};  // seconds per call; null if there is a why_not
    std::vector<double> seconds = {};
  };

  void add_algorithm(const std::string& name) {
    if (std::find(algorithms_.begin(), algorithms_.end(), name) == algorithms_.end()) algorithms_.push_back(name);
  }

  TensorView view(const Buffer& buffer, const Case& what) const {
    return {buffer.data(), what.dtype, {1, 1, 1, what.bytes / size_of(what.dtype)}, {}};
  }

  Contender prepare_algorithm(const Case& what, int64_t count, const std::string& name) {
    Contender result{{.bytes = what.bytes, .count = count, .dtype = what.dtype, .op = what.op, .algorithm = name}};
    group_.set_algorithm(name);
    result.row.runs = group_.all_reduce_algorithm(what.bytes, what.dtype);
    result.row.expected_s = cost_of(result.row.runs, what.dtype).at(what.bytes);
    const TensorView in = view(in_, what), out = view(out_, what);
    std::memset(out_.data(), 0x7f, static_cast<size_t>(what.bytes));
    group_.all_reduce(in, out, what.op, stream_);
    if (options_.check) check(result.row, what, out);

    const auto apart = [this, in, out, op = what.op] { group_.all_reduce(in, out, op, stream_); };
    const auto in_place = [this, out, op = what.op] { group_.all_reduce(out, out, op, stream_); };
    const std::function<void()> call = options_.in_place ? std::function<void()>(in_place) : apart;
    // In place, sums grow with every call; they start from the input again before they overflow.
    const auto refill = [this, in, out] { std::memcpy(out.data, in.data, static_cast<size_t>(in.bytes())); };
    const std::function<void()> before = options_.in_place ? std::function<void()>(refill) : nullptr;
    const int calls =
        options_.num_calls > 0 ? options_.num_calls : calls_per_batch(estimate_call(group_, stream_, call));
    result.run = [this, name, calls, call, before](int batches) {
      group_.set_algorithm(name);
      for (int i = 0; i < calls / 4 + 1; ++i) call();
      return time_batches(group_, stream_, calls, batches, call, before);
    };
    return result;
  }

  void check(AllReduceRow& row, const Case& what, const TensorView& out) {
    const Verdict verdict = compare_results(
        group_, stream_, count_wrong(what.dtype, what.op, group_.size(), out.data, out.count(), Rounding::kOnce),
        fingerprint(out.data, out.bytes()));
    row.num_wrong = verdict.num_wrong;
    row.same_bits = verdict.same_bits;
  }

  // Twenty times what it should be: a loaded machine may need that, but there is an end.
  static milliseconds limit_for(double seconds) { return milliseconds(static_cast<int64_t>(seconds * 20e3)); }

  Contender prepare_peer(const Case& what, int64_t count, size_t index) {
    Peer& peer = *peers_[index];
    Contender result{{.bytes = what.bytes,
                      .count = count,
                      .dtype = what.dtype,
                      .op = what.op,
                      .algorithm = peer.library().empty() ? options_.peers[index].name : peer.library(),
                      .is_peer = true,
                      .why_not = peer.why_not()},
                     &peer};
    if (!result.row.why_not.empty()) return result;
    const std::string command =
        fmt::format("all_reduce {} {} {}", what.bytes, lane::name_of(what.dtype), net::name_of(what.op));
    const double checking_s = static_cast<double>(count) * group_.size() * 20e-9;
    const PeerTimes first = peer.run(command + " 3 3", limit_for(checking_s));
    result.row.why_not = first.why_not;
    if (!first.why_not.empty()) return result;
    result.row.num_wrong = first.num_wrong;
    const double estimate_s = *std::min_element(first.us.begin(), first.us.end()) * 1e-6;
    const int calls = options_.num_calls > 0 ? options_.num_calls : calls_per_batch(estimate_s);
    result.run = [&peer, command, calls, estimate_s, checking_s](int batches) {
      std::vector<double> seconds = peer.run(fmt::format("{} {} {}", command, calls, batches),
                                             limit_for(checking_s + estimate_s * calls * (batches + 1)))
                                        .us;
      for (double& each : seconds) each *= 1e-6;
      return seconds;
    };
    return result;
  }

  // The floor: half of what a message takes there and back. A broadcast between two ranks is one message.
  Contender prepare_ping_pong(const Case& what) {
    Contender result{{.bytes = what.bytes, .algorithm = "ping-pong", .is_ping_pong = true}};
    result.row.dtype = DType::kU8;
    result.row.count = what.bytes;
    const bool takes_part = pair_.size() == 2;
    const auto there_and_back = [this, bytes = what.bytes, takes_part] {
      if (!takes_part) return;
      const TensorView data{out_.data(), DType::kU8, {1, 1, 1, bytes}, {}};
      pair_.broadcast(data, 0, stream_);
      pair_.broadcast(data, 1, stream_);
    };
    const int calls = calls_per_batch(estimate_call(group_, stream_, there_and_back));
    result.run = [this, calls, there_and_back](int batches) {
      for (int i = 0; i < calls / 4 + 1; ++i) there_and_back();
      std::vector<double> seconds = time_batches(group_, stream_, calls, batches, there_and_back);
      for (double& each : seconds) each /= 2;
      return seconds;
    };
    return result;
  }

  AllReduceRow finish(Contender& contender) {
    AllReduceRow& row = contender.row;
    if (!row.why_not.empty()) return row;
    row.time = measure(contender.seconds);
    row.algbw = static_cast<double>(row.bytes) / row.time.median_s;
    row.busbw = row.is_ping_pong ? row.algbw : row.algbw * 2 * (group_.size() - 1) / group_.size();
    return row;
  }

  const plan::Cost& cost_of(const std::string& name, DType dtype) {
    const int partial_scale = size_of(dtype) == 2 ? 2 : 1;
    const auto [at, is_new] = costs_.try_emplace({name, partial_scale});
    if (is_new)
      at->second = plan::cost(plan::make_schedule(name, plan::Collective::kAllReduce, group_.fabric().layout),
                              plan::Collective::kAllReduce, group_.fabric(), partial_scale);
    return at->second;
  }

  Communicator& group_;
  const AllReduceOptions& options_;
  Communicator pair_;
  bool has_floor_ = true;
  Stream stream_;
  Buffer in_, out_;
  std::vector<std::string> algorithms_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<std::pair<std::string, int>, plan::Cost> costs_;
};

void add_gpu_fields(Json& json, const AllReduceRow& row) {
  json["mode"] = row.mode;
  json["setting"] = row.setting;
  if (row.is_peer) json["library"] = row.runs;
  if (row.hidden > 0) json["hidden"] = row.hidden, json["num_tokens"] = row.num_tokens;
  if (row.alone.num_samples > 0) json["time_alone"] = to_json(row.alone);
  if (row.base_s > 0) json["base_s"] = row.base_s;
}

}  // namespace

Json to_json(const AllReduceRow& row) {
  Json json{{"bytes", row.bytes},
            {"count", row.count},
            {"type", lane::name_of(row.dtype)},
            {"redop", net::name_of(row.op)},
            {"kind", row.is_peer        ? "peer"
                     : row.is_ping_pong ? "ping_pong"
                     : row.is_floor     ? "floor"
                                        : "lane"},
            {"algorithm", row.algorithm}};
  if (!row.mode.empty()) add_gpu_fields(json, row);
  if (!row.why_not.empty()) {
    json["error"] = row.why_not;
    return json;
  }
  json["time"] = to_json(row.time);
  json["algbw_bytes_per_s"] = row.algbw;
  json["busbw_bytes_per_s"] = row.busbw;
  if (row.of_auto > 0) json["time_over_auto"] = row.of_auto;
  if (row.num_wrong >= 0) json["num_wrong"] = row.num_wrong;
  if (row.is_ping_pong || row.is_floor) return json;
  if (!row.is_peer || !row.mode.empty()) json["same_bits"] = row.same_bits;
  if (row.is_peer) return json;
  json["runs"] = row.runs;
  if (row.expected_s > 0) json["expected_s"] = row.expected_s;
  return json;
}

void bench_all_reduce(Communicator& group, const AllReduceOptions& options,
                      const std::function<void(const std::vector<AllReduceRow>&)>& on_rows,
                      const std::function<void(int64_t done, int64_t total)>& on_step) {
  Bench bench(group, options);
  const auto total = static_cast<int64_t>(options.dtypes.size() * options.ops.size() * options.sizes.size());
  int64_t done = 0;
  for (const DType dtype : options.dtypes)
    for (const ReduceOp op : options.ops)
      for (const int64_t bytes : options.sizes) {
        if (bytes < size_of(dtype)) continue;
        on_step(done, total);
        on_rows(bench.measure_case({bytes / size_of(dtype) * size_of(dtype), dtype, op}));
        on_step(++done, total);
      }
}

}  // namespace lane::net
