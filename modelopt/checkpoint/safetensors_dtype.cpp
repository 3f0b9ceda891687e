#include <modelopt/checkpoint/safetensors_dtype.h>

#include <algorithm>
#include <array>

namespace modelopt::checkpoint {
namespace {

constexpr std::array<SafetensorsDtype, 22> kDtypes{{
    {"BOOL", 8, at::kBool},
    {"U8", 8, at::kByte},
    {"I8", 8, at::kChar},
    {"U16", 16, at::kUInt16},
    {"I16", 16, at::kShort},
    {"F16", 16, at::kHalf},
    {"BF16", 16, at::kBFloat16},
    {"U32", 32, at::kUInt32},
    {"I32", 32, at::kInt},
    {"F32", 32, at::kFloat},
    {"U64", 64, at::kUInt64},
    {"I64", 64, at::kLong},
    {"F64", 64, at::kDouble},
    {"F4", 4, std::nullopt},
    {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},
    {"F8_E4M3", 8, std::nullopt},
    {"F8_E8M0", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt},
    {"F8_E4M3FNUZ", 8, std::nullopt},
    {"C64", 64, std::nullopt},
}};

template <typename Predicate>
const SafetensorsDtype* find(Predicate predicate) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), predicate);
  return found == kDtypes.end() ? nullptr : &*found;
}

}  // namespace

const SafetensorsDtype* find_safetensors_dtype(std::string_view name) {
  return find([&](const SafetensorsDtype& dtype) { return dtype.name == name; });
}

const SafetensorsDtype* find_safetensors_dtype(at::ScalarType type) {
  return find([&](const SafetensorsDtype& dtype) { return dtype.scalar_type == type; });
}

}  // namespace modelopt::checkpoint
