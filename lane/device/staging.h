#pragma once
#include <array>
#include <cstdint>
#include <memory>

#include "lane/device/shared_memory.h"
#include "lane/device/stream.h"

namespace lane {

// The way of data from the host to a GPU at the speed of the bus: two pieces of page-locked memory that take turns, so
// that one is filled while the other is copied. A queue of each piece's own says when it is free again: nobody waits
// for the copies of others. One thread at a time.
class Staging {
 public:
  static constexpr int kPieces = 2;

  Staging(Device gpu, int64_t piece_bytes);
  ~Staging();  // waits for copies under way
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Where to write the next piece; waits until what was there before is on the GPU.
  void* next();
  // Copies what was written there to `to`, in its first bytes, and returns at once.
  void send(TensorView to);
  void finish();  // waits until everything has arrived

 private:
  struct Piece {
    Piece(Device gpu, int64_t bytes) : stream(gpu), memory(gpu, bytes) {}
    Stream stream;
    SharedMemory memory;
  };
  std::array<std::unique_ptr<Piece>, kPieces> pieces_;
  size_t at_ = 0;  // the piece that next() gives
};

}  // namespace lane
