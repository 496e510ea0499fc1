#pragma once
#include <array>
#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lane {

struct Setting {
  std::string_view name, fallback, help;
};

// Every environment variable of the project. `lane env` prints this table with the values in force, and
// docs/settings.md is made from it. getenv() is called in settings.cc and nowhere else.
inline constexpr std::array kSettings = {
    Setting{"LANE_LOG", "warn", "how much is logged on standard error: error, warn, info or debug"},
    Setting{"LANE_TIMEOUT_MS", "30000", "how long a rank waits for a peer before it gives up, in milliseconds"},
    Setting{"LANE_ALGORITHM", "auto",
            "forces one all-reduce algorithm, for experiments: a name that `lane plan schedule --list` prints"},
    Setting{"LANE_ATTENTION", "auto",
            "forces one attention backend, for experiments: flash, reference, flashinfer (GPU)"},
    Setting{"LANE_ISA", "auto", "caps the CPU instructions used: baseline, avx2, avx512, avx512_bf16"},
    Setting{"LANE_JOB", "", "name under which the ranks of one job meet; set by the launcher"},
    Setting{"LANE_RENDEZVOUS", "",
            "host:port where rank 0 listens when ranks are on several hosts; set by the launcher"},
    Setting{"LANE_SECRET", "",
            "shared secret of a job on several hosts: any text, the same on all ranks and new for each job"},
    Setting{"LANE_NICS", "",
            "interfaces or addresses for traffic between hosts, such as eth1 or ib0,ib1 (ranks of a host take turns)"},
    Setting{"LANE_HOST", "",
            "another name for this host: ranks with different ones share no memory, which emulates hosts"},
    Setting{"LANE_TRANSPORT", "auto", "what carries data between hosts: auto, tcp or ucx"},
    Setting{"LANE_PROXY_CHANNELS", "4",
            "threads that sum pieces of a GPU's vector between nodes where GPUs cannot reach the network: 1 to 32"},
    Setting{"LANE_GPU_FABRIC", "auto",
            "how GPUs of different nodes exchange data: auto, p2p (emulated nodes of one machine), nvshmem (puts over "
            "RDMA) or proxy"},
    Setting{"LANE_GPU_SELF_TEST", "off",
            "on: before their first use, all-reduces on GPUs are compared with each other, NCCL's and known sums"},
    Setting{
        "LANE_NCCL", "auto",
        "whether NCCL may carry all-reduces on GPUs: auto (started when first needed, but not under graph capture), "
        "on (started at once), off, or only (it carries them all, to compare with)"},
    Setting{"LANE_PEER_MEMORY", "auto",
            "how GPUs of a host share memory between processes: auto, vmm (outlives its process) or ipc"},
    Setting{"LANE_MULTICAST", "off",
            "whether all-reduces on GPUs may use NVSwitch's multicast: off, or on, which has never been run"},
    Setting{"LANE_TUNING", "",
            "file of what `lane tune` measured, or off; empty: lane/tuning.json in the cache folder"},
};

// The value in force: the environment's, else the fallback. A name that is not in the table is a bug.
std::string setting(std::string_view name);

// LANE_TIMEOUT_MS as a duration; throws Error{kInvalidArgument} unless it is a number of at least 1.
std::chrono::milliseconds timeout_setting();

// A variable that a launcher (torchrun, mpirun, srun) set for its ranks; these are not Lane's own settings.
std::optional<std::string> launcher_variable(const char* name);

// Variables of this process whose names start with one of `prefixes` ("NCCL_"), by name: settings of other libraries,
// which `lane doctor` judges.
std::vector<std::pair<std::string, std::string>> environment_with_prefixes(std::span<const std::string_view> prefixes);

// NO_COLOR (no-color.org): set to anything, output has no colours.
bool colours_refused();

// $HOME; empty if it is not set.
std::string home_folder();

}  // namespace lane
