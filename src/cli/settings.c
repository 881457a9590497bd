/* SPDX-License-Identifier: MIT */
/*
 * `samepage get` and `samepage set`: the settings of a daemon that runs, from the table of settings. What get
 * prints without a key is a file that `samepaged --config` takes. A counter can be read by its name, too, as
 * with KSM's files, where both stand side by side.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/output.h"
#include "cli/target.h"

static int get_main(const struct sp_command *command, int argc, char **argv);
static int set_main(const struct sp_command *command, int argc, char **argv);

enum { GET_JSON, GET_SOCKET, GET_USER };

static const struct sp_option get_options[] = {
    [GET_JSON] = {"json", 'j', NULL, "print JSON: values with their units, ranges and meanings"},
    [GET_SOCKET] = SP_TARGET_OPTION_SOCKET,
    [GET_USER] = SP_TARGET_OPTION_USER,
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

const struct sp_command sp_command_get = {
    .name = "get",
    .usage = "[OPTION...] [KEY]",
    .summary = "show the settings of a daemon, or one of them, or a counter",
    .options = get_options,
    .notes = SP_TARGET_NOTES
    "Without KEY: all settings, as a file for 'samepaged --config'. KEY may be a setting\n"
    "or a counter: its value alone is printed.\n",
    .main = get_main,
};

enum { SET_SOCKET, SET_USER };

static const struct sp_option set_options[] = {
    [SET_SOCKET] = SP_TARGET_OPTION_SOCKET,
    [SET_USER] = SP_TARGET_OPTION_USER,
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

const struct sp_command sp_command_set = {
    .name = "set",
    .usage = "[OPTION...] KEY=VALUE...",
    .summary = "change settings of a daemon while it runs",
    .options = set_options,
    .notes = SP_TARGET_NOTES
    "All of them are set, or none. Programs obey within a pass, those that are stopped when they\n"
    "continue. The settings last until the daemon ends: 'samepaged --config FILE' keeps them.\n",
    .main = set_main,
};

/* ---- get ---- */

struct key {
    int setting, counter; /* -1: it is none */
    bool profit;          /* general_profit, which is made of counters */
};

static int find_counter(const char *name) {
    for (int i = 0; i < SP_COUNTER_COUNT; i++)
        if (!strcmp(name, sp_counter_info[i].name))
            return i;
    return -1;
}

static int unknown_key(const struct sp_command *command, const char *name) {
    const char *names[SP_SETTING_COUNT + SP_COUNTER_COUNT];
    size_t n = 0;
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        names[n++] = sp_setting_info[i].name;
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        names[n++] = sp_counter_info[i].name;
    const char *meant = sp_suggest(name, names, n);
    if (meant)
        return sp_usage_error(command, "no setting or counter '%s'; did you mean '%s'?", name, meant);
    return sp_usage_error(command, "no setting or counter '%s'", name);
}

/* 0 or an exit status. */
static int find_key(const struct sp_command *command, const char *name, struct key *ret) {
    int setting = sp_setting_find(name);
    *ret = (struct key){.setting = setting < 0 ? -1 : setting,
                        .counter = find_counter(name),
                        .profit = !strcmp(name, "general_profit")};
    return ret->setting >= 0 || ret->counter >= 0 || ret->profit ? 0 : unknown_key(command, name);
}

static json_t *json_setting(int i, const struct sp_settings *s) {
    const struct sp_setting_info *info = &sp_setting_info[i];
    const char *const *names = sp_setting_names((size_t)i);
    json_t *o = json_pack("{s:o, s:o, s:s, s:b, s:s}", "value", sp_json_setting((size_t)i, s->v[i]),
                          "default", sp_json_setting((size_t)i, info->value_default), "unit", info->unit,
                          "ksm", info->origin == SP_ORIGIN_KSM, "meaning", info->meaning);
    if (!names) {
        json_object_set_new(o, "min", json_integer((json_int_t)info->value_min));
        json_object_set_new(o, "max", json_integer((json_int_t)info->value_max));
        return o;
    }
    json_t *values = json_array();
    for (; *names; names++)
        json_array_append_new(values, json_string(*names));
    json_object_set_new(o, "values", values);
    return o;
}

