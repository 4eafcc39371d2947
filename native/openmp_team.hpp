// The threads of the OpenMP runtime that PyTorch computes with, for as long as they wait for work awake.
//
// After a parallel operation of PyTorch's they look for the next for milliseconds, each on a core of its own, which a
// thread of ours would have to share. So ours stay asleep then, and these take the tasks. Once they sleep, theirs is the
// longer way: a region of OpenMP's ends when its last thread has woken and gone through, in a virtual machine after
// milliseconds.
#pragma once

#include <cstdint>

namespace polychron {

// From now on (or no longer), if the process has such a runtime; whether it does.
bool share_openmp_team(bool share);

// Calls body(data) on n_threads > 1 threads, the caller among them, and returns true when all are done; false, and
// nothing was called, where the team is asleep, has another size, or the caller is not the process's first thread. The
// body must not throw.
bool run_on_openmp_team(int n_threads, void (*body)(void*), void* data);

// How often that was, in this process.
int64_t n_openmp_regions();

}  // namespace polychron
