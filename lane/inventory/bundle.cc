#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <memory>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/inventory/pci.h"
#include "lane/inventory/redact.h"
#include "lane/inventory/take.h"

namespace lane::inventory {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxBytes = int64_t{256} << 20;
constexpr int kMaxEntries = 100000;

using Writer = std::unique_ptr<archive, decltype(&archive_write_free)>;
using Reader = std::unique_ptr<archive, decltype(&archive_read_free)>;
using Entry = std::unique_ptr<archive_entry, decltype(&archive_entry_free)>;

std::string words_of(archive* from) {
  const char* words = archive_error_string(from);
  return words != nullptr ? words : "unknown error";
}

// Buses of virtual machines have UUIDs in the paths of their devices: only what follows the PCI root counts.
std::string short_path(const std::string& path) {
  constexpr std::string_view kDevices = "/sys/devices/";
  if (!path.starts_with(kDevices)) return path;
  const size_t pci = path.find("/pci", kDevices.size() - 1);
  return pci == std::string::npos || pci_id_of(path).empty() ? path : std::string(kDevices) + path.substr(pci + 1);
}

// A tar file compressed with zstd, in memory.
class Packer {
 public:
  Packer() : out_(archive_write_new(), archive_write_free), now_(::time(nullptr)) {
    const auto append = [](archive*, void* self, const void* bytes, size_t size) -> la_ssize_t {
      static_cast<Packer*>(self)->content_.append(static_cast<const char*>(bytes), size);
      return static_cast<la_ssize_t>(size);
    };
    if (archive_write_set_format_pax_restricted(out_.get()) != ARCHIVE_OK ||
        archive_write_add_filter_zstd(out_.get()) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(out_.get(), 1) != ARCHIVE_OK ||  // no zeros behind zstd's last frame
        archive_write_open(out_.get(), this, nullptr, append, nullptr) != ARCHIVE_OK)
      throw Error(ErrorCode::kUnsupported, "libarchive cannot write zstd: " + words_of(out_.get()));
  }

  void add_folder(const std::string& path) { add(path, AE_IFDIR, 0755, {}, {}); }
  void add_file(const std::string& path, const std::string& content) { add(path, AE_IFREG, 0644, content, {}); }
  void add_link(const std::string& path, const std::string& target) { add(path, AE_IFLNK, 0777, {}, target); }

  std::string finish() {
    if (archive_write_close(out_.get()) != ARCHIVE_OK) fail();
    return std::move(content_);
  }

 private:
  [[noreturn]] void fail() { throw Error(ErrorCode::kSystem, "packing a bundle: " + words_of(out_.get())); }
  void add(const std::string& path, unsigned type, int mode, const std::string& content, const std::string& target) {
    const Entry entry(archive_entry_new(), archive_entry_free);
    archive_entry_set_pathname(entry.get(), path.c_str() + 1);  // relative
    archive_entry_set_filetype(entry.get(), type);
    archive_entry_set_perm(entry.get(), static_cast<mode_t>(mode));
    archive_entry_set_mtime(entry.get(), now_, 0);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
    if (!target.empty()) archive_entry_set_symlink(entry.get(), target.c_str());
    if (archive_write_header(out_.get(), entry.get()) != ARCHIVE_OK) fail();
    if (!content.empty() &&
        archive_write_data(out_.get(), content.data(), content.size()) != static_cast<la_ssize_t>(content.size()))
      fail();
  }

