#include "rpc.h"

#include <string.h>

void rpc_unary_done(engine_task *task, bool ok) {
  (void)ok; /* the status tells */
  rpc_flight_end(((rpc_tag *)(void *)task)->flight);
}

bool rpc_unary_send(rpc_flight *self, const char *method, frame_block *frame) {
  grpc_byte_buffer *message = self->is_dynamic ? rpc_message_new_dynamic(method, frame) : rpc_message_new(frame);
  grpc_op ops[6];
  memset(ops, 0, sizeof ops);
  ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
  ops[0].flags = rpc_flight_flags(self);
  ops[0].data.send_initial_metadata.count = self->sent_count;
  ops[0].data.send_initial_metadata.metadata = self->sent;
  ops[1].op = GRPC_OP_SEND_MESSAGE;
  ops[1].data.send_message.send_message = message;
  ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
  ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
  ops[3].data.recv_initial_metadata.recv_initial_metadata = &self->initial;
  ops[4].op = GRPC_OP_RECV_MESSAGE;
  ops[4].data.recv_message.recv_message = &self->message;
  ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
  ops[5].data.recv_status_on_client.trailing_metadata = &self->trailing;
  ops[5].data.recv_status_on_client.status = &self->status;
  ops[5].data.recv_status_on_client.status_details = &self->details;
  bool sent = grpc_call_start_batch(self->grpc, ops, 6, &self->unary, NULL) == GRPC_CALL_OK;
  grpc_byte_buffer_destroy(message);
  return sent;
}
