/* What a system call's arguments point to, as far as the table asks for it. Nothing read from a tracee is trusted for a size. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

#include "tracer.h"

#define PAGE 4096u
#define BY_RESULT 6
#define BY_ONE 7
#define BY_WORD 8
#define VECTOR_MOST 4096u
#define MMSGHDR 64u
#define SOCKADDR_MOST 128u
#define CONTROL_MOST 4096u
#define DESCRIPTORS_MOST 64u
#define RESULT 6 /* as an argument's number */

bool payload_add(struct task *task, const struct payload *head, const void *bytes)
{
    size_t padded = (head->length + 7ul) & ~7ul, need = task->used + sizeof *head + padded;
    if (need > RECORD_MOST)
        return false;
    if (need > task->size) {
        size_t size = need * 2;
        uint8_t *grown = realloc(task->bytes, size);
        if (!grown)
            return false;
        task->bytes = grown;
        task->size = size;
    }
    memcpy(task->bytes + task->used, head, sizeof *head);
    memset(task->bytes + task->used + sizeof *head, 0, padded);
    memcpy(task->bytes + task->used + sizeof *head, bytes, head->length);
    task->used = need;
    return true;
}

/* As much as can be read, page by page where it ends at an unmapped one. */
size_t read_memory(pid_t tid, uint64_t address, void *out, size_t size)
{
    struct iovec here = {out, size}, there = {(void *)address, size};
    ssize_t got = size ? process_vm_readv(tid, &here, 1, &there, 1, 0) : 0;
    if (got == (ssize_t)size)
        return size;
    size_t done = 0;
    while (done < size) {
        size_t part = PAGE - (address + done) % PAGE;
        if (part > size - done)
            part = size - done;
        here = (struct iovec){(uint8_t *)out + done, part};
        there = (struct iovec){(void *)(address + done), part};
        if (process_vm_readv(tid, &here, 1, &there, 1, 0) != (ssize_t)part)
            break;
        done += part;
    }
    return done;
}

static void add_string(struct task *task, struct payload head, size_t limit)
{
    uint8_t small[512] = {0}, *bytes = limit <= sizeof small ? small : malloc(limit);
    size_t got = 0;
    if (!bytes)
        return;
    head.flags = PAYLOAD_CUT;
    while (got < limit) {
        size_t part = PAGE - (head.address + got) % PAGE;
        if (got == 0 && part > 256)
            part = 256;
        if (part > limit - got)
            part = limit - got;
        struct iovec here = {bytes + got, part}, there = {(void *)(head.address + got), part};
        if (process_vm_readv(task->tid, &here, 1, &there, 1, 0) != (ssize_t)part) {
            head.flags = PAYLOAD_FAULT;
            break;
        }
        uint8_t *end = memchr(bytes + got, 0, part);
        if (end) {
            got = (size_t)(end - bytes);
            head.flags = PAYLOAD_NUL;
            break;
        }
        got += part;
    }
    head.length = (uint32_t)got;
    payload_add(task, &head, bytes);
    if (bytes != small)
        free(bytes);
}

static void add_bytes(struct task *task, struct payload head, uint64_t size)
{
    uint8_t small[1024] = {0}, *bytes = size <= sizeof small ? small : malloc(size);
    if (!bytes)
        return;
    size_t got = read_memory(task->tid, head.address, bytes, size);
    head.flags = got < size ? PAYLOAD_FAULT : 0;
    head.length = (uint32_t)got;
    payload_add(task, &head, bytes);
    if (bytes != small)
        free(bytes);
}

/* Pointers up to a null one, in head's order: one payload a string (argv), or one that only counts them (envp). */
static void add_vector(struct task *task, struct payload head, size_t limit, bool strings)
{
    uint64_t pointers[64], at = head.address, count = 0;
    for (bool more = true; more && count < VECTOR_MOST;) {
        size_t got = read_memory(task->tid, at, pointers, sizeof pointers) / 8;
        more = got == 64;
        for (size_t i = 0; i < got; i++, count++) {
            if (!pointers[i]) {
                more = false;
                head.flags = PAYLOAD_NUL;
                break;
            }
            if (strings && count <= limit)
                add_string(task, (struct payload){head.arg, head.when, COPY_STRING, 0, 0, pointers[i]}, limit + 1);
        }
        at += sizeof pointers;
    }
    payload_add(task, &(struct payload){head.arg, head.when, COPY_COUNT, head.flags, 8, head.address}, &count);
}