  std::string content_;
  Writer out_;
  time_t now_;
};

[[noreturn]] void corrupt(const std::string& file, const std::string& what) {
  throw Error(ErrorCode::kCorruptData,
              file + ": " + what + "; make the bundle again: lane doctor --collect FILE.tar.zst");
}

// The parts of a relative path of a bundle, which must stay below its root.
std::vector<std::string> parts_of(const std::string& path, const std::string& file) {
  std::vector<std::string> parts;
  if (path.starts_with('/')) corrupt(file, "entry " + in_quotes(path) + " is absolute");
  for (const std::string_view part : split(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") corrupt(file, "entry " + in_quotes(path) + " leads upwards");
    parts.emplace_back(part);
  }
  return parts;
}

// A target may go up only at its beginning, and at most to the root: then it stays inside whatever other links there
// are, since the folder of a link is never reached over a link.
void check_target(const std::string& target, size_t depth, const std::string& path, const std::string& file) {
  bool is_going_up = !target.starts_with('/');
  if (!is_going_up) corrupt(file, "link " + in_quotes(path) + " is absolute");
  for (const std::string_view part : split(target, '/')) {
    is_going_up = is_going_up && part == "..";
    if (part == ".." && (!is_going_up || depth-- == 0)) corrupt(file, "link " + in_quotes(path) + " leads out");
  }
}

// Unpacks files and folders first and links last: nothing is ever written over a link.
class Unpacker {
 public:
  Unpacker(std::string file, std::string folder) : file_(std::move(file)), folder_(std::move(folder)) {}

  void run() {
    const Reader in(archive_read_new(), archive_read_free);
    if (archive_read_support_format_tar(in.get()) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(in.get()) != ARCHIVE_OK)
      throw Error(ErrorCode::kUnsupported, "libarchive cannot read zstd: " + words_of(in.get()));
    if (archive_read_open_filename(in.get(), file_.c_str(), 65536) != ARCHIVE_OK) corrupt(file_, words_of(in.get()));
    archive_entry* entry = nullptr;
    int num_entries = 0;
    for (int status; (status = archive_read_next_header(in.get(), &entry)) != ARCHIVE_EOF;) {
      if (status != ARCHIVE_OK) corrupt(file_, words_of(in.get()));
      if (++num_entries > kMaxEntries) corrupt(file_, fmt::format("more than {} entries", kMaxEntries));
      unpack(in.get(), entry);
    }
    if (num_entries == 0) corrupt(file_, "it is empty");
    for (const auto& [path, target] : links_) link(path, target);
  }

 private:
  void unpack(archive* in, archive_entry* entry) {
    const char* name = archive_entry_pathname(entry);
    if (name == nullptr) corrupt(file_, "an entry has no name");
    const std::vector<std::string> parts = parts_of(name, file_);
    if (archive_entry_hardlink(entry) != nullptr) corrupt(file_, "entry " + in_quotes(name) + " is a hard link");
    const auto type = archive_entry_filetype(entry);
    std::string path = folder_;
    for (size_t i = 0; i < parts.size(); ++i) {
      path += "/" + parts[i];
      if (i + 1 < parts.size() || type == AE_IFDIR) make_folder(path);
    }
    if (type == AE_IFDIR) return;
    if (parts.empty()) corrupt(file_, "an entry has no name");
    if (type == AE_IFLNK) {
      const char* target = archive_entry_symlink(entry);
      if (target == nullptr) corrupt(file_, "link " + in_quotes(name) + " leads nowhere");
      check_target(target, parts.size() - 1, name, file_);
      links_[path] = target;
    } else if (type == AE_IFREG) {
      copy(in, entry, path, name);
    } else {
      corrupt(file_, "entry " + in_quotes(name) + " is neither a file nor a folder nor a link");
    }
  }

  void make_folder(const std::string& path) {
    if (folders_.insert(path).second && ::mkdir(path.c_str(), 0700) != 0)
      corrupt(file_, "two entries are called " + in_quotes(path.substr(folder_.size() + 1)));
  }

  void copy(archive* in, archive_entry* entry, const std::string& path, const std::string& name) {
    if (archive_entry_size(entry) > kMaxBytes - bytes_)
      corrupt(file_, fmt::format("more than {} MiB", kMaxBytes >> 20));
    const Fd out(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!out && errno == EEXIST) corrupt(file_, "two entries are called " + in_quotes(name));
    if (!out) throw_system_error("unpacking " + path);
    char block[65536];
    for (la_ssize_t got; (got = archive_read_data(in, block, sizeof block)) != 0;) {
      if (got < 0) corrupt(file_, words_of(in));
      if ((bytes_ += got) > kMaxBytes) corrupt(file_, fmt::format("more than {} MiB", kMaxBytes >> 20));
      for (const char* at = block; got > 0;) {
        const ssize_t wrote = ::write(out.get(), at, static_cast<size_t>(got));
        if (wrote < 0) throw_system_error("unpacking " + path);
        at += wrote;
        got -= wrote;
      }
    }
  }

  void link(const std::string& path, const std::string& target) {
    if (::symlink(target.c_str(), path.c_str()) != 0)
      corrupt(file_, "two entries are called " + in_quotes(path.substr(folder_.size() + 1)));
  }

  const std::string file_, folder_;
  int64_t bytes_ = 0;
  std::set<std::string> folders_;
  std::map<std::string, std::string> links_;
};

}  // namespace

std::vector<std::string> collect_bundle(const std::string& file, const std::string& root) {
  HostCalls calls = calls_of(root);
  Files files(root, calls.why_unreadable);
  take(files, calls, {});
  calls.why_unreadable.clear();

  Packer packer;
  std::vector<std::string> names;
  for (const std::string& folder : files.folders_seen())
    if (folder != "/") packer.add_folder(short_path(folder));
  for (const auto& [path, reading] : files.files_seen()) {
    if (!reading.ok() && !reading.is_absent) calls.why_unreadable[short_path(path)] = reading.why;
    const auto content = reading.ok() ? redacted(path, reading.text) : std::nullopt;
    if (!content) continue;
    packer.add_file(short_path(path), *content);
    names.push_back(short_path(path).substr(1));
  }
  for (const std::string& path : files.marks_seen())
    if (!files.files_seen().count(path)) packer.add_file(short_path(path), {});
  for (const auto& [path, real] : files.links_seen()) {
    const fs::path link = short_path(path);
    packer.add_link(link.string(), fs::path(short_path(real)).lexically_relative(link.parent_path()).string());
    names.push_back(link.string().substr(1));
  }
  packer.add_file(kCallsFile, to_json(calls).dump(1) + "\n");
  names.push_back(kCallsFile + 1);
  write_file(file, packer.finish());
  return names;
}

BundleRoot::BundleRoot(const std::string& folder_or_bundle) : path_(folder_or_bundle) {
  if (fs::is_directory(folder_or_bundle)) return;
  if (!fs::is_regular_file(folder_or_bundle))
    throw Error(ErrorCode::kInvalidArgument, folder_or_bundle +
                                                 ": expected a folder with copies of /proc and /sys, or a "
                                                 "bundle that lane doctor --collect made");
  std::string folder = (fs::temp_directory_path() / fmt::format("lane-bundle-{}-XXXXXX", ::getpid())).string();
  if (::mkdtemp(folder.data()) == nullptr) throw_system_error("making a folder for " + folder_or_bundle);
  try {
    Unpacker(folder_or_bundle, folder).run();
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
  path_ = folder;
  is_temporary_ = true;
}

BundleRoot::~BundleRoot() {
  std::error_code ignored;
  if (is_temporary_) fs::remove_all(path_, ignored);
}

}  // namespace lane::inventory
