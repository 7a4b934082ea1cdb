/* Says where its things are, one `name address` a line, then `ready`, and waits to be killed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

int counter = 7;
static char empty[10000];
const char words[] = "words";

static void say(const char *name, const void *address)
{
    printf("%s %p\n", name, address);
}

__attribute__((noinline)) int twice(int x)
{
    return 2 * x + counter;
}

static void *thread(void *barrier)
{
    char local[100] = {0};
    void *lowest;
    size_t size, guard;
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &lowest, &size);
    pthread_attr_getguardsize(&attributes, &guard);
    say("thread-stack", local);
    say("thread-guard", (char *)lowest - 1);
    printf("thread-id %#x\n", gettid());
    pthread_barrier_wait(barrier);
    for (;;)
        pause();
}

int main(void)
{
    pthread_t id;
    pthread_barrier_t barrier;
    char *fresh = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(fresh, 4 * 4096, MADV_NOHUGEPAGE);
    char *heap = malloc(100);
    strcpy(heap, "heap");
    fresh[4096] = 1;
    say("main", (void *)main);
    say("twice", (void *)twice);
    say("puts", (void *)puts);
    say("counter", &counter);
    say("empty", empty + 5000);
    say("words", words);
    say("heap", heap);
    say("stack", &id);
    say("untouched", fresh);
    say("touched", fresh + 4096);
    say("vdso", (void *)getauxval(AT_SYSINFO_EHDR));
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&id, NULL, thread, &barrier);
    pthread_barrier_wait(&barrier);
    printf("%d\nready\n", twice((int)strlen(heap)));
    fflush(stdout);
    for (;;)
        pause();
}
