// What to say when CUDA says no. Statuses are those of cudaError_t.
#pragma once
#include <string>

namespace lane::cuda {

// Why this process has no GPU, in a sentence that says what is needed. Versions as CUDA counts them: 12040 is 12.4; a
// driver of version 0 is none.
std::string why_no_gpu(int status, int driver_version, int runtime_version);

}  // namespace lane::cuda
