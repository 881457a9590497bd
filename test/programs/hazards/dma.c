/* SPDX-License-Identifier: MIT */
/*
 * Scenes about memory that devices and the kernel write past the page tables. Pages pinned for that must not
 * be exchanged for others meanwhile, or what is written into them is lost (H13).
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#include "area.h"

#define BLOCK_PAGES 16
#define FILE_PAGES  ((size_t)1024)
#define FILE_FIRST  7000000 /* page i of the file holds this + i % 256 */

static uint64_t file_number(size_t page) {
    return FILE_FIRST + page % 256;
}

/* A file of known pages, opened for direct access. */
static int file_open(const char *directory) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/direct-XXXXXX", directory);
    int fd = mkstemp(path);
    struct area content = area_new(FILE_PAGES * PAGE, 1, false);
    for (size_t i = 0; i < FILE_PAGES; i++)
        area_write(&content, i, file_number(i));
    if (fd < 0 || write(fd, content.p, FILE_PAGES * PAGE) != (ssize_t)(FILE_PAGES * PAGE) || fsync(fd))
        give_up("file");
    close(fd);
    fd = open(path, O_RDWR | O_DIRECT);
    unlink(path);
    if (fd < 0)
        give_up("O_DIRECT");
    return fd;
}

static void block_now_holds(struct area *a, size_t page, size_t from) {
    for (size_t i = 0; i < BLOCK_PAGES; i++)
        a->number[page + i] = file_number(from + i);
}

/* Direct reads into memory, everywhere and all the time, while what was read before is merged; then direct
 * writes out of it. */
void scene_direct(const char *directory) {
    struct area a = area_new(32 * MIB, 1, true);
    int fd = file_open(directory);
    long failed = 0, wrong = 0;
    size_t most = 0;
    area_advise(&a);
    srandom(1);
    for (int i = 0; i < 6000; i++) {
        size_t page = (size_t)random() % (a.pages / BLOCK_PAGES) * BLOCK_PAGES;
        size_t from = (size_t)random() % (FILE_PAGES / BLOCK_PAGES) * BLOCK_PAGES;
        ssize_t n = BLOCK_PAGES * PAGE;
        failed += pread(fd, a.p + page * PAGE, (size_t)n, (off_t)(from * PAGE)) != n;
        block_now_holds(&a, page, from);
        if (i % 100 == 0) {
            size_t now = area_merged(&a);
            most = now > most ? now : most;
            wrong += area_bad(&a) != 0;
        }
    }
    /* Not all of it is merged now: a page whose twins were written after they were merged has none left. */
    tell("failed", failed);
    tell("merged_meanwhile", (long)most);
    tell("wrong_looks", wrong);
    tell("bad", (long)area_bad(&a));
    ssize_t n = (ssize_t)(FILE_PAGES * PAGE);
    tell("write", pwrite(fd, a.p, (size_t)n, 0) != n);
    struct area back = area_new((size_t)n, 1, false);
    tell("read", pread(fd, back.p, (size_t)n, 0) != n);
    for (size_t i = 0; i < back.pages; i++)
        back.number[i] = a.number[i];
    tell("bad_written", (long)area_bad(&back));
}

#ifdef HAVE_LIBURING

static struct io_uring ring;

/* Reads the file over all of the area through the registered buffer. */
static void fixed_read(struct area *a, int fd, size_t shift) {
    for (size_t page = 0; page < a->pages; page += BLOCK_PAGES) {
        size_t from = (page + shift * BLOCK_PAGES) % FILE_PAGES;
        struct io_uring_sqe *e = io_uring_get_sqe(&ring);
        struct io_uring_cqe *c;
        io_uring_prep_read_fixed(e, fd, a->p + page * PAGE, BLOCK_PAGES * PAGE, from * PAGE, 0);
        if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &c) || c->res != BLOCK_PAGES * PAGE)
            give_up("read_fixed");
        io_uring_cqe_seen(&ring, c);
        block_now_holds(a, page, from);
    }
}

static void buffer_register(const struct area *a) {
    struct iovec v = {a->p, a->pages * PAGE};
    if (io_uring_register_buffers(&ring, &v, 1))
        give_up("register_buffers");
}

void scene_fixed(const char *directory) {
    int fd = file_open(directory);
    if (io_uring_queue_init(8, &ring, 0))
        give_up("io_uring");

    /* Registered first: its twin is merged, it is not, and what the kernel reads into it is seen. */
    struct area pinned = area_new(4 * MIB, 1, false), twin = area_new(4 * MIB, 1, false);
    buffer_register(&pinned);
    area_advise(&pinned);
    area_advise(&twin);
    /* Pages of ours that have a twin besides the pinned one show that the worker has been here. */
    struct area witness = area_new(4 * MIB, 1, false);
    area_advise(&witness);
    area_wait_merged(&witness);
    area_wait_merged(&twin);
    usleep(300000);
    tell("pinned_merged", (long)area_merged(&pinned));
    fixed_read(&pinned, fd, 0);
    tell("bad_pinned", (long)area_bad(&pinned));
    io_uring_unregister_buffers(&ring);

    /* Merged first: registering it makes it the program's own again. */
    struct area merged = area_new(4 * MIB, 1000000, true);
    area_advise(&merged);
    area_wait_merged(&merged);
    buffer_register(&merged);
    for (size_t round = 0; round < 20; round++) {
        fixed_read(&merged, fd, round);
        usleep(20000); /* it settles, and would be merged */
        tell("bad_merged", (long)area_bad(&merged));
    }
    io_uring_unregister_buffers(&ring);
    tell("bad", (long)(area_bad(&pinned) + area_bad(&twin) + area_bad(&witness) + area_bad(&merged)));
    io_uring_queue_exit(&ring);
}

#else

void scene_fixed(const char *directory) {
    (void)directory;
    tell("no_liburing", 1);
}

#endif
