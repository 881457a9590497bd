/* SPDX-License-Identifier: MIT */
/* The caller's side of SET, GET and FILES, each one request and one reply. No malloc: see exchange.h. */
#include "wire/control.h"

#include <errno.h>
#include <string.h>

#include "wire/exchange.h"

/* A refusal of the message is not one of the whole session (-EACCES). */
static int take_result(void *ctx, const void *message) {
    const struct sp_wire_header *h = message;
    if (h->type == SP_WIRE_REFUSED)
        return ((const struct sp_wire_refused *)message)->error;
    if (h->type != SP_WIRE_RESULT || h->sequence != 1)
        return -EPROTO;
    *(int *)ctx = ((const struct sp_wire_result *)message)->result;
    return 1;
}

int sp_control_set(const char *socket_path, int timeout_ms, const uid_t *uid,
                   const struct sp_settings_change *change) {
    int result;
    struct sp_wire_set request = {.all = !uid, .uid = uid ? *uid : 0};
    sp_wire_header_init(&request.header, SP_WIRE_SET, sizeof request, 1);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        request.given |= (uint64_t)change->given[i] << i;
        request.settings[i] = change->given[i] ? change->values.v[i] : 0;
    }
    int r = sp_exchange(socket_path, &request, sizeof request, -1, timeout_ms, take_result, &result);
    return r ? r : result == -EACCES ? -EPERM : result;
}

int sp_control_files(const char *socket_path, int timeout_ms, int fuse_fd) {
    int result;
    struct sp_wire_empty request;
    sp_wire_header_init(&request.header, SP_WIRE_FILES, sizeof request, 1);
    int r = sp_exchange(socket_path, &request, sizeof request, fuse_fd, timeout_ms, take_result, &result);
    return r ? r : result;
}

static int take_settings(void *ctx, const void *message) {
    const struct sp_wire_settings *m = message;
    if (m->header.type == SP_WIRE_REFUSED)
        return ((const struct sp_wire_refused *)message)->error;
    if (m->header.type != SP_WIRE_SETTINGS || m->header.sequence != 1)
        return -EPROTO;
    memcpy(((struct sp_settings *)ctx)->v, m->settings, sizeof m->settings);
    return 1;
}

int sp_control_get(const char *socket_path, int timeout_ms, struct sp_settings *ret_settings) {
    struct sp_wire_empty request;
    sp_wire_header_init(&request.header, SP_WIRE_GET, sizeof request, 1);
    return sp_exchange(socket_path, &request, sizeof request, -1, timeout_ms, take_settings, ret_settings);
}
