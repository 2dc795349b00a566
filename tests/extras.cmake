# Examples, the export list, snippets of the documentation, and installed use.
if(PYPROC_EXAMPLES)
  foreach(example quickstart dynamic iris csv_report)
    pyproc_add_test(example.${example} example COMMAND $<TARGET_FILE:${example}> TIMEOUT 180
      DIRECTORY ${PROJECT_BINARY_DIR}/examples/${example})
  endforeach()
  if(TARGET msgpack)
    pyproc_add_test(example.msgpack example COMMAND $<TARGET_FILE:msgpack> TIMEOUT 180
      DIRECTORY ${PROJECT_BINARY_DIR}/examples/msgpack)
  endif()
  if(TARGET libuv)
    pyproc_add_test(example.libuv example COMMAND libuv DIRECTORY ${PROJECT_BINARY_DIR}/examples/libuv)
  else()
    pyproc_add_test(example.libuv example COMMAND ${CMAKE_COMMAND} -E echo "skipped: no libuv here (Debian: libuv1-dev)")
  endif()
  if(TARGET http)
    pyproc_add_test(example.http example TIMEOUT 300
      COMMAND ${PYPROC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/http_service.py $<TARGET_FILE:http>
        ${PROJECT_SOURCE_DIR}/examples/http/post.lua)
  else()
    pyproc_add_test(example.http example COMMAND
      ${CMAKE_COMMAND} -E echo "skipped: no libmicrohttpd here (Debian: libmicrohttpd-dev)")
  endif()
endif()

pyproc_add_test(exports unit
  COMMAND ${PYPROC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/exports.py --compiler ${CMAKE_C_COMPILER} --library $<TARGET_FILE:pyproc>
    --map ${PROJECT_SOURCE_DIR}/runtime/pyproc.map --header ${PROJECT_SOURCE_DIR}/runtime/include/pyproc.h
    --header ${PROJECT_SOURCE_DIR}/runtime/include/pyproc_generated.h
    --header ${PROJECT_SOURCE_DIR}/runtime/include/pyproc_protocol.h)

pyproc_add_test(headers unit
  COMMAND ${PYPROC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/headers.py --compiler ${CMAKE_C_COMPILER} --source ${PROJECT_SOURCE_DIR}
    --include ${PROJECT_SOURCE_DIR}/runtime/include --include ${PYPROC_WELL_KNOWN_DIR}
    --include ${CMAKE_CURRENT_BINARY_DIR}/programs/gen --headers ${PYPROC_WELL_KNOWN_DIR})

if(NOT PYPROC_SANITIZE)
  pyproc_add_test(install install TIMEOUT 600
    COMMAND ${PYPROC_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/install/run.py --source ${PROJECT_SOURCE_DIR}
      --compiler ${CMAKE_C_COMPILER} --cxx-compiler ${CMAKE_CXX_COMPILER} --python ${PYPROC_PYTHON})
  # It compiles: nothing else should wait for a processor meanwhile.
  set_tests_properties(install PROPERTIES PROCESSORS 2)
endif()
