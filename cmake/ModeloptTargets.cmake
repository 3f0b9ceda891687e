# One static library per room of modelopt/, so that the rooms' dependencies are the ones written down in
# docs/architecture.md and a test links no more than the room it tests. The shared library is all rooms together.

# modelopt_add_room(NAME SOURCES … [ROOMS …] [LIBS …] [PRIVATE_LIBS …])
# Adds target modelopt_<name>. ROOMS are the rooms it may include; LIBS appear in its headers.
function(modelopt_add_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBS;PRIVATE_LIBS" ${ARGN})
  add_library(modelopt_${name} STATIC ${ARG_SOURCES})
  target_include_directories(modelopt_${name} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
  list(TRANSFORM ARG_ROOMS PREPEND modelopt_ OUTPUT_VARIABLE rooms)
  target_link_libraries(modelopt_${name} PUBLIC ${rooms} ${ARG_LIBS} PRIVATE ${ARG_PRIVATE_LIBS} modelopt_flags)
  target_compile_features(modelopt_${name} PUBLIC cxx_std_20)
  set_property(GLOBAL APPEND PROPERTY MODELOPT_ROOMS modelopt_${name})
endfunction()

# modelopt_add_test(NAME SOURCES … [LIBS …] [LABELS …] [PROPERTIES …])
# One Catch2 executable test_<name>; every test case is a CTest of its own, labelled.
function(modelopt_add_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;LABELS;PROPERTIES" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(test_${name} PRIVATE ${ARG_LIBS} Catch2::Catch2WithMain modelopt_flags)
  target_compile_definitions(test_${name} PRIVATE MODELOPT_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  catch_discover_tests(test_${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${name}: "
    PROPERTIES LABELS "${ARG_LABELS}" ${ARG_PROPERTIES})
endfunction()
