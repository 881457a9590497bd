/* SPDX-License-Identifier: MIT */
/*
 * The terminal of `samepage top`, as a screen of ncurses and back.
 *
 * It is put back however this ends. Regular ways out call endwin(3). For signals that end a process ncurses
 * would do no more than for SIGINT and SIGTERM, and not safely in a handler; so what undoes our screen is
 * made into a string beforehand, and one handler writes it, puts the settings back by tcsetattr(3), both of
 * which POSIX allows there, and lets the signal do what it does. SIGTSTP and SIGWINCH are ncurses' matter.
 * Only SIGKILL leaves the screen as it is.
 */
#define NCURSES_NOMACROS
#include "cli/top.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <curses.h>
#include <term.h>

#define UNDO_BYTES  512
#define ESCAPE_MS   25
#define NO_TERMINAL "'samepage top --once' prints the figures once"

/* Written by the handler: no lock, nothing that is not there before. */
static char undo[UNDO_BYTES];
static size_t undo_bytes;
static struct termios before;
static SCREEN *screen;

static int undo_put(int c) {
    if (undo_bytes < sizeof undo)
        undo[undo_bytes++] = (char)c;
    return c;
}

static void undo_add(const char *text) {
    if (text)
        tputs(text, 1, undo_put);
}

static void restore_and_die(int number) {
    ssize_t unused = write(STDOUT_FILENO, undo, undo_bytes);
    (void)unused;
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
    /* SA_RESETHAND has put the default back: it acts when the handler returns and the signal is let in. */
    (void)raise(number);
}

/* After ncurses has taken its own. */
static void catch_signals(void) {
    static const int numbers[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGILL,    SIGABRT, SIGBUS,
                                  SIGFPE,  SIGSEGV, SIGSYS,  SIGPIPE,   SIGALRM, SIGTERM,
                                  SIGUSR1, SIGUSR2, SIGXCPU, SIGVTALRM, SIGPROF};
    struct sigaction action = {.sa_handler = restore_and_die, .sa_flags = (int)SA_RESETHAND}, old;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!sigaction(numbers[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

/* setupterm(3)'s answer: 1: it is there, 0: not known, -1: there is no database. */
static bool terminal_known(int *ret_found) {
    bool good = setupterm(NULL, STDOUT_FILENO, ret_found) == OK && cursor_address && clear_screen;
    if (cur_term)
        del_curterm(cur_term);
    return good;
}

int sp_top_terminal_check(const struct sp_command *command) {
    int found;
    const char *term = getenv("TERM");
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        sp_complain(command, "standard %s is no terminal; " NO_TERMINAL,
                    isatty(STDIN_FILENO) ? "output" : "input");
        return SP_EXIT_FAILURE;
    }
    if (!term || !*term) {
        sp_complain(command, "TERM is not set, so that the terminal is unknown; " NO_TERMINAL);
        return SP_EXIT_FAILURE;
    }
    if (terminal_known(&found))
        return 0;
    sp_complain(command, "a terminal '%s' (TERM) %s; " NO_TERMINAL, term,
                found == 1 ? "cannot be drawn on" : "is not known here");
    return SP_EXIT_FAILURE;
}

int sp_top_terminal_begin(const struct sp_command *command) {
    if (tcgetattr(STDIN_FILENO, &before))
        before = (struct termios){0};
    screen = newterm(NULL, stdout, stdin);
    if (!screen) {
        sp_complain(command, "the terminal cannot be used; " NO_TERMINAL);
        return SP_EXIT_FAILURE;
    }
    undo_add(exit_attribute_mode);
    undo_add(keypad_local);
    undo_add(cursor_normal);
    undo_add(exit_ca_mode ? exit_ca_mode : "\r\n");
    catch_signals();
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(ESCAPE_MS);
    curs_set(0);
    return 0;
}

void sp_top_terminal_end(void) {
    endwin();
    delscreen(screen);
}
