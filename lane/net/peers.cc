#include "lane/net/peers.h"

#include <fmt/format.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/base/settings.h"
#include "lane/net/agreement.h"
#include "lane/net/coprocess.h"

namespace lane::net {
namespace {

struct Known {
  std::string_view name, program, label;
  std::vector<std::string> variables;
};

// Open MPI's own stack and UCX, each told apart from the default; UCX otherwise refuses hosts without its networks.
const std::array<Known, 4>& known_peers() {
  static const std::array<Known, 4> kKnown = {{
      {"mpi", "lane_peer_mpi", "", {}},
      {"mpi-ob1", "lane_peer_mpi", " (ob1)", {"OMPI_MCA_pml=ob1", "OMPI_MCA_btl=self,vader,tcp"}},
      {"mpi-ucx",
       "lane_peer_mpi",
       " (ucx)",
       {"OMPI_MCA_pml=ucx", "OMPI_MCA_pml_ucx_tls=any", "OMPI_MCA_pml_ucx_devices=any"}},
      {"gloo", "lane_peer_gloo", "", {}},
  }};
  return kKnown;
}

const Known& find(const std::string& name) {
  for (const Known& known : known_peers())
    if (known.name == name) return known;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("there is no library \"{}\" to compare with; known: mpi, mpi-ob1, mpi-ucx, gloo", name));
}

// Beside this program: in the build's bench/peers or the installation's libexec.
std::string program_path(const PeerOptions& options, std::string_view program) {
  namespace fs = std::filesystem;
  std::error_code none;
  const fs::path here = fs::read_symlink("/proc/self/exe", none).parent_path();
  std::vector<fs::path> places = {here / "../bench/peers", here / "../libexec/lane", here};
  if (!options.directory.empty()) places = {options.directory};
  for (const fs::path& place : places)
    if (fs::exists(place / program, none)) return fs::canonical(place / program, none);
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{} is not built; install the library's development package and configure again", program));
}

std::string make_directory() {
  std::string path = "/tmp/lane-peer-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) throw_system_error("making the directory " + path);
  return path;
}

// How other hosts reach this one.
std::string gloo_address(const Communicator& group) {
  if (group.fabric().layout.num_nodes() < 2) return "host:127.0.0.1";
  const std::string nics = setting("LANE_NICS");
  if (!nics.empty()) {
    const std::string first = nics.substr(0, nics.find(','));
    const bool is_address = first.find_first_not_of("0123456789.:abcdef") == std::string::npos;
    return (is_address ? "host:" : "interface:") + first;
  }
  std::array<char, HOST_NAME_MAX + 1> name{};
  ::gethostname(name.data(), name.size() - 1);
  return std::string("host:") + name.data();
}

}  // namespace

bool is_mpi(const std::string& peer_name) { return peer_name.starts_with("mpi"); }
void check_peer_name(const std::string& name) { find(name); }

struct Peer::Impl {
  Communicator& group;
  std::string library, why_not, directory;  // directory: rank 0's, to be removed
  std::unique_ptr<Coprocess> process;
  std::chrono::milliseconds patience;

  Impl(Communicator& its_group, std::chrono::milliseconds its_patience) : group(its_group), patience(its_patience) {}
  ~Impl() {
    process.reset();
    std::error_code ignored;
    if (!directory.empty()) std::filesystem::remove_all(directory, ignored);
  }

  std::string agree(const std::string& mine) { return first_said(group, mine); }

  void start(const PeerOptions& options) {
    std::string failure, meeting_place;
    const Known& known = find(options.name);
    if (known.program == "lane_peer_gloo") {
      if (group.rank() == 0) try {
          meeting_place = directory = make_directory();
        } catch (const Error& error) {
          failure = error.what();
        }
      meeting_place = group.broadcast_text(meeting_place, 0);
    }
    std::vector<std::string> variables = known.variables;
    // Without it root could not use Open MPI; whoever started this as root has decided that already.
    if (::geteuid() == 0)
      for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"})
        variables.emplace_back(name);
    try {
      std::vector<std::string> command = {program_path(options, known.program)};
      if (!meeting_place.empty())
        command.insert(command.end(), {std::to_string(group.rank()), std::to_string(group.size()), meeting_place,
                                       gloo_address(group)});
      process = std::make_unique<Coprocess>(command, variables);
      const Json hello = parse_answer(process->read_line(patience));
      library = json_string(hello, "name", "?", options.name) + std::string(known.label);
      if (json_int(hello, "size", 0, options.name) != group.size() ||
          json_int(hello, "rank", 0, options.name) != group.rank())
        throw Error(ErrorCode::kUnsupported, "it is not among the same ranks; start this benchmark under mpirun");
    } catch (const std::exception& error) {
      failure = error.what();
    }
    why_not = agree(failure);
    if (!why_not.empty()) process.reset();
  }

  Json parse_answer(const std::string& line) const {
    const Json answer = parse_json(line, "the answer of a library");
    if (!json_bool(answer, "ok", false, "the answer of a library"))
      throw Error(ErrorCode::kUnsupported, json_string(answer, "error", "it failed", "the answer of a library"));
    return answer;
  }

  PeerTimes run(const std::string& command, std::chrono::milliseconds work) {
    PeerTimes times;
    times.why_not = why_not;
    if (!process) return times;
    std::string failure, mine;
    bool is_lost = false;  // what it says later would be taken for the answer to something else
    try {
      process->write_line(command);
      mine = process->read_line(patience + work);
      parse_answer(mine);
    } catch (const Error& error) {
      failure = error.what();
      is_lost = error.code() != ErrorCode::kUnsupported;
    }
    const bool lost_anywhere = !agree(is_lost ? "lost" : "").empty();
    times.why_not = agree(failure);
    if (lost_anywhere) {
      why_not = times.why_not;
      process.reset();
    }
    if (!times.why_not.empty()) return times;

    std::string result;
    const std::vector<std::string> answers = group.gather_text(mine, 0);
    for (const std::string& text : answers) {
      const Json answer = parse_answer(text);
      const std::vector<double> us = answer.at("us").get<std::vector<double>>();
      times.us.resize(std::max(times.us.size(), us.size()));
      for (size_t i = 0; i < us.size(); ++i) times.us[i] = std::max(times.us[i], us[i]);
      times.num_wrong = std::max(times.num_wrong, json_int(answer, "wrong", 0, "the answer of a library"));
    }
    const Json all = parse_json(group.broadcast_text(Json{{"us", times.us}, {"wrong", times.num_wrong}}.dump(), 0), "");
    times.us = all.at("us").get<std::vector<double>>();
    times.num_wrong = all.at("wrong").get<int64_t>();
    return times;
  }
};

Peer::Peer(Communicator& group, const PeerOptions& options) : impl_(std::make_unique<Impl>(group, options.patience)) {
  impl_->start(options);
}
Peer::~Peer() = default;
Peer::Peer(Peer&&) noexcept = default;

const std::string& Peer::library() const { return impl_->library; }
const std::string& Peer::why_not() const { return impl_->why_not; }
PeerTimes Peer::run(const std::string& command, std::chrono::milliseconds work) { return impl_->run(command, work); }

}  // namespace lane::net
