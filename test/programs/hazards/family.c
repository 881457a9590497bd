/* SPDX-License-Identifier: MIT */
/* Scenes about children, and about mappings, which children copy. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "area.h"

static void line_wait(void) {
    char line[16];
    if (!fgets(line, sizeof(line), stdin))
        exit(3);
}

/* Ends a child that has no C library of its own. */
static void raw_end(size_t bad) {
    raw_call(SYS_exit_group, bad != 0, 0, 0, 0, 0);
}

/*
 * The parent lets go of everything; then its child makes a child by raw clone, and ends. The last one looks
 * at the memory when it is told to.
 */
void scene_grandchild(void) {
    struct area a = area_new(16 * MIB, 1, true);
    int made[2], go[2], result[2];
    char byte = 0;
    area_advise(&a);
    area_wait_merged(&a);
    if (pipe(made) || pipe(go) || pipe(result))
        give_up("pipe");
    int child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        if (read(made[0], &byte, 1) != 1)
            _exit(3);
        int last = raw_clone();
        if (last != 0)
            _exit(last < 0);
        raw_call(SYS_read, go[0], (long)&byte, 1, 0, 0);
        long bad = (long)area_bad(&a);
        raw_call(SYS_write, result[1], (long)&bad, sizeof(bad), 0, 0);
        raw_end(0);
    }
    tell("munmap", munmap(a.p, a.pages * PAGE));
    line_wait(); /* until the store knows */
    int status;
    if (write(made[1], "x", 1) != 1 || waitpid(child, &status, 0) != child)
        give_up("child");
    tell("child", status);
    line_wait();
    long bad = -1;
    if (write(go[1], "x", 1) != 1 || read(result[0], &bad, sizeof(bad)) != sizeof(bad))
        give_up("grandchild");
    tell("bad", bad);
    line_wait(); /* the family has one member left, which maps nothing */
}

/* Children at any moment, made so that nobody here knows; between them all memory changes, to be merged anew.
 */
void scene_clones(void) {
    struct area a = area_new(16 * MIB, 1, true);
    long incomplete = 0, merged = 0;
    area_advise(&a);
    area_wait_merged(&a);
    struct area b = area_new(16 * MIB, 1, true);
    for (int i = 0; i < 300; i++) {
        if (i % 10 == 0) { /* fresh memory with the same content: merged memory is not merged again */
            munmap(b.p, b.pages * PAGE);
            free(b.number);
            b = area_new(16 * MIB, 1, true);
            area_advise(&b);
            for (int ms = 0; ms < 60000 && !area_merged(&b); ms++)
                usleep(1000);
        }
        int child = raw_clone();
        if (child == 0)
            raw_end(area_bad(&a) + area_bad(&b));
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child)
            give_up("raw clone");
        incomplete += status != 0;
        merged += area_merged(&b) > 0;
    }
    tell("merged_rounds", merged);
    tell("incomplete", incomplete);
    tell("bad", (long)(area_bad(&a) + area_bad(&b)));
}

/* Every second page has a twin, and no two neighbours' twins are neighbours: each merge costs mappings. */
void scene_scattered(void) {
    struct area a = area_new(64 * MIB, 1000000, false);
    for (size_t i = 0; i < a.pages; i += 2)
        area_write(&a, i, (i / 2 * 7919) % (a.pages / 4));
    area_advise(&a);
    /* It goes on until the budget is spent; two equal looks a second apart say that it is. */
    size_t merged = 0;
    for (int s = 0; s < 60; s++) {
        size_t now = area_merged(&a);
        if (now && now == merged)
            break;
        merged = now;
        sleep(1);
    }
    tell("scattered_merged", (long)merged);
    tell("scattered_mappings", (long)mappings_count());
    int child = fork(), status = -1;
    if (child == 0)
        _exit(area_bad(&a) != 0);
    waitpid(child, &status, 0);
    tell("child", status);
    tell("bad", (long)area_bad(&a));
    munmap(a.p, a.pages * PAGE);

    /* What is alike in long stretches costs next to none. */
    size_t before = mappings_count();
    struct area b = area_new(64 * MIB, 5000000, true);
    area_advise(&b);
    area_wait_merged(&b);
    tell("long_windows", (long)(b.pages / 512));
    tell("long_mappings", (long)mappings_count() - (long)before);
    tell("bad_long", (long)area_bad(&b));
}
