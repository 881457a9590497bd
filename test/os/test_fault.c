/* SPDX-License-Identifier: MIT */
/*
 * Fault injection itself: every wrapper asks under its own name before it does anything, and gives the answer
 * to its caller. Wrappers that are made of others give their answers too.
 */
#include "os_test.h"

#include "os/fault.h"
#include "os/lock.h"
#include "os/memory.h"
#include "os/nodes.h"
#include "os/proc.h"
#include "os/remote.h"
#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"
#include "os/wake.h"

static const char *failing;
static int asked;

static int fail_one(const char *call) {
    if (strcmp(call, failing) != 0)
        return 0;
    asked++;
    return -ENOTNAM;
}

static bool visit_process(void *ctx, int number) {
    return true;
}

static bool visit(void *ctx, const struct sp_mapping *m) {
    return false;
}

static void thread_main(void *arg, int status) {
    *(int *)arg = status;
}

/* What a call would need; none is reached when the wrapper asks first. */
static void *ptr = &ptr;
static int fd = -1;
static size_t size;
static uint64_t word;
static bool flag;
static int tid;
static sp_bits bits;
static struct sp_process process;
static struct sp_range range;
static struct sp_file_mapping file_mapping;
static struct sp_segment segment = {-1, -1};
static struct sp_memory *arena;
static struct sp_nodes_policy policy;
static struct sp_thread thread;
static pid_t pid;
static uid_t uid;
static gid_t gid;
static uint8_t bytes[32];

#define CALLS(X)                                                                                             \
    X("map_new", sp_map_new(PAGE, PAGE, &ptr))                                                               \
    X("map_new", sp_memory_new(false, &arena))                                                               \
    X("advise", sp_memory_new(true, &arena))                                                                 \
    X("map_store", sp_map_store(0, PAGE, -1, 0))                                                             \
    X("peek", sp_peek(&word, 0, 8))                                                                          \
    X("map_view", sp_map_view(0, PAGE, -1, 0))                                                               \
    X("map_from_view", sp_map_from_view(0, 0, 0))                                                            \
    X("map_fresh", sp_map_fresh(0, PAGE, 0))                                                                 \
    X("map_file", sp_map_file(-1, 0, PAGE, false, &ptr))                                                     \
    X("unmap", sp_unmap(NULL, 0))                                                                            \
    X("advise", sp_advise(0, 0, MADV_NORMAL))                                                                \
    X("protect", sp_protect(0, 0, 0))                                                                        \
    X("remap", sp_remap(0, 0, 0))                                                                            \
    X("maps_open", sp_maps_open(&fd))                                                                        \
    X("maps_file", sp_maps_file(-1, 0, &file_mapping))                                                       \
    X("uffd_new", sp_uffd_new(-1, &fd))                                                                      \
    X("uffd_new", sp_uffd_features(-1, &word))                                                               \
    X("uffd_enable", sp_uffd_enable(-1, 0))                                                                  \
    X("uffd_register", sp_uffd_register(-1, 0, 0, 0))                                                        \
    X("uffd_unregister", sp_uffd_unregister(-1, 0, 0))                                                       \
    X("uffd_move", sp_uffd_move(-1, -1, 0, 0, 0, &size))                                                     \
    X("uffd_copy", sp_uffd_copy(-1, 0, NULL, PAGE))                                                          \
    X("uffd_wake", sp_uffd_wake(-1, 0, 0))                                                                   \
    X("uffd_protect", sp_uffd_protect(-1, 0, 0, true))                                                       \
    X("uffd_read", sp_uffd_read(-1, &fd))                                                                    \
    X("pagemap_open", sp_pagemap_open(&fd))                                                                  \
    X("pagemap_scan", sp_pagemap_scan(-1, SP_PAGEMAP_PEEK, 0, PAGE, &range, 1, &size, &word))                \
    X("pagemap_window", sp_pagemap_window(-1, SP_PAGEMAP_WATCHED, 0, 0, 1, &bits))                           \
    X("pagemap_unwatched", sp_pagemap_unwatched_window(-1, 0, &bits, &bits))                                 \
    X("pagemap_exclusive", sp_pagemap_exclusive(-1, (sp_page){0}))                                           \
    X("pagemap_exclusive", sp_pagemap_exclusive_window(-1, 0, &bits))                                        \
    X("pagemap_open", sp_pagemap_open_of(1, &fd))                                                            \
    X("pagemap_private", sp_pagemap_private_window(-1, 0, 0, 1, &bits))                                      \
    X("remote_read", sp_remote_read(1, NULL, 0, NULL, &size))                                                \
    X("remote_mappings", sp_remote_mappings(1, visit, NULL))                                                 \
    X("process_read", sp_process_read(1, &process))                                                          \
    X("process_each", sp_process_each(visit_process, NULL))                                                  \
    X("wake_open", sp_wake_open(&fd, &tid))                                                                  \
    X("segment_init", sp_segment_init(&segment))                                                             \
    X("segment_write", sp_segment_write(&segment, 0, bytes))                                                 \
    X("segment_write", sp_segment_write_many(&segment, 0, bytes, 1))                                         \
    X("segment_read", sp_segment_read(&segment, 0, bytes))                                                   \
    X("segment_punch", sp_segment_punch(&segment, 0, 1))                                                     \
    X("segment_huge", sp_segment_huge(&segment, 0))                                                          \
    X("segment_memory", sp_segment_memory(&segment, &word))                                                  \
    X("segment_write", sp_segment_write_on(&segment, 0, bytes, 1, -1))                                       \
    X("nodes_of", sp_nodes_of(NULL, 0, NULL))                                                                \
    X("nodes_prefer", sp_nodes_prefer(0, &policy))                                                           \
    X("token_new", sp_token_new(&fd, &ptr))                                                                  \
    X("token_drop", sp_token_drop(NULL))                                                                     \
    X("token_check", sp_token_check(-1))                                                                     \
    X("token_gone", sp_token_gone(-1))                                                                       \
    X("thread_start", sp_thread_start(&thread, "x", true, thread_main, &asked))                              \
    X("map_new", sp_thread_start(&thread, "x", true, thread_main, &asked))                                   \
    X("protect", sp_thread_start(&thread, "x", true, thread_main, &asked))                                   \
    X("socket_listen", sp_socket_listen("/x", false, &fd))                                                   \
    X("socket_accept", sp_socket_accept(-1, &fd))                                                            \
    X("socket_connect", sp_socket_connect("/x", &fd))                                                        \
    X("socket_peer", sp_socket_peer(-1, &pid, &uid, &gid))                                                   \
    X("socket_send", sp_socket_send(-1, NULL, 0, NULL, 0, false))                                            \
    X("socket_receive", (int)sp_socket_receive(-1, bytes, 1, NULL, NULL, 0))                                 \
    X("wait_readable", sp_wait_readable(NULL, 0, 0))                                                         \
    X("proc_mappings", sp_proc_mappings(0, 1, visit, NULL))                                                  \
    X("proc_map_count", sp_proc_map_count(&word))                                                            \
    X("proc_max_map_count", sp_proc_max_map_count(&word))                                                    \
    X("proc_threads", sp_proc_threads(&word))                                                                \
    X("proc_seccomp", sp_proc_seccomp(&fd))                                                                  \
    X("proc_dump_private_files", sp_proc_dump_private_files())                                               \
    X("proc_memory", sp_proc_memory(&word, &word))                                                           \
    X("proc_kernel", sp_proc_kernel((uint32_t *)(void *)bytes, &flag))                                       \
    X("proc_kernel", sp_proc_move_is_safe(&flag))                                                            \
    X("proc_locked", sp_proc_locked(&flag))                                                                  \
    X("random", sp_random(bytes))

