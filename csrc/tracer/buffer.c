/* How records get to Python: the loop appends to one buffer while the other is read; neither waits unless one is far ahead. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tracer.h"

uint64_t tracer_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000ul + (uint64_t)time.tv_nsec;
}

int buffer_create(struct buffer *buffer)
{
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&buffer->lock, NULL);
    pthread_cond_init(&buffer->filled, &clock);
    pthread_cond_init(&buffer->drained, NULL);
    pthread_condattr_destroy(&clock);
    for (int i = 0; i < 2; i++) {
        buffer->bytes[i] = malloc(BUFFER_SIZE);
        if (!buffer->bytes[i])
            return -ENOMEM;
    }
    return 0;
}

void buffer_destroy(struct buffer *buffer)
{
    for (int i = 0; i < 2; i++)
        free(buffer->bytes[i]);
    pthread_cond_destroy(&buffer->filled);
    pthread_cond_destroy(&buffer->drained);
    pthread_mutex_destroy(&buffer->lock);
}

/* size is at most RECORD_MOST plus a head, which an empty buffer has room for. */
void buffer_append(struct buffer *buffer, const uint8_t *bytes, size_t size)
{
    pthread_mutex_lock(&buffer->lock);
    while (BUFFER_SIZE - buffer->used < size) {
        buffer->enough = 0;
        pthread_cond_signal(&buffer->filled);
        pthread_cond_wait(&buffer->drained, &buffer->lock);
    }
    memcpy(buffer->bytes[buffer->filling] + buffer->used, bytes, size);
    buffer->used += size;
    if (buffer->enough && buffer->used >= buffer->enough) {
        buffer->enough = 0;
        pthread_cond_signal(&buffer->filled);
    }
    pthread_mutex_unlock(&buffer->lock);
}

void buffer_end(struct buffer *buffer)
{
    pthread_mutex_lock(&buffer->lock);
    buffer->ended = true;
    pthread_cond_signal(&buffer->filled);
    pthread_mutex_unlock(&buffer->lock);
}

void buffer_hurry(struct buffer *buffer)
{
    pthread_mutex_lock(&buffer->lock);
    buffer->urgent = true;
    pthread_cond_signal(&buffer->filled);
    pthread_mutex_unlock(&buffer->lock);
}

int64_t refl_trace_take(void *trace, uint8_t **data, uint64_t enough, uint32_t timeout_ms)
{
    struct buffer *buffer = &((struct session *)trace)->buffer;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&buffer->lock);
    int late = 0;
    while (!buffer->ended && !buffer->urgent && buffer->used < enough && !late) {
        buffer->enough = enough < BUFFER_SIZE / 2 ? enough : BUFFER_SIZE / 2;
        late = pthread_cond_timedwait(&buffer->filled, &buffer->lock, &until);
        if (!buffer->enough) /* the loop found that it is enough, or has no more room */
            break;
    }
    buffer->enough = 0;
    buffer->urgent = false;
    int64_t got = buffer->used || !buffer->ended ? (int64_t)buffer->used : -1;
    *data = buffer->bytes[buffer->filling];
    if (got > 0) {
        buffer->filling = !buffer->filling;
        buffer->used = 0;
        pthread_cond_signal(&buffer->drained);
    }
    pthread_mutex_unlock(&buffer->lock);
    return got;
}
