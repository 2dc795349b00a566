/*
 * request.h - encoding a call's frame before it is known which worker will get it; the rest is filled in when a
 * connection takes it.
 */
#ifndef PYPROC_REQUEST_H
#define PYPROC_REQUEST_H

#include "call.h"

/* Encodes a typed request with the codec, and the metadata of `options` (NULL: none), with which it is never an
 * envelope. The calling thread, no lock. INVALID_ARGUMENT names the field or the key. */
int request_encode_message(const struct codec *codec, const pyproc_method *method, const ProtobufCMessage *message,
                           const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr);

/* Encodes a JSON body, which is checked. */
int request_encode_json(const struct codec *codec, const char *method, const char *body,
                        const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr);

/* Encodes the request of a stream, which has no message unless `message` is given, but metadata, and one message of a stream, whose id
 * is missing. */
int request_encode_stream(const struct codec *codec, const pyproc_method *method, const ProtobufCMessage *message,
                          const pyproc_call_options *options, frame_block **ret_frame, pyproc_error **reterr);
int request_encode_stream_message(const struct codec *codec, const pyproc_method *method,
                                  const ProtobufCMessage *message, frame_block **ret_frame, pyproc_error **reterr);

/* Fills in what differs from connection to connection. `timeout_ms` at least 1; 0: none. */
void request_complete(frame_block *frame, uint64_t id, uint32_t method_index, int64_t timeout_ms);

#endif
