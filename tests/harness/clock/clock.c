// The system's clock, shifted by CLOCK_SHIFT_SECONDS, in a process with this library in LD_PRELOAD.
// Clocks that rise since the start of the machine are as they were. Linux only.

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec* now) {
  const long failed = syscall(SYS_clock_gettime, id, now);
  if (failed) return (int)failed;
  const char* shift = getenv("CLOCK_SHIFT_SECONDS");
  if (shift && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += atoll(shift);
  return 0;
}

time_t time(time_t* seconds) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (seconds) *seconds = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval* time, void* zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}
