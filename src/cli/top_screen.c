/* SPDX-License-Identifier: MIT */
/*
 * What `samepage top` shows on its screen, and the keys.
 *
 * A daemon that does not answer, or is there no more, is asked again with every look; what it said last
 * stays, with a line that says how old it is. One that hangs holds us up for a second at most.
 */
#define NCURSES_NOMACROS
#include "cli/top.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include <curses.h>

#include "os/thread.h"

#define ANSWER_MS 1000
#define NS_PER_MS UINT64_C(1000000)
#define HEAD_ROWS 3 /* above the tables */
#define HELP_LINE "q ends  sort by: p n r s v b f m c (again: reversed) or < >  arrows scroll"

struct screen {
    struct sp_top *top;
    const struct sp_top_choice *choice;
    enum sp_top_column by;
    bool reversed, quit, gone; /* gone: the terminal */
    size_t first;              /* client that is shown first */
    size_t shown;              /* clients that there is room for */
    uint64_t answered_ns;
    int error; /* of the last question; 0: none */
};

/* ---- drawing ---- */

static void put(int row, attr_t attributes, const char *text) {
    if (row < 0 || row >= LINES)
        return;
    /* Not into the last place of the last line, where terminals scroll. */
    attrset((int)attributes);
    mvaddnstr(row, 0, text, COLS - (row == LINES - 1));
    attrset(A_NORMAL);
}

static void put_title(int row, const struct screen *s, bool of_domains) {
    char line[SP_TOP_LINE_BYTES];
    sp_top_title(of_domains, line);
    put(row, A_REVERSE, line);
    int start = sp_top_column_start(s->by);
    if (row < LINES && start < COLS)
        mvchgat(row, start, sp_top_columns[s->by].width, A_BOLD, 0, NULL);
}

static void put_state(const struct screen *s) {
    char text[SP_TOP_LINE_BYTES];
    if (!s->error) {
        snprintf(text, sizeof text, "sorted by %s%s; %zu domain%s, %zu client%s", sp_top_columns[s->by].name,
                 s->reversed ? ", reversed" : "", s->top->domains.n, s->top->domains.n == 1 ? "" : "s",
                 s->top->clients.n, s->top->clients.n == 1 ? "" : "s");
        put(HEAD_ROWS - 1, A_NORMAL, text);
        return;
    }
    snprintf(text, sizeof text, "no answer for %.0f s: %s", (double)(sp_now_ns() - s->answered_ns) / 1e9,
             sp_socket_why(s->error));
    put(HEAD_ROWS - 1, A_STANDOUT, text);
}

/* Domains have a third of the screen at most. Returns the row below. */
static int put_domains(const struct screen *s, int row) {
    char line[SP_TOP_LINE_BYTES];
    const struct sp_top_rows *domains = &s->top->domains;
    size_t room = LINES > 3 * HEAD_ROWS ? (size_t)LINES / 3 - 1 : 1;
    size_t n = domains->n <= room ? domains->n : room - 1;
    put_title(row++, s, true);
    for (size_t i = 0; i < n; i++) {
        sp_top_line(&domains->row[i], line);
        put(row++, A_NORMAL, line);
    }
    if (n < domains->n) {
        snprintf(line, sizeof line, "        ... and %zu more", domains->n - n);
        put(row++, A_NORMAL, line);
    }
    return row;
}

static void put_clients(struct screen *s, int row) {
    char line[SP_TOP_LINE_BYTES];
    const struct sp_top_rows *clients = &s->top->clients;
    put_title(row++, s, false);
    s->shown = row < LINES - 1 ? (size_t)(LINES - 1 - row) : 0;
    if (s->first + s->shown > clients->n)
        s->first = clients->n > s->shown ? clients->n - s->shown : 0;
    for (size_t i = s->first; i < clients->n && i - s->first < s->shown; i++) {
        sp_top_line(&clients->row[i], line);
        put(row++, A_NORMAL, line);
    }
}

