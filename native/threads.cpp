#include "threads.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "openmp_team.hpp"

namespace polychron {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A training step enters the pool about ten times within a few milliseconds: a worker looks for new work for some
// microseconds before it sleeps, long enough to bridge two kernels, short enough not to take a core from torch.
constexpr int kSpins = 4000;

class Pool {
 public:
  void run(int n_threads, int64_t n_tasks, const std::function<void(int64_t, int)>& work) {
    std::unique_lock<std::mutex> mine(entry_, std::defer_lock);
    // Who is inside holds the lock already, and must not even try to take it.
    if (n_threads <= 1 || n_tasks <= 1 || inside_ || !mine.try_lock()) {
      for (int64_t task = 0; task < n_tasks; ++task) work(task, 0);
      return;
    }
    // Nobody is inside: what workers read may change.
    work_ = &work;
    n_tasks_ = n_tasks;
    next_.store(0, std::memory_order_relaxed);
    failure_ = nullptr;
    n_seated_.store(0, std::memory_order_relaxed);
    if (!run_on_openmp_team(n_threads, take_seat, this)) run_on_workers(std::min<int64_t>(n_threads, n_tasks) - 1);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // A thread of a team that is not ours: whichever comes first is worker 0. There are no more workers than tasks.
  static void take_seat(void* pool) {
    Pool& own = *static_cast<Pool*>(pool);
    const int worker = own.n_seated_.fetch_add(1, std::memory_order_relaxed);
    if (worker >= own.n_tasks_) return;
    inside_ = true;
    own.take_tasks(worker);
    inside_ = false;
  }

  void run_on_workers(int64_t n_helpers) {
    while (static_cast<int64_t>(workers_.size()) < n_helpers) {
      const int worker = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, worker] { serve(worker); });
    }
    n_wanted_ = static_cast<int>(n_helpers);
    gate_.fetch_sub(kClosed, std::memory_order_release);
    round_.fetch_add(1);
    if (sleepers_.load() > 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }  // who counts as a sleeper is asleep now, or sees the new round
      wake_.notify_all();
    }
    inside_ = true;
    take_tasks(0);
    inside_ = false;
    // All tasks are taken. Waking a thread may take longer than they did: who has not come by now need not come.
    gate_.fetch_add(kClosed, std::memory_order_acq_rel);
    for (int spin = 0; gate_.load(std::memory_order_acquire) != kClosed; ++spin) {
      if (spin < kSpins) {
        relax();
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return gate_.load(std::memory_order_acquire) == kClosed; });
      }
    }
  }

  void take_tasks(int worker) {
    try {
      for (int64_t task = next_.fetch_add(1); task < n_tasks_; task = next_.fetch_add(1)) (*work_)(task, worker);
    } catch (...) {
      next_.store(n_tasks_);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void serve(int worker) {
    inside_ = true;
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && round_.load(std::memory_order_acquire) == seen; ++spin) relax();
      if (round_.load(std::memory_order_acquire) == seen) sleep(seen);
      seen = round_.load(std::memory_order_acquire);
      if (gate_.fetch_add(1, std::memory_order_acq_rel) < kClosed && worker <= n_wanted_) take_tasks(worker);
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == kClosed + 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  // A worker that is awake takes no lock to begin: it would meet the caller there and be put to sleep.
  // It counts itself, then looks at the round; the caller goes the other way: one of them sees the other.
  void sleep(uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return round_.load() != seen; });
    sleepers_.fetch_sub(1);
  }

  static thread_local bool inside_;
  std::mutex entry_;  // one round at a time
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t, int)>* work_ = nullptr;
  int64_t n_tasks_ = 0;
  int n_wanted_ = 0;
  static constexpr int kClosed = 1 << 30;
  std::atomic<int> gate_{kClosed};  // workers that are at it; and kClosed while nobody may begin
  std::atomic<int64_t> next_{0};
  std::atomic<int> n_seated_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<int> sleepers_{0};
  std::exception_ptr failure_;
};

thread_local bool Pool::inside_ = false;

// Never destroyed: its threads sleep until the process ends. A forked child has none of them and gets a pool of its
// own; the parent's is left alone there, since its locks may be held by threads that the child does not have.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
  });
  return *pool.load();
}

}  // namespace

void parallel_for(int n_threads, int64_t n_tasks, const std::function<void(int64_t, int)>& work) {
  the_pool().run(n_threads, n_tasks, work);
}

}  // namespace polychron
