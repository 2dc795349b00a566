#include "poller.h"

void poller_change(poller *self, poller_watch *watch, int fd, uint32_t events) {
  if (watch->fd == fd && watch->events == events) return;
  if (watch->fd >= 0 && (watch->fd != fd || events == 0)) poller_set(self, watch->fd, 0, NULL);
  watch->fd = events != 0 ? fd : -1;
  watch->events = events;
  if (events != 0) poller_set(self, fd, events, watch);
}
