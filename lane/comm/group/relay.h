#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/comm/group/board.h"

namespace lane {

// One end of the connection between the leaders of two hosts, on which they tell each other what their boards say.
// Never blocks. Messages are framed, bounded and checked: a stream that is not of this kind ends the relay.
class Relay {
 public:
  explicit Relay(Fd socket);

  int socket() const { return socket_.get(); }
  bool wants_to_send() const { return !out_.empty(); }

  struct RankStatus {
    int32_t rank = 0;
    Board::Status status;
  };
  // Left out while older news still waits to be sent, unless it is the last: it would be stale, and a new one follows.
  void send_statuses(const std::vector<RankStatus>& statuses, bool is_last);
  // Never left out.
  void send_failure(const Error& failure);
  void flush();

  struct News {
    std::vector<RankStatus> statuses;  // the latest of each
    std::vector<Error> failures;
    std::string ended;  // why nothing more will come: "" as long as it may
  };
  News receive();

  // Sends what waits for at most a moment, then ends the connection in a way that lets all of it arrive.
  void close();

 private:
  void send(uint32_t kind, std::string_view body);
  bool parse(std::string_view body, uint32_t kind, News& news) const;

  Fd socket_;
  std::string in_, out_;
  bool can_send_ = true;
};

}  // namespace lane
