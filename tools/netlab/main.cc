#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "tools/netlab/check.h"
#include "tools/netlab/client.h"
#include "tools/netlab/laboratory.h"
#include "tools/netlab/probe.h"

namespace {

using namespace lane;
using namespace lane::netlab;

constexpr int kExitUsage = 2;
constexpr int kExitSsh = 255;

// The flags of `run` and `check` that describe a laboratory.
struct Flags {
  std::string topology, hosts, delay, rate, jitter, loss, timeout = "1h", spin = "0us", socket;
  int mtu = 0;
  bool on_first = false, prefix = false, private_tmp = false, json = false;
  std::vector<std::string> command;
};

void add_topology_flags(CLI::App& app, Flags& flags) {
  CLI::Option* file =
      app.add_option("--topology", flags.topology, "a JSON file (see tools/netlab/README.md), or JSON itself");
  const auto add = [&](const char* name, std::string& value, const char* help) {
    app.add_option(name, value, help)->excludes(file);
  };
  add("--hosts", flags.hosts, "number of hosts on one switch, or their names: 4, or a,b,c; default 2");
  add("--delay", flags.delay, "one way between two hosts: 0.5ms, 200us");
  add("--rate", flags.rate, "of each host's link, each way: 1gbit, 100mbit");
  add("--jitter", flags.jitter, "how far the delay of a packet may lie from --delay: 0.1ms");
  add("--loss", flags.loss, "share of the packets lost between two hosts: 1%");
  app.add_option("--mtu", flags.mtu, "largest packet in bytes, 576 to 65000; default 9000")->excludes(file);
  app.add_option("--spin", flags.spin,
                 "the router stops sleeping this long before a packet is due: more exact, more CPU time")
      ->capture_default_str();
  app.add_option("--timeout", flags.timeout, "end everything after this long, with exit status 124")
      ->capture_default_str();
}

Topology topology_of(const Flags& flags) {
  if (!flags.topology.empty())
    return flags.topology[0] == '{' ? parse_topology(flags.topology, "--topology")
                                    : parse_topology(read_file(flags.topology, 1 << 20), flags.topology);
  Json json = {{"hosts", 2}};
  if (flags.hosts.find_first_not_of("0123456789") == std::string::npos && flags.hosts.size() < 9) {
    if (!flags.hosts.empty()) json["hosts"] = std::stoi(flags.hosts);
  } else {
    json["hosts"] = CLI::detail::split(flags.hosts, ',');
  }
  for (const auto& [key, value] :
       {std::pair{"delay", &flags.delay}, {"rate", &flags.rate}, {"jitter", &flags.jitter}, {"loss", &flags.loss}})
    if (!value->empty()) json[key] = *value;
  if (flags.mtu != 0) json["mtu"] = flags.mtu;
  return parse_topology(json.dump(), "the flags");
}

RunOptions options_of(const Flags& flags) {
  RunOptions options{.topology = topology_of(flags), .command = flags.command};
  options.on_first = flags.on_first;
  options.prefix = flags.prefix;
  options.private_tmp = flags.private_tmp;
  options.socket = flags.socket;
  options.timeout = std::chrono::nanoseconds(parse_duration_ns(flags.timeout, "--timeout"));
  options.router.spin_ns = parse_duration_ns(flags.spin, "--spin");
  return options;
}

int change(const std::string& link, const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) {
    const size_t equals = setting.find('=');
    if (equals == std::string::npos)
      throw Error(ErrorCode::kInvalidArgument, "expected key=value such as delay=200ms or cut=true, found " + setting);
    ask_laboratory(
        {{"do", "set"}, {"link", link}, {"key", setting.substr(0, equals)}, {"value", setting.substr(equals + 1)}});
  }
  return 0;
}

struct Program {
  Flags flags;
  std::string link, plan, target, only;
  bool serve = false;
  std::vector<std::string> settings;
  int (*run)(Program&) = nullptr;
};

