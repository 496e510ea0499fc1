#include "lane/attention/cuda/pages.cuh"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda::attention {

void list_pages(const PageLists& lists, void* stream) {
  if (lists.num_seqs == 0) return;
  list_pages_kernel<0><<<static_cast<unsigned>(lists.num_seqs), 32, 0, static_cast<cudaStream_t>(stream)>>>(lists);
  check(cudaGetLastError(), "listing the pages of a batch");
}

}  // namespace lane::cuda::attention
