// Runs an integer network: weights packed once, activations in buffers that are kept between calls.
#pragma once

#include <cstdint>
#include <memory>

#include "integer/network.h"

namespace adderkit {

// What a network needs to run, made once; then any number of threads may run it at the same time.
class Plan {
 public:
  Plan();
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  // Status; the reason is in adderkit_error(). `network` must outlive the plan and stay as it is.
  int32_t make(const Network& network);

  struct State;
  const State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// Logits (count, classes) of images (count, height, width, channels). Status. threads 0 means all cores.
int32_t run(const Plan& plan, const uint8_t* images, int64_t count, float* logits, int threads);

// One tensor of one image, (height, width, channels) without padding: uint8; of an average pool uint16, of
// the classifier int32. Tensor 0 is the image, tensor i + 1 what layer i makes. Status.
int32_t run_to(const Plan& plan, const uint8_t* image, int32_t tensor, void* out);

}  // namespace adderkit
