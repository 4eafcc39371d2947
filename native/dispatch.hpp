// Which instruction set runs: asked of the processor once, or forced by name.
#pragma once

#include <string>
#include <vector>

namespace polychron {

std::vector<std::string> available_kernels();    // names that this processor runs, slowest first
bool use_kernels(const std::string& name);       // false: not available here, nothing changed
std::string current_kernels();

}  // namespace polychron
