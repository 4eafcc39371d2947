// One small pool of threads for the process.
#pragma once

#include <cstdint>
#include <functional>

namespace polychron {

// Calls work(task, worker) once for each task in [0, n_tasks), on at most n_threads threads (the caller is one of
// them), and returns when all are done. 0 <= worker < min(n_threads, n_tasks) tells threads apart, for scratch memory.
// Which thread takes which task is open: a task must own what it writes. The first exception is thrown again here.
// A call from inside a task, or while another thread of the process uses the pool, runs on the caller alone.
void parallel_for(int n_threads, int64_t n_tasks, const std::function<void(int64_t task, int worker)>& work);

}  // namespace polychron
