// 8 lanes; AVX2 and FMA. Compiled with those flags alone.
#include <immintrin.h>

#include "table.h"

namespace adderkit {
namespace {

struct Avx2 {
  using Vec = __m256;
  static constexpr int lanes = 8;
  // Of 16 registers; the filter, the constants and temporaries need the rest.
  static constexpr int forward_pixels = 12;
  static constexpr int input_grad_pixels = 6;
  static constexpr int depthwise_pixels = 8;

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  static Vec set(float value) { return _mm256_set1_ps(value); }
  static Vec set_factor(float value) { return set(value); }

  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  // The clamp's minimum and maximum fill two of Zen's four pipes; this and the sum's multiply-add the other
  // two.
  static Vec difference(Vec f, Vec x, Vec one, int) { return _mm256_fmsub_ps(f, one, x); }
  static Vec minus_twice_max(Vec a, Vec b, Vec total) {
    return _mm256_fmadd_ps(_mm256_max_ps(a, b), _mm256_set1_ps(-2.0f), total);
  }
  // |x - f| off a sum; the last step as a multiply-add, which uses the other pipes than the first.
  static Vec minus_distance(Vec total, Vec x, Vec f, Vec one) {
    const Vec sign = _mm256_set1_ps(-0.0f);
    return _mm256_fnmadd_ps(_mm256_andnot_ps(sign, _mm256_sub_ps(f, x)), one, total);
  }
  static Vec min_zero(Vec v) { return _mm256_min_ps(_mm256_setzero_ps(), v); }

  // 1.0 that the compiler does not know, or it would turn a multiply-add by it back into an addition.
  static Vec hidden_one() {
    Vec one = _mm256_set1_ps(1.0f);
    __asm__("" : "+x"(one));
    return one;
  }
  static Vec clamp_to_one(Vec v, Vec one) {
    return _mm256_max_ps(_mm256_min_ps(v, one), _mm256_sub_ps(_mm256_setzero_ps(), one));
  }

  static bool any_not_finite(Vec v) {
    const Vec difference = _mm256_sub_ps(v, v);  // 0 where finite, else NaN
    return any_nan(difference);
  }
  static bool any_nan(Vec v) { return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0; }

  static void transpose(Vec (&r)[8]) {
    Vec t[8];
    for (int i = 0; i < 8; i += 4) {  // 4x4 inside each 128-bit lane
      const Vec a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
      const Vec c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
  }
};

}  // namespace

const AdderF32Kernels adder_f32_avx2 = kernels_of<Avx2>();

}  // namespace adderkit
