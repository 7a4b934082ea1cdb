/* Forks; the child writes to 4 of 16 pages when it reads a byte. Says `address child`, then `written`. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, WRITTEN = 4 };

int main(void)
{
    /* between inaccessible pages, so that it is a mapping of its own */
    char *whole = mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *pages = whole + PAGE;
    mprotect(pages, PAGES * PAGE, PROT_READ | PROT_WRITE);
    madvise(pages, PAGES * PAGE, MADV_NOHUGEPAGE);
    memset(pages, 1, PAGES * PAGE);
    pid_t child = fork();
    char byte;
    if (child == 0) {
        if (read(0, &byte, 1) != 1)
            return 1;
        for (int i = 0; i < WRITTEN; i++)
            pages[i * PAGE] = 2;
        puts("written");
        fflush(stdout);
        return read(0, &byte, 1) != 0;
    }
    printf("%p %d\n", (void *)pages, child);
    fflush(stdout);
    for (;;)
        pause();
}
