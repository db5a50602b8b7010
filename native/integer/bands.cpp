#include "integer/bands.h"

#include <algorithm>
#include <thread>

namespace adderkit {
namespace {

inline void pause() {
#if defined(ADDERKIT_X86)
  __builtin_ia32_pause();
#elif defined(ADDERKIT_AARCH64)
  __asm__ volatile("yield");
#endif
}

}  // namespace

Bands::Bands(const Plan::State& plan, int64_t count, int64_t bands) : plan_(plan), count_(count) {
  for (size_t step = 0; step < plan.tensors.size(); ++step) {
    const int64_t height = plan.tensors[step].height;
    const int64_t here = plan.tensors[step].is_stored ? std::min(bands, height) : 0;
    first_.push_back(static_cast<int64_t>(step_of_.size()));
    bands_.push_back(here);
    step_of_.insert(step_of_.end(), static_cast<size_t>(here), static_cast<int64_t>(step));
  }
  stride_ = static_cast<int64_t>(step_of_.size());
  tickets_ = stride_ * count;
  done_ = std::vector<std::atomic<uint8_t>>(static_cast<size_t>(tickets_));
}

Bands::Rows Bands::rows(int64_t step, int64_t band) const {
  const int64_t height = plan_.tensors[static_cast<size_t>(step)].height,
                bands = bands_[static_cast<size_t>(step)];
  return {band * height / bands, (band + 1) * height / bands};
}

// Until rows [first, last) of a tensor are there.
void Bands::wait_for(int64_t image, int64_t step, int64_t first, int64_t last) const {
  const int64_t bands = bands_[static_cast<size_t>(step)];
  for (int64_t band = 0; band < bands; ++band) {
    const Rows there = rows(step, band);
    if (there.last <= first || there.first >= last) continue;
    const auto& done = done_[static_cast<size_t>(image * stride_ + first_[static_cast<size_t>(step)] + band)];
    // Other work may have taken the core of whoever makes it: then waiting in a loop would only be in its
    // way.
    for (int spins = 0; done.load(std::memory_order_acquire) == 0; ++spins)
      if (spins < 2000)
        pause();
      else
        std::this_thread::yield();
  }
}

void Bands::wait_for_inputs(int64_t image, int64_t step, int64_t band) const {
  if (step == 0) return;
  const Layer& layer = *plan_.layers[static_cast<size_t>(step - 1)].layer;
  const Rows out = rows(step, band);
  const bool has_taps = layer.kind != LayerKind::average_pool && layer.kind != LayerKind::classifier;
  if (has_taps)
    wait_for(image, layer.input, out.first * layer.stride[0] - layer.padding[0],
             (out.last - 1) * layer.stride[0] - layer.padding[0] + layer.kernel[0]);
  else
    wait_for(image, layer.input, 0, layer.height);
  if (layer.residual >= 0) wait_for(image, layer.residual, out.first, out.last);
}

}  // namespace adderkit
