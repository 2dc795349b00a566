/* Sends readings of sensors to Python in MessagePack, compares the summary with sums of its own, and calls a function by
 * its name, whose JSON travels in MessagePack too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msgpack_codec.h"
#include "telemetry.pyproc.h"

enum { READINGS = 3000, SENSORS = 3 };

static const char *const SENSOR_NAMES[SENSORS] = {"wind", "rain", "Wärme"};
static const double ABOVE = -50;

typedef struct sums {
  uint64_t counts[SENSORS];
  double totals[SENSORS];
} sums;

static int report_error(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s: %s\n", what, pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
  pyproc_error_free(error);
  return -1;
}

/* Numbers of all sensors in turn; every hundredth reading is raw bytes. */
static void fill(Telemetry__Reading *readings, sums *ret_sums) {
  static uint8_t raw[] = {0x00, 0xff};
  *ret_sums = (sums){0};
  for (size_t i = 0; i < READINGS; i++) {
    size_t sensor = i % SENSORS;
    telemetry__reading__init(&readings[i]);
    readings[i].sensor = SENSOR_NAMES[sensor];
    readings[i].unix_ms = (int64_t)i * 60000 - 1000;
    readings[i].quality = i % 7 == 0 ? TELEMETRY__QUALITY__QUALITY_SUSPECT : TELEMETRY__QUALITY__QUALITY_GOOD;
    if (i % 100 == 99) {
      readings[i].value_case = TELEMETRY__READING__VALUE_RAW;
      readings[i].raw = (ProtobufCBinaryData){.len = sizeof raw, .data = raw};
      continue;
    }
    readings[i].value_case = TELEMETRY__READING__VALUE_NUMBER;
    readings[i].number = (double)(i % 200) - 100;
    if (readings[i].number <= ABOVE) continue;
    ret_sums->counts[sensor]++;
    ret_sums->totals[sensor] += readings[i].number;
  }
}

static const Telemetry__Statistics *find(const Telemetry__Summary *summary, const char *sensor) {
  for (size_t i = 0; i < summary->n_by_sensor; i++)
    if (strcmp(summary->by_sensor[i]->key, sensor) == 0) return summary->by_sensor[i]->value;
  return NULL;
}

static int matches(const Telemetry__Summary *summary, const sums *expected) {
  for (size_t i = 0; i < SENSORS; i++) {
    const Telemetry__Statistics *found = find(summary, SENSOR_NAMES[i]);
    if (!found || found->count != expected->counts[i]) return 0;
    double difference = found->mean * (double)found->count - expected->totals[i];
    if (difference > 1e-6 || difference < -1e-6) return 0;
  }
  return strcmp(summary->station, "Évora") == 0 && summary->n_qualities == 2 &&
         summary->raw.len == (size_t)READINGS / 100 * 2 && summary->n_tags == 1 &&
         strcmp(summary->tags[0]->value, "") == 0;
}

static int summarise(pyproc_pool *pool) {
  static Telemetry__Reading readings[READINGS];
  static Telemetry__Reading *pointers[READINGS];
  sums expected;
  fill(readings, &expected);
  for (size_t i = 0; i < READINGS; i++) pointers[i] = &readings[i];
  Telemetry__Batch__TagsEntry tag = TELEMETRY__BATCH__TAGS_ENTRY__INIT, *tags[] = {&tag};
  tag.key = "indoor";
  Telemetry__Batch request = TELEMETRY__BATCH__INIT;
  request.station = "Évora";
  request.n_readings = READINGS;
  request.readings = pointers;
  request.n_tags = 1;
  request.tags = tags;
  request._above_case = TELEMETRY__BATCH___ABOVE_ABOVE;
  request.above = ABOVE;
  Telemetry__Summary *summary = NULL;
  pyproc_error *error = NULL;
  if (telemetry_archive_summarise(pool, &request, &summary, &error) < 0) return report_error("summarise", error);
  int fits = matches(summary, &expected);
  printf("%zu sensors, %zu bytes raw%s\n", summary->n_by_sensor, summary->raw.len, fits ? "" : ": WRONG");
  pyproc_reply_free(summary);
  return fits ? 0 : -1;
}

static int describe(pyproc_pool *pool) {
  static const char request[] = "{\"station\": \"Évora\", \"sensors\": [\"wind\", \"rain\"], \"height\": 153.5}";
  static const char wanted[] = "{\"station\":\"Évora\",\"sensors\":[\"rain\",\"wind\"],\"height\":307.0}";
  char *reply = NULL;
  pyproc_error *error = NULL;
  if (pyproc_call_json(pool, "describe", request, NULL, &reply, &error) < 0) return report_error("describe", error);
  int fits = strcmp(reply, wanted) == 0;
  printf("%s%s\n", reply, fits ? "" : ": WRONG");
  pyproc_reply_free(reply);
  return fits ? 0 : -1;
}

int main(void) {
  pyproc_error *error = NULL;
  if (msgpack_codec_register(&error) < 0) return report_error("register", error) < 0;
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.protocol = "msgpack";
  options.workers = 1;
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  int result = pyproc_pool_open(&options, &pool, &error) < 0 ? report_error("open", error) : 0;
  if (result >= 0) result = summarise(pool);
  if (result >= 0) result = describe(pool);
  pyproc_pool_close(pool);
  return result < 0;
}
