#include <modelopt/util/file.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <cstdlib>
#include <utility>

#include <modelopt/error.h>

namespace modelopt {
namespace {

namespace fs = std::filesystem;

std::string reason() { return std::strerror(errno); }

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

// Makes the entry itself durable: a rename survives a crash only once its directory is synced.
void sync_path(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  MODELOPT_CHECK(file.get() >= 0, DataError, path.string(), ": cannot open to sync: ", reason());
  MODELOPT_CHECK(::fsync(file.get()) == 0, DataError, path.string(), ": cannot sync: ", reason());
}

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void write_all(const Descriptor& file, const fs::path& path, std::string_view content) {
  while (!content.empty()) {
    const ssize_t step = ::write(file.get(), content.data(), content.size());
    if (step < 0 && errno == EINTR) continue;
    MODELOPT_CHECK(step >= 0, DataError, path.string(), ": cannot write: ", reason());
    content.remove_prefix(static_cast<std::size_t>(step));
  }
}

fs::path without_trailing_slash(fs::path path) { return path.has_filename() ? path : path.parent_path(); }

}  // namespace

std::string read_file(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  MODELOPT_CHECK(file.get() >= 0, DataError, path.string(), ": cannot open: ", reason());
  std::string content;
  char buffer[1 << 16];
  while (true) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    MODELOPT_CHECK(got >= 0, DataError, path.string(), ": cannot read: ", reason());
    if (got == 0) return content;
    content.append(buffer, static_cast<std::size_t>(got));
  }
}

fs::path link_target(fs::path path) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code failure;
  for (int links = 0; fs::is_symlink(path, failure); ++links) {
    MODELOPT_CHECK(links < kMostLinks, DataError, path.string(), ": too many symbolic links");
    const fs::path target = fs::read_symlink(path, failure);
    MODELOPT_CHECK(!failure, DataError, path.string(), ": cannot resolve: ", failure.message());
    path = parent_of(path) / target;  // target alone if it is absolute
  }
  return path;
}

bool is_device(const fs::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

void write_file_atomically(const fs::path& name, std::string_view content) {
  if (is_device(name)) {
    const Descriptor device(::open(name.c_str(), O_WRONLY | O_CLOEXEC));
    MODELOPT_CHECK(device.get() >= 0, DataError, name.string(), ": cannot open: ", reason());
    return write_all(device, name, content);
  }
  const fs::path path = link_target(name);
  std::string temporary = (parent_of(path) / ("." + path.filename().string() + ".XXXXXX")).string();
  const Descriptor file(::mkstemp(temporary.data()));
  MODELOPT_CHECK(file.get() >= 0, DataError, path.string(), ": cannot create a temporary file beside it: ", reason());
  try {
    write_all(file, path, content);
    // mkstemp creates the file for its owner alone; give it what the umask would have given.
    const mode_t mask = ::umask(0);
    ::umask(mask);
    MODELOPT_CHECK(::fchmod(file.get(), 0666 & ~mask) == 0, DataError, path.string(),
                   ": cannot set its mode: ", reason());
    MODELOPT_CHECK(::fsync(file.get()) == 0, DataError, path.string(), ": cannot sync: ", reason());
    MODELOPT_CHECK(::rename(temporary.c_str(), path.c_str()) == 0, DataError, path.string(),
                   ": cannot rename: ", reason());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_path(parent_of(path));
}

AtomicDirectory::AtomicDirectory(fs::path target, bool overwrite)
    : target_(without_trailing_slash(std::move(target))), overwrite_(overwrite) {
  MODELOPT_CHECK(!target_.empty() && !target_.filename().empty(), DataError, "an output directory needs a name");
  MODELOPT_CHECK(overwrite_ || !fs::exists(fs::symlink_status(target_)), DataError, target_.string(),
                 ": exists already; expected a new directory (or --overwrite)");
  const fs::path parent = parent_of(target_);
  std::error_code failure;
  fs::create_directories(parent, failure);
  MODELOPT_CHECK(!failure, DataError, parent.string(), ": cannot create: ", failure.message());
  std::string pattern = (parent / ("." + target_.filename().string() + ".XXXXXX")).string();
  MODELOPT_CHECK(::mkdtemp(pattern.data()) != nullptr, DataError, target_.string(),
                 ": cannot create a temporary directory beside it: ", reason());
  temporary_ = pattern;
  std::error_code ignored;
  fs::permissions(temporary_,
                  fs::perms::group_read | fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec,
                  fs::perm_options::add, ignored);
}

AtomicDirectory::~AtomicDirectory() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(temporary_))
    if (entry.is_regular_file()) sync_path(entry.path());
  sync_path(temporary_);
  // rename(2) replaces only an empty directory, so an old target first moves aside; it is put back if the rename fails.
  fs::path aside;
  if (fs::exists(fs::symlink_status(target_))) {
    MODELOPT_CHECK(overwrite_, DataError, target_.string(),
                   ": came into being meanwhile; expected a new directory (or --overwrite)");
    aside = temporary_.string() + ".old";
    MODELOPT_CHECK(::rename(target_.c_str(), aside.c_str()) == 0, DataError, target_.string(),
                   ": cannot replace: ", reason());
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const std::string why = reason();
    if (!aside.empty()) ::rename(aside.c_str(), target_.c_str());
    throw DataError(str(target_.string(), ": cannot rename the finished directory into place: ", why));
  }
  committed_ = true;
  sync_path(parent_of(target_));
  if (!aside.empty()) {
    std::error_code ignored;
    fs::remove_all(aside, ignored);
  }
}

}  // namespace modelopt
