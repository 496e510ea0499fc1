#include "lane/net/nccl_script.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane::net {
namespace {

// For bash, whatever it holds.
std::string quoted(const std::string& text) {
  const bool is_plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/' || c == ':' || c == ',' || c == '=' ||
           c == '+';
  });
  if (is_plain) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// A text that cannot end a comment's line.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

int64_t largest_decode(const NcclScriptOptions& options) {
  int64_t batch = 1;
  while (batch * 2 <= options.max_batch) batch *= 2;
  return batch * options.hidden_size * 2;
}

// What is measured beside NCCL's own choice, by name.
std::vector<std::string> names_of(const NcclScriptOptions& options, const std::string& collective) {
  std::vector<std::string> names;
  if (!options.table.empty()) names.push_back("table");
  for (const NcclSetting& setting : options.settings)
    if (can_run(collective, setting)) names.push_back(name_of(setting));
  return names;
}

std::string header(const NcclScriptOptions& options) {
  const int num_nodes = (options.num_ranks + options.ranks_per_node - 1) / options.ranks_per_node;
  size_t num_settings = 0;
  for (const std::string& collective : options.collectives) num_settings += 1 + names_of(options, collective).size();
  const size_t parts = options.hidden_size > 0 ? 2 : 1;
  std::string text = "#!/usr/bin/env bash\n";
  text += fmt::format("# Measures NCCL with nccl-tests. Written by lane {}: {}\n#\n", options.version,
                      one_line(options.command));
  text += fmt::format("#   {} ranks, {} on each of {} nodes, started by {}\n", options.num_ranks,
                      options.ranks_per_node, num_nodes, options.launcher);
  if (options.hidden_size > 0)
    text += fmt::format("#   decode: {} to {} of {}: batches 1 to {} of {} (batch x {} x 2 bytes)\n",
                        format_bytes(static_cast<double>(2 * options.hidden_size)),
                        format_bytes(static_cast<double>(largest_decode(options))), options.type,
                        largest_decode(options) / (2 * options.hidden_size), one_line(options.model_name),
                        options.hidden_size);
  text += fmt::format("#   sweep:  {} to {}, doubling\n", format_bytes(static_cast<double>(options.min_bytes)),
                      format_bytes(static_cast<double>(options.max_bytes)));
  text +=
      fmt::format("#   {} runs: {} settings of {}, {} times each, {} size range{}; they take turns, there and back\n",
                  num_settings * static_cast<size_t>(options.repeats) * parts, num_settings,
                  fmt::join(options.collectives, ", "), options.repeats, parts, parts == 1 ? "" : "s");
  text +=
      "#\n"
      "# It uses all GPUs of the job while it runs, so run it on nodes that do nothing else. It writes to its own "
      "folder\n"
      "# only and changes no setting of the machine. `bash THIS -n` prints the commands and runs nothing.\n"
      "#\n"
      "#   NCCL_TESTS=DIR   where nccl-tests' programs are, built with MPI=1 (default: ./build)\n"
      "#   OUT=DIR          where results go; it must not exist yet (default: nccl-results)\n"
      "#\n"
      "# Then:   lane bench import OUT/*.json        lane tune nccl --from OUT/*\n";
  return text;
}

constexpr const char* kBegin = R"bash(set -euo pipefail

NCCL_TESTS=${NCCL_TESTS:-./build}
OUT=${OUT:-nccl-results}
DRY_RUN=0
if [[ "${1:-}" == "-n" ]]; then DRY_RUN=1; fi
if [[ "$OUT" =~ [[:space:]] ]]; then
  echo "error: OUT=$OUT: a path without blanks is needed" >&2
  exit 2
fi

# NCCL's defaults are the baseline: what forces a choice is not passed on.
for name in NCCL_ALGO NCCL_PROTO NCCL_NTHREADS NCCL_MIN_NCHANNELS NCCL_MAX_NCHANNELS NCCL_MIN_CTAS NCCL_MAX_CTAS \
            NCCL_TUNER_PLUGIN NCCL_TUNER_CONFIG_FILE; do
  if [[ -n "${!name+set}" ]]; then
    echo "note: $name=${!name} is left out of this measurement" >&2
    unset "$name"
  fi
done
for file in /etc/nccl.conf "$HOME/.nccl.conf"; do
  if [[ -r "$file" ]] && grep -Eq '^[[:space:]]*NCCL_(ALGO|PROTO|NTHREADS|M(IN|AX)_(CTAS|NCHANNELS)|TUNER_)' "$file"; then
    echo "warning: $file forces NCCL's choice: the results will not be of its defaults" >&2
  fi
