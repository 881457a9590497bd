/* SPDX-License-Identifier: MIT */
/*
 * The names by which programs come to /dev/ksm (device.h), and those by which descriptors go.
 *
 * They are among the hottest of the C library, and nearly nobody means that device. So a path is looked at
 * only when the call has found that there is nothing, which also leaves bad pointers to the kernel; a
 * descriptor only when the request has the driver's letter (network block devices have the same); and what is
 * closed only when areas have regions.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/types.h>

#include "preload/device.h"
#include "preload/names.h"
#include "preload/shim.h"
#include "samepage/ksm_2008.h"

static int finish(long r) {
    if (r >= 0)
        return (int)r;
    errno = (int)-r;
    return -1;
}

/* ---- open ---- */

/* Errors of a place where there is nothing, or a node that nobody serves. O_PATH asks for a node. */
static bool is_device(const char *path, int flags) {
    return shim.engine && (errno == ENOENT || errno == ENXIO || errno == ENODEV) && !(flags & O_PATH) &&
           !strcmp(path, "/dev/ksm");
}

#define PATH const char *path, int flags
/* Name, parameters, arguments. The mode is there only with O_CREAT or O_TMPFILE; otherwise the register holds
 * anything, and nobody looks at it. The names with a 2 are for _FORTIFY_SOURCE. */
#define OPEN(X)                                                                                              \
    X(open, (PATH, mode_t mode), (path, flags, mode))                                                        \
    X(open64, (PATH, mode_t mode), (path, flags, mode))                                                      \
    X(openat, (int at, PATH, mode_t mode), (at, path, flags, mode))                                          \
    X(openat64, (int at, PATH, mode_t mode), (at, path, flags, mode))                                        \
    X(__open_2, (PATH), (path, flags))                                                                       \
    X(__open64_2, (PATH), (path, flags))                                                                     \
    X(__openat_2, (int at, PATH), (at, path, flags))                                                         \
    X(__openat64_2, (int at, PATH), (at, path, flags))

#define DEFINE_OPEN(name, parameters, arguments)                                                             \
    SHIM_NEXT(int, name, -1, parameters, arguments)                                                          \
    int names_##name parameters SHIM_NAME(#name);                                                            \
    int names_##name parameters {                                                                            \
        int fd = next_##name arguments;                                                                      \
        return fd < 0 && is_device(path, flags) ? finish(device_open(flags)) : fd;                           \
    }
OPEN(DEFINE_OPEN)

/* ---- ioctl ---- */

SHIM_NEXT(int, ioctl, -1, (int fd, unsigned long request, void *argument), (fd, request, argument))

int names_ioctl(int fd, unsigned long request, void *argument) SHIM_NAME("ioctl");
int names_ioctl(int fd, unsigned long request, void *argument) {
    long r;
    if (_IOC_TYPE(request) == KSMIO && device_ioctl(fd, (unsigned)request, argument, &r))
        return finish(r);
    return next_ioctl(fd, request, argument);
}

/* ---- close ---- */

SHIM_NEXT(int, close, -1, (int fd), (fd))

/* Whether a descriptor of an area is about to go. */
static bool goes(int fd) {
    return areas_any() && device_area(fd);
}

int names_close(int fd) SHIM_NAME("close");
int names_close(int fd) {
    bool last = goes(fd);
    int r = next_close(fd);
    if (last)
        areas_sweep();
    return r;
}

/* Those that close what they put another descriptor in the place of. */
#define REPLACE(X)                                                                                           \
    X(dup2, (int old, int fd), (old, fd))                                                                    \
    X(dup3, (int old, int fd, int flags), (old, fd, flags))

#define DEFINE_REPLACE(name, parameters, arguments)                                                          \
    SHIM_NEXT(int, name, -1, parameters, arguments)                                                          \
    int names_##name parameters SHIM_NAME(#name);                                                            \
    int names_##name parameters {                                                                            \
        bool last = goes(fd);                                                                                \
        int r = next_##name arguments;                                                                       \
        if (last)                                                                                            \
            areas_sweep();                                                                                   \
        return r;                                                                                            \
    }
REPLACE(DEFINE_REPLACE)

SHIM_NEXT(int, close_range, -1, (unsigned first, unsigned last, int flags), (first, last, flags))

int names_close_range(unsigned first, unsigned last, int flags) SHIM_NAME("close_range");
int names_close_range(unsigned first, unsigned last, int flags) {
    int r = next_close_range(first, last, flags);
    areas_sweep();
    return r;
}

SHIM_NEXT(void, closefrom, , (int first), (first))

void names_closefrom(int first) SHIM_NAME("closefrom");
void names_closefrom(int first) {
    next_closefrom(first);
    areas_sweep();
}

#define FIND(name, parameters, arguments) SHIM_FIND(name, NULL);
void device_init(void) {
    OPEN(FIND)
    REPLACE(FIND)
    SHIM_FIND(close_range, NULL);
    SHIM_FIND(ioctl, NULL);
    SHIM_FIND(close, NULL);
    SHIM_FIND(closefrom, NULL);
}
