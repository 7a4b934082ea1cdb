/* 1 GiB of zeroes, of which a few pages are looked at and written to. */
#include <stdio.h>

static char large[1ul << 30];

int main(int argc, char **argv)
{
    int sum = 0;
    (void)argv;
    for (unsigned long at = 0; at < sizeof large; at += 64 << 20)
        sum += large[at];
    if (sum || large[sizeof large - 1])
        return 1;
    large[0] = (char)argc;
    large[sizeof large - 1] = 2;
    printf("zero, then %d\n", large[0] + large[sizeof large - 1]);
    return 0;
}
