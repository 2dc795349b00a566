#include "codec.h"

#include "error.h"
#include "wire/envelope.h"

#include <string.h>

const struct codec *codec_find(const char *name) {
  const struct codec *const all[] = {&codec_protobuf, &codec_json};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (strcmp(name, all[i]->name) == 0) return all[i];
  return codec_find_registered(name);
}

bool codec_is_built_in(const char *name) {
  return strcmp(name, "grpc") == 0 || strcmp(name, codec_protobuf.name) == 0 || strcmp(name, codec_json.name) == 0;
}

/* A failed function's error: the one that it set, or ours. */
static int fail(const struct codec *self, const char *function, int code, pyproc_error *error, pyproc_error **reterr) {
  if (error != NULL) return error_give(reterr, error);
  return error_set(reterr, PYPROC_E_INTERNAL, "%s of the codec \"%s\" failed with code %d and without an error",
                   function, self->name, code);
}

int codec_pack(const struct codec *self, const pyproc_message_info *info, const ProtobufCMessage *message, buffer *out,
               pyproc_error **reterr) {
  pyproc_output output = {.bytes = out, .begin = out->size, .limit = SIZE_MAX};
  pyproc_error *error = NULL;
  int result = self->envelope ? PYPROC_OK : codec_check_message(info, message, reterr);
  if (result < 0) return result;
  result = self->protocol->pack(self->self, info, message, &output, &error);
  if (result >= 0) {
    pyproc_error_free(error);
    return PYPROC_OK;
  }
  out->size = output.begin;
  return fail(self, "pack", result, error, reterr);
}

/* Whether a registered codec's message can be given to the program. */
static int check_unpacked(const struct codec *self, const pyproc_message_info *info, const pyproc_arena *arena,
                          const ProtobufCMessage *message, pyproc_error **reterr) {
  pyproc_error *error = NULL;
  if (arena->memory.exhausted)
    return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "%s: the reply takes more memory than it may", info->name);
  if (message == NULL || message != arena->first)
    return error_set(reterr, PYPROC_E_INTERNAL, "unpack of the codec \"%s\" gave %s", self->name,
                     message == NULL ? "no message" : "a message that is not the arena's first allocation");
  if (codec_check_message(info, message, &error) >= 0) return PYPROC_OK;
  error_set(reterr, PYPROC_E_INTERNAL, "unpack of the codec \"%s\" gave a message that is not in order: %s", self->name,
            pyproc_error_message(error));
  pyproc_error_free(error);
  return PYPROC_E_INTERNAL;
}

int codec_unpack(const struct codec *self, const pyproc_message_info *info, const uint8_t *data, size_t size,
                 size_t budget, ProtobufCMessage **ret_message, pyproc_error **reterr) {
  pyproc_arena arena = {.memory = {.budget = budget}};
  ProtobufCMessage *message = NULL;
  pyproc_error *error = NULL;
  int result = self->protocol->unpack(self->self, info, data, size, &arena, &message, &error);
  if (result >= 0 && self->registered) {
    pyproc_error_free(error);
    error = NULL;
    result = check_unpacked(self, info, &arena, message, &error);
  }
  if (result >= 0) {
    *ret_message = reply_arena_end(&arena.memory);
    return PYPROC_OK;
  }
  reply_arena_abandon(&arena.memory);
  return fail(self, "unpack", result, error, reterr);
}

int codec_pack_json(const struct codec *self, const char *text, size_t size, buffer *out, pyproc_error **reterr) {
  pyproc_output output = {.bytes = out, .begin = out->size, .limit = SIZE_MAX};
  pyproc_error *error = NULL;
  int result = self->protocol->pack_json(self->self, (const uint8_t *)text, size, &output, &error);
  if (result >= 0) {
    pyproc_error_free(error);
    return PYPROC_OK;
  }
  out->size = output.begin;
  return fail(self, "pack_json", result, error, reterr);
}

int codec_unpack_json(const struct codec *self, const uint8_t *data, size_t size, size_t budget, char **ret_text,
                      pyproc_error **reterr) {
  buffer text = {0};
  pyproc_output output = {.bytes = &text, .limit = budget};
  pyproc_error *error = NULL;
  int result = self->protocol->unpack_json(self->self, data, size, &output, &error);
  if (result < 0) {
    result = fail(self, "unpack_json", result, error, reterr);
    goto end;
  }
  pyproc_error_free(error);
  const char *wrong = envelope_check_body((const char *)text.data, text.size);
  if (wrong != NULL) {
    result = error_set(reterr, PYPROC_E_INTERNAL, "unpack_json of the codec \"%s\" gave what is %s", self->name, wrong);
    goto end;
  }
  char *copy = reply_text_new((const char *)text.data, text.size);
  if (copy == NULL)
    result = error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  else
    *ret_text = copy;
end:
  buffer_free(&text);
  return result < 0 ? result : PYPROC_OK;
}
