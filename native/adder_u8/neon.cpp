// Blocks of 16 filters; Advanced SIMD, the baseline of AArch64.
#include <arm_neon.h>

#include "kernels.h"

namespace adderkit {
namespace {

struct NeonU8 {
  static constexpr int filters = 16, depth = 2, convolution_depth = 1, pixels = 6;
  struct Scope {};
  static int64_t filter_of(int64_t lane) { return lane; }

  class Finish {
   public:
    Finish(const SlidingLayer& layer, int64_t filter)
        : epilogue_(layer.epilogue),
          filter_(filter),
          pixel_(layer.filters),
          is_whole_(layer.filters - filter >= filters) {}

    // Of the sums of one pixel; a block that is not whole has 8 filters.
    void operator()(const int32x4_t (&sum)[4], int p, const uint8_t* residual, uint8_t* output) const {
      const int64_t to = p * pixel_;
      eight(0, sum[0], sum[1], residual == nullptr ? nullptr : residual + to, output + to);
      if (is_whole_)
        eight(8, sum[2], sum[3], residual == nullptr ? nullptr : residual + to + 8, output + to + 8);
    }

   private:
    static int32x2_t narrow(const int64_t* numbers) { return vmovn_s64(vld1q_s64(numbers)); }
    static int32x4_t narrow_four(const int64_t* numbers) {
      return vcombine_s32(narrow(numbers), narrow(numbers + 2));
    }

    int32x2_t two(int64_t at, int32x2_t sum, int32x2_t residual) const {
      int64x2_t v = vmlal_s32(vld1q_s64(epilogue_.offset + at), sum, narrow(epilogue_.multiplier + at));
      v = vmlal_s32(v, residual, vdup_n_s32(static_cast<int32_t>(epilogue_.residual_multiplier)));
      // Saturating to 32 bits leaves the order of numbers, and so the clamp, as it is.
      return vqmovn_s64(vshlq_s64(v, vdupq_n_s64(-int64_t{epilogue_.shift})));
    }
    uint16x4_t four(int64_t at, int32x4_t sum, uint16x4_t residual) const {
      const int32x4_t r =
          vshlq_s32(vreinterpretq_s32_u32(vmovl_u16(residual)), vdupq_n_s32(epilogue_.residual_shift));
      const int32x4_t v = vcombine_s32(two(at, vget_low_s32(sum), vget_low_s32(r)),
                                       two(at + 2, vget_high_s32(sum), vget_high_s32(r)));
      const int32x4_t least = vmaxq_s32(v, narrow_four(epilogue_.low + at));
      return vmovn_u32(vreinterpretq_u32_s32(vminq_s32(least, narrow_four(epilogue_.high + at))));
    }
    void eight(int64_t offset, int32x4_t first, int32x4_t second, const uint8_t* residual,
               uint8_t* output) const {
      const uint16x8_t r = residual == nullptr ? vdupq_n_u16(0) : vmovl_u8(vld1_u8(residual));
      const int64_t at = filter_ + offset;
      vst1_u8(output, vmovn_u16(vcombine_u16(four(at, first, vget_low_u16(r)),
                                             four(at + 4, second, vget_high_u16(r)))));
    }

    const Epilogue& epilogue_;
    int64_t filter_, pixel_;
    bool is_whole_;
  };

  // 16-bit sums of 8 filters take 510 a step; after so many steps they are added to the 32-bit ones.
  static constexpr int64_t most_steps = 65535 / 510;

  template <int P>
  struct Sums {
    uint16x8_t now[P][2];
    uint32x4_t total[P][4];

