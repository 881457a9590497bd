/* SPDX-License-Identifier: MIT */
/*
 * The rows of `samepage top` as lines, the same on the screen and with --once, and as JSON. The columns up to
 * CPU% take 79 places, so that they fit a screen of 80; what comes to the right of them is for wider ones.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "cli/top.h"

#define CELL_BYTES 40

/* ---- cells ---- */

/* "12.3 MiB" as "12.3M", "183 us" as "183us". */
static void squeeze(const char *text, char ret_cell[CELL_BYTES]) {
    size_t n = 0;
    for (; *text && n < CELL_BYTES - 1; text++) {
        if (!strcmp(text, "iB"))
            break;
        if (*text != ' ')
            ret_cell[n++] = *text;
    }
    ret_cell[n] = 0;
}

static void cell_bytes(uint64_t bytes, char ret_cell[CELL_BYTES]) {
    if (bytes)
        squeeze(sp_text_bytes(bytes), ret_cell);
    else
        strcpy(ret_cell, "0");
}

static void cell_rate(double rate, char ret_cell[CELL_BYTES]) {
    if (isnan(rate))
        strcpy(ret_cell, "-");
    else
        snprintf(ret_cell, CELL_BYTES, rate > 0 && rate < 99.95 ? "%.1f" : "%.0f", rate);
}

/* Names are chosen freely: what is no plain letter would disturb the screen. */
static void cell_name(const char *name, char ret_cell[CELL_BYTES]) {
    snprintf(ret_cell, CELL_BYTES, "%.15s", name);
    for (char *c = ret_cell; *c; c++)
        if (!isascii((unsigned char)*c) || !isprint((unsigned char)*c))
            *c = '?';
}

static void cell(const struct sp_top_row *row, enum sp_top_column column, char ret_cell[CELL_BYTES]) {
    switch (column) {
    case SP_TOP_PID:
        snprintf(ret_cell, CELL_BYTES, "%llu", (unsigned long long)row->pid);
        break;
    case SP_TOP_NAME:
        cell_name(row->name, ret_cell);
        break;
    case SP_TOP_RESIDENT:
        cell_bytes(row->resident_bytes, ret_cell);
        break;
    case SP_TOP_SHARED:
        cell_bytes(row->shared_bytes, ret_cell);
        break;
    case SP_TOP_SAVED:
        cell_bytes(row->saved_bytes, ret_cell);
        break;
    case SP_TOP_BROKEN:
        cell_rate(row->broken_per_s, ret_cell);
        break;
    case SP_TOP_P99:
        squeeze(sp_text_duration(row->p99_ns), ret_cell);
        break;
    case SP_TOP_MAX:
        squeeze(sp_text_duration(row->max_ns), ret_cell);
        break;
    default:
        cell_rate(row->cpu_percent, ret_cell);
    }
}

/* ---- lines ---- */

int sp_top_column_start(enum sp_top_column column) {
    int start = 0;
    for (int i = 0; i < (int)column; i++)
        start += sp_top_columns[i].width + (i == SP_TOP_PID);
    return start;
}

/* Appends a column; names stand to the left of theirs. */
static void put(char line[SP_TOP_LINE_BYTES], enum sp_top_column column, const char *text) {
    int start = sp_top_column_start(column), width = sp_top_columns[column].width;
    const char *format = column == SP_TOP_NAME ? " %-*s" : "%*s";
    snprintf(line + start - (column == SP_TOP_NAME), (size_t)(SP_TOP_LINE_BYTES - start), format, width,
             text);
}

static void put_rest(char line[SP_TOP_LINE_BYTES], const char *user, const char *state) {
    size_t n = strlen(line);
    snprintf(line + n, SP_TOP_LINE_BYTES - n, "  %-10s %s", user, state);
}

void sp_top_title(bool of_domains, char ret_line[SP_TOP_LINE_BYTES]) {
    for (int i = 0; i < SP_TOP_N_COLUMNS; i++)
        put(ret_line, i, of_domains ? sp_top_columns[i].domain_title : sp_top_columns[i].title);
    if (!of_domains)
        put_rest(ret_line, "USER", "STATE");
}

