/* What a program does to the files of one folder, written down; or gone wrong on purpose.
 *
 * Loaded before libc (LD_PRELOAD). It stands between the program and the calls by which files change, looks at those
 * that concern the folder in RELET_DISK_FOLDER, lets them pass, and appends an event for each to the file in
 * RELET_DISK_LOG, in the order in which they were done. From that a test builds what a disk may hold after a power cut
 * (tests/store/disk.py).
 *
 * RELET_DISK_FAULT="HOW WHAT N" makes the N-th call of a kind go wrong, counted from 1 over all files of the folder:
 * HOW is kill, eio or enospc; WHAT is write, sync or truncate. `kill` ends the process as SIGKILL does, in the middle of
 * a write; `eio` fails once; `enospc` fails from there on, the first write in its middle. A fault is an event, too.
 *
 * What is written to the file "marks" in the folder is no write but a mark: the program says how far it is. The file of
 * SQLite's shared memory ("-shm") is no part of a disk, because nobody reads it after a power cut; faults count it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS 65536
#define NEXT(name) (find((void **)&next_##name, #name), next_##name)

enum { NOT_OURS, DISK, SHM, MARKS, FOLDER };

struct event {
	char kind; /* P process, O open, W write, T truncate, S sync, F failed sync, U unlink, R rename, M mark, X fault */
	char spare[3];
	uint32_t handle; /* of one open file, counted in each process */
	uint64_t at; /* offset of a write, size after a truncate */
	uint64_t bytes; /* that follow */
};

static int (*next_open)(const char *, int, ...), (*next_open64)(const char *, int, ...);
static int (*next_openat)(int, const char *, int, ...), (*next_openat64)(int, const char *, int, ...);
static int (*next_close)(int);
static ssize_t (*next_write)(int, const void *, size_t);
static ssize_t (*next_pwrite)(int, const void *, size_t, off_t), (*next_pwrite64)(int, const void *, size_t, off64_t);
static int (*next_ftruncate)(int, off_t), (*next_ftruncate64)(int, off64_t);
static int (*next_fsync)(int), (*next_fdatasync)(int);
static int (*next_unlink)(const char *), (*next_rename)(const char *, const char *);

