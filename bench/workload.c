/* SPDX-License-Identifier: MIT */
/*
 * A program with memory to share, for the benchmark. It knows nothing of samepage or of how it is merged: it
 * fills its memory, asks for merging by madvise(MADV_MERGEABLE) when told to, and later looks at every byte.
 * The same binary serves the kernel's KSM and samepage.
 *
 *   workload PATTERN MIB SEED [SPARE_PAGES [IMAGE]]
 *
 * The table below has the patterns: how much of the memory is common, found in every process and in the same
 * order unless the pattern shuffles it (SEED); the rest is found nowhere else. SPARE_PAGES follow the memory
 * and are managed with it; they are unique until "new" makes a quarter of them common. IMAGE is a file with
 * the contents of the common pages: the memory is advised at once and then read from there; `workload write
 * MIB 0 0 IMAGE` writes it.
 *
 * Contents are pseudo random, so that no page resembles another before its first word and none is zero; but
 * those of `last` are the same up to their last word, and those of `zero` zeros. They are recomputed for the
 * check, never stored: the check does not depend on memory that is being merged.
 *
 * On stdin and stdout, a line at a time: it says "ready PID ADDRESS PAGES" (spare pages included).
 *   go         "advised"
 *   new        makes the next quarter of the spare pages common: "renewed"
 *   write N    writes to N random pages a second from now on, see write_flip: "writing"
 *   written    ends that: "written N"
 *   probe      reads a word of a random page every millisecond from now on: "probing"
 *   probed     ends that, and tells how long the reads took: "probed N P50_NS P99_NS MAX_NS"
 *   check      "ok", or "bad N" (N pages differ)
 *   quit       ends it
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "latency.h"

#define PAGE_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)
#define WORDS      (PAGE_BYTES / sizeof(uint64_t))
/* Separates the contents that are found once from those that every process has. */
#define UNIQUE ((uint64_t)1 << 63)
#define SPARE  ((uint64_t)1 << 62)
/* What a write changes in the first word of a page; the next write changes it back. */
#define FLIP  UINT64_C(0x5bd1e9955bd1e995)
#define MS_NS 1000000

enum kind { RANDOM, LAST_WORD, ZERO };

static const struct pattern {
    const char *name;
    unsigned common_percent;
    bool shuffled; /* each process has its pages in an order of its own */
    bool mixed;    /* the unique ones lie between the common ones, which stay at their places */
    bool huge;
    enum kind kind;
} patterns[] = {
    {"same", 100, .kind = RANDOM},       {"tenth", 10, .kind = RANDOM},
    {"scattered", 10, .shuffled = true}, {"shuffled", 100, .shuffled = true},
    {"last", 100, .kind = LAST_WORD},    {"zero", 100, .kind = ZERO},
    {"huge", 100, .huge = true},         {"huge-tenth", 90, .mixed = true, .huge = true},
};

struct workload {
    const struct pattern *pattern;
    uint64_t *memory;
    uint64_t pages, spare_pages; /* the latter are among the former, at the end */
    uint64_t *content;           /* which content each page holds; never advised */
    uint8_t *flipped;            /* whether a write has changed it */
    uint64_t seed, renewed;
};

/* What a thread beside the main one does until it is told to stop. */
struct job {
    pthread_t thread;
    struct workload *w;
    atomic_bool stop;
    uint64_t rate, done;
    struct sp_histogram took;
};

/* splitmix64: every word is a bijection of a counter, so two different contents differ in every word. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t word_of(uint64_t content_key, size_t i) {
    return mix(content_key + (i + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

static uint64_t key_of(enum kind kind, uint64_t content) {
    return mix(kind == LAST_WORD ? 0 : content);
}

/* The last word, where it is all that tells pages apart. */
static uint64_t last_word(enum kind kind, uint64_t key, uint64_t content) {
    return kind == LAST_WORD ? mix(content + 1) : word_of(key, WORDS - 1);
}

static void page_fill(uint64_t *page, enum kind kind, uint64_t content) {
    if (kind == ZERO && !(content & (UNIQUE | SPARE))) {
        memset(page, 0, PAGE_BYTES); /* written, and therefore resident */
        return;
    }
    uint64_t key = key_of(kind, content);
    for (size_t i = 0; i < WORDS - 1; i++)
        page[i] = word_of(key, i);
    page[WORDS - 1] = last_word(kind, key, content);
}

