// 16 lanes; AVX-512 F and DQ (vrangeps, vfpclassps). Compiled with those flags alone.
#include <immintrin.h>

#include "table.h"

namespace adderkit {
namespace {

struct Avx512 {
  using Vec = __m512;
  static constexpr int lanes = 16;
  // Accumulators in registers. Forward: 24 of 32, beside the filter, the factor and a temporary. Input
  // gradient: each pixel needs two, its input and its sum.
  static constexpr int forward_pixels = 24;
  static constexpr int input_grad_pixels = 10;
  static constexpr int depthwise_pixels = 8;

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }

  // For a maximum, as an integer broadcast: on Zen 4 vpbroadcastd is a load alone, while vbroadcastss also
  // takes one of the pipes that the maximum needs (27 against 43 G/s on one core).
  static Vec set(float value) {
    int bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
  }

  // For a multiply-add, which takes it as an operand in memory.
  static Vec set_factor(float value) { return _mm512_set1_ps(value); }

  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  // Subtraction and clamp share two of Zen 4's four pipes; every other subtraction goes, as a fused
  // multiply-add, to the other two: 1.5 instead of 2.0 cycles a vector.
  static Vec difference(Vec f, Vec x, Vec one, int pixel) {
    return pixel % 2 ? _mm512_fmsub_ps(f, one, x) : _mm512_sub_ps(f, x);
  }
  static Vec minus_twice_max(Vec a, Vec b, Vec total) {
    return _mm512_fmadd_ps(_mm512_max_ps(a, b), _mm512_set1_ps(-2.0f), total);
  }
  // |x - f| off a sum; the last step as a multiply-add, which uses the other pipes than the first.
  static Vec minus_distance(Vec total, Vec x, Vec f, Vec one) {
    return _mm512_fnmadd_ps(_mm512_abs_ps(_mm512_sub_ps(f, x)), one, total);
  }
  static Vec min_zero(Vec v) { return _mm512_min_ps(_mm512_setzero_ps(), v); }

  // 1.0 that the compiler does not know, or it would turn a multiply-add by it back into an addition.
  static Vec hidden_one() {
    Vec one = _mm512_set1_ps(1.0f);
    __asm__("" : "+v"(one));
    return one;
  }
  // Smaller magnitude, sign of the first: one instruction for the clamp to [-1, 1].
  static Vec clamp_to_one(Vec v, Vec one) { return _mm512_range_ps(v, one, 2); }

  static bool any_not_finite(Vec v) { return _mm512_fpclass_ps_mask(v, 0x99) != 0; }
  static bool any_nan(Vec v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; }

  static void transpose(Vec (&r)[16]) {
    Vec t[16];
    for (int i = 0; i < 16; i += 4) {  // 4x4 inside each 128-bit lane
      const Vec a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
      const Vec c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
      t[i] = _mm512_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {  // 4x4 of 128-bit lanes
      const Vec a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88),
                b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const Vec c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
      const Vec d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }
};

}  // namespace

const AdderF32Kernels adder_f32_avx512 = kernels_of<Avx512>();

}  // namespace adderkit
