#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

// NVSHMEM's shared half, libnvshmem_host.so.3, as far as Lane uses it; it is found at run time and not linked. Its
// static half, with the functions for kernels, is part of the build or not.
namespace lane::cuda::nvshmem {

std::string load();  // what is missing, as one sentence; empty if nothing is. The rest is for after that.

std::string make_id();  // of a job, on one of its ranks
// Collective; on the current device. A process is of one job for good, and its rank there is its number (PE). Throws.
void start(const std::string& id, int rank, int size);
// Collective. Null if there is no room.
std::byte* allocate(int64_t bytes);
// Another rank's memory that corresponds to this rank's, where loads and stores reach it; else null.
std::byte* mapped(std::byte* own, int pe);

}  // namespace lane::cuda::nvshmem