void add_commands(CLI::App& app, Program& program) {
  Flags& flags = program.flags;
  CLI::App* run = app.add_subcommand("run", "make the hosts and run a command in each of them, or in the first");
  add_topology_flags(*run, flags);
  run->add_flag("--on-first", flags.on_first, "run COMMAND only in the first host, with standard input");
  run->add_flag("--prefix", flags.prefix, "print the host's name before each line of output");
  run->add_flag("--private-tmp", flags.private_tmp, "give each host an empty /tmp of its own");
  run->add_option("--socket", flags.socket,
                  "a name such as @lab by which NETLAB_SOCKET finds the laboratory from outside");
  run->add_option("COMMAND", flags.command, "the command and its arguments, after --")->required();
  run->footer(
      "COMMAND finds LANE_HOST, NETLAB_HOST, NETLAB_ADDRESS, NETLAB_INDEX, NETLAB_NAMES (h0,h1),\n"
      "NETLAB_HOSTS (h0:10.77.0.1,h1:10.77.0.2), NETLAB_DEVICE and NETLAB_SOCKET in its environment.\n"
      "Exit status: the first that is not 0; 124 timed out, 125 the laboratory failed, 77 not allowed here.");
  run->callback([&program] { program.run = [](Program& p) { return run_laboratory(options_of(p.flags)); }; });

  CLI::App* test = app.add_subcommand("check", "measure delay, rate and loss: asked against measured");
  add_topology_flags(*test, flags);
  test->add_flag("--json", flags.json, "print JSON");
  test->callback([&program] { program.run = [](Program& p) { return check(options_of(p.flags), p.flags.json); }; });

  CLI::App* set = app.add_subcommand("set", "change a link of the running laboratory, at once");
  set->add_option("LINK", program.link, "a host, or a rack for its uplink")->required();
  set->add_option("KEY=VALUE", program.settings,
                  "delay=200ms, jitter=1ms, rate=100mbit, loss=1%, queue=1M, reorder=true, cut=true")
      ->required();
  set->callback([&program] { program.run = [](Program& p) { return change(p.link, p.settings); }; });

  CLI::App* stats =
      app.add_subcommand("stats", "count packets, bytes and drops of each link of the running laboratory");
  stats->add_flag("--json", flags.json, "print JSON");
  stats->callback([&program] {
    program.run = [](Program& p) {
      const Json reply = ask_laboratory({{"do", "stats"}});
      if (p.flags.json)
        fmt::print("{}\n", reply.dump(2));
      else
        print_stats(reply);
      return 0;
    };
  });

  CLI::App* probe =
      app.add_subcommand("probe", "inside a host: measure the path from here to HOST, where --serve runs");
  probe->add_flag("--serve", program.serve, "be the other end of one measurement");
  probe->add_option("HOST", program.target, "a host of this laboratory");
  probe->add_option("--only", program.only, "delay, loss or rate; default all three")
      ->check(CLI::IsMember({"delay", "loss", "rate"}));
  probe->callback([&program] {
    program.run = [](Program& p) {
      if (p.serve == !p.target.empty()) throw Error(ErrorCode::kInvalidArgument, "name a HOST, or give --serve");
      if (p.serve) return serve_probe(), 0;
      ProbeOptions options{.host = p.target};
      const auto wanted = [&](const char* what) { return p.only.empty() || p.only == what; };
      options.delay = wanted("delay"), options.loss = wanted("loss"), options.rate = wanted("rate");
      fmt::print("{}\n", to_json(probe_path(options)).dump());
      return 0;
    };
  });

  app.add_subcommand("ssh",
                     "run a command in a host of the running laboratory, called as ssh is: [options] HOST COMMAND...");

  CLI::App* in_host = app.add_subcommand("check-in-host", "what check runs in each host")->group("");
  in_host->add_option("PLAN", program.plan)->required();
  in_host->callback([&program] { program.run = [](Program& p) { return run_check_in_host(p.plan); }; });
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_ssh = argc > 1 && std::string_view(argv[1]) == "ssh";
  CLI::App app(
      "netlab: a network laboratory. Emulated hosts on one Linux machine, with delay, rate, jitter and loss.\n\n"
      "Start here:   netlab run --hosts 2 --delay 0.5ms --rate 1gbit --prefix -- hostname\n"
      "Under MPI:    netlab run --hosts 2 --on-first -- mpirun --mca plm_rsh_agent \"netlab ssh\" -H h0:2,h1:2 "
      "PROGRAM\n"
      "Break it:     netlab set h1 cut=true      (from inside, or with NETLAB_SOCKET)\n"
      "Trust it:     netlab check --hosts 2 --delay 0.5ms --rate 1gbit",
      "netlab");
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return fmt::format("netlab: {}\nTry: netlab --help, netlab run --help\n", error.what());
  });
  Program program;
  add_commands(app, program);
  try {
    if (is_ssh && (argc < 3 || std::string_view(argv[2]) != "--help")) return remote_shell({argv + 2, argv + argc});
    app.parse(argc, argv);
    return program.run ? program.run(program) : kExitUsage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  } catch (const Error& error) {
    fmt::print(stderr, "netlab: {}\n", error.what());
    if (is_ssh) return kExitSsh;
    return error.code() == ErrorCode::kUnsupported ? kExitNotAllowed : kExitFailed;
  } catch (const std::exception& error) {
    fmt::print(stderr, "netlab: unexpected: {}\n", error.what());
    return is_ssh ? kExitSsh : kExitFailed;
  }
}
