#include "cli/group_job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/base/units.h"
#include "lane/comm/launch.h"
#include "lane/net/timing.h"
#include "lane/net/vectors.h"

namespace lane::cli {
namespace {

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

[[noreturn]] void refuse_sizes(const std::string& text, const std::string& why) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--sizes {}: {}; give sizes such as 8,1K,64M or a range such as 8:64M:2", text, why));
}

}  // namespace

void add_list(CLI::App& app, const std::string& name, std::vector<std::string>& into, const std::string& help) {
  app.add_option_function<std::string>(
      name, [&into](const std::string& text) { into = parts_of(text, ','); },
      help + (into.empty() ? "" : fmt::format(" [{}]", fmt::join(into, ","))));
}

void GroupFlags::add_to(CLI::App& app) {
  app.add_option("--ranks", num_ranks, "Ranks to start on this host; under a launcher leave it out [2]")
      ->check(CLI::Range(2, 4096));
  app.add_option("--sizes", sizes, "Sizes of the vector in bytes: 8,1K,64M, or 8:64M:2 (from, to, times)")
      ->capture_default_str();
  add_list(app, "--dtype", dtypes, "Types of its elements: float32, bfloat16, float16, int32");
  app.add_flag("--no-progress", no_progress, "No progress bar");
}

std::vector<int64_t> GroupFlags::size_list() const {
  std::vector<int64_t> list;
  const std::vector<std::string> range = parts_of(sizes, ':');
  if (range.size() > 1) {
    if (range.size() > 3) refuse_sizes(sizes, "a range has a first size, a last size and a factor");
    const int64_t from = parse_bytes(range[0], "--sizes"), to = parse_bytes(range[1], "--sizes");
    char* end = nullptr;
    const double factor = range.size() == 3 ? std::strtod(range[2].c_str(), &end) : 2;
    if (end != nullptr && (*end != '\0' || !(factor >= 1.01 && factor <= 1e6)))
      refuse_sizes(sizes, "the factor is to be a number above 1");
    if (from < 1 || to < from) refuse_sizes(sizes, "the last size is to be at least the first, and that at least 1");
    for (double size = static_cast<double>(from); size <= static_cast<double>(to) * 1.000001; size *= factor)
      list.push_back(static_cast<int64_t>(size));
  } else {
    for (const std::string& each : parts_of(sizes, ',')) list.push_back(parse_bytes(each, "--sizes"));
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  if (list.empty()) refuse_sizes(sizes, "there is no size");
  if (list.front() < 1 || list.back() > int64_t{1} << 34) refuse_sizes(sizes, "sizes are from 1 to 16G");
  return list;
}

std::vector<DType> GroupFlags::dtype_list() const {
  std::vector<DType> list;
  for (const std::string& name : dtypes) {
    try {
      list.push_back(net::summable_from_name(name));
    } catch (const Error& error) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--dtype {}: {}", name, error.what()));
    }
  }
  return list;
}

int run_on_ranks(const GroupFlags& flags, const Program& program,
                 const std::function<int(Communicator& group, bool own_core)>& body) {
  const std::optional<LaunchedRank> launched = launched_rank();
  if (!launched) return run_local_ranks(flags.num_ranks == 0 ? 2 : flags.num_ranks, program.arguments);
  if (flags.num_ranks != 0 && flags.num_ranks != launched->size)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--ranks {}, but {} started {} ranks; leave the flag out or start as many", flags.num_ranks,
                            launched->launcher, launched->size));
  set_log_prefix(fmt::format("[rank {}/{}] ", launched->rank, launched->size));
  const bool own_core = flags.own_cores && net::take_own_core(launched->local_rank, launched->local_size);
  Communicator group = Communicator::join(join_options(*launched));
  try {
    return body(group, own_core);
  } catch (const std::exception& error) {
    group.abort(error.what());
    throw;
  }
}

}  // namespace lane::cli
