/* SPDX-License-Identifier: MIT */
/*
 * What the tests of os/ share: pages with known content, userfaultfds, and children.
 */
#ifndef SP_TEST_OS_H
#define SP_TEST_OS_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../child.h"
#include "core/types.h"
#include "os/kernel.h"
#include "os/mapping.h"
#include "os/pagemap.h"
#include "os/syscall.h"
#include "os/uffd.h"

#define PAGE     SP_PAGE_SIZE
#define AT(p, i) ((uintptr_t)(p) + (size_t)(i)*PAGE)
#define NOBODY   65534

/* A sanitizer's runtime shares the address space with the test. It also turns mlock(2) into nothing, so
 * tests lock by raw system calls. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(thread_sanitizer) || __has_feature(address_sanitizer))
#else
#define SANITIZED 0
#endif

/* Leaves a test that this machine cannot run. Not cmocka's skip(): meson counts its "not ok # SKIP" as a
 * failure. */
#define NOT_HERE(...)                                                                                        \
    do {                                                                                                     \
        print_message("# skipped: " __VA_ARGS__);                                                            \
        print_message("\n");                                                                                 \
        return;                                                                                              \
    } while (0)

static inline int lock_pages(const void *p, size_t n) {
    return (int)sp_syscall(SYS_mlock, p, n * PAGE);
}

static inline void must(int r, const char *what) {
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-r));
        exit(99);
    }
}

static inline char *pages_new(size_t n) {
    void *p;
    must(sp_map_new(n * PAGE, PAGE, &p), "map");
    /* One page-table entry each, whatever the machine's setting for huge pages is. */
    must(sp_advise((uintptr_t)p, n * PAGE, MADV_NOHUGEPAGE), "nohugepage");
    return p;
}

static inline void pages_free(void *p, size_t n) {
    must(sp_unmap(p, n * PAGE), "unmap");
}

/* Page i of content `seed`: no two pages alike, no page of zeros. */
static inline void page_fill(void *page, unsigned seed, size_t i) {
    uint32_t *w = page;
    for (size_t k = 0; k < PAGE / 4; k++)
        w[k] = (uint32_t)(seed * 2654435761u + i * 40503u + k) | 1u;
}

static inline void pages_fill(void *p, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++)
        page_fill((char *)p + i * PAGE, seed, i);
}

static inline bool page_is(const void *page, unsigned seed, size_t i) {
    char want[SP_PAGE_SIZE] __attribute__((aligned(8)));
    page_fill(want, seed, i);
    return memcmp(page, want, PAGE) == 0;
}

static inline bool page_is_zero(const void *page) {
    const char *b = page;
    return b[0] == 0 && memcmp(b, b + 1, PAGE - 1) == 0;
}

/* A userfaultfd with what the worker needs, and `more`. */
static inline int uffd_new(uint64_t more) {
    int fd;
    must(sp_uffd_new(-1, &fd), "userfaultfd");
    must(sp_uffd_enable(fd, SP_UFFD_NEEDED | more), "UFFDIO_API");
    return fd;
}

/* Ends the program as skipped when the machine cannot do what `uffd_new` asks for. */
static inline void require_uffd(void) {
    uint64_t features;
    int r = sp_uffd_features(-1, &features);
    if (r < 0) {
        printf("1..0 # SKIP userfaultfd: %s\n", strerror(-r));
        exit(77);
    }
    if ((features & SP_UFFD_NEEDED) != SP_UFFD_NEEDED) {
        printf("1..0 # SKIP this kernel's userfaultfd lacks MOVE, WP_ASYNC or WP_UNPOPULATED\n");
        exit(77);
    }
}

static inline int become_nobody(void) {
    if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
        return -errno;
    return 0;
}

/* A child that lives until it is told to end. */
struct idler {
    pid_t pid;
    int pipe;
};

static inline void idler_start(struct idler *c) {
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        must(-errno, "pipe");
    c->pid = fork();
    if (c->pid == 0) {
        char byte;
        close(p[1]);
        _exit(read(p[0], &byte, 1) != 0);
    }
    close(p[0]);
    c->pipe = p[1];
}

static inline void idler_end(struct idler *c) {
    close(c->pipe);
    waitpid(c->pid, NULL, 0);
}

#endif
