/* Preloaded: records what a process writes to the files of one folder, and fails calls on demand.

   DISK_SHIM_FOLDER names the folder, DISK_SHIM_LOG the log, which is appended to; while there is a
   file of the name in DISK_SHIM_FULL_WHILE the disk is full. A record is a head and `bytes` bytes of data; `disk_shim.py` reads it. What is not yet durable is recorded
   before the call that makes it so, what is after it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, DSYNC_BEGIN, DSYNC_END, TRUNCATE, SYNC, RENAME, NOTE, FAILED };
enum { FAIL_WRITE, FAIL_SYNC, FAIL_DSYNC, FAIL_KINDS };
enum { DESCRIPTORS = 4096, SHORT = -1 };

struct head {
    uint32_t kind;
    uint32_t bytes;
    uint64_t inode;
    int64_t offset;
};

static struct { uint64_t inode; int dsync; } watched[DESCRIPTORS];
static struct { long countdown; int error, lasting; } rules[FAIL_KINDS];
static int full;
static const char *full_while;
static int log_fd = -1;
static char folder[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("DISK_SHIM_FOLDER"), *log = getenv("DISK_SHIM_LOG");
    if (!name || !log)
        return;
    snprintf(folder, sizeof folder, "%s", name);
    full_while = getenv("DISK_SHIM_FULL_WHILE");
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        abort();
}

static void record(uint32_t kind, uint64_t inode, int64_t offset, const struct iovec *data, int count) {
    struct head head = {kind, 0, inode, offset};
    struct iovec parts[1 + 1024];
    if (log_fd < 0)
        return;
    if (count > 1024)
        abort();
    parts[0] = (struct iovec){&head, sizeof head};
    for (int i = 0; i < count; i++) {
        parts[1 + i] = data[i];
        head.bytes += data[i].iov_len;
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; i <= count; i++) {
        const char *at = parts[i].iov_base;
        size_t left = parts[i].iov_len;
        while (left) {
            long done = syscall(SYS_write, log_fd, at, left);
            if (done <= 0)
                abort();
            at += done;
            left -= (size_t)done;
        }
    }
    pthread_mutex_unlock(&lock);
}

static void record_text(uint32_t kind, uint64_t inode, const char *text) {
    struct iovec data = {(void *)text, strlen(text)};
    record(kind, inode, 0, &data, 1);
}

static uint64_t inode_of(int fd) {
    return fd >= 0 && fd < DESCRIPTORS ? watched[fd].inode : 0;
}

static int is_full(void) {
    return full || (full_while && !access(full_while, F_OK));
}

/* 0, an errno, or SHORT. */
static int failure(int kind) {
    if (kind == FAIL_WRITE && full_while && is_full())
        return ENOSPC;
    if (rules[kind].countdown == 0 || --rules[kind].countdown > 0)
        return 0;
    if (rules[kind].lasting)
        rules[kind].countdown = 1;
    return rules[kind].error;
}

static int is_ours(const char *path) {
    size_t length = strlen(folder);
    const char *name = strrchr(path, '/');
    if (log_fd < 0 || strncmp(path, folder, length))
        return 0;
    return !path[length] || (path[length] == '/' && name == path + length
                             && !strncmp(name, "/data.", 6) && !strstr(name, "-lock"));
}

/* ------------------------------------------------------------ for the tests */

void disk_shim_fail(int kind, long nth, int error, int lasting) {
    rules[kind].error = error;
    rules[kind].lasting = lasting;
    rules[kind].countdown = nth;
}

void disk_shim_full(int is_full) {
    full = is_full;
    disk_shim_fail(FAIL_WRITE, is_full ? 1 : 0, ENOSPC, 1);
}

void disk_shim_note(const char *text) {
    record_text(NOTE, 0, text);
}

/* ------------------------------------------------------------ calls */

static int opened(const char *path, int flags, int fd) {
    struct stat found;
    if (fd >= 0 && fd < DESCRIPTORS && is_ours(path) && (flags & O_TMPFILE) != O_TMPFILE) {
        if (fstat(fd, &found))
            abort();
        watched[fd].inode = found.st_ino;
        watched[fd].dsync = (flags & O_DSYNC) != 0;
        record_text(OPEN, found.st_ino, path);
    }
    return fd;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; \
        va_end(arguments); \
        return opened(path, flags, (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode)); \
    }
