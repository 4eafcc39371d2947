/* Reset, memory, clock and output of the simulated boards: Cortex-M (SysTick) and 32-bit RISC-V (minstret). */
#include "board.h"

#include <stddef.h>

extern uint32_t data_begin[], data_end[], data_load[], bss_begin[], bss_end[], stack_top[];
int main(void);

void *memset(void *to, int byte, size_t n) {
  unsigned char *p = to;
  while (n-- > 0) *p++ = (unsigned char)byte;
  return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  unsigned char *p = to;
  const unsigned char *q = from;
  while (n-- > 0) *p++ = *q++;
  return to;
}

static void begin(void) {
  uint32_t *to;
  const uint32_t *from = data_load;
  for (to = data_begin; to < data_end;) *to++ = *from++;
  for (to = bss_begin; to < bss_end;) *to++ = 0;
  main();
  board_exit();
}

#if defined(__riscv)

__attribute__((naked, section(".vectors"), used)) void start(void) {
  __asm__ volatile("la sp, stack_top\n tail %0" ::"i"(begin));
}

static uint32_t call(uint32_t operation, uint32_t argument) {
  register uint32_t a0 __asm__("a0") = operation;
  register uint32_t a1 __asm__("a1") = argument;
  __asm__ volatile(
      ".balign 16\n .option push\n .option norvc\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n .option pop"
      : "+r"(a0)
      : "r"(a1)
      : "memory");
  return a0;
}

void board_exit(void) {
  *(volatile uint32_t *)0x100000 = 0x5555; /* the board's switch */
  for (;;) {
  }
}

uint32_t board_ticks(void) {
  uint32_t n;
  __asm__ volatile("csrr %0, minstret" : "=r"(n));
  return n;
}

uint32_t board_ticks_since(uint32_t before) { return board_ticks() - before; }

static void loop(uint32_t n) { __asm__ volatile(".balign 4\n1: addi %0, %0, -1\n bnez %0, 1b" : "+r"(n)); }

#define STACK_POINTER(p) __asm__ volatile("mv %0, sp" : "=r"(p))

#else

void start(void) {
  *(volatile uint32_t *)0xE000E014 = 0xFFFFFF; /* SysTick: the highest value to begin at again */
  *(volatile uint32_t *)0xE000E018 = 0;
  *(volatile uint32_t *)0xE000E010 = 5; /* the processor's clock, no interrupt */
  begin();
}

static void fault(void) {
  board_write("fault\n");
  board_exit();
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, start, fault, fault, fault, fault, fault};

static uint32_t call(uint32_t operation, uint32_t argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register uint32_t r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void board_exit(void) {
  call(0x18, 0x20026); /* the application ended as it should */
  for (;;) {
  }
}

uint32_t board_ticks(void) { return 0xFFFFFF - *(volatile uint32_t *)0xE000E018; }

/* SysTick has 24 bits. */
uint32_t board_ticks_since(uint32_t before) { return (board_ticks() - before) & 0xFFFFFF; }

static void loop(uint32_t n) {
  __asm__ volatile(".syntax unified\n .balign 4\n1: subs %0, %0, #1\n bne 1b" : "+l"(n)::"cc");
}

#define STACK_POINTER(p) __asm__ volatile("mov %0, sp" : "=r"(p))

#endif

void board_write(const char *text) { call(0x04, (uint32_t)(uintptr_t)text); }

void board_write_number(const char *name, uint32_t number) {
  char line[10];
  int k;
  board_write(name);
  line[0] = ' ';
  for (k = 1; k <= 8; ++k) line[k] = "0123456789abcdef"[number >> (32 - 4 * k) & 15];
  line[9] = 0;
  board_write(line);
  board_write("\n");
}

uint32_t board_calibrate(void) {
  const uint32_t before = board_ticks();
  loop(1000000);
  return board_ticks_since(before);
}

static uint32_t *painted;

__attribute__((noinline)) void board_paint_stack(void) {
  uint32_t *p;
  STACK_POINTER(painted);
  for (p = bss_end; p < painted; ++p) *p = 0xA5A5A5A5u;
}

__attribute__((noinline)) uint32_t board_stack_bytes(void) {
  const uint32_t *p = bss_end;
  while (p < painted && *p == 0xA5A5A5A5u) ++p;
  return (uint32_t)((uintptr_t)painted - (uintptr_t)p);
}
