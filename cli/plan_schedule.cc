#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "cli/commands.h"
#include "cli/fabric_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/units.h"
#include "lane/plan/cost.h"
#include "lane/plan/draw.h"
#include "lane/plan/verify.h"

namespace lane::cli {
namespace {

using plan::Collective;
using plan::Schedule;

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};
constexpr int kMaxRanks = 1024, kMaxRanksAllToAll = 128, kMaxDrawnMessages = 20'000;

struct Flags {
  std::string collective = "all_reduce", algorithm, bytes = "128K", dtype = "bfloat16", svg;
  int root = 0;
  FabricFlags fabric;
  bool list = false, json = false;
};

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kInvalidArgument, what); }

// A request with everything parsed.
struct Query {
  Collective collective;
  plan::Fabric fabric;
  int64_t bytes;
  double partial_scale;
  int root;

  plan::Cost cost(const Schedule& schedule) const { return plan::cost(schedule, collective, fabric, partial_scale); }
  Schedule make(const std::string& name) const { return plan::make_schedule(name, collective, fabric.layout, root); }
};

Query parse(const Flags& flags) {
  Query query{.collective = {}, .fabric = {}, .bytes = 0, .partial_scale = 1, .root = flags.root};
  const auto named = std::find_if(std::begin(kCollectives), std::end(kCollectives),
                                  [&](Collective known) { return name_of(known) == flags.collective; });
  ensure(named != std::end(kCollectives), "the parser let only known collectives pass");
  query.collective = *named;
  const int most = query.collective == Collective::kAllToAll ? kMaxRanksAllToAll : kMaxRanks;
  query.fabric = flags.fabric.finish(most, "--collective " + flags.collective);
  query.bytes = parse_bytes(flags.bytes, "--bytes");
  query.partial_scale = flags.dtype == "float32" ? 1 : 2;
  if (flags.root < 0 || flags.root >= query.fabric.layout.num_ranks())
    refuse(fmt::format("--root {}: there are ranks 0 to {}", flags.root, query.fabric.layout.num_ranks() - 1));

  return query;
}

std::string bytes_or_dash(double bytes) { return bytes > 0 ? format_bytes(bytes) : "-"; }

int print_list(const Query& query, bool json) {
  struct Row {
    std::string name;
    int num_rounds;
    double expected_s;
  };
  std::vector<Row> rows;
  for (const std::string& name : plan::schedule_names(query.collective, query.fabric.layout)) {
    const Schedule schedule = query.make(name);
    rows.push_back({name, schedule.num_rounds(), query.cost(schedule).at(query.bytes)});
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.expected_s < b.expected_s; });
  if (json) {
    Json all = Json::array();
    for (const Row& row : rows)
      all.push_back({{"algorithm", row.name}, {"num_rounds", row.num_rounds}, {"expected_s", row.expected_s}});
    fmt::print("{}\n", all.dump(2));
    return kExitOk;
  }
  fmt::print("{} of {}, {}: {}\n\n{:<44} {:>7} {:>12}\n", name_of(query.collective),
             format_bytes(static_cast<double>(query.bytes)), words_for(query.fabric.layout),
             words_for_links(query.fabric), "algorithm", "rounds", "expected");
  for (const Row& row : rows)
    fmt::print("{:<44} {:>7} {:>12}\n", row.name, row.num_rounds, format_duration(row.expected_s));
  return kExitOk;
}

std::string cheapest_name(const Query& query) {
  std::vector<plan::Candidate> candidates;
  for (const std::string& name : plan::schedule_names(query.collective, query.fabric.layout))
    candidates.push_back({name, query.cost(query.make(name))});
  return candidates[plan::cheapest(candidates, query.bytes)].name;
}

void write_drawing(const Query& query, const Schedule& schedule, const std::vector<plan::Traffic>& rounds,
                   const plan::Cost& cost, const std::string& path) {
  plan::DrawingText text;
  int num_messages = 0;
  for (int round = 0; round < static_cast<int>(rounds.size()); ++round) {
    num_messages += rounds[round].num_local + rounds[round].num_remote;
    text.captions.push_back(format_duration(cost.of_round(round, query.bytes)));
  }
  if (num_messages > kMaxDrawnMessages)
    refuse(
        fmt::format("--svg {}: {} messages cannot be told apart in a drawing; choose fewer ranks", path, num_messages));
  const double size = static_cast<double>(query.bytes);
  text.title = fmt::format("{}: {}", name_of(query.collective), schedule.name);
  text.subtitle = fmt::format("{} · {} · {} · {} · expected {}", words_for(query.fabric.layout), format_bytes(size),
                              plural(static_cast<int>(rounds.size()), "round"), plural(num_messages, "message"),
                              format_duration(cost.at(query.bytes)));
  const int chunks_of_vector = query.collective == Collective::kAllToAll ? schedule.num_ranks() : schedule.num_chunks;
  text.chunk_size = format_bytes(size / chunks_of_vector);
  write_file(path, plan::draw(schedule, query.fabric.layout, text));
}

