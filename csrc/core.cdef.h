/* All that Python sees of C. Members are filled by name in src/reflective/native/run.py; sizes are in bytes. */

/* One start of a plan. */
struct refl_start {
    const uint8_t *ops;      /* op_count operations of 64 bytes (plan.h: struct refl_op) */
    uint64_t op_count;
    const uint8_t *auxv;     /* aux_count entries of 24 bytes (struct refl_aux), AT_NULL not included */
    uint64_t aux_count;
    const char *strings;     /* argc arguments, envc environment strings, the path; each with its NUL */
    uint64_t strings_size;
    uint64_t argc;
    uint64_t envc;
    const char *data;        /* what operations point to through PARAM_DATA */
    uint64_t data_size;
    const char *random;      /* the 16 bytes behind AT_RANDOM */
    const char *platform;    /* the string behind AT_PLATFORM */
    uint64_t platform_size;  /* with its NUL; 0: there is none */
    uint64_t shuffle; /* how far the tables lie below the strings: 0 to 8191 (arch_align_stack); in a template up to 32768 */
    uint64_t stack_limit; /* RLIMIT_STACK */
    uint64_t image[4]; /* start_code, end_code, start_data, end_data; less the executable's load bias */
    uint64_t entry; /* where the program starts, less parameter entry_param */
    uint64_t entry_param;
    uint64_t gadget; /* the vdso's last system call, less PARAM_VDSO_NEW; 0: none, one page stays */
    uint64_t set_exe; /* 1: PARAM_EXE_FD becomes /proc/PID/exe */
    uint64_t own_mask; /* 1: the program's signal mask is sigmask, not this thread's */
    uint64_t sigmask;
    uint64_t params[29]; /* enum refl_parameter; the caller gives those before PARAM_DATA */
};

/* Counts and sizes that encode.py depends on: parameters, kinds, sizeof op, aux, report. */
void refl_abi(uint64_t out[5]);

/* A child that loads and becomes the program: its pid, or -errno. The report pipe tells the caller how the load went. */
int64_t refl_spawn(struct refl_start *start);

/* This process becomes the program. -errno if that could not even begin. */
int64_t refl_replace(struct refl_start *start);

/* What a zygote does (csrc/zygote): written once for a program, behind the page of the file that it maps. Followed by op_count
 * operations, whose parameters are added in the zygote; offsets are from the start of this struct. */
struct refl_orders {
    uint64_t shape_size; /* bytes that the kernel has mapped of the executed file */
    uint64_t top; /* the parameter that is where they are: PARAM_INTERP, PARAM_EXE (a static PIE), PARAM_NONE */
    uint64_t image[4]; /* start_code, end_code, start_data, end_data; less the executable's load bias */
    uint64_t phdr, phnum; /* AT_PHDR, less the load bias, and AT_PHNUM */
    uint64_t program_entry; /* AT_ENTRY, less the load bias */
    uint64_t entry; /* where to start, less parameter entry_param */
    uint64_t entry_param;
    uint64_t gadget; /* the vdso's last system call, less AT_SYSINFO_EHDR */
    uint64_t set_exe; /* 1: PARAM_EXE_FD becomes /proc/PID/exe */
    uint64_t path; /* offset of AT_EXECFN's string, and its size with the NUL */
    uint64_t path_size;
    uint64_t data; /* offset of what operations point to through PARAM_DATA */
    uint64_t op_count;
};

/* A file that this process keeps open, and what it is: somebody may close it, and another get its number. */
struct refl_memfd {
    int32_t fd;
    uint64_t device;
    uint64_t inode;
};

/* What all starts of a program by way of a zygote have in common for the caller. */
struct refl_recipe {
    struct refl_memfd shape; /* the zygote's file that is executed */
    struct refl_memfd body; /* the one with its orders, body_size bytes at body_offset */
    uint64_t body_offset;
    uint64_t body_size;
    uint64_t path_size; /* of AT_EXECFN's string, with the NUL */
    uint64_t exe_low; /* the executable is drawn: exe_low and up to exe_pages (a mask) more pages, rounded down to */
    uint64_t exe_pages; /*   exe_align, is where its first segment goes; exe_first is that one's p_vaddr */
    uint64_t exe_align;
    uint64_t exe_first;
    uint64_t brk; /* the heap: here, less the load bias, and less than brk_pages pages more; brk_least at least */
    uint64_t brk_pages;
    uint64_t brk_least;
    const char *paths[3]; /* executable, interpreter, script; NULL: there is none */
    uint64_t identities[3][4]; /* device, inode, size, time of modification in ns */
    uint64_t capabilities; /* the effective ones that it was made for */
    uint64_t by_path; /* 1: for a path, which by now might be for a handler of binfmt_misc */
};

