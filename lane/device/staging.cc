#include "lane/device/staging.h"

namespace lane {

Staging::Staging(Device gpu, int64_t piece_bytes) {
  for (auto& piece : pieces_) piece = std::make_unique<Piece>(gpu, piece_bytes);
}

Staging::~Staging() {
  for (auto& piece : pieces_) {
    try {
      piece->stream.synchronize();
    } catch (const Error&) {  // then nothing is copied any more; who waited for it in finish() was told
    }
  }
}

void* Staging::next() {
  pieces_[at_]->stream.synchronize();
  return pieces_[at_]->memory.host();
}

void Staging::send(TensorView to) {
  Piece& piece = *pieces_[at_];
  ensure(to.bytes() <= piece.memory.bytes(), "what is sent fits into a piece");
  copy_to_device(piece.memory.host(), to, piece.stream);
  at_ = (at_ + 1) % kPieces;
}

void Staging::finish() {
  for (auto& piece : pieces_) piece->stream.synchronize();
}

}  // namespace lane