done
)bash";

constexpr const char* kPrepare = R"bash(
if [[ $DRY_RUN == 0 ]]; then
  if [[ -e "$OUT" ]]; then
    echo "error: $OUT exists: nccl-tests does not overwrite files; choose another with OUT=DIR" >&2
    exit 2
  fi
  for collective in "${COLLECTIVES[@]}"; do
    if [[ ! -x "$NCCL_TESTS/${collective}_perf" ]]; then
      echo "error: $NCCL_TESTS/${collective}_perf is not there: build nccl-tests with MPI=1 and set NCCL_TESTS" >&2
      exit 2
    fi
  done
  mkdir -p "$OUT"
  help=$("$NCCL_TESTS/${COLLECTIVES[0]}_perf" --help 2>&1 || true)
  if [[ "$help" != *output_file* ]]; then
    echo "error: these nccl-tests have no -J: results as JSON came in October 2025; build a newer version" >&2
    exit 2
  fi
  if [[ $GRAPH == 0 && "$help" == *per_iter_timing* ]]; then EACH_CALL=(-I 1); fi
fi
)bash";

std::string launch_function(const NcclScriptOptions& options) {
  std::string text = "\n# launch NAME=VALUE ... -- PROGRAM ARGUMENTS\nlaunch() {\n  local -a settings=()\n";
  text += "  while [[ \"$1\" != \"--\" ]]; do settings+=(\"$1\"); shift; done\n  shift\n";
  if (options.launcher == "mpirun") {
    text.insert(0,
                "\n# mpirun hands on what it is told to: the site's own settings of the network.\n"
                "PASS_ON=(-x LD_LIBRARY_PATH)\n"
                "for name in \"${!NCCL_@}\" \"${!UCX_@}\" \"${!FI_@}\"; do\n"
                "  case \"$name\" in NCCL_DEBUG* | NCCL_TESTS) ;; *) PASS_ON+=(-x \"$name\") ;; esac\n"
                "done\n");
    std::string where;
    if (!options.hostfile.empty()) where = " --hostfile " + quoted(options.hostfile);
    if (!options.hosts.empty()) {
      std::vector<std::string> slots;
      for (const std::string& host : options.hosts) slots.push_back(fmt::format("{}:{}", host, options.ranks_per_node));
      where = fmt::format(" -H '{}'", fmt::join(slots, ","));
    }
    text += fmt::format(
        "  local -a command=(mpirun -np {} --map-by ppr:{}:node --bind-to none{})\n"
        "  local setting\n"
        "  for setting in \"${{settings[@]}}\"; do command+=(-x \"$setting\"); done\n"
        "  run \"${{command[@]}}\" \"${{PASS_ON[@]}}\" \"$@\"\n",
        options.num_ranks, options.ranks_per_node, where);
  } else {
    const int num_nodes = (options.num_ranks + options.ranks_per_node - 1) / options.ranks_per_node;
    std::string where;
    if (!options.hosts.empty()) where = fmt::format(" --nodelist='{}'", fmt::join(options.hosts, ","));
    text += fmt::format(
        "  run env \"${{settings[@]}}\" srun --nodes={} --ntasks={} --ntasks-per-node={}{} --mpi=pmix --export=ALL "
        "\"$@\"\n",
        num_nodes, options.num_ranks, options.ranks_per_node, where);
  }
  return text + "}\n";
}

