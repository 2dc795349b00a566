/*
 * stream.c - the streams of the public API.
 */
#include <pyproc_generated.h>

#include "error.h"

static int unimplemented(pyproc_error **reterr) {
  return error_set(reterr, PYPROC_E_UNIMPLEMENTED, "streams are not part of this version");
}

int pyproc_stream_open(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                       const pyproc_call_options *options, pyproc_stream **ret_stream, pyproc_error **reterr) {
  (void)pool, (void)method, (void)request, (void)options, (void)ret_stream;
  return unimplemented(reterr);
}

int pyproc_stream_send(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_error **reterr) {
  (void)stream, (void)message;
  return unimplemented(reterr);
}

int pyproc_stream_done_sending(pyproc_stream *stream, pyproc_error **reterr) {
  (void)stream;
  return unimplemented(reterr);
}

int pyproc_stream_recv(pyproc_stream *stream, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  (void)stream, (void)ret_message;
  return unimplemented(reterr);
}

int pyproc_stream_send_submit(pyproc_stream *stream, const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                              pyproc_error **reterr) {
  (void)stream, (void)message, (void)done, (void)userdata;
  return unimplemented(reterr);
}

int pyproc_stream_recv_submit(pyproc_stream *stream, pyproc_done *done, void *userdata, pyproc_error **reterr) {
  (void)stream, (void)done, (void)userdata;
  return unimplemented(reterr);
}

int pyproc_stream_send_generated(pyproc_stream *stream, const pyproc_method *method, const ProtobufCMessage *message,
                                 pyproc_error **reterr) {
  (void)stream, (void)method, (void)message;
  return unimplemented(reterr);
}

int pyproc_stream_done_sending_generated(pyproc_stream *stream, const pyproc_method *method, pyproc_error **reterr) {
  (void)stream, (void)method;
  return unimplemented(reterr);
}

int pyproc_stream_recv_generated(pyproc_stream *stream, const pyproc_method *method, ProtobufCMessage **ret_message,
                                 pyproc_error **reterr) {
  (void)stream, (void)method, (void)ret_message;
  return unimplemented(reterr);
}

int pyproc_stream_send_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                                        pyproc_error **reterr) {
  (void)stream, (void)method, (void)message, (void)done, (void)userdata;
  return unimplemented(reterr);
}

int pyproc_stream_recv_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        pyproc_trampoline *trampoline, void (*done)(void), void *userdata,
                                        pyproc_error **reterr) {
  (void)stream, (void)method, (void)trampoline, (void)done, (void)userdata;
  return unimplemented(reterr);
}

void pyproc_stream_close(pyproc_stream *stream) {
  (void)stream;
}
