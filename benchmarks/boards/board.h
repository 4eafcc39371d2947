/* What a program needs of a board without an operating system: its beginning is in board.c. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Text and the end, through the simulator (semihosting). */
void board_write(const char *text);
void board_write_number(const char *name, uint32_t number);
void board_exit(void);

/* A clock that goes forward with the instructions executed (qemu -icount shift=0): so many of its ticks are what
 * board_calibrate's two million instructions take. */
uint32_t board_ticks(void);
uint32_t board_ticks_since(uint32_t before);
uint32_t board_calibrate(void);

/* How deep the stack was below the caller of the one, when the other is called. */
void board_paint_stack(void);
uint32_t board_stack_bytes(void);

#endif
