// Rounds of parallel_for on a team that is not its own: a stand-in for OpenMP's runtime, whose threads always look for work
// awake. That runtime itself is not instrumented, so that a sanitizer could not see through it.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "openmp_team.hpp"
#include "threads.hpp"

namespace {

constexpr int kThreads = 4;

// Two threads that take the seats of four: more would not be awake together where there are two cores.
class StandIn {
 public:
  StandIn() : thread_([this] { serve(); }) {}
  ~StandIn() {
    body_ = nullptr;
    round_.fetch_add(1);
    thread_.join();
  }
  void run(void (*body)(void*), void* data) {
    body_ = body;
    data_ = data;
    const int64_t round = round_.fetch_add(1) + 1;
    body(data);
    while (done_.load() != round) std::this_thread::yield();
  }

 private:
  void serve() {
    for (int64_t seen = 0;; done_.store(seen)) {
      while (round_.load() == seen) {
      }
      seen = round_.load();
      if (!body_) return;
      for (int seat = 1; seat < kThreads; ++seat) body_(data_);
    }
  }

  void (*body_)(void*) = nullptr;
  void* data_ = nullptr;
  std::atomic<int64_t> round_{0}, done_{0};
  std::thread thread_;
};

StandIn* stand_in = nullptr;

// Every task once, no worker beyond what was promised, an exception handed on, a call from inside done on the spot.
bool rounds_are_sound(int n_rounds) {
  for (int round = 0; round < n_rounds; ++round) {
    const int64_t n_tasks = 2 + round % 7;
    const int64_t n_workers = n_tasks < kThreads ? n_tasks : kThreads;
    const bool throws = round % 5 == 0;
    std::vector<int> done(static_cast<size_t>(n_tasks)), scratch(static_cast<size_t>(n_workers));
    bool thrown = false;
    try {
      polychron::parallel_for(kThreads, n_tasks, [&](int64_t task, int worker) {
        if (worker < 0 || worker >= n_workers) std::abort();
        ++scratch[static_cast<size_t>(worker)];  // a race, if two threads had one worker's number
        if (task == 0) polychron::parallel_for(kThreads, 3, [&](int64_t, int) { ++done[0]; });
        if (throws && task == 1) throw std::runtime_error("as agreed");
        ++done[static_cast<size_t>(task)];
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    if (thrown != throws) return false;
    for (int64_t task = 0; task < n_tasks && !throws; ++task) {
      if (done[static_cast<size_t>(task)] != (task == 0 ? 4 : 1)) return false;
    }
  }
  return true;
}

}  // namespace

extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned, unsigned) { stand_in->run(body, data); }
extern "C" int omp_get_max_threads() { return kThreads; }

int main() {
  StandIn team;
  stand_in = &team;
  if (!polychron::share_openmp_team(true)) {
    std::printf("FAILED: the stand-in was not found\n");
    return 1;
  }
  // On a crowded machine the team is seldom found awake.
  for (int k = 0; k < 20'000 && polychron::n_openmp_regions() < 100; ++k) {
    if (rounds_are_sound(10)) continue;
    std::printf("FAILED: a round on the team\n");
    return 1;
  }
  std::printf("%lld rounds on the team\n", static_cast<long long>(polychron::n_openmp_regions()));
  polychron::share_openmp_team(false);
  const int64_t before = polychron::n_openmp_regions();
  if (!rounds_are_sound(50) || polychron::n_openmp_regions() != before) {
    std::printf("FAILED: a round without the team\n");
    return 1;
  }
  return 0;
}
