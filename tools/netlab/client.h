#pragma once
#include <string>
#include <vector>

#include "lane/base/json.h"

namespace lane::netlab {

// The laboratory around us: NETLAB_SOCKET. Throws Error{kInvalidArgument} if there is none.
std::string laboratory_socket();

// As ssh: [options] [user@]host [command...], the words joined and given to a shell. Options are ignored, except that
// -n gives the command no input. Returns its exit status, 255 if it could not be started.
int remote_shell(const std::vector<std::string>& arguments);

// Sends one request to the running laboratory; Error{kInvalidArgument} with its words if it refuses.
Json ask_laboratory(const Json& request);

void print_stats(const Json& stats);

}  // namespace lane::netlab
