// What XLA calls of cuBLAS (plain loops), of cuDNN (its version) and of NCCL (devices of one process, which
// meet on their streams' threads).
#include <library_types.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.h"

namespace {

double loaded(const void* address, cudaDataType type, int64_t i) {
  switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(address)[i];
    case CUDA_R_64F: return static_cast<const double*>(address)[i];
    case CUDA_R_16F: return static_cast<float>(static_cast<const _Float16*>(address)[i]);
    case CUDA_R_16BF: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(address)[i]) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    default: emulated::fail("cuBLAS or NCCL is given the type %d", type);
  }
}

void store(void* address, cudaDataType type, int64_t i, double value) {
  switch (type) {
    case CUDA_R_32F: static_cast<float*>(address)[i] = static_cast<float>(value); return;
    case CUDA_R_64F: static_cast<double*>(address)[i] = value; return;
    case CUDA_R_16F: static_cast<_Float16*>(address)[i] = static_cast<_Float16>(static_cast<float>(value)); return;
    case CUDA_R_16BF: {
      const float narrow = static_cast<float>(value);
      uint32_t bits;
      std::memcpy(&bits, &narrow, 4);
      const bool is_nan = narrow != narrow;
      static_cast<uint16_t*>(address)[i] = is_nan ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
      return;
    }
    default: emulated::fail("cuBLAS or NCCL is given the type %d", type);
  }
}

struct Matrix {
  const void* address;
  cudaDataType type;
  int64_t leading, stride;
  bool is_transposed;
  double at(int64_t row, int64_t column, int64_t batch) const {
    const int64_t place = is_transposed ? row * leading + column : column * leading + row;
    return loaded(address, type, batch * stride + place);
  }
};

struct Handle {
  CUstream stream = nullptr;
  int math = 0;
};

constexpr int kCompute16 = 64, kCompute64 = 70;  // of cublasComputeType_t
double scalar(const void* address, int type) {
  return loaded(address, type == kCompute64 ? CUDA_R_64F : type == kCompute16 ? CUDA_R_16F : CUDA_R_32F, 0);
}

}  // namespace

SUCCEEDS(cublasCreate_v2, (Handle** handle), *handle = new Handle)
API const char* cublasGetStatusString(int) { return "an error of the emulated cuBLAS"; }
SUCCEEDS(cublasSetStream_v2, (Handle* handle, CUstream stream), handle->stream = stream)
SUCCEEDS(cublasGetStream_v2, (Handle* handle, CUstream* stream), *stream = handle->stream)
SUCCEEDS(cublasSetMathMode, (Handle* handle, int mode), handle->math = mode)
SUCCEEDS(cublasGetMathMode, (Handle* handle, int* mode), *mode = handle->math)
// Sums in double precision.
API int cublasGemmStridedBatchedEx(
    Handle* handle, int transpose_a, int transpose_b, int m, int n, int k,
    const void* alpha, const void* a, cudaDataType a_type, int lda, long long stride_a, const void* b,
    cudaDataType b_type, int ldb, long long stride_b, const void* beta, void* c, cudaDataType c_type, int ldc,
    long long stride_c, int count, int compute, int) {
  const Matrix left = {a, a_type, lda, stride_a, transpose_a != 0};
  const Matrix right = {b, b_type, ldb, stride_b, transpose_b != 0};
  const Matrix before = {c, c_type, ldc, stride_c, false};
  const double factor = scalar(alpha, compute), kept = scalar(beta, compute);
  emulated::enqueue(handle->stream, [=] {
    emulated::note("run gemm");
    for (int64_t batch = 0; batch < count; ++batch) {
      for (int64_t column = 0; column < n; ++column) {
        for (int64_t row = 0; row < m; ++row) {
          double sum = 0;
          for (int64_t i = 0; i < k; ++i) sum += left.at(row, i, batch) * right.at(i, column, batch);
          sum *= factor;
          if (kept != 0) sum += kept * before.at(row, column, batch);
          store(c, c_type, batch * stride_c + column * ldc + row, sum);
        }
      }
    }
  });
  return 0;
}
API int cublasGemmEx(Handle* handle, int transpose_a, int transpose_b,
                                int m, int n, int k, const void* alpha, const void* a, cudaDataType a_type, int lda,
                                const void* b, cudaDataType b_type, int ldb, const void* beta, void* c,
                                cudaDataType c_type, int ldc, int compute, int) {
  return cublasGemmStridedBatchedEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type,
                                    ldb, 0, beta, c, c_type, ldc, 0, 1, compute, 0);
}
// What TensorFlow's own product calls, outside of XLA.
API int cublasSgemm_v2(Handle* handle, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                       const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
  constexpr int kCompute32 = 68;
  return cublasGemmEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb, beta,
                      c, CUDA_R_32F, ldc, kCompute32, 0);
}
// As the product of a row, the vector, and the matrix.
API int cublasSgemv_v2(Handle* handle, int transpose, int m, int n, const float* alpha, const float* a, int lda,
                       const float* x, int step_x, const float* beta, float* y, int step_y) {
  return cublasSgemm_v2(handle, 0, !transpose, 1, transpose ? n : m, transpose ? m : n, alpha, x, step_x, a, lda,
                        beta, y, step_y);
}

