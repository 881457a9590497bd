/* SPDX-License-Identifier: MIT */
/*
 * A program as it was written for the first KSM driver: it registers its memory with /dev/ksm, and sets the
 * thread going. It knows nothing of samepage but the header.
 *
 *     cc ksm_2008.c $(pkg-config --cflags samepage) && samepage run ./a.out
 */
#include <samepage/ksm_2008.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE        ((size_t)4096)
#define COPIES      4
#define COPY_BYTES  ((size_t)4 << 20)
#define BYTES       (COPIES * COPY_BYTES)
#define TRIES       600
#define PAUSE_MICRO 100000

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* What this process has for itself alone, in KiB. */
static long private_kbytes(void) {
    char line[256];
    long kbytes = 0, n;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Private_Dirty: %ld", &n) == 1)
            kbytes = n;
    if (f)
        fclose(f);
    return kbytes;
}

int main(void) {
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    for (size_t i = 0; i < BYTES; i += PAGE)
        snprintf(memory + i, PAGE, "page %zu", i % COPY_BYTES);

    int device = open("/dev/ksm", O_RDWR | O_TRUNC, (mode_t)0600);
    if (device < 0)
        fail("/dev/ksm");
    printf("version %d\n", ioctl(device, KSM_GET_API_VERSION));

    struct ksm_kthread_info info = {
        .sleep = 2000, .pages_to_scan = 1000, .max_pages_to_merge = 1000, .flags = ksm_control_flags_run};
    if (ioctl(device, KSM_START_STOP_KTHREAD, &info))
        fail("KSM_START_STOP_KTHREAD");

    int area = ioctl(device, KSM_CREATE_SHARED_MEMORY_AREA);
    if (area < 0)
        fail("KSM_CREATE_SHARED_MEMORY_AREA");
    struct ksm_memory_region region = {.npages = BYTES / PAGE, .addr = (__u64)(unsigned long)memory};
    long before = private_kbytes(), now = before;
    if (ioctl(area, KSM_REGISTER_MEMORY_REGION, &region))
        fail("KSM_REGISTER_MEMORY_REGION");
    for (int i = 0; i < TRIES && before - now < (long)(BYTES - COPY_BYTES) / 1024; i++) {
        usleep(PAUSE_MICRO);
        now = private_kbytes();
    }
    printf("%ld KiB private, %ld before\n", now, before);

    if (ioctl(area, KSM_REMOVE_MEMORY_REGION))
        fail("KSM_REMOVE_MEMORY_REGION");
    long after = private_kbytes();
    printf("%ld KiB private when it is removed\n", after);
    int intact = 1;
    for (size_t i = 0; i < COPIES; i++)
        intact = intact && !memcmp(memory, memory + i * COPY_BYTES, COPY_BYTES);
    puts(intact ? "memory intact" : "memory damaged");
    close(area);
    close(device);
    return intact && before - now >= (long)(BYTES - COPY_BYTES) / 1024 &&
                   after - now >= (long)BYTES / 1024 / 2
               ? 0
               : 1;
}
