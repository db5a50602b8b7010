// What one call of a float32 adder kernel works on. Filled in by run.cpp, read by the files of the
// instruction sets, so nothing here has code of its own.
#pragma once

#include <cstdint>

#include "adderkit.h"

namespace adderkit {

using Shape = adderkit_conv2d_shape;

// A filter tap along one axis, relative to the position that it serves: `shift` in units of one output step,
// `phase` the index of the residue class of rows or columns (modulo the stride) that holds it.
struct Tap {
  int64_t phase, shift;
};

// One band of a layer's forward pass reads input rows from a padded copy [row][channel][column] in scratch.
// Rows and columns are sorted by residue class modulo the stride ("phase"), so that neighbouring outputs
// always read neighbouring floats, whatever the stride. The same layout holds the channel sums [row][column].
struct ForwardPlan {
  Shape shape;
  const float *input, *weight;
  float* output;
  int64_t out_height, out_width;
  int64_t group_channels, group_filters;  // input channels and filters of one group
  int64_t parts;                          // groups; of a depthwise layer, sets of channels (depthwise.h)
  int64_t blocks;                         // vectors of filters in a part
  float* packed;                      // [part][block][tap][channel][lane], minus offset; null before packing
  float* filter_sums;                 // [part][block][lane], of the packed values
  float offset;                       // subtracted from input and weight alike; |x - f| does not change
  const Tap *row_taps, *column_taps;  // one per filter row, column
  const int64_t *row_phases, *column_phases;  // first padded row, column of each phase
  int64_t row_phase_count, column_phase_count;
  int64_t phase_columns;  // columns kept of each phase
  int64_t row_floats;     // channels * column phases * phase_columns
  int64_t band_rows, bands, max_row_shift;
};

// Sum and sum of squares of the weights of a block, to choose the offset by.
struct WeightSums {
  double sum, squares;
};

// A filter tap that reaches the columns of one residue class: grad_output column = index + shift.
struct ClassTap {
  int64_t column, shift;
};

// One band of the input gradient reads a zero-padded copy of grad_output, [row][filter][column], and walks
// the input's columns one residue class modulo the stride at a time.
struct InputGradPlan {
  Shape shape;
  const float *grad_output, *input, *weight;
  float* grad_input;
  const int64_t* grad_input_stride;
  int64_t out_height, out_width;
  int64_t group_channels, group_filters;
  int64_t parts;               // as above
  int64_t blocks;              // vectors of input channels in a part
  float* packed;               // [part][block][tap][filter][lane]; null before packing
  bool is_finite;              // all of them
  const ClassTap* class_taps;  // sorted by class
  const int64_t* class_first;  // classes + 1 entries
  int64_t classes;
  int64_t pad_left, grad_columns;       // columns of a padded row of grad_output
  int64_t band_rows, bands, grad_rows;  // grad_rows: most rows of grad_output that a band reads
};

// The functions of a pass. Tasks are independent of one another.
struct ForwardKernels {
  // Packs one block of filters (task = part * blocks + block), not yet minus the offset.
  WeightSums (*pack)(const ForwardPlan& plan, int64_t task);
  // Subtracts the offset from a packed block and sums it again.
  void (*shift)(const ForwardPlan& plan, int64_t task);
  // Floats of scratch that a band needs, and one band (task = (image * parts + part) * bands + band).
  int64_t (*scratch)(const ForwardPlan& plan);
  void (*band)(const ForwardPlan& plan, int64_t task, float* scratch);
};
struct InputGradKernels {
  // Packs one block of channels; false where it holds a value that is not finite.
  bool (*pack)(const InputGradPlan& plan, int64_t task);
  int64_t (*scratch)(const InputGradPlan& plan);
  void (*band)(const InputGradPlan& plan, int64_t task, float* scratch);
};

// Those of one instruction set.
struct AdderF32Kernels {
  int lanes;
  ForwardKernels forward, depthwise_forward;
  InputGradKernels input_grad, depthwise_input_grad;
  // The loop behind adderkit_peak(): returns the operations done in `rounds` rounds. ../peak/peak.h.
  int64_t (*peak)(int kind, int64_t rounds, float* values);
};

extern const AdderF32Kernels adder_f32_portable;
#if defined(ADDERKIT_X86)
extern const AdderF32Kernels adder_f32_avx2;
extern const AdderF32Kernels adder_f32_avx512;
#elif defined(ADDERKIT_AARCH64)
extern const AdderF32Kernels adder_f32_neon;
#endif

// The formula itself for one element, by subtraction, absolute value (or clamp) and sum: what the fast
// kernels fall back on where their arithmetic would lose an infinity or a NaN. exact.cpp.
float exact_output(const ForwardPlan& plan, int64_t image, int64_t filter, int64_t row, int64_t column);
float exact_input_grad(const InputGradPlan& plan, int64_t image, int64_t channel, int64_t row,
                       int64_t column);

}  // namespace adderkit