int run(const Flags& flags) {
  const Query query = parse(flags);
  if (flags.list) {
    if (!flags.svg.empty())
      refuse("--svg " + flags.svg + ": a list is not drawn; leave out --list and name an --algorithm");
    return print_list(query, flags.json);
  }
  const bool chosen = flags.algorithm.empty() || flags.algorithm == "auto";
  const Schedule schedule = query.make(chosen ? cheapest_name(query) : flags.algorithm);
  const std::string flaw = plan::verify(schedule, query.collective, query.fabric.layout, query.root);
  ensure(flaw.empty(), "schedule " + schedule.name + ": " + flaw);
  const plan::Cost cost = query.cost(schedule);
  const auto rounds = plan::traffic(schedule, query.collective, query.fabric, query.partial_scale);
  const double size = static_cast<double>(query.bytes);
  if (!flags.svg.empty()) write_drawing(query, schedule, rounds, cost, flags.svg);

  plan::Traffic total;
  Json rows = Json::array();
  for (int round = 0; round < static_cast<int>(rounds.size()); ++round) {
    const plan::Traffic& one = rounds[round];
    total.num_local += one.num_local;
    total.num_remote += one.num_remote;
    total.local_share += one.local_share;
    total.remote_share += one.remote_share;
    rows.push_back({{"local_messages", one.num_local},
                    {"remote_messages", one.num_remote},
                    {"busiest_local_port_bytes", one.local_share * size},
                    {"busiest_remote_port_bytes", one.remote_share * size},
                    {"expected_s", cost.of_round(round, query.bytes)}});
  }
  if (flags.json) {
    const Json all{{"algorithm", schedule.name},
                   {"collective", name_of(query.collective)},
                   {"node_of_rank", query.fabric.layout.node_of},
                   {"bytes", query.bytes},
                   {"num_chunks", schedule.num_chunks},
                   {"rounds", rows},
                   {"expected_s", cost.at(query.bytes)}};
    fmt::print("{}\n", all.dump(2));
    return kExitOk;
  }
  fmt::print("{}{}: {} of {} in {}, {}\n{}\n\n", schedule.name, chosen ? " (the cheapest)" : "",
             name_of(query.collective), format_bytes(size), plural(schedule.num_chunks, "chunk"),
             words_for(query.fabric.layout), words_for_links(query.fabric));
  const auto print_row = [](const std::string& head, const plan::Traffic& row, double scale, double seconds) {
    fmt::print("{:<6} {:>9} {:>9}   {:>12} {:>12}   {:>10}\n", head, row.num_local, row.num_remote,
               bytes_or_dash(row.local_share * scale), bytes_or_dash(row.remote_share * scale),
               format_duration(seconds));
  };
  fmt::print("{:<6} {:>19}   {:>25}   {:>10}\n", "", "messages", "bytes on busiest port", "");
  fmt::print("{:<6} {:>9} {:>9}   {:>12} {:>12}   {:>10}\n", "round", "in nodes", "between", "of a rank", "of a node",
             "expected");
  for (int round = 0; round < static_cast<int>(rounds.size()); ++round)
    print_row(std::to_string(round + 1), rounds[round], size, cost.of_round(round, query.bytes));
  print_row("total", total, size, cost.at(query.bytes));
  if (!flags.svg.empty()) fmt::print("\ndrawn in {}\n", flags.svg);
  return kExitOk;
}

}  // namespace

void add_plan_schedule(CLI::App& plan, Program& program) {
  CLI::App* command = plan.add_subcommand("schedule", "A collective algorithm: its rounds, messages, bytes and time");
  auto flags = std::make_shared<Flags>();
  std::vector<std::string> collectives;
  for (const Collective collective : kCollectives) collectives.emplace_back(name_of(collective));
  command->add_option("--algorithm,-a", flags->algorithm,
                      "Its name (see --list); auto: the one of least expected time");
  command->add_option("--collective", flags->collective, "What it does")
      ->check(CLI::IsMember(collectives))
      ->capture_default_str();
  command->add_option("--root", flags->root, "Root of a broadcast or gather")->capture_default_str();
  command->add_option("--bytes", flags->bytes, "Size of the vector")->capture_default_str();
  command->add_option("--dtype", flags->dtype, "Of its elements; partial sums of 16-bit ones travel as float32")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32"}))
      ->capture_default_str();
  flags->fabric.add_to(*command);
  command->add_option("--svg", flags->svg, "Draw it into this file");
  command->add_flag("--list", flags->list, "All algorithms for this layout, with their rounds and expected times");
  command->add_flag("--json", flags->json, "One JSON document");
  command->footer(
      "Example: lane plan schedule --algorithm hier:two_shot/recursive_doubling --nodes 4 --ranks-per-node 2 --svg "
      "a.svg");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
