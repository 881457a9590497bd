/* SPDX-License-Identifier: MIT */
/*
 * KSM's two trees, as its authors describe them ("Increasing memory density by using KSM", Arcangeli, Eidus,
 * Wright, 2009; the comment at the top of mm/ksm.c): which pages have the same content is found out by
 * walking red-black trees whose order is that of the contents.
 *
 *   - the *stable* tree has the store pages, whose contents never change (I2): a search in it is always
 * right;
 *   - the *unstable* tree has pages that are not shared yet. They may be written at any time, and then its
 * order is wrong, and a search may not find what is there. It is kept useful, not right: a page is only put
 * into it when its checksum is what it was one scan before, and it is built anew after a scan.
 *
 * A page is looked for in the stable tree first. What is found in the unstable tree is only a proposal, as a
 * fingerprint is: the bytes are compared while nobody can touch the page (I1).
 *
 * What differs from KSM: which pages were written is known here, so after a scan in which nothing in the
 * unstable tree has changed it is left as it is (what would be built is what stands there), and a page is
 * asked about again only where that is of use. Pages are those of one client.
 *
 * Pure and single-threaded, as the domain (domain.h), which keeps references and places in the store beside
 * it.
 */
#ifndef SP_CORE_TREES_H
#define SP_CORE_TREES_H

#include "core/alloc.h"
#include "core/fingerprint.h"

struct sp_trees;

/* Reads pages: SP_PAGE_SIZE bytes that stay until the next call of the same function; NULL: cannot be had,
 * because the page is not mapped any more, say. What page() gives may be another content each time. */
struct sp_trees_reader {
    const void *(*store)(void *ctx, sp_store_page store);
    const void *(*page)(void *ctx, sp_page page);
    void *ctx;
};

enum sp_trees_found {
    SP_TREES_STORE,  /* a store page has this content; nothing is kept of the page */
    SP_TREES_TWIN,   /* another page has it, or had: the content is worth publishing */
    SP_TREES_ALONE,  /* nothing has it: the page is in the unstable tree now */
    SP_TREES_NOTED,  /* it is new or has changed: its checksum is noted, to be asked about again in the next
                        scan */
    SP_TREES_FAILED, /* no memory, or a store page could not be read: nothing is kept of the page */
};

struct sp_trees_counts {
    uint64_t stable, unstable; /* pages in the trees */
    uint64_t compared;         /* contents compared so far, in both */
    uint64_t rebuilt;          /* how often the unstable tree was begun anew */
};

/* -ENOMEM. All that is passed in must outlive it. */
SP_WARN_UNUSED int sp_trees_new(const struct sp_alloc *alloc, const struct sp_key *key,
                                const struct sp_trees_reader *reader, struct sp_trees **ret_trees);
struct sp_trees *sp_trees_free(struct sp_trees *t);

/* The page has this content now. *ret_store is set for SP_TREES_STORE, *ret_twin for SP_TREES_TWIN. */
enum sp_trees_found sp_trees_ask(struct sp_trees *t, sp_page page, const void *content,
                                 sp_store_page *ret_store, sp_page *ret_twin);

/* After SP_TREES_TWIN: SP_TREES_STORE: the content is in the store meanwhile; SP_TREES_ALONE: it is to be
 * written there and entered; SP_TREES_NOTED: it is not what was asked about, and nothing is kept of the page;
 * SP_TREES_FAILED. */
enum sp_trees_found sp_trees_publish(struct sp_trees *t, sp_page page, const void *content,
                                     sp_store_page *ret_store);

/* The content is in the store there, and is no page's of the stable tree. Nothing is kept of the page it is
 * from. -ENOMEM; -EEXIST: some page of the stable tree has it; -EIO: one cannot be read. */
SP_WARN_UNUSED int sp_trees_enter(struct sp_trees *t, sp_page page, sp_store_page store, const void *content);
/* The store page is in use no more; it need not be in the tree. */
void sp_trees_drop(struct sp_trees *t, sp_store_page store);

/* The page has changed or is no longer registered. */
void sp_trees_forget(struct sp_trees *t, sp_page page);

/* A scan is over. True: something in the unstable tree had changed, it is empty now, and all pages that are
 * known without a twin are to be asked about again in the next scan. */
bool sp_trees_scanned(struct sp_trees *t);

void sp_trees_count(const struct sp_trees *t, struct sp_trees_counts *ret);

#endif
