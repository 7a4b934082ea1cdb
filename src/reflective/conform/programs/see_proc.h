/* What /proc/self says, verbatim: reading it is the business of whoever compares. */
#ifndef WITNESS_SEE_PROC_H
#define WITNESS_SEE_PROC_H

#include "json.h"

enum { PROC_BUFFER = 16384, AT_CWD = -100, O_DIR = 0200000, GETFD = 1, GETFL = 3 };

static char proc_buffer[PROC_BUFFER];

/* A file's content as text, or the -errno of opening it. */
static inline void see_file(const char *key, const char *path)
{
    long fd = SYS(SYS_openat, AT_CWD, path, 0), got;

    if (fd < 0) {
        json_signed(key, fd);
        return;
    }
    json_key(key);
    json_put('"');
    while ((got = SYS(SYS_read, fd, proc_buffer, PROC_BUFFER)) > 0)
        json_escape(proc_buffer, (size_t)got);
    json_put('"');
    SYS(SYS_close, fd);
}

/* A link's target, or the -errno of reading it. */
static inline void see_link(const char *key, const char *path)
{
    long length = SYS(SYS_readlinkat, AT_CWD, path, proc_buffer, PROC_BUFFER);

    if (length < 0)
        json_signed(key, length);
    else
        json_text(key, proc_buffer, (size_t)length);
}

/* Bounds of the mapping that holds address, by looking through /proc/self/maps: "start-end …", a line each. */
static inline void find_mapping(uint64_t address, uint64_t bounds[2])
{
    long fd = SYS(SYS_openat, AT_CWD, "/proc/self/maps", 0), got;
    uint64_t value[2] = {0, 0};
    int field = 0; /* 0: start, 1: end, 2: the rest of the line */

    bounds[0] = bounds[1] = 0;
    while ((got = SYS(SYS_read, fd, proc_buffer, PROC_BUFFER)) > 0) {
        for (long i = 0; i < got; i++) {
            char c = proc_buffer[i];
            if (c == '\n') {
                field = 0;
                value[0] = value[1] = 0;
            } else if (field < 2 && (c == '-' || c == ' ')) {
                field++;
                if (field == 2 && value[0] <= address && address < value[1]) {
                    bounds[0] = value[0];
                    bounds[1] = value[1];
                }
            } else if (field < 2) {
                value[field] = value[field] << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
            }
        }
    }
    SYS(SYS_close, fd);
}

static inline void see_descriptor(long fd)
{
    char path[40];
    char digits[2] = {0, 0};
    char *end = text_append(path, "/proc/self/fd/");
    long scale = 1;

    while (scale * 10 <= fd)
        scale *= 10;
    for (; scale; scale /= 10) {
        digits[0] = (char)('0' + fd / scale % 10);
        end = text_append(end, digits);
    }
    json_object(NULL);
    json_signed("fd", fd);
    see_link("target", path);
    json_signed("fd_flags", SYS(SYS_fcntl, fd, GETFD));
    json_signed("status_flags", SYS(SYS_fcntl, fd, GETFL));
    json_signed("position", SYS(SYS_lseek, fd, 0, 1));
    json_end();
}

/* Every open descriptor but the one this uses to look. */
static inline void see_descriptors(void)
{
    struct entry {
        uint64_t inode;
        int64_t next;
        unsigned short length;
        unsigned char type;
        char name[];
    };
    static char list[PROC_BUFFER] __attribute__((aligned(8)));
    long directory = SYS(SYS_openat, AT_CWD, "/proc/self/fd", O_DIR), got;

    json_array("descriptors");
    while ((got = SYS(SYS_getdents64, directory, list, sizeof list)) > 0) {
        for (long at = 0; at < got;) {
            const struct entry *entry = (const struct entry *)(list + at);
            long fd = text_number(entry->name);
            if (fd >= 0 && fd != directory)
                see_descriptor(fd);
            at += entry->length;
        }
    }
    json_end();
    SYS(SYS_close, directory);
}

static inline void see_proc(void)
{
    static const char files[][20] = {
        "maps",   "smaps", "stat",            "status",        "comm",   "cmdline",     "environ",
        "auxv",   "timers", "limits",         "coredump_filter", "cgroup", "personality", "oom_score_adj",
        "timerslack_ns", "arch_status", "autogroup", "loginuid", "sessionid",
    };
    static const char links[][24] = {"exe",     "cwd",    "root",    "ns/cgroup", "ns/ipc",  "ns/mnt", "ns/net",
                                     "ns/pid",  "ns/pid_for_children", "ns/time", "ns/time_for_children", "ns/user", "ns/uts"};
    char path[64];

    json_object("proc");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        text_append(text_append(path, "/proc/self/"), files[i]);
        see_file(files[i], path);
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        text_append(text_append(path, "/proc/self/"), links[i]);
        see_link(links[i], path);
    }
    json_end();
}

#endif