static void draw(struct screen *s) {
    char line[SP_TOP_LINE_BYTES];
    erase();
    snprintf(line, sizeof line, "samepage top: %s", s->choice->target.path);
    put(0, A_NORMAL, line);
    sp_top_daemon(s->top, line);
    put(1, A_BOLD, line);
    put_state(s);
    if (s->top->domains.n)
        put_clients(s, put_domains(s, HEAD_ROWS));
    else
        put(HEAD_ROWS + 1, A_NORMAL, "no domain yet: no program has connected");
    put(LINES - 1, A_DIM, HELP_LINE);
    refresh();
}

/* ---- looking ---- */

static void look(struct screen *s) {
    struct sp_status *status;
    s->error = sp_control_status(s->choice->target.path, ANSWER_MS, &status);
    if (s->error)
        return;
    s->error = sp_top_update(s->top, &s->choice->target, status);
    sp_status_free(status);
    if (!s->error)
        s->answered_ns = sp_now_ns();
}

/* ---- keys ---- */

static void sort_by(struct screen *s, enum sp_top_column column) {
    s->reversed = s->by == column && !s->reversed;
    s->by = column;
}

static void scroll_by(struct screen *s, long rows) {
    long first = (long)s->first + rows;
    s->first = first > 0 ? (size_t)first : 0; /* the end is found when drawing */
}

/* Whether to look at once. */
static bool take_key(struct screen *s, int key) {
    for (int i = 0; i < SP_TOP_N_COLUMNS; i++)
        if (key == sp_top_columns[i].key[0])
            sort_by(s, i);
    switch (key) {
    case 'q':
    case 'Q':
        s->quit = true;
        break;
    case '<':
        if (s->by)
            sort_by(s, s->by - 1);
        break;
    case '>':
        if (s->by + 1 < SP_TOP_N_COLUMNS)
            sort_by(s, s->by + 1);
        break;
    case KEY_UP:
        scroll_by(s, -1);
        break;
    case KEY_DOWN:
        scroll_by(s, 1);
        break;
    case KEY_PPAGE:
        scroll_by(s, -(long)s->shown);
        break;
    case KEY_NPAGE:
        scroll_by(s, (long)s->shown);
        break;
    case KEY_HOME:
        s->first = 0;
        break;
    case KEY_END:
        s->first = s->top->clients.n;
        break;
    default:
        break;
    }
    return key == ' ';
}

/* Until a key was pressed, or the time has come. Whether to look at once. */
static bool wait_for_keys(struct screen *s, uint64_t until_ns) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t now = sp_now_ns();
    int ms = now < until_ns ? (int)((until_ns - now + NS_PER_MS - 1) / NS_PER_MS) : 0;
    int ready = poll(&input, 1, ms);
    bool any = false, at_once = false;
    /* Also where a signal came: KEY_RESIZE is read like a key. */
    for (int key; (key = getch()) != ERR; any = true)
        at_once |= take_key(s, key);
    s->gone = ready > 0 && !any;
    return at_once;
}

static void watch(struct screen *s) {
    uint64_t next_ns = s->answered_ns + s->choice->delay_ns;
    while (!s->quit && !s->gone) {
        if (sp_now_ns() >= next_ns) {
            look(s);
            next_ns = sp_now_ns() + s->choice->delay_ns;
        }
        sp_top_sort(s->top, s->by, s->reversed);
        draw(s);
        if (wait_for_keys(s, next_ns))
            next_ns = 0;
    }
}

int sp_top_screen(struct sp_top *t, const struct sp_top_choice *choice) {
    struct screen s = {.top = t, .choice = choice, .by = choice->sort, .answered_ns = sp_now_ns()};
    int status = sp_top_terminal_begin(&sp_command_top);
    if (status)
        return status;
    watch(&s);
    sp_top_terminal_end();
    return s.gone ? SP_EXIT_FAILURE : SP_EXIT_OK;
}
