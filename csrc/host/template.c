/*
 * The caller's half of a template: writes one start into shared memory, sends the descriptors, and gets a pid.
 *
 * The stack is the kernel's (stack.c), but for where its parts lie: auxv, AT_RANDOM's bytes and the path stay where the template
 * has them, the vectors reach down from auxv and the strings from the path.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../template/template.h"
#include "prepare.h"

#include "template_bytes.h" /* static const uint8_t template_bytes[], made by setup.py from csrc/template */

enum { STACK_EXPAND = 131072 }; /* fs/exec.c: setup_arg_pages */

_Static_assert(sizeof template_bytes <= TEMPLATE_CODE, "fits");

uint64_t refl_template_code(uint8_t *out)
{
    if (out)
        memcpy(out, template_bytes, sizeof template_bytes);
    return sizeof template_bytes;
}

static struct template_request *slot_of(const struct refl_clone *clone)
{
    return (struct template_request *)(clone->shared + (1 + clone->slot) * TEMPLATE_SLOT);
}

/* argc, argv, NULL, envp, NULL; the environment's address. 0 if there are fewer strings than that. */
static uint64_t write_vectors(const struct refl_clone *clone, uint64_t strings, uint64_t *word)
{
    const char *at = clone->strings, *end = at + clone->strings_size;
    uint64_t counts[2] = {clone->argc, clone->envc}, env = 0;
    *word++ = clone->argc;
    for (int which = 0; which < 2; which++) {
        env = strings + (uint64_t)(at - clone->strings);
        for (uint64_t i = 0; i < counts[which]; i++) {
            const char *nul = memchr(at, 0, (size_t)(end - at));
            if (!nul)
                return 0;
            *word++ = strings + (uint64_t)(at - clone->strings);
            at = nul + 1;
        }
        *word++ = 0;
    }
    return at == end ? env : 0;
}

/* -E2BIG if the template's stack, or the slot, has no room for it. */
static int write_request(const struct refl_clone *clone, struct template_request *r)
{
    const struct template_facts *facts = (const struct template_facts *)clone->shared;
    uint64_t words = clone->argc + clone->envc + 3, size = clone->strings_size, env;
    if (clone->argc > TEMPLATE_ROOM / 8 || clone->envc > TEMPLATE_ROOM / 8 || size > TEMPLATE_ROOM ||
        words * 8 + facts->auxv_size + size > TEMPLATE_ROOM || clone->fd_count > TEMPLATE_FDS)
        return -E2BIG;
    r->vectors_size = words * 8 + facts->auxv_size;
    r->sp = (facts->random - r->vectors_size) & ~15ul;
    r->auxv = r->sp + words * 8;
    r->strings = facts->execfn - size;
    r->strings_size = size;
    if (r->strings < clone->strings_low)
        return -E2BIG;
    r->stack_low = (r->strings & ~(uint64_t)(REFL_PAGE - 1)) - STACK_EXPAND;
    uint8_t *bytes = (uint8_t *)(r + 1);
    env = write_vectors(clone, r->strings, (uint64_t *)bytes);
    if (!env)
        return -EINVAL;
    memcpy(bytes + words * 8, facts->auxv, facts->auxv_size);
    memcpy(bytes + r->vectors_size, clone->strings, size);
    memcpy(&r->mm, clone->mm, sizeof r->mm);
    uint64_t fresh[3];
    if (getrandom(fresh, sizeof fresh, 0) != sizeof fresh)
        return -errno;
    memcpy(r->random, fresh, sizeof r->random);
    if (clone->brk_pages)
        r->mm.start_brk = r->mm.brk = clone->brk_low + fresh[2] % clone->brk_pages * REFL_PAGE;
    r->mm.start_stack = r->sp;
    r->mm.arg_start = r->strings;
    r->mm.arg_end = r->mm.env_start = env;
    r->mm.env_end = facts->execfn;
    r->sigmask = clone->sigmask;
    r->fd_count = (uint32_t)clone->fd_count;
    for (uint64_t i = 0; i < clone->fd_count; i++)
        r->targets[i] = clone->targets[i];
    __atomic_store_n(&r->busy, 1, __ATOMIC_RELEASE);
    return 0;
}

static int send_message(int sock, uint32_t order, uint32_t slot, const int32_t *fds, uint64_t count)
{
    struct template_message message = {order, slot};
    struct iovec part = {&message, sizeof message};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(TEMPLATE_FDS * sizeof(int))];
    } control;
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    }
    ssize_t sent;
    do {
        sent = sendmsg(sock, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int64_t refl_template_answer(int32_t sock)
{
    int64_t answer;
    ssize_t got;
    do {
        got = recv(sock, &answer, sizeof answer, 0);
    } while (got < 0 && errno == EINTR);
    return got == sizeof answer ? answer : -EPIPE;
}

int refl_template_busy(const uint8_t *shared, uint64_t slot)
{
    const struct template_request *request = (const struct template_request *)(shared + (1 + slot) * TEMPLATE_SLOT);
    return (int)__atomic_load_n(&request->busy, __ATOMIC_ACQUIRE);
}

int64_t refl_template_clone(const struct refl_clone *clone)
{
    int error = write_request(clone, slot_of(clone));
    error = error ? error : send_message(clone->sock, TEMPLATE_START, (uint32_t)clone->slot, clone->fds, clone->fd_count);
    return error || clone->waiting ? error : refl_template_answer(clone->sock);
}

int refl_template_order(int32_t sock, uint64_t slot, int32_t other)
{
    return send_message(sock, TEMPLATE_WAIT, (uint32_t)slot, &other, 1);
}

static void stamp_of(const char *path, uint64_t stamp[6])
{
    struct stat status;
    memset(stamp, 0, 6 * sizeof *stamp);
    if (stat(path, &status))
        return;
    stamp[0] = status.st_dev;
    stamp[1] = status.st_ino;
    stamp[2] = (uint64_t)status.st_size;
    stamp[3] = (uint64_t)status.st_mtim.tv_sec * 1000000000u + (uint64_t)status.st_mtim.tv_nsec;
    stamp[4] = (uint64_t)status.st_ctim.tv_sec * 1000000000u + (uint64_t)status.st_ctim.tv_nsec;
    stamp[5] = status.st_mode;
}

uint64_t refl_stamps(const char *paths, uint64_t size, uint64_t *out)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at < size; at += strlen(paths + at) + 1, count++)
        if (out)
            stamp_of(paths + at, out + 6 * count);
    return count;
}
