// SHA-256 (FIPS 180-4), to tell data apart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace modelopt {

/// Takes bytes piece by piece.
class Sha256 {
 public:
  void update(std::string_view bytes);
  /// The digest of all bytes as 64 hexadecimal digits. The object is spent.
  [[nodiscard]] std::string hex_digest();

 private:
  static constexpr std::size_t kBlock = 64;
  void process(const unsigned char* block);

  std::array<std::uint32_t, 8> state_ = {0x6a09e667U, 0xbb67ae85U, 0x3c6ef372U, 0xa54ff53aU,
                                         0x510e527fU, 0x9b05688cU, 0x1f83d9abU, 0x5be0cd19U};
  std::array<unsigned char, kBlock> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
};

[[nodiscard]] std::string sha256_hex(std::string_view bytes);

}  // namespace modelopt
