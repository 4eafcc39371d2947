#include "openmp_team.hpp"

#include <atomic>

#if defined(__linux__)

#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace polychron {
namespace {

// GCC's runtime has compilers call a parallel region so; LLVM's and Intel's have the function as well.
using Region = void (*)(void (*body)(void*), void* data, unsigned n_threads, unsigned flags);
std::atomic<Region> region{nullptr};
std::atomic<int (*)()> team_size{nullptr};  // that the calling thread's regions have if nothing else is asked for

std::atomic<int64_t> n_regions{0};

constexpr int64_t kUnknown = -1;
constexpr int64_t kSurelyAwake = 200'000;  // nanoseconds after it was seen awake; a look at a thread takes 500

int64_t nanoseconds(clockid_t clock) {
  timespec time;
  if (clock_gettime(clock, &time) != 0) return kUnknown;  // the thread has ended
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Who computes with the process's first thread. OpenMP keeps a team for each thread that begins regions; the others of
// ours are servers' and loaders', which would each get one from us for nothing.
struct Team {
  std::vector<clockid_t> clocks;  // the processor time of each but the first
  int n_threads = 0;
  int64_t seen_awake = -kSurelyAwake;
  std::mutex mutex;

  static Team* of_caller() {
    static Team& first = *new Team;
    static thread_local const bool is_first = syscall(SYS_gettid) == getpid();
    return is_first ? &first : nullptr;
  }

  // Some of a thread's processor time goes by between two looks if it is running.
  bool awake() {
    if (clocks.empty()) return false;  // it may not have more than one thread
    if (nanoseconds(CLOCK_MONOTONIC) - seen_awake < kSurelyAwake) return true;
    std::vector<int64_t> before(clocks.size());
    std::transform(clocks.begin(), clocks.end(), before.begin(), nanoseconds);
    for (size_t k = 0; k < clocks.size(); ++k) {
      const int64_t now = nanoseconds(clocks[k]);
      if (now == kUnknown) n_threads = 0;  // to be met again
      if (now <= before[k]) return false;
    }
    seen_awake = nanoseconds(CLOCK_MONOTONIC);
    return true;
  }

  // A region of which each thread says who it is.
  void meet(Region run, int n) {
    clocks.clear();
    n_threads = n;
    seen_awake = -kSurelyAwake;
    struct Meeting {
      Team* team;
      pthread_t caller;
    } meeting{this, pthread_self()};
    run(
        [](void* data) {
          const auto& [team, caller] = *static_cast<Meeting*>(data);
          clockid_t clock;
          if (pthread_equal(pthread_self(), caller) || pthread_getcpuclockid(pthread_self(), &clock) != 0) return;
          const std::lock_guard<std::mutex> lock(team->mutex);
          team->clocks.push_back(clock);
        },
        &meeting, static_cast<unsigned>(n), 0);
  }
};

}  // namespace

bool share_openmp_team(bool share) {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { region.store(nullptr); }); });  // a child has no team
  team_size.store(reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads")));
  const auto found = reinterpret_cast<Region>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  region.store(share && team_size.load() ? found : nullptr);
  return region.load() != nullptr;
}

bool run_on_openmp_team(int n_threads, void (*body)(void*), void* data) {
  const Region run = region.load(std::memory_order_relaxed);
  // A team of another size would be taken apart and put together again, there and back.
  if (!run || n_threads != team_size.load()()) return false;
  Team* const team = Team::of_caller();
  if (!team) return false;
  if (team->n_threads != n_threads) team->meet(run, n_threads);
  if (!team->awake()) return false;
  run(body, data, static_cast<unsigned>(n_threads), 0);
  team->seen_awake = nanoseconds(CLOCK_MONOTONIC);  // each has just come out of it
  n_regions.fetch_add(1, std::memory_order_relaxed);
  return true;
}

int64_t n_openmp_regions() { return n_regions.load(std::memory_order_relaxed); }

}  // namespace polychron

#else

namespace polychron {
bool share_openmp_team(bool) { return false; }
bool run_on_openmp_team(int, void (*)(void*), void*) { return false; }
int64_t n_openmp_regions() { return 0; }
}  // namespace polychron

#endif
