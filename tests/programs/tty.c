/* Does to its terminal what argv[1] says. Output is in angle brackets, so that no echo can be taken for it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught[65];

static void handler(int number)
{
    caught[number]++;
}

static void say(const char *what, int number)
{
    printf("<%s %d>\n", what, number);
    fflush(stdout);
}

/* Waits for a signal, and then 300 ms for one too many. */
static int count(int number)
{
    const struct timespec moment = {0, 10000000};
    signal(number, handler);
    say("ready", 0);
    while (!caught[number])
        nanosleep(&moment, NULL);
    for (int i = 0; i < 30; i++)
        nanosleep(&moment, NULL);
    say("caught", caught[number]);
    return number == SIGTERM ? 5 : 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    char line[64] = "";
    struct winsize size = {0, 0, 0, 0};
    if (strcmp(what, "wait") == 0) {
        say("ready", getpgrp() == tcgetpgrp(0));
        for (;;)
            pause();
    }
    if (strcmp(what, "count") == 0)
        return count(atoi(argv[2]));
    if (strcmp(what, "size") == 0) {
        int status = count(SIGWINCH);
        ioctl(0, TIOCGWINSZ, &size);
        say("columns", size.ws_col);
        return status;
    }
    if (strcmp(what, "stop") == 0) {
        say("ready", 0);
        raise(SIGSTOP);
        say("continued", getpgrp() == tcgetpgrp(0));
        return 6;
    }
    if (strcmp(what, "read") == 0) {
        if (fgets(line, sizeof line, stdin))
            say(strtok(line, "\n"), 0);
        return 4;
    }
    return 64;
}
