#[[
pyproc_generate(TARGET app PROTOS a.proto [b.proto …]
                [IMPORT_DIRS dir …] [OUT dir] [WORKER worker.py | NO_WORKER] [LIBRARY target])

Runs pyproc-gen on the schemas whenever one of them, or a file that it imports, has changed; adds the generated C files to the
target, their folder to its include path, and links the library.

TARGET       an executable or library of the same directory
PROTOS       schemas, relative to the current source directory
IMPORT_DIRS  where imports, and the schemas themselves, are looked for; the default is the current source directory
OUT          the folder to generate into; the default is `gen` below the current binary directory
WORKER       your handlers: copied to OUT/worker.py, beside the generated Python modules that they import. Without it pyproc-gen
             writes a skeleton to OUT/worker.py, once; with NO_WORKER there is none
LIBRARY      what to link; the default is pyproc::pyproc
]]
function(pyproc_generate)
  cmake_parse_arguments(PARSE_ARGV 0 arg "NO_WORKER" "TARGET;OUT;WORKER;LIBRARY" "PROTOS;IMPORT_DIRS")
  if(NOT arg_TARGET OR NOT arg_PROTOS OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "pyproc_generate: call it as pyproc_generate(TARGET app PROTOS a.proto … [IMPORT_DIRS dir …] "
                        "[OUT dir] [WORKER worker.py | NO_WORKER] [LIBRARY target])")
  endif()
  if(NOT TARGET ${arg_TARGET})
    message(FATAL_ERROR "pyproc_generate: there is no target ${arg_TARGET}; add it first")
  endif()
  if(NOT arg_OUT)
    set(arg_OUT gen)
  endif()
  cmake_path(ABSOLUTE_PATH arg_OUT BASE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} NORMALIZE)
  if(NOT arg_IMPORT_DIRS)
    set(arg_IMPORT_DIRS .)
  endif()
  if(NOT arg_LIBRARY)
    set(arg_LIBRARY pyproc::pyproc)
  endif()

  set(options)
  foreach(dir IN LISTS arg_IMPORT_DIRS)
    cmake_path(ABSOLUTE_PATH dir BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} NORMALIZE)
    list(APPEND options -I ${dir})
  endforeach()
  set(protos)
  foreach(proto IN LISTS arg_PROTOS)
    cmake_path(ABSOLUTE_PATH proto BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} NORMALIZE)
    list(APPEND protos ${proto})
  endforeach()

  # Files that a schema imports are generated along with it: the generator itself says which, again when a schema changes.
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${protos})
  execute_process(
    COMMAND ${PYPROC_GENERATOR} ${options} --out ${arg_OUT} --list ${protos}
    OUTPUT_VARIABLE outputs ERROR_VARIABLE complaint RESULT_VARIABLE status OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "pyproc_generate: the schemas of ${arg_TARGET} were refused:\n${complaint}")
  endif()
  string(REPLACE "\n" ";" outputs "${outputs}")
  set(sources ${outputs})
  list(FILTER sources INCLUDE REGEX "\\.c$")

  set(worker_copy)
  set(worker_depends)
  if(arg_WORKER)
    cmake_path(ABSOLUTE_PATH arg_WORKER BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} NORMALIZE)
    list(APPEND options --worker ${arg_WORKER})
    set(worker_copy COMMAND ${CMAKE_COMMAND} -E copy_if_different ${arg_WORKER} ${arg_OUT}/worker.py)
    set(worker_depends ${arg_WORKER})
  elseif(arg_NO_WORKER)
    list(APPEND options --no-worker)
  endif()

  # The stamp stands for all outputs: unchanged ones keep their time, so that nothing is compiled again for them.
  set(stamp ${CMAKE_CURRENT_BINARY_DIR}/${arg_TARGET}.pyproc-stamp)
  add_custom_command(
    OUTPUT ${stamp}
    BYPRODUCTS ${outputs}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${arg_OUT}
    COMMAND ${PYPROC_GENERATOR} ${options} --out ${arg_OUT} --depfile ${stamp}.d --depfile-target ${stamp} ${protos}
    ${worker_copy}
    COMMAND ${CMAKE_COMMAND} -E touch ${stamp}
    DEPENDS ${protos} ${worker_depends} ${PYPROC_GENERATOR} ${PYPROC_GENERATOR_SOURCES}
    DEPFILE ${stamp}.d
    COMMENT "Generating the stubs of ${arg_TARGET}"
    VERBATIM)
  add_custom_target(${arg_TARGET}_pyproc DEPENDS ${stamp})
  add_dependencies(${arg_TARGET} ${arg_TARGET}_pyproc)
  set_source_files_properties(${outputs} PROPERTIES GENERATED TRUE)
  target_sources(${arg_TARGET} PRIVATE ${sources})
  target_include_directories(${arg_TARGET} PUBLIC $<BUILD_INTERFACE:${arg_OUT}>)
  target_link_libraries(${arg_TARGET} PUBLIC ${arg_LIBRARY})
endfunction()
