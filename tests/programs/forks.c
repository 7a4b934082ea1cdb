/* Children of a few threads, some of which become another program; ends with 6. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int sum(int depth)
{
    return depth ? depth + sum(depth - 1) : 0;
}

static void child(long number)
{
    if (number % 3 == 0)
        execl("/bin/true", "true", (char *)NULL);
    _exit(sum(10) == 55 ? 0 : 1);
}

static void *parent(void *argument)
{
    long failed = 0;
    for (long number = (long)argument; number < 12; number += 3) {
        int status = 1;
        pid_t pid = number % 2 ? vfork() : fork();
        if (pid == 0)
            child(number);
        waitpid(pid, &status, 0);
        failed += status != 0;
    }
    return (void *)failed;
}

int main(void)
{
    pthread_t threads[3];
    for (long i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, parent, (void *)i);
    for (int i = 0; i < 3; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        if (failed)
            return 1;
    }
    return 6;
}
