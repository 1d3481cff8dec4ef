// A library for LD_PRELOAD that makes chosen system calls of a program fail.
//
//   FAULTS_UNDER  a path: only calls about files whose absolute path begins with it count
//   FAULTS        CALL:EFFECT@N  the Nth of these calls fails
//                 CALL:EFFECT%N  every Nth fails
//                 CALL:EFFECT+N  the Nth and all after it fail, as on a full disk
//   FAULTS_LOG    a file for one line per call that counts: "CALL PATH", and " EFFECT" where it failed
//
// CALL is the first argument of `fails` below. EFFECT is the name of an error, `short`: half of what was asked for, or
// `slow`: all of it, a tenth of a second later.
//
// A call is seen where the program makes it by libc's function, as Rust's standard library does. rustix makes its own
// system calls: the `flock` of locks and the `renameat` of finished output files are not seen.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SHORT = -1, SLOW = -2 };

static const struct { const char *name; int effect; } EFFECTS[] = {
    {"short", SHORT},   {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EINTR", EINTR},
    {"EMFILE", EMFILE}, {"EACCES", EACCES}, {"EROFS", EROFS},   {"ENOMEM", ENOMEM},
    {"slow", SLOW},
};

// Appends a line to FAULTS_LOG. It uses system calls alone: the functions are those of this file.
static void note(const char *call, const char *path, const char *effect) {
    const char *log = getenv("FAULTS_LOG");
    if (log == NULL) return;
    char line[PATH_MAX + 64];
    int len = snprintf(line, sizeof line, "%s %s%s%s\n", call, path, *effect ? " " : "", effect);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    syscall(SYS_write, fd, line, len < (int)sizeof line ? len : (int)sizeof line);
    syscall(SYS_close, fd);
}

// What becomes of a call about `path`: 0 (nothing), SHORT, or an errno.
static int plan(const char *call, const char *path) {
    static atomic_ulong calls;
    const char *under = getenv("FAULTS_UNDER"), *faults = getenv("FAULTS");
    if (under == NULL || strncmp(path, under, strlen(under)) != 0) return 0;
    char of[16] = "", name[16] = "", when = 0;
    unsigned long n = 0;
    if (faults != NULL && sscanf(faults, "%15[^:]:%15[A-Za-z]%c%lu", of, name, &when, &n) != 4) {
        note("cannot", "read FAULTS =", faults);
        abort();
    }
    int effect = 0;
    if (strcmp(of, call) == 0) {
        unsigned long this = atomic_fetch_add(&calls, 1) + 1;
        if (when == '@' ? this == n : when == '%' ? this % n == 0 : this >= n)
            for (size_t i = 0; i < sizeof EFFECTS / sizeof *EFFECTS; i++)
                if (strcmp(EFFECTS[i].name, name) == 0) effect = EFFECTS[i].effect;
    }
    note(call, path, effect != 0 ? name : "");
    if (effect != SLOW) return effect;
    usleep(100000);
    return 0;
}

static int of_fd(const char *call, int fd) {
    int before = errno;
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[len > 0 ? len : 0] = 0;
    errno = before;
    return plan(call, path);
}

static int of_path(const char *call, int dir, const char *name) {
    if (name == NULL || *name == 0) return of_fd(call, dir);
    if (*name == '/') return plan(call, name);
    int before = errno;
    char link[32] = "/proc/self/cwd", path[PATH_MAX];
    if (dir != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    len = len > 0 ? len : 0;
    snprintf(path + len, sizeof path - len, "/%s", name);
    errno = before;
    return plan(call, path);
}

// Whether a call fails; `short` means nothing to one that moves no bytes.
static int fails(int effect) {
    if (effect <= 0) return 0;
    errno = effect;
    return 1;
}

static size_t moved(int effect, size_t len) { return effect == SHORT && len > 1 ? len / 2 : len; }

static int opened(int dir, const char *name, int flags, mode_t mode) {
    return fails(of_path("open", dir, name)) ? -1 : syscall(SYS_openat, dir, name, flags, mode);
}

// Only files that are made have a mode.
#define MODE(flags) \
    mode_t mode = 0; \
    if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int dir, const char *name, int flags, ...) { MODE(flags) return opened(dir, name, flags, mode); }
int openat64(int dir, const char *name, int flags, ...) { MODE(flags) return opened(dir, name, flags, mode); }

ssize_t read(int fd, void *to, size_t len) {
    int effect = of_fd("read", fd);
    return fails(effect) ? -1 : syscall(SYS_read, fd, to, moved(effect, len));
}

ssize_t pread64(int fd, void *to, size_t len, off64_t at) {
    int effect = of_fd("read", fd);
    return fails(effect) ? -1 : syscall(SYS_pread64, fd, to, moved(effect, len), at);
}

ssize_t write(int fd, const void *from, size_t len) {
    int effect = of_fd("write", fd);
    return fails(effect) ? -1 : syscall(SYS_write, fd, from, moved(effect, len));
}

ssize_t pwrite64(int fd, const void *from, size_t len, off64_t at) {
    int effect = of_fd("write", fd);
    return fails(effect) ? -1 : syscall(SYS_pwrite64, fd, from, moved(effect, len), at);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    int effect = of_fd("write", fd);
    if (fails(effect)) return -1;
    return effect == SHORT && n > 1 ? syscall(SYS_writev, fd, parts, n / 2) : syscall(SYS_writev, fd, parts, n);
}

int fsync(int fd) { return fails(of_fd("sync", fd)) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails(of_fd("sync", fd)) ? -1 : syscall(SYS_fdatasync, fd); }
int ftruncate64(int fd, off64_t len) { return fails(of_fd("truncate", fd)) ? -1 : syscall(SYS_ftruncate, fd, len); }

int close(int fd) {
    // Whatever it answers, the file is closed.
    int effect = of_fd("close", fd), closed = syscall(SYS_close, fd);
    return fails(effect) ? -1 : closed;
}

void *mmap(void *at, size_t len, int access, int flags, int fd, off_t from) {
    if ((flags & MAP_ANONYMOUS) == 0 && fails(of_fd("mmap", fd))) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, len, access, flags, fd, from);
}

void *mmap64(void *at, size_t len, int access, int flags, int fd, off64_t from) {
    return mmap(at, len, access, flags, fd, from);
}

int rename(const char *from, const char *to) {
    return fails(of_path("rename", AT_FDCWD, to)) ? -1 : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int dir, const char *name, int flags) {
    return fails(of_path("unlink", dir, name)) ? -1 : syscall(SYS_unlinkat, dir, name, flags);
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdir(const char *name, mode_t mode) {
    return fails(of_path("mkdir", AT_FDCWD, name)) ? -1 : syscall(SYS_mkdirat, AT_FDCWD, name, mode);
}

int symlink(const char *to, const char *name) {
    return fails(of_path("symlink", AT_FDCWD, name)) ? -1 : syscall(SYS_symlinkat, to, AT_FDCWD, name);
}

ssize_t readlink(const char *name, char *to, size_t len) {
    return fails(of_path("readlink", AT_FDCWD, name)) ? -1 : syscall(SYS_readlinkat, AT_FDCWD, name, to, len);
}

int chmod(const char *name, mode_t mode) {
    return fails(of_path("chmod", AT_FDCWD, name)) ? -1 : syscall(SYS_fchmodat, AT_FDCWD, name, mode);
}

int statx(int dir, const char *name, int flags, unsigned mask, struct statx *to) {
    return fails(of_path("stat", dir, name)) ? -1 : syscall(SYS_statx, dir, name, flags, mask, to);
}
