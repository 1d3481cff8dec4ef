// Stands in for libcuda, cuBLAS, cuRAND and NVRTC: counts what candle calls, keeps memory and copies it, and computes
// nothing. What is called does not depend on what is computed, so the counts are those of a device. At exit they are
// written to the file COUNT_OUT, one a line. See count.sh.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

static std::mutex guard;
static std::map<std::string, long>* counts;
static void count(const char* what) {
  std::lock_guard<std::mutex> lock(guard);
  if (!counts) counts = new std::map<std::string, long>;
  ++(*counts)[what];
}
struct AtExit {
  ~AtExit() {
    const char* out = std::getenv("COUNT_OUT");
    FILE* f = out ? std::fopen(out, "w") : stderr;
    if (counts) for (auto& [k, v] : *counts) std::fprintf(f, "%s %ld\n", k.c_str(), v);
    if (out) std::fclose(f);
  }
} at_exit;
#define C count(__func__)
// What handles point to.
static int dummy[8];
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* v) { return *v = 13000, 0; }
int cuGetErrorName(int, const char** t) { return *t = "ERR", 0; }
int cuGetErrorString(int, const char** t) { return *t = "fake", 0; }
int cuDeviceGet(int* d, int o) { return *d = o, 0; }
int cuDeviceGetCount(int* c) { return *c = 1, 0; }
int cuDeviceGetName(char* n, int s, int) { return std::snprintf(n, s, "fake"), 0; }
int cuDeviceGetUuid_v2(void* u, int) { return std::memset(u, 7, 16), 0; }
int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? 9 : a == 76 ? 0 : a == 1 ? 1024 : a == 10 ? 32 : 1; return 0; }
int cuDeviceTotalMem_v2(size_t* b, int) { return *b = 80ull << 30, 0; }
int cuDevicePrimaryCtxRetain(void** c, int) { return *c = dummy, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuDeviceGetDefaultMemPool(void** p, int) { return *p = dummy + 1, 0; }
int cuDeviceGetMemPool(void** p, int) { return *p = dummy + 1, 0; }
int cuMemPoolSetAttribute(void*, int, void*) { C; return 0; }
int cuMemPoolGetAttribute(void*, int, void* v) { return *(uint64_t*)v = 0, 0; }
int cuMemPoolTrimTo(void*, size_t) { return 0; }
int cuCtxSetCurrent(void*) { C; return 0; }
int cuCtxGetCurrent(void** c) { C; return *c = dummy, 0; }
int cuCtxSynchronize() { C; return 0; }
int cuCtxDestroy_v2(void*) { return 0; }
int cuStreamCreate(void** s, unsigned) { return *s = dummy + 2, 0; }
int cuStreamCreateWithPriority(void** s, unsigned, int) { return *s = dummy + 2, 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { C; return 0; }
int cuStreamQuery(void*) { return 0; }
int cuStreamIsCapturing(void*, int* s) { C; return *s = 0, 0; }
int cuStreamWaitEvent(void*, void*, unsigned) { C; return 0; }
int cuEventCreate(void** e, unsigned) { C; return *e = dummy + 3, 0; }
int cuEventDestroy_v2(void*) { C; return 0; }
int cuEventRecord(void*, void*) { C; return 0; }
int cuEventRecordWithFlags(void*, void*, unsigned) { C; return 0; }
int cuEventSynchronize(void*) { C; return 0; }
int cuEventQuery(void*) { return 0; }
int cuEventElapsedTime_v2(float* ms, void*, void*) { return *ms = 1, 0; }
int cuMemAllocAsync(uint64_t* p, size_t n, void*) { C; return *p = (uint64_t)std::calloc(1, n + 16), 0; }
int cuMemFreeAsync(uint64_t p, void*) { C; return std::free((void*)p), 0; }
int cuMemAlloc_v2(uint64_t* p, size_t n) { C; return *p = (uint64_t)std::calloc(1, n + 16), 0; }
int cuMemFree_v2(uint64_t p) { C; return std::free((void*)p), 0; }
int cuMemAllocHost_v2(void** p, size_t n) { return *p = std::malloc(n), 0; }
int cuMemHostAlloc(void** p, size_t n, unsigned) { return *p = std::malloc(n), 0; }
int cuMemFreeHost(void* p) { return std::free(p), 0; }
int cuMemGetInfo_v2(size_t* f, size_t* t) { return *f = *t = 80ull << 30, 0; }
int cuMemcpyHtoDAsync_v2(uint64_t d, const void* s, size_t n, void*) { C; if (n <= 512) count("of_at_most_512_bytes"); return std::memcpy((void*)d, s, n), 0; }
int cuMemcpyHtoD_v2(uint64_t d, const void* s, size_t n) { C; return std::memcpy((void*)d, s, n), 0; }
int cuMemcpyDtoHAsync_v2(void* d, uint64_t s, size_t n, void*) { C; return std::memcpy(d, (void*)s, n), 0; }
int cuMemcpyDtoH_v2(void* d, uint64_t s, size_t n) { C; return std::memcpy(d, (void*)s, n), 0; }
int cuMemcpyDtoDAsync_v2(uint64_t d, uint64_t s, size_t n, void*) { C; return std::memmove((void*)d, (void*)s, n), 0; }
int cuMemcpyDtoD_v2(uint64_t d, uint64_t s, size_t n) { C; return std::memmove((void*)d, (void*)s, n), 0; }
int cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void*) { C; return std::memset((void*)d, v, n), 0; }
int cuMemsetD32Async(uint64_t, unsigned, size_t, void*) { C; return 0; }
int cuMemsetD8_v2(uint64_t d, unsigned char v, size_t n) { return std::memset((void*)d, v, n), 0; }
int cuModuleLoadData(void** m, const void*) { C; return *m = dummy + 4, 0; }
int cuModuleLoadDataEx(void** m, const void*, unsigned, void*, void*) { C; return *m = dummy + 4, 0; }
int cuModuleLoad(void** m, const char*) { C; return *m = dummy + 4, 0; }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** f, void*, const char*) { C; return *f = dummy + 7, 0; }
int cuFuncGetAttribute(int* v, int, void*) { return *v = 1024, 0; }
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuFuncSetCacheConfig(void*, int) { return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int, size_t) { return *n = 1, 0; }
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) { C; return 0; }
int cuLaunchKernelEx(const void*, void*, void**, void**) { count("cuLaunchKernel"); return 0; }
int cublasCreate_v2(void** h) { return *h = dummy + 5, 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void*, void*) { return 0; }
int cublasDgemmStridedBatched() { C; return 0; }
int cublasGemmStridedBatchedEx() { C; return 0; }
int curandCreateGenerator(void** g, int) { return *g = dummy + 6, 0; }
int curandDestroyGenerator(void*) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
int curandSetStream(void*, void*) { return 0; }
int curandGenerateNormal() { C; return 0; }
int curandGenerateNormalDouble() { C; return 0; }
#define NOTHING(name) int name() { C; return 1; }
NOTHING(cuGraphDestroy) NOTHING(cuGraphExecDestroy) NOTHING(cuGraphGetNodes) NOTHING(cuGraphInstantiateWithFlags) NOTHING(cuGraphLaunch) NOTHING(cuGraphUpload) NOTHING(cuLaunchHostFunc) NOTHING(cuMemcpyPeerAsync) NOTHING(cuModuleGetGlobal_v2) NOTHING(cuStreamBeginCapture_v2) NOTHING(cuStreamEndCapture)
NOTHING(nvrtcCompileProgram) NOTHING(nvrtcCreateProgram) NOTHING(nvrtcDestroyProgram) NOTHING(nvrtcGetCUBIN) NOTHING(nvrtcGetCUBINSize) NOTHING(nvrtcGetPTX) NOTHING(nvrtcGetPTXSize) NOTHING(nvrtcGetProgramLog) NOTHING(nvrtcGetProgramLogSize)
}