/* The array, and what each element points to: at entry by its own length, at exit as far as the call has filled them. */
static void add_iovec(struct task *task, struct payload head, uint64_t count, size_t limit)
{
    struct iovec vectors[64];
    uint64_t left = head.when == 2 ? (uint64_t)record_of(task)->ret : ~0ul;
    size_t got = read_memory(task->tid, head.address, vectors, (count < 64 ? count : 64) * sizeof *vectors);
    head.kind = COPY_BYTES;
    head.length = (uint32_t)got;
    payload_add(task, &head, vectors);
    for (size_t i = 0; i < got / sizeof *vectors; i++) {
        uint64_t size = vectors[i].iov_len < left ? vectors[i].iov_len : left;
        left -= size;
        add_bytes(task, (struct payload){head.arg, head.when, COPY_IOVEC, 0, 0, (uint64_t)vectors[i].iov_base},
                  size < limit + 1 ? size : limit + 1);
    }
}

/* What lies behind a pointer that was itself copied: always a payload, empty if there is nothing, since order tells them apart. */
static void add_piece(struct task *task, struct payload head, const void *pointer, uint64_t size, uint64_t most)
{
    head.kind = COPY_IOVEC;
    head.address = (uint64_t)pointer;
    add_bytes(task, head, !pointer ? 0 : size < most ? size : most);
}

/* struct msghdr: itself, and then name, vectors, what they point to, control. */
static void add_message(struct task *task, struct payload head, size_t size, uint64_t left, size_t limit)
{
    uint8_t bytes[MMSGHDR] = {0};
    struct msghdr message;
    struct iovec vectors[64];
    size_t got = read_memory(task->tid, head.address, bytes, size);
    head.kind = COPY_BYTES;
    head.length = (uint32_t)got;
    payload_add(task, &head, bytes);
    if (got < size)
        return;
    memcpy(&message, bytes, sizeof message);
    if (size == MMSGHDR && head.when == 2) {
        uint32_t length;
        memcpy(&length, bytes + sizeof message, sizeof length);
        left = length;
    }
    uint64_t count = message.msg_iovlen < 64 ? message.msg_iovlen : 64;
    add_piece(task, head, message.msg_name, message.msg_namelen, SOCKADDR_MOST);
    add_piece(task, head, message.msg_iov, count * sizeof *vectors, sizeof vectors);
    got = message.msg_iov ? read_memory(task->tid, (uint64_t)message.msg_iov, vectors, count * sizeof *vectors) : 0;
    for (size_t i = 0; i < got / sizeof *vectors; i++) {
        uint64_t part = vectors[i].iov_len < left ? vectors[i].iov_len : left;
        left -= part;
        add_piece(task, head, vectors[i].iov_base, part, limit + 1);
    }
    add_piece(task, head, message.msg_control, message.msg_controllen, CONTROL_MOST);
}

static void add_messages(struct task *task, struct payload head, uint64_t count, size_t limit)
{
    for (uint64_t i = 0; i < count && i <= limit && i < 64; i++) {
        add_message(task, head, MMSGHDR, ~0ul, limit);
        head.address += MMSGHDR;
    }
}

/* A pointer and a word, and what the pointer points to: pselect6's last argument. */
/* `size`: how many bytes there, and above 16 bits how far from the address the pair is. */
static void add_behind(struct task *task, struct payload head, uint64_t size)
{
    uint64_t pair[2] = {0, 0};
    head.address += size >> 16;
    size &= 0xffff;
    size_t got = read_memory(task->tid, head.address, pair, sizeof pair);
    head.kind = COPY_BYTES;
    head.length = (uint32_t)got;
    payload_add(task, &head, pair);
    add_piece(task, head, (const void *)pair[0], got == sizeof pair ? size : 0, size);
}

static void add_link(struct task *task, struct payload head, const char *name)
{
    char path[64], target[PAGE];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)task->tid, name);
    ssize_t got = readlink(path, target, sizeof target);
    if (got < 0)
        return;
    head.length = (uint32_t)got;
    payload_add(task, &head, target);
}

/* What a descriptor is; the payload's address is its number. */
static void add_descriptor(struct task *task, struct payload head, int number)
{
    char name[32];
    snprintf(name, sizeof name, number == AT_FDCWD ? "cwd" : "fd/%d", number);
    head.kind = COPY_FD;
    head.address = (uint32_t)number;
    if (number >= 0 || number == AT_FDCWD)
        add_link(task, head, name);
}