API size_t cudnnGetVersion() { return 91000; }
SUCCEEDS(cudnnGetProperty, (int which, int* value), *value = which == 0 ? 9 : which == 1 ? 10 : 0)

namespace {

constexpr int kSum = 0;
const std::map<int, std::pair<cudaDataType, size_t>> kNcclTypes = {
    {6, {CUDA_R_16F, 2}}, {7, {CUDA_R_32F, 4}}, {8, {CUDA_R_64F, 8}}, {9, {CUDA_R_16BF, 2}}};

struct Call {
  const void* given;
  void* taken;
  size_t count;
  int type;
};
// The ranks that were made with one id.
struct World {
  std::mutex mutex;
  std::condition_variable changed;
  int size = 0, arrived = 0;
  bool is_aborted = false;
  uint64_t turn = 0;
  std::vector<Call> calls;
};
struct Communicator {
  World* world;
  int rank;
};

void sum_up(const std::vector<Call>& calls) {
  const auto [type, bytes] = kNcclTypes.at(calls[0].type);
  std::vector<char> total(calls[0].count * bytes);
  for (size_t i = 0; i < calls[0].count; ++i) {
    double sum = 0;
    for (const Call& call : calls) sum += loaded(call.given, type, i);
    store(total.data(), type, i, sum);
  }
  for (const Call& call : calls) std::memcpy(call.taken, total.data(), total.size());
}

void meet(World& world, int rank, const Call& call) {
  std::unique_lock<std::mutex> lock(world.mutex);
  if (world.is_aborted) return;
  const uint64_t turn = world.turn;
  world.calls[rank] = call;
  if (++world.arrived < world.size) {
    return world.changed.wait(lock, [&] { return world.turn != turn || world.is_aborted; });
  }
  for (const Call& other : world.calls) {
    if (other.count != call.count || other.type != call.type) emulated::fail("ranks sum different tensors");
  }
  sum_up(world.calls);
  world.arrived = 0;
  ++world.turn;
  world.changed.notify_all();
}

}  // namespace

struct NcclId {
  char bytes[128];
};
SUCCEEDS(ncclGetVersion, (int* version), *version = 22700)
API const char* ncclGetErrorString(int) { return "an error of the emulated NCCL"; }
API int ncclGetUniqueId(NcclId* id) {
  static std::atomic<uint64_t> count{0};
  *id = {};
  std::snprintf(id->bytes, sizeof id->bytes, "%lu", ++count);
  return 0;
}
API int ncclCommInitRankConfig(Communicator** made, int size, NcclId id, int rank, void*) {
  static std::mutex mutex;
  static auto* worlds = new std::map<std::string, World>;
  const std::lock_guard<std::mutex> lock(mutex);
  World& world = (*worlds)[id.bytes];
  world.size = size;
  world.calls.resize(size);
  *made = new Communicator{&world, rank};
  return 0;
}
API int ncclCommInitRank(Communicator** made, int size, NcclId id, int rank) {
  return ncclCommInitRankConfig(made, size, id, rank, nullptr);
}
API int ncclCommInitAll(Communicator** made, int size, const int*) {
  NcclId id;
  ncclGetUniqueId(&id);
  for (int rank = 0; rank < size; ++rank) ncclCommInitRank(&made[rank], size, id, rank);
  return 0;
}
SUCCEEDS(ncclCommCount, (Communicator* communicator, int* count), *count = communicator->world->size)
SUCCEEDS(ncclCommGetAsyncError, (Communicator*, int* error), *error = 0)
API int ncclGroupStart() { return 0; }
API int ncclGroupEnd() { return 0; }
API int ncclCommAbort(Communicator* communicator) {
  const std::lock_guard<std::mutex> lock(communicator->world->mutex);
  communicator->world->is_aborted = true;
  communicator->world->changed.notify_all();
  return 0;
}
API int ncclCommDestroy(Communicator*) { return 0; }
API int ncclAllReduce(const void* given, void* taken, size_t count, int type, int operation,
                      Communicator* communicator, CUstream stream) {
  if (operation != kSum || kNcclTypes.count(type) == 0) emulated::fail("all-reduce %d of type %d", operation, type);
  emulated::enqueue(stream, [=] {
    emulated::note("run all-reduce of %zu", count);
    meet(*communicator->world, communicator->rank, {given, taken, count, type});
  });
  return 0;
}
