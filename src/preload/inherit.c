/* SPDX-License-Identifier: MIT */
/*
 * PR_SET_MEMORY_MERGE outlives exec. What a process has set is in its environment, which is also how the shim
 * itself gets into the programs that are executed: SAMEPAGE_MERGE_ANY=0, put there by `samepage run`, whose
 * one digit is changed where it stands, without a lock or an allocation, as prctl must. An environment that
 * has lost it, or of which the program has made a copy before, passes nothing on.
 *
 * A process may also have been started by somebody whose prctl went to the kernel (a service manager): the
 * kernel still knows it then.
 */
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "os/kernel.h"
#include "preload/shim.h"

static const char variable[] = "SAMEPAGE_MERGE_ANY=";

/* Its digit, or NULL. */
static char *digit(char **environment) {
    const size_t n = sizeof(variable) - 1;
    for (; environment && *environment; environment++)
        if (!strncmp(*environment, variable, n))
            return (*environment)[n] && !(*environment)[n + 1] ? *environment + n : NULL;
    return NULL;
}

bool inherit_read(char **environment) {
    const char *at = digit(environment);
    return (at && *at == '1') || sp_syscall(SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1;
}

void inherit_write(bool merge_any) {
    char *at = digit(environ), value = merge_any ? '1' : '0';
    if (at && *at != value)
        *at = value;
}
