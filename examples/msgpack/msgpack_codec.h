/* A codec of pyproc that speaks MessagePack; see msgpack_codec.c. */
#ifndef MSGPACK_CODEC_H
#define MSGPACK_CODEC_H

#include <pyproc_protocol.h>

/* Makes "msgpack" known as a value of options.protocol; once in a process. Errors: pyproc_protocol_register's. */
int msgpack_codec_register(pyproc_error **reterr);

#endif
