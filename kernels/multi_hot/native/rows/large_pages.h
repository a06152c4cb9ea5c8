// Large pages for tables whose rows are read in any order: with 4 KB pages nearly every row costs a
// walk through the page tables, which takes longer than the row.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace multi_hot {

// Asks the system to hold this memory in pages of 2 MB, once for each piece of memory. A hint: where
// the system has none left or does not know them, the pages stay small.
inline void use_large_pages(void* memory, int64_t num_bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPageBytes = uintptr_t{1} << 21;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which headers before Linux 6.1 lack
  constexpr size_t kMostPieces = 1024;
  if (num_bytes < static_cast<int64_t>(4 * kPageBytes)) return;
  static std::mutex mutex;
  static std::map<void*, int64_t> asked;
  const std::lock_guard<std::mutex> lock(mutex);
  if (asked.size() > kMostPieces) asked.clear();
  int64_t& before = asked[memory];
  if (before == num_bytes) return;
  before = num_bytes;
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (start + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t end = (start + static_cast<uintptr_t>(num_bytes)) / kPageBytes * kPageBytes;
  void* const first = reinterpret_cast<void*>(begin);
  if (madvise(first, end - begin, MADV_HUGEPAGE) == 0) {  // for pages that are not there yet
    madvise(first, end - begin, kCollapse);               // for those that are, now
  }
#else
  (void)memory, (void)num_bytes;
#endif
}

}  // namespace multi_hot
