// 8 filters in a vector of 16-bit sums; Advanced SIMD, the baseline of AArch64.
#include <arm_neon.h>

#include "kernels.h"

namespace adderkit {
namespace {

struct NeonU8 {
  static constexpr int lanes = 8, depth = 2, pixels = 6, vectors = 2;
  static constexpr int convolution_lanes = 8, convolution_pixels = 4;
  struct Scope {};

  static int64x2_t wide(const int64_t* numbers, int64_t index) { return vld1q_s64(numbers + index); }
  static int32x2_t narrow(const int64_t* numbers, int64_t index) { return vmovn_s64(wide(numbers, index)); }

  // 4 sums to 4 numbers of a byte each.
  static int32x4_t finish_four(const Epilogue& e, int64_t filter, int32x4_t sum, int32x4_t residual) {
    const auto two = [&](int64_t at, int32x2_t s, int32x2_t r) {
      int64x2_t v = vmlal_s32(wide(e.offset, at), s, narrow(e.multiplier, at));
      v = vmlal_s32(v, r, vdup_n_s32(static_cast<int32_t>(e.residual_multiplier)));
      // Saturating to 32 bits leaves the order of numbers, and so the clamp, as it is.
      return vqmovn_s64(vshlq_s64(v, vdupq_n_s64(-int64_t{e.shift})));
    };
    const int32x4_t v = vcombine_s32(two(filter, vget_low_s32(sum), vget_low_s32(residual)),
                                     two(filter + 2, vget_high_s32(sum), vget_high_s32(residual)));
    const int32x4_t low = vcombine_s32(narrow(e.low, filter), narrow(e.low, filter + 2));
    const int32x4_t high = vcombine_s32(narrow(e.high, filter), narrow(e.high, filter + 2));
    return vminq_s32(vmaxq_s32(v, low), high);
  }

  static void finish(const Epilogue& e, int64_t filter, int32x4_t first, int32x4_t second,
                     const uint8_t* residual, uint8_t* output) {
    const uint16x8_t r = residual == nullptr ? vdupq_n_u16(0) : vmovl_u8(vld1_u8(residual));
    const int32x4_t a = finish_four(e, filter, first, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(r))));
    const int32x4_t b =
        finish_four(e, filter + 4, second, vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(r))));
    const uint16x8_t both =
        vcombine_u16(vmovn_u32(vreinterpretq_u32_s32(a)), vmovn_u32(vreinterpretq_u32_s32(b)));
    vst1_u8(output, vmovn_u16(both));
  }

  // A 16-bit sum takes 510 a step: so many steps until it is added to the 32-bit one.
  static constexpr int64_t most_steps = 65535 / 510;

  template <int P, int V>
  static void adder_tile(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* x, int64_t filter,
                         const uint8_t* residual, uint8_t* output) {
    uint32x4_t total[P][V][2];
    uint16x8_t sum[P][V];
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
    for (int v = 0; v < V; ++v) {
      total[p][v][0] = total[p][v][1] = vdupq_n_u32(0);
      sum[p][v] = vdupq_n_u16(0);
    }
    const auto collect = [&] {
      ADDERKIT_U8_UNROLL
      for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
      for (int v = 0; v < V; ++v) {
        total[p][v][0] = vaddw_u16(total[p][v][0], vget_low_u16(sum[p][v]));
        total[p][v][1] = vaddw_high_u16(total[p][v][1], sum[p][v]);
        sum[p][v] = vdupq_n_u16(0);
      }
    };
    const int64_t step = layer.x_stride;
    int64_t room = most_steps;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run;) {
        const int64_t end = std::min(layer.run, k + room * depth);
        room -= (end - k) / depth;
        for (; k < end; k += depth, packed += 16 * V) {
          uint8x16_t w[V];
          ADDERKIT_U8_UNROLL
          for (int v = 0; v < V; ++v) w[v] = vld1q_u8(packed + 16 * v);
          ADDERKIT_U8_UNROLL
          for (int p = 0; p < P; ++p) {
            const uint8x16_t two =
                vreinterpretq_u8_u16(vld1q_dup_u16(reinterpret_cast<const uint16_t*>(x + p * step + k)));
            ADDERKIT_U8_UNROLL
            for (int v = 0; v < V; ++v) sum[p][v] = vpadalq_u8(sum[p][v], vabdq_u8(two, w[v]));
          }
        }
        if (room == 0) {
          collect();
          room = most_steps;
        }
      }
    collect();
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
    for (int v = 0; v < V; ++v) {
      const int64_t to = p * layer.filters + v * lanes;
      finish(layer.epilogue, filter + v * lanes, vreinterpretq_s32_u32(total[p][v][0]),
             vreinterpretq_s32_u32(total[p][v][1]), residual == nullptr ? nullptr : residual + to,
             output + to);
    }
  }

  template <int P>
  static void convolution_tile(const SlidingLayer& layer, const int16_t* packed, const int16_t* x,
                               int64_t filter, const uint8_t* residual, uint8_t* output) {
    int32x4_t sum[P][2];
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) sum[p][0] = sum[p][1] = vdupq_n_s32(0);
    const int64_t step = layer.x_stride;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; k += 2, packed += 16) {
        const int16x8x2_t w = vld2q_s16(packed);
        ADDERKIT_U8_UNROLL
        for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int16_t value = x[p * step + k + i];
          sum[p][0] = vmlal_n_s16(sum[p][0], vget_low_s16(w.val[i]), value);
          sum[p][1] = vmlal_high_n_s16(sum[p][1], w.val[i], value);
        }
      }
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) {
      const int64_t to = p * layer.filters;
      finish(layer.epilogue, filter, sum[p][0], sum[p][1], residual == nullptr ? nullptr : residual + to,
             output + to);
    }
  }
};

}  // namespace

const AdderU8Kernels adder_u8_neon = u8_kernels_of<NeonU8>();

}  // namespace adderkit
