# cmake -DOUT=FILE -DDIR=FOLDER -DHEADER=H -DTYPE=T -DLIST=NAME -P embed_json.cmake: writes the
# folder's JSON files as an array T NAME[] of {name, text}, ending with {0}, so that the binary works
# without the source tree. T and NAME are declared in H. Order is by name; each file is small enough
# for one literal.
file(GLOB files RELATIVE ${DIR} ${DIR}/*.json)
list(TRANSFORM files REPLACE "\\.json$" "")
list(SORT files) # without the ending, which sorts "a+b.json" in front of "a.json"
get_filename_component(folder ${DIR} NAME)
set(body "/* generated from ${folder}/ */\n#include \"${HEADER}\"\n\n")
string(APPEND body "const ${TYPE} ${LIST}[] = {\n")
foreach(name IN LISTS files)
  file(READ ${DIR}/${name}.json text)
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  string(REPLACE "\n" "\\n\"\n     \"" text "${text}")
  string(APPEND body "    {\"${name}\",\n     \"${text}\"},\n")
endforeach()
string(APPEND body "    {0}};\n")
file(WRITE ${OUT} "${body}")
