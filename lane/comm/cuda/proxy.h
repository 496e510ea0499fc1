#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "lane/base/error.h"
#include "lane/comm/communicator.h"
#include "lane/comm/cuda/mailbox.h"

namespace lane::cuda {

// Sums between nodes for kernels that cannot reach the network: threads of the host take the orders out of mailboxes
// and run the collectives of groups on the CPU, on whatever carries those. Channel c has the mailboxes c, c + channels,
// c + 2 channels, ...; more channels overlap more pieces. Piece, type and operation are all that decides about a sum's
// bits, and for elements of one type not even the cut into pieces, if the groups keep one order.
//
// Why all ranks of a channel call the same collectives in the same order, though each posts in an order of its own and
// some are calls ahead: a call uses mailboxes 0 to pieces-1, the same on all ranks. Let S be what channel c has to do,
// call by call: its mailboxes below `pieces`, ascending; calls of too few pieces have none. S is the same on all ranks,
// and a rank's thread follows it. Suppose that it has done the first i orders of S. The next one is either further up
// in the same call, whose `pieces` it has read, or in mailbox c; so it knows which mailbox to wait for, and looks at no
// other. What appears there is the next of S: earlier orders in that mailbox have landed, and a later one is posted
// only after a call whose pieces have all landed. Nobody waits for ever: of the orders of a call that have not landed
// on all ranks take the one in the lowest mailbox. It waits for no other to be posted, and its channel for no other to
// land.
//
// A thread polls without a pause for two milliseconds after a piece, offering its core to others. Then it sleeps a
// fortieth of the time since, at most 50 µs, which later grows to a 2000th and at most 1 ms: no wait gets longer by
// more than that. Polling is a core per channel in use; idle threads take some percent of one in the first seconds and
// then next to nothing.
class Proxy {
 public:
  struct Memory {
    Mailbox* mailboxes = nullptr;  // kMailboxes
    const std::byte* to_network = nullptr;
    std::byte* from_network = nullptr;
    int64_t bytes = 0;  // of each of the two
  };

  // `channels` join the same ranks, each with its own connections; as split_channels() makes them. The memory outlives
  // the proxy. `on_failure` is called once, on a thread of the proxy, when a sum fails here, which fails all channels
  // on all ranks; from then on nothing lands. It must not destroy the proxy.
  Proxy(std::vector<Communicator> channels, Memory memory, std::function<void(const Error&)> on_failure);
  // Does not wait for what was posted: a sum under way is given up, which fails the other ranks. Without one, it
  // leaves, and what others still wait for arrives. Takes some ten milliseconds at most.
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

 private:
  struct Channel;
  void serve(int index);
  bool wait_for_order(Mailbox& mailbox, int64_t idle_since_ns) const;  // false: the proxy ends
  void sum(Channel& channel, const Mailbox& order, Stream& stream);
  void fail(const Error& error) noexcept;
  void end() noexcept;

  Memory memory_;
  std::function<void(const Error&)> on_failure_;
  std::atomic<bool> is_ending_ = false;  // by the destructor or by a failure
  std::vector<std::unique_ptr<Channel>> channels_;
};

// `num_channels` groups of the ranks that have one place in their nodes, in the order of the nodes. Their sums keep one
// order. All ranks of `host` call it alike. Throws Error{kUnsupported} unless all nodes have as many ranks.
std::vector<Communicator> split_channels(Communicator& host, int num_channels);

// LANE_PROXY_CHANNELS; throws Error{kInvalidArgument} unless it is a number from 1 to kMailboxes.
int proxy_channels_setting();

}  // namespace lane::cuda
