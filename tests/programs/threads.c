/* 64 threads that call the same functions for the first time, all at once. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 64

static pthread_barrier_t barrier;

static void *run(void *argument)
{
    char text[32];
    pthread_barrier_wait(&barrier);
    snprintf(text, sizeof text, "%p", argument);
    free(strdup(text));
    return (void *)strtoul(text, NULL, 16);
}

int main(void)
{
    pthread_t threads[THREADS];
    long right = 0;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, (void *)(i + 1)))
            return 2;
    for (long i = 0; i < THREADS; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        right += result == (void *)(i + 1);
    }
    printf("%ld\n", right);
    return 7;
}
