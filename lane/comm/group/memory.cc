#include "lane/comm/group/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "lane/base/error.h"
#include "lane/comm/group/board.h"

namespace lane {
namespace {

constexpr int64_t kPage = 4096;

int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

int64_t ring_bytes_for(int num_ranks) {
  const int64_t pairs = std::max<int64_t>(1, int64_t{num_ranks} * (num_ranks - 1));
  const auto share = std::bit_floor(static_cast<uint64_t>((int64_t{32} << 20) / pairs));
  return std::clamp<int64_t>(static_cast<int64_t>(share), 16 << 10, 256 << 10);
}

}  // namespace

GroupMemory::GroupMemory(Fd fd, int num_ranks) : fd_(std::move(fd)), num_ranks_(num_ranks) {
  const int64_t pairs = int64_t{num_ranks} * num_ranks;
  ring_bytes_ = ring_bytes_for(num_ranks);
  links_at_ = whole_pages(Board::bytes(num_ranks));
  rings_at_ = links_at_ + whole_pages(pairs * static_cast<int64_t>(sizeof(LinkState)));
  bytes_ = rings_at_ + pairs * ring_bytes_;
  if (fd_) {
    // Whoever creates it fixes the size for good: a peer that shrank it could make others fault.
    const int seals = ::fcntl(fd_.get(), F_GET_SEALS);
    if (seals < 0) throw_system_error("looking at the memory that the ranks share");
    if (!(seals & F_SEAL_SHRINK)) {
      if (::ftruncate(fd_.get(), bytes_) != 0) throw_system_error("sizing the memory that the ranks share");
      if (::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        throw_system_error("sealing the memory that the ranks share");
    }
    if (::lseek(fd_.get(), 0, SEEK_END) != bytes_)
      throw Error(ErrorCode::kCorruptData, "the memory that the ranks share has another size than expected");
  }
  const int flags = fd_ ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS;
  void* base = ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, flags | MAP_NORESERVE,
                      fd_ ? fd_.get() : -1, 0);
  if (base == MAP_FAILED) throw_system_error("mapping the memory that the ranks share");
  base_ = static_cast<std::byte*>(base);
}

GroupMemory::~GroupMemory() { ::munmap(base_, static_cast<size_t>(bytes_)); }

std::shared_ptr<GroupMemory> GroupMemory::for_threads(int num_ranks) {
  return std::shared_ptr<GroupMemory>(new GroupMemory(Fd(), num_ranks));
}

std::shared_ptr<GroupMemory> GroupMemory::create(int num_ranks) {
  Fd fd(::memfd_create("lane", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) throw_system_error("making the memory that the ranks share");
  return std::shared_ptr<GroupMemory>(new GroupMemory(std::move(fd), num_ranks));
}

std::shared_ptr<GroupMemory> GroupMemory::open(Fd fd, int num_ranks) {
  return std::shared_ptr<GroupMemory>(new GroupMemory(std::move(fd), num_ranks));
}

LinkState& GroupMemory::link(int from, int to) const {
  return reinterpret_cast<LinkState*>(base_ + links_at_)[int64_t{from} * num_ranks_ + to];
}

std::byte* GroupMemory::ring(int from, int to) const {
  return base_ + rings_at_ + (int64_t{from} * num_ranks_ + to) * ring_bytes_;
}

}  // namespace lane