/* Descriptors in an array of structures: the low half of `shape` is a structure's size, the high half their number, if fixed. */
static void add_descriptors(struct task *task, struct payload head, uint64_t count, uint32_t shape)
{
    uint64_t stride = shape & 0xffff, at = head.address;
    if (shape >> 16)
        count = shape >> 16;
    for (uint64_t i = 0; i < count && i < DESCRIPTORS_MOST; i++) {
        int number;
        if (read_memory(task->tid, at + i * stride, &number, sizeof number) != sizeof number)
            return;
        add_descriptor(task, head, number);
    }
}

static void copy_one(const struct session *session, struct task *task, const struct refl_copy *copy)
{
    const struct record *record = record_of(task);
    uint64_t limit = session->options.string_limit, count = 1;
    uint64_t address = copy->arg < RESULT ? record->args[copy->arg] : (uint64_t)record->ret;
    struct payload head = {copy->arg, copy->when, copy->kind, 0, 0, address};
    if (copy->kind == COPY_FD) {
        add_descriptor(task, head, (int)address);
        return;
    }
    if (copy->kind == COPY_STACK) {
        head.address = task->sp + copy->size;
        add_bytes(task, head, 8);
        return;
    }
    if (copy->kind == COPY_REGISTERS) {
        struct user_regs_struct registers;
        head.length = sizeof registers;
        if (ptrace(PTRACE_GETREGS, task->tid, NULL, &registers) == 0)
            payload_add(task, &head, &registers);
        return;
    }
    if (copy->kind == COPY_FRAMES) { /* return addresses are among these */
        head.address = task->sp;
        add_bytes(task, head, copy->size);
        return;
    }
    if (!address)
        return;
    if (copy->count < 6)
        count = record->args[copy->count];
    else if (copy->count == BY_RESULT)
        count = record->ret > 0 ? (uint64_t)record->ret : 0;
    else if (copy->count == BY_WORD && copy->arg < 5) {
        uint32_t word = 0;
        read_memory(task->tid, record->args[copy->arg + 1], &word, sizeof word);
        count = word;
    }
    uint64_t size = copy->size ? copy->size : 1, most = copy->size == 1 ? limit + 1 : 65536; /* contents, or a structure */
    switch (copy->kind) {
    case COPY_STRING:
        add_string(task, head, copy->size ? copy->size : limit + 1);
        break;
    case COPY_BYTES:
        add_bytes(task, head, count > most / size ? most / size * size : count * size);
        break;
    case COPY_VECTOR:
        add_vector(task, head, limit, true);
        break;
    case COPY_COUNT:
        add_vector(task, head, limit, false);
        break;
    case COPY_IOVEC:
        add_iovec(task, head, count, limit);
        break;
    case COPY_MESSAGE:
        add_message(task, head, sizeof(struct msghdr), copy->when == 2 ? (uint64_t)record->ret : ~0ul, limit);
        break;
    case COPY_MESSAGES:
        add_messages(task, head, count, limit);
        break;
    case COPY_FDS:
        add_descriptors(task, head, count, copy->size);
        break;
    case COPY_BEHIND:
        add_behind(task, head, copy->size);
        break;
    }
}

/* when: 1 on entry, 2 on return; a call that failed has filled nothing, so only what the table marks for entry is there. */
void copy_arguments(const struct session *session, struct task *task, int when)
{
    const struct record *record = record_of(task);
    if (record->number >= session->options.numbers || record->flags & FLAG_FOREIGN ||
        (when == 2 && record->flags & FLAG_ERROR))
        return;
    const struct refl_copy *copy = session->options.copies + (size_t)COPIES * record->number;
    for (int i = 0; i < COPIES && copy[i].when; i++)
        if (copy[i].when == when && copy[i].arg <= (when == 2 ? RESULT : RESULT - 1))
            copy_one(session, task, &copy[i]);
}

/* A file of /proc, whole, as one payload. */
void copy_file(struct task *task, const char *name)
{
    char path[64], *text = malloc(RECORD_MOST / 2);
    snprintf(path, sizeof path, "/proc/%d/%s", (int)task->tid, name);
    int fd = text ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    size_t got = 0;
    for (ssize_t part = 1; fd >= 0 && part > 0 && got < RECORD_MOST / 2; got += part > 0 ? (size_t)part : 0)
        part = read(fd, text + got, RECORD_MOST / 2 - got);
    if (fd >= 0)
        close(fd);
    if (text)
        payload_add(task, &(struct payload){0, 0, COPY_BYTES, 0, (uint32_t)got, 0}, text);
    free(text);
}

bool in_file_mapping(pid_t pid, uint64_t address)
{
    char path[64], line[PAGE + 128];
    bool found = true;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        uint64_t start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= address && address < end) {
            found = strchr(line, '/') != NULL;
            break;
        }
    }
    if (file)
        fclose(file);
    return found;
}
