/* SPDX-License-Identifier: MIT */
/*
 * hazards SCENE [DIRECTORY]: ordinary programs that do what a merger of their memory could trip over. Each
 * tells what it sees as lines "KEY VALUE"; hazards.py starts them under the shim and knows what is right.
 */
#include <stdio.h>
#include <string.h>

#include "area.h"

static const struct scene {
    const char *name;
    void (*play)(void);
    void (*play_in)(const char *directory);
} scenes[] = {
    {"dump", scene_dump, NULL},             /* H8: dumps core with merged memory */
    {"filter", scene_filter, NULL},         /* H19: a filter that kills the worker, behind our back */
    {"holder", scene_holder, NULL},         /* H19: a thread of the program is killed within a call of ours */
    {"refused", scene_refused, NULL},       /* I8: unmappings that fail */
    {"closefrom", scene_closefrom, NULL},   /* H9: closes every descriptor and uses their numbers again */
    {"threads", scene_threads, NULL},       /* H10: must have one thread until it advises memory */
    {"scattered", scene_scattered, NULL},   /* H4, H23: as many mappings as can be, and fork */
    {"grandchild", scene_grandchild, NULL}, /* H6: a family whose oldest member lets go */
    {"clones", scene_clones, NULL},         /* H3: children by raw clone in the middle of batches */
    {"hold", scene_hold, NULL},             /* I7: does what it is told on standard input */
    {"raw_replace", scene_raw_replace, NULL}, /* H1: maps over its memory without the C library */
    {"raw_unmap", scene_raw_unmap, NULL},     /* H1: unmaps it, and maps new memory there */
    {"raw_move", scene_raw_move, NULL},       /* I8: moves mappings of the store elsewhere */
    {"direct", NULL, scene_direct},           /* O_DIRECT into memory that is being merged */
    {"fixed", NULL, scene_fixed},             /* H13: buffers registered with io_uring */
};

int main(int argc, char **argv) {
    for (size_t i = 0; argc > 1 && i < sizeof(scenes) / sizeof(*scenes); i++) {
        const struct scene *s = &scenes[i];
        if (strcmp(s->name, argv[1]) != 0 || (s->play_in && argc < 3))
            continue;
        if (s->play)
            s->play();
        else
            s->play_in(argv[2]);
        return 0;
    }
    fprintf(stderr, "usage: hazards SCENE [DIRECTORY]\n");
    return 2;
}
