/*
 * call_setup.h - what blocking and asynchronous calls have in common: checking and encoding what goes in, decoding
 * what comes out.
 */
#ifndef PYPROC_CALL_SETUP_H
#define PYPROC_CALL_SETUP_H

#include "pool.h"

/* Checks options, method and request, and encodes the frame. `options` becomes a full copy of `given`, which may be
 * NULL. */
int call_setup_message(const pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *given, pyproc_call_options *options, frame_block **ret_frame,
                       pyproc_error **reterr);
int call_setup_json(const pyproc_pool *pool, const char *method, const char *body, const pyproc_call_options *given,
                    pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr);

/* Checks options, method and request, which must be NULL but for a server stream, and encodes the frame that opens the
 * stream. */
int call_setup_stream(const pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                      const pyproc_call_options *given, pyproc_call_options *options, frame_block **ret_frame,
                      pyproc_error **reterr);

/* Whether the message is of the type that the method sends; INVALID_ARGUMENT. */
int call_setup_check_message(const pyproc_method *method, const ProtobufCMessage *message, pyproc_error **reterr);

/* The call's timeout, else the schema's, else the pool's, or none for a stream; and when that is over, in ns of
 * CLOCK_MONOTONIC as `now_ns` is. */
int64_t call_setup_timeout(const pyproc_pool *pool, const pyproc_method *method, const pyproc_call_options *options);
int64_t call_setup_deadline(int64_t timeout_ms, int64_t now_ns);

/* What can be refused before anything is sent: a frame above the limit, a deadline in the past. */
int call_setup_check(const pyproc_pool *pool, const struct call *call, int64_t timeout_ms, pyproc_error **reterr);

/* How long the owner of a call whose worker was asked to stop it waits for what the worker says to that. */
#define CALL_SETUP_WORD_NS INT64_C(10000000)

/* The error of a call that was withdrawn because of `code`; `last` had it then, or NULL. */
pyproc_error *call_setup_given_up(pyproc_pool *pool, const struct call *call, int code, const struct connection *last,
                                  int64_t timeout_ms, int may_have_run);

/* The call is done. Where it was asked to stop, or its worker was the first to see that the deadline had passed, its error
 * becomes that of a call that was given up, with what its worker told of the handler's end. Returns whether that is so. */
bool call_setup_stopped(struct call *call, int64_t timeout_ms);

/* RESOURCE_EXHAUSTED for a frame above the limit. `what` names it. */
int call_setup_check_size(const frame_block *frame, int64_t frame_limit, const char *what, const char *method,
                          pyproc_error **reterr);

/* The result of a call that is done; hands its error over. */
int call_setup_result(struct call *call, pyproc_error **reterr);

/* The reply of a call that is done, without an error. */
int call_setup_take_message(const struct call *call, const struct codec *codec, int64_t frame_limit,
                            ProtobufCMessage **ret_reply, pyproc_error **reterr);
/* The same of a stream's message. */
int call_setup_unpack_message(const struct call *call, const struct codec *codec, int64_t frame_limit,
                              const stream_message *message, ProtobufCMessage **ret_message, pyproc_error **reterr);
int call_setup_take_json(const struct call *call, const struct codec *codec, int64_t frame_limit, char **ret_body,
                         pyproc_error **reterr);

#endif