/* What is done in the child first. */
struct refl_wishes {
    const uint8_t *before; /* operations whose addresses may be relative to data */
    uint64_t before_count;
    const char *data;
    uint64_t close_fds; /* 1: all descriptors above 2 but those to keep */
    const int32_t *keep;
    uint64_t keep_count;
};

/* A child that is the program, at a cost that does not grow with this process: its pid, or -errno, and then nothing has happened
 * that could not be tried again by refl_spawn. -ESTALE: the recipe must be made anew. `env` NULL: C's environ. */
int64_t refl_launch(const struct refl_recipe *recipe, const char *argv, uint64_t argv_size, uint64_t argc, const char *env,
                    uint64_t env_size, uint64_t envc, const struct refl_wishes *wishes);

/* 0 if orders (struct refl_orders and what follows it, `size` bytes) are such as a load can have, or -errno. `exe` is a load bias
 * that the executable may have. */
int refl_check_orders(const uint8_t *bytes, uint64_t size, uint64_t exe, uint64_t task_end);

/* The zygote's code, of the size returned; out may be NULL. It runs anywhere, at offset 256 of a page. */
uint64_t refl_zygote_code(uint8_t *out);

/* 1 if the kernel refuses to change [start, end): sealed system mappings. */
int refl_sealed(uint64_t start, uint64_t end);

/* How much of user space there is: the address above its last page. */
uint64_t refl_task_end(void);

/* This thread's effective, permitted and inheritable capabilities, and its securebits. */
void refl_capabilities(uint64_t out[4]);

/* statfs: f_type of the file system that a file is on; 0 if there is no answer. */
uint64_t refl_file_system(const char *path);

/* The auxiliary vector, as prctl(PR_GET_AUXV) gives it: its size, or -errno. */
int64_t refl_auxv(char *buffer, uint64_t size);

/* The personality; a soft and a hard resource limit (~0: none). */
uint64_t refl_personality(void);
int refl_set_personality(uint64_t value);
uint64_t refl_limit(int which);
uint64_t refl_hard_limit(int which);

/* This thread's user and group ID for file systems. */
void refl_fs_ids(uint32_t out[2]);

/* C's environ: its strings one after another, each with its NUL, as far as size goes. The bytes that all of them take. */
uint64_t refl_environ(char *out, uint64_t size);

/* 1 if SIGCHLD was ignored, in which case nobody could wait for a child; it no longer is. */
int refl_heed_children(void);

/* Blocks every signal and returns the mask there was; sets it again. */
uint64_t refl_block_signals(void);
void refl_unblock_signals(uint64_t mask);

/* Waits for a child on behalf of the shell that waits for us: passes signals on, stops when it stops. Its wait status. */
int refl_attend(int pid);

/* Dies of a signal, without a core dump. */
void refl_die_of(int number);

/* A child, traced by this thread, that becomes the program by execve: its pid, or -errno: -ECANCELED if it may not be
 * traced. It will stop before its first instruction, for waitpid to see. */
int64_t refl_exec_traced(const char *path, char *const *argv, char *const *envp);

/* Keeps [start, end) out of this process's children, for good, unless refl_spawn's child needs something there before it has
 * unmapped all of it. 1 if it is kept out. Forks become cheaper, and nothing there has to be copied when it is written. */
int refl_leave_out(uint64_t start, uint64_t end);

/* Lets a stopped, traced child run to an address, by a hardware breakpoint that is gone afterwards. 0 if it is there, -errno,
 * or its wait status if it ended first. */
int64_t refl_run_to(int pid, uint64_t address);

/* What to copy of a system call's arguments; up to 16 a call, the first with when == 0 ends the list. */
struct refl_copy {
    uint8_t when; /* 1: when the call is entered, 2: when it has returned */
    /* 1 string, 2 bytes, 3 vector of strings, 4 length of a vector, 5 iovec, 6 what a descriptor is, 7 the 8 bytes `size` above
     * the stack pointer, 8 `size` bytes from there, 9 struct msghdr, 10 array of struct mmsghdr, 11 a pointer, a word, and `size` & 0xffff
     * bytes behind the pointer; the pair is `size` >> 16 bytes further, 12 what the descriptors are that lie `size` & 0xffff bytes apart; `size` >> 16 of them, unless that is 0, 13 struct user_regs_struct */
    uint8_t kind;
    uint8_t arg; /* which argument points there; 6: the result */
    uint8_t count; /* size is multiplied: 0-5 by that argument, 6 by the result, 7 by 1, 8 by the 32-bit word that the next
                      argument points to */
    uint32_t size; /* in bytes; kind 1: 0, as far as the limit goes; kind 2: 1, likewise, 0: single bytes beyond it */
};

