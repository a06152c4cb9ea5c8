// Counts the calls by which a process changes files below one folder, and at the n-th of them kills
// the process or lets the call fail. Loaded by LD_PRELOAD, armed by `faults_arm`; injector.py builds
// it and documents the actions.
//
// glibc's own calls (the write inside fflush) cannot be interposed, so the functions of stdio that
// TensorFlow writes event files with are counted themselves.

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace {

enum class Does { kPass, kFail, kHalf };

char root[PATH_MAX];
size_t root_length = 0;  // 0: not armed
int log_file = -1;
long at = 0;
enum { kCount, kKill, kTear, kFail, kFull } action;
int error_number = 0;
std::atomic<long> count{0};
std::atomic<bool> is_full{false};

void die() { syscall(SYS_kill, syscall(SYS_getpid), SIGKILL); }

Does meet(const char* call, const char* path) {
  if (root_length == 0 || strncmp(path, root, root_length) != 0 || path[root_length] != '/') {
    return Does::kPass;
  }
  const long number = ++count;
  char line[PATH_MAX + 64];
  const int size = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + root_length + 1);
  syscall(SYS_write, log_file, line, std::min<size_t>(size, sizeof line - 1));
  const bool is_write = strstr(call, "write") != nullptr;
  // What a full disk refuses: a file that is there can still be opened, renamed and removed.
  const bool takes_room = is_write || strstr("create mkdir fsync fflush fclose", call) != nullptr;
  if (is_full && takes_room) {
    errno = error_number;
    return Does::kFail;
  }
  if (number != at) return Does::kPass;
  errno = error_number;
  switch (action) {
    case kCount:
      return Does::kPass;
    case kFail:
      return Does::kFail;
    case kFull:
      is_full = true;
      return is_write ? Does::kHalf : Does::kFail;
    case kTear:
      if (is_write) return Does::kHalf;
      break;
    case kKill:
      break;
  }
  die();
  return Does::kPass;
}

Does meet(const char* call, int folder, const char* path) {
  char joined[2 * PATH_MAX], parent[PATH_MAX], whole[2 * PATH_MAX];
  if (root_length == 0) return Does::kPass;
  if (path[0] == '/') {
    snprintf(joined, sizeof joined, "%s", path);
  } else if (folder == AT_FDCWD) {
    snprintf(joined, sizeof joined, "./%s", path);
  } else {
    snprintf(joined, sizeof joined, "/proc/self/fd/%d/%s", folder, path);
  }
  char* slash = strrchr(joined, '/');
  *slash = '\0';
  if (realpath(slash == joined ? "/" : joined, parent) == nullptr) return Does::kPass;
  snprintf(whole, sizeof whole, "%s/%s", parent, slash + 1);
  return meet(call, whole);
}

Does meet(const char* call, int file) {
  if (root_length == 0) return Does::kPass;
  const int before = errno;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  errno = before;
  path[std::max<ssize_t>(size, 0)] = '\0';
  return meet(call, path);
}

Does meet(const char* call, FILE* stream) {
  if (root_length == 0 || stream == nullptr || !__fwritable(stream)) return Does::kPass;
  return meet(call, fileno(stream));
}

template <typename Function>
Function* next(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}
#define NEXT(name)                               \
  ([] {                                          \
    static auto* const found = next(name, #name); \
    return found;                                \
  }())

// What a half write leaves: half of the bytes, then the end of the process, or a short count.
template <typename Write>
ssize_t written(const char* call, int file, size_t size, Write write) {
  const Does does = meet(call, file);
  if (does == Does::kFail || (does == Does::kHalf && size < 2)) return -1;
  const ssize_t done = write(does == Does::kHalf ? size / 2 : size);
  if (does == Does::kHalf && action == kTear) die();
  return done;
}

mode_t mode_of(int flags, va_list rest) {
  const bool takes_mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
  return takes_mode ? va_arg(rest, mode_t) : 0;
}

}  // namespace

