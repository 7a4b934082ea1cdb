/* System calls about files, terminals and sockets, for calls.c. */
#include "calls.h"

void files(void)
{
    char buffer[4096];
    struct stat status;
    struct statx more;
    struct statfs system;
    struct flock lock = {F_WRLCK, SEEK_SET, 1, 2, 0}, asked = lock;
    struct timespec times[2] = {{1, 2}, {0, UTIME_OMIT}}, now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    loff_t in = 0, out = 1;
    int file = open("calls.txt", O_CREAT | O_RDWR | O_TRUNC, 0640), other = open("other.txt", O_CREAT | O_RDWR, 0600);
    write(file, "one two three four five six seven eight nine ten", 48);
    fcntl(file, F_SETLK, &lock);
    fcntl(file, F_GETLK, &asked);
    fcntl(file, F_OFD_SETLK, &lock);
    fcntl(file, F_OFD_GETLK, &asked);
    fcntl(file, F_GETOWN);
    fcntl(file, F_SETOWN, 0);
    fcntl(file, F_SETSIG, SIGIO);
    fcntl(file, F_GETSIG);
    fcntl(file, F_SETLEASE, F_RDLCK);
    fcntl(file, F_GETLEASE);
    fcntl(file, F_DUPFD_CLOEXEC, 100);
    fcntl(file, F_GETFL);
    fcntl(file, F_SETFL, O_APPEND | O_NONBLOCK);
    fcntl(file, F_SETLK, NOWHERE);
    fcntl(file, 99, 7);
    flock(file, LOCK_EX | LOCK_NB);
    fstat(file, &status);
    CALL(statx, file, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_BTIME, &more);
    CALL(statx, AT_FDCWD, "none", 0, STATX_ALL, &more);
    CALL(statx, AT_FDCWD, "/dev/null", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &more);
    statfs("/proc", &system);
    fstatfs(file, &system);
    statfs("none", &system);
    CALL(utimensat, AT_FDCWD, "calls.txt", times, 0);
    CALL(utimensat, file, NULL, now, 0);
    CALL(utimensat, AT_FDCWD, "none", NULL, AT_SYMLINK_NOFOLLOW);
    CALL(copy_file_range, file, &in, other, &out, 10ul, 0);
    CALL(copy_file_range, file, NULL, other, NULL, 0ul, 0);
    int pipes[2];
    pipe2(pipes, O_CLOEXEC | O_NONBLOCK);
    in = 2;
    CALL(splice, file, &in, pipes[1], NULL, 5ul, SPLICE_F_MOVE | SPLICE_F_MORE);
    CALL(tee, pipes[0], pipes[1], 3ul, SPLICE_F_NONBLOCK);
    struct iovec part = {buffer, 4};
    CALL(vmsplice, pipes[1], &part, 1ul, SPLICE_F_GIFT);
    CALL(sendfile, other, file, &in, 3ul);
    CALL(sendfile, other, file, NULL, 3ul);
    preadv(file, &part, 1, 3);
    CALL(preadv2, file, &part, 1ul, 3ul, 0ul, RWF_HIPRI);
    pwritev(file, &part, 1, 60);
    fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 4096);
    CALL(fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0l, 4096l);
    sync_file_range(file, 0, 10, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CALL(getdents64, here, buffer, sizeof buffer);
    CALL(getdents64, here, buffer, sizeof buffer);
    CALL(getdents64, file, buffer, sizeof buffer);
    struct {
        uint64_t flags, mode, resolve;
    } how = {O_RDONLY | O_CLOEXEC, 0, 8};
    CALL(openat2, here, "calls.txt", &how, sizeof how);
    CALL(openat2, AT_FDCWD, "none", NOWHERE, sizeof how);
    mknod("fifo", S_IFIFO | 0600, 0);
    CALL(mknodat, here, "node", S_IFCHR | 0644, 0x103);
    linkat(AT_FDCWD, "calls.txt", here, "link", AT_SYMLINK_FOLLOW);
    symlinkat("calls.txt", here, "symbolic");
    renameat2(here, "link", here, "symbolic", RENAME_EXCHANGE);
    CALL(fchmodat, here, "calls.txt", 04755);
    fchownat(here, "symbolic", (uid_t)-1, (gid_t)-1, AT_SYMLINK_NOFOLLOW);
    faccessat(here, "calls.txt", R_OK | W_OK, 0);
    CALL(faccessat2, here, "none", F_OK, AT_EACCESS);
    access("calls.txt", X_OK);
    unlinkat(here, "symbolic", 0);
    unlink("link"), unlink("fifo"), unlink("node");
    unlinkat(here, "none", AT_REMOVEDIR);
    CALL(setxattr, "calls.txt", "user.a", "value", 5ul, 1);
    CALL(fsetxattr, file, "user.b", "v\1", 2ul, 0);
    CALL(getxattr, "calls.txt", "user.a", buffer, sizeof buffer);
    CALL(fgetxattr, file, "user.none", buffer, sizeof buffer);
    CALL(listxattr, "calls.txt", buffer, sizeof buffer);
    CALL(removexattr, "calls.txt", "user.a");
    CALL(fremovexattr, file, "user.b");
    lseek(file, 0, SEEK_END), lseek(file, 5, SEEK_DATA);
    ftruncate(file, 3), truncate("calls.txt", 7);
    readlink("/proc/self/exe", buffer, 5);
    CALL(close_range, 200u, ~0u, CLOSE_RANGE_CLOEXEC);
    CALL(name_to_handle_at, AT_FDCWD, "none", NOWHERE, NOWHERE, 0);
    CALL(umask, 022);
    unlink("calls.txt"), unlink("other.txt");
}

