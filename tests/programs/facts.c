/* One fact about this process, named by argv[1]: what other user-space loaders get wrong. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where AT_RANDOM points (the name of the mapping), its bytes, and the stack protector's canary. */
static void random_bytes(void)
{
    const unsigned char *bytes = (const void *)getauxval(AT_RANDOM);
    unsigned long canary = 0, start, end;
    char line[512], name[256];
    FILE *maps = fopen("/proc/self/maps", "r");
    __asm__("mov %%fs:0x28, %0" : "=r"(canary));
    while (fgets(line, sizeof line, maps)) {
        name[0] = 0;
        sscanf(line, "%lx-%lx %*s %*s %*s %*s %255s", &start, &end, name);
        if (start <= (uintptr_t)bytes && (uintptr_t)bytes + 16 <= end)
            printf("%s ", name);
    }
    for (int i = 0; i < 16; i++)
        printf("%02x", bytes[i]);
    printf(" %016lx\n", canary);
}

/* Robust list (where the libc put it, relative to its thread pointer), alternate stack, rseq as the libc registered it. */
static void thread(void)
{
    stack_t alternate;
    void *head = NULL;
    size_t size = 0;
    extern const unsigned __rseq_size __attribute__((weak));
    syscall(SYS_get_robust_list, 0, &head, &size);
    sigaltstack(NULL, &alternate);
    printf("robust list at %+ld, %zu bytes; ", (long)((char *)head - (char *)__builtin_thread_pointer()), size);
    printf("alternate stack %p, flags %d, %zu bytes; ", alternate.ss_sp, alternate.ss_flags, alternate.ss_size);
    printf("rseq registered: %d\n", &__rseq_size && __rseq_size > 0);
}

static void signals(void)
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "Sig", 3) == 0 || strncmp(line, "Shd", 3) == 0)
            if (strncmp(line, "SigQ", 4) != 0)
                fputs(line, stdout);
}

int main(int argc, char **argv)
{
    const char *fact = argc > 1 ? argv[1] : "";
    if (strcmp(fact, "random") == 0)
        random_bytes();
    else if (strcmp(fact, "thread") == 0)
        thread();
    else if (strcmp(fact, "signals") == 0)
        signals();
    else
        return 64;
    return 0;
}
