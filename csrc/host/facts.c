/* What this process and thread are like, where Python has no way to ask, or none that is quick. */
#include <dlfcn.h>
#include <errno.h>
#include <linux/capability.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "prepare.h"

void refl_abi(uint64_t out[5])
{
    out[0] = PARAM_COUNT;
    out[1] = OP_COUNT;
    out[2] = sizeof(struct refl_op);
    out[3] = sizeof(struct refl_aux);
    out[4] = sizeof(struct refl_report);
}

/*
 * glibc registers restartable sequences for each thread (since 2.35) with the length that the kernel's auxiliary vector asks
 * for, at least 32. Other libraries register none.
 */
void rseq_registered(uint64_t *area, uint64_t *size)
{
    static int known; /* looked for once: that takes longer than all the rest of a start's preparation */
    static const ptrdiff_t *offset;
    static const unsigned *registered;
    if (!__atomic_load_n(&known, __ATOMIC_ACQUIRE)) {
        offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
        registered = dlsym(RTLD_DEFAULT, "__rseq_size");
        __atomic_store_n(&known, 1, __ATOMIC_RELEASE);
    }
    uint64_t feature = getauxval(27 /* AT_RSEQ_FEATURE_SIZE */), align = getauxval(28 /* AT_RSEQ_ALIGN */);
    *area = *size = 0;
    if (!offset || !registered || *registered == 0)
        return;
    *area = (uint64_t)__builtin_thread_pointer() + (uint64_t)*offset;
    *size = align ? (feature + align - 1) / align * align : 0;
    if (*size < 32)
        *size = 32;
}

int refl_sealed(uint64_t start, uint64_t end)
{
    return end > start && mprotect((void *)start, end - start, PROT_READ | PROT_EXEC) && errno == EPERM;
}

/* munmap past the end of user space is EINVAL, below it a matter of course: with five-level paging there is more of it. */
uint64_t refl_task_end(void)
{
    const uint64_t four_level = (1ul << 47) - REFL_PAGE, five_level = (1ul << 56) - REFL_PAGE;
    return munmap((void *)four_level, REFL_PAGE) == 0 ? five_level : four_level;
}

void refl_capabilities(uint64_t out[4])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};
    syscall(SYS_capget, &header, data);
    out[0] = (uint64_t)data[1].effective << 32 | data[0].effective;
    out[1] = (uint64_t)data[1].permitted << 32 | data[0].permitted;
    out[2] = (uint64_t)data[1].inheritable << 32 | data[0].inheritable;
    out[3] = (uint64_t)(unsigned)prctl(PR_GET_SECUREBITS);
}

uint64_t refl_file_system(const char *path)
{
    struct statfs status;
    return statfs(path, &status) ? 0 : (uint64_t)status.f_type;
}

int64_t refl_auxv(char *buffer, uint64_t size)
{
    int got = prctl(0x41555856 /* PR_GET_AUXV */, buffer, size, 0, 0);
    return got < 0 ? -errno : got < (int64_t)size ? got : (int64_t)size;
}

uint64_t refl_personality(void)
{
    return (uint64_t)(unsigned)personality(0xffffffff);
}

int refl_set_personality(uint64_t value)
{
    return personality(value) < 0 ? -errno : 0;
}

uint64_t refl_limit(int which)
{
    struct rlimit limit = {0, 0};
    getrlimit(which, &limit);
    return limit.rlim_cur;
}

uint64_t refl_hard_limit(int which)
{
    struct rlimit limit = {0, 0};
    getrlimit(which, &limit);
    return limit.rlim_max;
}

/* No ID is -1: then they only say what they are. */
void refl_fs_ids(uint32_t out[2])
{
    out[0] = (uint32_t)syscall(SYS_setfsuid, -1);
    out[1] = (uint32_t)syscall(SYS_setfsgid, -1);
}

extern char **environ; /* POSIX has it declared by nobody */

uint64_t refl_environ(char *out, uint64_t size)
{
    uint64_t at = 0;
    for (char **string = environ; string && *string; string++) {
        uint64_t length = strlen(*string) + 1;
        if (at <= size && length <= size - at)
            memcpy(out + at, *string, length);
        at += length;
    }
    return at;
}
