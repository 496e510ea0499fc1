#pragma once
#include "lane/base/json.h"
#include "lane/inventory/inventory.h"

namespace lane::inventory {

// What a host tells through calls instead of files: NVML, getrlimit, statvfs, the versions of libraries.
struct HostCalls {
  std::map<std::string, Fact> facts;
  bool has_gpus = false;                                // NVML has listed them: `gpus` is what a program can use
  std::vector<topology::Gpu> gpus;                      // by PCI address; what NVML does not know of is unknown
  std::vector<std::vector<int>> gpu_to_gpu_nvlinks;     // direct and switched links
  std::vector<std::vector<topology::Path>> gpu_to_gpu;  // of PCIe; empty: NVML did not say
  std::map<std::string, std::string> why_unreadable;    // files that could not be read, of a bundle
};

// Asks this host. Never throws: what fails is a fact that is unknown.
HostCalls ask_host();

// The part of it that NVML knows. Tests give a library of their own.
void ask_nvml(const char* library, HostCalls& calls);

// Versions of the libraries that a program would load: lib.nccl, lib.nvshmem, lib.ucx, lib.libfabric.
void ask_libraries(std::map<std::string, Fact>& facts);

// "libnccl.so.2.28.9" of "libnccl.so" is 2.28.9; empty: it is another library, or has no version of two numbers.
std::string version_in_name(const std::string& file_name, const std::string& library);

// lane-bundle.json. Error{kCorruptData} names `where` and the field.
Json to_json(const HostCalls& calls);
HostCalls calls_from_json(const std::string& text, const std::string& where);

// UUIDs of a cluster tell hosts of one NVLink domain from others, and identify it to outsiders. This one does the
// former only: the same for the same UUID, and for itself. Zeros stay zeros; what is no UUID stays as it is.
std::string pseudonym(const std::string& uuid);
// "<pseudonym>.<clique>"; empty for a UUID of zeros, which is how a GPU without such a domain shows itself.
std::string nvlink_domain(const std::string& uuid, const std::string& clique);

}  // namespace lane::inventory
