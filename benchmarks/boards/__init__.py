"""Our C and a dense int8 network's on simulated microcontrollers: instructions, flash, RAM, stack."""
