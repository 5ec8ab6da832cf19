# Runs bpftool into a file: a custom command cannot redirect without a shell.
execute_process(COMMAND ${BPFTOOL} gen skeleton ${OBJECT} name ${NAME}
  OUTPUT_FILE ${HEADER} RESULT_VARIABLE failed)
if(failed)
  file(REMOVE ${HEADER})
  message(FATAL_ERROR "bpftool gen skeleton failed: ${failed}")
endif()
