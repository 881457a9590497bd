/* SPDX-License-Identifier: MIT */
/* Scenes about the process as a whole: its dump, its filters, descriptors and threads. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "area.h"

/* Tells where merged memory lies and aborts. What was excluded from dumps must stay so (H7). */
void scene_dump(void) {
    struct area shown = area_new(16 * MIB, 1, true), hidden = area_new(4 * MIB, 1000000, true);
    if (madvise(hidden.p, hidden.pages * PAGE, MADV_DONTDUMP))
        give_up("MADV_DONTDUMP");
    area_advise(&shown);
    area_advise(&hidden);
    area_wait_merged(&shown);
    area_wait_merged(&hidden);
    tell("shown", (long)(uintptr_t)shown.p);
    tell("pages", (long)shown.pages);
    tell("hidden", (long)(uintptr_t)hidden.p);
    tell("hidden_pages", (long)hidden.pages);
    abort();
}

/* Whoever maps a file over something dies, that thread alone: the very call that the worker merges with. */
static long bind_all_threads(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return raw_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, (long)&program, 0, 0);
}

void scene_filter(void) {
    struct area a = area_new(16 * MIB, 1, true);
    area_advise(&a);
    area_wait_merged(&a); /* the worker has nothing left to do */
    tell("threads_before", (long)threads_count());
    tell("seccomp", bind_all_threads());
    struct area b = area_new(16 * MIB, 1, true);
    area_advise(&b);
    for (int ms = 0; ms < 60000 && threads_count() > 1; ms++)
        usleep(1000);
    tell("threads_after", (long)threads_count());
    tell("merged_after", (long)area_merged(&b));
    tell("bad", (long)(area_bad(&a) + area_bad(&b)));
    /* Everything goes on working without a worker. */
    for (size_t i = 0; i < a.pages; i += 3)
        area_write(&a, i, 5000000 + i);
    tell("bad_written", (long)area_bad(&a));
    tell("dontneed", madvise(a.p, PAGE, MADV_DONTNEED) || a.p[0] || a.p[PAGE - 1]);
    tell("munmap", munmap(a.p, a.pages * PAGE) || munmap(b.p, b.pages * PAGE));
}

/* Ends in the middle of an unmapping: its own filter kills it, alone, for that call. */
static void *killed_in_munmap(void *p) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    const struct area *a = p;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (raw_call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0, 0) == 0)
        munmap(a->p, a->pages * PAGE);
    return NULL;
}

void scene_holder(void) {
    struct area a = area_new(16 * MIB, 1, true), b = area_new(16 * MIB, 1000000, true);
    pthread_t thread;
    area_advise(&a);
    area_wait_merged(&a);
    size_t before = threads_count();
    if (pthread_create(&thread, NULL, killed_in_munmap, &a))
        give_up("thread");
    /* Not joined: the C library waits for what only a thread that ends by itself does. */
    for (int ms = 0; ms < 60000 && (ms < 100 || threads_count() > before); ms++)
        usleep(1000);
    tell("threads_more", (long)(threads_count() - before));
    area_advise(&b);
    area_wait_merged(&b);
    tell("bad", (long)(area_bad(&a) + area_bad(&b)));
    tell("munmap", munmap(a.p, a.pages * PAGE) || munmap(b.p, b.pages * PAGE));
    int child = fork(), status = -1;
    if (child == 0)
        _exit(0);
    waitpid(child, &status, 0);
    tell("fork", status);
}

/* Takes every mapping that the process may have: pages of one stretch, protected in turns. */
static void mappings_spend(unsigned char *p, size_t pages) {
    for (size_t i = 0; i < pages; i += 2)
        if (raw_call(SYS_mprotect, (long)(p + i * PAGE), PAGE, PROT_READ, 0, 0))
            return;
    give_up("the limit of mappings is above what this scene expects");
}

/* Calls that would unmap merged memory and are refused: nothing has gone, and everything must stay. */
void scene_refused(void) {
    struct area a = area_new(16 * MIB, 1, true);
    size_t bytes = a.pages * PAGE, spare = 300000;
    area_advise(&a);
    area_wait_merged(&a);
    tell("no_file", mmap(a.p, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, -1, 0) == MAP_FAILED);
    unsigned char *p = (unsigned char *)raw_call(SYS_mmap, 0, (long)(spare * PAGE), PROT_NONE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    mappings_spend(p, spare);
    long refused = 0;
    for (size_t i = 1; i < a.pages; i += 64)
        refused += munmap(a.p + i * PAGE, PAGE) != 0;
    raw_call(SYS_munmap, (long)p, (long)(spare * PAGE), 0, 0, 0);
    tell("no_mapping_left", refused);
    sleep(2); /* what was given back would be gone by now */
    tell("bad", (long)area_bad(&a));
}

#define FILES 200

void scene_closefrom(void) {
    struct area a = area_new(16 * MIB, 1, true);
    size_t before = descriptors_count();
    area_advise(&a);
    area_wait_merged(&a);
    tell("appeared", (long)(descriptors_count() - before));
    tell("close_range", syscall(SYS_close_range, 3, ~0U, 0));
    int files[FILES];
    for (int i = 0; i < FILES; i++) {
        files[i] = memfd_create("of the program", 0);
        if (files[i] < 0 || write(files[i], &i, sizeof(i)) != sizeof(i))
            give_up("memfd");
    }
    struct area b = area_new(16 * MIB, 1000000, true);
    area_advise(&b);
    area_wait_merged(&b);
    long wrong = 0;
    for (int i = 0; i < FILES; i++) {
        int read = -1;
        struct stat st;
        wrong += pread(files[i], &read, sizeof(read), 0) != sizeof(read) || read != i ||
                 fstat(files[i], &st) || st.st_size != sizeof(i);
    }
    tell("files_wrong", wrong);
    tell("bad", (long)(area_bad(&a) + area_bad(&b)));
}

/* Long enough for a thread to be started by mistake. */
static long threads_soon(void) {
    usleep(300000);
    return (long)threads_count();
}

/* The kernel asks for a single thread where it asks so for CLONE_NEWUSER, and this changes nothing. The
 * latter is refused to everybody in a chroot, and on some machines. */
static long unshare_thread(void) {
    return unshare(CLONE_THREAD) ? -errno : 0;
}

void scene_threads(void) {
    struct area large = area_new(32 * MIB, 1, true), little = area_new(512 * 1024, 1000000, true);
    tell("unadvised", threads_soon());
    area_advise(&little);
    tell("little", threads_soon());
    tell("unshare", unshare_thread());
    area_advise(&large);
    area_wait_merged(&large);
    tell("much", (long)threads_count());
    tell("unshare_late", unshare_thread());
    tell("after", (long)threads_count());
    tell("bad", (long)(area_bad(&large) + area_bad(&little)));
}