constexpr const char* kFunctions = R"bash(
run() {
  if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

log_of() { if [[ $DRY_RUN == 1 ]]; then echo /dev/stdout; else echo "$1"; fi; }

FAILED=0
# measure COLLECTIVE SETTING REPEAT: a run that fails is told and left out; the others go on.
measure() {
  local collective=$1 setting=$2 repeat=$3 part stem forced
  local -a force sizes
  forced=$(force_of "$setting")  # on a line of its own: a failure ends the script
  read -r -a force <<< "$forced"
  for part in "${PARTS[@]}"; do
    read -r -a sizes <<< "$(sizes_of "$part")"
    stem="$OUT/$collective.$setting.$part.r$repeat"
    echo "$collective $setting $part $repeat/$REPEATS" >&2
    # NCCL_DEBUG=WARN: a log line for each call would be in the time.
    if ! launch NCCL_DEBUG=WARN "${force[@]}" -- "$NCCL_TESTS/${collective}_perf" "${sizes[@]}" -g 1 -d "$TYPE" \
        -n "$ITERATIONS" -w "$WARMUP" -c 1 -G "$GRAPH" "${EACH_CALL[@]}" -J "$stem.json" > "$(log_of "$stem.log")"; then
      echo "warning: $stem did not run; its log is beside it" >&2
      FAILED=$((FAILED + 1))
    fi
  done
}

# prove COLLECTIVE SETTING: one call of each size with NCCL's own word on what it chose. Not a measurement.
prove() {
  local collective=$1 setting=$2 part forced
  local -a force sizes
  forced=$(force_of "$setting")
  read -r -a force <<< "$forced"
  for part in "${PARTS[@]}"; do
    read -r -a sizes <<< "$(sizes_of "$part")"
    launch NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=TUNING "${force[@]}" -- "$NCCL_TESTS/${collective}_perf" "${sizes[@]}" \
      -g 1 -d "$TYPE" -n 1 -w 0 -c 0 > "$(log_of "$OUT/$collective.$setting.$part.proof.log")" || true
  done
}

for collective in "${COLLECTIVES[@]}"; do
  read -r -a settings <<< "$(settings_of "$collective")"
  for setting in "${settings[@]}"; do prove "$collective" "$setting"; done
  for ((repeat = 1; repeat <= REPEATS; ++repeat)); do
    if ((repeat % 2 == 1)); then
      for ((i = 0; i < ${#settings[@]}; ++i)); do measure "$collective" "${settings[i]}" "$repeat"; done
    else
      for ((i = ${#settings[@]} - 1; i >= 0; --i)); do measure "$collective" "${settings[i]}" "$repeat"; done
    fi
  done
done
if [[ $DRY_RUN == 0 ]]; then
  echo "done: $OUT; $FAILED runs failed. Next: lane bench import $OUT/*.json; lane tune nccl --from $OUT/*" >&2
fi
exit $((FAILED > 0))
)bash";

// What forces a setting, one word a variable.
std::string forced_by(const NcclSetting& setting, const NcclScriptOptions& options) {
  if (setting.is_default()) return "";
  if (!options.tuner_plugin.empty())
    return fmt::format("NCCL_TUNER_PLUGIN=$TUNER NCCL_TUNER_CONFIG_FILE=$OUT_PATH/{}.csv", name_of(setting));
  std::string text =
      fmt::format("NCCL_ALGO={} NCCL_PROTO={}", algorithm_token(setting.algorithm), protocol_token(setting.protocol));
  if (setting.num_channels > 0) text += fmt::format(" NCCL_MIN_CTAS={0} NCCL_MAX_CTAS={0}", setting.num_channels);
  return text;
}

std::string tables(const NcclScriptOptions& options) {
  std::string text = "\nforce_of() {\n  case \"$1\" in\n";
  for (const NcclSetting& setting : options.settings)
    text += fmt::format("    {}) echo \"{}\" ;;\n", name_of(setting), forced_by(setting, options));
  if (!options.table.empty()) text += "    table) echo \"NCCL_TUNER_PLUGIN=$TUNER NCCL_TUNER_CONFIG_FILE=$TABLE\" ;;\n";
  text += "    *) echo \"\" ;;\n  esac\n}\n\nsizes_of() {\n  case \"$1\" in\n";
  if (options.hidden_size > 0)
    text += fmt::format("    decode) echo \"-b {} -e {} -f 2\" ;;\n", 2 * options.hidden_size, largest_decode(options));
  text += fmt::format("    sweep) echo \"-b {} -e {} -f 2\" ;;\n  esac\n}}\n\nsettings_of() {{\n  case \"$1\" in\n",
                      options.min_bytes, options.max_bytes);
  for (const std::string& collective : options.collectives) {
    std::vector<std::string> names = names_of(options, collective);
    names.insert(names.begin(), "default");
    text += fmt::format("    {}) echo \"{}\" ;;\n", collective, fmt::join(names, " "));
  }
  return text + "  esac\n}\n";
}

// With a plugin each setting is a table of one line for each collective.
std::string tuner_tables(const NcclScriptOptions& options) {
  if (options.tuner_plugin.empty() || options.settings.empty()) return "";
  std::string text = "\nOUT_PATH=$OUT\nif [[ \"$OUT_PATH\" != /* ]]; then OUT_PATH=$PWD/$OUT; fi\n";
  text += "if [[ $DRY_RUN == 0 ]]; then\n";
  for (const NcclSetting& setting : options.settings) {
    text += fmt::format("  cat > \"$OUT/{}.csv\" <<'END'\n", name_of(setting));
    for (const std::string& collective : options.collectives)
      if (can_run(collective, setting))
        text += fmt::format("{},0,{},{},{},{},-1,-1,-1,-1\n", tuner_collective(collective), INT64_MAX,
                            setting.algorithm, setting.protocol, setting.num_channels > 0 ? setting.num_channels : -1);
    text += "END\n";
  }
  return text + "fi\n";
}

}  // namespace

void check(const NcclScriptOptions& options) {
  const auto refuse = [](const std::string& words) { throw Error(ErrorCode::kInvalidArgument, words); };
  if (options.num_ranks < 2) refuse(fmt::format("--ranks {}: expected 2 or more", options.num_ranks));
  if (options.ranks_per_node < 1 || options.num_ranks % options.ranks_per_node != 0)
    refuse(fmt::format("--ranks-per-node {}: {} ranks do not fill nodes evenly", options.ranks_per_node,
                       options.num_ranks));
  const int num_nodes = options.num_ranks / options.ranks_per_node;
  if (!options.hosts.empty() && static_cast<int>(options.hosts.size()) != num_nodes)
    refuse(fmt::format("--hosts names {} hosts; {} ranks, {} on each, need {}", options.hosts.size(), options.num_ranks,
                       options.ranks_per_node, num_nodes));
  if (!options.hosts.empty() && !options.hostfile.empty()) refuse("--hosts and --hostfile: give one of them");
  if (!options.hostfile.empty() && options.launcher == "srun")
    refuse("--hostfile is for mpirun; srun takes the nodes of its allocation, or --hosts");
  if (options.launcher != "mpirun" && options.launcher != "srun")
    refuse(fmt::format("--launcher {}: expected mpirun or srun", options.launcher));
  for (const std::string& collective : options.collectives)
    if (tuner_collective(collective).empty())
      refuse(fmt::format("--collectives {}: expected all_reduce, all_gather, reduce_scatter, broadcast or reduce",
                         collective));
  if (options.min_bytes < 1 || options.max_bytes < options.min_bytes)
    refuse(fmt::format("--sizes {}:{}: expected the smallest, then the largest", options.min_bytes, options.max_bytes));
  if (options.repeats < 1 || options.max_batch < 1 || options.iterations < 1)
    refuse("expected at least 1 repeat, batch and iteration");
  for (const std::string& host : options.hosts)
    if (host.find_first_of(" \t\n,:'\"$`\\") != std::string::npos)
      refuse(fmt::format("--hosts: {} is no host's name", host));
  if (!options.table.empty() && options.tuner_plugin.empty())
    refuse("a table is read by a plugin: give --tuner liblane-nccl-tuner.so");
  for (const std::string* text : {&options.tuner_plugin, &options.hostfile, &options.table})
    if (text->find_first_of("\n") != std::string::npos) refuse("a file's name with a line break cannot be used");
  if ((options.tuner_plugin + options.table).find_first_of(" \t") != std::string::npos)
    refuse("--tuner, --verify: a path with blanks cannot be passed on");
}

std::string nccl_script(const NcclScriptOptions& options) {
  check(options);
  std::string text = header(options) + kBegin;
  text +=
      fmt::format("\nCOLLECTIVES=({})\nPARTS=({})\nREPEATS={}\nTYPE={}\nITERATIONS={}\nWARMUP={}\nGRAPH={}\n",
                  fmt::join(options.collectives, " "), options.hidden_size > 0 ? "decode sweep" : "sweep",
                  options.repeats, quoted(options.type), options.iterations, options.warmup, options.graph_launches);
  text += "EACH_CALL=()\n";
  if (!options.table.empty()) text += "TABLE=" + quoted(options.table) + "\n";
  if (!options.tuner_plugin.empty() && !(options.settings.empty() && options.table.empty()))
    text += "TUNER=" + quoted(options.tuner_plugin) + "\n";
  const bool forces_ll128 = options.tuner_plugin.empty() &&
                            std::any_of(options.settings.begin(), options.settings.end(),
                                        [](const NcclSetting& setting) { return setting.protocol == "ll128"; });
  if (forces_ll128)
    text +=
        "# NCCL switches LL128 off where it is not safe; NCCL_PROTO=LL128 switches it on all the same and may give "
        "wrong\n"
        "# results there. Results are checked (-c 1); with --tuner the plugin leaves alone what NCCL has switched "
        "off.\n";
  return text + kPrepare + tuner_tables(options) + tables(options) + launch_function(options) + kFunctions;
}

}  // namespace lane::net
