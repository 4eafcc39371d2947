/* Clock, output and stack of an ATmega1284P in simavr: Timer 1 counts cycles, text goes through the serial port. */
#include "board.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

static volatile uint16_t n_overflows;

ISR(TIMER1_OVF_vect) { ++n_overflows; }

void board_write(const char *text) {
  UCSR0B = 1 << TXEN0;
  for (; *text; ++text) {
    while (!(UCSR0A & 1 << UDRE0)) {
    }
    UDR0 = (uint8_t)*text;
  }
}

void board_write_number(const char *name, uint32_t number) {
  char line[10];
  int8_t k;
  board_write(name);
  line[0] = ' ';
  for (k = 1; k <= 8; ++k) line[k] = "0123456789abcdef"[number >> (32 - 4 * k) & 15];
  line[9] = 0;
  board_write(line);
  board_write("\n");
}

void board_exit(void) {
  cli();
  sleep_mode(); /* with interrupts off the simulator ends */
}

uint32_t board_ticks(void) {
  uint16_t high, low;
  cli();
  low = TCNT1;
  high = n_overflows;
  if (TIFR1 & 1 << TOV1 && low < 0x8000) ++high;
  sei();
  return (uint32_t)high << 16 | low;
}

uint32_t board_ticks_since(uint32_t before) { return board_ticks() - before; }

/* One tick is one cycle. */
uint32_t board_calibrate(void) {
  TCCR1A = 0;
  TCCR1B = 1 << CS10;
  TIMSK1 = 1 << TOIE1;
  sei();
  return 2000000;
}

extern uint8_t _end;
static uint8_t *painted;

__attribute__((noinline)) void board_paint_stack(void) {
  uint8_t *p;
  painted = (uint8_t *)SP - 16;
  for (p = &_end; p < painted; ++p) *p = 0xA5;
}

__attribute__((noinline)) uint32_t board_stack_bytes(void) {
  const uint8_t *p = &_end;
  while (p < painted && *p == 0xA5) ++p;
  return (uint32_t)(painted - p);
}
