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
