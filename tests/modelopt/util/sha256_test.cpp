#include <modelopt/util/sha256.h>

#include <catch2/catch_test_macros.hpp>

#include <string>

using modelopt::Sha256;
using modelopt::sha256_hex;

TEST_CASE("digests of the standard's examples") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("the pieces do not matter") {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i);
  for (std::size_t first = 0; first <= 130; ++first) {
    Sha256 hash;
    hash.update(std::string_view(text).substr(0, first));
    hash.update(std::string_view(text).substr(first));
    CHECK(hash.hex_digest() == sha256_hex(text));
  }
}
