#include "integer/plan.h"

#include <algorithm>

#include "dispatch.h"
#include "error.h"

namespace adderkit {
namespace {

// An int16 copy for a convolution is made for so many rows at a time that it stays in the first-level cache.
constexpr int64_t widened_bytes = 16 << 10;

constexpr int64_t most_result = int64_t{1} << 62;

void fill_pixels(uint8_t* to, int64_t pixels, const TensorPlan& tensor) {
  for (int64_t i = 0; i < pixels; ++i, to += tensor.padded_channels)
    std::memcpy(to, tensor.pad.data(), tensor.pad.size());
}

// By how many bits more a layer may shift, its numbers being multiplied by as much: kernels are fastest where
// the result is in the upper half of 64 bits. 0 where a shift by 32 can't be had so.
int extra_shift(const Layer& layer, int64_t largest_sum) {
  if (layer.shift >= 32) return 0;
  const int up = 32 - layer.shift;
  const auto fits = [up](int64_t number, int64_t limit) {
    return (number < 0 ? -number : number) <= limit >> up;
  };
  if (!fits(255, INT32_MAX) || !fits(int64_t{255} * layer.residual_multiplier, most_result / 4)) return 0;
  for (size_t o = 0; o < layer.multiplier.size(); ++o) {
    const int64_t multiplier = layer.multiplier[o], size = multiplier < 0 ? -multiplier : multiplier;
    int64_t largest;
    if (!fits(multiplier, INT32_MAX) || __builtin_mul_overflow(size, largest_sum, &largest) ||
        !fits(largest, most_result / 4) || !fits(layer.offset[o], most_result / 4))
      return 0;
  }
  return up;
}

}  // namespace

Plan::State::State(const Network& network) : network(&network) {
  const auto add_tensor = [this](int32_t channels, int32_t height, int32_t width, int32_t number_bytes) {
    TensorPlan tensor;
    tensor.channels = channels, tensor.height = height, tensor.width = width;
    tensor.padded_channels = static_cast<int32_t>(round_up(channels, channel_step));
    tensor.number_bytes = number_bytes;
    tensors.push_back(tensor);
  };
  add_tensor(network.channels, network.height, network.width, 1);
  for (const Layer& layer : network.layers)
    add_tensor(layer.out_channels, layer.out_height, layer.out_width,
               layer.kind == LayerKind::average_pool ? 2
               : layer.kind == LayerKind::classifier ? 4
                                                     : 1);
  place_borders();
  for (const Layer& layer : network.layers) plan_layer(&layers.emplace_back(), layer);
  for (const LayerPlan& plan : layers) operations += plan.operations;
  place_tensors();
}

void Plan::State::place_borders() {
  tensors[0].is_stored = false;
  for (const Layer& layer : network->layers) {
    TensorPlan& input = tensors[static_cast<size_t>(layer.input)];
    if (layer.kind != LayerKind::convolution) input.is_stored = true;
    if (layer.residual >= 0) tensors[static_cast<size_t>(layer.residual)].is_stored = true;
    if (layer.kind != LayerKind::adder) continue;
    if (layer.padding[0] == 0 && layer.padding[1] == 0) continue;
    input.pad = layer.pad;
    // The last patch may end before the padding does.
    const int32_t last_row = (layer.out_height - 1) * layer.stride[0] - layer.padding[0] + layer.kernel[0];
    const int32_t last_column = (layer.out_width - 1) * layer.stride[1] - layer.padding[1] + layer.kernel[1];
    input.top = std::max(input.top, layer.padding[0]);
    input.left = std::max(input.left, layer.padding[1]);
    input.bottom = std::max(input.bottom, last_row - layer.height);
    input.right = std::max(input.right, last_column - layer.width);
  }
}

// Places in the order of the layers, for each way of sharing.
void Plan::State::place_tensors() {
  std::vector<size_t> last_reader(tensors.size(), 0);
  for (size_t index = 0; index < network->layers.size(); ++index) {
    const Layer& layer = network->layers[index];
    last_reader[static_cast<size_t>(layer.input)] = index;
    if (layer.residual >= 0) last_reader[static_cast<size_t>(layer.residual)] = index;
  }
  struct Place {
    size_t tensor;  // the first that had it
    int64_t offset;
  };
  const auto is_alike = [this](size_t a, size_t b) {
    const TensorPlan &x = tensors[a], &y = tensors[b];
    return x.channels == y.channels && x.height == y.height && x.width == y.width && x.top == y.top &&
           x.left == y.left && x.bottom == y.bottom && x.right == y.right && x.pad == y.pad &&
           x.number_bytes == y.number_bytes;
  };
  int64_t* const end = memory_bytes;
  std::vector<Place> used, free;
  const auto place = [&](size_t index) {
    TensorPlan& tensor = tensors[index];
    if (!tensor.is_stored) return;
    tensor.offset[1] = end[1];
    end[1] += round_up(tensor.bytes(), 64);
    const auto found = std::find_if(free.begin(), free.end(),
                                    [&](const Place& place) { return is_alike(place.tensor, index); });
    if (found != free.end()) {
      tensor.offset[0] = found->offset;
      free.erase(found);
    } else {
      tensor.offset[0] = end[0];
      end[0] += round_up(tensor.bytes(), 64);
    }
    used.push_back({index, tensor.offset[0]});
  };
  place(0);
  for (size_t index = 0; index < layers.size(); ++index) {
    place(index + 1);
    for (size_t k = used.size(); k-- > 0;)
      if (used[k].tensor != index + 1 && last_reader[used[k].tensor] <= index) {
        free.push_back(used[k]);
        used.erase(used.begin() + static_cast<std::ptrdiff_t>(k));
      }
  }
}

void Plan::State::plan_layer(LayerPlan* plan, const Layer& layer) {
  plan->layer = &layer;
  const TensorPlan& input = tensors[static_cast<size_t>(layer.input)];
  const TensorPlan& output = tensors[static_cast<size_t>(plan - layers.data()) + 1];
  const bool has_taps = layer.kind != LayerKind::average_pool && layer.kind != LayerKind::classifier;
  const int64_t terms =
      has_taps ? int64_t{layer.kernel[0]} * layer.kernel[1] : int64_t{layer.height} * layer.width;
  const bool is_sliding = layer.kind == LayerKind::adder || layer.kind == LayerKind::convolution;
  plan->operations = terms * (is_sliding || layer.kind == LayerKind::classifier ? layer.channels : 1) *
                     layer.out_channels * layer.out_height * layer.out_width;
  plan->band_rows = layer.out_height;
  if (layer.kind == LayerKind::classifier) {
    classifier_weight.assign(layer.weight.begin(), layer.weight.end());
    scratch_bytes = std::max(scratch_bytes, int64_t{layer.height} * layer.width * layer.channels * 2);
  }
  if (!is_sliding) return;

  SlidingLayer& sliding = plan->sliding;
  sliding.kernel_rows = layer.kernel[0];
  sliding.out_width = layer.out_width;
  sliding.out_row = output.row();
  if (layer.residual >= 0) sliding.residual_row = tensors[static_cast<size_t>(layer.residual)].row();
  sliding.filters = output.pixel();
  int64_t pixel = input.pixel();
  sliding.row = input.row();
  if (layer.kind == LayerKind::convolution) {
    pixel = layer.channels;
    plan->widened_columns = int64_t{layer.out_width - 1} * layer.stride[1] + layer.kernel[1];
    sliding.row = plan->widened_columns * pixel;
    const int64_t rows_that_fit = widened_bytes / (2 * sliding.row) - layer.kernel[0];
    plan->band_rows = std::min(std::max<int64_t>(1, rows_that_fit / layer.stride[0] + 1), plan->band_rows);
    const int64_t rows = (plan->band_rows - 1) * layer.stride[0] + layer.kernel[0];
    scratch_bytes = std::max(scratch_bytes, (rows * sliding.row + 2) * 2);
  }
  plan->patch = -layer.padding[0] * sliding.row - layer.padding[1] * pixel;
  sliding.run = layer.kernel[1] * pixel;
  sliding.row_stride = layer.stride[0] * sliding.row;
  sliding.x_stride = layer.stride[1] * pixel;

  const int up =
      extra_shift(layer, terms * layer.channels * 255 * (layer.kind == LayerKind::adder ? 1 : 128));
  const int64_t filters = round_up(layer.out_channels, filter_step);
  plan->epilogue = aligned<int64_t>(4 * filters);
  int64_t* const multiplier = plan->epilogue.get();
  const int64_t factor = int64_t{1} << up;
  for (int64_t o = 0; o < layer.out_channels; ++o) {
    multiplier[o] = layer.multiplier[static_cast<size_t>(o)] * factor;
    multiplier[filters + o] = layer.offset[static_cast<size_t>(o)] * factor;
    multiplier[2 * filters + o] = layer.low;
    multiplier[3 * filters + o] = layer.high;
  }
  sliding.epilogue = {multiplier,
                      multiplier + filters,
                      multiplier + 2 * filters,
                      multiplier + 3 * filters,
                      layer.residual_multiplier,
                      up,
                      layer.shift + up};
}

// Filters as the kernels of the active instruction set want them; kept for the next call.
const PackedWeights& Plan::State::weights_for(const AdderU8Kernels* kernels) const {
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : packed)
    if (known->kernels == kernels) return *known;
  auto made = std::make_unique<PackedWeights>();
  made->kernels = kernels;
  for (const LayerPlan& plan : layers) {
    const Layer& layer = *plan.layer;
    Aligned<uint8_t>& weights = made->layers.emplace_back();
    if (layer.kind == LayerKind::convolution) {
      weights = aligned<uint8_t>(kernels->convolution_bytes(plan.sliding));
      kernels->pack_convolution(plan.sliding, layer.weight.data(), layer.out_channels, weights.get());
    } else if (layer.kind == LayerKind::adder) {
      weights = aligned<uint8_t>(kernels->adder_bytes(plan.sliding));
      const int64_t taps = int64_t{layer.out_channels} * layer.kernel[0] * layer.kernel[1];
      const int64_t channels = layer.channels, padded = round_up(channels, channel_step);
      const uint8_t* filters = layer.adder_weight.data();
      std::vector<uint8_t> wide;
      if (padded != channels) {
        wide.resize(static_cast<size_t>(taps * padded));
        for (int64_t tap = 0; tap < taps; ++tap)
          std::memcpy(&wide[static_cast<size_t>(tap * padded)], filters + tap * channels,
                      static_cast<size_t>(channels));
        filters = wide.data();
      }
      kernels->pack_adder(plan.sliding, filters, layer.out_channels, weights.get());
    }
  }
  packed.push_back(std::move(made));
  return *packed.back();
}