void sp_top_line(const struct sp_top_row *row, char ret_line[SP_TOP_LINE_BYTES]) {
    for (int i = 0; i < SP_TOP_N_COLUMNS; i++) {
        char text[CELL_BYTES];
        cell(row, i, text);
        put(ret_line, i, text);
    }
    if (!row->is_domain)
        put_rest(ret_line, row->user, row->state);
}

void sp_top_daemon(const struct sp_top *t, char ret_line[SP_TOP_LINE_BYTES]) {
    char rate[CELL_BYTES];
    cell_rate(t->cpu_percent, rate);
    snprintf(ret_line, SP_TOP_LINE_BYTES, "samepaged %d: up %s, %s %% CPU, %s resident; %s saved",
             (int)t->daemon_pid, sp_text_duration(t->uptime_ns), rate, sp_text_bytes(t->rss_bytes),
             sp_text_bytes(t->saved_bytes));
}

static void print_rows(const struct sp_top_rows *rows, bool of_domains) {
    char line[SP_TOP_LINE_BYTES];
    if (!rows->n)
        return;
    sp_top_title(of_domains, line);
    printf("\n%s\n", line);
    for (size_t i = 0; i < rows->n; i++) {
        sp_top_line(&rows->row[i], line);
        printf("%s\n", line);
    }
}

void sp_top_print(const struct sp_top *t, const char *socket) {
    char line[SP_TOP_LINE_BYTES];
    sp_top_daemon(t, line);
    printf("%s\n%s\n", socket, line);
    if (!t->domains.n)
        printf("\nno domain yet: no program has connected\n");
    print_rows(&t->domains, true);
    print_rows(&t->clients, false);
}

/* ---- JSON ---- */

static json_t *json_rate(double rate) {
    return isnan(rate) ? json_null() : json_real(rate);
}

static json_t *json_figures(const struct sp_top_row *row) {
    return json_pack("{s:o, s:I, s:I, s:I, s:o, s:{s:I, s:I}, s:o}", "name", sp_json_name(row->name),
                     "resident_bytes", (json_int_t)row->resident_bytes, "shared_bytes",
                     (json_int_t)row->shared_bytes, "saved_bytes", (json_int_t)row->saved_bytes,
                     "broken_per_second", json_rate(row->broken_per_s), "freeze", "p99_ns",
                     (json_int_t)row->p99_ns, "max_ns", (json_int_t)row->max_ns, "cpu_percent",
                     json_rate(row->cpu_percent));
}

static json_t *json_clients(const struct sp_top *t, uid_t uid) {
    json_t *clients = json_array();
    for (size_t i = 0; i < t->clients.n; i++) {
        const struct sp_top_row *row = &t->clients.row[i];
        if (row->uid != uid)
            continue;
        json_t *client = json_figures(row);
        json_object_set_new(client, "pid", json_integer((json_int_t)row->pid));
        json_object_set_new(client, "state", json_string(row->state));
        json_array_append_new(clients, client);
    }
    return clients;
}

static json_t *json_domain(const struct sp_top *t, const struct sp_top_row *row) {
    json_t *domain = json_figures(row);
    json_object_set_new(domain, "uid", json_integer((json_int_t)row->uid));
    json_object_set_new(domain, "programs", json_integer((json_int_t)row->pid));
    json_object_set_new(domain, "clients", json_clients(t, row->uid));
    return domain;
}

json_t *sp_top_json(const struct sp_top *t, const char *socket) {
    json_t *domains = json_array();
    for (size_t i = 0; i < t->domains.n; i++)
        json_array_append_new(domains, json_domain(t, &t->domains.row[i]));
    return json_pack("{s:o, s:i, s:I, s:I, s:o, s:I, s:o}", "socket", sp_json_name(socket), "pid",
                     (int)t->daemon_pid, "uptime_ns", (json_int_t)t->uptime_ns, "rss_bytes",
                     (json_int_t)t->rss_bytes, "cpu_percent", json_rate(t->cpu_percent), "saved_bytes",
                     (json_int_t)t->saved_bytes, "domains", domains);
}
