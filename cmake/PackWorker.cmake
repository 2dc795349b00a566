# Packs the worker's source, with the wire's that it shares with the library, as one file that `pip install` takes: an unpacked
# folder would be written to by pip, below a prefix that may belong to somebody else. Needs `source`, `stage`, `name`.
file(REMOVE_RECURSE ${stage}/${name})
file(COPY ${source}/worker/ DESTINATION ${stage}/${name}
  PATTERN CMakeLists.txt EXCLUDE PATTERN tests EXCLUDE PATTERN __pycache__ EXCLUDE PATTERN build EXCLUDE PATTERN dist EXCLUDE
  PATTERN "*.egg-info" EXCLUDE PATTERN "*.so" EXCLUDE REGEX "/\\.[^/]*$" EXCLUDE)
file(COPY ${source}/runtime/src/wire DESTINATION ${stage}/${name} FILES_MATCHING PATTERN "*.[ch]")
execute_process(COMMAND ${CMAKE_COMMAND} -E tar czf ${stage}/${name}.tar.gz --format=gnutar ${name}
  WORKING_DIRECTORY ${stage} COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE_RECURSE ${stage}/${name})
