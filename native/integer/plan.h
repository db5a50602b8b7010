// What run.cpp works on: where tensors lie and how layers read them. Made by plan.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "adder_u8/plan.h"
#include "integer/memory.h"
#include "integer/run.h"

namespace adderkit {

// A tensor in memory: (height, width, channels), the channels padded with zeros, in a border that holds what
// layers read beside the map, so that they have no cases.
struct TensorPlan {
  int32_t channels, height, width;
  int32_t top = 0, left = 0, bottom = 0, right = 0;  // border
  int32_t padded_channels, number_bytes = 1;         // number_bytes: 2 for what an average pool makes
  std::vector<uint8_t> pad;                          // what the border holds, (channels); empty: no border
  bool is_stored = true;                             // not: an image that convolutions alone read
  int64_t offset[2] = {0, 0};                        // in the memory of `Sharing`

  int64_t pixel() const { return int64_t{padded_channels} * number_bytes; }
  int64_t row() const { return (int64_t{left} + width + right) * pixel(); }
  int64_t bytes() const { return (int64_t{top} + height + bottom) * row(); }
  int64_t origin() const { return top * row() + left * pixel(); }  // of pixel (0, 0)
};

// Tensors of a network in one block: where one thread runs layer after layer, those that are no longer needed
// lend their place to others of the same shape and border; where several do, each has its own.
enum class Sharing { places, none };

struct LayerPlan {
  const Layer* layer;
  SlidingLayer sliding{};       // adder and convolution
  int64_t patch = 0;            // from a tensor's pixel (0, 0) to the first patch, bytes (adder)
  int64_t widened_columns = 0;  // of the int16 copy that a convolution reads
  int64_t band_rows = 0;        // most output rows of one such copy
  int64_t operations = 0;
  Aligned<int64_t> epilogue;  // multiplier, offset, low, high
};

// Weights as the kernels of one instruction set want them.
struct PackedWeights {
  const AdderU8Kernels* kernels;
  std::vector<Aligned<uint8_t>> layers;
};

struct Plan::State {
  const Network* network;
  std::vector<TensorPlan> tensors;
  std::vector<LayerPlan> layers;
  int64_t memory_bytes[2] = {0, 0};  // of `Sharing`
  int64_t scratch_bytes = 0;         // of one thread
  int64_t operations = 0;            // of one image
  std::vector<int16_t> classifier_weight;

  mutable BlockPool memory[2], scratch;
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<PackedWeights>> packed;

  // Throws std::bad_alloc.
  explicit State(const Network& network);
  const PackedWeights& weights_for(const AdderU8Kernels* kernels) const;
  Aligned<uint8_t> take_memory(Sharing sharing) const;
  Aligned<uint8_t> take_scratch() const;

 private:
  void place_borders();
  void place_tensors();
  void plan_layer(LayerPlan* plan, const Layer& layer);
  void fill_borders(uint8_t* memory, Sharing sharing) const;
};

}  // namespace adderkit
