#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Checkpoints that are not what they claim to be, family by family, and pictures and data that do
# not go with a model: a sentence that names the key, tensor or picture, exit status 1.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
families=$golden/families

# bad MODEL FILE SED PATTERN: the model with one thing changed in one file
bad() {
    rm -rf broken
    cp -r "$1" broken
    chmod -R u+w broken
    sed -i "$3" "broken/$2"
    cmp -s "$1/$2" "broken/$2" && { echo "$1/$2: '$3' changes nothing"; exit 1; }
    refused 1 "$4" "$ballast" run broken -p hi
}

# ---- an unknown family names the known ones
known="llava_onevision, llava, idefics3, smolvlm, internvl, internvl_chat, llama, qwen2, qwen3"
known="$known, internlm2, qwen2_vl, qwen2_5_vl"
bad "$families/llama/model" config.json 's/"model_type": "llama"/"model_type": "phi3"/' \
    "config.json: model_type: \"phi3\" is not supported; this build knows $known"
bad "$families/llava/model" config.json 's/"model_type": "llama"/"model_type": "phi3"/' \
    'text_config.model_type: "phi3" is not supported, expected "llama"'

# ---- keys that a family needs are gone
for f in llama llama_bias qwen2 qwen3 internlm2; do
    for key in hidden_size num_hidden_layers num_attention_heads intermediate_size; do
        bad "$families/$f/model" config.json "s/\"$key\"/\"other\"/" "config.json: .*$key"
    done
done
for f in llava idefics3 smolvlm internvl; do
    bad "$families/$f/model" config.json 's/"text_config"/"other"/' "config.json: .*text_config"
done
for f in idefics3 smolvlm internvl internvl_chat internvl_intern; do
    bad "$families/$f/model" config.json 's/"vision_config"/"other"/' "config.json: .*vision_config"
done
for f in internvl_chat internvl_intern; do
    bad "$families/$f/model" config.json 's/"llm_config"/"other"/' "config.json: .*llm_config"
done
for f in qwen2_vl qwen2_5_vl; do
    bad "$golden/$f/small/model" config.json 's/"vision_config"/"other"/' "config.json: .*vision_config"
    bad "$golden/$f/small/model" config.json 's/"mrope_section"/"other"/' "mrope_section"
done

# ---- sizes that contradict each other
bad "$families/qwen2/model" config.json 's/"num_key_value_heads": 2/"num_key_value_heads": 3/' \
    "num_key_value_heads: does not divide num_attention_heads"
bad "$families/internlm2/model" config.json 's/"num_key_value_heads": 2/"num_key_value_heads": 4/' \
    "attention.wqkv.weight: expected .*\[144, 48\], found F16 \[96, 48\]"
bad "$families/qwen3/model" config.json 's/"head_dim": 20/"head_dim": 24/' "q_norm.weight: expected .*\[24\]"
bad "$families/llama/model" config.json 's/"vocab_size": 400/"vocab_size": 390/' "embed_tokens.weight: expected .*\[390, 48\]"
bad "$families/llava/model" config.json 's/"num_attention_heads": 4, "num_channels"/"num_attention_heads": 5, "num_channels"/' \
    "vision_config.num_attention_heads: does not divide hidden_size"
bad "$families/llava/model" config.json 's/"patch_size": 14/"patch_size": 8/' "patch_embedding.weight: expected .*\[32, 3, 8, 8\]"
bad "$families/llava/model" config.json 's/"vision_feature_layer": -2/"vision_feature_layer": -4/' "vision_feature_layer"
bad "$families/llava/model" preprocessor_config.json 's/"height": 56/"height": 48/' \
    "preprocessor_config.json: crop_size: 48 differs from vision_config.image_size, 56"
bad "$families/idefics3/model" config.json 's/"scale_factor": 2/"scale_factor": 3/' \
    "scale_factor: does not divide the patches"
bad "$families/internvl/model" config.json 's/"downsample_ratio": 0.5/"downsample_ratio": 0.3/' \
    "downsample_ratio: is not one over"
bad "$families/internvl_chat/model" config.json 's/"force_image_size": 28/"force_image_size": 56/' \
    "force_image_size: differs from vision_config.image_size"
bad "$families/internvl_intern/model" config.json 's/"ps_version": "v1"/"ps_version": "v3"/' 'ps_version: "v3"'
bad "$golden/qwen2_5_vl/small/model" config.json 's/"window_size": 112/"window_size": 13/' \
    "window_size: is smaller than a token"

# ---- a tower whose width does not match the projector
for f in llava idefics3 smolvlm internvl internvl_chat; do
    bad "$families/$f/model" config.json 's/"hidden_size": 32/"hidden_size": 64/' \
        "tensor .*: expected .*64.*, found F16 .*32"
done
bad "$golden/qwen2_vl/small/model" config.json 's/"hidden_size": 64, "in_ch/"hidden_size": 60, "in_ch/' \
    "vision_config.hidden_size: the tower gives features of width 60"
bad "$golden/qwen2_5_vl/small/model" config.json 's/"out_hidden_size": 64/"out_hidden_size": 60/' \
    "vision_config.out_hidden_size: the tower gives features of width 60"

# ---- packed by another program, in the words of AWQ, FP8 and compressed-tensors
packed='"quantization_config": {"quant_method": "awq", "bits": 4}, '
bad "$families/qwen2/model" config.json "s/\"model_type\": \"qwen2\"/$packed&/" \
    "config.json: quantization_config: this checkpoint is already quantized with awq; take the original"
bad "$families/llava/model" config.json "s/\"text_config\": *{/&${packed/awq/fp8}/" \
    "text_config.quantization_config: .* quantized with fp8"
