// The functions of plugin.h for a library that takes every size and type: the plugin's class, called Peer, has
// allocate(), all_reduce() and error. Included once, at the end of the plugin.
#pragma once

namespace {
Peer& self(void* peer) { return *static_cast<Peer*>(peer); }
}  // namespace

const char* lane_peer_name() { return name.c_str(); }
void* lane_peer_open(const LanePeerGroup* group, const char* options, size_t max_bytes, char* why, size_t why_bytes) {
  return open_peer<Peer>(group, options, max_bytes, why, why_bytes);
}
void lane_peer_close(void* peer) { delete &self(peer); }
void* lane_peer_allocate(void* peer, size_t bytes) {
  void* memory = nullptr;
  guarded(self(peer).error, [&] { memory = self(peer).allocate(bytes); });
  return memory;
}
const char* lane_peer_why_not(void*, size_t, LanePeerType) { return nullptr; }
int lane_peer_all_reduce(void* peer, const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
  return guarded(self(peer).error, [&] { self(peer).all_reduce(in, out, count, type, stream); });
}
int lane_peer_captured(void*) { return 0; }
const char* lane_peer_error(void* peer) { return self(peer).error.c_str(); }