/* One trace session. Everything is copied or used before refl_trace_finish. */
struct refl_trace_options {
    const struct refl_copy *copies; /* numbers rows of 16 */
    const uint8_t *wanted; /* numbers + 1 bytes: 1, such calls are recorded; the last is for all others */
    uint64_t numbers;
    uint64_t string_limit;
    const int32_t *tids; /* tasks to attach to */
    uint64_t tid_count;
    uint64_t needed; /* so many of them must be attached to; the others may have ended */
    int32_t gate; /* >= 0: tids[0] is our child and reads one byte here before it becomes the program */
    int32_t leader; /* whose wait status is the session's */
    uint32_t follow; /* 1: children and threads too */
    uint32_t pin; /* tracer and tracees on this CPU, counted from 1; 0: where they are */
    uint32_t phases; /* 1: record maps, and stop at the entry point and at main */
    uint32_t until; /* hidden until 0: nothing, 1: execve, 2: a call from memory that no file backs */
};

/* A session's thread; NULL if it can't be made. */
void *refl_trace_start(const struct refl_trace_options *options);

/* Waits for at least `enough` bytes of records, the end or the timeout. *data is valid until the next call. -1: ended. */
int64_t refl_trace_take(void *trace, uint8_t **data, uint64_t enough, uint32_t timeout_ms);

/* Asks the session to detach from all tasks and end. */
void refl_trace_stop(void *trace);
void refl_trace_quiet(void *trace);

/* Waits for the end. The leader's wait status, -1 if it lives; *error is the errno that ended the session, or 0; *refused
 * the task that could not be attached to. */
int32_t refl_trace_finish(void *trace, int32_t *error, int32_t *refused);

/* execve; its errno. */
int refl_execve(const char *path, char *const *argv, char *const *envp);

/* What a session that watches the GOT is to do before the task that asked goes on; a session, too, for the functions above. */
struct refl_got_change {
    uint8_t op; /* 1: breakpoint at `address`, 2: table of the link_map at `address`, 3: no table of it any more, 4: a debug
                   register on the slot at `address`: the first four */
    uint8_t kind; /* of a breakpoint: 0 asks, 1 asks once, 2 the resolver's entry, 3 its jump */
    uint8_t step; /* of its instruction: 0 none, 1 push reg, 2 reg = value, 3 jump to reg, 4 return */
    uint8_t reg; /* 0-15, as the processor counts them */
    uint8_t length; /* of its instruction, which is as `bytes` say, or else nothing is set */
    uint8_t bytes[16];
    uint64_t address;
    uint64_t value;
    const uint64_t *slots; /* count addresses: where the slot of each relocation of DT_JMPREL is */
    uint64_t count;
};

/* As refl_trace_start; of the options tids, gate, leader and pin count. */
void *refl_got_start(const struct refl_trace_options *options);

/* Each record of kind EVENT_ASK is answered once. -1: no memory, nothing was changed. */
int32_t refl_got_answer(void *got, const struct refl_got_change *changes, uint64_t count);

/* A mount of tracefs that is nowhere but behind the descriptor returned; or -errno. */
int64_t refl_tracefs(void);

/* perf_event_open for a tracepoint in a task and its children, on one CPU; -errno. Records go to the ring of the event `into`,
 * or (-1) to one of its own, which also gets mappings, execs and forks; `wakeup` bytes there make it readable. `distinct`: each
 * task's events stay its own, and samples have a count (perf.c says why); EINVAL on kernels that can't. */
int64_t refl_perf_open(uint64_t tracepoint, int32_t pid, int32_t cpu, uint32_t wakeup, int32_t into, uint8_t distinct);

/* A template (csrc/template): its code, of the size returned; out may be NULL. */
uint64_t refl_template_code(uint8_t *out);

/* What a template has of its maker, and what that is read from (csrc/zygote/state.h): opaque here. 0 or -errno: it can't be told. */
struct refl_birth;
struct refl_kept;
uint64_t refl_birth_size(void);
uint64_t refl_kept_size(void);

