/*
 * The caller's half of a template: writes one start into shared memory, sends the descriptors, and gets a pid.
 *
 * The stack is the kernel's (stack.c), but for where its parts lie: auxv, AT_RANDOM's bytes and the path stay where the template
 * has them, the vectors reach down from auxv and the strings from the path.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../template/template.h"
#include "decide.h"
#include "place.h"

#include "template_bytes.h" /* static const uint8_t template_bytes[], made by setup.py from csrc/template */

enum { STACK_EXPAND = 131072 }; /* fs/exec.c: setup_arg_pages */

_Static_assert(sizeof template_bytes <= TEMPLATE_CODE, "fits");

uint64_t refl_template_code(uint8_t *out)
{
    if (out)
        memcpy(out, template_bytes, sizeof template_bytes);
    return sizeof template_bytes;
}

static struct template_request *slot_at(uint8_t *shared, uint64_t slot)
{
    return (struct template_request *)(shared + (1 + slot) * TEMPLATE_SLOT);
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

/* For the clone to look at, if there is room left at this place in the slot. */
static void write_files(const struct refl_clone *clone, struct template_request *r, uint64_t at)
{
    uint64_t stamps_size = clone->stamps_size;
    at = (at + 7) & ~7ul;
    r->checked = NOT_CHECKED;
    r->taken = 0;
    r->stamps = 0;
    if (stamps_size > TEMPLATE_SLOT - at || clone->paths_size > TEMPLATE_SLOT - at - stamps_size)
        return;
    r->stamps = at;
    r->paths = at + stamps_size;
    r->paths_size = clone->paths_size;
    memcpy((uint8_t *)r + r->stamps, clone->stamps, stamps_size);
    memcpy((uint8_t *)r + r->paths, clone->paths, clone->paths_size);
}

/* -E2BIG if the template's stack, or the slot, has no room for it. */
static int write_request(const struct refl_clone *clone, struct template_request *r)
{
    struct template_facts *facts = (struct template_facts *)clone->shared;
    uint64_t words = clone->argc + clone->envc + 3, size = clone->strings_size, env;
    if (clone->argc > TEMPLATE_ROOM / 8 || clone->envc > TEMPLATE_ROOM / 8 || size > TEMPLATE_ROOM ||
        words * 8 + facts->auxv_size + size > TEMPLATE_ROOM)
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
    write_files(clone, r, sizeof *r + r->vectors_size + size);
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
    r->new_session = clone->new_session;
    facts->sp = r->sp;
    facts->auxv_at = r->auxv;
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

int refl_template_hear(int32_t sock)
{
    char something;
    ssize_t got;
    do {
        got = recv(sock, &something, sizeof something, 0);
    } while (got < 0 && errno == EINTR);
    return got == sizeof something ? 0 : -EPIPE;
}

/* Told by the kernel, whatever becomes of the template; it is asked only if it does not have one yet. */
int64_t refl_template_pid(uint8_t *shared, uint64_t slot, int32_t sock)
{
    struct template_request *r = slot_at(shared, slot);
    uint32_t not_asked = NOT_ASKED;
    if (!__atomic_load_n(&r->pid, __ATOMIC_ACQUIRE) &&
        __atomic_compare_exchange_n(&r->asked, &not_asked, ASKED, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        (void)refl_template_hear(sock);
    int32_t pid = __atomic_load_n(&r->pid, __ATOMIC_ACQUIRE);
    return pid ? pid : -EPIPE;
}

int refl_template_busy(uint8_t *shared, uint64_t slot)
{
    return (int)__atomic_load_n(&slot_at(shared, slot)->busy, __ATOMIC_ACQUIRE);
}

void refl_template_ahead(uint8_t *shared, const uint64_t *calls, uint64_t count)
{
    struct template_facts *facts = (struct template_facts *)shared;
    count = count <= TEMPLATE_CALLS ? count : 0;
    __atomic_store_n(&facts->version, facts->version + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    facts->call_count = count;
    memcpy(facts->calls, calls, count * sizeof *facts->calls);
    __atomic_store_n(&facts->version, facts->version + 1, __ATOMIC_RELEASE);
}

int refl_template_advise(uint8_t *shared, uint64_t slot, int32_t sock, const uint64_t *calls, uint64_t count)
{
    struct template_advice *advice = (struct template_advice *)slot_at(shared, slot);
    if (count > TEMPLATE_CALLS)
        return -E2BIG;
    advice->count = (uint32_t)count;
    memcpy(advice->calls, calls, count * sizeof *advice->calls);
    __atomic_store_n(&advice->busy, OF_TEMPLATE, __ATOMIC_RELEASE);
    int error = send_message(sock, TEMPLATE_ADVISE, (uint32_t)slot, NULL, 0);
    if (error)
        __atomic_store_n(&advice->busy, 0, __ATOMIC_RELEASE);
    return error;
}

static void say(struct template_request *r, uint32_t word)
{
    __atomic_store_n(&r->word, word, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&r->waits, __ATOMIC_SEQ_CST))
        syscall(SYS_futex, &r->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Before an order for a clone goes to the template. */
static void open_slot(const uint8_t *shared, struct template_request *r)
{
    r->pid = 0;
    r->asked = NOT_ASKED;
    r->place = ((const struct template_facts *)shared)->place;
    __atomic_store_n(&r->busy, OF_CLONE | OF_TEMPLATE, __ATOMIC_RELEASE);
}

/* Descriptors of this process and the numbers that they shall have; how many, or -errno. */
static int descriptors(const struct refl_clone *clone, struct refl_kept *kept, int32_t *fds, int32_t *targets)
{
    int count = (int)clone->fd_count;
    if (clone->inherit)
        count = refl_inheritable(kept, fds, TEMPLATE_FDS - 1);
    else if (clone->fd_count > TEMPLATE_FDS - 1)
        return -E2BIG;
    else
        memcpy(fds, clone->fds, clone->fd_count * sizeof *fds);
    if (count > 0)
        memcpy(targets, clone->inherit ? fds : clone->targets, (size_t)count * sizeof *targets);
    return count == -EMFILE ? -E2BIG : count;
}

/* 1 if a clone is there already. */
static int directory_is_templates(const uint8_t *shared)
{
    const struct template_directory *its = &((const struct template_facts *)shared)->directory;
    struct statx ours;
    return !statx(AT_FDCWD, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &ours) && ours.stx_dev_major == its->major &&
           ours.stx_dev_minor == its->minor && ours.stx_ino == its->inode && ours.stx_mnt_id == its->mount;
}

/* With the descriptors, and the directory, if need be, as the last of them. */
static int send_order(const struct refl_clone *clone, struct refl_kept *kept, struct template_request *r)
{
    int32_t fds[TEMPLATE_FDS], directory = clone->directory, opened = -1;
    int count = descriptors(clone, kept, fds, r->targets);
    if (count < 0)
        return count;
    if (directory < 0 && !directory_is_templates(clone->shared)) {
        directory = opened = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0)
            return -errno;
    }
    if (directory >= 0) {
        fds[count] = directory;
        r->targets[count++] = TEMPLATE_DIRECTORY;
    }
    r->fd_count = (uint32_t)count;
    if (!clone->waits)
        open_slot(clone->shared, r);
    int error = send_message(clone->sock, TEMPLATE_START, (uint32_t)clone->slot, fds, (uint64_t)count);
    if (error && (!clone->waits || error == -EPIPE || error == -ECONNRESET))
        __atomic_store_n(&r->busy, 0, __ATOMIC_RELEASE);
    if (opened >= 0)
        close(opened);
    return error;
}

/* What became of a clone that has had its word: its pid, or why there is none. */
static int64_t end(struct template_request *r, int64_t pid, int error)
{
    if (pid > 0 && error)
        while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR)
            ;
    if (pid <= 0 || error)
        __atomic_fetch_and(&r->busy, ~(uint32_t)OF_CLONE, __ATOMIC_RELEASE);
    return pid <= 0 ? pid : error ? error : pid;
}

/*
 * Whether the template may serve is found out while the clone is made, or wakes up and does what can be done before it has its
 * word. One that is looked at must be known before it begins.
 */
int64_t refl_template_start(const struct refl_clone *clone)
{
    struct template_facts *facts = (struct template_facts *)clone->shared;
    struct template_request *r = slot_at(clone->shared, clone->slot);
    struct refl_kept *kept = kept_by_this_thread(clone);
    r->word = TEMPLATE_UNDECIDED;
    r->waits = 0;
    r->cpu = (uint32_t)sched_getcpu();
    facts->place = template_place(facts, kept);
    int error = write_request(clone, r);
    error = error ? error : send_order(clone, kept, r);
    if (error)
        return error;
    int64_t pid = clone->waits ? r->pid : clone->faults ? refl_template_pid(clone->shared, clone->slot, clone->sock) : 0;
    if (clone->faults && pid > 0)
        (void)refl_faults_open(clone->faults, (int32_t)pid);
    error = decide(clone, kept, r);
    say(r, error ? TEMPLATE_CANCEL : TEMPLATE_GO);
    pid = end(r, pid ? pid : refl_template_pid(clone->shared, clone->slot, clone->sock), error);
    facts->last = pid > 0 ? (int32_t)pid : facts->last;
    return pid;
}

int refl_template_order(uint8_t *shared, uint64_t slot, int32_t sock)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return -errno;
    const struct template_facts *facts = (const struct template_facts *)shared;
    struct template_request *r = slot_at(shared, slot);
    r->sp = facts->sp;
    r->auxv = facts->auxv_at;
    r->cpu = (uint32_t)sched_getcpu();
    open_slot(shared, r);
    int error = send_message(sock, TEMPLATE_WAIT, (uint32_t)slot, &ends[1], 1);
    close(ends[1]);
    if (!error)
        return ends[0];
    __atomic_store_n(&r->busy, 0, __ATOMIC_RELEASE);
    close(ends[0]);
    return error;
}
