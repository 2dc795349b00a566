#include "json_any.h"

#include "buffer.h"

#include <google/protobuf/duration.pyproc.h>
#include <google/protobuf/empty.pyproc.h>
#include <google/protobuf/field_mask.pyproc.h>
#include <google/protobuf/struct.pyproc.h>
#include <google/protobuf/timestamp.pyproc.h>
#include <google/protobuf/wrappers.pyproc.h>
#include <string.h>

static const pyproc_message_info *const well_known[] = {
    &google__protobuf__timestamp__info,    &google__protobuf__duration__info,     &google__protobuf__struct__info,
    &google__protobuf__value__info,        &google__protobuf__list_value__info,   &google__protobuf__empty__info,
    &google__protobuf__field_mask__info,   &google__protobuf__double_value__info, &google__protobuf__float_value__info,
    &google__protobuf__int64_value__info,  &google__protobuf__uint64_value__info, &google__protobuf__int32_value__info,
    &google__protobuf__uint32_value__info, &google__protobuf__bool_value__info,   &google__protobuf__string_value__info,
    &google__protobuf__bytes_value__info,
};

static bool is_listed(const buffer *list, const pyproc_message_info *info) {
  const pyproc_message_info *const *infos = (const pyproc_message_info *const *)(const void *)list->data;
  for (size_t i = 0; i < list->size / sizeof info; i++)
    if (infos[i] == info) return true;
  return false;
}

/* Looks at all messages that `root` reaches, each once, nearest first. */
static const pyproc_message_info *find_reached(const pyproc_message_info *root, const char *name) {
  buffer list = {0};
  const pyproc_message_info *found = NULL;
  bool whole = buffer_append(&list, &root, sizeof root);
  for (size_t at = 0; whole && found == NULL && at < list.size; at += sizeof root) {
    const pyproc_message_info *info;
    memcpy(&info, list.data + at, sizeof info);
    if (strcmp(info->name, name) == 0) found = info;
    for (unsigned i = 0; whole && i < info->descriptor->n_fields; i++) {
      const pyproc_message_info *next = info->fields[i].message;
      if (next != NULL && !is_listed(&list, next)) whole = buffer_append(&list, &next, sizeof next);
    }
  }
  buffer_free(&list);
  return found;
}

const pyproc_message_info *json_any_find(const pyproc_message_info *root, const char *type_url) {
  const char *slash = strrchr(type_url, '/');
  if (slash == NULL) return NULL;
  for (size_t i = 0; i < sizeof well_known / sizeof *well_known; i++)
    if (strcmp(slash + 1, well_known[i]->name) == 0) return well_known[i];
  return find_reached(root, slash + 1);
}
