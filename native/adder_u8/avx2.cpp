// Blocks of 8 filters; AVX2. Compiled with that flag alone.
#include <immintrin.h>

#include "x86.h"

namespace adderkit {
namespace {

struct Avx2Ops {
  using Vec = __m256i;
  static constexpr int pixels = 6;

  static Vec zero() { return _mm256_setzero_si256(); }
  static Vec load(const void* at) { return _mm256_load_si256(static_cast<const Vec*>(at)); }
  static Vec set_64(int64_t number) { return _mm256_set1_epi64x(number); }
  static Vec set_32(int32_t number) { return _mm256_set1_epi32(number); }
  static Vec add(Vec a, Vec b) { return _mm256_add_epi64(a, b); }
  static Vec add_distances(Vec sum, Vec x, Vec w) {
    return _mm256_castpd_si256(
        _mm256_add_pd(_mm256_castsi256_pd(sum), _mm256_castsi256_pd(_mm256_sad_epu8(x, w))));
  }
  static Vec add_products(Vec sum, Vec x, Vec w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }

  // Of the lower halves of 64-bit lanes, signed.
  static Vec multiply(Vec a, Vec b) { return _mm256_mul_epi32(a, b); }
  static Vec odd(Vec v) { return _mm256_srli_epi64(v, 32); }
  static Vec unpack_low(Vec v) { return _mm256_unpacklo_epi32(v, v); }
  static Vec unpack_high(Vec v) { return _mm256_unpackhi_epi32(v, v); }
  static Vec load_bytes(const uint8_t* at) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
  }
  static Vec load_half(const uint8_t* at) { return load_bytes(at); }  // a block is never half
  static Vec upper_halves(Vec a, Vec b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
  }
  static Vec upper_pairs(Vec even, Vec odd) {
    return _mm256_blend_epi32(odd, _mm256_srli_epi64(even, 32), 0x55);
  }
  static Vec shift_right(Vec v, __m128i count) { return _mm256_sra_epi32(v, count); }
  static Vec shift_left(Vec v, __m128i count) { return _mm256_sll_epi64(v, count); }
  static Vec shift_left_32(Vec v, __m128i count) { return _mm256_sll_epi32(v, count); }
  static Vec clamp(Vec v, Vec least, Vec most) {
    v = _mm256_blendv_epi8(v, least, _mm256_cmpgt_epi64(least, v));
    return _mm256_blendv_epi8(v, most, _mm256_cmpgt_epi64(v, most));
  }

  static Vec pack_numbers(Vec a, Vec b) { return _mm256_packs_epi32(a, b); }
  static Vec pack_words(Vec a, Vec b) { return _mm256_packus_epi16(a, b); }
  static Vec by_pixel(Vec v) {
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static Vec max_bytes(Vec a, Vec b) { return _mm256_max_epu8(a, b); }
  static Vec min_bytes(Vec a, Vec b) { return _mm256_min_epu8(a, b); }
  static Vec repeat(const uint8_t* eight) {
    int64_t bytes;
    __builtin_memcpy(&bytes, eight, sizeof bytes);
    return _mm256_set1_epi64x(bytes);
  }

  // The first `count` of four pixels, `pixel` bytes apart.
  static void store_pixels(uint8_t* to, int64_t pixel, Vec v, int count) {
    const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), low);
    if (count > 1) _mm_storeh_pd(reinterpret_cast<double*>(to + pixel), _mm_castsi128_pd(low));
    if (count > 2) _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * pixel), high);
    if (count > 3) _mm_storeh_pd(reinterpret_cast<double*>(to + 3 * pixel), _mm_castsi128_pd(high));
  }
  static void store_half_pixels(uint8_t* to, int64_t pixel, Vec v, int count) {
    store_pixels(to, pixel, v, count);
  }
};

}  // namespace

const AdderU8Kernels adder_u8_avx2 = u8_kernels_of<X86U8<Avx2Ops>>();

}  // namespace adderkit