static void find(void **next, const char *name) { /* what we stand before */
	if (!*next)
		*next = dlsym(RTLD_NEXT, name);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static size_t folder_length;
static int log_file = -1;
static uint32_t handles;
static struct { char what; uint32_t handle; } open_files[DESCRIPTORS];

static char fault_how[8], fault_what[12];
static long fault_at, counted;
static int full; /* the disk, from the fault on */

static void give_up(const char *why) {
	fprintf(stderr, "disk.c: %s\n", why);
	abort();
}

static void note(char kind, uint32_t handle, uint64_t at, const void *data, size_t bytes) {
	if (log_file < 0)
		return;
	struct event event = {.kind = kind, .handle = handle, .at = at, .bytes = bytes};
	struct iovec parts[2] = {{&event, sizeof event}, {(void *)data, bytes}};
	if (writev(log_file, parts, 2) != (ssize_t)(sizeof event + bytes))
		give_up("the log cannot be written");
}

__attribute__((constructor)) static void begin(void) {
	const char *fault = getenv("RELET_DISK_FAULT"), *log = getenv("RELET_DISK_LOG");
	if (!getenv("RELET_DISK_FOLDER"))
		return;
	if (fault && *fault && sscanf(fault, "%7s %11s %ld", fault_how, fault_what, &fault_at) != 3)
		give_up("RELET_DISK_FAULT is not HOW WHAT N");
	if (log) {
		log_file = NEXT(open)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
		if (log_file < 0)
			give_up("RELET_DISK_LOG cannot be opened");
		int high = fcntl(log_file, F_DUPFD_CLOEXEC, 500); /* out of the way of what the program counts */
		NEXT(close)(log_file);
		log_file = high;
	}
	folder = getenv("RELET_DISK_FOLDER");
	folder_length = strlen(folder);
	note('P', 0, 0, "", 0);
}

/* --- Which file it is */

static const char *inside(const char *path) { /* its name in the folder, "" for the folder itself; NULL: elsewhere */
	if (!folder || !path || strncmp(path, folder, folder_length) || (path[folder_length] && path[folder_length] != '/'))
		return NULL;
	path += folder_length;
	while (*path == '/')
		path++;
	return strchr(path, '/') ? NULL : path;
}

static char kind_of(const char *name) {
	size_t length = strlen(name);
	if (!length)
		return FOLDER;
	if (length > 4 && !strcmp(name + length - 4, "-shm"))
		return SHM;
	return strcmp(name, "marks") ? DISK : MARKS;
}

static int opened(int descriptor, const char *path, int flags) {
	const char *name = inside(path);
	if (descriptor < 0 || !name)
		return descriptor;
	if (descriptor >= DESCRIPTORS)
		give_up("a descriptor beyond the table");
	pthread_mutex_lock(&lock);
	char what = kind_of(name);
	open_files[descriptor].what = what;
	open_files[descriptor].handle = ++handles;
	if (what == DISK || what == FOLDER)
		note('O', handles, (flags & O_TRUNC) != 0, name, strlen(name));
	pthread_mutex_unlock(&lock);
	return descriptor;
}

static char what_is(int descriptor) {
	return descriptor >= 0 && descriptor < DESCRIPTORS ? open_files[descriptor].what : NOT_OURS;
}

#define MODE(flags, mode) \
	mode_t mode = 0; \
	if (flags & (O_CREAT | O_TMPFILE)) { \
		va_list rest; \
		va_start(rest, flags); \
		mode = va_arg(rest, mode_t); \
		va_end(rest); \
	}

int open(const char *path, int flags, ...) {
	MODE(flags, mode);
	return opened(NEXT(open)(path, flags, mode), path, flags);
}

int open64(const char *path, int flags, ...) {
	MODE(flags, mode);
	return opened(NEXT(open64)(path, flags, mode), path, flags);
}

int openat(int at, const char *path, int flags, ...) {
	MODE(flags, mode);
	return opened(NEXT(openat)(at, path, flags, mode), path, flags);
}

int openat64(int at, const char *path, int flags, ...) {
	MODE(flags, mode);
	return opened(NEXT(openat64)(at, path, flags, mode), path, flags);
}

int close(int descriptor) {
	if (what_is(descriptor)) {
		pthread_mutex_lock(&lock);
		open_files[descriptor].what = NOT_OURS;
		pthread_mutex_unlock(&lock);
	}
	return NEXT(close)(descriptor);
}

/* --- What is done to it */

static int goes_wrong(const char *what) { /* the errno of the fault that is due; -1: the process must die; 0: none */
	if (!fault_at)
		return 0;
	if (full && strcmp(what, "sync"))
		return ENOSPC;
	if (strcmp(what, fault_what) || ++counted != fault_at)
		return 0;
	note('X', 0, fault_at, fault_how, strlen(fault_how));
	if (!strcmp(fault_how, "kill"))
		return -1;
	full = !strcmp(fault_how, "enospc");
	return full ? ENOSPC : EIO;
}

static void die(void) {
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static ssize_t wrote(int descriptor, const void *data, size_t bytes, off64_t at) {
	char what = what_is(descriptor);
	if (what == MARKS) {
		note('M', 0, 0, data, bytes);
		return (ssize_t)bytes;
	}
	int was_full = full, wrong = goes_wrong("write");
	ssize_t done = 0;
	if (!wrong)
		done = NEXT(pwrite64)(descriptor, data, bytes, at);
	else if (wrong != EIO && !was_full && bytes > 1)
		done = NEXT(pwrite64)(descriptor, data, bytes / 2, at);
	if (done > 0 && what == DISK)
		note('W', open_files[descriptor].handle, (uint64_t)at, data, (size_t)done);
	if (wrong < 0)
		die();
	if (wrong && done <= 0) {
		errno = wrong;
		return -1;
	}
	return done;
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off64_t at) {
	if (!what_is(descriptor))
		return NEXT(pwrite64)(descriptor, data, bytes, at);
	pthread_mutex_lock(&lock);
	ssize_t done = wrote(descriptor, data, bytes, at);
	pthread_mutex_unlock(&lock);
	return done;
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
	return what_is(descriptor) ? pwrite64(descriptor, data, bytes, at) : NEXT(pwrite)(descriptor, data, bytes, at);
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
	if (!what_is(descriptor))
		return NEXT(write)(descriptor, data, bytes);
	pthread_mutex_lock(&lock);
	int appends = fcntl(descriptor, F_GETFL) & O_APPEND;
	off64_t at = lseek64(descriptor, 0, appends ? SEEK_END : SEEK_CUR);
	ssize_t done = wrote(descriptor, data, bytes, at);
	if (done > 0 && what_is(descriptor) != MARKS)
		lseek64(descriptor, at + done, SEEK_SET);
	pthread_mutex_unlock(&lock);
	return done;
}

int ftruncate64(int descriptor, off64_t size) {
	char what = what_is(descriptor);
	if (!what)
		return NEXT(ftruncate64)(descriptor, size);
	pthread_mutex_lock(&lock);
	int wrong = goes_wrong("truncate"), result = -1;
	if (wrong < 0)
		die();
	if (!wrong)
		result = NEXT(ftruncate64)(descriptor, size);
	if (!result && what == DISK)
		note('T', open_files[descriptor].handle, (uint64_t)size, "", 0);
	if (wrong)
		errno = wrong;
	pthread_mutex_unlock(&lock);
	return result;
}

int ftruncate(int descriptor, off_t size) {
	return what_is(descriptor) ? ftruncate64(descriptor, size) : NEXT(ftruncate)(descriptor, size);
}

static int synced(int descriptor, int (*sync)(int)) {
	char what = what_is(descriptor);
	if (!what)
		return sync(descriptor);
	pthread_mutex_lock(&lock);
	int wrong = goes_wrong("sync");
	if (wrong < 0)
		die();
	int result = wrong ? -1 : sync(descriptor);
	if (what == DISK || what == FOLDER)
		note(result ? 'F' : 'S', open_files[descriptor].handle, 0, "", 0);
	if (wrong)
		errno = wrong;
	pthread_mutex_unlock(&lock);
	return result;
}

int fsync(int descriptor) { return synced(descriptor, NEXT(fsync)); }

int fdatasync(int descriptor) { return synced(descriptor, NEXT(fdatasync)); }

int unlink(const char *path) {
	const char *name = inside(path);
	if (!name || kind_of(name) != DISK)
		return NEXT(unlink)(path);
	pthread_mutex_lock(&lock);
	int result = NEXT(unlink)(path);
	if (!result)
		note('U', 0, 0, name, strlen(name));
	pthread_mutex_unlock(&lock);
	return result;
}

int rename(const char *from, const char *to) {
	const char *old = inside(from), *new = inside(to);
	if (!old && !new)
		return NEXT(rename)(from, to);
	if (!old || !new)
		give_up("a file is renamed into the folder, or out of it");
	pthread_mutex_lock(&lock);
	int result = NEXT(rename)(from, to);
	if (!result) {
		char names[8192];
		int bytes = snprintf(names, sizeof names, "%s/%s", old, new);
		note('R', 0, 0, names, (size_t)bytes);
	}
	pthread_mutex_unlock(&lock);
	return result;
}

/* --- What would change a file behind our back */

static void guard(int descriptor, const char *call) {
	if (what_is(descriptor) == DISK)
		give_up(call);
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off64_t at) {
	if ((protection & PROT_WRITE) && (flags & MAP_SHARED))
		guard(descriptor, "a file of the folder is mapped to be written: this shim does not see that");
	return (void *)syscall(SYS_mmap, address, bytes, protection, flags, descriptor, at);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t at) {
	guard(descriptor, "pwritev is not written down");
	return syscall(SYS_pwritev, descriptor, parts, count, at, 0);
}

int posix_fallocate64(int descriptor, off64_t at, off64_t bytes) {
	guard(descriptor, "posix_fallocate is not written down");
	return syscall(SYS_fallocate, descriptor, 0, at, bytes) ? errno : 0;
}
