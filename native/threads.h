// Runs independent tasks on several threads: on the libgomp that the process already has, else, and in forked
// processes, on our own pool.
#pragma once

#include <cstdint>

namespace adderkit {

// Calls body(context, task) once for each task in [0, tasks), on at most `threads` threads (0: all cores).
// Which thread runs which task is not fixed, so a task's result must not depend on it. Each thread then trims
// its scratch of bands, so tasks keep nothing there.
void parallel_for(int64_t tasks, int threads, void (*body)(void* context, int64_t task), void* context);

template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  parallel_for(
      tasks, threads, [](void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// What a thread does that looks again and again whether another is done: leaves the core's units to others.
inline void pause() {
#if defined(ADDERKIT_X86)
  __builtin_ia32_pause();
#elif defined(ADDERKIT_AARCH64)
  __asm__ volatile("yield");
#endif
}

// More is a mistake: an OpenMP runtime ends the process where it can't make them.
constexpr int most_threads = 4096;

// The number of threads that `threads` stands for (0: all cores).
int thread_count(int threads);

}  // namespace adderkit
