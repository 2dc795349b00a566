#include "cancel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct pyproc_cancel {
  pthread_mutex_t lock;
  atomic_bool fired;
  int references;
  cancel_entry *first;
};

int pyproc_cancel_new(pyproc_cancel **ret_cancel) {
  if (ret_cancel == NULL) return PYPROC_E_INVALID_ARGUMENT;
  pyproc_cancel *token = calloc(1, sizeof *token);
  if (token == NULL) return PYPROC_E_RESOURCE_EXHAUSTED;
  pthread_mutex_init(&token->lock, NULL);
  token->references = 1;
  *ret_cancel = token;
  return PYPROC_OK;
}

void pyproc_cancel_fire(pyproc_cancel *cancel) {
  if (cancel == NULL) return;
  pthread_mutex_lock(&cancel->lock);
  if (!atomic_exchange(&cancel->fired, true))
    for (cancel_entry *entry = cancel->first; entry != NULL; entry = entry->next) entry->fired(entry->argument);
  pthread_mutex_unlock(&cancel->lock);
}

int pyproc_cancel_fired(const pyproc_cancel *cancel) {
  return cancel != NULL && atomic_load(&cancel->fired);
}

/* The lock is held, and let go of. */
static void unref(pyproc_cancel *token) {
  bool last = --token->references == 0;
  pthread_mutex_unlock(&token->lock);
  if (!last) return;
  pthread_mutex_destroy(&token->lock);
  free(token);
}

void pyproc_cancel_free(pyproc_cancel *cancel) {
  if (cancel == NULL) return;
  pthread_mutex_lock(&cancel->lock);
  unref(cancel);
}

pyproc_cancel *cancel_ref(pyproc_cancel *token) {
  if (token == NULL) return NULL;
  pthread_mutex_lock(&token->lock);
  token->references++;
  pthread_mutex_unlock(&token->lock);
  return token;
}

bool cancel_attach(pyproc_cancel *token, cancel_entry *entry) {
  pthread_mutex_lock(&token->lock);
  bool attached = !atomic_load(&token->fired);
  if (attached) {
    token->references++;
    entry->previous = NULL;
    entry->next = token->first;
    if (token->first != NULL) token->first->previous = entry;
    token->first = entry;
  }
  pthread_mutex_unlock(&token->lock);
  return attached;
}

void cancel_detach(pyproc_cancel *token, cancel_entry *entry) {
  pthread_mutex_lock(&token->lock);
  if (entry->previous != NULL)
    entry->previous->next = entry->next;
  else
    token->first = entry->next;
  if (entry->next != NULL) entry->next->previous = entry->previous;
  unref(token);
}
