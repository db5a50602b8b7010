// adderkit_peak: times the loops of peak.h on all threads at once.
#include <chrono>
#include <new>
#include <vector>

#include "../dispatch.h"
#include "../error.h"
#include "../threads.h"

namespace adderkit {
namespace {

// Short against the 3 ms and more that a scheduler gives a process, so that on a machine with other work some
// slices are whole; the best counts.
constexpr double slice_seconds = 1e-3;
constexpr int slices = 50;
constexpr int most_floats = 2 * 16;  // peak.h: a vector of at most 16 lanes and a few inputs

// Operations a second of the calling thread in its best slice.
double speed(const AdderF32Kernels& kernels, int kind) {
  alignas(64) float values[most_floats];
  for (int i = 0; i < most_floats; ++i) values[i] = 0.25f + 0.0625f * static_cast<float>(i % 7);
  double best = 0.0;
  int64_t rounds = 256;
  for (int slice = 0; slice < slices;) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t done = kernels.peak(kind, rounds, values);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds < slice_seconds) {
      rounds *= 2;
      continue;
    }
    const double operations = static_cast<double>(done) / seconds;
    if (operations > best) best = operations;
    ++slice;
  }
  return best;
}

double speed_of_all(const AdderF32Kernels& kernels, int kind, int32_t threads) {
  std::vector<double> speeds(static_cast<size_t>(thread_count(threads)), 0.0);
  const int64_t tasks = static_cast<int64_t>(speeds.size());
  parallel_for(tasks, static_cast<int>(tasks), [&](int64_t task) { speeds[task] = speed(kernels, kind); });
  double all = 0.0;
  for (double of_thread : speeds) all += of_thread;
  return all;
}

}  // namespace
}  // namespace adderkit

extern "C" int32_t adderkit_peak(int32_t kind, int32_t threads, double* operations_per_second) {
  using namespace adderkit;
  if (kind < ADDERKIT_PEAK_MULTIPLY_ADD || kind > ADDERKIT_PEAK_ADDER_INPUT_GRAD)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`kind` (=%d) must be an adderkit_peak_kind",
                static_cast<int>(kind));
  if (threads < 0 || threads > most_threads)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`threads` (=%d) must be from 0 to %d", static_cast<int>(threads),
                most_threads);
  if (operations_per_second == nullptr)
    return fail(ADDERKIT_INVALID_ARGUMENT, "`operations_per_second` is NULL");
  const AdderF32Kernels* kernels = active_adder_f32();
  if (kernels == nullptr) return ADDERKIT_UNKNOWN_ISA;
  try {
    *operations_per_second = speed_of_all(*kernels, kind, threads);
  } catch (const std::bad_alloc&) {
    return fail(ADDERKIT_OUT_OF_MEMORY, "no memory for the speeds of all threads");
  }
  return ADDERKIT_OK;
}