bad "$families/qwen2/model" config.json 's/"model_type": "qwen2"/"compression_config": {}, &/' \
    "compression_config: .* quantized with a method it does not name"
rm -rf broken && cp -r "$families/qwen2/model" broken && chmod -R u+w broken
sed -i 's/"model_type": "qwen2"/"quantization_config": null, &/' broken/config.json
status 0 "" "$ballast" run broken -p hi -n 1

# ---- files and folders of other programs, and names
other_file() { # NAME BYTES PATTERN
    printf "$2" >"$1"
    refused 1 "$1: this is $3.*; expected a file that ballast quantize wrote" "$ballast" run "$1" -p hi
}
other_file model.gguf 'GGUF\3\0\0\0\0\0\0\0' "a GGUF file"
other_file hero.png '\211PNG\r\n\032\n\0\0\0\rIHDR' "a PNG picture"
other_file hero.jpg '\377\330\377\340\0\020JFIF' "a JPEG picture"
other_file model.pth 'PK\3\4\0\0\0\0\0\0\0\0' "a zip archive"
other_file model.bin '\200\2\212\nlF\374\234F\371' "a pickle"
other_file lfs 'version https://git-lfs.github.com/spec/v1\n' "a pointer of git-lfs"
other_file short.json '{}' "JSON text"
refused 1 "config.json: this is JSON text" "$ballast" run "$families/qwen2/model/config.json" -p hi
other_folder() { # FILE PATTERN
    rm -rf broken && cp -r "$families/qwen2/model" broken && chmod -R u+w broken
    mv broken/model.safetensors "broken/$1"
    refused 1 "broken: no model.safetensors in here, but $1: $2" "$ballast" run broken -p hi
}
other_folder pytorch_model.bin "PyTorch's pickles are not read"
other_folder consolidated.00.pth "PyTorch's pickles are not read"
other_folder qwen2-q4_k.gguf "GGUF is not read"
other_folder model-00001-of-00001.safetensors "weights in several files need model.safetensors.index.json"
hub="if this is a name on the hub: Ballast downloads nothing"
refused 1 "$hub" "$ballast" run Qwen/Qwen2-VL-7B-Instruct -p hi
refused 1 "$hub" "$ballast" quantize Qwen/Qwen2-VL-7B-Instruct -o q.st --recipe rtn
for path in ./Qwen/model Qwen/a/b /Qwen/model Qwen broken/model; do
    refused 1 "no such file or folder" "$ballast" run $path -p hi
    lacks grep -q "hub" err.txt
done

# ---- keys that contradict the tokenizer or each other
bad "$families/llava/model" config.json 's/"image_token_index": [0-9]*/"image_token_index": 5/' \
    "image_token_id: the config says 5, but in the tokenizer <image>"
bad "$golden/qwen2_vl/small/model" config.json 's/"image_token_id": [0-9]*/"image_token_id": 5/' \
    "image_token_id: the config says 5, but in the tokenizer <|image_pad|>"
bad "$families/internvl/model" config.json 's/"image_seq_length": [0-9]*/"image_seq_length": 9/' \
    "image_seq_length: 9, but image_size, patch_size and downsample_ratio make [0-9]* tokens"

# ---- a tokenizer whose ids exceed the embedding, and one without the family's tokens
more_tokens() { # FROM TO
    for ((i = $1; i < $2; i++)); do
        printf '{"id": %d, "content": "<extra%d>", "single_word": false, "lstrip": false, ' $i $i
        printf '"rstrip": false, "normalized": false, "special": true},'
    done
}
for f in llama/385 internvl/388; do
    bad "$families/${f%/*}/model" tokenizer.json "s/\"added_tokens\": *\[/&$(more_tokens "${f#*/}" 420)/" \
        "tokenizer has 420 tokens"
done
bad "$families/internvl_chat/model" tokenizer.json 's/<IMG_CONTEXT>/<OTHER>/' "no added token <IMG_CONTEXT>"
rm -rf broken
cp -r "$families/internvl/model" broken
chmod -R u+w broken
sed -i 's/<img>/<imh>/' broken/tokenizer.json
refused 1 "no added token <img>" "$ballast" run broken -p hi -i "$families/pictures/40x30.png"

# ---- a picture too extreme for the family's rule, and one for a model that cannot see
for f in qwen2_vl qwen2_5_vl; do
    refused 1 "4020 x 20 pixels is too long" "$ballast" run "$golden/$f/small/model" -p hi \
        -i "$families/pictures/4020x20.png"
done
refused 1 "cannot see" "$ballast" run "$families/qwen2/model" -p hi -i "$families/pictures/40x30.png"

# ---- more pictures than places in the text, and the reverse
cp "$families/pictures/40x30.png" .
turns() { # N_PLACES PICTURES
    local places=
    for ((i = 0; i < $1; i++)); do places="$places<image>"; done
    echo "{\"image\": $2, \"conversations\": [{\"from\": \"human\", \"value\": \"${places}hi\"}, {\"from\": \"gpt\", \"value\": \"yes\"}]}" >turns.jsonl
}
quantize() { "$ballast" quantize "$families/llava/model" -o q.st --recipe mbq --calib turns.jsonl; }
turns 2 '"40x30.png"'
refused 1 "record 1 of turns.jsonl: 1 picture in \"image\", but 2 <image> in the text" quantize
turns 1 '["40x30.png", "40x30.png"]'
refused 1 "record 1 of turns.jsonl: 2 pictures in \"image\", but 1 <image> in the text" quantize
turns 1 '"40x30.png"'
refused 2 "record 1 of turns.jsonl: a picture, but the model has no vision tower" \
    "$ballast" quantize "$families/qwen2/model" -o q.st --recipe mbq --calib turns.jsonl
