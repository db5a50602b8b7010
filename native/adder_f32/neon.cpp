// 8 lanes in two registers; AArch64 Advanced SIMD ("NEON"), part of that architecture's baseline.
#include <arm_neon.h>

#include "table.h"

namespace adderkit {
namespace {

struct Neon {
  // Two registers of filters to a broadcast input. Where a broadcasting load (ld1r) takes a vector pipe
  // besides the load (Neoverse N1, Cortex-X4), an operation on 4 lanes costs 2.5 slots of these instead of 3.
  struct Vec {
    float32x4_t low, high;
  };
  static constexpr int lanes = 8;
  // Of 32 registers. Forward: 24 sums; 2 for the filter, 1 for the factor, the rest for broadcasts and
  // maxima. Input gradient: 12 inputs and 12 sums, 2 for the filter, 2 for the bounds, the rest for factors
  // and differences.
  static constexpr int forward_pixels = 12;
  static constexpr int input_grad_pixels = 6;
  static constexpr int depthwise_pixels = 8;

  static Vec zero() { return set(0.0f); }
  static Vec set(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
  // A scalar: a multiply-add takes one lane of a register as its factor and needs no broadcast.
  static float set_factor(float value) { return value; }
  static Vec load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static void store(float* p, Vec v) {
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
  }

  // The first n of 4 lanes, 0 <= n < 4; touches no memory beyond them.
  static float32x4_t load_few(const float* p, int n) {
    float32x4_t v = vdupq_n_f32(0.0f);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  static void store_few(float* p, float32x4_t v, int n) {
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
  }
  static Vec load_first(const float* p, int n) {
    if (n >= lanes) return load(p);
    if (n >= 4) return {vld1q_f32(p), load_few(p + 4, n - 4)};
    return {load_few(p, n), vdupq_n_f32(0.0f)};
  }
  static void store_first(float* p, Vec v, int n) {
    if (n >= lanes) return store(p, v);
    if (n < 4) return store_few(p, v.low, n);
    vst1q_f32(p, v.low);
    store_few(p + 4, v.high, n - 4);
  }

  static Vec add(Vec a, Vec b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
  static Vec multiply_add(Vec a, Vec b, Vec c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  static Vec multiply_add(Vec a, float b, Vec c) {
    return {vfmaq_n_f32(c.low, a.low, b), vfmaq_n_f32(c.high, a.high, b)};
  }
  static Vec difference(Vec f, Vec x, Vec, int) {
    return {vsubq_f32(f.low, x.low), vsubq_f32(f.high, x.high)};
  }
  // fmax and not fmaxnm, though either would do: a NaN or an infinity of x or f is also in the sums that are
  // added to the result, so the result is not finite whichever operand a maximum returns.
  static Vec minus_twice_max(Vec a, Vec b, Vec total) {
    const float32x4_t factor = vdupq_n_f32(-2.0f);
    return {vfmaq_f32(total.low, vmaxq_f32(a.low, b.low), factor),
            vfmaq_f32(total.high, vmaxq_f32(a.high, b.high), factor)};
  }
  static Vec minus_distance(Vec total, Vec x, Vec f, Vec) {
    return {vsubq_f32(total.low, vabdq_f32(x.low, f.low)), vsubq_f32(total.high, vabdq_f32(x.high, f.high))};
  }
  static Vec min_zero(Vec v) {
    const float32x4_t zero = vdupq_n_f32(0.0f);
    return {vminq_f32(zero, v.low), vminq_f32(zero, v.high)};
  }

  static Vec hidden_one() { return set(1.0f); }  // nothing to hide: no multiply-add by it
  static float32x4_t clamp_to_one(float32x4_t v, float32x4_t one) {
    return vmaxq_f32(vminq_f32(v, one), vnegq_f32(one));
  }
  static Vec clamp_to_one(Vec v, Vec one) {
    return {clamp_to_one(v.low, one.low), clamp_to_one(v.high, one.high)};
  }

  // The largest magnitude as twice its bits, which drops the sign: 0xff000000 is infinity, NaNs lie above.
  static uint32_t largest(Vec v) {
    const uint32x4_t low = vshlq_n_u32(vreinterpretq_u32_f32(v.low), 1);
    const uint32x4_t high = vshlq_n_u32(vreinterpretq_u32_f32(v.high), 1);
    return vmaxvq_u32(vmaxq_u32(low, high));
  }
  static bool any_not_finite(Vec v) { return largest(v) >= 0xff000000u; }
  static bool any_nan(Vec v) { return largest(v) > 0xff000000u; }

  // 4x4.
  static void transpose(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
    const float32x4_t low_even = vzip1q_f32(a, c), low_odd = vzip1q_f32(b, d);
    const float32x4_t high_even = vzip2q_f32(a, c), high_odd = vzip2q_f32(b, d);
    a = vzip1q_f32(low_even, low_odd);
    b = vzip2q_f32(low_even, low_odd);
    c = vzip1q_f32(high_even, high_odd);
    d = vzip2q_f32(high_even, high_odd);
  }
  static void transpose(Vec (&r)[8]) {
    for (int i = 0; i < 8; i += 4) {
      transpose(r[i].low, r[i + 1].low, r[i + 2].low, r[i + 3].low);
      transpose(r[i].high, r[i + 1].high, r[i + 2].high, r[i + 3].high);
    }
    for (int i = 0; i < 4; ++i) {
      const float32x4_t high = r[i].high;
      r[i].high = r[i + 4].low;
      r[i + 4].low = high;
    }
  }
};

}  // namespace

const AdderF32Kernels adder_f32_neon = kernels_of<Neon>();

}  // namespace adderkit
