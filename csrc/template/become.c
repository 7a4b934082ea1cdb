/*
 * A clone becomes the program: the stack's contents, the secrets, what a fork does not copy, and on into ld.so, behind the call
 * that the template has made for it. All constructors run here.
 */
#include "become.h"

#include <asm/errno.h>
#include <asm/unistd.h>
#include <linux/futex.h>

#include "../blob/syscall.h"
#include "../host/stamps.h"

enum { SPIN = 3000, MADV_POPULATE_WRITE = 23 };
enum { PR_SET_MM = 35, PR_SET_MM_MAP = 14, SOL_SOCKET = 1, SCM_RIGHTS = 1, PROT_READ_ONLY = 1, PROT_RW = 3 };

__attribute__((noreturn)) void template_leave(const void *frame);
__attribute__((noreturn)) void template_switch(const struct template_job *job, struct template_request *request,
                                               uint64_t stack);

struct control {
    uint64_t length;
    int32_t level, type;
    int32_t fds[TEMPLATE_FDS];
};

struct vector {
    void *at;
    uint64_t size;
};

/* struct user_msghdr */
struct header {
    void *name;
    uint64_t name_size;
    struct vector *parts;
    uint64_t part_count;
    struct control *control;
    uint64_t control_size;
    uint64_t flags;
};

/* arch/x86/include/uapi/asm/ucontext.h, sigcontext.h */
struct frame {
    uint64_t flags, link;
    uint64_t stack, stack_flags, stack_size;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t error, trap, oldmask, cr2, fpstate, reserved[8];
    uint64_t sigmask;
};
_Static_assert(sizeof(struct frame) == 304, "the kernel's layout");

int64_t template_receive(struct template_message *message)
{
    struct control control;
    struct vector part = {message, sizeof *message};
    struct header header = {0, 0, &part, 1, &control, sizeof control, 0};
    int64_t got;
    do {
        got = call3(__NR_recvmsg, TEMPLATE_SOCKET, (uint64_t)&header, 0);
    } while (got == -EINTR);
    if (got != sizeof *message)
        return -1;
    return header.control_size ? (int64_t)(control.length - 16) / 4 : 0;
}

