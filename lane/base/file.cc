#include "lane/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "lane/base/error.h"

namespace lane {

void throw_system_error(const std::string& doing) {
  throw Error(ErrorCode::kSystem, doing + ": " + std::strerror(errno));
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

int Fd::release() { return std::exchange(fd_, -1); }

ReadFile::ReadFile(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!fd_) throw_system_error("opening " + path);
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) throw_system_error("reading the size of " + path);
  if (!S_ISREG(status.st_mode)) throw Error(ErrorCode::kInvalidArgument, path + " is not a regular file");
  size_ = status.st_size;
}

void ReadFile::read(int64_t offset, void* out, int64_t bytes) const {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_.get(), to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system_error("reading " + path_);
    if (got == 0)
      throw Error(ErrorCode::kCorruptData, path_ + " ended at byte " + std::to_string(offset) + ", " +
                                               std::to_string(bytes) + " bytes before what was asked for");
    to += got, offset += got, bytes -= got;
  }
}

bool file_exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

std::string read_file(const std::string& path, int64_t limit_bytes) {
  const ReadFile file(path);
  if (file.size() > limit_bytes)
    throw Error(ErrorCode::kInvalidArgument, path + " has " + std::to_string(file.size()) + " bytes; at most " +
                                                 std::to_string(limit_bytes) + " were expected");
  std::string content(static_cast<size_t>(file.size()), '\0');
  file.read(0, content.data(), file.size());
  return content;
}

void write_file(const std::string& path, std::string_view content) {
  struct stat status;
  const bool is_special = ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
  const std::string temporary = is_special ? path : path + ".tmp" + std::to_string(::getpid());
  const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) throw_system_error("creating " + temporary);
  while (!content.empty()) {
    const ssize_t wrote = ::write(fd.get(), content.data(), content.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const int error = errno;
      if (!is_special) ::unlink(temporary.c_str());
      errno = error;
      throw_system_error("writing " + path);
    }
    content.remove_prefix(static_cast<size_t>(wrote));
  }
  if (is_special) return;
  if (std::rename(temporary.c_str(), path.c_str()) != 0) throw_system_error("renaming " + temporary + " to " + path);
}

}  // namespace lane