static json_t *json_counter(const char *unit, const char *meaning, uint64_t value) {
    return json_pack("{s:I, s:s, s:s}", "value", (json_int_t)value, "unit", unit, "meaning", meaning);
}

static void show_json(const char *name, const struct key *key, const struct sp_settings *s,
                      const struct sp_counters *c) {
    json_t *root = json_object();
    for (int i = 0; i < SP_SETTING_COUNT; i++)
        if (!name || key->setting == i)
            json_object_set_new(root, sp_setting_info[i].name, json_setting(i, s));
    if (name && key->counter >= 0)
        json_object_set_new(root, name,
                            json_counter(sp_counter_info[key->counter].unit,
                                         sp_counter_info[key->counter].meaning, c->v[key->counter]));
    if (name && key->profit)
        json_object_set_new(
            root, name,
            json_counter("bytes", "saved bytes less our own memory", sp_counters_general_profit(c)));
    /* What could not be written is found by sp_output_finish. */
    (void)json_dumpf(root, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(root);
}

static void show_text(const char *name, const struct key *key, const struct sp_settings *s,
                      const struct sp_counters *c) {
    if (name && key->setting >= 0) {
        printf("%s\n", sp_setting_text((size_t)key->setting, s->v[key->setting]).text);
        return;
    }
    if (name) {
        uint64_t value = key->counter >= 0 ? c->v[key->counter] : sp_counters_general_profit(c);
        printf("%llu\n", (unsigned long long)value);
        return;
    }
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        printf("%s=%s\n", sp_setting_info[i].name, sp_setting_text(i, s->v[i]).text);
}

static int get(const struct sp_target *t, const char *name, const struct key *key, bool json) {
    struct sp_status *s;
    struct sp_counters c;
    int status = sp_target_status(t, &s);
    if (status)
        return status;
    if (sp_target_known(t, s)) {
        sp_target_counters(t, s, &c);
        (json ? show_json : show_text)(name, key, sp_target_settings(t, s), &c);
    } else {
        status = SP_EXIT_FAILURE;
    }
    sp_status_free(s);
    return sp_output_finish(status);
}

static int get_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value, *socket = NULL, *user = NULL;
    bool json = false;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        if (option == SP_ARGS_DONE)
            return args.status;
        if (option == GET_JSON)
            json = true;
        else
            *(option == GET_SOCKET ? &socket : &user) = value;
    }
    if (args.next + 1 < argc)
        return sp_usage_error(command, "one key at a time");
    const char *name = args.next < argc ? argv[args.next] : NULL;
    struct key key = {-1, -1, false};
    struct sp_target t;
    int status = name ? find_key(command, name, &key) : 0;
    if (!status)
        status = sp_target_find(&t, command, socket, user);
    return status ? status : get(&t, name, &key, json);
}

/* ---- set ---- */

static int parse(const struct sp_command *command, char **words, struct sp_settings_change *c) {
    char error[512];
    for (; *words; words++)
        if (sp_settings_change_add(c, *words, error, sizeof error))
            return sp_usage_error(command, "%s", error);
    return 0;
}

static int set_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value, *socket = NULL, *user = NULL;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        if (option == SP_ARGS_DONE)
            return args.status;
        *(option == SET_SOCKET ? &socket : &user) = value;
    }
    struct sp_settings_change change = {0};
    struct sp_target t;
    if (args.next == argc)
        return sp_usage_error(command, "nothing to set: KEY=VALUE is needed");
    int status = parse(command, argv + args.next, &change);
    if (!status)
        status = sp_target_find(&t, command, socket, user);
    return status ? status : sp_target_set(&t, &change);
}
