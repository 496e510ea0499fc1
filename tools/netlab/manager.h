#pragma once
#include "tools/netlab/laboratory.h"

namespace lane::netlab {

// The body of a laboratory's first process, which is process 1 of its own process namespace: makes the hosts, starts
// the router and the commands, serves `netlab ssh`, `set` and `stats`, collects whatever ends. Returns the exit status
// once the commands are done or `lifeline` is closed by its other end; the caller then ends, and everything with it.
// `signals` is a signalfd of SIGCHLD, SIGINT, SIGTERM and SIGHUP, which are blocked.
int manage(const RunOptions& options, int lifeline, int signals);

}  // namespace lane::netlab
