/* SPDX-License-Identifier: MIT */
/* `samepage`: everything it does is in the library, which tests link too. */
#include "cli/cli.h"

int main(int argc, char **argv) {
    return sp_cli_main(argc, argv);
}
