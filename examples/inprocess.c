/* SPDX-License-Identifier: MIT */
/*
 * Two buffers with the same content, merged in the background while the program could go on using them.
 *
 *     cc inprocess.c $(pkg-config --cflags --libs samepage) && ./a.out [DAEMON-SOCKET]
 *
 * With the path of a daemon's socket the buffers are shared with those of other processes, too.
 */
#include <samepage/samepage.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES ((size_t)32 << 20)

static void check(int error, const char *what) {
    if (!error)
        return;
    fprintf(stderr, "%s: %s\n", what, samepage_strerror(error));
    exit(1);
}

static char *buffer_new(void) {
    char *buffer = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    for (size_t i = 0; i < BYTES; i += SAMEPAGE_PAGE_SIZE)
        snprintf(buffer + i, SAMEPAGE_PAGE_SIZE, "this is page %zu", i / SAMEPAGE_PAGE_SIZE);
    return buffer;
}

int main(int argc, char **argv) {
    struct samepage_options options = {.size = sizeof(options)};
    if (argc > 1) {
        options.socket_path = argv[1];
        options.flags = SAMEPAGE_OPEN_CONNECT;
    }
    samepage_domain *domain;
    check(samepage_domain_open(&options, &domain), "samepage_domain_open");

    char *a = buffer_new(), *b = buffer_new();
    samepage_region *region_a, *region_b;
    check(samepage_register(domain, a, BYTES, 0, &region_a), "samepage_register");
    check(samepage_register(domain, b, BYTES, 0, &region_b), "samepage_register");
    check(samepage_wait_settled(domain, 60000), "samepage_wait_settled");

    struct samepage_domain_counters now = {.size = sizeof(now)};
    check(samepage_domain_stats(domain, &now), "samepage_domain_stats");
    printf("libsamepage %s: %llu of %zu MiB saved, longest freeze %llu us\n", samepage_version(),
           (unsigned long long)now.saved_bytes >> 20, 2 * BYTES >> 20,
           (unsigned long long)now.freeze_max_ns / 1000);

    /* Writing to merged memory is like writing to any other. */
    strcpy(b, "mine");
    int intact = !strcmp(a, "this is page 0") && !strcmp(b, "mine");

    /* Nobody uses the buffers any more: they become ordinary memory again. */
    check(samepage_unregister(region_a, SAMEPAGE_QUIESCENT), "samepage_unregister");
    check(samepage_unregister(region_b, SAMEPAGE_QUIESCENT), "samepage_unregister");
    check(samepage_domain_close(domain, 0), "samepage_domain_close");
    intact = intact && !strcmp(a, "this is page 0") && !strcmp(b, "mine");
    munmap(a, BYTES);
    munmap(b, BYTES);
    puts(intact ? "memory intact" : "memory damaged");
    return now.saved_bytes && intact ? 0 : 1;
}
