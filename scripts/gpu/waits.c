/* Counts the calls of the CUDA runtime that make the host wait, for a program that is started with it:
 *
 *   cc -shared -fPIC -O1 -o waits.so scripts/gpu/waits.c -ldl
 *   LD_PRELOAD=./waits.so WAITS_FILE=waits.txt ddpm train … --device cuda
 *
 * At the end WAITS_FILE holds one number. libtorch copies to and from pageable memory by an asynchronous copy and a
 * wait for its stream, so that is one call here; so is reading a value of a tensor. Waits within cuDNN, which has a
 * CUDA runtime of its own, are not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static long waits;

/* libtorch loads the runtime itself, so it is not among the libraries that RTLD_NEXT looks through. */
static void *real(const char *name) {
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
        void *symbol = library ? dlsym(library, name) : NULL;
        if (symbol)
            return symbol;
    }
    fprintf(stderr, "waits.c: no %s in a CUDA runtime that is loaded\n", name);
    abort();
}

#define WAIT(name, parameters, arguments)                      \
    int name parameters {                                      \
        static int(*function) parameters;                      \
        if (!function)                                         \
            function = (int(*) parameters)real(#name);         \
        __atomic_add_fetch(&waits, 1, __ATOMIC_RELAXED);       \
        return function arguments;                             \
    }

WAIT(cudaStreamSynchronize, (void *stream), (stream))
WAIT(cudaEventSynchronize, (void *event), (event))
WAIT(cudaDeviceSynchronize, (void), ())
WAIT(cudaMemcpy, (void *to, const void *from, size_t bytes, int kind), (to, from, bytes, kind))

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("WAITS_FILE");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", waits);
        fclose(file);
    }
}
