/* SPDX-License-Identifier: MIT */
/*
 * The parser. A mapping is a header line ("start-end perms offset device inode   name"), then "Key: value"
 * lines, the last of which is VmFlags; only a mapping whose VmFlags were seen is reported, for without them
 * nothing is known, unless only headers are there to be read.
 *
 * Two-letter flags: proc_pid_smaps(5) and show_smap_vma_flags() in the kernel's fs/proc/task_mmu.c.
 */
#include "os/smaps.h"

#include <string.h>
#include <sys/mman.h>

#include "os/text.h"

static const char *const eligible_texts[] = {
#define X(name, text) [SP_##name] = text,
    SP_INELIGIBLE(X)
#undef X
};

const char *sp_eligible_text(enum sp_eligible why) {
    return eligible_texts[why];
}

#define FLAG(a, b) ((unsigned)(a) << 8 | (unsigned)(b))

/* What the flags of one mapping amount to. */
struct flags {
    int prot;
    unsigned attributes;
    bool shared, special, hugetlb, locked, userfaultfd, wipeonfork;
};

static void flag_note(struct flags *f, unsigned flag) {
    switch (flag) {
    case FLAG('r', 'd'):
        f->prot |= PROT_READ;
        break;
    case FLAG('w', 'r'):
        f->prot |= PROT_WRITE;
        break;
    case FLAG('e', 'x'):
        f->prot |= PROT_EXEC;
        break;
    case FLAG('s', 'h'):
        f->shared = true;
        break;
    case FLAG('d', 'c'):
        f->attributes |= SP_ATTR_DONTFORK;
        break;
    case FLAG('d', 'd'):
        f->attributes |= SP_ATTR_DONTDUMP;
        break;
    case FLAG('h', 'g'):
        f->attributes |= SP_ATTR_HUGEPAGE;
        break;
    case FLAG('n', 'h'):
        f->attributes |= SP_ATTR_NOHUGEPAGE;
        break;
    case FLAG('g', 'd'): /* grows down: a stack */
    case FLAG('g', 'u'):
    case FLAG('p', 'f'): /* raw page frames */
    case FLAG('m', 'm'): /* mixed pages and frames */
    case FLAG('i', 'o'): /* device memory */
    case FLAG('d', 'p'): /* droppable */
    case FLAG('s', 'l'): /* sealed: cannot be mapped over */
    case FLAG('s', 's'): /* shadow stack */
    case FLAG('m', 't'): /* memory tags */
    case FLAG('r', 'r'): /* read at random: our own (sp_map_mark) */
        f->special = true;
        break;
    case FLAG('h', 't'):
        f->hugetlb = true;
        break;
    case FLAG('l', 'o'):
        f->locked = true;
        break;
    case FLAG('u', 'm'):
    case FLAG('u', 'w'):
    case FLAG('u', 'i'):
        f->userfaultfd = true;
        break;
    case FLAG('w', 'f'):
        f->wipeonfork = true;
        break;
    default:
        break;
    }
}

