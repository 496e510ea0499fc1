#include "lane/net/device_bench.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/device/cuda/native.cuh"
#include "lane/net/agreement.h"
#include "lane/net/cuda/candidates.h"
#include "lane/net/cuda/fillers.h"
#include "lane/net/cuda/graph_timer.h"

namespace lane::net {
namespace {

using namespace cuda;

constexpr int kRounds = 5;          // in which the candidates take turns
constexpr int kUncounted = 2;       // replays at the beginning of each turn
constexpr double kMostSeconds = 3;  // that calls of one candidate in one setting take, or so; then fewer samples
constexpr int kLeastBatches = 10, kLeastAlone = 40;
constexpr int64_t kSkewOfAlone = 1000;  // calls that are alone have delays of their own

double median_of(std::vector<double> samples) { return measure(std::move(samples)).median_s; }

// Graphs of one candidate in one setting, and what was measured with them: seconds of whole replays, this rank's.
struct Graphs {
  std::vector<TimedGraph> many, alone;  // one of many calls; of one call on each set of buffers
  std::vector<double> many_s, alone_s;  // sample i of alone is of graph i % kSets

  static std::vector<TimedGraph*> pointers(std::vector<TimedGraph>& graphs) {
    std::vector<TimedGraph*> all;
    for (TimedGraph& graph : graphs) all.push_back(&graph);
    return all;
  }
};

struct Contender {
  Candidate candidate;
  AllReduceRow row = {};
  std::vector<Graphs> graphs = {};     // by setting
  std::vector<double> eager_s = {};    // per call, this rank's
  int num_batches = 0, num_alone = 0;  // of all rounds
};

class DeviceBench {
 public:
  DeviceBench(Communicator& group, const DeviceBenchOptions& options)
      : group_(group),
        options_(options),
        device_{DeviceKind::kCuda, use(local_device(group))},
        stream_(device_),
        candidates_(group, options, device_, stream_),
        fillers_(group, options, device_, stream_) {}

  DeviceMachine machine() {
    DeviceMachine machine{.driver = describe_driver(), .peers = candidates_.peer_libraries()};
    const Json gpus = group_.gather_text(describe_gpu(device_.index), 0);
    machine.gpus = parse_json(group_.broadcast_text(gpus.dump(), 0), "").get<std::vector<std::string>>();
    machine.fabric = candidates_.lane_why_not().empty() ? group_.device_fabric() : candidates_.lane_why_not();
    return machine;
  }

  std::vector<AllReduceRow> measure_case(const Case& what) {
    what_ = what;
    data_.emplace(what, group_.rank(), group_.size(), device_, stream_);
    for (const Arena* arena : candidates_.arenas()) data_->load(*arena);
    std::vector<Contender> contenders;
    for (Candidate& candidate : candidates_.of(what, *data_)) contenders.push_back(prepare(std::move(candidate)));
    std::vector<Graphs> bases = record_bases();
    for (int round = 0; round < kRounds; ++round) {
      for (size_t setting = 0; options_.graph && setting < fillers_.settings().size(); ++setting) {
        if (setting > 0) take_turn(bases[setting], 2 * kRounds, 2 * kSets);
        for (Contender& contender : contenders) take_turn(contender, setting, round);
      }
      for (Contender& contender : contenders)
        if (options_.eager) take_eager_turn(contender, round);
    }
    for (Contender& contender : contenders) check(contender);  // after all that happened, once more
    return finish(contenders, bases);
  }

 private:
  static int use(int device_index) {
    lane::cuda::check(cudaSetDevice(device_index), "choosing the device");
    return device_index;
  }

  // A step that may fail on some ranks: then the candidate is given up on all.
  template <class Step>
  void attempt(Contender& contender, const Step& step) {
    if (!contender.candidate.why_not.empty()) return;
    std::string failure;
    try {
      step();
    } catch (const Error& error) {
      failure = error.what();
    }
    contender.candidate.why_not = first_said(group_, failure);
  }

  Contender prepare(Candidate candidate) {
    Contender result{.candidate = std::move(candidate)};
    Candidate& it = result.candidate;
    result.row = {.bytes = what_.bytes,
                  .count = what_.count(),
                  .dtype = what_.dtype,
                  .op = what_.op,
                  .algorithm = it.name,
                  .runs = it.runs,
                  .is_peer = it.is_peer};
    result.row.is_floor = it.is_floor;
    result.row.hidden = what_.fused.hidden, result.row.num_tokens = what_.fused.num_tokens;
    check(result);
    attempt(result, [&] {
      if (it.prepare) it.prepare();
      for (const std::string& setting : fillers_.settings())
        if (options_.graph) result.graphs.push_back(record(setting, it.call));
    });
    if (options_.graph && it.captured) attempt(result, it.captured);
    if (it.why_not.empty()) choose_counts(result);
    return result;
  }