void terminal(void)
{
    struct winsize size = {24, 80, 0, 0};
    struct termios mode;
    int number = 0;
    int main_end = posix_openpt(O_RDWR | O_NOCTTY);
    unlockpt(main_end);
    ioctl(main_end, TIOCGPTN, &number);
    int tty = open(ptsname(main_end), O_RDWR | O_NOCTTY);
    ioctl(tty, TIOCSWINSZ, &size);
    ioctl(tty, TIOCGWINSZ, &size);
    ioctl(tty, TCGETS, &mode);
    ioctl(tty, TCSETS, &mode);
    ioctl(tty, TCSETSW, &mode);
    ioctl(tty, TIOCGPGRP, &number);
    ioctl(tty, FIONREAD, &number);
    number = 1;
    ioctl(tty, FIONBIO, &number);
    ioctl(tty, FIOCLEX);
    ioctl(tty, TCSBRK, 1);
    ioctl(tty, TCFLSH, TCIOFLUSH);
    ioctl(tty, TIOCSCTTY, 0);
    ioctl(tty, TIOCGSID, &number);
    ioctl(0, TCGETS, &mode);
    ioctl(0, 0x1234, 5);
    ioctl(0, _IOR('x', 7, int), 5);
}

void addresses(void)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}, peer;
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_un path = {AF_UNIX, "\0reflective-calls"}, named = {AF_UNIX, "./socket"};
    socklen_t size = sizeof four;
    char buffer[64];
    int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP), stream = socket(AF_INET, SOCK_STREAM, 0);
    bind(datagrams, (void *)&four, sizeof four);
    getsockname(datagrams, (void *)&four, &size);
    sendto(datagrams, "hello", 5, 0, (void *)&four, sizeof four);
    size = sizeof peer;
    recvfrom(datagrams, buffer, sizeof buffer, MSG_PEEK, (void *)&peer, &size);
    recvfrom(datagrams, buffer, sizeof buffer, MSG_DONTWAIT, NULL, NULL);
    recvfrom(datagrams, buffer, sizeof buffer, MSG_DONTWAIT, (void *)&peer, &size);
    getpeername(datagrams, (void *)&peer, &size);
    four.sin_port = 0;
    bind(stream, (void *)&four, sizeof four);
    size = sizeof four;
    getsockname(stream, (void *)&four, &size);
    listen(stream, 5);
    int client = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    connect(client, (void *)&four, sizeof four);
    size = sizeof peer;
    int server = accept4(stream, (void *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    size = 4;
    getpeername(server, (void *)&peer, &size);
    getpeername(server, (void *)&peer, NULL);
    CALL(accept4, stream, NULL, NULL, 0x40000000);
    sendto(client, "x", 1, MSG_NOSIGNAL, NULL, 0);
    shutdown(client, SHUT_RDWR);
    int unix_one = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), any = socket(AF_INET6, SOCK_DGRAM, 0);
    connect(unix_one, (void *)&path, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 17));
    connect(unix_one, (void *)&named, sizeof named);
    connect(any, (void *)&six, sizeof six);
    int link = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
    unsigned char netlink[12] = {16};
    bind(link, (void *)netlink, sizeof netlink);
    connect(any, (void *)netlink, 2);
    connect(any, NOWHERE, 16);
    socket(AF_PACKET, SOCK_RAW, 0);
    socket(99, 77, 55);
}

