// Tile sizes and shared memory of the Hopper skip-softmax kernel.
#pragma once

#include "kernels/cuda/sm90/skip/prepare_skip.h"
#include "kernels/cuda/sm90/traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// What KernelTraits is to the dense and N:M kernel, as far as the parts that both use ask for it.
template <typename Element_, int kHeadDim_, bool kRecords_>
struct SkipTraits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;  ///< 64 or 128; smaller ones are padded with zeros by the copies
  static constexpr Pattern kPattern = Pattern::kDense;
  static constexpr Reference kReference = Reference::kTrueMaxima;
  static constexpr bool kRecords = kRecords_;
  static constexpr bool kSparse = false;
  static constexpr bool kPermutedKeys = false;
  static constexpr bool kPermutedValues = false;
  static constexpr int kBlock = 8;  ///< without meaning where keys are not permuted

  static constexpr int kWarpgroups = 2;
  static constexpr int kRows = kSkipRows;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kConsumerRegisters = 240;
  static constexpr int kProducerRegisters = 24;

  static constexpr int kKeys = kSkipKeys;
  static constexpr int kQueryStages = 2;
  static constexpr int kKeyStages = 3;
  static constexpr int kValueStages = 2;

  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kRowPanelBytes = kRows * 128;
  static constexpr int kKeyPanelBytes = kKeys * 128;
  static constexpr int kQueryBytes = kPanels * kRowPanelBytes;
  static constexpr int kStageBytes = kPanels * kKeyPanelBytes;

  static constexpr int kScores = kKeys / 2;
  static constexpr int kOutputs = kHeadDim / 2;

  static_assert(kRows == kWarpgroups * kBlockRows);
};

/// Votes of a warpgroup on one key block, a byte for each of its warps: 1 if all rows of the warp that see a key vote
/// for skipping it.
constexpr std::uint32_t kAllSkip = 0x01010101;

constexpr int kVoteSlots = 8;  ///< key blocks whose votes are kept: so far the loader of V may lag behind that of K

template <typename Element, int kHeadDim, bool kRecords>
struct alignas(1024) SharedMemory<SkipTraits<Element, kHeadDim, kRecords>> {
  using Traits = SkipTraits<Element, kHeadDim, kRecords>;
  std::uint8_t q[Traits::kQueryStages][Traits::kQueryBytes];
  std::uint8_t k[Traits::kKeyStages][Traits::kStageBytes];
  std::uint8_t v[Traits::kValueStages][Traits::kStageBytes];
  std::uint64_t q_full[Traits::kQueryStages], q_empty[Traits::kQueryStages];
  std::uint64_t k_full[Traits::kKeyStages], k_empty[Traits::kKeyStages];
  std::uint64_t v_full[Traits::kValueStages], v_empty[Traits::kValueStages];
  std::uint64_t votes_full[kVoteSlots][Traits::kWarpgroups];  ///< one arrival per warp of the warpgroup
  std::uint64_t votes_read[kVoteSlots];                       ///< by the loader of V
  std::uint32_t votes[kVoteSlots][Traits::kWarpgroups];
  std::uint64_t slot_full[kSlots];
  TileSlot slots[kSlots];
};

struct SkipArguments : KernelArguments {
  const float* log_lambda = nullptr;  ///< [batch] ln(lambda)
};

}  // namespace modelopt::kernels::cuda::sm90
