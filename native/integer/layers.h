// One layer of one image: some rows of its output.
#pragma once

#include "integer/plan.h"

namespace adderkit {

// What a layer is run on.
struct Place {
  const Plan::State& plan;
  const PackedWeights& weights;
  const uint8_t* image;
  uint8_t* memory;  // tensors, laid out as `sharing` says
  Sharing sharing;
  uint8_t* scratch;  // of this thread

  uint8_t* tensor(int64_t index) const {  // its pixel (0, 0)
    const TensorPlan& tensor = plan.tensors[static_cast<size_t>(index)];
    return memory + tensor.offset[static_cast<int>(sharing)] + tensor.origin();
  }
};

// Makes rows [first, last) of tensor `index`; 0 stores the image.
void make_rows(const Place& place, int64_t index, int64_t first, int64_t last);

}  // namespace adderkit