void Plan::State::fill_borders(uint8_t* memory, Sharing sharing) const {
  for (const TensorPlan& tensor : tensors) {
    if (tensor.pad.empty() || !tensor.is_stored) continue;
    uint8_t* to = memory + tensor.offset[static_cast<int>(sharing)];
    const int64_t columns = int64_t{tensor.left} + tensor.width + tensor.right;
    fill_pixels(to, tensor.top * columns, tensor);
    uint8_t* row = to + tensor.top * tensor.row();
    for (int64_t y = 0; y < tensor.height; ++y, row += tensor.row()) {
      fill_pixels(row, tensor.left, tensor);
      fill_pixels(row + (tensor.left + tensor.width) * tensor.pixel(), tensor.right, tensor);
    }
    fill_pixels(row, tensor.bottom * columns, tensor);
  }
}

Aligned<uint8_t> Plan::State::take_memory(Sharing sharing) const {
  const int way = static_cast<int>(sharing);
  return memory[way].take(memory_bytes[way], [&](uint8_t* block) { fill_borders(block, sharing); });
}

Aligned<uint8_t> Plan::State::take_scratch() const {
  return scratch.take(scratch_bytes, [](uint8_t*) {});
}

Plan::Plan() = default;
Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;

int32_t Plan::make(const Network& network) {
  try {
    state_ = std::make_unique<State>(network);
    // For the instruction set that calls will most likely take; where there is none, they say so.
    if (const AdderU8Kernels* kernels = active_adder_u8()) state_->weights_for(kernels);
    return ADDERKIT_OK;
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory to plan the network");
  }
}

}  // namespace adderkit
