/* Metadata of frames: what is accepted is within its bounds, and the same after it was decoded and encoded again. */
#include "error.h"
#include "metadata.h"
#include "wire/metadata.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t count = 0, got_count = 0;
  if (wire_metadata_check(data, size, &count) != NULL) return 0;
  FUZZ_CHECK(count <= WIRE_METADATA_ENTRIES_MAX && size <= WIRE_METADATA_SIZE_MAX);
  pyproc_error *error = error_new(PYPROC_E_ABORTED, "fuzz");
  error_set_metadata(error, data, size);
  const pyproc_metadata *entries = pyproc_error_metadata(error, &got_count);
  FUZZ_CHECK(got_count == count && (entries != NULL) == (count > 0));
  for (size_t i = 0; i < count; i++) {
    FUZZ_CHECK(strlen(entries[i].key) <= WIRE_METADATA_KEY_MAX);
    FUZZ_CHECK(entries[i].value[entries[i].value_size] == '\0');
    bool binary = wire_metadata_is_binary(entries[i].key, strlen(entries[i].key));
    FUZZ_CHECK(binary || strlen(entries[i].value) == entries[i].value_size);
  }
  buffer again = {0};
  FUZZ_CHECK(metadata_encode(entries, count, &again, NULL) == 0);
  FUZZ_CHECK(again.size == size && (size == 0 || memcmp(again.data, data, size) == 0));
  buffer_free(&again);
  pyproc_error_free(error);
  return 0;
}
