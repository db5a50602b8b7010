// Tiles for vectors that are made of 128-bit parts, AVX2 and AVX-512. `Ops` names the instructions.
//
// A vector of sums holds one filter in each 64-bit lane, a block of filters is two of them. The end of a
// tile:
//   v = multiplier * sum + offset [+ residual_multiplier * residual]     64 bits, exact
//   v >> shift = (upper half of v) >> (shift - 32)                       where shift >= 32
// so two vectors of v give one of 32-bit numbers (a shuffle within 128-bit parts), four pixels of those
// become one of bytes (two steps of packing, which saturate to 0..255), and a permutation puts each pixel's
// filters side by side. The order of filters in the lanes is such that this permutation is of 32-bit units.
#pragma once

#include <cstdint>

#include "denormals.h"
#include "kernels.h"

namespace adderkit {
namespace {

template <class Ops>
struct X86U8 {
  using Vec = typename Ops::Vec;
  using Scope = Denormals;
  static constexpr int parts = sizeof(Vec) / 16;
  static constexpr int filters = 4 * parts, depth = 8, convolution_depth = 2, pixels = Ops::pixels;

  // In 128-bit part j, the first vector has filters 4j and 4j + 1, the second 4j + 2 and 4j + 3.
  static int64_t filter_of(int64_t lane) {
    const int64_t vector = lane / (2 * parts), in_vector = lane % (2 * parts);
    return in_vector / 2 * 4 + vector * 2 + in_vector % 2;
  }

  class Finish {
   public:
    Finish(const SlidingLayer& layer, int64_t filter)
        : is_whole_(layer.filters - filter >= X86U8::filters), pixel_(layer.filters) {
      const Epilogue& e = layer.epilogue;
      alignas(64) int64_t multiplier[X86U8::filters], offset[X86U8::filters], pairs[2][X86U8::filters];
      alignas(64) uint8_t low[X86U8::filters], high[X86U8::filters];
      for (int lane = 0; lane < X86U8::filters; ++lane) {
        const int64_t from = filter + filter_of(lane);
        multiplier[lane] = e.multiplier[from];
        offset[lane] = e.offset[from];
        // For sums in 32-bit lanes: those of even filters, then those of odd ones.
        const int64_t other = filter + lane % (2 * parts) * 2 + lane / (2 * parts);
        pairs[0][lane] = e.multiplier[other];
        pairs[1][lane] = e.offset[other];
        low[lane] = static_cast<uint8_t>(e.low[filter + lane]);
        high[lane] = static_cast<uint8_t>(e.high[filter + lane]);
      }
      for (int v = 0; v < 2; ++v) {
        multiplier_[v] = Ops::load(multiplier + 2 * parts * v);
        offset_[v] = Ops::load(offset + 2 * parts * v);
        pair_multiplier_[v] = Ops::load(pairs[0] + 2 * parts * v);
        pair_offset_[v] = Ops::load(pairs[1] + 2 * parts * v);
      }
      low_ = Ops::repeat(low);
      high_ = Ops::repeat(high);
      residual_multiplier_ = Ops::set_64(e.residual_multiplier);
      residual_left_ = _mm_cvtsi32_si128(e.residual_shift);
      right_ = _mm_cvtsi32_si128(e.shift < 32 ? 0 : e.shift - 32);
      left_ = e.shift < 32 ? 32 - e.shift : 0;
      least_ = Ops::set_64(-((int64_t{1} << 31) << (e.shift < 32 ? e.shift : 0)));
      most_ = Ops::set_64(((int64_t{1} << 31) - 1) << (e.shift < 32 ? e.shift : 0));
    }

    // Of a tile's sums in 64-bit lanes.
    template <int P>
    ADDERKIT_INLINE_U8 void wide(const Vec (&sum)[P][2], const uint8_t* residual, uint8_t* output) const {
      store<P>(output, [&](int p) {
        Vec v[2];
        ADDERKIT_UNROLL_U8
        for (int i = 0; i < 2; ++i) v[i] = Ops::add(Ops::multiply(sum[p][i], multiplier_[i]), offset_[i]);
        if (residual != nullptr) {
          const Vec r = load_residual(residual + p * pixel_);
          v[0] = Ops::add(v[0], Ops::multiply(Ops::unpack_low(r), residual_multiplier_));
          v[1] = Ops::add(v[1], Ops::multiply(Ops::unpack_high(r), residual_multiplier_));
        }
        return Ops::shift_right(Ops::upper_halves(placed(v[0]), placed(v[1])), right_);
      });
    }

