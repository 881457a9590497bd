/* SPDX-License-Identifier: MIT */
/*
 * Waking the worker by a blocked signal and a signalfd; see the header for why.
 */
#include "os/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "os/fault.h"
#include "os/kernel.h"
#include "os/syscall.h"

/* Urgent data on a socket: ignored by default, so that even a stray one harms nobody. */
#define WAKE_SIGNAL SIGURG

int sp_wake_open(int *ret_fd, int *ret_tid) {
    int fault = sp_fault("wake_open");
    if (fault)
        return fault;
    uint64_t mask = UINT64_C(1) << (WAKE_SIGNAL - 1);
    long fd = sp_syscall6(SYS_signalfd4, -1, (long)&mask, sizeof(mask), SFD_NONBLOCK | SFD_CLOEXEC, 0, 0);
    if (fd < 0)
        return (int)fd;
    *ret_fd = (int)fd;
    *ret_tid = (int)sp_syscall6(SYS_gettid, 0, 0, 0, 0, 0, 0);
    return 0;
}

/*
 * A signal of this kind that was sent to the process, and that no thread took at once because all block it,
 * is read here too: it goes on to the main thread. As one that was queued (sigqueue(3)) by who sent it: a
 * thread cannot send another what looks like kill(2)'s, rt_tgsigqueueinfo(2) refuses its codes.
 */
static void pass_on(const struct signalfd_siginfo *from) {
    long pid = sp_syscall(SYS_getpid);
    if (from->ssi_code == SI_TKILL && from->ssi_pid == (uint32_t)pid)
        return;
    siginfo_t info = {.si_signo = WAKE_SIGNAL, .si_errno = from->ssi_errno, .si_code = SI_QUEUE};
    info.si_pid = (pid_t)from->ssi_pid;
    info.si_uid = from->ssi_uid;
    info.si_value.sival_ptr = (void *)(uintptr_t)from->ssi_ptr;
    sp_syscall(SYS_rt_tgsigqueueinfo, pid, pid, WAKE_SIGNAL, &info);
}

void sp_wake_clear(int fd) {
    struct signalfd_siginfo info;
    while (sp_syscall6(SYS_read, fd, (long)&info, sizeof(info), 0, 0, 0) == (long)sizeof(info))
        pass_on(&info);
}

void sp_wake(int tid) {
    if (tid > 0)
        sp_syscall6(SYS_tgkill, sp_syscall6(SYS_getpid, 0, 0, 0, 0, 0, 0), tid, WAKE_SIGNAL, 0, 0, 0);
}

bool sp_wake_alive(int tid) {
    return sp_syscall6(SYS_tkill, tid, 0, 0, 0, 0, 0) != -ESRCH;
}
