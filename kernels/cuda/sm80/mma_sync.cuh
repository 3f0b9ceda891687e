// The PTX instructions of the sm80 kernels, one function each.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace modelopt::kernels::cuda::sm80 {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes from global to shared memory, or writes zeros and does not read if not `inside`.
__device__ inline void copy_async_16(std::uint32_t shared, const void* global, bool inside) {
  asm volatile(
      "{\n"
      ".reg .pred ignore;\n"
      "setp.eq.u32 ignore, %2, 0;\n"
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, ignore;\n"
      "}" ::"r"(shared),
      "l"(global), "r"(static_cast<std::uint32_t>(inside))
      : "memory");
}

/// The same for what is read once: the L2 cache gives it up before everything else.
__device__ inline void copy_async_16_once(std::uint32_t shared, const void* global, bool inside) {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "{\n"
      ".reg .pred ignore;\n"
      "setp.eq.u32 ignore, %2, 0;\n"
      "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, ignore, %3;\n"
      "}" ::"r"(shared),
      "l"(global), "r"(static_cast<std::uint32_t>(inside)), "l"(policy)
      : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `kPending` of this thread's committed groups are under way.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline void store_shared_16(std::uint32_t shared, const std::uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

/// Four 8x8 matrices of 16-bit elements. Lane l hands in the address of row l % 8 of matrix l / 8 and gets elements
/// 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each.
__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

/// The same, transposed: rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4.
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

/// d += a b with a 16x16, b 16x8. Of lane l: d[0], d[1] are row l / 4, d[2], d[3] row l / 4 + 8, columns
/// 2 (l % 4) and 2 (l % 4) + 1.
template <typename Element>
__device__ inline void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<Element, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// d += a b with a 16x32, two of every four consecutive elements of a row present, b 32x8. `metadata` is read from quad
/// lanes 2 kSelector (k 0..15) and 2 kSelector + 1 (k 16..31): bits 4g … 4g+3 are the two indices, ascending, of the
/// g-th group of row l / 4; the upper half is row l / 4 + 8.
template <typename Element, int kSelector>
__device__ inline void mma_sp_16x8x32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4],
                                      std::uint32_t metadata) {
  if constexpr (std::is_same_v<Element, __half>) {
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
          "n"(kSelector));
  } else {
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
          "n"(kSelector));
  }
}

/// Transposes 4-bit fields over the quad, in each half of the word: lane c gets at field i what lane i has at field c.
__device__ inline std::uint32_t transpose_fields_over_quad(std::uint32_t word) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool upper = (threadIdx.x & 2) != 0;
  const std::uint32_t kept = odd ? 0xF0F0F0F0u : 0x0F0F0F0Fu;
  std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, word, 1);
  other = __funnelshift_l(other, other, odd ? 28 : 4);
  word = (word & kept) | (other & ~kept);
  other = __shfl_xor_sync(0xFFFFFFFFu, word, 2);
  return __byte_perm(word, other, upper ? 0x3715 : 0x6240);
}

}  // namespace modelopt::kernels::cuda::sm80
