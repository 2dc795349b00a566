#include "rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <grpc/grpc_security.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "error.h"

enum { RECONNECT_MS = 100, RECONNECT_LAST_MS = 5000, FILE_LIMIT = 1 << 20, ARGS_MAX = 8 };

/* Reads a file of certificates or a key, NUL-terminated. `name` NULL: nothing is read. */
static int read_file(const char *option, const char *name, buffer *to, pyproc_error **reterr) {
  char text[128];
  if (name == NULL) return PYPROC_OK;
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  FILE *file = fd < 0 ? NULL : fdopen(fd, "rb");
  if (file == NULL)
    return error_set(reterr, errno == EACCES ? PYPROC_E_PERMISSION_DENIED : PYPROC_E_NOT_FOUND, "option %s: %s: %s",
                     option, name, platform_error_text(errno, text, sizeof text));
  bool fits = buffer_reserve(to, FILE_LIMIT + 1);
  if (fits) to->size = fread(to->data, 1, FILE_LIMIT, file);
  bool whole = fits && !ferror(file) && getc(file) == EOF;
  fclose(file);
  if (!fits) return error_set(reterr, PYPROC_E_RESOURCE_EXHAUSTED, "out of memory");
  to->data[to->size] = '\0';
  if (!whole || to->size == 0 || strstr((const char *)to->data, "-----BEGIN") == NULL)
    return error_set(reterr, PYPROC_E_INVALID_ARGUMENT, "option %s: %s is no PEM file (of at most 1 MiB)", option,
                     name);
  return PYPROC_OK;
}

static const char *text_of(const buffer *file) {
  return (const char *)file->data;
}

static grpc_channel_credentials *make_tls(const connection_settings *settings, pyproc_error **reterr) {
  buffer ca = {0}, cert = {0}, key = {0};
  grpc_channel_credentials *credentials = NULL;
  int result = read_file("tls_ca_file", settings->tls_ca_file, &ca, reterr);
  if (result >= 0) result = read_file("tls_cert_file", settings->tls_cert_file, &cert, reterr);
  if (result >= 0) result = read_file("tls_key_file", settings->tls_key_file, &key, reterr);
  if (result >= 0) {
    grpc_ssl_pem_key_cert_pair pair = {.private_key = text_of(&key), .cert_chain = text_of(&cert)};
    credentials = grpc_ssl_credentials_create(text_of(&ca), key.data != NULL ? &pair : NULL, NULL, NULL);
    if (credentials == NULL)
      error_set(reterr, PYPROC_E_INVALID_ARGUMENT,
                "options tls_ca_file, tls_cert_file, tls_key_file: gRPC takes none of it");
  }
  if (key.data != NULL) memset(key.data, 0, key.size);
  buffer_free(&ca);
  buffer_free(&cert);
  buffer_free(&key);
  return credentials;
}

static void set_number(grpc_channel_args *args, const char *key, int value) {
  args->args[args->num_args].type = GRPC_ARG_INTEGER;
  args->args[args->num_args].key = (char *)(uintptr_t)key; /* libgrpc copies them */
  args->args[args->num_args++].value.integer = value;
}

static void set_text(grpc_channel_args *args, const char *key, const char *value) {
  args->args[args->num_args].type = GRPC_ARG_STRING;
  args->args[args->num_args].key = (char *)(uintptr_t)key;
  args->args[args->num_args++].value.string = (char *)(uintptr_t)value;
}

static void choose_args(const rpc *self, grpc_channel_args *args) {
  set_number(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)self->settings.frame_limit);
  set_number(args, GRPC_ARG_MAX_METADATA_SIZE, RPC_METADATA_MAX); /* tracebacks travel there */
  set_number(args, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MS);
  if (!rpc_is_remote(self))
    set_number(args, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, RECONNECT_MS); /* also how long a try takes */
  set_number(args, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, rpc_is_remote(self) ? RECONNECT_LAST_MS : RECONNECT_MS);
  set_number(args, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1); /* a worker's successor is no old acquaintance */
  if (rpc_is_remote(self)) set_text(args, GRPC_ARG_LB_POLICY_NAME, "round_robin");
}

/* The address is a URI. */
static void name_socket(const char *path, char *address, size_t size) {
  static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-_.";
  size_t end = (size_t)snprintf(address, size, "unix:");
  for (; *path != '\0' && end + 4 < size; path++)
    end += (size_t)snprintf(address + end, size - end, strchr(plain, *path) != NULL ? "%c" : "%%%02X",
                            (unsigned char)*path);
}

grpc_channel *rpc_channel_new(const rpc *self, pyproc_error **reterr) {
  char path[PRIVATE_PATH_SIZE * 3 + 8];
  grpc_arg list[ARGS_MAX];
  grpc_channel_args args = {.num_args = 0, .args = list};
  const connection_settings *settings = &self->settings;
  choose_args(self, &args);
  name_socket(self->socket_path, path, sizeof path);
  grpc_channel_credentials *credentials =
      settings->tls_ca_file != NULL ? make_tls(settings, reterr) : grpc_insecure_credentials_create();
  if (credentials == NULL) return NULL;
  grpc_channel *channel = grpc_channel_create(rpc_is_remote(self) ? settings->target : path, credentials, &args);
  grpc_channel_credentials_release(credentials);
  /* a new one is idle; one that has failed already stands for an address that is none */
  if (channel != NULL && grpc_channel_check_connectivity_state(channel, 0) == GRPC_CHANNEL_IDLE) return channel;
  if (channel != NULL) grpc_channel_destroy(channel);
  error_set(
      reterr, PYPROC_E_INVALID_ARGUMENT,
      "option target is \"%s\", which gRPC does not understand: write dns:///host:port, ipv4:address:port or unix:path",
      rpc_is_remote(self) ? settings->target : path);
  return NULL;
}
