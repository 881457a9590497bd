/* SPDX-License-Identifier: MIT */
/* samepaged: options, then the server. */
#include <stdio.h>

#include "daemon/server.h"

int main(int argc, char **argv) {
    struct options o;
    switch (options_parse(&o, argc, argv)) {
    case OPTIONS_DONE:
        if (!fflush(stdout))
            return 0;
        perror("samepaged: cannot write to standard output");
        return 1;
    case OPTIONS_BAD:
        return 2;
    case OPTIONS_RUN:
        break;
    }
    return server_run(&o);
}
