// A communication library as a process beside a rank of Lane: it takes commands on standard input, runs them together
// with its like beside the other ranks, and answers with a line of JSON. Between commands it waits in read(), so that
// it takes nothing from what is measured meanwhile.
//
//   all_reduce <bytes> <dtype> <op> <calls> <batches>   {"ok": true, "us": [per call, one for each batch], "wrong": 0}
//   ping_pong <bytes> <calls> <batches>                 {"ok": true, "us": [half a round trip between first and last]}
//   quit
//
// The first line it writes, unasked, says which library it is: {"ok": true, "name": "Open MPI v4.1.4", "rank": 0,
// "size": 2}. What cannot be is {"ok": false, "error": "..."}. lane/net/peers.h is the other side.
#pragma once
#include <cstdint>
#include <string>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"

namespace lane::peers {

class Library {
 public:
  virtual ~Library() = default;
  virtual std::string name() const = 0;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // The buffers and the operation of the calls to all_reduce() that follow; Error if the library has no such thing.
  virtual void prepare(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) = 0;
  virtual void all_reduce() = 0;
  virtual void barrier() = 0;
  virtual void send(const void* data, int64_t bytes, int to) = 0;
  virtual void receive(void* data, int64_t bytes, int from) = 0;
};

// into[i] = a[i] op b[i], for libraries that lack a type: 16-bit ones are added in float32 and rounded.
void combine(DType dtype, ReduceOp op, void* into, const void* a, const void* b, int64_t count);

// Keeps standard output for answers: what a library prints there goes to standard error. Call it first.
void claim_standard_output();

// Works until "quit" or the end of input; the exit status for main().
int serve(Library& library);

// For what fails before there is a library to serve.
void answer_error(const std::string& what);

}  // namespace lane::peers
