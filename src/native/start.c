/* What the program fixes before its libraries start: how its memory allocator works, and two checks.
 *
 * libtorch's own start ends the process where the current folder is gone ("oneMKL FATAL ERROR: Cannot load …") or the
 * limit on address space is too low ("std::bad_alloc", "libgomp: Thread creation failed"), before main. An executable's
 * .preinit_array runs before all that. It is linked into the program alone, not into the library. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* What libtorch maps at its start and a small run takes, and a thread with what malloc sets aside for it. */
#define LEAST_BYTES (192ull << 20)
#define THREAD_BYTES (16ull << 20)

static void fail(const char *text) {
    /* stdio is not set up for sure. */
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
    _exit(1);
}

static void check_folder(void) {
    char path[8192];
    if (getcwd(path, sizeof path) == NULL && errno == ENOENT)
        fail("error: the current folder has been removed; go to one that exists (if it was made again: cd \"$PWD\")\n");
}

/* Bytes that are mapped. */
static unsigned long long mapped_bytes(void) {
    unsigned long long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm != NULL) {
        if (fscanf(statm, "%llu", &pages) != 1) pages = 0;
        fclose(statm);
    }
    return pages * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static void check_address_space(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned long long threads = processors > 0 ? (unsigned long long)processors : 1;
    unsigned long long least = mapped_bytes() + LEAST_BYTES + threads * THREAD_BYTES;
    if (limit.rlim_cur >= least) return;
    char text[256];
    snprintf(text, sizeof text,
             "error: the limit on address space (ulimit -v) is %llu KiB, and libtorch with %llu threads needs %llu at "
             "least; lift it: ulimit -v unlimited\n",
             (unsigned long long)limit.rlim_cur >> 10, threads, least >> 10);
    fail(text);
}

static void check(void) {
    check_folder();
    check_address_space();
}

/* Read by jemalloc, which the program is linked to (Cargo.toml). A training step takes and frees the same blocks as the
 * one before it: freed memory is kept for the next (-1: without end), large blocks too (oversize_threshold), which by
 * default go back to the system at once. One arena, so that a block that one thread frees serves the others. */
const char *malloc_conf = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0,narenas:1";

__attribute__((section(".preinit_array"), used)) static void (*const start)(void) = check;
