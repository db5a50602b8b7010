// The float32 entry points: checks, plans, splits a call into tasks and runs them on the chosen kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <vector>

#include "../dispatch.h"
#include "../error.h"
#include "../scratch.h"
#include "../threads.h"
#include "plan.h"
#include "pointwise.h"

namespace adderkit {
namespace {

// Scratch that a band aims at: a quarter of a 1 MiB second-level cache, so that filters fit beside it.
constexpr int64_t band_floats = 64 * 1024;
// Tasks for each thread, so that one that is held up (another process on its core) does not hold up the rest.
constexpr int64_t tasks_per_thread = 4;
// Of any size or step, so that no sum or product of two of them overflows.
constexpr int64_t largest_size = INT32_MAX;
// Of a block of memory, 16 TiB: more than there is, and far from where the products that lead to it overflow.
constexpr double most_floats = 1LL << 42;
// Adder operations below which waking a second thread (some 5 us) costs more than it saves.
constexpr double parallel_operations = 400 * 1000;
// Mean over standard deviation of the filters from which their mean is subtracted: below it the identity
// loses at most three bits to the offset.
constexpr double offset_ratio = 8.0;

int32_t check(const Shape* s, int32_t threads, int64_t* out_height, int64_t* out_width) {
  if (s == nullptr) return fail(ADDERKIT_INVALID_ARGUMENT, "`shape` is NULL");
  if (threads < 0 || threads > most_threads)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`threads` (=%d) must be from 0 to %d", threads, most_threads);
  if (s->batch < 0 || s->batch > largest_size)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`batch` must be from 0 to 2^31 - 1");
  const int64_t sizes[] = {s->channels,      s->height,       s->width,     s->out_channels,
                           s->kernel_height, s->kernel_width, s->stride[0], s->stride[1],
                           s->dilation[0],   s->dilation[1],  s->groups};
  for (int64_t size : sizes)
    if (size < 1 || size > largest_size)
      return fail(ADDERKIT_INVALID_ARGUMENT,
                  "sizes, strides, dilations and `groups` must be from 1 to 2^31 - 1");
  for (int64_t padding : s->padding)
    if (padding < 0 || padding > largest_size)
      return fail(ADDERKIT_INVALID_ARGUMENT, "`padding` must be from 0 to 2^31 - 1");
  if (s->channels % s->groups != 0 || s->out_channels % s->groups != 0)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`groups` must divide `channels` and `out_channels`");
  const int64_t reach_h = s->dilation[0] * (s->kernel_height - 1) + 1;
  const int64_t reach_w = s->dilation[1] * (s->kernel_width - 1) + 1;
  *out_height = s->height + 2 * s->padding[0] - reach_h;
  *out_width = s->width + 2 * s->padding[1] - reach_w;
  if (*out_height < 0 || *out_width < 0)
    return fail(ADDERKIT_INVALID_ARGUMENT, "the filter is larger than the padded input");
  *out_height = *out_height / s->stride[0] + 1;
  *out_width = *out_width / s->stride[1] + 1;
  return ADDERKIT_OK;
}

// Taps along one axis and the residue classes that hold them.
void place_taps(int64_t kernel, int64_t stride, int64_t dilation, std::vector<Tap>* taps,
                std::vector<int64_t>* phases) {
  for (int64_t k = 0; k < kernel; ++k) {
    const int64_t residue = k * dilation % stride;
    auto at = std::find(phases->begin(), phases->end(), residue);
    if (at == phases->end()) at = phases->insert(at, residue);
    taps->push_back({at - phases->begin(), k * dilation / stride});
  }
}

// Rows of a band: as many as the cache takes, few enough that every thread has work.
int64_t rows_of_band(int64_t rows, int64_t images, int64_t row_floats, int64_t fixed_rows, int threads) {
  const int64_t by_cache = band_floats / std::max<int64_t>(1, row_floats) - fixed_rows;
  const int64_t bands = threads > 1 ? (threads * tasks_per_thread + images - 1) / images : 1;
  const int64_t by_threads = (rows + bands - 1) / bands;
  return std::max<int64_t>(1, std::min({rows, by_cache, by_threads}));
}

int threads_for(double operations, int32_t threads) {
  return operations < parallel_operations ? 1 : thread_count(threads);
}

void choose_offset(ForwardPlan* plan, const ForwardKernels& kernels, const std::vector<WeightSums>& sums,
                   int threads) {
  const Shape& s = plan->shape;
  WeightSums total{0, 0};
  for (const WeightSums& block : sums) {
    total.sum += block.sum;
    total.squares += block.squares;
  }
  const double count =
      static_cast<double>(s.out_channels) * plan->group_channels * s.kernel_height * s.kernel_width;
  const double mean = total.sum / count, variance = std::max(0.0, total.squares / count - mean * mean);
  if (!std::isfinite(mean) || !std::isfinite(variance)) return;
  if (mean * mean <= offset_ratio * offset_ratio * variance) return;
  plan->offset = static_cast<float>(mean);
  parallel_for(static_cast<int64_t>(sums.size()), threads, [&](int64_t task) { kernels.shift(*plan, task); });
}

bool is_depthwise(const Shape& s) {
  return s.groups == s.channels && s.groups == s.out_channels;
}

// Parts of a layer and the vectors of `lanes` filters (or input channels, `group_size` in a group) in each.
void place_parts(const Shape& s, int64_t group_size, int64_t lanes, bool is_copied, int64_t* parts,
                 int64_t* blocks) {
  if (is_depthwise(s)) {
    const int64_t vectors = (s.channels + lanes - 1) / lanes;
    *parts = is_copied ? vectors : 1;
    *blocks = is_copied ? 1 : vectors;
  } else {
    *parts = s.groups;
    *blocks = (group_size + lanes - 1) / lanes;
  }
}

int32_t pack(const AdderF32Kernels& isa, const ForwardKernels& kernels, ForwardPlan& plan, int threads) {
  const Shape& s = plan.shape;
  const int64_t all_blocks = plan.parts * plan.blocks;
  const int64_t packed = all_blocks * s.kernel_height * s.kernel_width * plan.group_channels * isa.lanes;
  plan.packed = thread_scratch(Scratch::packed_weights, packed + all_blocks * isa.lanes);
  if (plan.packed == nullptr) return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the packed filters");
  plan.filter_sums = plan.packed + packed;
  plan.offset = 0.0f;
  std::vector<WeightSums> sums(all_blocks);
  parallel_for(all_blocks, threads, [&](int64_t task) { sums[task] = kernels.pack(plan, task); });
  choose_offset(&plan, kernels, sums, threads);
  return ADDERKIT_OK;
}

// At least the floats of all packed filters, in whichever order.
double packed_floats(const Shape& s, int64_t taps, int lanes) {
  return 1.0 * (s.out_channels + lanes) * (s.channels + lanes) * taps * lanes;
}

int32_t forward(const AdderF32Kernels& isa, ForwardPlan& plan, int32_t wanted_threads) {
  const Shape& s = plan.shape;
  const ForwardKernels& kernels = is_depthwise(s) ? isa.depthwise_forward : isa.forward;
  plan.group_channels = s.channels / s.groups;
  plan.group_filters = s.out_channels / s.groups;
  const bool is_copied = s.input_stride[1] != 1 || s.output_stride[1] != 1;
  place_parts(s, plan.group_filters, isa.lanes, is_copied, &plan.parts, &plan.blocks);
  const int64_t taps = s.kernel_height * s.kernel_width;
  const double operations =
      1.0 * s.batch * s.out_channels * plan.out_height * plan.out_width * plan.group_channels * taps;
  const int threads = threads_for(operations, wanted_threads);

  std::vector<Tap> row_taps, column_taps;
  std::vector<int64_t> row_phases, column_phases;
  place_taps(s.kernel_height, s.stride[0], s.dilation[0], &row_taps, &row_phases);
  place_taps(s.kernel_width, s.stride[1], s.dilation[1], &column_taps, &column_phases);
  plan.row_taps = row_taps.data();
  plan.column_taps = column_taps.data();
  plan.row_phases = row_phases.data();
  plan.column_phases = column_phases.data();
  plan.row_phase_count = static_cast<int64_t>(row_phases.size());
  plan.column_phase_count = static_cast<int64_t>(column_phases.size());
  plan.max_row_shift = row_taps.back().shift;
  plan.phase_columns = plan.out_width + column_taps.back().shift;
  const double row = 1.0 * plan.group_channels * plan.column_phase_count * plan.phase_columns;
  if (row * plan.row_phase_count * (plan.out_height + plan.max_row_shift) > most_floats ||
      packed_floats(s, taps, isa.lanes) > most_floats)
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for a layer of these sizes");
  plan.row_floats = plan.group_channels * plan.column_phase_count * plan.phase_columns;
  if (is_depthwise(s))  // a copy holds the rows between two phases as well
    plan.row_floats =
        is_copied ? s.width * isa.lanes * std::min(s.stride[0], s.height) / plan.row_phase_count : 0;
  plan.band_rows = rows_of_band(plan.out_height, s.batch * plan.parts, plan.row_floats * plan.row_phase_count,
                                plan.max_row_shift, threads);
  plan.bands = (plan.out_height + plan.band_rows - 1) / plan.band_rows;

  if (plan.packed == nullptr)
    if (int32_t status = pack(isa, kernels, plan, threads)) return status;

  const int64_t scratch = kernels.scratch(plan);
  std::atomic<bool> is_out_of_memory{false};
  parallel_for(s.batch * plan.parts * plan.bands, threads, [&](int64_t task) {
    float* memory = thread_scratch(Scratch::band, scratch);
    if (memory == nullptr)
      is_out_of_memory = true;
    else
      kernels.band(plan, task, memory);
  });
  if (is_out_of_memory) return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for a band of the input");
  return ADDERKIT_OK;
}

void place_class_taps(const Shape& s, InputGradPlan* plan, std::vector<ClassTap>* taps,
                      std::vector<int64_t>* first) {
  plan->classes = std::min(s.stride[1], s.width);
  int64_t low = 0, high = plan->out_width - 1;
  for (int64_t k = 0; k < plan->classes; ++k) {
    first->push_back(static_cast<int64_t>(taps->size()));
    const int64_t pixels = (s.width - k + s.stride[1] - 1) / s.stride[1];
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t distance = k + s.padding[1] - j * s.dilation[1];
      if (distance % s.stride[1] != 0) continue;
      const int64_t shift = distance / s.stride[1];                   // exact, also where negative
      if (shift + pixels <= 0 || shift >= plan->out_width) continue;  // reaches no output column
      taps->push_back({j, shift});
      low = std::min(low, shift);
      high = std::max(high, shift + pixels - 1);
    }
  }
  first->push_back(static_cast<int64_t>(taps->size()));
  plan->pad_left = -low;
  plan->grad_columns = high - low + 1;
}

void exact_everywhere(const InputGradPlan& plan, int threads) {
  const Shape& s = plan.shape;
  parallel_for(s.batch * s.channels, threads, [&](int64_t task) {
    const int64_t image = task / s.channels, channel = task % s.channels;
    const int64_t* step = plan.grad_input_stride;
    for (int64_t h = 0; h < s.height; ++h)
      for (int64_t w = 0; w < s.width; ++w)
        plan.grad_input[image * step[0] + channel * step[1] + h * step[2] + w * step[3]] =
            exact_input_grad(plan, image, channel, h, w);
  });
}

int32_t pack(const AdderF32Kernels& isa, const InputGradKernels& kernels, InputGradPlan& plan, int threads) {
  const Shape& s = plan.shape;
  const int64_t all_blocks = plan.parts * plan.blocks;
  plan.packed = thread_scratch(Scratch::packed_weights, all_blocks * s.kernel_height * s.kernel_width *
                                                            plan.group_filters * isa.lanes);
  if (plan.packed == nullptr) return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the packed filters");
  std::atomic<bool> is_finite{true};
  parallel_for(all_blocks, threads, [&](int64_t task) {
    if (!kernels.pack(plan, task)) is_finite = false;
  });
  plan.is_finite = is_finite;
  return ADDERKIT_OK;
}

int32_t input_grad(const AdderF32Kernels& isa, InputGradPlan& plan, int32_t wanted_threads) {
  const Shape& s = plan.shape;
  const InputGradKernels& kernels = is_depthwise(s) ? isa.depthwise_input_grad : isa.input_grad;
  plan.group_channels = s.channels / s.groups;
  plan.group_filters = s.out_channels / s.groups;
  const bool is_copied = s.output_stride[1] != 1 || s.input_stride[1] != 1 || plan.grad_input_stride[1] != 1;
  place_parts(s, plan.group_channels, isa.lanes, is_copied, &plan.parts, &plan.blocks);
  const int64_t taps = s.kernel_height * s.kernel_width;
  const double operations =
      1.0 * s.batch * s.out_channels * plan.out_height * plan.out_width * plan.group_channels * taps;
  const int threads = threads_for(operations, wanted_threads);

  std::vector<ClassTap> class_taps;
  std::vector<int64_t> class_first;
  place_class_taps(s, &plan, &class_taps, &class_first);
  plan.class_taps = class_taps.data();
  plan.class_first = class_first.data();
  if (1.0 * plan.group_filters * plan.grad_columns * plan.out_height > most_floats ||
      1.0 * plan.blocks * isa.lanes * s.width * s.height > most_floats ||
      packed_floats(s, taps, isa.lanes) > most_floats)
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for a layer of these sizes");
  int64_t row_floats =
      plan.group_filters * plan.grad_columns / s.stride[0] + s.width * plan.blocks * isa.lanes;
  if (is_depthwise(s)) row_floats = is_copied ? (plan.out_width / s.stride[0] + 2 * s.width) * isa.lanes : 0;
  const int64_t reach = (s.kernel_height - 1) * s.dilation[0];
  plan.band_rows = rows_of_band(s.height, s.batch * plan.parts, row_floats, reach, threads);
  plan.bands = (s.height + plan.band_rows - 1) / plan.band_rows;
  plan.grad_rows = std::min(plan.out_height, (plan.band_rows - 1 + reach) / s.stride[0] + 1);

  if (plan.packed == nullptr)
    if (int32_t status = pack(isa, kernels, plan, threads)) return status;
  if (!plan.is_finite) {  // the clamp instructions would lose a NaN of the filters
    exact_everywhere(plan, threads);
    return ADDERKIT_OK;
  }

  const int64_t scratch = kernels.scratch(plan);
  std::atomic<bool> is_out_of_memory{false};
  parallel_for(s.batch * plan.parts * plan.bands, threads, [&](int64_t task) {
    float* memory = thread_scratch(Scratch::band, scratch);
    if (memory == nullptr)
      is_out_of_memory = true;
    else
      kernels.band(plan, task, memory);
  });
  if (is_out_of_memory) return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for a band of the gradient");
  return ADDERKIT_OK;
}

int32_t forward_by_lines(const AdderF32Kernels& isa, ForwardPlan& plan, int32_t threads) {
  const Shape s = plan.shape;
  const int64_t input_step = position_step(s, s.input_stride),
                output_step = position_step(s, s.output_stride);
  if (!is_pointwise(s) || is_depthwise(s) || input_step == 0 || output_step == 0)
    return forward(isa, plan, threads);
  return by_lines(s.batch * s.height * s.width, [&](int64_t lines, int64_t pixels, int64_t first) {
    ForwardPlan part = plan;
    set_lines(&part.shape, lines, pixels);
    set_line_strides(part.shape.input_stride, input_step, pixels);
    set_line_strides(part.shape.output_stride, output_step, pixels);
    part.out_height = lines;
    part.out_width = pixels;
    part.input += first * input_step;
    part.output += first * output_step;
    const int32_t status = forward(isa, part, threads);
    plan.packed = part.packed;  // what is left over finds them there
    plan.filter_sums = part.filter_sums;
    plan.offset = part.offset;
    return status;
  });
}

int32_t input_grad_by_lines(const AdderF32Kernels& isa, InputGradPlan& plan, int32_t threads) {
  const Shape s = plan.shape;
  const int64_t input_step = position_step(s, s.input_stride),
                output_step = position_step(s, s.output_stride);
  const int64_t grad_step = position_step(s, plan.grad_input_stride);
  if (!is_pointwise(s) || is_depthwise(s) || input_step == 0 || output_step == 0 || grad_step == 0)
    return input_grad(isa, plan, threads);
  return by_lines(s.batch * s.height * s.width, [&](int64_t lines, int64_t pixels, int64_t first) {
    InputGradPlan part = plan;
    int64_t grad_stride[] = {0, plan.grad_input_stride[1], 0, 0};
    set_lines(&part.shape, lines, pixels);
    set_line_strides(part.shape.input_stride, input_step, pixels);
    set_line_strides(part.shape.output_stride, output_step, pixels);
    set_line_strides(grad_stride, grad_step, pixels);
    part.grad_input_stride = grad_stride;
    part.out_height = lines;
    part.out_width = pixels;
    part.input += first * input_step;
    part.grad_output += first * output_step;
    part.grad_input += first * grad_step;
    const int32_t status = input_grad(isa, part, threads);
    plan.packed = part.packed;  // what is left over finds them there
    plan.is_finite = part.is_finite;
    return status;
  });
}

// Nothing may leave through the C interface but a status.
template <class Run>
int32_t guarded(const Run& run) {
  try {
    const int32_t status = run();
    trim_thread_scratch(Scratch::packed_weights);
    return status;
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the plan of a layer of these sizes");
  }
}

}  // namespace
}  // namespace adderkit

