/* A machine with one GPU, as far as c10d's backend for NCCL looks at it until it is connected: stand-ins for those
 * functions of CUDA's runtime, of NVIDIA's driver and of NCCL that it calls until then. To be preloaded, and by the
 * name of the driver's library too. With NCCL_FAILS, ranks cannot reach each other. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaGetDevice(int *device) { return *device = 0, 0; }
int cudaSetDevice(int device) { return device != 0; }
int cudaGetLastError(void) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, 0; }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return *stream = &cudaSetDevice, 0; }

int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *handle, int index) { return *handle = index, index == 0 ? 0 : 101; }
int cuDeviceGetName(char *name, int capacity, int handle) { return snprintf(name, capacity, "Stand-in GPU"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int handle) { return *value = attribute == 75 ? 9 : 0, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = 0, *active = 1, 0; }

struct ncclUniqueId {
    char bytes[128];
};

/* The first members of ncclConfig_t, which no version moves. */
struct ncclConfig {
    size_t size;
    unsigned magic, version;
    int blocking;
};

int ncclGetVersion(int *version) { return *version = 22809, 0; }
int ncclGetUniqueId(struct ncclUniqueId *id) { return memset(id, 7, sizeof *id), 0; }
const char *ncclGetErrorString(int status) { return "unhandled system error"; }
const char *ncclGetLastError(void *communicator) { return "no interface for the network"; }
int ncclCommGetAsyncError(void *communicator, int *status) { return *status = 0, 0; }

int ncclCommInitRankConfig(void **communicator, int size, struct ncclUniqueId id, int rank, struct ncclConfig *config) {
    printf("NCCL connects rank %d of %d: magic %x, blocking %d, id %d\n", rank, size, config->magic, config->blocking,
           id.bytes[127]);
    *communicator = &ncclCommInitRankConfig;
    return getenv("NCCL_FAILS") ? 2 : 0;
}

int ncclCommAbort(void *communicator) { return puts("NCCL aborts"), 0; }
int ncclCommFinalize(void *communicator) { return puts("NCCL finalizes"), 0; }
int ncclCommDestroy(void *communicator) { return puts("NCCL destroys"), 0; }
