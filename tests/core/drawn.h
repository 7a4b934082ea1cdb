/* What both harnesses of a session have: numbers drawn from a seed, and a child that waits to be traced. */
#ifndef REFLECTIVE_DRAWN_H
#define REFLECTIVE_DRAWN_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (uint32_t)(state >> 33) % below;
}

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* It becomes the program when a byte is written to the gate. */
static pid_t gated(char **argv, int *gate)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        fail("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        if (read(ends[0], &byte, 1) == 1)
            execv(argv[0], argv);
        _exit(126);
    }
    close(ends[0]);
    *gate = ends[1];
    return pid;
}

#endif
