/* SPDX-License-Identifier: MIT */
/*
 * Vouching for root's daemon, while the owner of the directory above puts a directory of theirs, with a
 * listener of theirs, in the place of root's, as often as they can.
 */
#include "os_test.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "os/socket.h"
#include "os/vouch.h"

#define USER     4242
#define ATTEMPTS 20000

static char top[64], roots[96], users[96], path[128], other[128];

static int setup(void **state) {
    snprintf(top, sizeof top, "/tmp/samepage-test-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(roots, sizeof roots, "%s/roots", top);
    snprintf(users, sizeof users, "%s/users", top);
    snprintf(path, sizeof path, "%s/socket", roots);
    snprintf(other, sizeof other, "%s/socket", users);
    return chmod(top, 0755) || mkdir(roots, 0755) || mkdir(users, 0755);
}

static int teardown(void **state) {
    unlink(path);
    unlink(other);
    return rmdir(roots) || rmdir(users) || rmdir(top);
}

static void listen_as(const char *where, uid_t uid) {
    int server, fd;
    alarm(CHILD_SECONDS);
    if (chown(top, uid, uid) || (uid && setresuid(uid, uid, uid)) || sp_socket_listen(where, true, &server))
        _exit(1);
    for (;;)
        if (sp_wait_readable(&server, 1, UINT64_MAX) && !sp_socket_accept(server, &fd))
            sp_close(fd);
}

static pid_t listener(const char *where, uid_t uid) {
    pid_t pid = fork();
    int fd;
    if (pid == 0)
        listen_as(where, uid);
    while (pid > 0 && sp_socket_connect(where, &fd) && waitpid(pid, NULL, WNOHANG) == 0)
        usleep(1000);
    sp_close(fd);
    return pid;
}

static pid_t exchanger(void) {
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    alarm(CHILD_SECONDS);
    if (setresuid(USER, USER, USER))
        _exit(1);
    for (;;)
        (void)sp_syscall(SYS_renameat2, AT_FDCWD, roots, AT_FDCWD, users, 2 /* RENAME_EXCHANGE */);
}

static void end(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

struct attempt {
    struct sp_vouch vouch;
    pid_t roots, users;
};

/* A user namespace in which neither root nor USER has a number. */
static int enter_namespace(void *unused) {
    static const char map[] = "1234 1234 1";
    CHILD_CHECK(!setresuid(1234, 1234, 1234) && !prctl(PR_SET_DUMPABLE, 1) && !unshare(CLONE_NEWUSER));
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    CHILD_CHECK(write(fd, map, sizeof map - 1) == (ssize_t)sizeof map - 1);
    close(fd);
    return 0;
}

static int only_roots_is_believed(void *arg) {
    const struct attempt *a = arg;
    size_t believed = 0;
    if (enter_namespace(NULL))
        return 1;
    for (int i = 0; i < ATTEMPTS; i++) {
        int fd;
        pid_t pid;
        uid_t uid;
        gid_t gid;
        if (sp_vouch_connect(path, &a->vouch, &fd))
            continue;
        CHILD_CHECK(!sp_socket_peer(fd, &pid, &uid, &gid) && pid == a->roots);
        sp_close(fd);
        believed++;
    }
    CHILD_CHECK(believed > 0);
    return 0;
}

static void exchanged_directories(void **state) {
    struct stat st;
    struct attempt a;
    if (geteuid() != 0 || in_child(enter_namespace, NULL))
        NOT_HERE("needs root and user namespaces");
    assert_int_equal(stat(roots, &st), 0);
    a.vouch = (struct sp_vouch){st.st_dev, st.st_ino};
    assert_int_equal(chown(users, USER, USER), 0);
    a.roots = listener(path, 0);
    a.users = listener(other, USER);
    pid_t pid = exchanger();
    int r = in_child(only_roots_is_believed, &a);
    end(pid);
    end(a.roots);
    end(a.users);
    assert_int_equal(r, 0);
}

static void directories_of_others(void **state) {
    struct sp_vouch v;
    if (geteuid() != 0)
        NOT_HERE("needs root");
    pid_t pid = listener(path, 0);
    int fine = sp_vouch_make(path, &v);
    int of_user = chown(top, USER, USER) ? 0 : sp_vouch_make(path, &v);
    int open = chown(top, 0, 0) || chmod(top, 0777) ? 0 : sp_vouch_make(path, &v);
    int sticky = chmod(top, 01777) ? -1 : sp_vouch_make(path, &v);
    int itself = chmod(roots, 01777) ? 0 : sp_vouch_make(path, &v);
    end(pid);
    assert_int_equal(fine, 0);
    assert_int_equal(of_user, -EACCES);
    assert_int_equal(open, -EACCES);
    assert_int_equal(sticky, 0);
    assert_int_equal(itself, -EACCES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(exchanged_directories, setup, teardown),
        cmocka_unit_test_setup_teardown(directories_of_others, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
