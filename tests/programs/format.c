/* A format string vulnerability, as in every course: what it reads is printed by printf itself. Then it calls exit. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void win(void);

void win(void)
{
    static const char said[] = "hijacked\n";
    if (write(1, said, sizeof said - 1) > 0)
        _exit(42);
}

int main(void)
{
    char line[512] = {0};
    if (read(0, line, sizeof line - 1) <= 0)
        return 2;
    printf(line); /* here */
    fflush(stdout);
    exit(0);
}