  // `call` may be null: then only what goes on between calls is recorded, as what is subtracted.
  Graphs record(const std::string& setting, const std::function<void(int set)>& call) {
    Graphs graphs;
    const auto step = [&](int64_t number, int set) {
      fillers_.enqueue(setting, number, !call);
      if (call) call(set);
    };
    graphs.many.emplace_back(
        stream_, gate_, [&] { step(0, kSets - 1); },
        [&] {
          for (int i = 0; i < options_.calls_per_graph; ++i) step(i + 1, i % kSets);
        });
    for (int set = 0; set < kSets; ++set)
      graphs.alone.emplace_back(
          stream_, gate_, [&] { step(kSkewOfAlone, (set + kSets - 1) % kSets); },
          [&] { step(kSkewOfAlone + 1 + set, set); });
    return graphs;
  }

  std::vector<Graphs> record_bases() {
    std::vector<Graphs> bases;
    for (const std::string& setting : fillers_.settings())
      bases.push_back(setting.empty() || !options_.graph ? Graphs{} : record(setting, nullptr));
    return bases;
  }

  // One call on each set after the results were made unrecognizable: right everywhere, and the same bits on all ranks?
  void check(Contender& contender) {
    Candidate& it = contender.candidate;
    if (!options_.check || it.is_floor) return;
    const auto calls = [&] {
      for (int set = 0; set < kSets; ++set) it.call(set);
    };
    std::optional<PlainGraph> graph;
    attempt(contender, [&] {
      data_->poison(*it.arena);
      if (it.prepare) it.prepare();
      if (options_.graph) graph.emplace(stream_, calls);
    });
    if (options_.graph && it.captured) attempt(contender, it.captured);
    attempt(contender, [&] { graph ? graph->run() : calls(); });
    attempt(contender, [&] {
      stream_.synchronize();
      if (it.settle) it.settle();
    });
    if (!it.why_not.empty()) return;
    const CaseData::Seen seen = data_->look(*it.arena, it.rounding);
    const Verdict verdict = compare_results(group_, host_, seen.num_wrong, seen.bits);
    contender.row.num_wrong = std::max(contender.row.num_wrong, verdict.num_wrong);
    contender.row.same_bits = contender.row.same_bits && verdict.same_bits;
  }

  // As many samples as the options ask for, fewer of what takes long.
  void choose_counts(Contender& contender) {
    const int calls = options_.calls_per_graph;
    std::vector<double> seconds =
        options_.graph ? replay(contender.graphs[0].many, 1) : eager(contender.candidate, calls, 1);
    take_slowest(group_, host_, seconds);
    const double per_call = std::max(*std::min_element(seconds.begin(), seconds.end()) / calls, 1e-9);
    const int most = static_cast<int>(std::min(kMostSeconds / per_call, 1e9));
    const int batches = (options_.num_samples + calls - 1) / calls;
    contender.num_batches = std::min(batches, std::max(most / calls, kLeastBatches));
    contender.num_alone = std::min(options_.num_samples, std::max(most, kLeastAlone));
  }

  std::vector<double> replay(std::vector<TimedGraph>& graphs, int count) {
    const std::vector<TimedGraph*> pointers = Graphs::pointers(graphs);
    time_replays(group_, host_, gate_, stream_, pointers, kUncounted);
    return time_replays(group_, host_, gate_, stream_, pointers, count);
  }

  std::vector<double> eager(const Candidate& candidate, int calls, int count) {
    if (candidate.prepare) candidate.prepare();
    const auto work = [&] {
      for (int i = 0; i < calls; ++i) candidate.call(i % kSets);
    };
    time_eager(group_, host_, stream_, work, kUncounted);
    return time_eager(group_, host_, stream_, work, count);
  }

  void take_turn(Graphs& graphs, int batches, int alone) {
    const auto add = [](std::vector<double>& to, const std::vector<double>& more) {
      to.insert(to.end(), more.begin(), more.end());
    };
    add(graphs.many_s, replay(graphs.many, batches));
    // Whole rounds over the sets, so that sample i stays one of graph i % kSets.
    add(graphs.alone_s, replay(graphs.alone, (alone + kSets - 1) / kSets * kSets));
  }

  static int share(int count, int round) { return count * (round + 1) / kRounds - count * round / kRounds; }

  void take_turn(Contender& contender, size_t setting, int round) {
    if (!contender.candidate.why_not.empty()) return;
    data_->restore_residuals(*contender.candidate.arena);  // before they grow out of their type
    take_turn(contender.graphs[setting], share(contender.num_batches, round), share(contender.num_alone, round));
    if (contender.candidate.settle) contender.candidate.settle();
  }

  void take_eager_turn(Contender& contender, int round) {
    if (!contender.candidate.why_not.empty()) return;
    data_->restore_residuals(*contender.candidate.arena);
    for (const double seconds :
         eager(contender.candidate, options_.calls_per_graph, share(contender.num_batches, round)))
      contender.eager_s.push_back(seconds / options_.calls_per_graph);
    if (contender.candidate.settle) contender.candidate.settle();
  }

