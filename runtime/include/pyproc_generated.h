/*
 * pyproc_generated.h - what code emitted by pyproc-gen needs to know of the library.
 *
 * Include <pyproc.h> and the generated headers instead; a program never fills in these tables itself. All tables are
 * constant, are read by any thread without a lock, and must outlive every pool that was called through them.
 *
 * Compatibility: PYPROC_GENERATED_VERSION grows when a table changes its layout. Generated code refuses to compile
 * (#error) against a header whose [PYPROC_GENERATED_OLDEST, PYPROC_GENERATED_VERSION] does not contain its own number,
 * and the library refuses (FAILED_PRECONDITION) a method table whose size it does not know.
 */
#ifndef PYPROC_GENERATED_H
#define PYPROC_GENERATED_H

#include <pyproc.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The layout that this header describes, and the oldest one that it still reads. */
#define PYPROC_GENERATED_VERSION 1
#define PYPROC_GENERATED_OLDEST 1

/* The four kinds of rpc, as in the wire's hello. */
enum { PYPROC_RPC_UNARY = 0, PYPROC_RPC_SERVER_STREAM = 1, PYPROC_RPC_CLIENT_STREAM = 2, PYPROC_RPC_BIDI = 3 };

/* Messages that protobuf's JSON mapping treats specially
 * (https://protobuf.dev/programming-guides/json/, sections "Any" to "FieldMask"). */
enum {
  PYPROC_WELL_KNOWN_NONE = 0,
  PYPROC_WELL_KNOWN_ANY,
  PYPROC_WELL_KNOWN_TIMESTAMP,
  PYPROC_WELL_KNOWN_DURATION,
  PYPROC_WELL_KNOWN_STRUCT,
  PYPROC_WELL_KNOWN_VALUE,
  PYPROC_WELL_KNOWN_LIST_VALUE,
  PYPROC_WELL_KNOWN_WRAPPER, /* DoubleValue … BytesValue: the JSON of their one field */
  PYPROC_WELL_KNOWN_EMPTY,
  PYPROC_WELL_KNOWN_FIELD_MASK
};

/* pyproc_field_info.flags */
#define PYPROC_FIELD_MAP 1u        /* a map<k, v>: for protobuf-c a repeated entry message */
#define PYPROC_FIELD_NULL_VALUE 2u /* google.protobuf.NullValue, null in JSON */
#define PYPROC_FIELD_OPTIONAL 4u   /* a proto3 `optional`, which protobuf-c sees as a oneof of its own */

/* pyproc_method.flags */
#define PYPROC_METHOD_IDEMPOTENT 1u /* option (pyproc.method).idempotent */

typedef struct pyproc_message_info pyproc_message_info;

/* What a protobuf-c field descriptor does not say. */
typedef struct pyproc_field_info {
  const char *name;                   /* the field's name in the schema */
  const char *json_name;              /* its name in JSON */
  const pyproc_message_info *message; /* of a message field, else NULL */
  uint64_t flags;                     /* PYPROC_FIELD_* */
} pyproc_field_info;

/* What a protobuf-c message descriptor does not say. */
struct pyproc_message_info {
  const char *name;                             /* full name, "package.Message" */
  const ProtobufCMessageDescriptor *descriptor; /* protobuf-c's own table */
  const pyproc_field_info *fields;              /* as many as descriptor->n_fields, in the same order; NULL when none */
  uint64_t well_known;                          /* PYPROC_WELL_KNOWN_* */
};

/* When a failed call is made again: option (pyproc.method).retry, its defaults filled in. */
typedef struct pyproc_retry {
  size_t size;                         /* sizeof(pyproc_retry) of the header it was generated for */
  int64_t max_attempts;                /* in all, 2 to 10 */
  int64_t initial_backoff_ms;          /* bound of the random pause before the second attempt */
  int64_t max_backoff_ms;              /* what that bound grows to */
  int64_t backoff_multiplier_permille; /* by which it grows each time, 1000 to 10000 */
  uint64_t codes;                      /* bit n: gRPC's code n */
} pyproc_retry;

/* One rpc. */
struct pyproc_method {
  size_t size;                        /* sizeof(pyproc_method) of the header it was generated for */
  const char *name;                   /* "package.Service/Rpc" */
  const pyproc_message_info *request; /* what is sent */
  const pyproc_message_info *reply;   /* what comes back */
  const char *fingerprint;            /* of the wire-relevant shape, see schema/wire.md */
  uint64_t kind;                      /* PYPROC_RPC_* */
  uint64_t flags;                     /* PYPROC_METHOD_* */
  int64_t timeout_ms;                 /* option (pyproc.method).timeout_ms; 0: the pool's default */
  const pyproc_retry *retry;          /* NULL: a failed call is not made again */
};

/* One service: what pyproc_pool_options.services lists. */
struct pyproc_service {
  size_t size;                         /* sizeof(pyproc_service) of the header it was generated for */
  const char *name;                    /* "package.Service" */
  const pyproc_method *const *methods; /* method_count of them, in the schema's order */
  size_t method_count;
};

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Emitted once for each rpc: gives `done` its own type back and calls it. */
typedef void pyproc_trampoline(void (*done)(void), int result, ProtobufCMessage *reply, pyproc_error *error,
                               void *userdata);

/* pyproc_call_submit for a callback with the rpc's own reply type. */
int pyproc_call_submit_generated(pyproc_pool *pool, const pyproc_method *method, const ProtobufCMessage *request,
                                 const pyproc_call_options *options, pyproc_trampoline *trampoline, void (*done)(void),
                                 void *userdata, pyproc_error **reterr);

/* The functions of streams for a stream of that method; one of another method is INVALID_ARGUMENT. pyproc_stream_open
 * and pyproc_stream_close serve generated code as they are. */
int pyproc_stream_send_generated(pyproc_stream *stream, const pyproc_method *method, const ProtobufCMessage *message,
                                 pyproc_error **reterr);
int pyproc_stream_done_sending_generated(pyproc_stream *stream, const pyproc_method *method, pyproc_error **reterr);
int pyproc_stream_recv_generated(pyproc_stream *stream, const pyproc_method *method, ProtobufCMessage **ret_message,
                                 pyproc_error **reterr);
int pyproc_stream_send_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        const ProtobufCMessage *message, pyproc_done *done, void *userdata,
                                        pyproc_error **reterr);
int pyproc_stream_recv_submit_generated(pyproc_stream *stream, const pyproc_method *method,
                                        pyproc_trampoline *trampoline, void (*done)(void), void *userdata,
                                        pyproc_error **reterr);

/* pyproc_future_finish for a future of that method; one of another method is INVALID_ARGUMENT. */
int pyproc_future_finish_generated(pyproc_future *future, const pyproc_method *method, ProtobufCMessage **ret_reply,
                                   pyproc_error **reterr);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
