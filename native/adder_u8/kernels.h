// The kernels as templates over an instruction set's tiles: how rows are cut into tiles and weights packed.
//
// A set `Isa` offers, for the adder layer, `lanes` filters in a vector, `depth` neighbouring channels of each
// of them in a step, up to `pixels` x `vectors` sums in registers and
//   adder_tile<P, V>(layer, packed, x, filter, residual, output)
// and for the convolution `convolution_lanes` filters in a tile of up to `convolution_pixels` pixels:
//   convolution_tile<P>(layer, packed, x, filter, residual, output)
// Tiles make P neighbouring pixels of one row from the patch at x; V vectors, or a tile of filters, from
// `filter` on.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "plan.h"

#define ADDERKIT_U8_UNROLL _Pragma("GCC unroll 32")

namespace adderkit {
namespace {

template <class Isa>
struct U8Kernels {
  static int64_t steps_of(const SlidingLayer& layer) { return layer.kernel_rows * layer.run / Isa::depth; }

  // Numbers [0, width) in as few tiles as there must be, all alike but for one.
  template <class Body>
  static void tiles(int64_t width, int64_t most, const Body& body) {
    const int64_t count = (width + most - 1) / most;
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t first = width * tile / count;
      body(first, width * (tile + 1) / count - first);
    }
  }

  // ---- adder: packed [block of vectors][step][vector][lane][depth]

  using AdderTile = void (*)(const SlidingLayer&, const uint8_t*, const uint8_t*, int64_t, const uint8_t*,
                             uint8_t*);

  template <int V, size_t... P>
  static constexpr std::array<AdderTile, sizeof...(P)> adder_tiles(std::index_sequence<P...>) {
    return {&Isa::template adder_tile<static_cast<int>(P) + 1, V>...};
  }

  template <size_t... V>
  static AdderTile adder_tile(int64_t pixels, int64_t vectors, std::index_sequence<V...>) {
    static constexpr std::array<AdderTile, Isa::pixels> table[] = {
        adder_tiles<static_cast<int>(V) + 1>(std::make_index_sequence<Isa::pixels>())...};
    return table[vectors - 1][static_cast<size_t>(pixels - 1)];
  }

  static int64_t adder_bytes(const SlidingLayer& layer) {
    return layer.filters * layer.kernel_rows * layer.run;
  }

  static void pack_adder(const SlidingLayer& layer, const uint8_t* weight, int64_t filters, uint8_t* packed) {
    constexpr int64_t L = Isa::lanes, D = Isa::depth;
    const int64_t steps = steps_of(layer), vectors = layer.filters / L;
    for (int64_t first = 0; first < vectors; first += Isa::vectors) {
      const int64_t V = std::min<int64_t>(Isa::vectors, vectors - first);
      for (int64_t step = 0; step < steps; ++step)
        for (int64_t lane = 0; lane < V * L; ++lane, packed += D) {
          const int64_t filter = first * L + lane;
          if (filter < filters)
            std::memcpy(packed, weight + (filter * steps + step) * D, D);
          else
            std::memset(packed, 0, D);
        }
    }
  }

  static void adder(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* input,
                    const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    constexpr int64_t L = Isa::lanes;
    const int64_t steps = steps_of(layer), vectors = layer.filters / L;
    [[maybe_unused]] const typename Isa::Scope scope;
    for (int64_t vector = 0; vector < vectors; vector += Isa::vectors) {
      const int64_t V = std::min<int64_t>(Isa::vectors, vectors - vector);
      const uint8_t* weight = packed + vector * L * steps * Isa::depth;
      for (int64_t y = first; y < last; ++y)
        tiles(layer.out_width, Isa::pixels, [&](int64_t x, int64_t pixels) {
          const int64_t at = x * layer.filters + vector * L;
          adder_tile(pixels, V, std::make_index_sequence<Isa::vectors>())(
              layer, weight, input + y * layer.row_stride + x * layer.x_stride, vector * L,
              residual == nullptr ? nullptr : residual + y * layer.residual_row + at,
              output + y * layer.out_row + at);
        });
    }
  }

  // ---- convolution: packed [tile of filters][filter row][pair of numbers][lane][2], int16

  using ConvolutionTile = void (*)(const SlidingLayer&, const int16_t*, const int16_t*, int64_t,
                                   const uint8_t*, uint8_t*);

  template <size_t... P>
  static ConvolutionTile convolution_tile(int64_t pixels, std::index_sequence<P...>) {
    static constexpr ConvolutionTile table[] = {&Isa::template convolution_tile<static_cast<int>(P) + 1>...};
    return table[pixels - 1];
  }

  static int64_t pairs_of(const SlidingLayer& layer) { return (layer.run + 1) / 2; }

  static int64_t convolution_bytes(const SlidingLayer& layer) {
    constexpr int64_t L = Isa::convolution_lanes;
    return (layer.filters + L - 1) / L * L * layer.kernel_rows * pairs_of(layer) * 4;
  }

  static void pack_convolution(const SlidingLayer& layer, const int8_t* weight, int64_t filters,
                               uint8_t* packed) {
    constexpr int64_t L = Isa::convolution_lanes;
    const int64_t pairs = pairs_of(layer);
    int16_t* to = reinterpret_cast<int16_t*>(packed);
    for (int64_t first = 0; first < layer.filters; first += L)
      for (int64_t row = 0; row < layer.kernel_rows; ++row)
        for (int64_t pair = 0; pair < pairs; ++pair)
          for (int64_t lane = 0; lane < L; ++lane)
            for (int64_t k = 2 * pair; k < 2 * pair + 2; ++k) {
              const int64_t filter = first + lane;
              const bool is_there = filter < filters && k < layer.run;
              *to++ = is_there ? weight[(filter * layer.kernel_rows + row) * layer.run + k] : int16_t{0};
            }
  }

  static void convolution(const SlidingLayer& layer, const uint8_t* packed, const int16_t* input,
                          const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    constexpr int64_t L = Isa::convolution_lanes;
    const int64_t numbers = layer.kernel_rows * pairs_of(layer) * 2;
    for (int64_t filter = 0; filter < layer.filters; filter += L) {
      const int16_t* weight = reinterpret_cast<const int16_t*>(packed) + filter * numbers;
      for (int64_t y = first; y < last; ++y)
        tiles(layer.out_width, Isa::convolution_pixels, [&](int64_t x, int64_t pixels) {
          const int64_t at = x * layer.filters + filter;
          convolution_tile(pixels, std::make_index_sequence<Isa::convolution_pixels>())(
              layer, weight, input + y * layer.row_stride + x * layer.x_stride, filter,
              residual == nullptr ? nullptr : residual + y * layer.residual_row + at,
              output + y * layer.out_row + at);
        });
    }
  }
};

template <class Isa>
constexpr AdderU8Kernels u8_kernels_of() {
  using All = U8Kernels<Isa>;
  return {&All::adder_bytes,       &All::pack_adder,       &All::adder,
          &All::convolution_bytes, &All::pack_convolution, &All::convolution};
}

}  // namespace
}  // namespace adderkit