static bool page_holds(const uint64_t *page, enum kind kind, uint64_t content, uint64_t flip) {
    uint64_t differs = 0;
    if (kind == ZERO && !(content & (UNIQUE | SPARE))) {
        for (size_t i = 0; i < WORDS; i++)
            differs |= page[i] ^ (i ? 0 : flip);
        return !differs;
    }
    uint64_t key = key_of(kind, content);
    for (size_t i = 0; i < WORDS - 1; i++)
        differs |= page[i] ^ word_of(key, i) ^ (i ? 0 : flip);
    return !(differs | (page[WORDS - 1] ^ last_word(kind, key, content)));
}

static void shuffle(uint64_t *v, uint64_t n, uint64_t seed) {
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = mix(seed * UINT64_C(0x9e3779b97f4a7c15) + i) % i;
        uint64_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

static void contents_choose(struct workload *w) {
    const struct pattern *p = w->pattern;
    uint64_t n = w->pages - w->spare_pages, common = n * p->common_percent / 100;
    for (uint64_t i = 0; i < w->pages; i++) {
        bool is_common = p->mixed ? mix(w->seed << 40 ^ i) % 100 < p->common_percent : i < common;
        w->content[i] = i < n && is_common ? i : UNIQUE | w->seed << 40 | i;
    }
    if (p->shuffled)
        shuffle(w->content, n, w->seed);
}

static uint64_t *memory_map(size_t bytes, bool huge) {
    char *p = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    p += -(uintptr_t)p % HUGE_BYTES;
    /* A kernel without huge pages refuses this: just as well, or, where they are wanted, the benchmark sees
     * it. */
    (void)madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return (uint64_t *)p;
}

static int advise(const struct workload *w) {
    if (!madvise(w->memory, w->pages * PAGE_BYTES, MADV_MERGEABLE))
        return 0;
    perror("workload: madvise(MADV_MERGEABLE)");
    return -1;
}

static void fill(struct workload *w) {
    for (uint64_t i = 0; i < w->pages; i++)
        page_fill(w->memory + i * WORDS, w->pattern->kind, w->content[i]);
}

static int restore(struct workload *w, const char *image) {
    int fd = open(image, O_RDONLY | O_CLOEXEC);
    size_t bytes = w->pages * PAGE_BYTES;
    for (size_t done = 0; fd >= 0 && done < bytes;) {
        ssize_t got = read(fd, (char *)w->memory + done, bytes - done);
        if (got <= 0)
            return -1;
        done += (size_t)got;
    }
    return fd >= 0 ? close(fd) : -1;
}

static int workload_init(struct workload *w, uint64_t mib, const char *image) {
    w->pages = (mib << 20) / PAGE_BYTES + w->spare_pages;
    w->content = malloc(w->pages * sizeof(*w->content));
    w->flipped = calloc(w->pages, 1);
    w->memory = memory_map(w->pages * PAGE_BYTES, w->pattern->huge);
    if (!w->content || !w->flipped || !w->memory)
        return -1;
    contents_choose(w);
    if (image)
        return advise(w) || restore(w, image);
    fill(w);
    return 0;
}

static uint64_t workload_bad_pages(const struct workload *w) {
    uint64_t bad = 0;
    for (uint64_t i = 0; i < w->pages; i++)
        bad += !page_holds(w->memory + i * WORDS, w->pattern->kind, w->content[i], w->flipped[i] ? FLIP : 0);
    return bad;
}

static void renew(struct workload *w) {
    uint64_t n = w->spare_pages / 4, first = w->pages - w->spare_pages + w->renewed++ % 4 * n;
    for (uint64_t i = first; i < first + n; i++) {
        w->content[i] = SPARE | i;
        page_fill(w->memory + i * WORDS, w->pattern->kind, w->content[i]);
    }
}

/* ---- beside the main thread ------------------------------------------------------------------------------
 */

/*
 * A page has one of two contents, the same two in every process: so there are twins for it again after each
 * write, and what is saved does not depend on the writes alone but on whether written pages are merged again.
 */
static void write_flip(struct workload *w, uint64_t i) {
    w->memory[i * WORDS] ^= FLIP;
    w->flipped[i] ^= 1;
}

static void *writer(void *argument) {
    struct job *j = argument;
    uint64_t begin = latency_now(), random = j->w->seed, n = j->w->pages - j->w->spare_pages;
    while (!j->stop) {
        uint64_t due = (latency_now() - begin) / 1000 * j->rate / 1000000;
        for (; j->done < due && !j->stop; j->done++)
            write_flip(j->w, mix(random += UINT64_C(0x9e3779b97f4a7c15)) % n);
        nanosleep(&(struct timespec){.tv_nsec = MS_NS}, NULL);
    }
    return NULL;
}

static void *prober(void *argument) {
    struct job *j = argument;
    uint64_t random = j->w->seed;
    while (!j->stop) {
        uint64_t i = mix(random += UINT64_C(0x9e3779b97f4a7c15)) % j->w->pages;
        uint64_t begin = latency_now();
        (void)*(volatile uint64_t *)(j->w->memory + i * WORDS + 1);
        sp_histogram_add(&j->took, latency_now() - begin);
        nanosleep(&(struct timespec){.tv_nsec = MS_NS}, NULL);
    }
    return NULL;
}

static void job_begin(struct job *j, void *(*work)(void *), const char *said) {
    j->stop = false;
    if (pthread_create(&j->thread, NULL, work, j))
        exit(1);
    puts(said);
}

static void job_end(struct job *j) {
    j->stop = true;
    pthread_join(j->thread, NULL);
}

/* ---- answers
 * ------------------------------------------------------------------------------------------------ */

static void answer_check(const struct workload *w) {
    uint64_t bad = workload_bad_pages(w);
    if (bad)
        printf("bad %llu\n", (unsigned long long)bad);
    else
        puts("ok");
}

/* Whether the word was understood, and could be done. */
static bool answer(struct workload *w, struct job *writes, struct job *probe, char *word) {
    if (!strcmp(word, "go")) {
        if (advise(w))
            return false;
        puts("advised");
    } else if (!strcmp(word, "new")) {
        renew(w);
        puts("renewed");
    } else if (!strncmp(word, "write ", 6)) {
        writes->rate = strtoull(word + 6, NULL, 10);
        job_begin(writes, writer, "writing");
    } else if (!strcmp(word, "written")) {
        job_end(writes);
        printf("written %llu\n", (unsigned long long)writes->done);
    } else if (!strcmp(word, "probe")) {
        job_begin(probe, prober, "probing");
    } else if (!strcmp(word, "probed")) {
        job_end(probe);
        printf("probed ");
        latency_print(&probe->took);
    } else if (!strcmp(word, "check")) {
        answer_check(w);
    } else {
        fprintf(stderr, "workload: not understood: %s\n", word);
        return false;
    }
    return true;
}

static int serve(struct workload *w) {
    static struct job writes, probe;
    char line[64];
    writes.w = probe.w = w;
    printf("ready %d %llu %llu\n", (int)getpid(), (unsigned long long)(uintptr_t)w->memory,
           (unsigned long long)w->pages);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "quit"))
            return 0;
        if (!answer(w, &writes, &probe, line))
            return 2;
    }
    return 0;
}

