// What the integer kernels work on. Filled in by ../integer/, read by the files of the instruction sets, so
// nothing here has code of its own.
#pragma once

#include <cstdint>

namespace adderkit {

// Channels of a pixel are padded to a multiple of this, in activations and weights alike, with zeros: they
// differ by nothing.
constexpr int channel_step = 8;
// Arrays of a layer's epilogue are padded to a multiple of this.
constexpr int filter_step = 16;

// out = clamp((multiplier * sum + offset + residual_multiplier * (residual << residual_shift)) >> shift, low,
// high), one number a filter; all of them 0 for filters that only fill up. Multipliers and shifted residuals
// have 32 bits.
struct Epilogue {
  const int64_t *multiplier, *offset, *low, *high;
  int64_t residual_multiplier;
  int32_t residual_shift, shift;
};

// A layer that slides filters over a map: pixels of `channels` numbers, bytes of an adder layer's input and
// int16 of a convolution's, in rows whose padding is part of the memory. Filter rows of a patch are
// contiguous.
struct SlidingLayer {
  int64_t kernel_rows, run;           // run: numbers of one filter row, K_w * channels
  int64_t row, row_stride, x_stride;  // numbers from one input row to the next; from one output's patch to
                                      // the next one's, vertically and horizontally
  int64_t out_width;
  int64_t out_row, residual_row;  // bytes from one output row to the next
  int64_t filters;                // bytes of an output pixel: a multiple of channel_step
  Epilogue epilogue;
};

// The kernels of one instruction set. `input` is the patch of output (0, 0), `residual` (or null) and
// `output` that pixel; rows [first, last) are made.
struct AdderU8Kernels {
  // Bytes that `pack` writes; `weight` is (filters that are there, K_h, run).
  int64_t (*adder_bytes)(const SlidingLayer& layer);
  void (*pack_adder)(const SlidingLayer& layer, const uint8_t* weight, int64_t filters, uint8_t* packed);
  void (*adder)(const SlidingLayer& layer, const uint8_t* packed, const uint8_t* input,
                const uint8_t* residual, uint8_t* output, int64_t first, int64_t last);

  int64_t (*convolution_bytes)(const SlidingLayer& layer);
  void (*pack_convolution)(const SlidingLayer& layer, const int8_t* weight, int64_t filters, uint8_t* packed);
  void (*convolution)(const SlidingLayer& layer, const uint8_t* packed, const int16_t* input,
                      const uint8_t* residual, uint8_t* output, int64_t first, int64_t last);
};

extern const AdderU8Kernels adder_u8_portable;
#if defined(ADDERKIT_X86)
extern const AdderU8Kernels adder_u8_avx2, adder_u8_avx512;
#elif defined(ADDERKIT_AARCH64)
extern const AdderU8Kernels adder_u8_neon;
#endif

}  // namespace adderkit
