#include <fmt/format.h>

#include <cstdio>

#include "cli/commands.h"
#include "lane/base/error.h"
#include "lane/base/log.h"

namespace {

bool known_command(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands({}))
    if (command->get_name() == name) return true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace lane;
  CLI::App app(
      "Lane: large language models over many ranks.\n\n"
      "Start here:   lane generate --prompt \"What is 17 + 25?\" --tp 2\n"
      "Help on one:  lane generate --help",
      "lane");
  app.set_version_flag("--version", "lane " LANE_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App* failed, const CLI::Error& error) {
    return fmt::format("lane: {}\nTry: {} --help\n", error.what(), failed->get_display_name());
  });
  cli::Program program;
  program.arguments.assign(argv + 1, argv + argc);
  cli::add_generate(app, program);
  cli::add_run_batch(app, program);
  cli::add_bench(app, program);
  cli::add_launch(app, program);
  cli::add_tune(app, program);
  cli::add_doctor(app, program);
  cli::add_place(app, program);
  cli::add_tokenize(app, program);
  cli::add_plan(app, program);
  cli::add_env(app, program);
  try {
    if (argc > 1 && argv[1][0] != '-' && !known_command(app, argv[1])) {
      std::string known;
      for (const CLI::App* command : app.get_subcommands({})) known += " " + command->get_name();
      fmt::print(stderr, "lane: there is no command \"{}\"; there are:{}\n", argv[1], known);
      return cli::kExitUsage;
    }
    app.parse(argc, argv);
    return program.run();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? cli::kExitOk : cli::kExitUsage;
  } catch (const Error& error) {
    log(LogLevel::kError, error.what());
  } catch (const std::bad_alloc&) {
    log(LogLevel::kError, "out of memory; lower --kv-cache-memory-bytes, --max-num-batched-tokens or the model's size");
  } catch (const std::exception& error) {
    log(LogLevel::kError, fmt::format("unexpected: {} (a bug in Lane; please report it)", error.what()));
  }
  return program.error_status;
}
