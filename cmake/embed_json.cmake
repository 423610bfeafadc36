# cmake -DOUT=FILE -DDIR=FOLDER -DHEADER=H -DTYPE=T -DLIST=NAME -P embed_json.cmake: writes the
# folder's JSON files as an array T NAME[] of {name, text}, ending with {0}, so that the binary works
# without the source tree. T and NAME are declared in H. Order is by name; each file is small enough
# for one literal.
file(GLOB files ${DIR}/*.json)
list(SORT files)
get_filename_component(folder ${DIR} NAME)
set(body "/* generated from ${folder}/ */\n#include \"${HEADER}\"\n\n")
string(APPEND body "const ${TYPE} ${LIST}[] = {\n")
foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME_WLE)
  file(READ ${file} text)
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  string(REPLACE "\n" "\\n\"\n     \"" text "${text}")
  string(APPEND body "    {\"${name}\",\n     \"${text}\"},\n")
endforeach()
string(APPEND body "    {0}};\n")
file(WRITE ${OUT} "${body}")
