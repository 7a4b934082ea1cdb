/* Traps of its own: an int3 and a raised SIGTRAP, both handled, between calls that are bound lazily. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static volatile sig_atomic_t seen;

static void trapped(int number)
{
    seen += number == SIGTRAP;
}

int main(void)
{
    signal(SIGTRAP, trapped);
    __asm__ volatile("int3");
    char *end = NULL;
    long value = strtol("12", &end, 10);
    raise(SIGTRAP);
    printf("%ld %d\n", value, (int)seen);
    return 0;
}
