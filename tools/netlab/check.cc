#include "tools/netlab/check.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "tools/netlab/client.h"
#include "tools/netlab/probe.h"

namespace lane::netlab {
namespace {

std::string own_path() {
  std::array<char, 4096> path{};
  if (::readlink("/proc/self/exe", path.data(), path.size() - 1) < 0) throw_system_error("finding our own program");
  return path.data();
}

Json pair(const Topology& topology, int to) {
  const PathSettings asked = path(topology, 0, to);
  const Host& target = topology.hosts[static_cast<size_t>(to)];
  return {{"from", topology.hosts[0].name},
          {"to", target.name},
          {"index", to},
          {"address", target.address},
          {"asked",
           {{"one_way_s", static_cast<double>(asked.delay_ns) * 1e-9},
            {"bits_per_s", asked.rate_bits_per_s},
            {"loss", asked.loss}}}};
}

std::string format_bit_rate(double rate) {
  if (rate <= 0) return "unlimited";
  return rate >= 1e9 ? fmt::format("{:.3g} Gbit/s", rate * 1e-9) : fmt::format("{:.3g} Mbit/s", rate * 1e-6);
}

void print_table(const Json& pairs) {
  fmt::print("{:<12} {:<16} {:>14} {:>14}\n", "path", "", "asked", "measured");
  for (const Json& pair : pairs) {
    const Json &asked = pair.at("asked"), &measured = pair.at("measured");
    const auto row = [](const std::string& what, const std::string& name, const std::string& left,
                        const std::string& right) {
      fmt::print("{:<12} {:<16} {:>14} {:>14}\n", what, name, left, right);
    };
    row(pair.at("from").get<std::string>() + " > " + pair.at("to").get<std::string>(), "delay, median",
        format_duration(asked.at("one_way_s").get<double>()), format_duration(measured.at("one_way_s").get<double>()));
    row("", "delay, p99", "", format_duration(measured.at("one_way_p99_s").get<double>()));
    row("", "rate, TCP", format_bit_rate(asked.at("bits_per_s").get<double>()),
        format_bit_rate(measured.at("bits_per_s").get<double>()));
    row("", "loss, UDP", fmt::format("{:.2f} %", 100 * asked.at("loss").get<double>()),
        fmt::format("{:.2f} %", 100 * measured.at("loss").get<double>()));
  }
}

}  // namespace

int check(RunOptions options, bool json) {
  const int num_hosts = static_cast<int>(options.topology.hosts.size());
  if (num_hosts < 2) throw Error(ErrorCode::kInvalidArgument, "check needs at least two hosts");
  Json pairs = Json::array();
  int last_of_rack = 0;
  while (last_of_rack + 1 < num_hosts && options.topology.hosts[static_cast<size_t>(last_of_rack) + 1].rack == 0)
    ++last_of_rack;
  if (last_of_rack > 0) pairs.push_back(pair(options.topology, last_of_rack));
  if (last_of_rack + 1 < num_hosts) pairs.push_back(pair(options.topology, num_hosts - 1));
  options.command = {own_path(), "check-in-host", Json{{"json", json}, {"pairs", pairs}}.dump()};
  return run_laboratory(options);
}

int run_check_in_host(const std::string& plan_text) {
  Json plan = parse_json(plan_text, "the plan");
  const char* index = std::getenv("NETLAB_INDEX");
  const int host = index ? std::atoi(index) : -1;
  for (const Json& pair : plan.at("pairs"))
    if (pair.at("index") == host) serve_probe();
  if (host != 0) return 0;
  for (Json& pair : plan.at("pairs")) {
    pair["measured"] = to_json(probe_path({.host = pair.at("address").get<std::string>(),
                                           .rate_bits_per_s = pair.at("asked").at("bits_per_s").get<double>()}));
  }
  const Json stats = ask_laboratory({{"do", "stats"}});
  if (plan.at("json").get<bool>()) {
    fmt::print("{}\n", Json{{"paths", plan.at("pairs")}, {"router", stats.at("router")}}.dump(2));
  } else {
    print_table(plan.at("pairs"));
    const Json& router = stats.at("router");
    const auto delivered = router.at("delivered").get<double>();
    fmt::print("router: {} packets, {:.2f} s of CPU time ({:.2f} s per 100,000), on average {:.0f} µs late\n",
               format_count(static_cast<int64_t>(delivered)), router.at("cpu_s").get<double>(),
               router.at("cpu_s").get<double>() / delivered * 1e5, router.at("mean_late_us").get<double>());
  }
  return 0;
}

}  // namespace lane::netlab
