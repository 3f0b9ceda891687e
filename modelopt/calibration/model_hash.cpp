#include <modelopt/calibration/model_hash.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string_view>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/sha256.h>

namespace modelopt::calibration {
namespace {

// Eight lanes that take a word each in turn, so that multiplications overlap.
class Checksum {
 public:
  // `bytes`: a multiple of 64, but for the file's last piece, which is filled up with zeros.
  void update(std::string_view bytes) {
    std::array<std::uint64_t, kLanes> words;
    for (std::size_t at = 0; at < bytes.size(); at += sizeof words) {
      words.fill(0);
      std::memcpy(words.data(), bytes.data() + at, std::min(sizeof words, bytes.size() - at));
      for (std::size_t i = 0; i < kLanes; ++i)
        lanes_[i] = std::rotl((lanes_[i] ^ words[i]) * 0x9E3779B97F4A7C15U, 29) + i + 1;
    }
  }

  [[nodiscard]] std::string_view digest() const {
    return {reinterpret_cast<const char*>(lanes_.data()), sizeof lanes_};
  }

 private:
  static constexpr std::size_t kLanes = 8;
  std::array<std::uint64_t, kLanes> lanes_{};
};

void add_weights(const std::filesystem::path& path, Sha256& hash) {
  constexpr std::size_t kPiece = std::size_t{1} << 22U;
  std::ifstream file(path, std::ios::binary);
  MODELOPT_CHECK(file, DataError, path.string(), ": cannot be opened");
  Checksum checksum;
  std::vector<char> piece(kPiece);
  std::uint64_t total = 0;
  while (file) {
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    const auto got = static_cast<std::size_t>(file.gcount());
    checksum.update({piece.data(), got});
    total += got;
  }
  MODELOPT_CHECK(file.eof(), DataError, path.string(), ": cannot be read");
  hash.update(str(path.filename().string(), '\0', total, '\0'));
  hash.update(checksum.digest());
}

}  // namespace

std::string model_hash(const std::filesystem::path& directory) {
  Sha256 hash;
  for (const char* name : {"config.json", "tokenizer.json"}) {
    const auto path = checkpoint::find_model_file(directory, name);
    hash.update(str(name, '\0', path ? sha256_hex(read_file(*path)) : "absent", '\0'));
  }
  const checkpoint::Checkpoint weights(directory);
  for (const std::string& name : weights.file_names()) add_weights(checkpoint::model_file(directory, name), hash);
  return hash.hex_digest();
}

}  // namespace modelopt::calibration