static void copy(uint64_t to, const void *from, uint64_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

/* They are 0, 1, 2, …, and go to their ascending targets, none of which is below where it is. */
static void place_descriptors(const struct template_request *request)
{
    call3(__NR_close, TEMPLATE_SOCKET, 0, 0);
    for (uint32_t i = request->fd_count; i-- > 0;) {
        uint64_t target = (uint64_t)(uint32_t)request->targets[i];
        if (target == i)
            continue;
        if (target == TEMPLATE_DIRECTORY)
            call3(__NR_fchdir, i, 0, 0);
        else
            call3(__NR_dup2, i, target, 0);
        call3(__NR_close, i, 0, 0);
    }
}

__attribute__((noreturn)) static void end(void)
{
    for (;;)
        call3(__NR_exit_group, 0, 0, 0);
}

/*
 * Until the host has decided, which takes some 40 µs since the order: to sleep and be woken would take as long, if the host has a
 * processor of its own. Should it die before, a look once a second finds out.
 */
static void wait_for_word(const struct template_job *job, struct template_request *request)
{
    const uint64_t second[2] = {1, 0};
    uint32_t word;
    if (template_this_cpu() != request->cpu)
        for (int i = 0; i < SPIN && !__atomic_load_n(&request->word, __ATOMIC_RELAXED); i++)
            __builtin_ia32_pause();
    while (!(word = __atomic_load_n(&request->word, __ATOMIC_SEQ_CST))) {
        __atomic_store_n(&request->waits, 1, __ATOMIC_SEQ_CST);
        call4(__NR_futex, (uint64_t)&request->word, FUTEX_WAIT, TEMPLATE_UNDECIDED, (uint64_t)second);
        if ((uint64_t)call3(__NR_getppid, 0, 0, 0) != job->parent)
            end();
    }
    if (word != TEMPLATE_GO)
        end();
}

/* It waits for the host anyway, mostly, and takes what that has not looked at yet. */
static void check_files(struct template_request *request)
{
    const char *slot = (const char *)request;
    if (!request->stamps)
        return;
    __atomic_store_n(&request->checked, BY_CLONE, __ATOMIC_RELAXED);
    int same = refl_same_stamps(slot + request->paths, request->paths_size,
                                (const uint64_t *)(const void *)(slot + request->stamps), &request->taken);
    __atomic_store_n(&request->checked, same ? SAME : DIFFERENT, __ATOMIC_RELEASE);
}

static void fill_stack(const struct template_job *job, const struct template_request *request)
{
    const uint8_t *bytes = (const uint8_t *)(request + 1);
    copy(request->sp, bytes, request->vectors_size);
    copy(request->strings, bytes + request->vectors_size, request->strings_size);
    copy(job->random, request->random, sizeof request->random);
    if (request->stack_low < job->stack_low)
        (void)*(volatile const uint8_t *)request->stack_low; /* it grows to there */
}

/* glibc keeps them in the thread control block: sysdeps/x86_64/nptl/tls.h. It takes them from AT_RANDOM as is done here. */
static void set_secrets(const struct template_request *request)
{
    uint64_t word[2];
    copy((uint64_t)word, request->random, sizeof word);
    __asm__ volatile("mov %0, %%fs:0x28\n\tmov %1, %%fs:0x30" : : "r"(word[0] & ~0xfful), "r"(word[1]) : "memory");
}

void template_set_linker(const struct template_job *job, uint64_t sp, uint64_t auxv)
{
    if (*(const uint64_t *)job->dl_argv == sp + 8 && *(const uint64_t *)job->dl_auxv == auxv)
        return;
    call3(__NR_mprotect, job->relro, job->relro_size, PROT_RW);
    *(uint64_t *)job->dl_argv = sp + 8;
    *(uint64_t *)job->stack_end = sp - job->stack_end_below;
    *(uint64_t *)job->dl_auxv = auxv;
    call3(__NR_mprotect, job->relro, job->relro_size, PROT_READ_ONLY);
}

__attribute__((noreturn)) static void enter(const struct template_job *job, struct template_request *request)
{
    struct frame frame = {
        .flags = 6,       /* UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
        .stack_flags = 2, /* SS_DISABLE */
        .ip = job->gadget,
        .sp = request->sp - 8,
        .ax = __NR_munmap,
        .di = job->area,
        .si = job->area_size,
        .r12 = job->user_entry,
        .eflags = 0x202,
        .cs = 0x33,
        .ss = 0x2b,
        .sigmask = request->now.blocked,
    };
    *(uint64_t *)(request->sp - 8) = job->resume;
    __atomic_fetch_and(&request->busy, ~(uint32_t)OF_CLONE, __ATOMIC_RELEASE);
    template_leave(&frame);
}

/* On its own stack below that of the program. What the host's decision brings, the caller's state, comes last. */
__attribute__((noreturn)) void template_child(const struct template_job *job, struct template_request *request)
{
    fill_stack(job, request);
    set_secrets(request);
    template_set_linker(job, request->sp, request->auxv);
    if (request->new_session)
        call3(__NR_setsid, 0, 0, 0);
    call3(__NR_set_robust_list, job->robust_list, job->robust_size, 0);
    call6(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, (uint64_t)&request->mm, sizeof request->mm, 0, 0);
    (void)*(volatile const uint8_t *)job->gadget; /* no page fault there later */
    template_be_free(job, FAR);
    check_files(request);
    wait_for_word(job, request);
    template_be_free(job, NEAR);
    refl_adopt(&job->born, &request->now);
    enter(job, request);
}

__attribute__((noreturn)) void template_begin(const struct template_job *job, struct template_request *request)
{
    place_descriptors(request);
    template_child(job, request);
}

/* MADV_POPULATE_WRITE, but that takes several times as long. */
static void own_pages(uint64_t start, uint64_t size)
{
    for (uint64_t at = start; at < start + size; at += 4096)
        __asm__ volatile("lock orb $0, (%0)" : : "r"(at) : "memory");
}

static void populate(const struct template_facts *facts)
{
    const uint64_t version = __atomic_load_n(&facts->version, __ATOMIC_ACQUIRE);
    for (uint64_t i = 0; i < facts->call_count && i < TEMPLATE_CALLS; i++) {
        const struct template_call call = facts->calls[i];
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (version & 1 || __atomic_load_n(&facts->version, __ATOMIC_RELAXED) != version)
            return;
        if (call.advice == MADV_POPULATE_WRITE)
            own_pages(call.start, call.size);
        else
            call3(__NR_madvise, call.start, call.size, call.advice);
    }
}

__attribute__((noreturn)) void template_wait(const struct template_job *job, struct template_request *request)
{
    struct template_message message;
    call3(__NR_dup2, 0, TEMPLATE_SOCKET, 0);
    call3(__NR_close, 0, 0, 0);
    populate((const struct template_facts *)job->shared);
    if (template_receive(&message) < 0)
        end();
    place_descriptors(request);
    template_switch(job, request, template_stack_below(request->sp)); /* which may be elsewhere than was likely */
}
