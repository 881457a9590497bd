/* SPDX-License-Identifier: MIT */
/* samepaged: options, then the server. */
#include "daemon/server.h"

int main(int argc, char **argv) {
    struct options o;
    switch (options_parse(&o, argc, argv)) {
    case OPTIONS_DONE:
        return 0;
    case OPTIONS_BAD:
        return 2;
    case OPTIONS_RUN:
        break;
    }
    return server_run(&o);
}
