/* Runs code that lies on its stack: `mov $42, %eax; ret`. */
#include <stdio.h>

int main(void)
{
    static const unsigned char answer[] = {0xb8, 42, 0, 0, 0, 0xc3};
    volatile unsigned char code[sizeof answer];
    int (*volatile run)(void) = (int (*)(void))(unsigned long)code;
    for (unsigned i = 0; i < sizeof answer; i++)
        code[i] = answer[i];
    int result = run();
    printf("%d\n", result);
    return 0;
}