using adderkit::fail;

extern "C" int32_t adderkit_adder2d_f32(const adderkit_conv2d_shape* shape, const float* input,
                                        const float* weight, float* output, int32_t threads) {
  adderkit::ForwardPlan plan{};
  if (int32_t status = adderkit::check(shape, threads, &plan.out_height, &plan.out_width)) return status;
  const adderkit::AdderF32Kernels* kernels = adderkit::active_adder_f32();
  if (kernels == nullptr) return ADDERKIT_UNKNOWN_ISA;
  if (shape->batch == 0) return ADDERKIT_OK;
  if (input == nullptr || weight == nullptr || output == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`input`, `weight` or `output` is NULL");
  plan.shape = *shape;
  plan.input = input;
  plan.weight = weight;
  plan.output = output;
  return adderkit::guarded([&] { return adderkit::forward_by_lines(*kernels, plan, threads); });
}

extern "C" int32_t adderkit_adder2d_input_grad_f32(const adderkit_conv2d_shape* shape,
                                                   const float* grad_output, const float* input,
                                                   const float* weight, float* grad_input,
                                                   const int64_t* grad_input_stride, int32_t threads) {
  adderkit::InputGradPlan plan{};
  if (int32_t status = adderkit::check(shape, threads, &plan.out_height, &plan.out_width)) return status;
  const adderkit::AdderF32Kernels* kernels = adderkit::active_adder_f32();
  if (kernels == nullptr) return ADDERKIT_UNKNOWN_ISA;
  if (shape->batch == 0) return ADDERKIT_OK;
  if (grad_output == nullptr || input == nullptr || weight == nullptr || grad_input == nullptr ||
      grad_input_stride == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT,
                "`grad_output`, `input`, `weight`, `grad_input` or `grad_input_stride` is NULL");
  plan.shape = *shape;
  plan.grad_output = grad_output;
  plan.input = input;
  plan.weight = weight;
  plan.grad_input = grad_input;
  plan.grad_input_stride = grad_input_stride;
  return adderkit::guarded([&] { return adderkit::input_grad_by_lines(*kernels, plan, threads); });
}
