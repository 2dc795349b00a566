#include "zygote_frame.h"

#include <string.h>
#include <sys/wait.h>

#include "wire/frame.h"

enum { FORK_HEAD_SIZE = 12, ENDED_SIZE = 20, FLAG_PIDFDS = 1 };
static const uint32_t status_unknown = 0xffffffff;
static const uint64_t bytes_max = UINT64_C(1) << 62;

/* ---- to the zygote ---- */

static bool put_header(buffer *out, zygote_kind kind, uint64_t id) {
  uint8_t bytes[WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE] = {0};
  const wire_header header = {.kind = (uint8_t)kind, .id = id};
  wire_header_put(bytes + WIRE_LENGTH_SIZE, &header);
  return buffer_append(out, bytes, sizeof bytes);
}

/* Writes the length of the frame that begins at `start`; or takes the frame back. */
static bool finish(buffer *out, size_t start, bool is_whole) {
  if (is_whole && out->size - start - WIRE_LENGTH_SIZE <= ZYGOTE_REQUEST_MAX) {
    wire_put32(out->data + start, (uint32_t)(out->size - start - WIRE_LENGTH_SIZE));
    return true;
  }
  out->size = start;
  return false;
}

static uint32_t count_of(char *const *list) {
  uint32_t count = 0;
  while (list[count] != NULL) count++;
  return count;
}

/* Texts end with a NUL each. */
static bool put_list(buffer *out, char *const *list) {
  for (; *list != NULL; list++)
    if (!buffer_append(out, *list, strlen(*list) + 1)) return false;
  return true;
}

bool zygote_frame_fork(buffer *out, uint64_t id, const zygote_request *request) {
  size_t start = out->size;
  uint8_t head[FORK_HEAD_SIZE];
  wire_put32(head, (uint32_t)request->processor);
  wire_put32(head + 4, count_of(request->argv));
  wire_put32(head + 8, count_of(request->envp));
  bool is_whole = put_header(out, ZYGOTE_FORK, id) && buffer_append(out, head, sizeof head) &&
                  buffer_append(out, request->cwd, strlen(request->cwd) + 1) && put_list(out, request->argv) &&
                  put_list(out, request->envp);
  return finish(out, start, is_whole);
}

bool zygote_frame_reap(buffer *out, pid_t pid) {
  size_t start = out->size;
  return finish(out, start, put_header(out, ZYGOTE_REAP, (uint64_t)pid));
}

/* ---- from the zygote ---- */

/* One line of printable text: it goes into a message. Bytes that are no UTF-8 are seen to there. */
static void take_text(const uint8_t *body, size_t size, char *text) {
  if (size > ZYGOTE_TEXT_MAX - 1) size = ZYGOTE_TEXT_MAX - 1;
  for (size_t i = 0; i < size; i++) text[i] = (char)(body[i] < ' ' ? ' ' : body[i]);
  text[size] = '\0';
}

static void take_exit(const uint8_t *body, platform_exit *exit) {
  uint32_t status = wire_get32(body);
  uint64_t bytes = wire_get64(body + 4), ms = wire_get64(body + 12);
  *exit = (platform_exit){.known = status != status_unknown};
  if (!exit->known) return;
  if (WIFSIGNALED((int)status))
    exit->signal = WTERMSIG((int)status);
  else
    exit->exit_status = WEXITSTATUS((int)status);
  exit->rss_bytes = (int64_t)(bytes < bytes_max ? bytes : bytes_max);
  exit->cpu_ms = (int64_t)(ms < bytes_max ? ms : bytes_max);
}

static bool take_pid(const uint8_t *body, size_t size, pid_t *ret) {
  uint32_t pid = size == 4 ? wire_get32(body) : 0;
  if (pid < 2 || pid > INT32_MAX) return false;
  *ret = (pid_t)pid;
  return true;
}

static bool take_body(const uint8_t *body, size_t size, zygote_answer *ret) {
  switch (ret->kind) {
  case ZYGOTE_READY:
  case ZYGOTE_RUNS:
    return true;
  case ZYGOTE_UNFIT:
  case ZYGOTE_NOT_FORKED:
    take_text(body, size, ret->text);
    return true;
  case ZYGOTE_FORKED:
    return take_pid(body, size, &ret->pid);
  case ZYGOTE_ENDED:
    if (size != ENDED_SIZE) return false;
    take_exit(body, &ret->exit);
    return true;
  case ZYGOTE_FAILED:
    ret->object = (const char *)body;
    ret->object_size = size;
    return true;
  default:
    return false;
  }
}

ptrdiff_t zygote_frame_read(const uint8_t *data, size_t size, zygote_answer *ret) {
  wire_header header;
  *ret = (zygote_answer){0};
  if (size < WIRE_LENGTH_SIZE) return 0;
  uint32_t length = wire_get32(data);
  if (length < WIRE_HEADER_SIZE || length > ZYGOTE_ANSWER_MAX) return -1;
  if (size - WIRE_LENGTH_SIZE < length) return 0;
  if (wire_header_get(data + WIRE_LENGTH_SIZE, length, &header) < 0) return -1;
  ret->kind = (zygote_kind)header.kind;
  ret->id = header.id;
  ret->errnum = header.code;
  ret->has_pidfds = (header.code & FLAG_PIDFDS) != 0;
  const uint8_t *body = data + WIRE_LENGTH_SIZE + WIRE_HEADER_SIZE;
  return take_body(body, length - WIRE_HEADER_SIZE, ret) ? (ptrdiff_t)(WIRE_LENGTH_SIZE + length) : -1;
}
