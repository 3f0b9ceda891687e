// Whether this GPU's sparse wgmma takes the two kept elements of a group in either order.
#pragma once

namespace modelopt::kernels::cuda::sm90 {

/// PTX documents the metadata of a group of four with ascending indices only. The current device is tried once, with
/// all twelve ordered pairs in every group, row and selector, and what it says is remembered. May be called while a
/// CUDA graph is captured. Throws modelopt::Error where CUDA fails.
[[nodiscard]] bool unordered_metadata_works();

/// For tests: whether every device counts as one that does not, so that its 2:4 kernel puts pairs in order.
void refuse_unordered_metadata(bool refuse);

}  // namespace modelopt::kernels::cuda::sm90
