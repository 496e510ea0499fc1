#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// Passes open files between the processes of a host: each gives one to each other, or one to the rest. All who are to
// be given one open a socket and tell the others its name; then all call swap(), or one give() and the rest take().
class FdSwap {
 public:
  FdSwap();
  const std::string& name() const { return name_; }  // random, no file

  struct Peer {
    int rank = 0;
    int pid = 0;
    std::string name;
  };
  // The descriptors of `peers`, in their order; they close on exec(). Only processes of this user with the pids of
  // `peers` are talked to. Throws Error{kPeerLost} if one is not there any more, Error{kTimeout} if one sends nothing.
  std::vector<Fd> swap(int own_rank, int own_fd, const std::vector<Peer>& peers, std::chrono::milliseconds limit);
  static void give(int own_rank, int own_fd, const std::vector<Peer>& peers);
  std::vector<Fd> take(const std::vector<Peer>& peers, std::chrono::milliseconds limit);

 private:
  std::string name_;
  Fd listener_;
};

}  // namespace lane
