/*
 * The zygote's file and the slots, made at the first start and kept.
 *
 * They belong to one process. A fork must not share the slots: their mapping is not inherited, and what says that they are
 * there lies in a page that the kernel wipes in the child, locks included. Somebody may close all descriptors, and others get
 * their numbers: so each is looked at before it is used.
 */
#define _GNU_SOURCE
#include "pool.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zygote.h"
#include "zygote_bytes.h" /* static const uint8_t zygote_bytes[], made by setup.py */

enum { SLOTS = 16, HEADERS = 256, EXECUTABLE = 0x10 /* MFD_EXEC */ };

_Static_assert(HEADERS + sizeof zygote_bytes <= REFL_PAGE, "the zygote is one page");
_Static_assert(sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr) <= HEADERS, "before its code");

struct file {
    int fd;
    dev_t device;
    ino_t inode;
};

/* In a page of its own: all zero in a forked child. */
struct state {
    int lock, ready;
    uint32_t busy; /* bit: slot */
};

static struct state *state;
static struct file program = {.fd = -1}, slots = {.fd = -1};
static uint8_t *memory;

int above_streams(int fd)
{
    if (fd < 0 || fd > 2)
        return fd < 0 ? -errno : fd;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3), error = errno;
    close(fd);
    return copy < 0 ? -error : copy;
}

/* Kernels before 6.3 do not know the flag. */
static int memory_file(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | EXECUTABLE);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC);
    return above_streams(fd);
}

static int known(const struct file *file)
{
    struct stat status;
    return file->fd >= 0 && fstat(file->fd, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode;
}

static int remember(struct file *file, int fd)
{
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        return fd < 0 ? fd : -errno;
    *file = (struct file){.fd = fd, .device = status.st_dev, .inode = status.st_ino};
    return 0;
}

static void forget(struct file *file)
{
    if (known(file))
        close(file->fd);
    file->fd = -1;
}

/* Beyond RLIMIT_FSIZE a file does not grow, but a signal is sent. */
static int sized(int fd, size_t size)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur < size)
        return -EFBIG;
    return ftruncate(fd, (off_t)size) ? -errno : 0;
}

/* The zygote's page, at the start of the file, which is `size` bytes then. */
static int write_program(int fd, size_t size)
{
    uint8_t image[REFL_PAGE] = {0};
    int error = sized(fd, size);
    if (error)
        return error;
    const Elf64_Ehdr header = {
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = ZYGOTE_TEXT_AT + HEADERS,
        .e_phoff = sizeof header,
        .e_ehsize = sizeof header,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 3,
    };
    const Elf64_Phdr segments[3] = {
        {.p_type = PT_LOAD,
         .p_flags = PF_R | PF_X,
         .p_vaddr = ZYGOTE_TEXT_AT,
         .p_filesz = REFL_PAGE,
         .p_memsz = REFL_PAGE,
         .p_align = REFL_PAGE},
        {.p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_vaddr = ZYGOTE_STACK_AT, .p_memsz = REFL_PAGE, .p_align = REFL_PAGE},
        {.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W, .p_align = 16},
    };
    memcpy(image, &header, sizeof header);
    memcpy(image + sizeof header, segments, sizeof segments);
    memcpy(image + HEADERS, zygote_bytes, sizeof zygote_bytes);
    return pwrite(fd, image, sizeof image, 0) == sizeof image ? 0 : -EIO;
}

static int make(void)
{
    forget(&program);
    forget(&slots);
    int error = remember(&program, memory_file("reflective"));
    error = error ? error : write_program(program.fd, REFL_PAGE);
    error = error ? error : remember(&slots, memory_file("reflective: starts"));
    error = error ? error : write_program(slots.fd, REFL_PAGE + SLOTS * SLOT_SIZE);
    if (error)
        return error;
    void *base = mmap(NULL, SLOTS * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, slots.fd, REFL_PAGE);
    if (base == MAP_FAILED)
        return -errno;
    if (madvise(base, SLOTS * SLOT_SIZE, MADV_DONTFORK)) {
        munmap(base, SLOTS * SLOT_SIZE);
        return -errno;
    }
    memory = base;
    return 0;
}

static struct state *wiped_page(void)
{
    void *page = mmap(NULL, REFL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    if (madvise(page, REFL_PAGE, MADV_WIPEONFORK)) {
        munmap(page, REFL_PAGE);
        return NULL;
    }
    struct state *expected = NULL;
    if (__atomic_compare_exchange_n(&state, &expected, page, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return page;
    munmap(page, REFL_PAGE);
    return expected;
}

/* With the lock held. */
static int ready(struct state *own)
{
    if (own->ready && (!known(&program) || !known(&slots))) {
        if (__atomic_load_n(&own->busy, __ATOMIC_ACQUIRE))
            return -EBUSY;
        munmap(memory, SLOTS * SLOT_SIZE);
        own->ready = 0;
    }
    int error = own->ready ? 0 : make();
    own->ready = !error;
    return error;
}

/* With the lock held. The slot's number, or negative: none is free. */
static int free_slot(struct state *own)
{
    uint32_t busy = __atomic_load_n(&own->busy, __ATOMIC_ACQUIRE);
    int number = __builtin_ctz(~busy);
    if (number >= SLOTS)
        return -1;
    __atomic_or_fetch(&own->busy, 1u << number, __ATOMIC_ACQ_REL);
    return number;
}

static int take_own(size_t size, struct slot *slot)
{
    int fd = memory_file("reflective: start");
    if (fd < 0)
        return fd;
    int error = write_program(fd, REFL_PAGE + size);
    void *base = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, REFL_PAGE);
    if (base == MAP_FAILED) {
        close(fd);
        return error ? error : -ENOMEM;
    }
    *slot = (struct slot){.base = base, .size = size, .offset = REFL_PAGE, .fd = fd, .number = -1};
    return 0;
}

int slot_take(size_t size, int *program_fd, struct slot *slot)
{
    struct state *own = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
    own = own ? own : wiped_page();
    if (!own)
        return -ENOMEM;
    while (__atomic_exchange_n(&own->lock, 1, __ATOMIC_ACQUIRE))
        sched_yield();
    int error = ready(own);
    int number = error || size > SLOT_SIZE ? -1 : free_slot(own);
    __atomic_store_n(&own->lock, 0, __ATOMIC_RELEASE);
    if (error)
        return error;
    *program_fd = program.fd;
    if (number < 0)
        return take_own(size, slot);
    uint64_t at = (uint64_t)number * SLOT_SIZE;
    *slot = (struct slot){.base = memory + at, .size = SLOT_SIZE, .offset = REFL_PAGE + at, .fd = slots.fd, .number = number};
    return 0;
}

void slot_release(const struct slot *slot)
{
    if (slot->number >= 0) {
        __atomic_and_fetch(&state->busy, ~(1u << slot->number), __ATOMIC_RELEASE);
        return;
    }
    munmap(slot->base, slot->size);
    close(slot->fd);
}