  // Per call: what the all-reduces add on the slowest rank to the same graph without them.
  std::vector<double> differences(const std::vector<double>& seconds, const std::vector<double>& base, size_t graphs,
                                  int calls) {
    std::vector<double> medians(graphs, 0.0);
    for (size_t graph = 0; !base.empty() && graph < graphs; ++graph) {
      std::vector<double> own;
      for (size_t i = graph; i < base.size(); i += graphs) own.push_back(base[i]);
      medians[graph] = median_of(std::move(own));
    }
    std::vector<double> result;
    for (size_t i = 0; i < seconds.size(); ++i) result.push_back((seconds[i] - medians[i % graphs]) / calls);
    take_slowest(group_, host_, result);
    return result;
  }

  AllReduceRow finish_row(const Contender& contender, const std::string& mode, const std::string& setting) const {
    AllReduceRow row = contender.row;
    row.mode = mode, row.setting = setting, row.why_not = contender.candidate.why_not;
    return row;
  }

  void set_time(AllReduceRow& row, const std::vector<double>& seconds) const {
    row.time = measure(seconds);
    if (row.is_floor || row.time.median_s <= 0) return;
    row.algbw = static_cast<double>(row.bytes) / row.time.median_s;
    row.busbw = row.algbw * 2 * (group_.size() - 1) / group_.size();
  }

  std::vector<AllReduceRow> finish(std::vector<Contender>& contenders, const std::vector<Graphs>& bases) {
    std::vector<AllReduceRow> rows;
    const int calls = options_.calls_per_graph;
    const auto add = [&](size_t first) {
      double auto_s = 0;
      for (size_t i = first; i < rows.size(); ++i)
        if (!rows[i].is_peer && rows[i].algorithm == "auto") auto_s = rows[i].time.median_s;
      for (size_t i = first; i < rows.size(); ++i)
        if (auto_s > 0 && rows[i].why_not.empty()) rows[i].of_auto = rows[i].time.median_s / auto_s;
    };
    for (size_t setting = 0; options_.graph && setting < bases.size(); ++setting) {
      const size_t first = rows.size();
      std::vector<double> base_s = {bases[setting].many_s.empty() ? 0 : median_of(bases[setting].many_s) / calls};
      take_slowest(group_, host_, base_s);
      for (Contender& contender : contenders) {
        AllReduceRow& row = rows.emplace_back(finish_row(contender, "graph", fillers_.settings()[setting]));
        if (row.is_floor && row.setting == "skew") row.why_not = "it waits for nobody, so skew says nothing";
        if (!row.why_not.empty()) continue;
        const Graphs& graphs = contender.graphs[setting];
        set_time(row, differences(graphs.many_s, bases[setting].many_s, 1, calls));
        row.alone = measure(differences(graphs.alone_s, bases[setting].alone_s, kSets, 1));
        row.base_s = base_s[0];
      }
      add(first);
    }
    const size_t first = rows.size();
    for (Contender& contender : contenders) {
      if (!options_.eager) break;
      AllReduceRow& row = rows.emplace_back(finish_row(contender, "eager", ""));
      if (!row.why_not.empty()) continue;
      take_slowest(group_, host_, contender.eager_s);
      set_time(row, contender.eager_s);
    }
    add(first);
    return rows;
  }

  Communicator& group_;
  const DeviceBenchOptions& options_;
  Device device_;
  Stream host_;
  Stream stream_;
  StartGate gate_;
  Candidates candidates_;
  Fillers fillers_;
  Case what_;
  std::optional<CaseData> data_;
};

std::vector<Case> cases_of(const DeviceBenchOptions& options) {
  std::vector<Case> cases;
  for (const DType dtype : options.dtypes) {
    for (const ReduceOp op : options.ops)
      for (const int64_t bytes : options.sizes)
        if (bytes >= size_of(dtype)) cases.push_back({bytes / size_of(dtype) * size_of(dtype), dtype, op});
    for (const FusedShape& shape : options.fused)
      cases.push_back({shape.hidden * shape.num_tokens * size_of(dtype), dtype, ReduceOp::kSum, shape});
  }
  return cases;
}

}  // namespace

void bench_device_all_reduce(Communicator& group, const DeviceBenchOptions& options,
                             const std::function<void(const DeviceMachine&)>& on_machine,
                             const std::function<void(const std::vector<AllReduceRow>&)>& on_rows,
                             const std::function<void(int64_t done, int64_t total)>& on_step) {
  check_options(options);
  if (group.size() < 2)
    throw Error(ErrorCode::kInvalidArgument, "an all-reduce needs two ranks; add --ranks 2 or use a launcher");
  DeviceBench bench(group, options);
  on_machine(bench.machine());
  const std::vector<Case> cases = cases_of(options);
  for (size_t i = 0; i < cases.size(); ++i) {
    on_step(static_cast<int64_t>(i), static_cast<int64_t>(cases.size()));
    on_rows(bench.measure_case(cases[i]));
  }
  on_step(static_cast<int64_t>(cases.size()), static_cast<int64_t>(cases.size()));
}

}  // namespace lane::net
