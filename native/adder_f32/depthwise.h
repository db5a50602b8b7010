// What both passes of a depthwise layer (as many groups as channels and filters) share.
//
// Lanes are channels: the input, the filter and the gradient are all vectors, read where they lie if a
// pixel's channels are neighbours, else from a copy [row][column][lane]. A sum has few terms, one for each
// tap, so it is the formula itself: no sums beside it, no offset.
//
// A part of a layer is what one task does of an image's channels: all of them where nothing is copied, else
// one vector, so that a band has many rows and hardly any is copied twice.
#pragma once

#include "blocks.h"
#include "plan.h"

namespace adderkit {
namespace {

// Where a tap of a run of pixels reads the part's first channel for the first of them, and where its filter
// lies in a packed block.
struct DepthwiseTap {
  const float* at;
  int64_t filter;
};

// Distance in floats between places of different arrays, to fetch the one while working at the other.
inline int64_t floats_between(const float* from, const float* to) {
  return (reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from)) / 4;
}

// A pass's tiles of every number of pixels, for whole vectors of channels and for a part of one.
template <class Pass, int... P>
struct DepthwiseTiles {
  static constexpr typename Pass::Tile whole[] = {nullptr, &Pass::template tile<P, true>...};
  static constexpr typename Pass::Tile partial[] = {nullptr, &Pass::template tile<P, false>...};
};
template <class Pass, int Left, int... P>
struct DepthwiseTilesUpTo : DepthwiseTilesUpTo<Pass, Left - 1, Left, P...> {};
template <class Pass, int... P>
struct DepthwiseTilesUpTo<Pass, 0, P...> : DepthwiseTiles<Pass, P...> {};

template <class Isa>
struct Depthwise {
  static constexpr int L = Isa::lanes;

  // Packs the filters of vector `block` of the channels as [tap][lane]; false where one is not finite.
  static bool pack(const Shape& s, const float* weight, int64_t block, float* packed) {
    const int64_t* step = s.weight_stride;
    const int64_t first = block * L, lanes = smaller(L, s.channels - first);
    float* to = packed + block * block_floats(s);
    bool is_odd = false;
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j, to += L) {
        const float* from = weight + first * step[0] + i * step[2] + j * step[3];
        for (int64_t c = 0; c < lanes; ++c) to[c] = from[c * step[0]];
        for (int64_t c = lanes; c < L; ++c) to[c] = 0.0f;
        is_odd |= Isa::any_not_finite(Isa::load(to));
      }
    return !is_odd;
  }

  static int64_t block_floats(const Shape& s) { return s.kernel_height * s.kernel_width * L; }

  static int64_t list_floats(const Shape& s) {  // a DepthwiseTap and an offset for each tap, in whole vectors
    return ceil_div(s.kernel_height * s.kernel_width * 6, 16) * 16;
  }

  // Copies rows of a vector of channels to [row][column][lane]; rows without a gap between them as one.
  static void gather_rows(const float* source, const int64_t* step, int64_t lanes, int64_t rows,
                          int64_t columns, float* target) {
    const bool is_run = step[2] == columns * step[3];
    const int64_t runs = is_run ? 1 : rows, pixels = is_run ? rows * columns : columns;
    for (int64_t r = 0; r < runs; ++r)
      gather<Isa>(source + r * step[2], step[3], step[1], pixels, lanes, target + r * pixels * L, L);
  }

  // The way back.
  static void scatter_rows(const float* source, const int64_t* step, int64_t lanes, int64_t rows,
                           int64_t columns, float* target) {
    const bool is_run = step[2] == columns * step[3];
    const int64_t runs = is_run ? 1 : rows, pixels = is_run ? rows * columns : columns;
    for (int64_t r = 0; r < runs; ++r)
      scatter<Isa>(source + r * pixels * L, L, lanes, pixels, target + r * step[2], step[1], step[3]);
  }
};

}  // namespace
}  // namespace adderkit
