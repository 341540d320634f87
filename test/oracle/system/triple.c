/* A fault for which there is no gate, during one for which there is none: the processor gives up. */
#include "runtime.h"

void image_main(void) {
  struct { u16 limit; u32 base; } __attribute__((packed)) none = {0, 0};
  print("before\n");
  __asm__ volatile("lidt %0; ud2" : : "m"(none));
  print("after\n");
}
