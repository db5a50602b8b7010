// The kernels as templates over an instruction set's tiles: how maps are cut into tiles and weights packed.
//
// A tile is up to `pixels` neighbouring outputs of a row for a block of `filters` filters. A set `Isa` makes
// one with adder_tile<P>() or convolution_tile<P>(), where x is the patch of the first of P pixels, residual
// (or null) and output that pixel's block, and a Finish holds what the end of a block's tiles needs.
//
// Weights of a block lie as [step][lane][depth]: `depth` neighbouring channels of each filter at a time, lane
// `i` being filter filter_of(i) of the block; a convolution's, int16, with `convolution_depth`, in order.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "plan.h"

// Sums of a tile stay in registers only where every loop over them is unrolled early.
#if defined(__clang__)
#define ADDERKIT_UNROLL_U8 _Pragma("unroll")
#else
#define ADDERKIT_UNROLL_U8 _Pragma("GCC unroll 32")
#endif
#define ADDERKIT_INLINE_U8 __attribute__((always_inline)) inline

namespace adderkit {
namespace {

// The rows of one block of filters in the columns [x, x + P * tiles).
struct Columns {
  const uint8_t* packed;
  int64_t filter, x, tiles;
};

template <class Isa>
struct U8Kernels {
  static int64_t padded_filters(const SlidingLayer& layer, int64_t block) {
    return (layer.filters + block - 1) / block * block;
  }

  // [0, width) in as few tiles as there must be, all alike but for one pixel: calls body(x, pixels, tiles)
  // once or twice.
  template <class Body>
  static void cut(int64_t width, int64_t most, const Body& body) {
    const int64_t tiles = (width + most - 1) / most, pixels = width / tiles, wider = width % tiles;
    if (wider > 0) body(int64_t{0}, pixels + 1, wider);
    body(wider * (pixels + 1), pixels, tiles - wider);
  }

  template <class Number>
  using Block = void (*)(const SlidingLayer&, const Columns&, const Number*, const uint8_t*, uint8_t*,
                         int64_t, int64_t);

  template <int P, class Number>
  static void block(const SlidingLayer& layer, const Columns& columns, const Number* input,
                    const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    const typename Isa::Finish finish(layer, columns.filter);
    for (int64_t y = first; y < last; ++y) {
      const Number* x = input + y * layer.row_stride + columns.x * layer.x_stride;
      const int64_t at = columns.x * layer.filters + columns.filter;
      const uint8_t* r = residual == nullptr ? nullptr : residual + y * layer.residual_row + at;
      uint8_t* out = output + y * layer.out_row + at;
      for (int64_t tile = 0; tile < columns.tiles; ++tile) {
        if constexpr (sizeof(Number) == 1)
          Isa::template adder_tile<P>(layer, finish, columns.packed, x, r, out);
        else
          Isa::template convolution_tile<P>(layer, finish, columns.packed, x, r, out);
        x += P * layer.x_stride;
        if (r != nullptr) r += P * layer.filters;
        out += P * layer.filters;
      }
    }
  }

  template <class Number, size_t... P>
  static Block<Number> block_of(int64_t pixels, std::index_sequence<P...>) {
    static constexpr Block<Number> table[] = {&block<static_cast<int>(P) + 1, Number>...};
    return table[pixels - 1];
  }

  template <class Number>
  static void rows(const SlidingLayer& layer, const uint8_t* packed, int64_t block_bytes, const Number* input,
                   const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    [[maybe_unused]] const typename Isa::Scope scope;
    for (int64_t filter = 0; filter < layer.filters; filter += Isa::filters, packed += block_bytes)
      cut(layer.out_width, Isa::pixels, [&](int64_t x, int64_t pixels, int64_t tiles) {
        block_of<Number>(pixels, std::make_index_sequence<Isa::pixels>())(
            layer, {packed, filter, x, tiles}, input, residual, output, first, last);
      });
  }

  static int64_t adder_block(const SlidingLayer& layer) {
    return Isa::filters * layer.kernel_rows * layer.run;
  }

  static int64_t adder_bytes(const SlidingLayer& layer) {
    return padded_filters(layer, Isa::filters) / Isa::filters * adder_block(layer);
  }

  static void pack_adder(const SlidingLayer& layer, const uint8_t* weight, int64_t filters, uint8_t* packed) {
    constexpr int64_t D = Isa::depth;
    const int64_t steps = layer.kernel_rows * layer.run / D;
    for (int64_t first = 0; first < layer.filters; first += Isa::filters)
      for (int64_t step = 0; step < steps; ++step)
        for (int64_t lane = 0; lane < Isa::filters; ++lane, packed += D) {
          const int64_t filter = first + Isa::filter_of(lane);
          if (filter < filters)
            std::memcpy(packed, weight + (filter * steps + step) * D, D);
          else
            std::memset(packed, 0, D);
        }
  }

  static void adder(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* input,
                    const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    rows(layer, packed, adder_block(layer), input, residual, output, first, last);
  }

  // A convolution's filters lie in order; where a filter row is no multiple of the depth, it ends with zeros.
  static int64_t convolution_block(const SlidingLayer& layer) {
    constexpr int64_t D = Isa::convolution_depth;
    return Isa::filters * layer.kernel_rows * ((layer.run + D - 1) / D * D) * int64_t{sizeof(int16_t)};
  }

  static int64_t convolution_bytes(const SlidingLayer& layer) {
    return padded_filters(layer, Isa::filters) / Isa::filters * convolution_block(layer);
  }

  static void pack_convolution(const SlidingLayer& layer, const int8_t* weight, int64_t filters,
                               uint8_t* packed) {
    constexpr int64_t D = Isa::convolution_depth;
    int16_t* to = reinterpret_cast<int16_t*>(packed);
    for (int64_t first = 0; first < layer.filters; first += Isa::filters)
      for (int64_t row = 0; row < layer.kernel_rows; ++row)
        for (int64_t step = 0; step < layer.run; step += D)
          for (int64_t filter = first; filter < first + Isa::filters; ++filter)
            for (int64_t k = step; k < step + D; ++k) {
              const bool is_there = filter < filters && k < layer.run;
              *to++ = is_there ? weight[(filter * layer.kernel_rows + row) * layer.run + k] : int16_t{0};
            }
  }

  static void convolution(const SlidingLayer& layer, const uint8_t* packed, const int16_t* input,
                          const uint8_t* residual, uint8_t* output, int64_t first, int64_t last) {
    rows(layer, packed, convolution_block(layer), input, residual, output, first, last);
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