extern "C" {

void faults_arm(const char* folder, const char* log, const char* what, long number, int error) {
  const char* const names[] = {"count", "kill", "tear", "fail", "full"};
  for (int i = 0; i < 5; ++i) {
    if (strcmp(what, names[i]) == 0) action = static_cast<decltype(action)>(i);
  }
  if (realpath(folder, root) == nullptr) abort();
  log_file = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  at = number;
  error_number = error;
  root_length = strlen(root);
}

// On 64-bit Linux the functions with 64 in their names are the others.
#define SAME(name) __attribute__((alias(name)))

int openat(int folder, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  const bool changes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
  const char* const call = flags & O_CREAT ? "create" : "open";
  if (changes && meet(call, folder, path) != Does::kPass) return -1;
  return NEXT(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) SAME("openat");

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return openat(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) SAME("open");

FILE* fopen(const char* path, const char* mode) {
  const char* const call = mode[0] != 'r' ? "create" : "open";
  const bool changes = mode[0] != 'r' || strchr(mode, '+');
  if (changes && meet(call, AT_FDCWD, path) != Does::kPass) return nullptr;
  return NEXT(fopen)(path, mode);
}
FILE* fopen64(const char* path, const char* mode) SAME("fopen");

ssize_t write(int file, const void* bytes, size_t size) {
  return written("write", file, size, [&](size_t part) { return NEXT(write)(file, bytes, part); });
}

ssize_t pwrite(int file, const void* bytes, size_t size, off_t offset) {
  return written("pwrite", file, size,
                 [&](size_t part) { return NEXT(pwrite)(file, bytes, part, offset); });
}
ssize_t pwrite64(int file, const void* bytes, size_t size, off64_t offset) SAME("pwrite");

size_t fwrite(const void* bytes, size_t size, size_t number, FILE* stream) {
  const Does does = meet("fwrite", stream);
  if (does == Does::kPass) return NEXT(fwrite)(bytes, size, number, stream);
  if (does == Does::kFail) return 0;
  const size_t done = NEXT(fwrite)(bytes, 1, size * number / 2, stream);
  NEXT(fflush)(stream);
  if (action == kTear) die();
  errno = error_number;
  return done / size;
}

int fflush(FILE* stream) {
  return meet("fflush", stream) == Does::kPass ? NEXT(fflush)(stream) : EOF;
}

int fclose(FILE* stream) {
  if (meet("fclose", stream) == Does::kPass) return NEXT(fclose)(stream);
  __fpurge(stream);
  NEXT(fclose)(stream);
  errno = error_number;
  return EOF;
}

#define CHANGE(name, call, types, values, ...)                    \
  int name types __VA_ARGS__ {                                    \
    return meet call == Does::kPass ? NEXT(name) values : -1;     \
  }
CHANGE(fsync, ("fsync", file), (int file), (file))
CHANGE(fdatasync, ("fsync", file), (int file), (file))
CHANGE(ftruncate, ("truncate", file), (int file, off_t size), (file, size), noexcept)
int ftruncate64(int file, off64_t size) noexcept SAME("ftruncate");
CHANGE(renameat2, ("rename", in, to),
       (int out, const char* from, int in, const char* to, unsigned flags),
       (out, from, in, to, flags), noexcept)
int renameat(int out, const char* from, int in, const char* to) noexcept {
  return renameat2(out, from, in, to, 0);
}
int rename(const char* from, const char* to) noexcept {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}
CHANGE(unlinkat, (flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path),
       (int folder, const char* path, int flags), (folder, path, flags), noexcept)
int unlink(const char* path) noexcept { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char* path) noexcept { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
CHANGE(mkdirat, ("mkdir", folder, path), (int folder, const char* path, mode_t mode),
       (folder, path, mode), noexcept)
int mkdir(const char* path, mode_t mode) noexcept { return mkdirat(AT_FDCWD, path, mode); }

}  // extern "C"
