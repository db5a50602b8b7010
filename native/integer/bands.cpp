#include "integer/bands.h"

#include <algorithm>
#include <thread>

#include "threads.h"

namespace adderkit {

Bands::Bands(const Plan::State& plan, int64_t count, int64_t bands) : plan_(plan), count_(count) {
  for (size_t tensor = 0; tensor < plan.tensors.size(); ++tensor) {
    const int64_t height = plan.tensors[tensor].height;
    const int64_t here = plan.tensors[tensor].is_stored ? std::min(bands, height) : 0;
    first_band_.push_back(bands_.size());
    // Every other band first, from both ends to the middle. Of two threads, one then has the upper and one
    // the lower half of every layer in its cache, and begins with the band for which it needs nothing of the
    // other.
    for (int64_t round = 0; round < 2; ++round)
      for (int64_t band = 0; band < here; ++band)
        if ((band < here / 2 ? band : here - 1 - band) % 2 == round)
          bands_.push_back({static_cast<int64_t>(tensor), band * height / here, (band + 1) * height / here});
  }
  first_band_.push_back(bands_.size());
  tickets_ = static_cast<int64_t>(bands_.size()) * count;
  done_ = std::vector<std::atomic<uint8_t>>(static_cast<size_t>(tickets_));
}

// Until rows [first, last) of a tensor are there.
void Bands::wait_for(int64_t image, int64_t tensor, int64_t first, int64_t last) const {
  for (size_t k = first_band_[static_cast<size_t>(tensor)]; k < first_band_[static_cast<size_t>(tensor) + 1];
       ++k) {
    if (bands_[k].last <= first || bands_[k].first >= last) continue;
    const auto& done = done_[k * static_cast<size_t>(count_) + static_cast<size_t>(image)];
    // Other work may have taken the core of whoever makes it: then waiting in a loop would only be in its
    // way.
    for (int spins = 0; done.load(std::memory_order_acquire) == 0; ++spins)
      if (spins < 2000)
        pause();
      else
        std::this_thread::yield();
  }
}

void Bands::wait_for_inputs(int64_t image, const Band& band) const {
  if (band.tensor == 0) return;
  const Layer& layer = *plan_.layers[static_cast<size_t>(band.tensor - 1)].layer;
  if (layer.kind == LayerKind::average_pool || layer.kind == LayerKind::classifier)
    wait_for(image, layer.input, 0, layer.height);
  else
    wait_for(image, layer.input, band.first * layer.stride[0] - layer.padding[0],
             (band.last - 1) * layer.stride[0] - layer.padding[0] + layer.kernel[0]);
  if (layer.residual >= 0) wait_for(image, layer.residual, band.first, band.last);
}

}  // namespace adderkit