static const struct pattern *pattern_find(const char *name) {
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
        if (!strcmp(name, patterns[i].name))
            return &patterns[i];
    return NULL;
}

static int image_write(const char *path, uint64_t mib) {
    uint64_t page[WORDS];
    FILE *f = fopen(path, "we");
    for (uint64_t i = 0; f && i < (mib << 20) / PAGE_BYTES; i++) {
        page_fill(page, RANDOM, i);
        if (!fwrite(page, PAGE_BYTES, 1, f))
            return 1;
    }
    return !f || fclose(f);
}

int main(int argc, char **argv) {
    struct workload w = {0};
    if (argc == 6 && !strcmp(argv[1], "write"))
        return image_write(argv[5], strtoull(argv[2], NULL, 10));
    if (argc < 4 || argc > 6 || !(w.pattern = pattern_find(argv[1])) || atoll(argv[2]) <= 0) {
        fprintf(stderr, "usage: workload PATTERN MIB SEED [SPARE_PAGES [IMAGE]]\n");
        return 2;
    }
    w.seed = strtoull(argv[3], NULL, 10);
    w.spare_pages = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (workload_init(&w, strtoull(argv[2], NULL, 10), argc > 5 ? argv[5] : NULL)) {
        perror("workload: memory");
        return 1;
    }
    return serve(&w);
}
