#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lane {

// An open file descriptor, closed by its owner.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd();
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();

 private:
  int fd_ = -1;
};

// A regular file that is only read. Throws Error{kSystem} naming the path.
class ReadFile {
 public:
  explicit ReadFile(const std::string& path);
  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }

  // Reads exactly `bytes` at `offset`; a shorter file is Error{kCorruptData}. Any thread may call it.
  void read(int64_t offset, void* out, int64_t bytes) const;

 private:
  std::string path_;
  Fd fd_;
  int64_t size_ = 0;
};

bool file_exists(const std::string& path);

// The whole file; Error{kInvalidArgument} if it is larger than `limit_bytes`.
std::string read_file(const std::string& path, int64_t limit_bytes = int64_t{1} << 30);

// Writes to a temporary name beside `path` and renames it, so that a reader never sees half a file. What is no regular
// file (/dev/null, /dev/stdout, a pipe) is written in place.
void write_file(const std::string& path, std::string_view content);

}  // namespace lane
