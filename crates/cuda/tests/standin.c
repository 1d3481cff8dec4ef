/* Stands in for NVIDIA's libraries: compiled by tests/load.rs and scripts/check_cuda_binary.sh, with its behaviour as
 * macros. DRIVER makes it libcuda; REST is a list of F(name) for whatever else a library is to have. */

#ifndef VERSION
#define VERSION 13000
#endif
#ifndef INIT
#define INIT 0
#endif
#ifndef DEVICES
#define DEVICES 2
#endif

#ifdef DRIVER
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return flags == 0 ? INIT : 1; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
int cuGetErrorName(int number, const char **name) {
  *name = number == 100 ? "CUDA_ERROR_NO_DEVICE" : number == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : 0;
  return *name ? 0 : 1;
}
#endif

/* So that a library can need another. */
#ifdef NEEDS
int NEEDS(void);
int needs(void) { return NEEDS(); }
#endif

#define F(name) int name(void) { return 0; }
#ifdef REST
REST
#endif
