// 8 filters in a vector, a 64-bit lane each; AVX-512 F, BW (vpsadbw, vpmaddwd) and DQ. Compiled with those
// flags alone.
#include <immintrin.h>

#include "denormals.h"
#include "kernels.h"

namespace adderkit {
namespace {

struct Avx512U8 {
  using Vec = __m512i;
  static constexpr int lanes = 8, depth = 8, pixels = 8, vectors = 2;
  static constexpr int convolution_lanes = 16, convolution_pixels = 8;
  using Scope = Denormals;

  // sum + distances of 8 bytes each, 64-bit integers, as an addition of doubles (denormals.h).
  static Vec add(Vec sum, Vec distances) {
    return _mm512_castpd_si512(_mm512_add_pd(_mm512_castsi512_pd(sum), _mm512_castsi512_pd(distances)));
  }

  // Sums in 64-bit lanes to 8 bytes.
  static void finish(const Epilogue& e, int64_t filter, Vec sum, const uint8_t* residual, uint8_t* output) {
    Vec v = _mm512_mul_epi32(sum, _mm512_load_si512(e.multiplier + filter));
    v = _mm512_add_epi64(v, _mm512_load_si512(e.offset + filter));
    if (residual != nullptr) {
      const Vec r = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(residual)));
      v = _mm512_add_epi64(v, _mm512_mul_epi32(r, _mm512_set1_epi64(e.residual_multiplier)));
    }
    v = _mm512_sra_epi64(v, _mm_cvtsi32_si128(e.shift));
    v = _mm512_max_epi64(v, _mm512_load_si512(e.low + filter));
    v = _mm512_min_epi64(v, _mm512_load_si512(e.high + filter));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(output), _mm512_cvtepi64_epi8(v));
  }

  template <int P, int V>
  static void adder_tile(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* x, int64_t filter,
                         const uint8_t* residual, uint8_t* output) {
    Vec sum[P][V];
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p) ADDERKIT_U8_UNROLL
    for (int v = 0; v < V; ++v) sum[p][v] = _mm512_setzero_si512();
    const int64_t step = layer.x_stride;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row) {
      // Three pixels for each pointer: p, p + step, p + 2 * step are addresses of one instruction.
      const uint8_t* at[(P + 2) / 3];
      ADDERKIT_U8_UNROLL
      for (int p = 0; p < P; p += 3) at[p / 3] = x + p * step;
      for (int64_t k = 0; k < layer.run; k += depth, packed += 64 * V) {
        Vec w[V];
        ADDERKIT_U8_UNROLL
        for (int v = 0; v < V; ++v) w[v] = _mm512_load_si512(packed + 64 * v);
        ADDERKIT_U8_UNROLL
        for (int p = 0; p < P; ++p) {
          int64_t eight;
          __builtin_memcpy(&eight, at[p / 3] + p % 3 * step + k, sizeof eight);
          const Vec one = _mm512_set1_epi64(eight);
          ADDERKIT_U8_UNROLL
          for (int v = 0; v < V; ++v) sum[p][v] = add(sum[p][v], _mm512_sad_epu8(one, w[v]));
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
    for (int p = 0; p < P; ++p) sum[p] = _mm512_setzero_si512();
    const int64_t step = layer.x_stride;
    for (int64_t row = 0; row < layer.kernel_rows; ++row, x += layer.row)
      for (int64_t k = 0; k < layer.run; k += 2, packed += 32) {
        const Vec w = _mm512_load_si512(packed);
        ADDERKIT_U8_UNROLL
        for (int p = 0; p < P; ++p) {
          int32_t pair;
          __builtin_memcpy(&pair, x + p * step + k, sizeof pair);
          sum[p] = _mm512_add_epi32(sum[p], _mm512_madd_epi16(_mm512_set1_epi32(pair), w));
        }
      }
    ADDERKIT_U8_UNROLL
    for (int p = 0; p < P; ++p)
      for (int half = 0; half < 2 && filter + 8 * half < layer.filters; ++half) {
        const Vec wide = _mm512_cvtepi32_epi64(half == 0 ? _mm512_castsi512_si256(sum[p])
                                                         : _mm512_extracti64x4_epi64(sum[p], 1));
        const int64_t to = p * layer.filters + 8 * half;
        finish(layer.epilogue, filter + 8 * half, wide, residual == nullptr ? nullptr : residual + to,
               output + to);
      }
  }
};

}  // namespace

const AdderU8Kernels adder_u8_avx512 = u8_kernels_of<Avx512U8>();

}  // namespace adderkit