static enum sp_eligible judge_use(const struct sp_smaps *p, const struct flags *f) {
    if (f->prot & PROT_EXEC)
        return SP_EXECUTABLE;
    if ((f->prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
        return SP_PROTECTION;
    if (f->locked)
        return SP_LOCKED;
    if (p->pkey)
        return SP_PKEY;
    if (f->wipeonfork)
        return SP_WIPEONFORK;
    return f->userfaultfd ? SP_USERFAULTFD : SP_ELIGIBLE;
}

/* The strongest reason first: what the memory is, then what may be done with it, then who else uses it. Last
 * a userfaultfd: whoever knows it to be our own need not look for other reasons. */
static enum sp_eligible judge(const struct sp_smaps *p, const struct flags *f, enum sp_eligible use) {
    if (f->special || p->named == SP_SPECIAL)
        return SP_SPECIAL;
    if (f->hugetlb)
        return SP_HUGETLB;
    if (f->shared || p->shared)
        return SP_SHARED;
    if (p->named == SP_FILE)
        return SP_FILE;
    return p->named != SP_ELIGIBLE && (use == SP_ELIGIBLE || use == SP_USERFAULTFD) ? p->named : use;
}

static bool starts(const char *line, const char *with) {
    return strncmp(line, with, strlen(with)) == 0;
}

static const char *skip_spaces(const char *s) {
    while (*s == ' ' || *s == '\t')
        s++;
    return s;
}

static const char *skip_word(const char *s) {
    while (*s && *s != ' ' && *s != '\t')
        s++;
    return skip_spaces(s);
}

static bool is_store(const char *name) {
    return strcmp(name, "/memfd:samepage (deleted)") == 0 || strcmp(name, "/memfd:samepage") == 0;
}

/* The heap has a name too and is ordinary memory; every other name in brackets is something special. */
static enum sp_eligible judge_name(const char *name, bool file) {
    if (file)
        return SP_FILE;
    if (starts(name, "[anon:"))
        return SP_NAMED;
    if (name[0] == '\0' || strcmp(name, "[heap]") == 0)
        return SP_ELIGIBLE;
    return SP_SPECIAL;
}

static void report(struct sp_smaps *p, const struct flags *f) {
    p->mapping.prot = f->prot;
    p->mapping.attributes |= f->attributes;
    p->mapping.use = judge_use(p, f);
    p->mapping.eligible = judge(p, f, p->mapping.use);
    p->inside = false;
    if (!p->visit(p->ctx, &p->mapping))
        p->stopped = true;
}

/* All that permissions tell: "rwxp". */
static void report_permissions(struct sp_smaps *p, const char *perms) {
    struct flags f = {.shared = p->shared};
    f.prot |= perms[0] == 'r' ? PROT_READ : 0;
    f.prot |= perms[1] == 'w' ? PROT_WRITE : 0;
    f.prot |= perms[2] == 'x' ? PROT_EXEC : 0;
    report(p, &f);
}

static void header_line(struct sp_smaps *p, const char *line) {
    uint64_t start, end;
    const char *s = sp_read_hex(line, &start);
    if (*s != '-')
        return;
    s = skip_spaces(sp_read_hex(s + 1, &end));
    size_t perms = strcspn(s, " ");
    bool shared = perms >= 4 && s[3] == 's';
    const char *inode = skip_word(skip_word(skip_word(s))); /* permissions, offset, device */
    const char *name = skip_word(inode);

    memcpy(p->name, name, strlen(name) + 1); /* a part of a line */
    p->mapping = (struct sp_mapping){.start = start, .end = end, .name = p->name};
    if (is_store(name) && !shared)
        p->mapping.attributes = SP_ATTR_STORE;
    p->named = judge_name(name, *inode != '0');
    p->shared = shared;
    p->pkey = false;
    p->inside = true;
    if (p->headers_only && perms >= 4)
        report_permissions(p, s);
}

/* "Rss:                 96 kB" */
static bool amount_line(struct sp_mapping *m, const char *line) {
    static const struct {
        const char *key;
        size_t offset;
    } amounts[] = {
        {"Rss:", offsetof(struct sp_mapping, resident_bytes)},
        {"Anonymous:", offsetof(struct sp_mapping, anonymous_bytes)},
        {"AnonHugePages:", offsetof(struct sp_mapping, huge_bytes)},
        {"Swap:", offsetof(struct sp_mapping, swap_bytes)},
    };
    for (size_t i = 0; i < sizeof(amounts) / sizeof(*amounts); i++) {
        if (!starts(line, amounts[i].key))
            continue;
        uint64_t kib;
        (void)sp_read_decimal(skip_spaces(line + strlen(amounts[i].key)), &kib);
        memcpy((char *)m + amounts[i].offset, &(uint64_t){kib * 1024}, sizeof(uint64_t));
        return true;
    }
    return false;
}

static void flags_line(struct sp_smaps *p, const char *words) {
    struct flags f = {0};
    for (const char *w = skip_spaces(words); w[0] && w[1]; w = skip_word(w))
        flag_note(&f, FLAG(w[0], w[1]));

    report(p, &f);
}

/* Headers begin with a lower-case hex digit, all other lines with a capital. */
static void whole_line(struct sp_smaps *p, const char *line) {
    if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f'))
        header_line(p, line);
    else if (!p->inside)
        return;
    else if (amount_line(&p->mapping, line))
        return;
    else if (starts(line, "ProtectionKey:"))
        p->pkey = *skip_spaces(line + strlen("ProtectionKey:")) != '0';
    else if (starts(line, "VmFlags:"))
        flags_line(p, line + strlen("VmFlags:"));
}

void sp_smaps_init(struct sp_smaps *p, bool (*visit)(void *ctx, const struct sp_mapping *m), void *ctx) {
    *p = (struct sp_smaps){.visit = visit, .ctx = ctx};
}

bool sp_smaps_feed(struct sp_smaps *p, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes && !p->stopped; i++) {
        if (text[i] != '\n') {
            if (p->n < sizeof(p->line) - 1)
                p->line[p->n++] = text[i];
            continue;
        }
        p->line[p->n] = '\0';
        p->n = 0;
        whole_line(p, p->line);
    }
    return !p->stopped;
}
