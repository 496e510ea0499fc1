#include "lane/comm/group/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "lane/base/error.h"
#include "lane/comm/group/board.h"

namespace lane {
namespace {

constexpr int64_t kPage = 4096;

int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

int64_t ring_bytes_for(int64_t num_members) {
  const int64_t pairs = std::max<int64_t>(1, num_members * (num_members - 1));
  const auto share = std::bit_floor(static_cast<uint64_t>((int64_t{32} << 20) / pairs));
  return std::clamp<int64_t>(static_cast<int64_t>(share), 16 << 10, 256 << 10);
}

}  // namespace

GroupMemory::GroupMemory(Fd fd, int num_ranks, std::vector<int> members)
    : fd_(std::move(fd)), num_ranks_(num_ranks), members_(std::move(members)) {
  const auto m = static_cast<int64_t>(members_.size());
  ring_bytes_ = ring_bytes_for(m);
  cursors_at_ = whole_pages(Board::bytes(num_ranks));
  const int64_t num_cursors = m * m * 2 + m * (1 + m);
  rings_at_ = cursors_at_ + whole_pages(num_cursors * static_cast<int64_t>(sizeof(Cursor)));
  bytes_ = rings_at_ + (m * m + m) * ring_bytes_;
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
  std::vector<int> all(num_ranks);
  std::iota(all.begin(), all.end(), 0);
  return std::shared_ptr<GroupMemory>(new GroupMemory(Fd(), num_ranks, std::move(all)));
}

std::shared_ptr<GroupMemory> GroupMemory::create(int num_ranks, std::vector<int> members) {
  Fd fd(::memfd_create("lane", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) throw_system_error("making the memory that the ranks share");
  return std::shared_ptr<GroupMemory>(new GroupMemory(std::move(fd), num_ranks, std::move(members)));
}

std::shared_ptr<GroupMemory> GroupMemory::open(Fd fd, int num_ranks, std::vector<int> members) {
  return std::shared_ptr<GroupMemory>(new GroupMemory(std::move(fd), num_ranks, std::move(members)));
}

GroupMemory::Ring GroupMemory::pair_ring(int from, int to) const {
  const int64_t m = static_cast<int64_t>(members_.size()), index = from * m + to;
  Cursor* cursors = reinterpret_cast<Cursor*>(base_ + cursors_at_) + index * 2;
  return {cursors, cursors + 1, base_ + rings_at_ + index * ring_bytes_};
}

GroupMemory::Ring GroupMemory::multicast_ring(int from) const {
  const auto m = static_cast<int64_t>(members_.size());
  Cursor* cursors = reinterpret_cast<Cursor*>(base_ + cursors_at_) + m * m * 2 + from * (1 + m);
  return {cursors, cursors + 1, base_ + rings_at_ + (m * m + from) * ring_bytes_};
}

}  // namespace lane