    // Of a tile's sums in 32-bit lanes, filters in order.
    template <int P>
    ADDERKIT_INLINE_U8 void narrow(const Vec (&sum)[P], const uint8_t* residual, uint8_t* output) const {
      store<P>(output, [&](int p) {
        Vec even = Ops::add(Ops::multiply(sum[p], pair_multiplier_[0]), pair_offset_[0]);
        Vec odd = Ops::add(Ops::multiply(Ops::odd(sum[p]), pair_multiplier_[1]), pair_offset_[1]);
        if (residual != nullptr) {
          const Vec r = load_residual(residual + p * pixel_);
          even = Ops::add(even, Ops::multiply(r, residual_multiplier_));
          odd = Ops::add(odd, Ops::multiply(Ops::odd(r), residual_multiplier_));
        }
        return Ops::shift_right(Ops::upper_pairs(placed(even), placed(odd)), right_);
      });
    }

   private:
    // The result in the upper half of each lane also where the shift is below 32; what does not fit there is
    // far beyond the clamp.
    ADDERKIT_INLINE_U8 Vec placed(Vec v) const {
      if (__builtin_expect(left_ == 0, 1)) return v;
      return Ops::shift_left(Ops::clamp(v, least_, most_), _mm_cvtsi32_si128(left_));
    }

    ADDERKIT_INLINE_U8 Vec load_residual(const uint8_t* at) const {
      return Ops::shift_left_32(is_whole_ ? Ops::load_bytes(at) : Ops::load_half(at), residual_left_);
    }

    template <int P, class Numbers>
    ADDERKIT_INLINE_U8 void store(uint8_t* output, const Numbers& numbers) const {
      ADDERKIT_UNROLL_U8
      for (int p = 0; p < P; p += 4) {
        Vec four[4];
        ADDERKIT_UNROLL_U8
        for (int i = 0; i < 4; ++i) four[i] = p + i < P ? numbers(p + i) : Ops::zero();
        Vec bytes = Ops::pack_words(Ops::pack_numbers(four[0], four[1]), Ops::pack_numbers(four[2], four[3]));
        bytes = Ops::min_bytes(Ops::max_bytes(Ops::by_pixel(bytes), low_), high_);
        if (is_whole_)
          Ops::store_pixels(output + p * pixel_, pixel_, bytes, P - p);
        else
          Ops::store_half_pixels(output + p * pixel_, pixel_, bytes, P - p);
      }
    }

    bool is_whole_;  // else the block has 8 filters of which half are there
    int64_t pixel_;
    Vec multiplier_[2], offset_[2], pair_multiplier_[2], pair_offset_[2];
    Vec low_, high_, residual_multiplier_, least_, most_;
    __m128i right_, residual_left_;
    int left_;
  };

  template <int P>
  ADDERKIT_INLINE_U8 static void adder_tile(const SlidingLayer& layer, const Finish& finish,
                                            const uint8_t* packed, const uint8_t* x, const uint8_t* residual,
                                            uint8_t* output) {
    Vec sum[P][2];
    ADDERKIT_UNROLL_U8
    for (int p = 0; p < P; ++p) sum[p][0] = sum[p][1] = Ops::zero();
    const int64_t step = layer.x_stride, run = layer.run;
    for (int64_t row = layer.kernel_rows; row > 0; --row, x += layer.row) {
      // Three pixels for each pointer: p, p + step, p + 2 * step are addresses of one instruction.
      const uint8_t* at[(P + 2) / 3];
      ADDERKIT_UNROLL_U8
      for (int p = 0; p < P; p += 3) at[p / 3] = x + p * step;
      for (int64_t k = 0; k < run; k += depth, packed += 2 * sizeof(Vec)) {
        const Vec w[2] = {Ops::load(packed), Ops::load(packed + sizeof(Vec))};
        ADDERKIT_UNROLL_U8
        for (int p = 0; p < P; ++p) {
          int64_t eight;
          __builtin_memcpy(&eight, at[p / 3] + p % 3 * step + k, sizeof eight);
          const Vec one = Ops::set_64(eight);
          sum[p][0] = Ops::add_distances(sum[p][0], one, w[0]);
          sum[p][1] = Ops::add_distances(sum[p][1], one, w[1]);
        }
      }
    }
    finish.template wide<P>(sum, residual, output);
  }

  template <int P>
  ADDERKIT_INLINE_U8 static void convolution_tile(const SlidingLayer& layer, const Finish& finish,
                                                  const uint8_t* packed, const int16_t* x,
                                                  const uint8_t* residual, uint8_t* output) {
    Vec sum[P];
    ADDERKIT_UNROLL_U8
    for (int p = 0; p < P; ++p) sum[p] = Ops::zero();
    const int64_t step = layer.x_stride;
    for (int64_t row = layer.kernel_rows; row > 0; --row, x += layer.row)
      for (int64_t k = 0; k < layer.run; k += 2, packed += sizeof(Vec)) {
        const Vec w = Ops::load(packed);
        ADDERKIT_UNROLL_U8
        for (int p = 0; p < P; ++p) {
          int32_t pair;
          __builtin_memcpy(&pair, x + p * step + k, sizeof pair);
          sum[p] = Ops::add_products(sum[p], Ops::set_32(pair), w);
        }
      }
    finish.template narrow<P>(sum, residual, output);
  }
};

}  // namespace
}  // namespace adderkit
