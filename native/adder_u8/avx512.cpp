// Blocks of 16 filters; AVX-512 F, BW (vpsadbw, vpmaddwd, packing) and DQ. Compiled with those flags alone.
#include <immintrin.h>

#include "x86.h"

namespace adderkit {
namespace {

struct Avx512Ops {
  using Vec = __m512i;
  static constexpr int pixels = 8;

  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec load(const void* at) { return _mm512_load_si512(at); }
  static Vec set_64(int64_t number) { return _mm512_set1_epi64(number); }
  static Vec set_32(int32_t number) { return _mm512_set1_epi32(number); }
  static Vec add(Vec a, Vec b) { return _mm512_add_epi64(a, b); }
  static Vec add_distances(Vec sum, Vec x, Vec w) {
    return _mm512_castpd_si512(
        _mm512_add_pd(_mm512_castsi512_pd(sum), _mm512_castsi512_pd(_mm512_sad_epu8(x, w))));
  }
  static Vec add_products(Vec sum, Vec x, Vec w) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)); }

  // Of the lower halves of 64-bit lanes, signed.
  static Vec multiply(Vec a, Vec b) { return _mm512_mul_epi32(a, b); }
  static Vec odd(Vec v) { return _mm512_srli_epi64(v, 32); }
  static Vec unpack_low(Vec v) { return _mm512_unpacklo_epi32(v, v); }
  static Vec unpack_high(Vec v) { return _mm512_unpackhi_epi32(v, v); }
  static Vec load_bytes(const uint8_t* at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  }
  static Vec load_half(const uint8_t* at) {
    return _mm512_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)));
  }
  static Vec upper_halves(Vec a, Vec b) {
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), 0xdd));
  }
  static Vec upper_pairs(Vec even, Vec odd) {
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }
  static Vec shift_right(Vec v, __m128i count) { return _mm512_sra_epi32(v, count); }
  static Vec shift_left(Vec v, __m128i count) { return _mm512_sll_epi64(v, count); }
  static Vec shift_left_32(Vec v, __m128i count) { return _mm512_sll_epi32(v, count); }
  static Vec clamp(Vec v, Vec least, Vec most) { return _mm512_min_epi64(_mm512_max_epi64(v, least), most); }

  static Vec pack_numbers(Vec a, Vec b) { return _mm512_packs_epi32(a, b); }
  static Vec pack_words(Vec a, Vec b) { return _mm512_packus_epi16(a, b); }
  static Vec by_pixel(Vec v) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                                    v);
  }
  static Vec max_bytes(Vec a, Vec b) { return _mm512_max_epu8(a, b); }
  static Vec min_bytes(Vec a, Vec b) { return _mm512_min_epu8(a, b); }
  static Vec repeat(const uint8_t* sixteen) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(sixteen)));
  }

  // The first `count` of four pixels, `pixel` bytes apart.
  static void store_pixels(uint8_t* to, int64_t pixel, Vec v, int count) {
    const auto store = [](uint8_t* at, __m128i bytes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(at), bytes);
    };
    store(to, _mm512_castsi512_si128(v));
    if (count > 1) store(to + pixel, _mm512_extracti32x4_epi32(v, 1));
    if (count > 2) store(to + 2 * pixel, _mm512_extracti32x4_epi32(v, 2));
    if (count > 3) store(to + 3 * pixel, _mm512_extracti32x4_epi32(v, 3));
  }
  static void store_half_pixels(uint8_t* to, int64_t pixel, Vec v, int count) {
    const auto store = [](uint8_t* at, __m128i bytes) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(at), bytes);
    };
    store(to, _mm512_castsi512_si128(v));
    if (count > 1) store(to + pixel, _mm512_extracti32x4_epi32(v, 1));
    if (count > 2) store(to + 2 * pixel, _mm512_extracti32x4_epi32(v, 2));
    if (count > 3) store(to + 3 * pixel, _mm512_extracti32x4_epi32(v, 3));
  }
};

}  // namespace

const AdderU8Kernels adder_u8_avx512 = u8_kernels_of<X86U8<Avx512Ops>>();

}  // namespace adderkit
