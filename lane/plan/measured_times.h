#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/plan/estimate.h"

namespace lane::plan {

// Times of one collective over sizes, as somebody measured them.
struct MeasuredCurve {
  std::string library, version;  // "nccl", "2.29.2"
  std::string gpu;               // "H100": see gpu_kind()
  int num_ranks = 0;
  bool nvlink = true;                              // between the ranks
  std::vector<std::pair<int64_t, double>> points;  // bytes and seconds, ascending
  // Where the library turns to another protocol, ascending: the first size of each next one. NCCL's, from its own
  // model.
  std::vector<int64_t> switches = {};

  // Between two sizes a straight line: latency + bytes / rate, with a pair of its own between any two neighbours, which
  // is what one protocol does. Where there is a switch between them the time may jump: on either side of it the line of
  // the two nearest sizes on that side goes on, as far as it stays between the two. Beyond the ends: below, the first
  // time; above, at the last rate.
  double at(int64_t bytes) const;
  bool covers(int64_t bytes) const { return bytes >= points.front().first && bytes <= points.back().first; }
  bool has(int64_t bytes) const;
};

// Rows of "library,version,gpu,link,ranks,<bytes>,<bytes>,..." with microseconds, empty where there is none; lines that
// start with # say where they come from. Throws Error{kCorruptData} with the line's number.
std::vector<MeasuredCurve> parse_curves(std::string_view csv, const std::string& where);

// The tables that are compiled in (lane/plan/data/*.csv name their sources): all-reduce inside a node by GPU, and
// messages between two hosts by fabric.
const std::vector<MeasuredCurve>& all_reduce_curves();
const std::vector<MeasuredCurve>& slingshot_curves();

// Which GPU of the tables a name of the driver's or of a datasheet means: "NVIDIA H100 80GB HBM3" is "H100". Empty:
// none of them. GH200 is a Hopper, but no table has it.
std::string gpu_kind(std::string_view name);

// The curve for exactly this; of several versions the one measured by Lane's own benchmark, else the last.
const MeasuredCurve* find_curve(std::string_view library, std::string_view gpu, int num_ranks, int64_t bytes);

// How far an estimate is off, as a share of the measured time: the errors of validate_sizes() and validate_ranks() at
// their 90th percentile, over all tables with NVLink. The basis of intervals.
struct MeasuredErrors {
  double repeat = 0;  // two machines, two versions of NCCL, the same size
  double in_size = 0;
  double in_ranks = 0;
};
const MeasuredErrors& measured_errors();

// An all-reduce of `library` on `gpu`. Measured at a size of the table, interpolated between sizes, and between numbers
// of ranks (log-log in n) where the tables have a smaller and a larger one; none without NVLink for the latter: a host
// bridge's rate does not follow n. Nothing: the tables do not say.
std::optional<Estimate> measured_all_reduce(std::string_view library, std::string_view gpu, int num_ranks,
                                            int64_t bytes);

// Validation by leaving out what is to be predicted; errors are |predicted / measured - 1|.
struct Error90 {
  double mean = 0, p90 = 0, worst = 0;
  int count = 0;
};
Error90 summary(std::vector<double> errors);
std::vector<double> validate_sizes(const MeasuredCurve& curve, const std::vector<int64_t>& sizes = {});  // empty: all
std::vector<double> validate_ranks(const MeasuredCurve& fewer, const MeasuredCurve& between, const MeasuredCurve& more);
double between_ranks(double fewer_s, int fewer, double more_s, int more, int num_ranks);

}  // namespace lane::plan
