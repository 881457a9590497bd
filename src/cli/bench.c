/* SPDX-License-Identifier: MIT */
/*
 * `samepage bench`: the benchmark of the source tree, for users on their own machine. It is a python3 program
 * (bench/run.py) beside three small ones that are merged or watch, all in one directory. Words are looked at
 * here only as far as help and misspelt options go; then this process becomes that program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/places.h"
#include "cli/program.h"

static const struct sp_option options[] = {
    {"list", 0, NULL, "tell the workloads, and what is missing for them"},
    {"quick", 0, NULL, "small sizes, once: to see that it works and about how fast"},
    {"repetitions", 0, "N", "of each side (3)"},
    {"mib", 0, "N", "memory of each process of most workloads (256)"},
    {"only", 0, "SIDE", "this side only: samepage, ksm, nobody ...; may be repeated"},
    {"also", 0, "SIDE", "KSM in other settings: ksm-defaults, ksm-advisor; may be repeated"},
    {"limit", 0, "SECONDS", "for those (60)"},
    {"guests", 0, "N", "QEMU guests of 1 GB (52)"},
    {"guest-files", 0, "DIR", "what they boot, as demo/prepare of the source tree makes it"},
    {"set", 0, "KEY=VALUE", "a setting of samepage's, see 'samepage help set'"},
    {"json", 0, "FILE", "write every figure of every repetition to FILE"},
    {"save", 0, "DIR", "keep results.json, tables (RESULTS.md) and charts in DIR"},
    {"no-gate", 0, NULL, "exit with 0 also when a target is missed"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int bench_main(const struct sp_command *command, int argc, char **argv);

const struct sp_command sp_command_bench = {
    .name = "bench",
    .usage = "[OPTION...] [WORKLOAD...]",
    .summary = "measure samepage beside the kernel's KSM",
    .options = options,
    .notes =
        "Without WORKLOAD: all, which takes an hour and a half. Run it on a quiet machine. Root is needed "
        "to\n"
        "change KSM's settings, which are put back when it ends; without it samepage is measured alone.\n"
        "Needs python3. Exit status 0: all was measured and every target met; 1: not so; 2: wrong usage.\n",
    .main = bench_main,
};

/* Only whether all options are known: what follows the first workload is looked at by the program itself. */
static bool words_fine(const struct sp_command *command, int argc, char **argv, int *ret_status) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;)
        if (option == SP_ARGS_DONE) {
            *ret_status = args.status;
            return false;
        }
    return true;
}

/* python3 run.py --bin DIRECTORY WORD... */
static int become(const struct sp_command *command, const char *python, char *script, char *directory,
                  int argc, char **argv) {
    char **words = calloc((size_t)argc + 4, sizeof *words);
    if (!words || setenv("SAMEPAGE_BENCH_NAME", "samepage bench", 1)) {
        free(words);
        sp_complain(command, "not enough memory");
        return SP_EXIT_FAILURE;
    }
    words[0] = (char[]){"python3"};
    words[1] = script;
    words[2] = (char[]){"--bin"};
    words[3] = directory;
    for (int i = 1; i < argc; i++)
        words[3 + i] = argv[i];
    int r = sp_program_exec(python, words);
    free(words);
    sp_complain(command, "cannot run %s: %s", python, strerror(-r));
    return SP_EXIT_FAILURE;
}

static int bench_main(const struct sp_command *command, int argc, char **argv) {
    char python[PATH_MAX], script[PATH_MAX], directory[PATH_MAX];
    int status;
    if (!words_fine(command, argc, argv, &status))
        return status;
    if (sp_place_bench(script)) {
        sp_complain(command, "its programs are not beside this one: install samepage again (make install)");
        return SP_EXIT_FAILURE;
    }
    if (sp_program_find("python3", python)) {
        sp_complain(command,
                    "python3 is needed and not in PATH: install it (Debian: apt-get install python3)");
        return SP_EXIT_FAILURE;
    }
    if (sp_place_daemon(directory)) {
        sp_complain(command, "samepaged is not beside this program: install samepage again (make install)");
        return SP_EXIT_FAILURE;
    }
    *strrchr(directory, '/') = 0;
    return become(command, python, script, directory, argc, argv);
}
