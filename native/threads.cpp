#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "adderkit.h"
#include "scratch.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#include <unistd.h>
#endif

namespace adderkit {
namespace {

struct Job {
  std::atomic<int64_t> next{0};
  int64_t tasks;
  void (*body)(void*, int64_t);
  void* context;

  void work() {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(context, task);
    trim_thread_scratch(Scratch::band);
  }
};

// A second pool beside torch's costs 5-10x, because waiting OpenMP threads spin: share the one that is there.
// It is looked for, never loaded; torch ships it under this very name.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

#if defined(__linux__)
// The process that loaded this library.
const pid_t loading_process = getpid();

// How many libraries the process has loaded so far.
unsigned long long loaded_libraries() {
  unsigned long long count = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        *static_cast<unsigned long long*>(out) = info->dlpi_adds;
        return 1;  // the first one knows
      },
      &count);
  return count;
}
#endif

GompParallel find_gomp() {
#if defined(__linux__)
  // After a fork libgomp still counts on its threads, which only the parent has, and waits for ever.
  if (getpid() != loading_process) return nullptr;
  static std::atomic<GompParallel> found{nullptr};
  static std::atomic<unsigned long long> searched{0};
  GompParallel parallel = found.load(std::memory_order_acquire);
  if (parallel == nullptr) {
    // Torch may be imported after our first call. A search takes 27 microseconds: one for each new library.
    const unsigned long long libraries = loaded_libraries();
    if (searched.exchange(libraries, std::memory_order_relaxed) == libraries) return nullptr;
    void* library = dlopen("libgomp.so.1", RTLD_NOLOAD | RTLD_NOW);
    if (library == nullptr) return nullptr;
    parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
    found.store(parallel, std::memory_order_release);
  }
  return parallel;
#else
  return nullptr;
#endif
}

// Whether `is_there()` within so short a time that sleeping and being woken would take longer: one image of a
// small network on two threads takes 0.12 ms, and waking a thread some 0.04 ms more. On a core that other
// work wants, no more than this time of each job is lost.
template <class Condition>
bool soon(const Condition& is_there) {
  using Clock = std::chrono::steady_clock;
  for (const auto end = Clock::now() + std::chrono::microseconds(50);;) {
    for (int i = 0; i < 16; ++i) {
      if (is_there()) return true;
      pause();
    }
    if (Clock::now() >= end) return false;
  }
}

// A mutex that is held for a moment only: a thread that slept for it would be late.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  if (!soon([&] { return lock.try_lock(); })) lock.lock();
  return lock;
}

// Our own pool: workers wait a moment, then sleep on a condition variable; one job at a time, further callers
// work alone.
class Pool {
 public:
  void run(Job& job, int threads) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) {
      job.work();
      return;
    }
    {
      const auto lock = lock_soon(mutex_);
      while (static_cast<int>(workers_) < threads - 1) {
        std::thread([this, index = workers_] { serve(index); }).detach();
        ++workers_;
      }
      job_ = &job;
      wanted_ = threads - 1;
      active_ = wanted_;
      ++generation_;
    }
    wake_.notify_all();
    job.work();
    soon([this] { return active_ == 0; });
    auto lock = lock_soon(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    job_ = nullptr;
  }

 private:
  void serve(int index) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (index < wanted_) {
        Job* job = job_;
        lock.unlock();
        job->work();
        lock = lock_soon(mutex_);
        if (--active_ == 0) done_.notify_one();
      }
      lock.unlock();
      soon([&] { return generation_ != seen; });
      lock = lock_soon(mutex_);
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int workers_ = 0, wanted_ = 0;
  std::atomic<int> active_{0};  // changed under the mutex, like the next
  std::atomic<uint64_t> generation_{0};
};

// Never destroyed: detached workers may still sleep in it while the process ends. A forked child has no
// workers, so it starts a pool of its own.
Pool& own_pool() {
#if defined(__linux__)
  static std::mutex mutex;
  static Pool* pool = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(mutex);
  if (pool == nullptr || owner != getpid()) {
    pool = new Pool;
    owner = getpid();
  }
  return *pool;
#else
  static Pool* pool = new Pool;
  return *pool;
#endif
}

}  // namespace

int thread_count(int threads) {
  return threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_for(int64_t tasks, int threads, void (*body)(void*, int64_t), void* context) {
  threads = static_cast<int>(std::min<int64_t>(thread_count(threads), tasks));
  Job job;
  job.tasks = tasks;
  job.body = body;
  job.context = context;
  if (threads <= 1) {
    job.work();
  } else if (GompParallel parallel = find_gomp()) {
    parallel([](void* shared) { static_cast<Job*>(shared)->work(); }, &job, static_cast<unsigned>(threads),
             0);
  } else {
    own_pool().run(job, threads);
  }
}

}  // namespace adderkit

extern "C" const char* adderkit_thread_pool(void) {
  return adderkit::find_gomp() != nullptr ? "libgomp" : "own pool";
}
