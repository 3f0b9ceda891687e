#include <modelopt/checkpoint/safetensors_file.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/checkpoint/json_object.h>
#include <modelopt/checkpoint/safetensors_dtype.h>
#include <modelopt/error.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

using nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian and its data is used in place");

constexpr std::uint64_t kPrefixSize = 8;               // the header's length, unsigned, little-endian
constexpr std::uint64_t kMaxHeaderSize = 100'000'000;  // a rule of the format

// Elements of the shape; nothing if their number, or the strides of a shape with a zero in it, exceed 63 bits.
std::optional<std::uint64_t> count_elements(const std::vector<std::int64_t>& shape) {
  std::int64_t nonzero_product = 1;
  for (const std::int64_t size : shape)
    if (__builtin_mul_overflow(nonzero_product, std::max<std::int64_t>(size, 1), &nonzero_product)) return std::nullopt;
  const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
  return empty ? 0 : static_cast<std::uint64_t>(nonzero_product);
}

std::vector<std::int64_t> read_shape(JsonObject& entry) {
  const ordered_json& value = entry.required("shape");
  constexpr std::string_view kExpected = "an array of integers from 0 to 2^63 - 1";
  if (!value.is_array()) entry.fail("shape", kExpected);
  std::vector<std::int64_t> shape;
  for (const ordered_json& size : value) {
    if (!size.is_number_unsigned() ||
        size.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
      entry.fail("shape", kExpected);
    shape.push_back(size.get<std::int64_t>());
  }
  return shape;
}

TensorInfo read_entry(JsonObject entry, std::uint64_t data_size) {
  TensorInfo info;
  info.dtype = entry.string("dtype");
  const SafetensorsDtype* dtype = find_safetensors_dtype(info.dtype);
  if (dtype == nullptr) entry.fail("dtype", "a dtype of the safetensors format");
  info.scalar_type = dtype->scalar_type;
  info.shape = read_shape(entry);

  const ordered_json& offsets = entry.required("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    entry.fail("data_offsets", "two integers >= 0");
  info.begin = offsets[0].get<std::uint64_t>();
  info.end = offsets[1].get<std::uint64_t>();
  if (info.begin > info.end || info.end > data_size)
    entry.fail("data_offsets", str("begin <= end <= ", data_size, ", the size of the data"));
  entry.expect_no_other_keys();

  const auto elements = count_elements(info.shape);
  std::uint64_t bits = 0;
  if (!elements || __builtin_mul_overflow(*elements, static_cast<std::uint64_t>(dtype->bits), &bits))
    entry.fail("shape", "a tensor of fewer than 2^64 bits");
  if (bits % 8 != 0) entry.fail("shape", str("a whole number of bytes for dtype ", info.dtype));
  if (bits / 8 != info.nbytes())
    entry.fail("data_offsets",
               str(bits / 8, " bytes for dtype ", info.dtype, " and shape ", shown(entry.required("shape"))));
  return info;
}

std::map<std::string, std::string> read_metadata(const JsonObject& header, const ordered_json& value) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) header.fail("__metadata__", "an object of strings");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) header.fail("__metadata__", "an object of strings");
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

// Tensors must cover the data from its first byte to its last, without holes and overlaps.
void check_coverage(const std::map<std::string, TensorInfo, std::less<>>& tensors, std::uint64_t data_size,
                    const std::string& origin) {
  std::vector<std::pair<const std::string, TensorInfo> const*> by_offset;
  for (const auto& entry : tensors) by_offset.push_back(&entry);
  std::sort(by_offset.begin(), by_offset.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::uint64_t covered = 0;
  for (const auto* entry : by_offset) {
    const TensorInfo& info = entry->second;
    MODELOPT_CHECK(info.begin <= covered, DataError, origin, ": bytes ", covered, " to ", info.begin,
                   " of the data belong to no tensor, expected no hole before ", quoted(entry->first));
    MODELOPT_CHECK(info.begin == covered, DataError, origin, ": ", quoted(entry->first), " begins at byte ", info.begin,
                   " of the data, expected ", covered, ": tensors overlap");
    covered = info.end;
  }
  MODELOPT_CHECK(covered == data_size, DataError, origin, ": the data has ", data_size,
                 " bytes, but the tensors end at byte ", covered);
}

}  // namespace

// The whole file, private and copy-on-write: nobody can change the file through a tensor.
class SafetensorsFile::Mapping {
 public:
  explicit Mapping(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    MODELOPT_CHECK(file >= 0, DataError, path.string(), ": cannot open: ", std::strerror(errno));
    struct stat status {};
    const bool is_regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    size_ = is_regular ? static_cast<std::uint64_t>(status.st_size) : 0;
    if (size_ >= kPrefixSize) data_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    const int reason = errno;
    ::close(file);
    MODELOPT_CHECK(is_regular, DataError, path.string(), ": not a regular file");
    MODELOPT_CHECK(size_ >= kPrefixSize, DataError, path.string(), ": ", size_, " bytes, expected at least ",
                   kPrefixSize);
    MODELOPT_CHECK(data_ != MAP_FAILED, DataError, path.string(), ": cannot map: ", std::strerror(reason));
  }
  ~Mapping() {
    if (data_ != MAP_FAILED) ::munmap(data_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  [[nodiscard]] char* data() const { return static_cast<char*>(data_); }
  [[nodiscard]] std::uint64_t size() const { return size_; }

 private:
  void* data_ = MAP_FAILED;
  std::uint64_t size_ = 0;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), mapping_(std::make_shared<const Mapping>(path)) {
  const std::string origin = path.string() + ": header";
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, mapping_->data(), kPrefixSize);
  MODELOPT_CHECK(header_size <= kMaxHeaderSize, DataError, origin, ": length ", header_size, ", expected at most ",
                 kMaxHeaderSize);
  MODELOPT_CHECK(header_size <= mapping_->size() - kPrefixSize, DataError, origin, ": length ", header_size,
                 ", but only ", mapping_->size() - kPrefixSize, " bytes follow");
  const std::string_view text(mapping_->data() + kPrefixSize, header_size);
  MODELOPT_CHECK(text.starts_with('{'), DataError, origin, ": does not begin with {");
  data_start_ = kPrefixSize + header_size;
  const std::uint64_t data_size = mapping_->size() - data_start_;

  const ordered_json json = parse_ordered_json(text, origin);
  const JsonObject header(json, origin);
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__")
      metadata_ = read_metadata(header, value);
    else
      tensors_.emplace(name, read_entry(JsonObject(value, origin, header.path_of(name)), data_size));
  }
  check_coverage(tensors_, data_size, path.string());
}

at::Tensor SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  MODELOPT_CHECK(found != tensors_.end(), DataError, path_.string(), ": there is no tensor ", quoted(name));
  const TensorInfo& info = found->second;
  MODELOPT_CHECK(info.scalar_type.has_value(), DataError, path_.string(), ": tensor ", quoted(name), " has dtype ",
                 info.dtype, ", which cannot be loaded");
  char* data = mapping_->data() + data_start_ + info.begin;
  if (info.nbytes() == 0) return at::empty(info.shape, *info.scalar_type);
  if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(*info.scalar_type) != 0) {
    at::Tensor copy = at::empty(info.shape, *info.scalar_type);
    std::memcpy(copy.mutable_data_ptr(), data, info.nbytes());
    return copy;
  }
  return at::from_blob(
      data, info.shape, [mapping = mapping_](void*) {}, at::TensorOptions(*info.scalar_type));
}

}  // namespace modelopt::checkpoint
