#pragma once
#include <string>
#include <vector>

#include "lane/base/file.h"
#include "lane/base/json.h"

namespace lane::netlab {

// One JSON object and some open files over a SOCK_SEQPACKET socket.
struct Message {
  Json json;
  std::vector<Fd> files;
};

// False if the peer is gone. Waits at most five seconds for room; at most 100 KB.
bool send_message(int socket, const Json& json, const std::vector<int>& files = {});

// Waits until `timeout_ms` has passed (-1: without a limit). An empty (null) message says that the peer is gone or sent
// what is not ours; Error{kTimeout} that nothing came.
Message receive_message(int socket, int timeout_ms, const std::string& from_whom);

// A socket in the abstract namespace, which leaves no file behind and which each network namespace has for itself;
// `name` begins with '@'. Only root and our own user are let in.
Fd listen_at(const std::string& name);
Fd connect_to(const std::string& name);
Fd accept_at(int listener);  // without a file: the caller was not let in

}  // namespace lane::netlab
