// Moves between memory orders, shared by the kernels of every instruction set.
//
// Everything here and in the other kernel headers lies in an anonymous namespace: each instruction set's file
// gets a copy of its own, and no function compiled for one set can be linked into the code of another.
#pragma once

#include <cstdint>

// Before a loop over the pixels of a tile or the rows of a block: their registers are one array, which stays
// in registers only where every loop over it is unrolled early (GCC otherwise spills all of it around each
// tile).
#if defined(__clang__)
#define ADDERKIT_UNROLL _Pragma("unroll")
#else
#define ADDERKIT_UNROLL _Pragma("GCC unroll 32")
#endif

// Makes a pointer's origin unknown to the compiler: GCC would address all rows of a tile from the first, with
// one register for each pixel, more than there are.
#define ADDERKIT_HIDE(pointer) __asm__("" : "+r"(pointer))

namespace adderkit {
namespace {

// Packed filters that stay in a 1 MiB second-level cache beside a band of inputs.
constexpr int64_t chunk_floats = 64 * 1024;

inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// Quotients that round down and up, for b > 0 and a of either sign.
inline int64_t floor_div(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}
inline int64_t ceil_div(int64_t a, int64_t b) {
  return a >= 0 ? (a + b - 1) / b : -((-a) / b);
}

// Asks for a cache line that is wanted soon; any address will do. Rows of pixels lie far apart, so the
// processor's own prefetcher does not see them coming.
inline void prefetch(const float* p) {
  __builtin_prefetch(p);
}

// The same for later, into the second-level cache: it would crowd the first.
inline void prefetch_far(const float* p) {
  __builtin_prefetch(p, 0, 2);
}

// target[j * target_step + i] = source[i * source_step + j] for i < rows, j < columns.
template <class Isa>
void transpose(const float* source, int64_t source_step, int64_t rows, int64_t columns, float* target,
               int64_t target_step) {
  constexpr int L = Isa::lanes;
  for (int64_t i = 0; i < rows; i += L) {
    const int tall = static_cast<int>(smaller(L, rows - i));
    for (int64_t j = 0; j < columns; j += L) {
      const int wide = static_cast<int>(smaller(L, columns - j));
      const float* from = source + i * source_step + j;
      float* to = target + j * target_step + i;
      typename Isa::Vec block[L];
      if (tall == L && wide == L) {
        ADDERKIT_UNROLL
        for (int k = 0; k < L; ++k) block[k] = Isa::load(from + k * source_step);
        Isa::transpose(block);
        ADDERKIT_UNROLL
        for (int k = 0; k < L; ++k) Isa::store(to + k * target_step, block[k]);
      } else {
        ADDERKIT_UNROLL
        for (int k = 0; k < L; ++k)
          block[k] = k < tall ? Isa::load_first(from + k * source_step, wide) : Isa::zero();
        Isa::transpose(block);
        for (int k = 0; k < wide; ++k) Isa::store_first(to + k * target_step, block[k], tall);
      }
    }
  }
}

template <class Isa>
void store_up_to(float* target, typename Isa::Vec value, int64_t count) {
  if (count >= Isa::lanes)
    Isa::store(target, value);
  else
    Isa::store_first(target, value, static_cast<int>(count));
}

// Plain loops here would become calls of memset and memcpy, which cost more than rows this short.
template <class Isa>
void clear(float* target, int64_t count) {
  for (int64_t k = 0; k < count; k += Isa::lanes) store_up_to<Isa>(target + k, Isa::zero(), count - k);
}

template <class Isa>
void copy(const float* source, float* target, int64_t count) {
  constexpr int L = Isa::lanes;
  int64_t k = 0;
  for (; k + L <= count; k += L) Isa::store(target + k, Isa::load(source + k));
  if (k < count) {
    const int rest = static_cast<int>(count - k);
    Isa::store_first(target + k, Isa::load_first(source + k, rest), rest);
  }
}

// Copies `pixels` pixels of `channels` channels, read through element steps, to target[channel][pixel].
template <class Isa>
void gather(const float* source, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels,
            float* target, int64_t target_step) {
  if (channel_step == 1 && pixel_step != 1) {
    transpose<Isa>(source, pixel_step, pixels, channels, target, target_step);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const float* from = source + c * channel_step;
    float* to = target + c * target_step;
    if (pixel_step == 1)
      copy<Isa>(from, to, pixels);
    else
      for (int64_t q = 0; q < pixels; ++q) to[q] = from[q * pixel_step];
  }
}

// Writes source[pixel][lane], `step` floats a pixel, to a tensor through element steps.
template <class Isa>
void scatter(const float* source, int64_t step, int64_t channels, int64_t pixels, float* target,
             int64_t channel_step, int64_t pixel_step) {
  if (pixel_step == 1 && channel_step != 1) {
    transpose<Isa>(source, step, pixels, channels, target, channel_step);
    return;
  }
  for (int64_t q = 0; q < pixels; ++q)
    for (int64_t c = 0; c < channels; ++c) target[q * pixel_step + c * channel_step] = source[q * step + c];
}

// The size of the next tile, so that `left` pixels fall into tiles of nearly equal size.
inline int64_t tile_size(int64_t left, int64_t most) {
  return ceil_div(left, ceil_div(left, most));
}

}  // namespace
}  // namespace adderkit
