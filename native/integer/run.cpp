#include "integer/run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <new>

#include "dispatch.h"
#include "error.h"
#include "integer/bands.h"
#include "integer/layers.h"
#include "threads.h"

namespace adderkit {
namespace {

// Fewer operations than this (some 3 microseconds) for each thread are not worth waking it for.
constexpr int64_t least_operations = 500 * 1000;
// Bands of a layer for each thread: so many that a thread hardly ever waits for what the other has just
// begun.
constexpr int64_t bands_per_thread = 2;

// What one call has borrowed of a plan: tensors for so many images and scratch for so many threads.
class Loan {
 public:
  Loan(const Plan::State& plan, int64_t shared, int64_t whole, int64_t threads) : plan_(plan) {
    take(&shared_, shared, [&] { return plan.take_memory(Sharing::places); });
    take(&whole_, whole, [&] { return plan.take_memory(Sharing::none); });
    take(&scratch_, threads, [&] { return plan.take_scratch(); });
  }
  ~Loan() {
    for (auto& block : shared_) plan_.memory[0].give_back(std::move(block), plan_.memory_bytes[0]);
    for (auto& block : whole_) plan_.memory[1].give_back(std::move(block), plan_.memory_bytes[1]);
    for (auto& block : scratch_) plan_.scratch.give_back(std::move(block), plan_.scratch_bytes);
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  uint8_t* shared(int64_t thread) const { return shared_[static_cast<size_t>(thread)].get(); }
  uint8_t* whole(int64_t image) const { return whole_[static_cast<size_t>(image)].get(); }
  uint8_t* scratch(int64_t thread) const { return scratch_[static_cast<size_t>(thread)].get(); }

 private:
  template <class Take>
  static void take(std::vector<Aligned<uint8_t>>* blocks, int64_t count, const Take& one) {
    blocks->reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) blocks->push_back(one());
  }

  const Plan::State& plan_;
  std::vector<Aligned<uint8_t>> shared_, whole_, scratch_;
};

void run_layers(const Place& place) {
  for (size_t index = 0; index < place.plan.tensors.size(); ++index)
    if (place.plan.tensors[index].is_stored)
      make_rows(place, static_cast<int64_t>(index), 0, place.plan.tensors[index].height);
}

void write_logits(const Place& place, float* logits) {
  const int64_t last = static_cast<int64_t>(place.plan.tensors.size()) - 1;
  const int32_t* fixed = reinterpret_cast<const int32_t*>(place.tensor(last));
  const float scale = std::ldexp(1.0f, -place.plan.network->logit_shift);
  const int64_t classes = place.plan.tensors.back().channels;
  for (int64_t o = 0; o < classes; ++o) logits[o] = static_cast<float>(fixed[o]) * scale;
}

int32_t run_images(const Plan::State& plan, const AdderU8Kernels* kernels, const uint8_t* images,
                   int64_t count, float* logits, int64_t threads) {
  const PackedWeights& weights = plan.weights_for(kernels);
  const TensorPlan& image = plan.tensors[0];
  const int64_t image_bytes = int64_t{image.height} * image.width * image.channels;
  const int64_t classes = plan.tensors.back().channels;

  threads = std::min(threads, 1 + count * (plan.operations / 1000) / (least_operations / 1000));
  // The images that are left over when each thread has had its share are cut into bands, unless there are
  // about as many of them as threads.
  const int64_t rest = count % threads, banded = 2 * rest <= threads ? rest : 0, whole = count - banded;
  if (banded == 0) threads = std::min(threads, count);
  const Loan loan(plan, std::min(whole, threads), banded, threads);
  std::atomic<int64_t> next{0};
  Bands bands(plan, banded, banded == 0 ? 1 : bands_per_thread * ((threads + banded - 1) / banded));
  parallel_for(threads, static_cast<int>(threads), [&](int64_t thread) {
    const auto place = [&](int64_t index, uint8_t* memory, Sharing sharing) {
      return Place{plan, weights, images + index * image_bytes, memory, sharing, loan.scratch(thread)};
    };
    for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < whole;) {
      const Place here = place(index, loan.shared(thread), Sharing::places);
      run_layers(here);
      write_logits(here, logits + index * classes);
    }
    bands.work([&](int64_t index) { return place(whole + index, loan.whole(index), Sharing::none); });
  });
  for (int64_t index = 0; index < banded; ++index) {
    const Place here{plan, weights, nullptr, loan.whole(index), Sharing::none, nullptr};
    write_logits(here, logits + (whole + index) * classes);
  }
  return ADDERKIT_OK;
}

void copy_tensor(const Place& place, int64_t index, uint8_t* out) {
  const TensorPlan& tensor = place.plan.tensors[static_cast<size_t>(index)];
  const size_t bytes = static_cast<size_t>(tensor.channels) * static_cast<size_t>(tensor.number_bytes);
  for (int64_t y = 0; y < tensor.height; ++y)
    for (int64_t x = 0; x < tensor.width; ++x, out += bytes)
      std::memcpy(out, place.tensor(index) + y * tensor.row() + x * tensor.pixel(), bytes);
}

// Nothing may leave but a status.
template <class Run>
int32_t guarded(const Plan& plan, const Run& run) {
  const AdderU8Kernels* kernels = active_adder_u8();
  if (kernels == nullptr) return ADDERKIT_UNKNOWN_ISA;
  try {
    return run(plan.state(), kernels);
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory to run the network");
  } catch (const std::exception& error) {  // threads that can't be made
    return fail(ADDERKIT_OUT_OF_MEMORY, "the network can't be run: %s", error.what());
  }
}

}  // namespace

int32_t run(const Plan& plan, const uint8_t* images, int64_t count, float* logits, int threads) {
  if (count < 0)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`count` (=%lld) must be >= 0", static_cast<long long>(count));
  if (threads < 0 || threads > most_threads)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`threads` (=%d) must be from 0 to %d", threads, most_threads);
  if (count == 0) return ADDERKIT_OK;
  if (images == nullptr || logits == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`images` and `logits` must not be NULL");
  return guarded(plan, [&](const Plan::State& state, const AdderU8Kernels* kernels) {
    return run_images(state, kernels, images, count, logits, thread_count(threads));
  });
}

int32_t run_to(const Plan& plan, const uint8_t* image, int32_t tensor, void* out) {
  if (image == nullptr || out == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`image` and `out` must not be NULL");
  return guarded(plan, [&](const Plan::State& state, const AdderU8Kernels* kernels) {
    const size_t index = static_cast<size_t>(tensor);
    if (tensor < 0 || index >= state.tensors.size())
      return fail(ADDERKIT_INVALID_ARGUMENT, "`tensor` (=%d) must be from 0 to %zu", tensor,
                  state.tensors.size() - 1);
    const TensorPlan& wanted = state.tensors[index];
    if (index == 0) {
      std::memcpy(out, image,
                  static_cast<size_t>(wanted.height) * static_cast<size_t>(wanted.width) *
                      static_cast<size_t>(wanted.channels));
      return static_cast<int32_t>(ADDERKIT_OK);
    }
    const Loan loan(state, 0, 1, 1);
    const Place place{state,          state.weights_for(kernels), image, loan.whole(0), Sharing::none,
                      loan.scratch(0)};
    run_layers(place);
    copy_tensor(place, tensor, static_cast<uint8_t*>(out));
    return static_cast<int32_t>(ADDERKIT_OK);
  });
}

}  // namespace adderkit