    void clear() {
      ADDERKIT_UNROLL_U8
      for (int p = 0; p < P; ++p) {
        now[p][0] = now[p][1] = vdupq_n_u16(0);
        total[p][0] = total[p][1] = total[p][2] = total[p][3] = vdupq_n_u32(0);
      }
    }
    void collect() {
      ADDERKIT_UNROLL_U8
      for (int p = 0; p < P; ++p) {
        ADDERKIT_UNROLL_U8
        for (int v = 0; v < 2; ++v) {
          total[p][2 * v] = vaddw_u16(total[p][2 * v], vget_low_u16(now[p][v]));
          total[p][2 * v + 1] = vaddw_high_u16(total[p][2 * v + 1], now[p][v]);
          now[p][v] = vdupq_n_u16(0);
        }
      }
    }
  };

  template <int P>
  ADDERKIT_INLINE_U8 static void adder_tile(const SlidingLayer& layer, const Finish& finish,
                                            const uint8_t* packed, const uint8_t* x, const uint8_t* residual,
                                            uint8_t* output) {
    Sums<P> sums;
    sums.clear();
    const int64_t step = layer.x_stride;
    int64_t room = most_steps;
    for (int64_t row = layer.kernel_rows; row > 0; --row, x += layer.row)
      for (int64_t k = 0; k < layer.run;) {
        const int64_t end = std::min(layer.run, k + room * depth);
        room -= (end - k) / depth;
        for (; k < end; k += depth, packed += 32) {
          const uint8x16_t w[2] = {vld1q_u8(packed), vld1q_u8(packed + 16)};
          ADDERKIT_UNROLL_U8
          for (int p = 0; p < P; ++p) {
            const uint8x16_t two =
                vreinterpretq_u8_u16(vld1q_dup_u16(reinterpret_cast<const uint16_t*>(x + p * step + k)));
            sums.now[p][0] = vpadalq_u8(sums.now[p][0], vabdq_u8(two, w[0]));
            sums.now[p][1] = vpadalq_u8(sums.now[p][1], vabdq_u8(two, w[1]));
          }
        }
        if (room == 0) {
          sums.collect();
          room = most_steps;
        }
      }
    sums.collect();
    ADDERKIT_UNROLL_U8
    for (int p = 0; p < P; ++p) {
      const uint32x4_t* total = sums.total[p];
      const int32x4_t sum[4] = {vreinterpretq_s32_u32(total[0]), vreinterpretq_s32_u32(total[1]),
                                vreinterpretq_s32_u32(total[2]), vreinterpretq_s32_u32(total[3])};
      finish(sum, p, residual, output);
    }
  }

  template <int P>
  ADDERKIT_INLINE_U8 static void convolution_tile(const SlidingLayer& layer, const Finish& finish,
                                                  const uint8_t* packed, const int16_t* x,
                                                  const uint8_t* residual, uint8_t* output) {
    int32x4_t sum[P][4];
    ADDERKIT_UNROLL_U8
    for (int p = 0; p < P; ++p) sum[p][0] = sum[p][1] = sum[p][2] = sum[p][3] = vdupq_n_s32(0);
    const int16_t* weight = reinterpret_cast<const int16_t*>(packed);
    const int64_t step = layer.x_stride;
    for (int64_t row = layer.kernel_rows; row > 0; --row, x += layer.row)
      for (int64_t k = 0; k < layer.run; ++k, weight += filters) {
        const int16x8_t w[2] = {vld1q_s16(weight), vld1q_s16(weight + 8)};
        ADDERKIT_UNROLL_U8
        for (int p = 0; p < P; ++p) {
          const int16_t value = x[p * step + k];
          sum[p][0] = vmlal_n_s16(sum[p][0], vget_low_s16(w[0]), value);
          sum[p][1] = vmlal_high_n_s16(sum[p][1], w[0], value);
          sum[p][2] = vmlal_n_s16(sum[p][2], vget_low_s16(w[1]), value);
          sum[p][3] = vmlal_high_n_s16(sum[p][3], w[1], value);
        }
      }
    ADDERKIT_UNROLL_U8
    for (int p = 0; p < P; ++p) finish(sum[p], p, residual, output);
  }
};

}  // namespace

const AdderU8Kernels adder_u8_neon = u8_kernels_of<NeonU8>();

}  // namespace adderkit