static void every_wrapper_asks(void **state) {
    sp_fault_hook = fail_one;
#define X(name, call)                                                                                        \
    failing = name;                                                                                          \
    asked = 0;                                                                                               \
    assert_int_equal(call, -ENOTNAM);                                                                        \
    assert_int_equal(asked, 1);
    CALLS(X)
#undef X
    sp_fault_hook = NULL;
    /* Results stay untouched. */
    assert_int_equal(fd, -1);
    assert_ptr_equal(ptr, &ptr);
    assert_null(arena);
    assert_null(thread.stack);
    assert_int_equal(segment.fd, -1);
}

static void allocation_fails_when_told(void **state) {
    assert_int_equal(sp_memory_new(false, &arena), 0);
    struct sp_alloc a = sp_memory_alloc(arena);
    sp_fault_hook = fail_one;
    failing = "memory";
    assert_null(sp_alloc_get(&a, 10));
    failing = "map_new";
    assert_null(sp_alloc_get(&a, 1 << 20));
    size_t before = sp_memory_bytes(arena);
    void *last = NULL;
    size_t n = 0;
    for (void *p; (p = sp_alloc_get(&a, 32768)); n++) /* the first chunk ends */
        last = p;
    assert_true(n >= 16 && last);
    assert_int_equal(sp_memory_bytes(arena), before);
    assert_non_null(sp_alloc_get(&a, 16)); /* what is left serves smaller ones */
    sp_fault_hook = NULL;
    assert_non_null(sp_alloc_get(&a, 32768));
    arena = sp_memory_free(arena);
}

static void a_thread_learns_that_it_shares_descriptors(void **state) {
    int status = 1;
    struct sp_thread t;
    sp_fault_hook = fail_one;
    failing = "files_leave";
    assert_int_equal(sp_thread_start(&t, "x", true, thread_main, &status), 0);
    sp_thread_join(&t);
    sp_fault_hook = NULL;
    assert_int_equal(status, -ENOTNAM);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_wrapper_asks),
        cmocka_unit_test(allocation_fails_when_told),
        cmocka_unit_test(a_thread_learns_that_it_shares_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
