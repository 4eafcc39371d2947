#include "dispatch.hpp"

#include <atomic>

#include "contract.hpp"

namespace polychron {
namespace {

std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> found{&scalar::kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.push_back(&avx2::kernels);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(&avx512::kernels);
  }
#elif defined(__aarch64__)
  found.push_back(&neon::kernels);
#endif
  return found;
}

const std::vector<const Kernels*>& found() {
  static const std::vector<const Kernels*> list = detect();
  return list;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> chosen{found().back()};
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> available_kernels() {
  std::vector<std::string> names;
  for (const Kernels* set : found()) names.emplace_back(set->name);
  return names;
}

bool use_kernels(const std::string& name) {
  for (const Kernels* set : found()) {
    if (name == set->name) {
      current().store(set, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

std::string current_kernels() { return kernels().name; }

}  // namespace polychron
