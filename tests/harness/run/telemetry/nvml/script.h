// The script that the library answers from; library.py documents its grammar. It is read again
// whenever the file is replaced, so that a test decides when something happens.

#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

struct Answer {
  int error = 0;
  std::string text;
  double number() const { return std::strtod(text.c_str(), nullptr); }
};

namespace script {

inline std::mutex mutex;
inline std::map<std::string, std::string> lines;  // key to value
inline std::map<std::string, unsigned> calls;     // how often each key was asked for
inline struct stat read_state;

inline bool present() { return std::getenv("FAKE_NVML_SCRIPT") != nullptr; }

inline std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// Call with the mutex held.
inline void refresh() {
  const char* path = std::getenv("FAKE_NVML_SCRIPT");
  struct stat state;
  if (!path || stat(path, &state)) return;
  if (state.st_ino == read_state.st_ino && state.st_mtim.tv_nsec == read_state.st_mtim.tv_nsec &&
      state.st_mtim.tv_sec == read_state.st_mtim.tv_sec)
    return;
  read_state = state;
  lines.clear();
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t equals = line.find('=');
    if (line.empty() || line[0] == '#' || equals == std::string::npos) continue;
    lines[trimmed(line.substr(0, equals))] = trimmed(line.substr(equals + 1));
  }
}

inline double monotonic_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

inline bool has(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex);
  refresh();
  return lines.count(key) != 0;
}

inline Answer evaluate(const std::string& value) {
  std::istringstream words(value);
  std::string word;
  words >> word;
  Answer answer;
  if (word == "square") {
    double low, high, period;
    words >> low >> high >> period;
    answer.text = std::to_string(std::fmod(monotonic_seconds(), period) < period / 2 ? high : low);
  } else if (word == "error") {
    words >> answer.error;
  } else if (word == "hang") {
    for (;;) pause();
  } else {
    answer.text = value;
  }
  return answer;
}

// False where the script has no such key. Hangs and waits outside the lock.
inline bool answer(const std::string& key, Answer* result) {
  std::string value;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    refresh();
    const auto found = lines.find(key);
    if (found == lines.end()) return false;
    value = found->second;
    const size_t until = value.find(" until ");
    if (until != std::string::npos) {
      char* rest;
      const unsigned long last = std::strtoul(value.c_str() + until + 7, &rest, 10);
      value = ++calls[key] <= last ? value.substr(0, until) : trimmed(rest);
    }
  }
  *result = evaluate(value);
  return true;
}

// One line for each call, `THREAD CLOCK_MONOTONIC FUNCTION SUBJECT`, where FAKE_NVML_LOG names a file.
inline void log(const char* function, const std::string& subject) {
  const char* path = std::getenv("FAKE_NVML_LOG");
  if (!path) return;
  const int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
  if (file < 0) return;
  const std::string line = std::to_string(syscall(SYS_gettid)) + " " + std::to_string(monotonic_seconds()) + " " + function + " " + subject + "\n";
  if (write(file, line.data(), line.size()) < 0) abort();
  close(file);
}

}  // namespace script
