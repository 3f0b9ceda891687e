# `cmake --install` gives a package: find_package(modelopt) offers modelopt::modelopt and modelopt::kernels.
include(CMakePackageConfigHelpers)
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/modelopt")

install(TARGETS modelopt modelopt_kernels EXPORT modeloptTargets)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/modelopt/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/modelopt" FILES_MATCHING PATTERN "*.h")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/kernels/include/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs/" DESTINATION "${CMAKE_INSTALL_DATADIR}/modelopt/configs" FILES_MATCHING PATTERN "*.json")

install(EXPORT modeloptTargets NAMESPACE modelopt:: DESTINATION "${_package}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/modeloptConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/modeloptConfig.cmake" INSTALL_DESTINATION "${_package}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/modeloptConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/modeloptConfig.cmake" "${PROJECT_BINARY_DIR}/modeloptConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake" DESTINATION "${_package}")
