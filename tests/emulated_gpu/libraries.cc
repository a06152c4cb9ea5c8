// What XLA calls of cuBLAS (plain loops), of cuDNN (its version) and of NCCL (devices of one process, which
// meet on their streams' threads); and NVRTC, whose machine code is PTX.
#include <library_types.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "device.h"

namespace {

double loaded(const void* address, cudaDataType type, int64_t i) {
  switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(address)[i];
    case CUDA_R_16F: return from_f16(static_cast<const uint16_t*>(address)[i]);
    case CUDA_R_16BF: return from_bf16(static_cast<const uint16_t*>(address)[i]);
    default: emulated::fail("cuBLAS or NCCL is given type " + std::to_string(type));
  }
}

void store(void* address, cudaDataType type, int64_t i, double value) {
  switch (type) {
    case CUDA_R_32F: static_cast<float*>(address)[i] = static_cast<float>(value); return;
    case CUDA_R_16F: static_cast<uint16_t*>(address)[i] = to_f16(static_cast<float>(value)); return;
    case CUDA_R_16BF: static_cast<uint16_t*>(address)[i] = to_bf16(static_cast<float>(value)); return;
    default: emulated::fail("cuBLAS or NCCL is given type " + std::to_string(type));
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

}  // namespace

// A handle holds its stream.
SUCCEEDS(cublasCreate_v2, (CUstream** handle), *handle = new CUstream{})
SUCCEEDS(cublasSetStream_v2, (CUstream* handle, CUstream stream), *handle = stream)
// Sums in double precision.
API int cublasGemmStridedBatchedEx(
    CUstream* handle, int transpose_a, int transpose_b, int m, int n, int k,
    const float* alpha, const void* a, cudaDataType a_type, int lda, long long stride_a, const void* b,
    cudaDataType b_type, int ldb, long long stride_b, const float* beta, void* c, cudaDataType c_type, int ldc,
    long long stride_c, int count, int compute, int) {
  constexpr int kCompute16 = 64;  // of cublasComputeType_t
  if (compute == kCompute16) emulated::fail("cuBLAS computes in 16 bits");
  const Matrix left = {a, a_type, lda, stride_a, transpose_a != 0};
  const Matrix right = {b, b_type, ldb, stride_b, transpose_b != 0};
  const Matrix before = {c, c_type, ldc, stride_c, false};
  emulated::enqueue(*handle, [=, factor = *alpha, kept = *beta] {
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
API int cublasGemmEx(CUstream* handle, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                     const void* a, cudaDataType a_type, int lda, const void* b, cudaDataType b_type, int ldb,
                     const float* beta, void* c, cudaDataType c_type, int ldc, int compute, int) {
  return cublasGemmStridedBatchedEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type,
                                    ldb, 0, beta, c, c_type, ldc, 0, 1, compute, 0);
}
// What TensorFlow's own product calls, outside of XLA.
API int cublasSgemm_v2(CUstream* handle, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                       const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
  constexpr int kCompute32 = 68;
  return cublasGemmEx(handle, transpose_a, transpose_b, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F, ldb, beta,
                      c, CUDA_R_32F, ldc, kCompute32, 0);
}
// As the product of a row, the vector, and the matrix.
API int cublasSgemv_v2(CUstream* handle, int transpose, int m, int n, const float* alpha, const float* a, int lda,
                       const float* x, int step_x, const float* beta, float* y, int step_y) {
  return cublasSgemm_v2(handle, 0, !transpose, 1, transpose ? n : m, transpose ? m : n, alpha, x, step_x, a, lda,
                        beta, y, step_y);
}

API size_t cudnnGetVersion() { return 91000; }
SUCCEEDS(cudnnGetProperty, (int which, int* value), *value = which == 0 ? 9 : which == 1 ? 10 : 0)

namespace {

constexpr int kSum = 0, kFloat32 = 7;  // of ncclRedOp_t and ncclDataType_t

struct Call {
  const float* given;
  float* taken;
  size_t count;
};
// What the GPUs of a group share, and each of them has for its communicator.
struct Group {
  const size_t size;
  std::mutex mutex;
  std::condition_variable changed;
  bool is_aborted = false;
  uint64_t num_sums = 0;
  std::vector<Call> calls;
};

void sum_up(const std::vector<Call>& calls) {
  std::vector<double> total(calls[0].count);
  for (const Call& call : calls) {
    if (call.count != total.size()) emulated::fail("GPUs sum different tensors");
    for (size_t i = 0; i < total.size(); ++i) total[i] += call.given[i];
  }
  for (const Call& call : calls) std::copy(total.begin(), total.end(), call.taken);
}

void meet(Group& group, const Call& call) {
  std::unique_lock<std::mutex> lock(group.mutex);
  if (group.is_aborted) return;
  const uint64_t before = group.num_sums;
  group.calls.push_back(call);
  if (group.calls.size() == group.size) {
    sum_up(group.calls);
    group.calls.clear();
    ++group.num_sums;
    group.changed.notify_all();
  }
  group.changed.wait(lock, [&] { return group.num_sums != before || group.is_aborted; });
}

}  // namespace

SUCCEEDS(ncclGetUniqueId, (void* id), std::memset(id, 0, 128))
SUCCEEDS(ncclCommInitAll, (Group** made, int size, const int*),
         std::fill_n(made, size, new Group{static_cast<size_t>(size)}))
API int ncclCommAbort(Group* group) {
  const std::lock_guard<std::mutex> lock(group->mutex);
  group->is_aborted = true;
  group->changed.notify_all();
  return 0;
}
API int ncclAllReduce(const float* given, float* taken, size_t count, int type, int operation, Group* group,
                      CUstream stream) {
  if (operation != kSum || type != kFloat32) emulated::fail("NCCL reduces by another operation or type");
  emulated::enqueue(stream, [=] {
    emulated::note("run all-reduce of " + std::to_string(count));
    meet(*group, {given, taken, count});
  });
  return 0;
}

// All else is the real one's, which this library is linked with.
API int nvrtcGetPTXSize(void* program, size_t* size);
API int nvrtcGetPTX(void* program, char* text);
API int nvrtcGetCUBINSize(void* program, size_t* size) { return nvrtcGetPTXSize(program, size); }
API int nvrtcGetCUBIN(void* program, char* text) { return nvrtcGetPTX(program, text); }