OPENS(open)
OPENS(open64)

int close(int fd) {
    if (fd >= 0 && fd < DESCRIPTORS)
        watched[fd].inode = 0;
    return (int)syscall(SYS_close, fd);
}

static ssize_t written(int fd, const struct iovec *data, int count, int64_t offset, int moves) {
    uint64_t inode = watched[fd].inode;
    int dsync = watched[fd].dsync;
    int error = failure(dsync ? FAIL_DSYNC : FAIL_WRITE);
    struct iovec half;
    ssize_t done;
    if (error && error != SHORT) {
        struct iovec none = {0};
        record(FAILED, inode, dsync ? FAIL_DSYNC : FAIL_WRITE, &none, 0);
        errno = error;
        return -1;
    }
    if (error == SHORT) {
        half = (struct iovec){data[0].iov_base, data[0].iov_len / 2};
        data = &half;
        count = 1;
    }
    record(dsync ? DSYNC_BEGIN : WRITE, inode, offset, data, count);
    done = moves ? syscall(SYS_writev, fd, data, count)
                 : syscall(SYS_pwritev, fd, data, count, (long)offset, (long)0);
    size_t wanted = 0;
    for (int i = 0; i < count; i++)
        wanted += data[i].iov_len;
    if (done != (ssize_t)wanted)
        abort();
    if (dsync)
        record(DSYNC_END, inode, offset, NULL, 0);
    return done;
}

#define PWRITES(name) \
    ssize_t name(int fd, const void *data, size_t bytes, off_t offset) { \
        struct iovec one = {(void *)data, bytes}; \
        if (inode_of(fd)) \
            return written(fd, &one, 1, offset, 0); \
        return syscall(SYS_pwrite64, fd, data, bytes, offset); \
    }
PWRITES(pwrite)
PWRITES(pwrite64)

ssize_t write(int fd, const void *data, size_t bytes) {
    struct iovec one = {(void *)data, bytes};
    if (inode_of(fd))
        return written(fd, &one, 1, lseek(fd, 0, SEEK_CUR), 1);
    return syscall(SYS_write, fd, data, bytes);
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    if (inode_of(fd))
        return written(fd, data, count, lseek(fd, 0, SEEK_CUR), 1);
    return syscall(SYS_writev, fd, data, count);
}

#define PWRITEVS(name) \
    ssize_t name(int fd, const struct iovec *data, int count, off_t offset) { \
        if (inode_of(fd)) \
            return written(fd, data, count, offset, 0); \
        return syscall(SYS_pwritev, fd, data, count, (long)offset, (long)0); \
    }
PWRITEVS(pwritev)
PWRITEVS(pwritev64)

static int synced(int fd, long call) {
    int error = inode_of(fd) ? failure(FAIL_SYNC) : 0;
    if (error) {
        record(FAILED, inode_of(fd), FAIL_SYNC, NULL, 0);
        errno = error;
        return -1;
    }
    int result = (int)syscall(call, fd);
    if (!result && inode_of(fd))
        record(SYNC, inode_of(fd), 0, NULL, 0);
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

#define FTRUNCATES(name) \
    int name(int fd, off_t bytes) { \
        if (inode_of(fd)) \
            record(TRUNCATE, inode_of(fd), bytes, NULL, 0); \
        return (int)syscall(SYS_ftruncate, fd, bytes); \
    }
FTRUNCATES(ftruncate)
FTRUNCATES(ftruncate64)

#define TRUNCATES(name) \
    int name(const char *path, off_t bytes) { \
        struct stat found; \
        if (is_ours(path) && !stat(path, &found)) \
            record(TRUNCATE, found.st_ino, bytes, NULL, 0); \
        return (int)syscall(SYS_truncate, path, bytes); \
    }
TRUNCATES(truncate)
TRUNCATES(truncate64)

int rename(const char *from, const char *to) {
    struct iovec names[2] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
    if (is_ours(from))
        record(RENAME, 0, 0, names, 2);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

#define FALLOCATES(name) \
    int name(int fd, off_t offset, off_t bytes) { \
        if (is_full()) \
            return ENOSPC; \
        return syscall(SYS_fallocate, fd, 0, offset, bytes) ? errno : 0; \
    }
FALLOCATES(posix_fallocate)
FALLOCATES(posix_fallocate64)