/* Opens what the calling thread's state is read from, and closes it again. 0 or -errno. */
int refl_keep(struct refl_kept *kept);
void refl_drop(struct refl_kept *kept);
int refl_birth(struct refl_birth *birth);
void refl_template_born(uint8_t *shared, const struct refl_birth *born);

/* Page faults of a task in user space, by perf. Opened: 0 or -errno; fd is -1 when it is not. */
struct refl_faults {
    int32_t fd;
    void *ring;
};
int refl_faults_open(struct refl_faults *faults, int32_t pid);
void refl_faults_close(struct refl_faults *faults);
int refl_faults_ended(const struct refl_faults *faults); /* 1: the task has */
uint64_t refl_faults_pages(const struct refl_faults *faults, uint64_t *out, uint64_t most); /* addresses, how many */

/* One start from a template. */
struct refl_clone {
    uint8_t *shared; /* its shared memory, as this process has it */
    uint64_t slot;
    int32_t sock; /* the template's, or the waiting clone's */
    uint32_t waits; /* 1: it is a waiting clone's */
    const char *strings; /* argc arguments and envc environment strings, each with its NUL */
    uint64_t strings_size;
    uint64_t argc;
    uint64_t envc;
    uint64_t strings_low; /* strings may reach down to here */
    const uint8_t *mm; /* struct prctl_mm_map of the template; heap, stack and strings are filled in */
    uint64_t brk_low; /* the heap starts on one of brk_pages pages from here on; 0: where the template has it */
    uint64_t brk_pages;
    uint32_t inherit; /* 1: all descriptors that are not close-on-exec, else these: */
    const int32_t *fds; /* fd_count descriptors of this process, and the numbers they shall have, ascending; 47 at most */
    const int32_t *targets;
    uint64_t fd_count;
    int32_t directory; /* to start in; -1: where this process is */
    uint64_t to_default; /* bit signal - 1: ignored signals that shall not be, others that shall */
    uint64_t to_ignore;
    int32_t umask; /* -1: this process's */
    uint32_t new_session;
    struct refl_kept *kept; /* where the state is read from, if the thread is that of refl_keep; or NULL */
    const struct refl_birth *born; /* what must be the same now */
    const char *paths; /* files that must be the same, as in refl_stamps, and what they were */
    uint64_t paths_size;
    const uint64_t *stamps;
    uint64_t stamps_size; /* bytes */
    struct refl_faults *faults; /* NULL, or to be opened for the clone before the program begins, if that can be */
};

/* Calls of madvise (start, size, advice), 1200 at most: what each waiting clone populates ahead, of those that are made from now
 * on; and what the template does itself, in a slot that is not busy. 0 or -errno. */
void refl_template_ahead(uint8_t *shared, const uint64_t *calls, uint64_t count);
int refl_template_advise(uint8_t *shared, uint64_t slot, int32_t sock, const uint64_t *calls, uint64_t count);

/* This process's descriptors that are not close-on-exec, ascending: how many, or -errno: -EMFILE, more than most. `kept`
 * may be NULL, or what the calling thread keeps: then it is faster the second time. */
int refl_inheritable(struct refl_kept *kept, int32_t *fds, uint32_t most);

/* Waits until a template is ready: 0; -EPIPE: it is gone. */
int refl_template_hear(int32_t sock);

/* The pid of a clone that becomes the program; or -errno, and then there is none any more: -EPIPE, the template, or the waiting
 * clone, is gone; -ESTALE, it is not what this process would start now; any other, as -E2BIG, arguments and environment do not
 * fit: nothing has begun, a waiting clone waits on. */
int64_t refl_template_start(const struct refl_clone *clone);

/* Asks for a clone that waits. Our end of its socket, or -errno. */
int refl_template_order(uint8_t *shared, uint64_t slot, int32_t sock);

/* The pid of the clone that was ordered for a slot, as soon as there is one; -errno: there is none; -EPIPE: the template is gone. */
int64_t refl_template_pid(uint8_t *shared, uint64_t slot, int32_t sock);

/* 1 as long as the slot is in use. */
int refl_template_busy(uint8_t *shared, uint64_t slot);

/* What stat says of each path (NUL-terminated strings of `size` bytes in all): 6 numbers, all 0 if it fails. How many paths. */
uint64_t refl_stamps(const char *paths, uint64_t size, uint64_t *out);
