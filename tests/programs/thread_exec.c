/* execve by a thread that does not lead its group: the others end, and it goes on under the leader's number. */
#include <pthread.h>
#include <unistd.h>

static void *become(void *path)
{
    execl(path, path, "-c", "exit 3", (char *)NULL);
    return NULL;
}

static void *wait_forever(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

int main(void)
{
    pthread_t other, caller;
    pthread_create(&other, NULL, wait_forever, NULL);
    pthread_create(&caller, NULL, become, "/bin/sh");
    pthread_join(caller, NULL);
    return 1;
}