void options(void)
{
    int on = 1, got = 0, pair[2];
    struct linger linger = {1, 5};
    struct timeval wait = {1, 500};
    struct ucred who;
    socklen_t size = sizeof got;
    int stream = socket(AF_INET, SOCK_STREAM, 0);
    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
    setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(stream, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    setsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(stream, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(stream, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
    setsockopt(stream, SOL_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(stream, IPPROTO_IP, IP_TOS, &on, sizeof on);
    setsockopt(stream, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, NOWHERE, 4);
    setsockopt(stream, SOL_SOCKET, SO_REUSEADDR, &on, 2);
    getsockopt(stream, SOL_SOCKET, SO_ERROR, &got, &size);
    getsockopt(stream, SOL_SOCKET, SO_TYPE, &got, &size);
    getsockopt(stream, SOL_SOCKET, SO_SNDBUF, &got, &size);
    getsockopt(stream, SOL_TCP, TCP_MAXSEG, &got, &size);
    size = sizeof linger;
    getsockopt(stream, SOL_SOCKET, SO_LINGER, &linger, &size);
    size = sizeof wait;
    getsockopt(stream, SOL_SOCKET, SO_RCVTIMEO, &wait, &size);
    size = sizeof who;
    getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &who, &size);
    size = 2;
    getsockopt(stream, SOL_SOCKET, SO_ERROR, &got, &size);
    getsockopt(stream, SOL_SOCKET, 999, &got, &size);
    getsockopt(-1, SOL_SOCKET, SO_ERROR, &got, &size);
    getsockopt(stream, 77, 1, &got, &size);
}

void messages(void)
{
    int pair[2];
    char buffer[64], more[64], control[CMSG_SPACE(2 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    struct iovec parts[2] = {{"hello ", 6}, {"world", 5}}, room[2] = {{buffer, 4}, {more, sizeof more}};
    struct msghdr out = {NULL, 0, parts, 2, control, CMSG_SPACE(2 * sizeof(int)), 0}, in = {.msg_iov = room, .msg_iovlen = 2};
    struct sockaddr_un name;
    memset(control, 0, sizeof control);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    struct cmsghdr *first = CMSG_FIRSTHDR(&out);
    *first = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(first), pair, sizeof pair);
    sendmsg(pair[0], &out, MSG_NOSIGNAL);
    in.msg_control = control, in.msg_controllen = sizeof control;
    in.msg_name = &name, in.msg_namelen = sizeof name;
    recvmsg(pair[1], &in, MSG_CMSG_CLOEXEC);
    recvmsg(pair[1], &in, MSG_DONTWAIT);
    int on = 1;
    setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    out.msg_controllen = 0, out.msg_control = NULL;
    sendmsg(pair[0], &out, 0);
    in.msg_controllen = sizeof control, in.msg_namelen = sizeof name;
    recvmsg(pair[1], &in, MSG_TRUNC);
    sendmsg(pair[0], NOWHERE, 0);
    struct mmsghdr many[3] = {{{.msg_iov = parts, .msg_iovlen = 1}, 0}, {{.msg_iov = parts + 1, .msg_iovlen = 1}, 0}};
    CALL(sendmmsg, pair[0], many, 2u, 0);
    struct mmsghdr got[3] = {{{.msg_iov = room, .msg_iovlen = 1}, 0}, {{.msg_iov = room + 1, .msg_iovlen = 1}, 0}, {{0}, 0}};
    struct timespec wait = {1, 0};
    CALL(recvmmsg, pair[1], got, 3u, MSG_DONTWAIT, &wait);
    CALL(recvmmsg, pair[1], got, 3u, MSG_DONTWAIT, NULL);
    CALL(sendmmsg, -1, many, 2u, MSG_MORE);
}
