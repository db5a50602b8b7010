// 4 filters in a vector, a 64-bit lane each; AVX2. Compiled with that flag alone.
#include <immintrin.h>

#include "denormals.h"
#include "kernels.h"

namespace adderkit {
namespace {

struct Avx2U8 {
  using Vec = __m256i;
  static constexpr int lanes = 4, depth = 8, pixels = 6, vectors = 2;
  static constexpr int convolution_lanes = 8, convolution_pixels = 8;
  using Scope = Denormals;

  static Vec load(const void* at) { return _mm256_load_si256(static_cast<const Vec*>(at)); }

  // sum + distances of 8 bytes each, 64-bit integers, as an addition of doubles (denormals.h).
  static Vec add(Vec sum, Vec distances) {
    return _mm256_castpd_si256(_mm256_add_pd(_mm256_castsi256_pd(sum), _mm256_castsi256_pd(distances)));
  }

  // There is no arithmetic shift of 64 bits: that of a number made positive, less what that added.
  static Vec shift_right(Vec v, int shift) {
    const Vec top = _mm256_set1_epi64x(INT64_MIN);
    const __m128i count = _mm_cvtsi32_si128(shift);
    return _mm256_sub_epi64(_mm256_srl_epi64(_mm256_xor_si256(v, top), count), _mm256_srl_epi64(top, count));
  }

  // Sums in 64-bit lanes to 4 bytes.
  static void finish(const Epilogue& e, int64_t filter, Vec sum, const uint8_t* residual, uint8_t* output) {
    Vec v = _mm256_mul_epi32(sum, load(e.multiplier + filter));
    v = _mm256_add_epi64(v, load(e.offset + filter));
    if (residual != nullptr) {
      int32_t four;
      __builtin_memcpy(&four, residual, sizeof four);
      const Vec r = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
      v = _mm256_add_epi64(v, _mm256_mul_epi32(r, _mm256_set1_epi64x(e.residual_multiplier)));
    }
    v = shift_right(v, e.shift);
    const Vec low = load(e.low + filter), high = load(e.high + filter);
    v = _mm256_blendv_epi8(v, low, _mm256_cmpgt_epi64(low, v));
    v = _mm256_blendv_epi8(v, high, _mm256_cmpgt_epi64(v, high));
    // Bytes 0 and 8 of the lower half to the front, of the upper half behind them.
    const Vec order = _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                       0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    v = _mm256_shuffle_epi8(v, order);
    const int32_t four =
        _mm_cvtsi128_si32(_mm_or_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
    __builtin_memcpy(output, &four, sizeof four);
  }

  template <int P, int V>
  static void adder_tile(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* x, int64_t filter,
                         const uint8_t* residual, uint8_t* output) {
    Vec sum[P][V];
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = _mm256_setzero_si256();
    const int64_t step = layer.x_stride;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row) {
      // Three pixels for each pointer: p, p + step, p + 2 * step are addresses of one instruction.
      const uint8_t* at[(P + 2) / 3];
      ADDERKIT_U8_UNROLL
      for (int p = 0; p < P; p += 3) at[p / 3] = x + p * step;
      for (int64_t k = 0; k < layer.run; k += depth, packed += 32 * V) {
        Vec w[V];
        ADDERKIT_U8_UNROLL
        for (int v = 0; v < V; ++v) w[v] = load(packed + 32 * v);
        ADDERKIT_U8_UNROLL
        for (int p = 0; p < P; ++p) {
          int64_t eight;
          __builtin_memcpy(&eight, at[p / 3] + p % 3 * step + k, sizeof eight);
          const Vec one = _mm256_set1_epi64x(eight);
          ADDERKIT_U8_UNROLL
          for (int v = 0; v < V; ++v) sum[p][v] = add(sum[p][v], _mm256_sad_epu8(one, w[v]));
        }
      }
    }
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
    for (int v = 0; v < V; ++v) {
      const int64_t to = p * layer.filters + v * lanes;
      finish(layer.epilogue, filter + v * lanes, sum[p][v], residual == nullptr ? nullptr : residual + to,
             output + to);
    }
  }

  template <int P>
  static void convolution_tile(const SlidingLayer& layer, const int16_t* packed, const int16_t* x,
                               int64_t filter, const uint8_t* residual, uint8_t* output) {
    Vec sum[P];
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) sum[p] = _mm256_setzero_si256();
    const int64_t step = layer.x_stride;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; k += 2, packed += 16) {
        const Vec w = load(packed);
        ADDERKIT_U8_UNROLL
        for (int p = 0; p < P; ++p) {
          int32_t pair;
          __builtin_memcpy(&pair, x + p * step + k, sizeof pair);
          sum[p] = _mm256_add_epi32(sum[p], _mm256_madd_epi16(_mm256_set1_epi32(pair), w));
        }
      }
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p)
      for (int half = 0; half < 2; ++half) {
        const Vec wide = _mm256_cvtepi32_epi64(half == 0 ? _mm256_castsi256_si128(sum[p])
                                                         : _mm256_extracti128_si256(sum[p], 1));
        const int64_t to = p * layer.filters + 4 * half;
        finish(layer.epilogue, filter + 4 * half, wide, residual == nullptr ? nullptr : residual + to,
               output + to);
      }
  }
};

}  // namespace

const AdderU8Kernels adder_u8_avx2 = u8_kernels_of<Avx2U8>();

}  // namespace adderkit
